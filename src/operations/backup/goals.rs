//! How old backups are, and how old they may be.
//!
//! What counts is what was achieved: the moment whose data the newest good backup holds, or was shown to hold still.
//! A tenant that has none counts from its beginning. Every miss is told once, in the log and to the webhook, and so
//! is its end, however many replicas look.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::sleep;
use uuid::Uuid;

use super::schedule::SCHEDULE;
use crate::catalog::protection::Protection;
use crate::catalog::{Catalog, CatalogError};
use crate::metrics;
use crate::operations::{Environment, chain};
use crate::tenant::settings::BackupPolicy;

/// How often the goals are looked at.
const PAUSE: Duration = Duration::from_mins(1);

/// How well a tenant is protected at a moment.
#[derive(Clone, Debug)]
pub struct Achieved {
    /// The tenant, and its newest backup.
    pub protection: Protection,
    /// How many seconds of work would be lost with the database.
    pub age_secs: u64,
    /// How many may be, if anybody said so.
    pub goal_secs: Option<u64>,
}

impl Achieved {
    fn new(mut protection: Protection, fleet: &BackupPolicy, now: Timestamp) -> Self {
        protection.policy = protection.policy.or(fleet);
        let since = protection.data_of.unwrap_or(protection.created_at);
        let age_secs = u64::try_from(now.duration_since(since).as_secs()).unwrap_or(0);
        let goal_secs = protection.policy.goal_rpo.as_ref().map(|goal| goal.length().as_secs());
        Self { protection, age_secs, goal_secs }
    }

    /// How well one tenant is protected; `None` while it cannot be backed up.
    pub async fn of(
        catalog: &Catalog,
        tenant: Uuid,
        fleet: &BackupPolicy,
        now: Timestamp,
    ) -> Result<Option<Self>, CatalogError> {
        let found = catalog.protections(SCHEDULE, Some(tenant)).await?.pop();
        Ok(found.map(|found| Self::new(found, fleet, now)))
    }

    /// Whether the newest backup is older than it may be.
    #[must_use]
    pub fn is_missed(&self) -> bool {
        self.goal_secs.is_some_and(|goal| self.age_secs > goal)
    }

    fn detail(&self) -> Value {
        json!({
            "data_of": self.protection.data_of,
            "age_seconds": self.age_secs,
            "goal_rpo_seconds": self.goal_secs,
        })
    }
}

impl Environment {
    /// How well one tenant is protected; `None` while it cannot be backed up.
    pub async fn achieved(
        &self,
        tenant: Uuid,
        now: Timestamp,
    ) -> Result<Option<Achieved>, CatalogError> {
        Achieved::of(&self.catalog, tenant, &self.limits.backups.policy, now).await
    }

    /// Looks at the goals once a minute, unless another replica has: only in whose metrics they stand changes with who
    /// looks.
    pub(super) async fn keep_watching_goals(&self) {
        // The first time for its own metrics.
        let mut is_due = Ok(true);
        loop {
            let watched = match is_due {
                Ok(true) => self.watch_goals(Timestamp::now()).await,
                other => other.map(drop),
            };
            if let Err(error) = watched {
                tracing::debug!(error = %chain(&error), "the goals of backups cannot be looked at");
            }
            sleep(PAUSE).await;
            is_due = self.catalog.begin_chore("backup goals", PAUSE.mul_f64(0.9)).await;
        }
    }

    /// Measures the backups of all, and tells which goals are missed, and which are met again.
    pub async fn watch_goals(&self, now: Timestamp) -> Result<(), CatalogError> {
        let fleet = self.catalog.protections(SCHEDULE, None).await?;
        let fleet: Vec<Achieved> = fleet
            .into_iter()
            .map(|tenant| Achieved::new(tenant, &self.limits.backups.policy, now))
            .collect();
        let mut ages: Vec<u64> = fleet.iter().map(|tenant| tenant.age_secs).collect();
        ages.sort_unstable();
        metrics::backup_ages(&ages);

        let missed: Vec<&Achieved> = fleet.iter().filter(|tenant| tenant.is_missed()).collect();
        metrics::backup_goals_missed(missed.len());
        let details: Vec<(Uuid, Value)> =
            missed.iter().map(|tenant| (tenant.protection.tenant_id, tenant.detail())).collect();
        let told = self.catalog.tell_goals(&details).await?;
        for tenant in missed {
            if told.contains(&tenant.protection.tenant_id) {
                tracing::warn!(
                    tenant = %tenant.protection.slug, age_secs = tenant.age_secs, goal_secs = tenant.goal_secs,
                    "the newest backup is older than its goal allows; see `tenantry operation list`"
                );
            }
        }
        Ok(())
    }
}
