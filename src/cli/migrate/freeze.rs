//! `tenantry migrate freeze`

use clap::Args;

use super::up::parse_version;
use crate::cli::{Context, Outcome, Result};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry migrate freeze --at V17

Until `tenantry migrate unfreeze`, nobody is migrated beyond that version: not by a rollout, and not
where a tenant is created, restored or brought up to date by itself. So the program of before still
understands every tenant, and a deploy can be taken back. Who is beyond already stays there, a rollout
that goes beyond is paused, and what is under way at this moment ends as it began.")]
pub(in crate::cli) struct Options {
    /// The version; a migration file must have it
    #[arg(long, value_name = "VERSION", value_parser = parse_version)]
    at: i64,
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let environment = context.environment().await?;
    let freeze = environment.freeze_at(options.at, &context.actor).await?;
    let beyond = environment.fleet_status().await?.ahead();
    let what = format!("The fleet is frozen at version {}.", freeze.version);
    let next = match beyond {
        0 => "Next: `tenantry migrate unfreeze` lifts it".to_owned(),
        beyond => {
            format!("Already beyond it: {beyond}; `tenantry migrate status --detail` names them")
        }
    };
    context.print_change(&freeze, &what, &next)?;
    Ok(Outcome::Done)
}
