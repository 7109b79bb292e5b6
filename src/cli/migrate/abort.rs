//! `tenantry migrate abort`

use clap::Args;
use uuid::Uuid;

use super::show::{find, print_change};
use crate::cli::arguments::id;
use crate::cli::{Context, Outcome, Result};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry migrate abort
  tenantry migrate abort 0197f0c0-7a5e-7c3e-9f5e-0a1b2c3d4e5f

Tenants that are being migrated at this moment are finished, and those that are done stay done.")]
pub(in crate::cli) struct Options {
    /// The rollout; the newest without
    #[arg(value_parser = id("`tenantry migrate show` tells of the newest"))]
    id: Option<Uuid>,
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let environment = context.environment().await?;
    let id = find(&environment.catalog, options.id).await?.id;
    let record = environment.catalog.abort_rollout(id, &context.actor).await?;
    let what = format!("Rollout {id} is given up.");
    let next = "`tenantry migrate up` starts another, with whoever is behind";
    print_change(&environment, &record, &what, next, context).await
}
