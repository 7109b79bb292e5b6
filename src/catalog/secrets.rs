//! The secrets of tenants: sealed columns of `tenants`, each opened for its own purpose.

use secrecy::SecretString;
use tenantry_backup::BackupKey;
use uuid::Uuid;

use super::{Catalog, CatalogError, TenantLock, maybe};
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
        let secret = self.open(Purpose::BackupKey, tenant, &wrapped)?;
        let open =
            BackupKey::parse(&secret).map_err(|error| CatalogError::Corrupt(error.to_string()))?;
        Ok(TenantBackupKey { open, wrapped })
    }

    async fn sealed(&self, tenant: Uuid, column: &'static str) -> Result<Vec<u8>, CatalogError> {
        let client = self.client().await?;
        let sql = format!("-- tenants::sealed\nselect {column} from tenants where id = $1");
        let sealed = maybe(&client, &sql, &[&tenant]).await?.and_then(|row| row.get(0));
        sealed.ok_or_else(|| CatalogError::Missing {
            what: "secret of tenant",
            name: tenant.to_string(),
        })
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

    /// Destroys the tenant's secrets: its password, and the key without which no backup can be read.
    pub async fn destroy_secrets(&self, keep_backup_key: bool) -> Result<(), CatalogError> {
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
