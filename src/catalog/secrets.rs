//! The secrets of tenants: sealed columns of `tenants`, each opened for its own purpose.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use deadpool_postgres::GenericClient;
use secrecy::SecretString;
use tenantry_backup::{BackupKey, Manifest, ManifestError};
use uuid::Uuid;

use super::{Catalog, CatalogError, TenantLock, execute, maybe, rows};
use crate::sealing::Purpose;

/// The key to a tenant's backups.
pub struct TenantBackupKey {
    /// To encrypt, decrypt and sign with.
    pub open: BackupKey,
    /// Under the master key, for the manifest.
    pub wrapped: Vec<u8>,
}

impl Catalog {
    /// The password of a tenant's login role; none once the tenant is deleted.
    pub async fn tenant_password(&self, tenant: Uuid) -> Result<SecretString, CatalogError> {
        let sealed = self.sealed(tenant, "password_sealed").await?;
        self.open(Purpose::TenantPassword, tenant, &sealed)
    }

    /// A password of a tenant's login role as the catalog keeps it.
    #[must_use]
    pub fn seal_tenant_password(&self, tenant: Uuid, password: &SecretString) -> Vec<u8> {
        self.seal(Purpose::TenantPassword, tenant, password)
    }

    /// Opens what [`Catalog::seal_tenant_password`] has sealed.
    pub fn open_tenant_password(
        &self,
        tenant: Uuid,
        sealed: &[u8],
    ) -> Result<SecretString, CatalogError> {
        self.open(Purpose::TenantPassword, tenant, sealed)
    }

    /// The key that a tenant's backups are encrypted to; none once the tenant is deleted.
    pub async fn backup_key(&self, tenant: Uuid) -> Result<TenantBackupKey, CatalogError> {
        let wrapped = self.sealed(tenant, "backup_key_sealed").await?;
        self.open_backup_key(tenant, wrapped)
    }

    /// Every key that a backup of this tenant may be encrypted to, the present one first.
    pub async fn backup_keys(&self, tenant: Uuid) -> Result<Vec<TenantBackupKey>, CatalogError> {
        let found = rows(
            &self.client().await?,
            "-- secrets::backup_keys
             select sealed from (
                 select backup_key_sealed as sealed, 'infinity'::timestamptz as until from tenants where id = $1
                 union all select key_sealed, retired_at from retired_backup_keys where tenant_id = $1
             ) keys where sealed is not null order by until desc",
            &[&tenant],
        )
        .await?;
        found.iter().map(|row| self.open_backup_key(tenant, row.get(0))).collect()
    }

    /// The key that a dump was encrypted to, by its public half; the present one where nobody noted it.
    pub async fn backup_key_named(
        &self,
        tenant: Uuid,
        public: Option<&str>,
    ) -> Result<TenantBackupKey, CatalogError> {
        let Some(public) = public else { return self.backup_key(tenant).await };
        let keys = self.backup_keys(tenant).await?;
        keys.into_iter().find(|key| key.open.public() == public).ok_or_else(|| missing_key(tenant))
    }

    /// The key of one backup: the one that signed its manifest. Whether it is unaltered is for
    /// [`Manifest::verify`] to say.
    pub async fn backup_key_of(
        &self,
        manifest: &Manifest,
    ) -> Result<TenantBackupKey, CatalogError> {
        let tenant = manifest.tenant;
        let mut keys = self.backup_keys(tenant).await?;
        let signed = keys.iter().position(|key| {
            !matches!(manifest.verify(&key.open, tenant), Err(ManifestError::WrongKey))
        });
        match signed {
            Some(index) => Ok(keys.swap_remove(index)),
            // The present one, and its verdict.
            None => keys.into_iter().next().ok_or_else(|| missing_key(tenant)),
        }
    }

    /// The key that a manifest itself holds, under the master key. Whether it signed the manifest is for
    /// [`Manifest::verify`] to say.
    pub fn backup_key_in(&self, manifest: &Manifest) -> Result<TenantBackupKey, CatalogError> {
        let wrapped = STANDARD.decode(&manifest.wrapped_key).unwrap_or_default();
        if wrapped.is_empty() {
            let name = manifest.backup.to_string();
            return Err(CatalogError::Missing { what: "key any more to the backup", name });
        }
        self.open_backup_key(manifest.tenant, wrapped)
    }

