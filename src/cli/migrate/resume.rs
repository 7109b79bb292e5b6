//! `tenantry migrate resume`

use clap::Args;
use uuid::Uuid;

use super::follow::Follow;
use super::show::{find, leave};
use super::up::parse_concurrency;
use crate::cli::arguments::id;
use crate::cli::tenant::Wait;
use crate::cli::{Context, Outcome, Result};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry migrate resume
  tenantry migrate resume 0197f0c0-7a5e-7c3e-9f5e-0a1b2c3d4e5f --wait=false

Tenants that failed are tried again, then the waves go on. Exit status as with `tenantry migrate up`.")]
pub(in crate::cli) struct Options {
    /// The rollout; the newest without
    #[arg(value_parser = id("`tenantry migrate show` tells of the newest"))]
    id: Option<Uuid>,
    /// How many tenants at a time from here, within the bounds of the rollout
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = parse_concurrency)]
    concurrency: usize,
    #[command(flatten)]
    wait: Wait,
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let context = &context.with_concurrency(options.concurrency);
    let environment = context.environment().await?;
    let id = find(&environment.catalog, options.id).await?.id;
    // What a worker left that has died is nobody's: it may be taken up.
    environment.catalog.release_all_abandoned().await?;
    let record = environment.resume_rollout(id, &context.actor).await?;
    if !options.wait.wait {
        return leave(&environment, &record, context).await;
    }
    let concurrency = options.concurrency;
    let follow = Follow { context, environment: &environment, id, concurrency };
    Box::pin(follow.run()).await
}
