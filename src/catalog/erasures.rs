//! Rows of `erasures`: certificates that keys were destroyed. They are kept for good.

use tenantry_backup::{Certificate, CertificateKey};
use tokio_postgres::types::Json;
use uuid::Uuid;

use super::{Catalog, CatalogError, TenantLock, execute, maybe, one, rows};
use crate::sealing::Purpose;
use crate::tenant::TenantSlug;

impl Catalog {
    /// The key that signs certificates; made when it is first needed.
    pub async fn certificate_key(&self) -> Result<CertificateKey, CatalogError> {
        let client = self.client().await?;
        let id = Uuid::now_v7();
        let new = self.seal(Purpose::CertificateKey, id, &CertificateKey::generate().to_secret());
        execute(
            &client,
            "-- erasures::make_key
             insert into certificate_key (id, key_sealed) values ($1, $2) on conflict do nothing",
            &[&id, &new],
        )
        .await?;
        let row = one(&client, "-- erasures::key\nselect id, key_sealed from certificate_key", &[])
            .await?;
        let secret = self.open(Purpose::CertificateKey, row.get(0), row.get(1))?;
        CertificateKey::parse(&secret).map_err(|error| CatalogError::Corrupt(error.to_string()))
    }

    /// The deleted tenants of this slug whose backups can still be read, the last deleted first.
    pub async fn deleted_owners(&self, slug: &TenantSlug) -> Result<Vec<Uuid>, CatalogError> {
        let found = rows(
            &self.client().await?,
            "-- erasures::deleted_owners
             select id from tenants
             where slug = $1 and state = 'deleted' and backup_key_sealed is not null
             order by deleted_at desc",
            &[&slug.as_str()],
        )
        .await?;
        Ok(found.iter().map(|row| row.get(0)).collect())
    }

    /// Certificates, newest first; of the tenants that have or had this slug, or of all.
    pub async fn erasures(&self, slug: Option<&str>) -> Result<Vec<Certificate>, CatalogError> {
        let found = rows(
            &self.client().await?,
            "-- erasures::list
             select e.certificate from erasures e join tenants t on t.id = e.tenant_id
             where $1::text is null or t.slug = $1 or e.certificate->>'tenant_name' = $1
             order by e.erased_at desc, e.id desc",
            &[&slug],
        )
        .await?;
        Ok(found.iter().map(|row| row.get::<_, Json<Certificate>>(0).0).collect())
    }

    /// One certificate: it has the id of the operation that destroyed the keys.
    pub async fn erasure(&self, id: Uuid) -> Result<Certificate, CatalogError> {
        let client = self.client().await?;
        let sql = "-- erasures::by_id\nselect certificate from erasures where id = $1";
        let row = maybe(&client, sql, &[&id]).await?;
        let row =
            row.ok_or_else(|| CatalogError::Missing { what: "erasure", name: id.to_string() })?;
        Ok(row.get::<_, Json<Certificate>>(0).0)
    }
}

impl TenantLock {
    /// Destroys every key of the tenant's backups and marks those that are there. A tenant that lives gets a new one
    /// for those to come.
    pub async fn destroy_backup_keys(&self, catalog: &Catalog) -> Result<(), CatalogError> {
        execute(
            self.session()?,
            "-- erasures::destroy_keys
             with retired as (delete from retired_backup_keys where tenant_id = $1),
             marked as (update backups set erased_at = now() where tenant_id = $1 and erased_at is null)
             update tenants set backup_key_sealed = case when state <> 'deleted' then $2::bytea end
             where id = $1 and backup_key_sealed is not null",
            &[&self.tenant(), &catalog.new_backup_key(self.tenant())],
        )
        .await
        .map(drop)
    }

    /// Keeps a certificate, once for each operation.
    pub async fn record_erasure(&self, certificate: &Certificate) -> Result<(), CatalogError> {
        execute(
            self.session()?,
            "-- erasures::record
             insert into erasures (id, tenant_id, erased_at, certificate) values ($1, $2, $3, $4)
             on conflict (id) do nothing",
            &[&certificate.certificate, &self.tenant(), &certificate.erased_at, &Json(certificate)],
        )
        .await
        .map(drop)
    }
}
