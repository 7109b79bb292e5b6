//! `tenantry migrate baseline`

use clap::Args;
use serde::Serialize;

use super::verify::list;
use crate::api::verification::DifferenceDocument;
use crate::cli::confirm::confirm;
use crate::cli::drive::Driver;
use crate::cli::progress::Progress;
use crate::cli::report::count;
use crate::cli::{Context, Error, Outcome, Result};
use crate::tenant::TenantSlug;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry migrate baseline acme-corp                    its schema is what all the files make
  tenantry migrate baseline acme-corp --version 17       what the files up to V17 make
  tenantry migrate baseline acme-corp --accept-drift     shows what differs, and asks

Writes into a database without a migration history which files made its schema, and runs none of them.
Exit status 4 when the schema is not what they make, or when there is a history already.")]
pub(in crate::cli) struct Options {
    /// The tenant
    #[arg(value_parser = TenantSlug::parse)]
    slug: TenantSlug,
    /// The newest file that the schema has [default: the newest there is]
    #[arg(long, value_name = "N")]
    version: Option<i64>,
    /// Adopt a schema that differs
    #[arg(long)]
    accept_drift: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

#[derive(Serialize)]
struct Document<'a> {
    tenant: &'a TenantSlug,
    version: i64,
    fingerprint: String,
    differences: Vec<DifferenceDocument>,
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let Options { slug, version, accept_drift, yes } = options;
    let environment = context.environment().await?;
    let tenant = environment.catalog.tenant(&slug).await?;
    let version = version.unwrap_or(environment.migrations().target_version());
    let mut progress = Progress::new(context);
    progress.step("comparing the schema with what the files make");
    let comparison = environment.compare(&tenant, version).await?;
    drop(progress);
    if comparison.found.has_history() {
        return Err(Error::refused(
            format!(
                "tenant `{slug}` has a migration history already: it is at version {}",
                comparison.found.version()
            ),
            format!("`tenantry migrate verify --tenant {slug}` compares it with the files"),
        ));
    }
    let fingerprint = comparison.found.schema.fingerprint();
    let differences = &comparison.differences;
    if !differences.is_empty() {
        let what = format!(
            "{} between `{slug}` and the files up to version {version}:",
            count(differences.len(), "difference")
        );
        if !accept_drift {
            let differences = DifferenceDocument::list(differences);
            let document = Document { tenant: &slug, version, fingerprint, differences };
            context.print(&document, || {
                format!("{what}\n{}", list(&comparison.differences)).trim_end().to_owned()
            })?;
            context.note(
                "\nNothing was changed. Fix them, choose the --version that fits, or add --accept-drift",
            );
            return Ok(Outcome::Drifted);
        }
        context.note(&format!("{what}\n{}", list(differences)));
        let what = format!("`{slug}` is noted as version {version} although its schema differs");
        confirm(&what, slug.as_str(), yes)?;
    }

    let accepted = Some(fingerprint).filter(|_| !differences.is_empty());
    let by = context.requester();
    let operation = environment.baseline(&slug, Some(version), accepted, by).await?;
    let driver = Driver { context, environment: &environment };
    driver
        .conclude(operation, &slug, true, |time| {
            let what =
                format!("Tenant `{slug}` is at version {version} now ({time}); no file was run.");
            (what, "Newer files: `tenantry migrate up`".to_owned())
        })
        .await
}