    /// Takes the key of a backup for one of its tenant's, where the catalog has lost it.
    pub(super) async fn adopt_backup_key(
        client: &impl GenericClient,
        manifest: &Manifest,
        key: &TenantBackupKey,
    ) -> Result<(), CatalogError> {
        execute(
            client,
            "-- secrets::adopt_backup_key
             insert into retired_backup_keys (id, tenant_id, key_sealed)
             select $1, t.id, $3 from tenants t
             where t.id = $2 and t.backup_key_sealed is distinct from $3
               and not exists (select from retired_backup_keys k where k.tenant_id = t.id and k.key_sealed = $3)
             on conflict (id) do nothing",
            &[&manifest.backup, &manifest.tenant, &key.wrapped],
        )
        .await
        .map(drop)
    }

    /// A new key for the backups of a tenant, as the catalog keeps it.
    pub(super) fn new_backup_key(&self, tenant: Uuid) -> Vec<u8> {
        self.seal(Purpose::BackupKey, tenant, &BackupKey::generate().to_secret())
    }

    fn open_backup_key(
        &self,
        tenant: Uuid,
        wrapped: Vec<u8>,
    ) -> Result<TenantBackupKey, CatalogError> {
        let secret = self.open(Purpose::BackupKey, tenant, &wrapped)?;
        let open =
            BackupKey::parse(&secret).map_err(|error| CatalogError::Corrupt(error.to_string()))?;
        Ok(TenantBackupKey { open, wrapped })
    }

    async fn sealed(&self, tenant: Uuid, column: &'static str) -> Result<Vec<u8>, CatalogError> {
        let client = self.client().await?;
        let sql = format!("-- tenants::sealed\nselect {column} from tenants where id = $1");
        let sealed = maybe(&client, &sql, &[&tenant]).await?.and_then(|row| row.get(0));
        sealed.ok_or_else(|| missing_key(tenant))
    }
}

impl TenantLock {
    /// Has routers log in with another password, as [`Catalog::seal_tenant_password`] sealed it.
    pub async fn set_password(&self, sealed: &[u8]) -> Result<(), CatalogError> {
        self.update(
            "-- tenants::set_password\nupdate tenants set password_sealed = $2 where id = $1",
            &[&self.tenant(), &sealed],
        )
        .await
    }

    /// Gives the tenant another key for its backups, once for each operation; the one that it had still
    /// opens what was encrypted to it.
    pub async fn rotate_backup_key(&self, catalog: &Catalog) -> Result<(), CatalogError> {
        execute(
            self.session()?,
            "-- secrets::rotate_backup_key
             with retired as (
                 insert into retired_backup_keys (id, tenant_id, key_sealed)
                 select $2, id, backup_key_sealed from tenants where id = $1 and backup_key_sealed is not null
                 on conflict (id) do nothing
                 returning tenant_id
             )
             update tenants t set backup_key_sealed = $3 from retired r where t.id = r.tenant_id",
            &[&self.tenant(), &self.operation(), &catalog.new_backup_key(self.tenant())],
        )
        .await
        .map(drop)
    }

    /// Destroys the tenant's secrets: its password, and the key without which no backup can be read.
    pub async fn destroy_secrets(&self, keep_backup_key: bool) -> Result<(), CatalogError> {
        if !keep_backup_key {
            execute(
                self.session()?,
                "-- secrets::destroy_retired\ndelete from retired_backup_keys where tenant_id = $1",
                &[&self.tenant()],
            )
            .await?;
        }
        self.update(
            "-- tenants::destroy_secrets
             update tenants set password_sealed = null,
                    backup_key_sealed = case when $2 then backup_key_sealed end
             where id = $1",
            &[&self.tenant(), &keep_backup_key],
        )
        .await
    }
}

fn missing_key(tenant: Uuid) -> CatalogError {
    CatalogError::Missing { what: "secret of tenant", name: tenant.to_string() }
}
