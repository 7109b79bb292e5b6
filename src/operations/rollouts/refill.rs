//! Filling the queue as operations end: a rollout in which so many are under way as may be has room again.

use uuid::Uuid;

use super::RolloutPlan;
use crate::catalog::CatalogError;
use crate::catalog::rollouts::{Enqueue, RolloutRecord};
use crate::operations::{Environment, StepError, Work};

impl Environment {
    /// Asks for what may come next, once an operation of a batch has ended: of a rollout in which so many are
    /// under way as may be, each end makes room. The leader would see that later.
    pub(in crate::operations) async fn refill(&self, batch: Uuid) {
        if let Err(error) = self.try_refill(batch).await {
            tracing::debug!(%error, "what comes next is left to the leader of the rollout");
        }
    }

    async fn try_refill(&self, batch: Uuid) -> Result<(), StepError> {
        let known = match self.known_enqueue(batch).await {
            Some(known) => known,
            None => self.keep_enqueue(batch, self.read_enqueue(batch).await?).await,
        };
        if let Some(enqueue) = &*known {
            self.catalog.enqueue_wave(batch, enqueue).await?;
        }
        Ok(())
    }

    /// What the operations of a rollout are enqueued with if each end makes room; that never changes.
    async fn read_enqueue(&self, batch: Uuid) -> Result<Option<Enqueue>, StepError> {
        let record = match self.catalog.rollout(batch).await {
            Err(CatalogError::Missing { .. }) => return Ok(None),
            found => found?,
        };
        let plan = RolloutPlan::of(&record)?;
        Ok(plan.is_bounded().then(|| enqueue(&plan, &record)))
    }
}

/// What the operations of a rollout are enqueued with.
pub(super) fn enqueue(plan: &RolloutPlan, record: &RolloutRecord) -> Enqueue {
    let input = |work: Work| work.new_operation(Uuid::nil(), "").input;
    Enqueue {
        migrate: input(Work::Migrate { to: Some(record.target_version) }),
        backup: input(Work::Backup { unless_unchanged: false }),
        migrations_digest: record.migrations_digest.clone(),
        overall: plan.concurrency.map(i64::from),
        per_server: plan.per_server.map(i64::from),
    }
}
