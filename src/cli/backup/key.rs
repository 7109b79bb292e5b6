//! `tenantry backup key …`

use clap::{Args, Subcommand};

use crate::cli::drive::Driver;
use crate::cli::tenant::Wait;
use crate::cli::{Context, Outcome, Result};
use crate::operations::request::Requester;
use crate::tenant::TenantSlug;

/// The commands about the keys of backups.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Command {
    /// Encrypt a tenant's backups to another key, from the next one on
    Rotate(RotateOptions),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry backup key rotate acme-corp

Backups that are there stay as they are, and readable. `tenantry key rotate` is for the master key.")]
pub(in crate::cli) struct RotateOptions {
    /// The tenant
    #[arg(value_parser = TenantSlug::parse)]
    slug: TenantSlug,
    #[command(flatten)]
    wait: Wait,
}

pub(super) async fn run(command: Command, context: &Context) -> Result<Outcome> {
    match command {
        Command::Rotate(options) => rotate(options, context).await,
    }
}

async fn rotate(options: RotateOptions, context: &Context) -> Result<Outcome> {
    let environment = context.environment().await?;
    let (slug, by) = (options.slug, context.requester());
    let by = Requester { name: &by, idempotency_key: None };
    let operation = environment.rotate_backup_key(&slug, by).await?;
    let driver = Driver { context, environment: &environment };
    driver
        .conclude(operation, &slug, options.wait.wait, |time| {
            let what = format!("The next backup of `{slug}` is encrypted to another key ({time}).");
            (what, format!("Take it: `tenantry backup run {slug}`"))
        })
        .await
}
