//! `tenantry backup prune`, `tenantry backup hold`

use clap::Args;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::need_store;
use crate::api::document::prune::{JudgedBackup, PruneDocument, StrayDocument};
use crate::catalog::operations::{OperationRecord, OperationState};
use crate::cli::confirm::confirm;
use crate::cli::drive::{self, Driver};
use crate::cli::migrate::describe_failures;
use crate::cli::report::{Table, count, moment, size, warn};
use crate::cli::{Context, Outcome, Result};
use crate::operations::StepError;
use crate::tenant::settings::SettingsPath;
use crate::tenant::{TenantSettings, TenantSlug};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry backup prune --all --dry-run         what would go, and why the rest stays
  tenantry backup prune acme-corp globex        shows what goes, and asks
  tenantry backup prune --all --yes --output-format json

Keeps what TENANTRY_BACKUP_RETENTION, the tier or the tenant's own settings say; without, everything. Never
removes the newest good backup, the newest that was verified or proven by a restore, or one under legal hold or a
lock of the bucket.
Exit status 3 when some tenants failed, 1 when all did.")]
pub(in crate::cli) struct PruneOptions {
    /// The tenants
    #[arg(value_name = "SLUG", value_parser = TenantSlug::parse, required_unless_present = "all")]
    slugs: Vec<TenantSlug>,
    /// Every active and suspended tenant
    #[arg(long, conflicts_with = "slugs")]
    all: bool,
    /// Only say what would be done
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry backup hold acme-corp                no backup of it is removed, and it cannot be deleted with them
  tenantry backup hold acme-corp --release      its retention counts again")]
pub(in crate::cli) struct HoldOptions {
    /// The tenant
    #[arg(value_parser = TenantSlug::parse)]
    slug: TenantSlug,
    /// End the hold
    #[arg(long)]
    release: bool,
}

pub(super) async fn prune(options: PruneOptions, context: &Context) -> Result<Outcome> {
    let environment = context.environment().await?;
    need_store(&environment)?;
    let now = Timestamp::now();
    let plans = environment.fleet(&options.slugs).await?.into_iter().map(|tenant| {
        let environment = &environment;
        async move {
            let plan = environment.prune_plan(&tenant, now).await?;
            Ok::<_, StepError>(PruneDocument::new(&tenant.slug, plan))
        }
        .boxed()
    });
    let plans: Vec<_> = plans.collect();
    let plans = stream::iter(plans).buffered(context.settings.worker_concurrency);
    let mut documents: Vec<PruneDocument> = plans.try_collect().await?;
    if options.dry_run {
        context.print(&documents, || describe(&documents, false))?;
        return Ok(Outcome::Done);
    }
    documents.retain(|document| document.removes() > 0);
    let slugs: Vec<TenantSlug> =
        documents.iter().map(|document| document.tenant_slug.clone()).collect();
    if slugs.is_empty() {
        context.print(&documents, || "Nothing is to be removed.".to_owned())?;
        return Ok(Outcome::Done);
    }
    ask(&documents, options.yes)?;
    let batch = environment.prune_fleet(&slugs, &context.actor).await?;
    let driver = Driver { context, environment: &environment };
    let operations = driver.settle_batch(batch, context.settings.backup_concurrency).await?;
    context.print(&documents, || {
        let done: Vec<&PruneDocument> = documents
            .iter()
            .filter(|document| has_succeeded(&operations, &document.tenant_slug))
            .collect();
        let removed = done.iter().map(|document| document.removes()).sum();
        let head =
            format!("{} of {} removed.", count(removed, "backup"), count(done.len(), "tenant"));
        [head, describe_failures(batch, &operations)].join("")
    })?;
    Ok(drive::outcome(&operations))
}

/// Shows what goes, and asks whether it may.
fn ask(documents: &[PruneDocument], yes: bool) -> Result<()> {
    if !yes {
        warn(&describe(documents, true));
    }
    let removed = documents.iter().map(PruneDocument::removes).sum();
    let tenants = count(documents.len(), "tenant");
    let what = format!("pruning removes {} of {tenants} for good", count(removed, "backup"));
    let name = match documents {
        [document] => document.tenant_slug.as_str(),
        _ => "prune",
    };
    confirm(&what, name, yes)
}

fn has_succeeded(operations: &[(OperationRecord, TenantSlug)], slug: &TenantSlug) -> bool {
    operations
        .iter()
        .any(|(operation, of)| of == slug && operation.state == OperationState::Succeeded)
}

pub(super) async fn hold(options: HoldOptions, context: &Context) -> Result<Outcome> {
    let HoldOptions { slug, release } = options;
    let catalog = context.catalog().await?;
    let place: SettingsPath = "backup.legal_hold".parse().expect("it is one of the places");
    let changed = catalog.change_settings(&slug, &context.actor, |before: &TenantSettings| {
        let mut settings = before.to_value();
        if release {
            place.unset(&mut settings);
        } else {
            place.set(&mut settings, Value::Bool(true))?;
        }
        TenantSettings::parse(settings)
    });
    changed.await?;
    let (what, next) = if release {
        (
            format!("The backups of `{slug}` are no longer held."),
            format!("Next: `tenantry backup prune {slug} --dry-run`"),
        )
    } else {
        (
            format!("The backups of `{slug}` are held: none is removed."),
            format!("`tenantry backup hold {slug} --release` ends it."),
        )
    };
    context.print_change(&json!({ "tenant_slug": slug, "legal_hold": !release }), &what, &next)?;
    Ok(Outcome::Done)
}

fn describe(documents: &[PruneDocument], only_what_goes: bool) -> String {
    let mut table = Table::new(&["TENANT", "ID", "OF", "SIZE", "FATE", "WHY"]);
    for document in documents {
        let goes = |backup: &&JudgedBackup| backup.keep.is_empty() || !only_what_goes;
        for backup in document.backups.iter().filter(goes) {
            let (fate, why) = match backup.keep.as_slice() {
                [] => ("remove", "the retention does not ask for it".to_owned()),
                reasons => ("keep", reasons.join(", ")),
            };
            table.row([
                document.tenant_slug.to_string(),
                backup.id.to_string(),
                moment(backup.started_at),
                size(backup.dump_bytes),
                fate.to_owned(),
                why,
            ]);
        }
        let goes = |stray: &&StrayDocument| stray.keep.is_none() || !only_what_goes;
        for stray in document.strays.iter().filter(goes) {
            let fate = if stray.keep.is_some() { "keep" } else { "remove" };
            table.row([
                document.tenant_slug.to_string(),
                stray.backup.to_string(),
                moment(stray.written_at),
                size(i64::try_from(stray.bytes).unwrap_or(i64::MAX)),
                fate.to_owned(),
                stray.keep.unwrap_or("left by an upload that never ended").to_owned(),
            ]);
        }
    }
    table.or("No backups. `tenantry backup run --all` takes some.")
}
