//! Verifying a backup where it lies: every byte of it read, decrypted and compared with its manifest, and its
//! contents listed. No server is asked, and nothing is restored; that is a drill.

use std::error::Error as StdError;

use tenantry_backup::{PgTools, RestoreError, Restored, list_contents, load_manifest};

use super::{Environment, StepError};
use crate::catalog::CatalogError;
use crate::catalog::backups::BackupRecord;

impl Environment {
    /// Verifies one backup and writes down what came of it.
    pub async fn verify_backup(&self, backup: &BackupRecord) -> Result<Restored, StepError> {
        let mut verified = self.look_at(backup).await;
        if matches!(&verified, Err(StepError::Fail(cause, _)) if blames_backup(cause.as_ref())) {
            // Bytes can be damaged on their way, too. What is said of a backup for good has been seen twice.
            verified = self.look_at(backup).await;
        }
        let problem = match &verified {
            Ok(_) => None,
            Err(StepError::Fail(cause, _)) if blames_backup(cause.as_ref()) => {
                Some(super::chain(cause.as_ref()))
            }
            Err(_) => return verified,
        };
        self.catalog.record_verified(backup.id, problem.as_deref()).await?;
        verified
    }

    async fn look_at(&self, backup: &BackupRecord) -> Result<Restored, StepError> {
        let store = self.store()?;
        let manifest = load_manifest(store, backup.tenant_id, backup.id).await?;
        let key = self.catalog.backup_key_of(&manifest).await?.open;
        manifest.verify(&key, backup.tenant_id).map_err(RestoreError::from)?;
        let major = manifest.client_major().unwrap_or_default();
        let tools = PgTools::for_server(major, self.limits.pg_bin_dir.as_deref()).await;
        let tools = tools.map_err(|error| {
            let remedy = error.remedy();
            StepError::Fail(Box::new(error), Some(remedy))
        })?;
        let _turn = self.turn().await;
        Ok(list_contents(store, &manifest, &key, &tools).await?)
    }
}

/// Whether an error tells that a backup is of no use. A store that is away or refuses us, a program or a key that
/// this process has not got, or a disk that is full say nothing of it.
pub(super) fn blames_backup(cause: &(dyn StdError + Send + Sync + 'static)) -> bool {
    match cause.downcast_ref() {
        Some(error) => RestoreError::blames_backup(error),
        None => cause.downcast_ref().is_some_and(CatalogError::is_loss),
    }
}
