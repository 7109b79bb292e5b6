//! `tenantry tenant rotate-password`

use clap::Args;

use super::Wait;
use crate::cli::drive::Driver;
use crate::cli::{Context, Outcome, Result};
use crate::tenant::TenantSlug;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry tenant rotate-password acme-corp

Sessions that are open stay open. Programs that connect with `tenantry tenant url` need the new one.")]
pub(in crate::cli) struct Options {
    /// The tenant
    #[arg(value_parser = TenantSlug::parse)]
    slug: TenantSlug,
    #[command(flatten)]
    wait: Wait,
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let environment = context.environment().await?;
    let slug = options.slug;
    let by = context.requester();
    let operation = environment.rotate_password(&slug, by).await?;
    let driver = Driver { context, environment: &environment };
    driver
        .conclude(operation, &slug, options.wait.wait, |time| {
            let what = format!("The role of `{slug}` has another password ({time}).");
            (what, format!("See it: `tenantry tenant url {slug}`"))
        })
        .await
}
