//! Seeing a rollout through: leading it from here, or working beside whoever was quicker, and telling how it goes.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::api::document::rollout::RolloutDocument;
use crate::catalog::rollouts::{ItemState, RolloutRecord, RolloutState, RolloutTenant};
use crate::cli::progress::Progress;
use crate::cli::report::{count, elapsed, fields};
use crate::cli::{Context, Error, Interrupt, Outcome, OutputFormat, Result};
use crate::operations::webhook;
use crate::operations::{Environment, Runner};

/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// At the end, how long the webhook may take; workers go on with what is left.
const WEBHOOK_PATIENCE: Duration = Duration::from_secs(10);

/// A rollout that is seen through from here.
pub(super) struct Follow<'a> {
    pub context: &'a Context,
    pub environment: &'a Environment,
    pub id: Uuid,
    pub concurrency: usize,
}

impl Follow<'_> {
    /// Works at the rollout until it no longer runs, and prints what became of it. With JSON, every event is a
    /// line, and the rollout at its end is the last one.
    pub async fn run(&self) -> Result<Outcome> {
        let began = Instant::now();
        let shutdown = CancellationToken::new();
        let runner = Runner::new(self.environment.clone(), shutdown.clone());
        let mut interrupt = Interrupt::listen()
            .map_err(|error| Error::failed("signals cannot be listened for", error))?;
        let mut progress = Progress::new(self.context);
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = 0;

        let mut completed = Box::pin(runner.complete_rollout(self.id, self.concurrency));
        let telling = async {
            loop {
                _ = webhook::tell(self.environment).await;
                tokio::time::sleep(LOOK).await;
            }
        };
        let mut telling = Box::pin(telling);
        let record = loop {
            tokio::select! {
                ended = &mut completed => break ended?,
                () = &mut telling => {}
                () = interrupt.next() => {
                    if shutdown.is_cancelled() {
                        return Err(self.interrupted());
                    }
                    shutdown.cancel();
                    self.context.note(
                        "interrupted: waiting for what is under way (Ctrl-C again to leave at once)",
                    );
                }
                _ = ticks.tick() => {
                    self.print_events(&mut seen).await?;
                    self.show(&mut progress, began.elapsed()).await;
                }
            }
        };
        drop(progress);
        self.print_events(&mut seen).await?;
        if shutdown.is_cancelled() && record.state == RolloutState::Running {
            return Err(self.interrupted());
        }
        _ = timeout(WEBHOOK_PATIENCE, webhook::tell(self.environment)).await;
        self.conclude(&record, began.elapsed()).await
    }

    fn interrupted(&self) -> Error {
        let help = format!(
            "what is done is done; a `tenantry serve` worker goes on with rollout {0}. \
             `tenantry migrate pause {0}` holds it, `tenantry migrate show {0}` tells how it goes",
            self.id
        );
        Error::Interrupted { help }
    }

    async fn print_events(&self, seen: &mut i64) -> Result<()> {
        if self.context.output != OutputFormat::Json {
            return Ok(());
        }
        let events = match self.environment.catalog.rollout_events(self.id, *seen).await {
            // The next look tells it.
            Err(error) if error.is_transient() => return Ok(()),
            events => events?,
        };
        for event in events {
            *seen = event.seq;
            self.context.print_line(&event, String::new)?;
        }
        Ok(())
    }

    /// The bar: how many are done, how fast, and how long the rest will take at that rate.
    async fn show(&self, progress: &mut Progress, since: Duration) {
        if !progress.is_due() {
            return;
        }
        let catalog = &self.environment.catalog;
        let (Ok(record), Ok(counts)) =
            (catalog.rollout(self.id).await, catalog.count_rollout(self.id).await)
        else {
            return;
        };
        if record.begun_at.is_none() {
            progress.step("trying the migrations on a new template of every server");
            return;
        }
        let sum = |wanted: fn(ItemState) -> bool| -> usize {
            let wanted = counts.iter().filter(|count| wanted(count.state));
            wanted.map(|count| usize::try_from(count.tenants).unwrap_or(0)).sum()
        };
        let (done, all) = (sum(ItemState::is_settled), sum(|_| true));
        let failed = sum(|state| state == ItemState::Failed);
        let mut text = match record.waves.len() {
            1 => "tenants".to_owned(),
            waves => {
                let name = record.wave_name(record.wave);
                format!("tenants, wave {} of {waves} ({name})", record.wave + 1)
            }
        };
        if record.bake_until.is_some() && !record.baked {
            text.push_str(", baking");
        }
        if failed > 0 {
            _ = write!(text, ", {failed} failed");
        }
        text.push_str(&pace(done, all, since));
        progress.count(done, all, &text);
    }

    /// Prints how the rollout ended, and which status that is.
    async fn conclude(&self, record: &RolloutRecord, since: Duration) -> Result<Outcome> {
        let counts = self.environment.catalog.count_rollout(self.id).await?;
        let tenants = self.environment.catalog.rollout_tenants(self.id).await?;
        let document = RolloutDocument::new(record, &counts);
        self.context.print_line(&document, || describe_end(&document, &tenants, since))?;
        let nobody = document.succeeded == 0;
        Ok(match record.state {
            RolloutState::Succeeded => Outcome::Done,
            RolloutState::Running | RolloutState::Paused => Outcome::Paused,
            RolloutState::Failed | RolloutState::Aborted if nobody => Outcome::Failed,
            RolloutState::Failed | RolloutState::Aborted => Outcome::PartlyDone,
        })
    }
}

