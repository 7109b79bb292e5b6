//! One turn with an operation: its steps, from where they were left to their end, an error or shutdown.
//!
//! Progress is written before the next step begins. While a step runs, the lease is renewed; when the
//! lease is lost the step is dropped where it stands and nothing more is written.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::Value;
use tenantry_provisioning::MigrationSet;
use tokio::time::{sleep, timeout};
use tracing::Instrument as _;
use uuid::Uuid;

use super::{Disturbance, Job, Line, Runner, StepPoint};
use crate::catalog::lock::{Claimed, LEASE};
use crate::catalog::operations::{Failure, OperationRecord, OperationState};
use crate::catalog::{CatalogError, TenantLock};
use crate::metrics;
use crate::operations::{Step, StepContext, StepError, Work, chain};
use crate::tenant::Tenant;

/// Tries at an error that may pass, before somebody is asked to look.
const MAX_RETRIES: i32 = 8;
/// Times that a worker may die over one operation.
const MAX_ATTEMPTS: i32 = 30;
/// How often to look whether the lock is still there.
const GLANCE: Duration = Duration::from_millis(100);
/// The longest pause between two tries, before it is spread.
const MAX_DELAY_SECS: f64 = 30.0;

/// One turn with an operation.
struct Attempt<'a> {
    work: &'a Work,
    record: &'a OperationRecord,
    lock: &'a TenantLock,
    files: &'a MigrationSet,
    memory: Mutex<Value>,
}

/// How one turn with an operation ended.
enum Turn {
    Finished(OperationState),
    Failed(Failure),
    Postponed(Failure, f64),
    HandedBack,
    Vanished,
}

