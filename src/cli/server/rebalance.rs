//! `tenantry server rebalance`

use std::time::Instant;

use clap::Args;
use serde::Serialize;
use uuid::Uuid;

use super::drain::{describe, outcome};
use crate::catalog::operations::OperationState;
use crate::cli::confirm::confirm;
use crate::cli::drive::{self, Driver};
use crate::cli::migrate::{describe_failures, parse_concurrency};
use crate::cli::report::{count, elapsed};
use crate::cli::tenant::Wait;
use crate::cli::{Context, Outcome, Result};
use crate::operations::moves::Moves;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry server rebalance --plan      the moves, how large each database is, and how long its requests would wait
  tenantry server rebalance --yes

First come tenants that are where their rules no longer let them be; then servers are evened out, as placement
does with new tenants: by how many they have. The smallest move first. A cordoned server keeps what it has.

Exit status 3 when some cannot leave where they must, 1 when none of them can.")]
pub(in crate::cli) struct Options {
    /// Only show the moves
    #[arg(long)]
    plan: bool,
    /// How many tenants at a time, beside what workers of `tenantry serve` take [default: backup_concurrency]
    #[arg(long, value_name = "N", value_parser = parse_concurrency)]
    concurrency: Option<usize>,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    wait: Wait,
}

/// What was asked for, and how many of it succeeded.
#[derive(Serialize)]
struct Document {
    moved: usize,
    failed: usize,
    #[serde(flatten)]
    moves: Moves,
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let concurrency = options.concurrency.unwrap_or(context.settings.backup_concurrency);
    let context = &context.with_copies(concurrency);
    let environment = context.environment().await?;
    let planned = environment.rebalance_plan().await?;
    if options.plan || planned.going.is_empty() {
        context.print(&planned, || describe(&planned))?;
        return Ok(outcome(planned.going.len(), planned.staying.len()));
    }
    let what = format!(
        "rebalancing moves {} to other servers, and lets the requests of each wait meanwhile",
        count(planned.going.len(), "tenant")
    );
    confirm(&what, "rebalance", options.yes)?;

    let began = Instant::now();
    let moves = environment.rebalance().await?;
    let batch: Uuid = moves.batch_id.unwrap_or_default();
    if !options.wait.wait {
        context.print(&moves, || describe(&moves))?;
        context.note(&format!(
            "The workers of `tenantry serve` take them: `tenantry operation list --batch {batch}`"
        ));
        return Ok(outcome(moves.going.len(), moves.staying.len()));
    }
    let driver = Driver { context, environment: &environment };
    let operations = driver.settle_batch(batch, context.settings.worker_concurrency).await?;
    let succeeded = operations.iter().filter(|(one, _)| one.state == OperationState::Succeeded);
    let (succeeded, asked) = (succeeded.count(), operations.len());
    let document = Document { moved: succeeded, failed: asked - succeeded, moves };
    context.print(&document, || {
        let head =
            format!("{} moved ({}).", count(document.moved, "tenant"), elapsed(began.elapsed()));
        [head, describe_failures(batch, &operations)].concat()
    })?;
    Ok(drive::outcome(&operations))
}
