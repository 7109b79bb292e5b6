//! `tenantry migrate …`

use clap::Subcommand;

use super::{Context, Outcome, Result};

mod abort;
mod baseline;
mod follow;
mod freeze;
mod pause;
mod plan;
mod resume;
mod show;
mod status;
mod trial;
mod unfreeze;
mod up;
mod verify;

pub(super) use up::{describe_failures, parse_concurrency};

/// The commands about migrations.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  tenantry migrate plan
  tenantry migrate up
  tenantry migrate up --canary acme-corp --bake 10m --wave 25%
  tenantry migrate status")]
pub(super) enum Command {
    /// Show how many tenants are at which version, and how the last rollout went
    Status(status::Options),
    /// Show what `up` would do: files, waves, and statements that lock or rewrite tables in use
    Plan(plan::Options),
    /// Bring tenants to the newest migration, in waves if you like
    Up(Box<up::Options>),
    /// Show how a rollout goes, or went
    Show(show::Options),
    /// Hold a rollout: what is under way ends, nothing else begins
    Pause(pause::Options),
    /// Go on with a rollout that is paused or has failed, the failed tenants first
    Resume(resume::Options),
    /// Give a rollout up; what is done stays done
    Abort(abort::Options),
    /// Let nobody be migrated beyond a version
    Freeze(freeze::Options),
    /// Let everybody be migrated again
    Unfreeze(unfreeze::Options),
    /// Compare the schemas of tenants with what the files make
    Verify(verify::Options),
    /// Adopt a database whose schema is there already
    Baseline(baseline::Options),
}

pub(super) async fn run(command: Command, context: &Context) -> Result<Outcome> {
    match command {
        Command::Status(options) => status::run(options, context).await,
        Command::Plan(options) => plan::run(options, context).await,
        Command::Up(options) => up::run(*options, context).await,
        Command::Show(options) => show::run(options, context).await,
        Command::Pause(options) => pause::run(options, context).await,
        Command::Resume(options) => resume::run(options, context).await,
        Command::Abort(options) => abort::run(options, context).await,
        Command::Freeze(options) => freeze::run(options, context).await,
        Command::Unfreeze(options) => unfreeze::run(options, context).await,
        Command::Verify(options) => verify::run(options, context).await,
        Command::Baseline(options) => baseline::run(options, context).await,
    }
}

fn nothing_to_do(target: i64) -> String {
    format!("Nothing to do: no tenant is behind version {target}.")
}
