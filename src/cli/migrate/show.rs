//! `tenantry migrate show`

use clap::Args;
use tenantry_provisioning::MigrationSet;
use uuid::Uuid;

use super::follow::describe_failed;
use crate::api::document::rollout::{RolloutDetail, RolloutDocument};
use crate::catalog::operations::Failure;
use crate::catalog::rollouts::{RolloutRecord, RolloutState};
use crate::catalog::{Catalog, CatalogError};
use crate::cli::arguments::id;
use crate::cli::report::{Table, age, fields, moment};
use crate::cli::{Context, Outcome, Result};
use crate::operations::Environment;
use crate::operations::rollouts::{changes, contradiction};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry migrate show
  tenantry migrate show 0197f0c0-7a5e-7c3e-9f5e-0a1b2c3d4e5f
  tenantry migrate show --output-format json | jq '.results[] | select(.status == \"failed\")'")]
pub(in crate::cli) struct Options {
    /// The rollout; the newest without
    #[arg(value_parser = id("`tenantry migrate show` tells of the newest"))]
    id: Option<Uuid>,
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let catalog = context.catalog().await?;
    let record = find(&catalog, options.id).await?;
    let counts = catalog.count_rollout(record.id).await?;
    let tenants = catalog.rollout_tenants(record.id).await?;
    let failed = describe_failed(&tenants);
    // Whoever only watches need not have the files.
    let files = MigrationSet::load(&context.settings.tenant_migrations_dir).ok();
    let changes = files.as_ref().map(|files| changes(&record, files)).unwrap_or_default();
    let can_go_on = !matches!(record.state, RolloutState::Succeeded | RolloutState::Aborted);
    let files = files.filter(|_| can_go_on).and_then(|files| contradiction(&record, &files));
    let detail = RolloutDetail::new(&record, &counts, tenants, changes);
    context.print(&detail, || {
        let text = describe(&detail.rollout, files.as_ref());
        if failed.is_empty() { text } else { format!("{text}\n\n{failed}") }
    })?;
    Ok(Outcome::Done)
}

/// The rollout with this id, or the newest.
pub(super) async fn find(catalog: &Catalog, id: Option<Uuid>) -> Result<RolloutRecord> {
    if let Some(id) = id {
        return Ok(catalog.rollout(id).await?);
    }
    let newest = catalog.rollouts(1).await?.pop().map(|(newest, _)| newest);
    let none = || CatalogError::Conflict("there has been no rollout yet".to_owned());
    Ok(newest.ok_or_else(none)?)
}

/// Says that a rollout is left to the workers.
pub(super) async fn leave(
    environment: &Environment,
    record: &RolloutRecord,
    context: &Context,
) -> Result<Outcome> {
    let counts = environment.catalog.count_rollout(record.id).await?;
    let document = RolloutDocument::new(record, &counts);
    context.print_line(&document, || record.id.to_string())?;
    context.note(&format!(
        "A `tenantry serve` worker leads it: `tenantry migrate show {}` tells how it goes",
        record.id
    ));
    Ok(Outcome::Done)
}

/// Prints what became of a rollout that somebody held or gave up.
pub(super) async fn print_change(
    environment: &Environment,
    record: &RolloutRecord,
    what: &str,
    next: &str,
    context: &Context,
) -> Result<Outcome> {
    let counts = environment.catalog.count_rollout(record.id).await?;
    context.print_change(&RolloutDocument::new(record, &counts), what, next)?;
    Ok(Outcome::Done)
}

/// How many of its tenants stand where.
pub(super) fn describe_counts(rollout: &RolloutDocument) -> String {
    let RolloutDocument { succeeded, tenants, failed, skipped, .. } = rollout;
    let counted = format!("{succeeded} of {tenants} done, {failed} failed");
    if *skipped == 0 { counted } else { format!("{counted}, {skipped} deleted meanwhile") }
}

fn describe(rollout: &RolloutDocument, files: Option<&Failure>) -> String {
    // The same may have been found by whoever held it.
    let reason = rollout.reason.as_ref().filter(|reason| files.is_none() || reason.step != "files");
    let head = fields(&[
        ("Rollout", Some(rollout.id.to_string())),
        ("Status", Some(rollout.status.as_str().to_owned())),
        ("Reason", reason.map(|reason| reason.message.clone())),
        ("Help", reason.and_then(|reason| reason.remedy.clone())),
        ("Files", files.map(|files| files.message.clone())),
        ("Help", files.and_then(|files| files.remedy.clone())),
        ("Version", Some(rollout.target_version.to_string())),
        ("Tenants", Some(describe_counts(rollout))),
        ("Bakes until", rollout.bake_until.map(moment)),
        ("Asked by", Some(format!("{}, {} ago", rollout.requested_by, age(rollout.created_at)))),
        ("Ended", rollout.finished_at.map(moment)),
    ]);
    let mut table = Table::new(&["", "WAVE", "TENANTS", "DONE", "FAILED"]);
    for wave in &rollout.waves {
        let here = wave.wave == rollout.wave && rollout.finished_at.is_none();
        table.row([
            if here { "→".to_owned() } else { String::new() },
            wave.name.clone(),
            wave.tenants.to_string(),
            wave.succeeded.to_string(),
            wave.failed.to_string(),
        ]);
    }
    format!("{head}\n\n{}", table.or("No waves."))
}
