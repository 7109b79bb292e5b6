//! Seeing operations through: from here, or by watching the worker that was quicker.

use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::progress::Progress;
use super::{Context, Error, Interrupt, Outcome, Result, report};
use crate::api::document::OperationDocument;
use crate::catalog::Catalog;
use crate::catalog::operations::{OperationFilter, OperationRecord, OperationState};
use crate::operations::{Environment, Runner, Transfer, Work};
use crate::tenant::TenantSlug;

/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// What Ctrl-C is answered with.
const INTERRUPTED: &str =
    "interrupted: waiting for what is under way (Ctrl-C again to leave at once)";
/// After Ctrl-C, how long the step under way may take to end.
const GRACE: Duration = Duration::from_secs(10);

/// An operation that has been asked for, and what waits for it.
pub(super) struct Driver<'a> {
    pub context: &'a Context,
    pub environment: &'a Environment,
}

impl Driver<'_> {
    /// Sees one operation end well; any other end is an error.
    pub async fn succeed(&self, id: Uuid, slug: &TenantSlug) -> Result<OperationRecord> {
        let record = self.settle(id, slug).await?;
        match record.state {
            OperationState::Succeeded => Ok(record),
            _ => Err(Error::of_operation(&record, slug)),
        }
    }

    /// Sees one operation end, well or not.
    pub async fn settle(&self, id: Uuid, slug: &TenantSlug) -> Result<OperationRecord> {
        let shutdown = CancellationToken::new();
        let runner = Runner::new(self.environment.clone(), shutdown.clone());
        let mut interrupt = listen()?;
        let mut progress = Progress::new(self.context);
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);

        let mut settled = pin!(runner.complete(id));
        loop {
            tokio::select! {
                record = &mut settled => return Ok(record?),
                () = interrupt.next() => break,
                _ = ticks.tick() => {
                    // The runner has the last word on errors.
                    if let Ok(record) = self.environment.catalog.operation(id).await {
                        progress.step(&describe(&record, slug));
                    }
                }
            }
        }
        drop(progress);
        shutdown.cancel();
        self.context.note(INTERRUPTED);
        tokio::select! {
            () = handed_back(&self.environment.catalog, id) => {}
            () = interrupt.next() => {}
            () = sleep(GRACE) => {}
        }
        let record = self.environment.catalog.operation(id).await?;
        let help = match record.state {
            OperationState::Succeeded => return Ok(record),
            OperationState::Failed => {
                let error = record.error.map(|failure| format!(": {}", failure.message));
                format!(
                    "it has failed{}; `tenantry operation show {id}` has more",
                    error.unwrap_or_default()
                )
            }
            OperationState::Cancelled => "it was given up, and what it did is undone".to_owned(),
            OperationState::Queued | OperationState::Running => {
                let plan = Work::of(&record).ok().map(|work| work.plan());
                let undo = match plan.filter(|plan| plan.may_be_given_up(record.completed_steps)) {
                    Some(_) => format!("`tenantry operation cancel {id}` undoes it"),
                    None => "it cannot be undone any more".to_owned(),
                };
                format!(
                    "nothing is lost: a worker of `tenantry serve` goes on with it, or `tenantry operation retry {id}`; \
                     {undo}"
                )
            }
        };
        Err(Error::Interrupted { help })
    }

    /// Sees a batch end; returns its operations.
    pub async fn settle_batch(
        &self,
        batch: Uuid,
        concurrency: usize,
    ) -> Result<Vec<(OperationRecord, TenantSlug)>> {
        let shutdown = CancellationToken::new();
        let runner = Runner::new(self.environment.clone(), shutdown.clone());
        let mut interrupt = listen()?;
        let mut progress = Progress::new(self.context);
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);

        let mut completed = pin!(runner.complete_batch(batch, concurrency));
        loop {
            tokio::select! {
                ended = &mut completed => { ended?; break }
                () = interrupt.next() => {
                    if shutdown.is_cancelled() {
                        break;
                    }
                    shutdown.cancel();
                    self.context.note(INTERRUPTED);
                }
                _ = ticks.tick() => {
                    if let Ok(counted) = self.environment.catalog.count_operations(Some(batch)).await {
                        show_batch(&mut progress, &counted);
                    }
                }
            }
        }
        drop(progress);
        if shutdown.is_cancelled() {
            let help = format!(
                "what is done is done; `tenantry operation list --batch {batch}` shows it, and a \
                 worker goes on with the rest"
            );
            return Err(Error::Interrupted { help });
        }
        let filter =
            OperationFilter { batch: Some(batch), limit: i64::MAX, ..OperationFilter::default() };
        Ok(self.environment.catalog.operations(&filter).await?)
    }

    /// Prints how one operation that was asked for goes on, or sees it through. `done` tells what
    /// has happened when it has.
    pub async fn conclude(
        &self,
        operation: OperationRecord,
        slug: &TenantSlug,
        wait: bool,
        done: impl FnOnce(&str) -> (String, String),
    ) -> Result<Outcome> {
        if !wait {
            return self.leave(&operation, slug);
        }
        let began = Instant::now();
        let record = self.settle(operation.id, slug).await?;
        let document = OperationDocument::new(&record, slug);
        if record.state != OperationState::Succeeded {
            if self.context.output == super::OutputFormat::Json {
                report::print_json(&document)?;
            }
            return Err(Error::of_operation(&record, slug));
        }
        let (what, next) = done(&report::elapsed(began.elapsed()));
        self.context.print_change(&document, &what, &next)?;
        Ok(Outcome::Done)
    }

    /// Leaves an operation to the workers.
    pub fn leave(&self, operation: &OperationRecord, slug: &TenantSlug) -> Result<Outcome> {
        let id = operation.id;
        let what = format!("{} of `{slug}` is queued as operation {id}.", operation.kind);
        let next = format!(
            "A `tenantry serve` worker will take it: `tenantry operation watch {id}`. \
             Without one, `tenantry operation retry {id}` drives it from here."
        );
        self.context.print_change(&OperationDocument::new(operation, slug), &what, &next)?;
        Ok(Outcome::Done)
    }
}

