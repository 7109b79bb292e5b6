//! Seeing a rollout through: its operations, its waves, and what others left lying.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;
use uuid::Uuid;

use super::{FIRST_LOOK, LAST_LOOK, Line, POLL, Runner};
use crate::catalog::CatalogError;
use crate::catalog::rollouts::{RolloutRecord, RolloutState};
use crate::operations::chain;

/// After an error that may pass.
const RETRY: Duration = Duration::from_millis(500);

impl Runner {
    /// Drives a rollout, `concurrency` tenants at a time, until it no longer runs; others may be working on it
    /// too. What is under way when it pauses ends.
    pub async fn complete_rollout(
        &self,
        id: Uuid,
        concurrency: usize,
    ) -> Result<RolloutRecord, CatalogError> {
        let ended = self.shutdown.child_token();
        // Nobody takes more for a caller who no longer waits.
        let waiting = ended.clone().drop_guard();
        let mut workers = JoinSet::new();
        for _ in 0..concurrency {
            let runner = self.clone();
            let line = Line { rollout: id, stop: ended.clone() };
            workers.spawn(async move {
                let mut pause = FIRST_LOOK;
                while !line.stop.is_cancelled() {
                    match runner.run_line(&line).await {
                        Ok(found) => {
                            pause = if found { FIRST_LOOK } else { pause };
                            runner.make_room(id, pause).await;
                            pause = (pause * 2).min(LAST_LOOK / 2);
                        }
                        Err(error) => {
                            tracing::warn!(error = %chain(&error), "the queue cannot be read");
                            sleep(RETRY).await;
                        }
                    }
                }
            });
        }
        let record = tokio::select! {
            record = self.lead_to_its_end(id) => record,
            () = self.release_abandoned() => unreachable!("it goes on for ever"),
            () = self.shutdown.cancelled() => self.environment.catalog.rollout(id).await,
        };
        drop(waiting);
        while let Some(worker) = workers.join_next().await {
            worker.expect("a worker of a rollout does not panic");
        }
        record
    }

    /// Waits a moment for something to do. Of two tenants that end at once only one may have made room for the next,
    /// so the first time it is asked for once more.
    async fn make_room(&self, id: Uuid, pause: Duration) {
        if pause == FIRST_LOOK {
            self.environment.refill(id).await;
        }
        sleep(pause).await;
    }

    /// Leads, or waits for whoever does.
    async fn lead_to_its_end(&self, id: Uuid) -> Result<RolloutRecord, CatalogError> {
        loop {
            self.environment.lead(id).await;
            let record = match self.environment.catalog.rollout(id).await {
                Err(error) if error.is_transient() => {
                    tracing::debug!(error = %chain(&error), "the rollout cannot be looked at");
                    sleep(RETRY).await;
                    continue;
                }
                found => found?,
            };
            if record.state != RolloutState::Running {
                return Ok(record);
            }
            sleep(LAST_LOOK).await;
        }
    }

    /// Whoever died over an operation must not keep it.
    async fn release_abandoned(&self) {
        loop {
            if let Err(error) = self.environment.catalog.release_abandoned().await {
                tracing::debug!(error = %chain(&error), "abandoned operations cannot be looked for");
            }
            sleep(POLL).await;
        }
    }
}
