//! What the catalog and the bucket say that cannot all be true.

use super::report::{AuditReport, Finding};
use crate::operations::{Environment, StepError};

const CATALOG: &str = "catalog";
const BUCKET: &str = "bucket";

/// Compares the catalog with itself, and with what lies in the bucket.
pub(super) async fn examine(
    environment: &Environment,
    report: &mut AuditReport,
) -> Result<(), StepError> {
    let catalog = &environment.catalog;
    let wanted = |slug: &Option<String>| {
        report.tenants.is_empty() || slug.as_ref().is_some_and(|slug| report.tenants.contains(slug))
    };
    let found = catalog.contradictions().await?;
    let findings: Vec<_> = found
        .into_iter()
        .filter(|found| wanted(&found.tenant))
        .map(|found| {
            let finding = Finding::new(&found.kind, CATALOG, &found.subject, found.evidence);
            match &found.tenant {
                Some(slug) => finding.of_tenant(slug),
                None => finding,
            }
        })
        .collect();
    report.findings.extend(findings);
    if !report.tenants.is_empty() {
        return Ok(());
    }
    for (key, under) in catalog.under_master_keys().await? {
        if !key.is_empty() && key != catalog.master_key_id() {
            let evidence = format!(
                "{} secrets and the keys of {} backups are under it",
                under.secrets, under.backups
            );
            report.findings.push(Finding::new("old_key", CATALOG, &key, evidence));
        }
    }
    if let Err(error) = examine_bucket(environment, report).await {
        report.untried.push(format!("the bucket: {error}"));
    }
    Ok(())
}

/// Whether each backup lies where its tenant's backups lie.
async fn examine_bucket(
    environment: &Environment,
    report: &mut AuditReport,
) -> Result<(), StepError> {
    let Some(store) = &environment.store else { return Ok(()) };
    let owners = environment.catalog.backup_owners(None).await?;
    let prefixes = store.tenants().await?;
    for prefix in environment.catalog.strangers(&prefixes).await? {
        let evidence = "backups lie under a tenant that the catalog does not know".to_owned();
        let subject = prefix.to_string();
        report.findings.push(Finding::new("stray_backups", BUCKET, &subject, evidence));
    }
    for (prefix, backup) in store.backups_of_each(prefixes).await? {
        if let Some(owner) = owners.get(&backup).filter(|owner| **owner != prefix) {
            let evidence = format!("a backup of tenant {owner} lies under tenant {prefix}");
            let subject = backup.to_string();
            report.findings.push(Finding::new("misplaced_backup", BUCKET, &subject, evidence));
        }
    }
    Ok(())
}