/// What an operation is doing, in one line.
pub(super) fn describe(record: &OperationRecord, slug: &TenantSlug) -> String {
    let doing = if record.abandoning { "undoing " } else { "" };
    let head = format!("{doing}{} of `{slug}`", record.kind);
    match (record.state, &record.error) {
        (OperationState::Queued, Some(error)) => {
            format!("{head}: {} failed ({}), trying again", error.step, error.message)
        }
        (OperationState::Queued, None) => format!("{head}: waiting for its turn"),
        (OperationState::Running, _) => match Work::progress(record) {
            Some((name, number, of)) => {
                match Transfer::of(record)
                    .filter(|_| name.starts_with("restore_") || name.starts_with("copy_"))
                {
                    Some(transfer) => format!("{head}: {name}, {}", describe_transfer(&transfer)),
                    None => format!("{head}: {name} ({number} of {of})"),
                }
            }
            None => head,
        },
        (state, _) => format!("{head}: {}", state.as_str()),
    }
}

/// `12.0 MB of 40.1 MB, 8.1 MB/s`
fn describe_transfer(transfer: &Transfer) -> String {
    let size = |bytes: u64| report::size(i64::try_from(bytes).unwrap_or(i64::MAX));
    let done = match transfer.total_bytes {
        0 => size(transfer.bytes),
        total => format!("{} of {}", size(transfer.bytes), size(total)),
    };
    format!("{done}, {}/s", size(transfer.bytes_per_second))
}

/// How a batch ended as a whole.
pub(super) fn outcome(operations: &[(OperationRecord, TenantSlug)]) -> Outcome {
    let failed =
        operations.iter().filter(|(record, _)| record.state != OperationState::Succeeded).count();
    match failed {
        0 => Outcome::Done,
        all if all == operations.len() => Outcome::Failed,
        _ => Outcome::PartlyDone,
    }
}

fn show_batch(progress: &mut Progress, counted: &[(OperationState, i64)]) {
    let sum = |wanted: fn(OperationState) -> bool| -> usize {
        let counts = counted.iter().filter(|(state, _)| wanted(*state));
        counts.map(|(_, number)| usize::try_from(*number).unwrap_or(0)).sum()
    };
    let failed = sum(|state| state == OperationState::Failed);
    let text = if failed == 0 { "done".to_owned() } else { format!("done, {failed} failed") };
    progress.count(sum(OperationState::is_settled), sum(|_| true), &text);
}

/// Waits until nobody is at the operation.
async fn handed_back(catalog: &Catalog, id: Uuid) {
    while !matches!(catalog.operation(id).await, Ok(record) if record.state != OperationState::Running)
    {
        sleep(LOOK).await;
    }
}

fn listen() -> Result<Interrupt> {
    Interrupt::listen().map_err(|error| Error::failed("signals cannot be listened for", error))
}
