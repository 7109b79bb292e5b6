//! Erasure: destroying the keys of a tenant's backups, so that nobody reads them again, wherever a copy of
//! a dump may lie.
//!
//! A key is in the catalog, and wrapped in the manifest of every backup: both go, the manifests first and
//! with all that a versioned bucket keeps of them. What is left opens nothing, not even with the master
//! key. The certificate is written last: it says what is so, not what is meant to be.
//!
//! Between two attempts the tenant may get a backup, another key, or a legal hold: each step looks again.

use futures_util::FutureExt as _;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tenantry_backup::{
    BackupStore, CERTIFICATE_FORMAT, Certificate, ErasedBackup, Manifest, ObjectKey, RestoreError,
    finish, load_manifest,
};

use super::request::{Requester, refuse_hold};
use super::{Environment, Plan, Step, StepContext, StepError, Work};
use crate::catalog::CatalogError;
use crate::catalog::operations::OperationRecord;
use crate::tenant::{Tenant, TenantSlug, TenantState};

pub(super) const PLAN: Plan = Plan {
    steps: &[
        Step::new("note_backups", |cx| note_backups(cx).boxed()),
        Step::new("strip_manifests", |cx| strip_manifests(cx).boxed()),
        Step::new("destroy_keys", |cx| destroy_keys(cx).boxed()),
        Step::new("certify", |cx| certify(cx).boxed()),
    ],
    abandon: &[],
    no_return: 0,
};

const ERASURE: &str = "erasure";

/// What is there before it goes.
#[derive(Default, Serialize, Deserialize)]
struct Note {
    keys: Vec<String>,
    backups: Vec<ErasedBackup>,
}

impl Environment {
    /// Destroys the keys of a tenant's backups; those that are there can never be read again. Where no tenant has
    /// the slug, it is the deleted one that had it and whose backups were kept.
    pub async fn destroy_backup_keys(
        &self,
        slug: &TenantSlug,
        by: Requester<'_>,
    ) -> Result<OperationRecord, CatalogError> {
        let tenant = self.owner_of_backups(slug).await?;
        self.destroy_backup_keys_of(&tenant, by).await
    }

    /// The same of this tenant, deleted or not.
    pub async fn destroy_backup_keys_of(
        &self,
        tenant: &Tenant,
        by: Requester<'_>,
    ) -> Result<OperationRecord, CatalogError> {
        self.require_store()?;
        let wanted = &[TenantState::Active, TenantState::Suspended, TenantState::Deleted];
        self.ask_of(tenant, wanted, &Work::DestroyBackupKeys {}, by).await
    }

    /// The tenant that has a slug; or the deleted one that had it, where its backups can still be read.
    pub async fn owner_of_backups(&self, slug: &TenantSlug) -> Result<Tenant, CatalogError> {
        let absent = match self.catalog.tenant(slug).await {
            Err(error @ CatalogError::Missing { .. }) => error,
            other => return other,
        };
        match self.catalog.deleted_owners(slug).await?.as_slice() {
            [] => Err(absent),
            [one] => self.catalog.tenant_by_id(*one).await,
            several => {
                let ids: Vec<String> = several.iter().map(ToString::to_string).collect();
                Err(CatalogError::Conflict(format!(
                    "{} deleted tenants were called {slug}; choose a backup by its id (`tenantry backup list`), or say \
                     which tenant with --tenant-id: {}",
                    several.len(),
                    ids.join(", ")
                )))
            }
        }
    }

    /// Deletes a tenant, whatever its state, and certifies that what it had in backups is gone.
    pub async fn erase(
        &self,
        slug: &TenantSlug,
        by: Requester<'_>,
    ) -> Result<OperationRecord, CatalogError> {
        self.require_store()?;
        let work = Work::Delete { keep_backups: false, erase: true };
        self.ask(slug, &TenantState::ALL, &work, by).await
    }
}

/// Writes down which keys there are, and what is encrypted to them, beside what is written down already.
pub(super) async fn note_backups(cx: &StepContext<'_>) -> Result<(), StepError> {
    refuse_hold(&cx.tenant)?;
    let store = cx.environment.store()?;
    let Note { mut keys, mut backups } = cx.recall(ERASURE)?.unwrap_or_default();
    for key in cx.environment.catalog.backup_keys(cx.tenant.id).await? {
        let public = key.open.public();
        if !keys.contains(&public) {
            keys.push(public);
        }
    }
    for backup in store.backups_of(cx.tenant.id).await? {
        if backups.iter().any(|noted: &ErasedBackup| noted.backup == backup) {
            continue;
        }
        if let Some(manifest) = readable(store, cx, backup).await? {
            // Whoever erased before had a certificate for these.
            if !manifest.wrapped_key.is_empty() {
                backups.push(ErasedBackup {
                    backup,
                    started_at: manifest.started_at,
                    dump_bytes: manifest.dump_bytes,
                    dump_sha256: manifest.dump_sha256,
                    also_for: manifest.also_for,
                });
            }
        }
    }
    cx.remember(ERASURE, &Note { keys, backups }).await
}

/// Takes the wrapped key out of every manifest, and out of what the bucket keeps of it from before.
async fn strip_manifests(cx: &StepContext<'_>) -> Result<(), StepError> {
    note_backups(cx).await?;
    let (store, catalog) = (cx.environment.store()?, &cx.environment.catalog);
    for backup in store.backups_of(cx.tenant.id).await? {
        let key = ObjectKey::manifest(cx.tenant.id, backup);
        match readable(store, cx, backup).await? {
            Some(mut manifest) if !manifest.wrapped_key.is_empty() => {
                let signer = catalog.backup_key_of(&manifest).await?;
                manifest.wrapped_key.clear();
                manifest.sign(&signer.open);
                finish(store, &manifest).await?;
            }
            Some(_) => {}
            // It may hold a key, and no version of this program can tell.
            None => store.delete(&key).await?,
        }
    }
    Ok(store.forget_versions(cx.tenant.id).await?)
}

async fn destroy_keys(cx: &StepContext<'_>) -> Result<(), StepError> {
    strip_manifests(cx).await?;
    Ok(cx.lock.destroy_backup_keys(&cx.environment.catalog).await?)
}

/// Says what is gone, and signs it.
pub(super) async fn certify(cx: &StepContext<'_>) -> Result<(), StepError> {
    let note: Note = cx.recall(ERASURE)?.ok_or_else(|| {
        StepError::fail(
            "what there was to erase was not written down",
            "report this: it is a defect",
        )
    })?;
    let catalog = &cx.environment.catalog;
    let mut certificate = Certificate {
        format: CERTIFICATE_FORMAT,
        certificate: cx.operation.id,
        tenant: cx.tenant.id,
        tenant_name: cx.tenant.slug.to_string(),
        requested_by: cx.operation.requested_by.clone(),
        erased_at: Timestamp::now(),
        tenant_deleted: cx.tenant.state == TenantState::Deleted,
        keys: note.keys,
        backups: note.backups,
        public_key: String::new(),
        signature: String::new(),
    };
    certificate.sign(&catalog.certificate_key().await?);
    Ok(cx.lock.record_erasure(&certificate).await?)
}

/// A manifest, unless it is none.
async fn readable(
    store: &BackupStore,
    cx: &StepContext<'_>,
    backup: uuid::Uuid,
) -> Result<Option<Manifest>, StepError> {
    match load_manifest(store, cx.tenant.id, backup).await {
        Ok(manifest) => Ok(Some(manifest)),
        Err(RestoreError::Manifest(_) | RestoreError::NotABackup { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
