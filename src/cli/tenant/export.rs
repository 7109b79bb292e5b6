//! `tenantry tenant export`

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;

use crate::cli::report::{count, elapsed};
use crate::cli::{Context, Outcome, Result};
use crate::tenant::TenantSlug;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry tenant export acme-corp --to acme-corp.zip
  tenantry tenant export acme-corp --to /srv/exports/acme-corp     a directory

The database as plain SQL (database.sql), every table as CSV (tables/…), and manifest.json with rows and
checksums; all of one moment. It is not encrypted.")]
pub(in crate::cli) struct Options {
    /// The tenant
    #[arg(value_parser = TenantSlug::parse)]
    slug: TenantSlug,
    /// A new file that ends in .zip, or a new directory
    #[arg(long, value_name = "PATH")]
    to: PathBuf,
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let environment = context.environment().await?;
    let (slug, to, by) = (options.slug, options.to, context.requester());
    let began = Instant::now();
    let exported = environment.export(&slug, &to, &by).await?;
    let rows: i64 = exported.tables.iter().map(|table| table.rows).sum();
    let what = format!(
        "Tenant `{slug}` is exported to {}: {} in {} ({}).",
        to.display(),
        count(usize::try_from(rows).unwrap_or(usize::MAX), "row"),
        count(exported.tables.len(), "table"),
        elapsed(began.elapsed())
    );
    context.print_change(&exported, &what, "Its manifest.json has the checksums.")?;
    Ok(Outcome::Done)
}
