//! `tenantry tenant export`

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use tokio_util::sync::CancellationToken;

use crate::cli::report::{count, elapsed};
use crate::cli::{Context, Error, Interrupt, Outcome, Result};
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
    #[arg(long, value_name = "PATH", value_parser = parse_place)]
    to: PathBuf,
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let (slug, to, by) = (options.slug, options.to, &context.actor);
    let environment = context.environment().await?;
    let mut interrupt = Interrupt::listen()
        .map_err(|error| Error::failed("signals cannot be listened to", error))?;
    let began = Instant::now();
    let stop = CancellationToken::new();
    let mut export = Box::pin(environment.export(&slug, &to, by, &stop));
    let exported = tokio::select! {
        exported = &mut export => exported?,
        () = interrupt.next() => {
            stop.cancel();
            // It may have come to its end in the same moment; otherwise nothing of it is left after this.
            export.await.map_err(|_| Error::Interrupted {
                help: format!("nothing is left at {}; begin again when you like", to.display()),
            })?
        }
    };
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

/// Elsewhere `-` is the standard output; here a directory would get that name.
fn parse_place(text: &str) -> std::result::Result<PathBuf, String> {
    match text {
        "-" => Err(
            "an export has many files, so it is not written to the standard output; give a new \
                    file that ends in .zip, or a new directory"
                .to_owned(),
        ),
        path => Ok(PathBuf::from(path)),
    }
}
