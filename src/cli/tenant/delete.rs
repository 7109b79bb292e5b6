//! `tenantry tenant delete`

use clap::Args;

use super::Wait;
use crate::cli::backup::need_store;
use crate::cli::confirm::confirm;
use crate::cli::drive::Driver;
use crate::cli::report::moment;
use crate::cli::{Context, Error, Outcome, Result};
use crate::tenant::TenantSlug;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry tenant delete acme-corp                     asks for the slug
  tenantry tenant delete acme-corp --yes               for scripts
  tenantry tenant delete acme-corp --keep-backups --yes
  tenantry tenant delete acme-corp --require-export --yes
  tenantry tenant delete acme-corp --erase --yes       with a certificate: `tenantry erasure list acme-corp`")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(in crate::cli) struct Options {
    /// The tenant
    #[arg(value_parser = TenantSlug::parse)]
    slug: TenantSlug,
    /// Leave its backups in the bucket, and their key in the catalog
    #[arg(long)]
    keep_backups: bool,
    /// Certify that what was in its backups is gone, also from a bucket that keeps versions
    #[arg(long, conflicts_with = "keep_backups")]
    erase: bool,
    /// Refuse unless its data was exported; says when
    #[arg(long)]
    require_export: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    wait: Wait,
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let environment = context.environment().await?;
    let (slug, catalog) = (options.slug, &environment.catalog);
    let tenant = catalog.tenant(&slug).await?;
    let backups = catalog.backups(Some(tenant.id), 1).await?;
    if options.erase {
        need_store(&environment)?;
    }
    if environment.store.is_none() && !options.keep_backups && !backups.is_empty() {
        return Err(Error::refused(
            format!("tenant `{slug}` has backups, and no bucket is set to delete them from"),
            "set TENANTRY_S3_BUCKET, or leave them there with --keep-backups",
        ));
    }
    let exported = catalog.last_export(tenant.id).await?;
    if options.require_export && exported.is_none() {
        return Err(Error::refused(
            format!("tenant `{slug}` was never exported"),
            format!("export it first: `tenantry tenant export {slug} --to {slug}.zip`"),
        ));
    }
    let exported = exported.map_or_else(String::new, |at| format!("; exported at {}", moment(at)));
    let also = match options.keep_backups {
        true if backups.is_empty() => "and it has no backup that could stay",
        true => "its backups stay",
        false => "and every backup of it",
    };
    let what = format!(
        "deleting `{slug}` ({}) removes its database {} for good, {also}{exported}",
        tenant.name, tenant.database
    );
    confirm(&what, slug.as_str(), options.yes)?;

    let by = context.requester();
    let operation = if options.erase {
        environment.erase(&slug, by).await?
    } else {
        environment.delete(&slug, options.keep_backups, by).await?
    };
    let next = if options.erase {
        format!("The certificate: `tenantry erasure show {}`", operation.id)
    } else {
        String::new()
    };
    let driver = Driver { context, environment: &environment };
    driver
        .conclude(operation, &slug, options.wait.wait, |time| {
            (format!("Tenant `{slug}` is deleted ({time}); its slug is free."), next)
        })
        .await
}
