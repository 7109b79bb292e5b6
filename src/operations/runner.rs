//! [`Runner`]: takes operations from the queue and drives them, step by step.
//!
//! Progress is written before the next step begins. While a step runs, the lease is renewed; when the
//! lease is lost the step is dropped where it stands and nothing more is written. On shutdown a runner
//! hands its operations back between two steps.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tenantry_provisioning::MigrationSet;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use uuid::Uuid;

use super::{Environment, Step, StepContext, StepError, Work};
use crate::catalog::changes::{Change, Changes};
use crate::catalog::lock::{Claim, LEASE};
use crate::catalog::operations::{Failure, OperationRecord, OperationState};
use crate::catalog::{CatalogError, TenantLock};
use crate::metrics;
use crate::tenant::Tenant;

mod rollout;

/// Tries at an error that may pass, before somebody is asked to look.
const MAX_RETRIES: i32 = 8;
/// Times that a worker may die over one operation.
const MAX_ATTEMPTS: i32 = 30;
/// The longest pause between two tries.
const MAX_DELAY_SECS: f64 = 30.0;
/// Pauses between looks at an operation that another worker has.
const FIRST_LOOK: Duration = Duration::from_millis(2);
const LAST_LOOK: Duration = Duration::from_millis(64);
/// How long to wait for a notification before looking at the queue anyway.
const POLL: Duration = Duration::from_secs(2);

/// Drives operations. Cheap to clone.
#[derive(Clone)]
pub struct Runner {
    environment: Arc<Environment>,
    /// The worker's name in `operation show`.
    name: Arc<str>,
    shutdown: CancellationToken,
    disturb: Option<Arc<Disturb>>,
}

/// Decides whether a step is to be disturbed; see [`Runner::disturbed`].
pub type Disturb = dyn Fn(&StepPoint<'_>) -> Disturbance + Send + Sync;

/// A moment in the life of an operation.
#[derive(Clone, Copy, Debug)]
pub struct StepPoint<'a> {
    /// The operation's kind.
    pub kind: &'a str,
    /// The step's name.
    pub step: &'a str,
    /// Whether the step has been done but not yet been written down.
    pub done: bool,
}

