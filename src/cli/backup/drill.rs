//! `tenantry backup drill`

use std::time::{Duration, Instant};

use clap::Args;

use super::need_store;
use crate::api::document::BatchDocument;
use crate::catalog::operations::{OperationRecord, OperationState};
use crate::cli::drive::{self, Driver};
use crate::cli::migrate::parse_concurrency;
use crate::cli::report::{Table, count, elapsed};
use crate::cli::{Context, Outcome, Result};
use crate::operations::drills::DrillChoice;
use crate::operations::{Environment, Work};
use crate::tenant::TenantSlug;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry backup drill acme-corp
  tenantry backup drill --sample 5      the five tenants that have gone longest without one
  tenantry backup drill --all

Takes the newest good backup of each, on the tenant's own server; the tenants go on being served. What
comes back is compared in rows, contents and schema. A backup that fails is marked as bad, and no longer
taken for the newest. Exit status 3 when some failed, 1 when all did.")]
pub(in crate::cli) struct Options {
    /// The tenants
    #[arg(value_name = "SLUG", value_parser = TenantSlug::parse, required_unless_present_any = ["sample", "all"])]
    slugs: Vec<TenantSlug>,
    /// So many tenants, whose turn it is
    #[arg(long, value_name = "N", conflicts_with_all = ["slugs", "all"], value_parser = clap::value_parser!(i64).range(1..))]
    sample: Option<i64>,
    /// Every active and suspended tenant that has a backup
    #[arg(long, conflicts_with = "slugs")]
    all: bool,
    /// How many at a time [default: backup_concurrency]
    #[arg(long, value_name = "N", value_parser = parse_concurrency)]
    concurrency: Option<usize>,
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let concurrency = options.concurrency.unwrap_or(context.settings.backup_concurrency);
    let mut context = context.with_concurrency(concurrency);
    context.settings.backup_concurrency = concurrency;
    let context = &context;
    let environment = context.environment().await?;
    need_store(&environment)?;
    let choice = match options.sample {
        Some(sample) => DrillChoice::Sample(sample),
        None if options.all => DrillChoice::Sample(i64::MAX),
        None => DrillChoice::Of(&options.slugs),
    };
    let began = Instant::now();
    let batch = environment.drill(choice, &context.actor).await?;
    let driver = Driver { context, environment: &environment };
    let operations = driver.settle_batch(batch, concurrency).await?;
    let document = BatchDocument::new(batch, &operations);
    let text = describe(&environment, &operations).await?;
    context.print(&document, || {
        let proven = count(document.succeeded, "backup");
        format!("{text}{proven} of {} proven ({}).", operations.len(), elapsed(began.elapsed()))
    })?;
    Ok(drive::outcome(&operations))
}

async fn describe(
    environment: &Environment,
    operations: &[(OperationRecord, TenantSlug)],
) -> Result<String> {
    let mut table = Table::new(&["TENANT", "BACKUP", "RESTORED IN", "PROBLEM"]);
    for (operation, slug) in operations {
        let Ok(Work::Drill { backup }) = Work::of(operation) else { continue };
        let proof = environment.catalog.backup(backup).await?.proof;
        let took = proof.proven_seconds.filter(|_| operation.state == OperationState::Succeeded);
        let problem = operation.error.as_ref().map(|failure| failure.message.clone());
        table.row([
            slug.to_string(),
            backup.to_string(),
            took.map_or_else(|| "-".to_owned(), |secs| elapsed(Duration::from_secs_f64(secs))),
            problem.unwrap_or_default(),
        ]);
    }
    Ok(format!("{}\n\n", table.or("No backups to drill. `tenantry backup run --all` takes some.")))
}