impl Runner {
    /// Drives an operation as far as it goes. Returns the next one of the line, if that could be had on the way.
    pub(super) async fn drive(
        &self,
        job: Job,
        line: Option<Line>,
    ) -> Result<Option<Job>, CatalogError> {
        let Job { claimed: Claimed { record, tenant, lock }, files } = job;
        let work = Work::of(&record)?;
        let slug = tenant.slug.clone();
        let span = tracing::info_span!(
            "operation", tenant = %slug, operation = %record.id, kind = work.kind(), step = tracing::field::Empty,
        );
        let started = Instant::now();
        let mut completed = record.completed_steps;

        let turn = async {
            let memory = Mutex::new(record.memory.clone());
            let attempt = Attempt { work: &work, record: &record, lock: &lock, files: &files, memory };
            let steps = self.run_steps(&attempt, tenant, &mut completed);
            tokio::select! {
                turn = steps => turn,
                error = keep_lease(&lock) => {
                    tracing::warn!(error = %chain(&error), "the lease is lost; another worker will go on");
                    Turn::Vanished
                }
            }
        }
        .instrument(span.clone())
        .await;

        let entered = span.enter();
        let outcome = match &turn {
            Turn::Finished(state) => state.as_str(),
            Turn::Failed(failure) => {
                tracing::error!(step = failure.step, error = failure.message, "operation failed");
                if matches!(work, Work::Backup { .. }) {
                    metrics::backup("failed");
                }
                "failed"
            }
            Turn::Postponed(failure, delay) => {
                tracing::warn!(
                    step = failure.step,
                    error = failure.message,
                    delay,
                    "operation will be tried again"
                );
                "postponed"
            }
            Turn::HandedBack => "handed_back",
            Turn::Vanished => "lost",
        };
        metrics::operation(work.kind(), outcome, started.elapsed());
        drop(entered);

        let next = self.settle(turn, &record, lock, completed, line).await?;
        tracing::info!(
            tenant = %slug, operation = %record.id, kind = work.kind(), outcome,
            elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX), "operation"
        );
        Ok(next)
    }

    /// Writes down how a turn has ended and refills the rollout that it was for. Takes the next operation of the line
    /// where that can be had on the way.
    async fn settle(
        &self,
        turn: Turn,
        record: &OperationRecord,
        lock: TenantLock,
        completed: i32,
        line: Option<Line>,
    ) -> Result<Option<Job>, CatalogError> {
        match turn {
            Turn::Finished(state) => {
                if let Some(line) = line.filter(|line| !line.stop.is_cancelled())
                    && let Some(enqueue) = self.environment.known_enqueue(line.rollout).await
                {
                    let (files, refill) = (self.environment.migrations(), enqueue.as_ref());
                    let digest = files.directory_digest();
                    let (rollout, claimant) = (line.rollout, self.claimant(&digest));
                    let claimed = lock
                        .finish_and_claim(state, completed, rollout, refill.as_ref(), claimant)
                        .await?;
                    return Ok(claimed.map(|claimed| Job { claimed, files }));
                }
                lock.finish(state, completed).await?;
            }
            Turn::Failed(failure) => {
                lock.fail(completed, &failure).await?;
                // Before anything else is taken: this may be the failure that stops the rollout.
                if let Some(batch) = record.batch_id {
                    self.environment.catalog.guard_rollout(batch).await?;
                }
            }
            Turn::Postponed(failure, delay) => {
                lock.postpone(completed, &failure, delay).await?;
            }
            Turn::HandedBack => lock.hand_back(completed).await?,
            Turn::Vanished => return Ok(None),
        }
        if let Some(batch) = record.batch_id {
            self.environment.refill(batch).await;
        }
        Ok(None)
    }

    async fn run_steps(&self, attempt: &Attempt<'_>, tenant: Tenant, completed: &mut i32) -> Turn {
        let Attempt { work, record, lock, .. } = *attempt;
        if record.attempts > MAX_ATTEMPTS {
            return Turn::Failed(Failure {
                step: "start".to_owned(),
                message: format!("workers have died {MAX_ATTEMPTS} times over this operation"),
                remedy: Some(
                    "look at the workers' logs, then `tenantry operation retry`".to_owned(),
                ),
            });
        }
        let steps = work.plan().list(record.abandoning);
        let done = usize::try_from(*completed).unwrap_or(0);
        let mut just_read = Some(tenant);
        for (index, step) in steps.iter().enumerate().skip(done) {
            if self.shutdown.is_cancelled() {
                return Turn::HandedBack;
            }
            tracing::Span::current().record("step", step.name);
            let span = tracing::debug_span!("step", name = step.name);
            match self.run_step(attempt, step, just_read.take()).instrument(span).await {
                Ok(true) => {}
                Ok(false) | Err(StepError::Lost) => return Turn::Vanished,
                Err(error @ StepError::Retry(..)) if record.attempts < MAX_RETRIES => {
                    return Turn::Postponed(
                        error.to_failure(step.name),
                        delay_secs(record.attempts),
                    );
                }
                Err(error) => return Turn::Failed(error.to_failure(step.name)),
            }
            *completed = i32::try_from(index + 1).expect("lists of steps are short");
            if index + 1 < steps.len()
                && let Err(error) = lock.record_progress(*completed).await
            {
                tracing::warn!(error = %chain(&error), "a step is done and cannot be written down; it is done again");
                return Turn::Vanished;
            }
        }
        let undone = record.abandoning;
        Turn::Finished(if undone { OperationState::Cancelled } else { OperationState::Succeeded })
    }

    /// Runs one step, with the tenant as it was read a moment ago or as it is now; false when the
    /// worker is to vanish.
    async fn run_step(
        &self,
        attempt: &Attempt<'_>,
        step: &Step,
        mut just_read: Option<Tenant>,
    ) -> Result<bool, StepError> {
        let Attempt { work, record, lock, files, memory } = attempt;
        let disturb = |done| match &self.disturb {
            Some(disturb) => disturb(&StepPoint { kind: work.kind(), step: step.name, done }),
            None => Disturbance::None,
        };
        let mut again = match disturb(false) {
            Disturbance::Vanish => return Ok(false),
            Disturbance::Fail => {
                return Err(StepError::fail("a test made this step fail", "retry"));
            }
            Disturbance::Repeat => true,
            Disturbance::None => false,
        };
        loop {
            let tenant = match just_read.take() {
                Some(tenant) => tenant,
                None => lock.read_tenant().await?,
            };
            let environment = &self.environment;
            let context =
                StepContext { environment, operation: record, work, tenant, lock, files, memory };
            (step.run)(&context).await?;
            if !std::mem::take(&mut again) {
                break;
            }
        }
        Ok(disturb(true) != Disturbance::Vanish)
    }
}

/// Renews the lease until that fails, or until the session that holds the lock has ended: another worker may go on a
/// moment after that.
async fn keep_lease(lock: &TenantLock) -> CatalogError {
    let pause = LEASE / 4;
    let mut renewed = Instant::now();
    loop {
        sleep(GLANCE).await;
        if !lock.is_held() {
            return CatalogError::LostLock;
        }
        if renewed.elapsed() < pause {
            continue;
        }
        match timeout(pause, lock.renew()).await {
            Ok(Ok(())) => renewed = Instant::now(),
            Ok(Err(error)) => return error,
            Err(_) => return CatalogError::LostLock,
        }
    }
}

/// Doubles from half a second, spread by up to a half so that failures do not come in step.
fn delay_secs(attempts: i32) -> f64 {
    let spread = f64::from(Uuid::new_v4().as_bytes()[0]) / 512.0;
    (0.5 * f64::from(attempts.clamp(0, 8)).exp2()).min(MAX_DELAY_SECS) * (0.75 + spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_retries_do_not_come_in_step() {
        let delays: Vec<f64> = (0..64).map(|_| delay_secs(MAX_RETRIES)).collect();

        assert!(delays.iter().all(|delay| (22.0..38.0).contains(delay)), "{delays:?}");
        let (least, most) =
            (delays.iter().copied().reduce(f64::min), delays.iter().copied().reduce(f64::max));
        assert!(most.unwrap() - least.unwrap() > 2.0, "{delays:?}");
    }
}
