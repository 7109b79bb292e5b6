//! The key of a tenant's backups: another one, and the same one under another master key.
//!
//! A backup stays readable for as long as its key is in the catalog. No dump is touched by either.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::FutureExt as _;
use tenantry_backup::{ManifestError, RestoreError, finish, load_manifest};
use uuid::Uuid;

use super::request::Requester;
use super::{Environment, Plan, Step, StepContext, StepError, Work};
use crate::catalog::CatalogError;
use crate::catalog::operations::{BatchItem, OperationRecord};
use crate::tenant::{TenantSlug, TenantState};

pub(super) const ROTATE: Plan = Plan {
    steps: &[Step::new("change_key", |cx| change_key(cx).boxed())],
    abandon: &[],
    no_return: 0,
};

pub(super) const RESEAL: Plan = Plan {
    steps: &[Step::new("reseal_manifests", |cx| reseal_manifests(cx).boxed())],
    abandon: &[],
    no_return: 0,
};

impl Environment {
    /// Encrypts a tenant's backups to another key, from the next one on.
    pub async fn rotate_backup_key(
        &self,
        slug: &TenantSlug,
        by: Requester<'_>,
    ) -> Result<OperationRecord, CatalogError> {
        self.ask(slug, &TenantState::SETTLED, &Work::RotateBackupKey {}, by).await
    }

    /// Puts the keys in the manifests under the present master key, of every tenant that has one which is
    /// not. Returns the batch; none where there is nothing to do.
    pub async fn reseal_backups(&self, by: &str) -> Result<Option<Uuid>, CatalogError> {
        let tenants = self.catalog.tenants_under_other_keys().await?;
        if tenants.is_empty() {
            return Ok(None);
        }
        self.require_store()?;
        let batch = Uuid::now_v7();
        let item = |tenant| BatchItem { operation: Uuid::now_v7(), tenant };
        let items: Vec<BatchItem> = tenants.into_iter().map(item).collect();
        let mut like = Work::ResealBackups {}.new_operation(Uuid::nil(), by);
        like.batch_id = Some(batch);
        self.catalog.enqueue_batch(&like, &items).await?;
        Ok(Some(batch))
    }
}

async fn change_key(cx: &StepContext<'_>) -> Result<(), StepError> {
    Ok(cx.lock.rotate_backup_key(&cx.environment.catalog).await?)
}

async fn reseal_manifests(cx: &StepContext<'_>) -> Result<(), StepError> {
    let (store, catalog) = (cx.environment.store()?, &cx.environment.catalog);
    let mut first_refused = None;
    for backup in store.backups_of(cx.tenant.id).await? {
        let mut manifest = match load_manifest(store, cx.tenant.id, backup).await {
            Err(RestoreError::Manifest(error)) => {
                first_refused.get_or_insert(refusal(backup, error));
                continue;
            }
            manifest => manifest?,
        };
        // Its key was destroyed: there is nothing to seal.
        if manifest.wrapped_key.is_empty() {
            continue;
        }
        if manifest.key_id != catalog.master_key_id() {
            let key = catalog.backup_key_of(&manifest).await?;
            match manifest.verify(&key.open, cx.tenant.id) {
                Ok(()) => {
                    manifest.key_id = catalog.master_key_id();
                    manifest.wrapped_key = STANDARD.encode(&key.wrapped);
                    manifest.sign(&key.open);
                    finish(store, &manifest).await?;
                }
                // Signing it again would make it good: it stays as it is, and the others go on.
                Err(error) => {
                    first_refused.get_or_insert(refusal(backup, error));
                    continue;
                }
            }
        }
        cx.lock.record_backup(&manifest, None).await?;
    }
    first_refused.map_or(Ok(()), Err)
}

fn refusal(backup: Uuid, error: ManifestError) -> StepError {
    let error = StepError::from(RestoreError::from(error));
    tracing::warn!(%backup, %error, "its manifest is left as it is");
    error
}
