//! `tenantry tenant suspend` and its way back, `tenantry tenant resume`

use clap::Args;

use super::Wait;
use crate::cli::arguments::reason;
use crate::cli::drive::Driver;
use crate::cli::{Context, Outcome, Result};
use crate::tenant::TenantSlug;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry tenant suspend acme-corp --reason 'unpaid since March'")]
pub(in crate::cli) struct SuspendOptions {
    /// The tenant
    #[arg(value_parser = TenantSlug::parse)]
    slug: TenantSlug,
    /// Why, for whoever looks later
    #[arg(long, value_parser = reason)]
    reason: Option<String>,
    #[command(flatten)]
    wait: Wait,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry tenant resume acme-corp")]
pub(in crate::cli) struct ResumeOptions {
    /// The tenant
    #[arg(value_parser = TenantSlug::parse)]
    slug: TenantSlug,
    #[command(flatten)]
    wait: Wait,
}

pub(super) async fn suspend(options: SuspendOptions, context: &Context) -> Result<Outcome> {
    let environment = context.environment().await?;
    let slug = options.slug;
    let by = context.requester();
    let operation = environment.suspend(&slug, options.reason, by).await?;
    let driver = Driver { context, environment: &environment };
    driver
        .conclude(operation, &slug, options.wait.wait, |time| {
            (
                format!(
                    "Tenant `{slug}` is suspended ({time}): it gets no connection, its data stays."
                ),
                format!("Next: `tenantry tenant resume {slug}` serves it again"),
            )
        })
        .await
}

pub(super) async fn resume(options: ResumeOptions, context: &Context) -> Result<Outcome> {
    let environment = context.environment().await?;
    let slug = options.slug;
    let by = context.requester();
    let operation = environment.resume(&slug, by).await?;
    let driver = Driver { context, environment: &environment };
    driver
        .conclude(operation, &slug, options.wait.wait, |time| {
            (format!("Tenant `{slug}` is served again ({time})."), String::new())
        })
        .await
}
