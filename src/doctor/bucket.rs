//! The bucket against the catalog: the backups that only one of the two has.
//!
//! It takes a while to list a large bucket, and backups come and go meanwhile. So what the catalog has is read before
//! and after, and what differs is looked at once more.

use std::collections::HashMap;

use uuid::Uuid;

use super::{Report, open_operations};
use crate::catalog::operations::Failure;
use crate::operations::{Environment, StepError};

/// Backups, and whose they are.
type Owners = HashMap<Uuid, Uuid>;

/// Backups that only one of the two has.
struct Differences {
    /// How many the bucket has.
    stored: usize,
    /// In the catalog alone.
    missing: Owners,
    /// In the bucket alone.
    unknown: Owners,
}

pub(super) async fn examine(
    environment: &Environment,
    report: &mut Report,
) -> Result<(), StepError> {
    if environment.store.is_none() {
        return Ok(());
    }
    let Some(mut found) = compare(environment, None, report).await? else { return Ok(()) };
    report.backups = found.stored;
    let tenants = found.tenants();
    if !tenants.is_empty() {
        // What is removed leaves the bucket a moment before the catalog.
        let again = compare(environment, Some(tenants), report).await?;
        let Some(again) = again else { return Ok(()) };
        found.missing.retain(|id, _| again.missing.contains_key(id));
        found.unknown.retain(|id, _| again.unknown.contains_key(id));
    }
    for id in sorted(&found.missing) {
        report.error(
            "bucket",
            format!("backup {id} is in the catalog but not in the bucket"),
            "find out who deleted it; take a new backup of its tenant".to_owned(),
        );
    }
    for id in sorted(&found.unknown) {
        report.warn(
            "bucket",
            format!("backup {id} is in the bucket but not in the catalog"),
            "it may belong to another catalog; remove it by hand if it does not".to_owned(),
        );
    }
    Ok(())
}

/// Compares the two; of these tenants, or of all. None where the bucket cannot be listed, which is a finding.
async fn compare(
    environment: &Environment,
    tenants: Option<Vec<Uuid>>,
    report: &mut Report,
) -> Result<Option<Differences>, StepError> {
    let catalog = &environment.catalog;
    let tenants = tenants.as_deref();
    let before = catalog.backup_owners(tenants).await?;
    let stored = match list(environment, tenants).await {
        Ok(stored) => stored,
        Err(error) => {
            let Failure { message, remedy, .. } = error.to_failure("bucket");
            let what = format!("the bucket cannot be listed: {message}");
            report.error("bucket", what, remedy.unwrap_or_else(|| "look at the store".to_owned()));
            return Ok(None);
        }
    };
    // Operations first: the backup of one that has ended since is in the catalog.
    let open = open_operations(catalog).await?;
    let after = catalog.backup_owners(tenants).await?;
    let number = stored.len();
    let mut missing = before.clone();
    missing.retain(|id, _| after.contains_key(id) && !stored.contains_key(id));
    let is_known =
        |id: &Uuid| before.contains_key(id) || after.contains_key(id) || open.contains(id);
    let unknown = stored.into_iter().filter(|(id, _)| !is_known(id)).collect();
    Ok(Some(Differences { stored: number, missing, unknown }))
}

/// The backups in the bucket, each with the tenant under which it lies.
async fn list(environment: &Environment, tenants: Option<&[Uuid]>) -> Result<Owners, StepError> {
    let Some(store) = &environment.store else { return Ok(Owners::new()) };
    let tenants = match tenants {
        Some(tenants) => tenants.to_vec(),
        None => store.tenants().await?,
    };
    let stored = store.backups_of_each(tenants).await?;
    Ok(stored.into_iter().map(|(tenant, backup)| (backup, tenant)).collect())
}

impl Differences {
    /// Whose backups differ.
    fn tenants(&self) -> Vec<Uuid> {
        let mut tenants: Vec<Uuid> =
            self.missing.values().chain(self.unknown.values()).copied().collect();
        tenants.sort_unstable();
        tenants.dedup();
        tenants
    }
}

fn sorted(backups: &Owners) -> Vec<Uuid> {
    let mut ids: Vec<Uuid> = backups.keys().copied().collect();
    ids.sort_unstable();
    ids
}