/// What happens to a step in a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disturbance {
    /// Nothing.
    None,
    /// The worker vanishes, as if killed.
    Vanish,
    /// The step fails for good.
    Fail,
    /// The step is run once more.
    Repeat,
}

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
    /// A runner that stops between two steps once `shutdown` is cancelled.
    #[must_use]
    pub fn new(environment: Environment, shutdown: CancellationToken) -> Self {
        let name = format!("{}:{}", hostname(), std::process::id());
        Self { environment: Arc::new(environment), name: name.into(), shutdown, disturb: None }
    }

    /// The same runner, with every step at the mercy of a test.
    #[must_use]
    pub fn disturbed(mut self, disturb: Arc<Disturb>) -> Self {
        self.disturb = Some(disturb);
        self
    }

    /// What the operations work with.
    #[must_use]
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Takes one operation and drives it as far as it goes. `None` when nothing was due.
    pub async fn run_one(&self, claim: Claim) -> Result<Option<Uuid>, CatalogError> {
        let files = self.environment.migrations();
        let (catalog, digest) = (&self.environment.catalog, files.directory_digest());
        let reads_archives = self.environment.limits.archives.is_some();
        let claimed = catalog.claim(claim, &self.name, &digest, reads_archives).await?;
        let Some((record, lock)) = claimed else { return Ok(None) };
        let id = record.id;
        let runner = self.clone();
        // A task of its own: a step that panics must not take the worker with it.
        let driven = tokio::spawn(async move { runner.drive(record, lock, files).await }).await;
        match driven {
            Ok(result) => result?,
            Err(panic) => tracing::error!(operation = %id, %panic, "a step panicked"),
        }
        Ok(Some(id))
    }

    /// Drives everything that comes, `concurrency` at a time, until shutdown.
    pub async fn work(&self, concurrency: usize, changes: &Changes) {
        let mut workers = JoinSet::new();
        for _ in 0..concurrency {
            let (runner, mut news) = (self.clone(), changes.subscribe());
            workers.spawn(async move {
                while !runner.shutdown.is_cancelled() {
                    match runner.run_one(Claim::Any).await {
                        Ok(Some(_)) => continue,
                        Ok(None) => {}
                        Err(error) => {
                            tracing::warn!(error = %super::chain(&error), "the queue cannot be read");
                            sleep(Duration::from_millis(500)).await;
                        }
                    }
                    tokio::select! {
                        () = runner.shutdown.cancelled() => {}
                        () = queued(&mut news) => {}
                        () = sleep(POLL) => {}
                    }
                }
            });
        }
        let runner = self.clone();
        workers.spawn(async move {
            let warming = runner.environment.warm(concurrency);
            drop(runner.shutdown.run_until_cancelled(warming).await);
        });
        let runner = self.clone();
        workers.spawn(async move {
            while !runner.shutdown.is_cancelled() {
                if let Err(error) = runner.environment.catalog.release_abandoned().await {
                    tracing::debug!(error = %super::chain(&error), "abandoned operations cannot be looked for");
                }
                tokio::select! {
                    () = runner.shutdown.cancelled() => {}
                    () = sleep(POLL) => {}
                }
            }
        });
        while workers.join_next().await.is_some() {}
    }

    /// Sees that one operation ends: drives it, or waits for the worker that does.
    pub async fn complete(&self, id: Uuid) -> Result<OperationRecord, CatalogError> {
        let mut pause = FIRST_LOOK;
        loop {
            let taken = self.run_one(Claim::Operation(id)).await?;
            let record = self.environment.catalog.operation(id).await?;
            if record.state.is_settled() {
                return Ok(record);
            }
            if taken.is_none() {
                sleep(pause).await;
                pause = (pause * 2).min(LAST_LOOK);
                if pause == LAST_LOOK {
                    self.environment.catalog.release_abandoned().await?;
                }
            }
        }
    }

    /// Drives a whole batch, `concurrency` at a time, until every operation of it has ended; others may
    /// be working on it too. Calls `progress` whenever one has ended.
    pub async fn complete_batch(
        &self,
        batch: Uuid,
        concurrency: usize,
        progress: impl Fn(),
    ) -> Result<(), CatalogError> {
        let mut workers = JoinSet::new();
        for _ in 0..concurrency {
            self.spawn_batch_worker(&mut workers, batch);
        }
        loop {
            while let Some(turn) = workers.join_next().await {
                let found = turn.expect("a batch worker does not panic")?;
                progress();
                if found {
                    self.spawn_batch_worker(&mut workers, batch);
                }
            }
            let open = self.environment.catalog.count_operations(Some(batch)).await?;
            if open.iter().all(|(state, _)| state.is_settled()) || self.shutdown.is_cancelled() {
                return Ok(());
            }
            sleep(Duration::from_millis(100)).await;
            self.environment.catalog.release_abandoned().await?;
            for _ in 0..concurrency {
                self.spawn_batch_worker(&mut workers, batch);
            }
        }
    }

    fn spawn_batch_worker(&self, workers: &mut JoinSet<Result<bool, CatalogError>>, batch: Uuid) {
        let runner = self.clone();
        workers.spawn(async move { Ok(runner.run_one(Claim::Batch(batch)).await?.is_some()) });
    }

    async fn drive(
        &self,
        record: OperationRecord,
        lock: TenantLock,
        files: MigrationSet,
    ) -> Result<(), CatalogError> {
        let work = Work::of(&record)?;
        let tenant = lock.read_tenant().await?;
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
                    tracing::warn!(error = %super::chain(&error), "the lease is lost; another worker will go on");
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
            Turn::HandedBack | Turn::Vanished => "handed_back",
        };
        metrics::operation(work.kind(), outcome, started.elapsed());
        drop(entered);

        match turn {
            Turn::Finished(state) => lock.finish(state, completed).await?,
            Turn::Failed(failure) => {
                lock.fail(completed, &failure).await?;
                // Before anything else is taken: this may be the failure that stops the rollout.
                if let Some(batch) = record.batch_id {
                    self.environment.catalog.guard_rollout(batch).await?;
                }
            }
            Turn::Postponed(failure, delay) => {
                lock.postpone(completed, Some(&failure), delay).await?;
            }
            Turn::HandedBack => lock.postpone(completed, None, 0.0).await?,
            Turn::Vanished => return Ok(()),
        }
        if let Some(batch) = record.batch_id
            && let Err(error) = self.environment.refill(batch).await
        {
            tracing::debug!(%error, "what comes next is left to the leader of the rollout");
        }
        tracing::info!(
            tenant = %slug, operation = %record.id, kind = work.kind(), outcome,
            elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX), "operation"
        );
        Ok(())
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
            if index + 1 < steps.len() && lock.record_progress(*completed).await.is_err() {
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
                StepContext { environment, operation: record, tenant, lock, files, memory };
            (step.run)(&context).await?;
            if !std::mem::take(&mut again) {
                break;
            }
        }
        Ok(disturb(true) != Disturbance::Vanish)
    }
}

/// Renews the lease until that fails.
async fn keep_lease(lock: &TenantLock) -> CatalogError {
    let pause = LEASE / 4;
    loop {
        sleep(pause).await;
        match timeout(pause, lock.renew()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error,
            Err(_) => return CatalogError::LostLock,
        }
    }
}

async fn queued(news: &mut crate::catalog::changes::Subscription) {
    loop {
        if let Change::Operation(_, OperationState::Queued) | Change::Unknown = news.next().await {
            return;
        }
    }
}

/// Doubles from half a second, spread by up to a half so that failures do not come in step.
fn delay_secs(attempts: i32) -> f64 {
    let spread = f64::from(Uuid::new_v4().as_bytes()[0]) / 512.0;
    (0.5 * f64::from(attempts.clamp(0, 8)).exp2() * (0.75 + spread)).min(MAX_DELAY_SECS)
}

fn hostname() -> String {
    std::fs::read_to_string("/etc/hostname")
        .map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}