/// Every tenant that failed, with what went wrong and what to do.
pub(super) fn describe_failed(tenants: &[RolloutTenant]) -> String {
    let failed = tenants.iter().filter(|tenant| tenant.state == ItemState::Failed);
    let blocks: Vec<String> = failed
        .map(|tenant| {
            let error = tenant.error.as_ref();
            let cancelled = || Some("its operation was cancelled".to_owned());
            fields(&[
                ("Failed", Some(tenant.slug.to_string())),
                ("Step", error.map(|error| error.step.clone())),
                ("Error", error.map_or_else(cancelled, |error| Some(error.message.clone()))),
                ("Help", error.and_then(|error| error.remedy.clone())),
                ("Operation", tenant.operation.map(|id| id.to_string())),
            ])
        })
        .collect();
    blocks.join("\n\n")
}

fn describe_end(document: &RolloutDocument, tenants: &[RolloutTenant], since: Duration) -> String {
    let done = count(usize::try_from(document.succeeded).unwrap_or(0), "tenant");
    let gone = match document.skipped {
        0 => String::new(),
        1 => "; 1 was deleted meanwhile".to_owned(),
        many => format!("; {many} were deleted meanwhile"),
    };
    let mut parts = vec![format!(
        "{done} of {} at version {} ({}){gone}.",
        document.tenants,
        document.target_version,
        elapsed(since)
    )];
    let failed = describe_failed(tenants);
    if !failed.is_empty() {
        parts.push(failed);
    }
    let id = document.id;
    let reason = document.reason.as_ref();
    let why = |state: &str| {
        let message = reason.map_or(String::new(), |reason| format!(": {}", reason.message));
        let help = reason.and_then(|reason| reason.remedy.clone());
        let help = help.map_or(String::new(), |help| format!("\n{help}"));
        format!("Rollout {id} {state}{message}{help}")
    };
    match document.status {
        RolloutState::Succeeded => {}
        RolloutState::Paused => parts.push(why("is paused")),
        RolloutState::Running => parts.push(why("goes on elsewhere")),
        RolloutState::Aborted => parts.push(why("was aborted")),
        RolloutState::Failed => parts.push(why("has failed")),
    }
    parts.join("\n\n")
}

fn pace(done: usize, all: usize, since: Duration) -> String {
    let Ok(done) = u32::try_from(done) else { return String::new() };
    if done == 0 || since.as_secs() == 0 {
        return String::new();
    }
    let left = u32::try_from(all).unwrap_or(u32::MAX).saturating_sub(done);
    let rate = f64::from(done) / since.as_secs_f64();
    format!(", {rate:.1} a second, {} to go", elapsed(since / done * left))
}
