//! `tenantry backup key …`

use clap::{Args, Subcommand};
use uuid::Uuid;

use super::need_store;
use crate::cli::arguments::id;
use crate::cli::confirm::confirm;
use crate::cli::drive::Driver;
use crate::cli::tenant::Wait;
use crate::cli::{Context, Error, Outcome, Result};
use crate::tenant::TenantSlug;

/// The commands about the keys of backups.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  tenantry backup key rotate acme-corp
  tenantry backup key destroy acme-corp")]
pub(in crate::cli) enum Command {
    /// Encrypt a tenant's backups to another key, from the next one on
    Rotate(RotateOptions),
    /// Destroy every key of a tenant's backups: nobody can read those that are there again
    Destroy(DestroyOptions),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry backup key destroy acme-corp          asks for the slug
  tenantry backup key destroy acme-corp --yes    for scripts

  tenantry backup key destroy acme-corp --tenant-id 0197f0c0-7a5e-7c3e-9f5e-0a1b2c3d4e5f

The tenant stays, and its next backup has a new key. Where no tenant has the slug, it is the deleted one that
had it and whose backups were kept; `--tenant-id` says which, if there were several, or where another tenant
has the slug now (`tenantry backup show` has the id). A certificate says what became unreadable:
`tenantry erasure show ID`. Who took a copy of the catalog and has the master key still has the keys.")]
pub(in crate::cli) struct DestroyOptions {
    /// The tenant
    #[arg(value_parser = TenantSlug::parse)]
    slug: TenantSlug,
    /// The tenant with this id, which has the slug or had it when it was deleted
    #[arg(long, value_name = "ID", value_parser = id("`tenantry backup show` tells a tenant's"))]
    tenant_id: Option<Uuid>,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    wait: Wait,
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
        Command::Destroy(options) => destroy(options, context).await,
    }
}

async fn rotate(options: RotateOptions, context: &Context) -> Result<Outcome> {
    let environment = context.environment().await?;
    let (slug, by) = (options.slug, context.requester());
    let operation = environment.rotate_backup_key(&slug, by).await?;
    let driver = Driver { context, environment: &environment };
    driver
        .conclude(operation, &slug, options.wait.wait, |time| {
            let what = format!("The next backup of `{slug}` is encrypted to another key ({time}).");
            (what, format!("Take it: `tenantry backup run {slug}`"))
        })
        .await
}

async fn destroy(options: DestroyOptions, context: &Context) -> Result<Outcome> {
    let environment = context.environment().await?;
    need_store(&environment)?;
    let slug = options.slug;
    let tenant = match options.tenant_id {
        Some(id) => environment.catalog.tenant_by_id(id).await?,
        None => environment.owner_of_backups(&slug).await?,
    };
    if tenant.slug != slug && options.tenant_id.is_some() {
        return Err(Error::usage(
            format!("the tenant with this id is `{}`, and not `{slug}`", tenant.slug),
            "give the slug and the id of one tenant",
        ));
    }
    let what = format!(
        "destroying the backup keys of `{slug}` ({}) makes every backup of it unreadable for good",
        tenant.name
    );
    confirm(&what, slug.as_str(), options.yes)?;

    let by = context.requester();
    let operation = environment.destroy_backup_keys_of(&tenant, by).await?;
    let (id, driver) = (operation.id, Driver { context, environment: &environment });
    driver
        .conclude(operation, &slug, options.wait.wait, |time| {
            let what = format!("Nobody can read the backups of `{slug}` any more ({time}).");
            (what, format!("The certificate: `tenantry erasure show {id}`"))
        })
        .await
}
