//! `tenantry migrate up`

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Instant;

use clap::Args;
use uuid::Uuid;

use crate::api::document::BatchDocument;
use crate::catalog::operations::{OperationRecord, OperationState};
use crate::catalog::tenants::TenantFilter;
use crate::cli::drive::{self, Driver};
use crate::cli::progress::Progress;
use crate::cli::report::{count, elapsed, fields};
use crate::cli::{Context, Outcome, Result};
use crate::operations::{Environment, upkeep};
use crate::tenant::TenantSlug;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry migrate up                              every tenant that is behind
  tenantry migrate up --tenant acme-corp           this one first
  tenantry migrate up --concurrency 16

The files are tried on a new template of every server first: a file that does not run touches no
tenant. Exit status 3 when some tenants failed, 1 when all did.")]
pub(in crate::cli) struct Options {
    /// Only this tenant; may be repeated
    #[arg(long = "tenant", value_name = "SLUG", value_parser = TenantSlug::parse)]
    tenants: Vec<TenantSlug>,
    /// How many tenants at a time
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = parse_concurrency)]
    concurrency: usize,
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let context = &context.with_concurrency(options.concurrency);
    let environment = context.environment().await?;
    let began = Instant::now();
    prepare_templates(&environment, context, &options.tenants).await?;

    let batch = environment.migrate_fleet(&options.tenants, &context.requester()).await?;
    let driver = Driver { context, environment: &environment };
    let operations = driver.settle_batch(batch, options.concurrency).await?;
    let target = environment.migrations().target_version();
    let document = BatchDocument::new(batch, &operations);
    context.print(&document, || {
        if operations.is_empty() {
            return format!("Nothing to do: every tenant is at version {target}.");
        }
        let head = format!(
            "{} at version {target} ({}).",
            count(document.succeeded, "tenant"),
            elapsed(began.elapsed())
        );
        [head, describe_failures(batch, &operations)].join("").trim_end().to_owned()
    })?;
    Ok(drive::outcome(&operations))
}

/// Makes the template of these files on every server that hosts a tenant to be migrated.
async fn prepare_templates(
    environment: &Environment,
    context: &Context,
    tenants: &[TenantSlug],
) -> Result<()> {
    let mut progress = Progress::new(context);
    let filter = TenantFilter { limit: i64::MAX, ..TenantFilter::default() };
    let servers: BTreeMap<Uuid, String> = environment
        .catalog
        .tenants(&filter)
        .await?
        .into_iter()
        .filter(|tenant| tenants.is_empty() || tenants.contains(&tenant.slug))
        .map(|tenant| (tenant.server_id, tenant.server_name))
        .collect();
    for (id, name) in servers {
        let made = upkeep::ensure_template(environment, id);
        let mut made = std::pin::pin!(made);
        loop {
            tokio::select! {
                done = &mut made => { done?; break }
                () = tokio::time::sleep(std::time::Duration::from_secs(1)) => {
                    progress.step(&format!("trying the migrations on a new template of server {name}"));
                }
            }
        }
    }
    Ok(())
}

/// Every tenant that failed, with what went wrong and what to do; empty when none did.
pub(in crate::cli) fn describe_failures(
    batch: Uuid,
    operations: &[(OperationRecord, TenantSlug)],
) -> String {
    let mut text = String::new();
    for (record, slug) in
        operations.iter().filter(|(record, _)| record.state != OperationState::Succeeded)
    {
        let error = record.error.as_ref();
        text.push_str("\n\n");
        text.push_str(&fields(&[
            ("Failed", Some(slug.to_string())),
            ("Step", error.map(|error| error.step.clone())),
            (
                "Error",
                error.map_or(Some(record.state.as_str().to_owned()), |error| {
                    Some(error.message.clone())
                }),
            ),
            ("Help", error.and_then(|error| error.remedy.clone())),
            ("Operation", Some(record.id.to_string())),
        ]));
    }
    if !text.is_empty() {
        _ = write!(text, "\n\nAll of them: `tenantry operation list --batch {batch}`");
    }
    text
}

pub(in crate::cli) fn parse_concurrency(text: &str) -> std::result::Result<usize, String> {
    text.parse()
        .ok()
        .filter(|number| (1..=256).contains(number))
        .ok_or_else(|| "it is a number from 1 to 256".to_owned())
}
