//! What has ended is not kept for ever: once a day, operations, rollouts and days of usage go that are older than they
//! are to be. What stays all the same is the business of [`crate::catalog::history`].
//!
//! One replica does it, some rows at a time in a statement of its own: a first round over millions of them locks nothing for
//! long, and one that is cut short has done what it has done. What it removed stands in the audit log.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::json;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Environment, StepError};
use crate::catalog::audit_log::Event;

/// How often to look whether it is time.
const PAUSE: Duration = Duration::from_mins(1);
/// How often it is done.
const EVERY: Duration = Duration::from_hours(24);
/// How many rows one statement looks at.
const ROWS: i64 = 1000;
/// Between two statements, so that others have their turn.
const REST: Duration = Duration::from_millis(20);
/// Who removes what has ended, and the chore's name.
const CLOCK: &str = "history";

/// For how long what has ended is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HistoryRules {
    /// Operations and rollouts, from their end; for good where nothing is set.
    pub operations: Option<Duration>,
    /// What tenants used, from the day; for good where nothing is set.
    pub usage: Option<Duration>,
}

/// How much was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Operations.
    pub operations: i64,
    /// Rollouts.
    pub rollouts: i64,
    /// Days of one tenant.
    pub usage: u64,
}

/// Removes what is old enough when it is time, until `shutdown`.
pub async fn run(environment: Environment, shutdown: CancellationToken) {
    if environment.limits.history == HistoryRules::default() {
        return;
    }
    // Not at once: a replica that has just begun has more urgent work.
    while shutdown.run_until_cancelled(sleep(PAUSE)).await.is_some() {
        let round = prune_if_due(&environment);
        match shutdown.run_until_cancelled(Box::pin(round)).await {
            None => return,
            Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::warn!(%error, "not all that ended long ago is removed; it will be tried again tomorrow");
            }
        }
    }
}

async fn prune_if_due(environment: &Environment) -> Result<(), StepError> {
    if environment.catalog.begin_chore(CLOCK, EVERY).await? {
        environment.prune_history(Timestamp::now()).await?;
    }
    Ok(())
}

impl Environment {
    /// Removes what is older than it is to be at this moment, and that nothing leans on; nothing while another replica
    /// is at it.
    pub async fn prune_history(&self, now: Timestamp) -> Result<Removed, StepError> {
        let mut removed = Removed::default();
        let work = async {
            let pruned = self.prune_all(now, &mut removed).await;
            if removed != Removed::default() {
                self.tell_removed(now, &removed).await?;
            }
            pruned
        };
        self.catalog.chore(CLOCK, work).await?;
        Ok(removed)
    }

    async fn prune_all(&self, now: Timestamp, removed: &mut Removed) -> Result<(), StepError> {
        let HistoryRules { operations, usage } = self.limits.history;
        if let Some(keep) = operations {
            let before = now - keep;
            // First: operations stay for as long as their rollout.
            while self.catalog.prune_rollout(before).await? {
                removed.rollouts += 1;
                sleep(REST).await;
            }
            let mut after = None;
            while let Some(pruned) = self.catalog.prune_operations(before, after, ROWS).await? {
                removed.operations += pruned.removed;
                after = Some(pruned.last);
                sleep(REST).await;
            }
        }
        if let Some(keep) = usage {
            let before = (now - keep).to_zoned(TimeZone::UTC).date();
            loop {
                let gone = self.catalog.prune_usage(before, ROWS).await?;
                removed.usage += gone;
                if gone == 0 {
                    break;
                }
                sleep(REST).await;
            }
        }
        Ok(())
    }

    async fn tell_removed(&self, now: Timestamp, removed: &Removed) -> Result<(), StepError> {
        let HistoryRules { operations, usage } = self.limits.history;
        let detail = json!({
            "operations": removed.operations, "rollouts": removed.rollouts, "usage": removed.usage,
            "operations_before": operations.map(|keep| now - keep),
            "usage_before": usage.map(|keep| now - keep),
        });
        let event = Event { actor: CLOCK, action: "history.pruned", tenant: None, detail };
        self.catalog.record(&event).await?;
        let Removed { operations, rollouts, usage } = removed;
        tracing::info!(operations, rollouts, usage, "removed what has ended long ago");
        Ok(())
    }
}
