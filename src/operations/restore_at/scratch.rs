//! Where a server of then is restored to: one directory of this machine for each operation, under its id.
//!
//! It has everybody's data, so it goes as soon as nobody needs it: after the step that reads it, with an error that
//! trying again cannot fix, and when the operation is given up. What a crash leaves there is taken up by the next
//! attempt, or removed by the upkeep once nobody will go on with it.

use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::super::{Environment, StepContext, StepError};
use super::ArchiveSettings;
use crate::catalog::CatalogError;
use crate::embedded::RestoredCluster;

/// Stands beside the cluster once its files are all there, and says since which start of this machine.
const RESTORED: &str = "restored";
const THIS_BOOT: &str = "/proc/sys/kernel/random/boot_id";

pub(super) fn settings(environment: &Environment) -> Result<&ArchiveSettings, StepError> {
    environment.limits.archives.as_deref().ok_or_else(|| {
        StepError::fail(
            "this worker reads no WAL archives",
            "set TENANTRY_PITR_STANZAS and TENANTRY_PITR_SCRATCH_DIR for it, then retry",
        )
    })
}

/// Takes the directory of an operation; one that another process of this machine still has is waited for.
pub(super) async fn open(cx: &StepContext<'_>) -> Result<RestoredCluster, StepError> {
    let directory = directory_of(settings(cx.environment)?, cx.operation.id);
    Ok(RestoredCluster::open(directory).await?)
}

/// Whether an earlier attempt has brought all files. Nobody syncs what is done to them, so those of before a crash of
/// the machine are not to be relied on.
pub(super) fn is_restored(cluster: &RestoredCluster) -> bool {
    let noted = std::fs::read_to_string(cluster.directory().join(RESTORED)).ok();
    noted.is_some() && noted == std::fs::read_to_string(THIS_BOOT).ok()
}

pub(super) async fn note_restored(cluster: &RestoredCluster) -> Result<(), StepError> {
    let path = cluster.directory().join(RESTORED);
    let noted = async { tokio::fs::write(&path, tokio::fs::read(THIS_BOOT).await?).await };
    noted.await.map_err(|error| {
        let remedy = format!("make {} writable, then retry", path.display());
        StepError::Fail(Box::new(error), Some(remedy))
    })
}

/// Removes the directory, unless it is needed again: to go on, or to try again what may pass.
pub(super) async fn conclude(
    cluster: RestoredCluster,
    outcome: Result<(), StepError>,
    is_needed: bool,
) -> Result<(), StepError> {
    let keep = match &outcome {
        Ok(()) => is_needed,
        Err(error) => !matches!(error, StepError::Fail(..)),
    };
    if !keep {
        cluster.remove().await?;
    }
    outcome
}

/// Removes what an operation has on this machine.
pub(in super::super) async fn remove_scratch(
    environment: &Environment,
    operation: Uuid,
) -> Result<(), StepError> {
    let Some(settings) = &environment.limits.archives else { return Ok(()) };
    remove(&directory_of(settings, operation)).await
}

/// Removes what operations have on this machine that nobody will go on with.
pub(in super::super) async fn sweep(environment: &Environment) -> Result<(), StepError> {
    let Some(settings) = &environment.limits.archives else { return Ok(()) };
    for operation in operations_in(&settings.scratch_dir) {
        match environment.catalog.operation(operation).await {
            Ok(record) if record.state.is_settled() => {
                remove(&directory_of(settings, operation)).await?;
                tracing::info!(%operation, "removed what a restore had left on this machine");
            }
            // Another catalog's, perhaps.
            Ok(_) | Err(CatalogError::Missing { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

async fn remove(directory: &Path) -> Result<(), StepError> {
    if directory.exists() {
        RestoredCluster::open(directory.to_owned()).await?.remove().await?;
    }
    Ok(())
}

fn directory_of(settings: &ArchiveSettings, operation: Uuid) -> PathBuf {
    settings.scratch_dir.join(operation.to_string())
}

fn operations_in(scratch_dir: &Path) -> Vec<Uuid> {
    let Ok(entries) = std::fs::read_dir(scratch_dir) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}
