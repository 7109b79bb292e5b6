//! [`Runner`]: takes operations from the queue and drives them, step by step.
//!
//! Whoever sees a rollout through settles one operation and takes the next in one round trip to the catalog. On
//! shutdown a runner hands its operations back between two steps.

use std::sync::Arc;
use std::time::Duration;

use tenantry_provisioning::MigrationSet;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Environment;
use crate::catalog::CatalogError;
use crate::catalog::changes::{Change, Changes};
use crate::catalog::lock::{Claim, Claimant, Claimed};
use crate::catalog::operations::{OperationRecord, OperationState};

mod attempt;
mod rollout;

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

/// An operation that is to be driven, with the files that it was taken for.
struct Job {
    claimed: Claimed,
    files: MigrationSet,
}

/// A rollout of which a worker drives one operation after the other, until it is to stop.
#[derive(Clone)]
struct Line {
    rollout: Uuid,
    stop: CancellationToken,
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
        let Some(job) = self.take(claim).await? else { return Ok(None) };
        let id = job.claimed.record.id;
        self.drive_apart(job, None).await?;
        Ok(Some(id))
    }

    /// Takes one operation after the other until nothing is due, or until it is to stop. Returns whether there was
    /// any.
    async fn run_line(&self, line: &Line) -> Result<bool, CatalogError> {
        let claim = Claim::Batch(line.rollout);
        let mut next = self.take(claim).await?;
        let found = next.is_some();
        while let Some(job) = next {
            // Whatever was taken is driven, if only to be handed back.
            next = match self.drive_apart(job, Some(line.clone())).await? {
                None if !line.stop.is_cancelled() => self.take(claim).await?,
                job => job,
            };
        }
        Ok(found)
    }

    async fn take(&self, claim: Claim) -> Result<Option<Job>, CatalogError> {
        let files = self.environment.migrations();
        let digest = files.directory_digest();
        let claimed = self.environment.catalog.claim(claim, self.claimant(&digest)).await?;
        Ok(claimed.map(|claimed| Job { claimed, files }))
    }

    fn claimant<'a>(&'a self, migrations_digest: &'a str) -> Claimant<'a> {
        let reads_archives = self.environment.limits.archives.is_some();
        Claimant { name: &self.name, migrations_digest, reads_archives }
    }

    /// Drives an operation in a task of its own: a step that panics must not take the worker with it.
    async fn drive_apart(&self, job: Job, line: Option<Line>) -> Result<Option<Job>, CatalogError> {
        let (id, runner) = (job.claimed.record.id, self.clone());
        match tokio::spawn(async move { runner.drive(job, line).await }).await {
            Ok(result) => result,
            Err(panic) => {
                tracing::error!(operation = %id, %panic, "a step panicked");
                Ok(None)
            }
        }
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
    /// be working on it too.
    pub async fn complete_batch(
        &self,
        batch: Uuid,
        concurrency: usize,
    ) -> Result<(), CatalogError> {
        let mut workers = JoinSet::new();
        for _ in 0..concurrency {
            self.spawn_batch_worker(&mut workers, batch);
        }
        loop {
            while let Some(turn) = workers.join_next().await {
                if turn.expect("a batch worker does not panic")? {
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
}

async fn queued(news: &mut crate::catalog::changes::Subscription) {
    loop {
        if let Change::Operation(_, OperationState::Queued) | Change::Unknown = news.next().await {
            return;
        }
    }
}

fn hostname() -> String {
    std::fs::read_to_string("/etc/hostname")
        .map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}
