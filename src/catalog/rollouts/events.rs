//! Rows of `rollout_events`: what has happened, in order.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use tokio_postgres::Row;
use utoipa::ToSchema;
use uuid::Uuid;

use super::super::{Catalog, CatalogError, rows};

/// Something that happened in a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct RolloutEvent {
    /// Its number; later ones of one rollout have larger ones.
    pub seq: i64,
    /// The rollout.
    #[serde(rename = "rollout_id")]
    pub rollout: Uuid,
    /// What happened: `started`, `wave_started`, `tenant_failed`, `wave_finished`, `paused`, `resumed`,
    /// `aborted`, `failed` or `succeeded`.
    #[serde(rename = "event")]
    pub kind: String,
    /// What there is to say about it.
    #[schema(value_type = Object)]
    pub detail: Value,
    /// When.
    pub at: Timestamp,
    /// How often the webhook was tried.
    #[serde(skip)]
    pub attempts: i32,
}

impl RolloutEvent {
    fn from_row(row: &Row) -> Self {
        Self {
            seq: row.get("seq"),
            rollout: row.get("rollout_id"),
            kind: row.get("kind"),
            detail: row.get("detail"),
            at: row.get("at"),
            attempts: row.get("attempts"),
        }
    }
}

impl Catalog {
    /// What has happened in a rollout after the event with this number.
    pub async fn rollout_events(
        &self,
        rollout: Uuid,
        after: i64,
    ) -> Result<Vec<RolloutEvent>, CatalogError> {
        let found = rows(
            &self.client().await?,
            "-- rollout_events::after
             select seq, rollout_id, kind, detail, at, attempts from rollout_events
             where rollout_id = $1 and seq > $2 order by seq",
            &[&rollout, &after],
        )
        .await?;
        Ok(found.iter().map(RolloutEvent::from_row).collect())
    }

    /// The oldest events that the webhook has not received, is due to be told now, and that are younger than
    /// a day: older ones are news to nobody.
    pub(in crate::catalog) async fn rollout_events_due(
        &self,
        limit: i64,
    ) -> Result<Vec<RolloutEvent>, CatalogError> {
        let found = rows(
            &self.client().await?,
            "-- rollout_events::due
             select seq, rollout_id, kind, detail, at, attempts from rollout_events
             where delivered_at is null and at > now() - interval '1 day' and deliver_after <= now()
             order by seq limit $1",
            &[&limit],
        )
        .await?;
        Ok(found.iter().map(RolloutEvent::from_row).collect())
    }
}
