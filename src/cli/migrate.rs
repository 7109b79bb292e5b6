//! `tenantry migrate …`

use clap::Subcommand;

use super::{Context, Outcome, Result};

mod baseline;
mod status;
mod up;
mod verify;

pub(super) use up::{describe_failures, parse_concurrency};

/// The commands about migrations.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show how many tenants are at which version
    Status(status::Options),
    /// Bring tenants to the newest migration
    Up(up::Options),
    /// Compare the schemas of tenants with what the files make
    Verify(verify::Options),
    /// Adopt a database whose schema is there already
    Baseline(baseline::Options),
}

pub(super) async fn run(command: Command, context: &Context) -> Result<Outcome> {
    match command {
        Command::Status(options) => status::run(options, context).await,
        Command::Up(options) => up::run(options, context).await,
        Command::Verify(options) => verify::run(options, context).await,
        Command::Baseline(options) => baseline::run(options, context).await,
    }
}
