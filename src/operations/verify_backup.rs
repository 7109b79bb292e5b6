//! Verifying a backup where it lies: every byte of it read, decrypted and compared with its manifest, and its
//! contents listed. No server is asked, and nothing is restored; that is a drill.
//!
//! A backup that is not where it was may be gone, or this may be the wrong bucket: where that holds nothing at all of
//! this fleet's, nothing is said of any backup.

use std::error::Error as StdError;

use tenantry_backup::{RestoreError, Restored, StoreError, list_contents, load_manifest};

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
        let missing = self.is_missing(&verified).await?;
        self.catalog.record_verified(backup.id, problem.as_deref(), missing).await?;
        verified
    }

    /// Refuses a bucket that holds nothing of any tenant whose backups the catalog knows.
    pub async fn require_own_bucket(&self) -> Result<(), StepError> {
        let stored = self.store()?.tenants().await?;
        if self.catalog.knows_backups_of(&stored).await? {
            return Ok(());
        }
        Err(StepError::fail(
            "the bucket holds no backup of any tenant that the catalog knows; no backup was marked",
            "check TENANTRY_S3_BUCKET, TENANTRY_S3_PREFIX and TENANTRY_S3_ENDPOINT; if they are right, everything \
             was deleted there: take new backups (`tenantry backup run --all`), and find out who did it",
        ))
    }

    /// Whether somebody looked for a backup in our own bucket and it was not there.
    pub(super) async fn is_missing<T>(
        &self,
        looked: &Result<T, StepError>,
    ) -> Result<bool, StepError> {
        let Err(StepError::Fail(cause, _)) = looked else { return Ok(false) };
        let missing = match cause.downcast_ref::<RestoreError>() {
            Some(RestoreError::NotABackup { .. }) => true,
            Some(RestoreError::Store(error)) => matches!(error, StoreError::NotFound { .. }),
            _ => false,
        };
        if missing {
            self.require_own_bucket().await?;
        }
        Ok(missing)
    }

    async fn look_at(&self, backup: &BackupRecord) -> Result<Restored, StepError> {
        let store = self.store()?;
        let manifest = load_manifest(store, backup.tenant_id, backup.id).await?;
        let key = self.catalog.backup_key_of(&manifest).await?.open;
        manifest.verify(&key, backup.tenant_id).map_err(RestoreError::from)?;
        let major = manifest.client_major().unwrap_or_default();
        let tools = self.tools_of(major).await?;
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
