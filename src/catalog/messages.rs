//! What the webhook is to tell: the events of rollouts and of backups, and which of them it has told.
//!
//! Invariant: both take their numbers from one sequence, so a number names one event.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::rollouts::RolloutEvent;
use super::{Catalog, CatalogError, execute, rows};
use crate::tenant::TenantSlug;

/// Something to tell.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Message {
    /// Of a rollout.
    Rollout(RolloutEvent),
    /// Of a tenant's backups.
    Backup(BackupEvent),
}

/// Something that happened to a tenant's backups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackupEvent {
    /// Its number; later ones have larger ones.
    pub seq: i64,
    /// The tenant.
    pub tenant_id: Uuid,
    /// Its slug.
    pub tenant_slug: TenantSlug,
    /// What happened: `backup_failed`, `backup_recovered`, `backup_goal_missed` or `backup_goal_met`.
    #[serde(rename = "event")]
    pub kind: String,
    /// What there is to say about it.
    pub detail: Value,
    /// When.
    pub at: Timestamp,
    /// How often the webhook was tried.
    #[serde(skip)]
    pub attempts: i32,
}

impl Message {
    /// Its number.
    #[must_use]
    pub fn seq(&self) -> i64 {
        match self {
            Self::Rollout(event) => event.seq,
            Self::Backup(event) => event.seq,
        }
    }

    /// What happened.
    #[must_use]
    pub fn kind(&self) -> &str {
        match self {
            Self::Rollout(event) => &event.kind,
            Self::Backup(event) => &event.kind,
        }
    }

    /// How often the webhook was tried.
    #[must_use]
    pub fn attempts(&self) -> i32 {
        match self {
            Self::Rollout(event) => event.attempts,
            Self::Backup(event) => event.attempts,
        }
    }
}

impl Catalog {
    /// The oldest messages that the webhook has not received, is due to be told now, and that are younger than
    /// a day: older ones are news to nobody.
    pub async fn messages_due(&self, limit: i64) -> Result<Vec<Message>, CatalogError> {
        let found = rows(
            &self.client().await?,
            "-- messages::backups
             select e.seq, e.tenant_id, t.slug, e.kind, e.detail, e.at, e.attempts
             from backup_events e join tenants t on t.id = e.tenant_id
             where e.delivered_at is null and e.at > now() - interval '1 day' and e.deliver_after <= now()
             order by e.seq limit $1",
            &[&limit],
        )
        .await?;
        let mut due = Vec::with_capacity(found.len());
        for row in &found {
            due.push(Message::Backup(BackupEvent {
                seq: row.get("seq"),
                tenant_id: row.get("tenant_id"),
                tenant_slug: super::tenants::slug_of(row)?,
                kind: row.get("kind"),
                detail: row.get("detail"),
                at: row.get("at"),
                attempts: row.get("attempts"),
            }));
        }
        due.extend(self.rollout_events_due(limit).await?.into_iter().map(Message::Rollout));
        due.sort_by_key(Message::seq);
        Ok(due)
    }

    /// The webhook has received the message with this number.
    pub async fn message_delivered(&self, seq: i64) -> Result<(), CatalogError> {
        execute(
            &self.client().await?,
            "-- messages::delivered
             with rollout as (
                 update rollout_events set delivered_at = now(), attempts = attempts + 1 where seq = $1)
             update backup_events set delivered_at = now(), attempts = attempts + 1 where seq = $1",
            &[&seq],
        )
        .await
        .map(drop)
    }

    /// The webhook could not be told; it is tried again after so many seconds.
    pub async fn message_postponed(&self, seq: i64, delay_secs: f64) -> Result<(), CatalogError> {
        execute(
            &self.client().await?,
            "-- messages::postponed
             with rollout as (
                 update rollout_events
                 set attempts = attempts + 1, deliver_after = now() + $2::float8 * interval '1 second'
                 where seq = $1)
             update backup_events
             set attempts = attempts + 1, deliver_after = now() + $2::float8 * interval '1 second'
             where seq = $1",
            &[&seq, &delay_secs],
        )
        .await
        .map(drop)
    }
}
