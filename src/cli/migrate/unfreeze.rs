//! `tenantry migrate unfreeze`

use clap::Args;
use serde::Serialize;

use crate::catalog::freeze::Freeze;
use crate::cli::{Context, Outcome, Result};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry migrate unfreeze

Migrates nobody by itself; `tenantry migrate up` does, or `tenantry migrate resume` for a rollout that
was paused.")]
pub(in crate::cli) struct Options {}

/// What was in force.
#[derive(Serialize)]
struct Unfrozen {
    lifted: Option<Freeze>,
}

pub(super) async fn run(_: Options, context: &Context) -> Result<Outcome> {
    let catalog = context.catalog().await?;
    let lifted = catalog.unfreeze(&context.actor).await?;
    let what = match &lifted {
        Some(freeze) => format!("The fleet is no longer frozen at version {}.", freeze.version),
        None => "The fleet was not frozen.".to_owned(),
    };
    let next = "Next: `tenantry migrate status` tells who is behind";
    context.print_change(&Unfrozen { lifted }, &what, next)?;
    Ok(Outcome::Done)
}
