//! `tenantry tenant rename`

use clap::Args;

use super::Wait;
use crate::cli::confirm::confirm;
use crate::cli::drive::Driver;
use crate::cli::{Context, Outcome, Result};
use crate::tenant::TenantSlug;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry tenant rename acme-corp --to acme           asks for the slug
  tenantry tenant rename acme-corp --to acme --yes     for scripts

Requests wait while database and role get their new names. The old slug goes on leading to the tenant, in
tokens, subdomains and headers, until `tenantry tenant alias remove`. Programs that connect with
`tenantry tenant url` need the new one.")]
pub(in crate::cli) struct Options {
    /// The tenant
    #[arg(value_parser = TenantSlug::parse)]
    slug: TenantSlug,
    /// Its new slug
    #[arg(long, value_name = "SLUG", value_parser = TenantSlug::parse)]
    to: TenantSlug,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    wait: Wait,
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let environment = context.environment().await?;
    let Options { slug, to, yes, wait } = options;
    let tenant = environment.catalog.tenant(&slug).await?;
    environment.catalog.require_free_slug(&tenant, &to).await?;
    let what = format!(
        "renaming `{}` ({}) to `{to}` renames its database {} and its role, and ends what still uses them \
         after some seconds",
        tenant.slug, tenant.name, tenant.database
    );
    confirm(&what, slug.as_str(), yes)?;

    let by = context.requester();
    let operation = environment.rename(&slug, &to, by).await?;
    let driver = Driver { context, environment: &environment };
    driver
        .conclude(operation, &slug, wait.wait, |time| {
            let old = &tenant.slug;
            let what = format!("Tenant `{old}` is `{to}` now ({time}); `{old}` still leads to it.");
            (what, format!("Its aliases: `tenantry tenant alias list {to}`"))
        })
        .await
}
