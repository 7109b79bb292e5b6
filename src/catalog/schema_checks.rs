//! Rows of `schema_checks`: what the last look at each tenant's schema found.
//!
//! A look changes nothing about a tenant, so it needs no [`super::TenantLock`]; of two looks, the later counts.

use uuid::Uuid;

use super::{Catalog, CatalogError, execute};

/// What a look at a tenant's schema found.
#[derive(Clone, Copy, Debug)]
pub struct SchemaCheck<'a> {
    /// The tenant.
    pub tenant_id: Uuid,
    /// The version that its database is at.
    pub version: i64,
    /// What its schema is, in 64 hexadecimal digits.
    pub fingerprint: &'a str,
    /// How many things it has otherwise than the files make them.
    pub differences: usize,
}

impl Catalog {
    /// Writes down what a look found.
    pub async fn record_schema_check(&self, check: SchemaCheck<'_>) -> Result<(), CatalogError> {
        let differences = i32::try_from(check.differences).unwrap_or(i32::MAX);
        execute(
            &self.client().await?,
            "-- schema_checks::record
             insert into schema_checks (tenant_id, version, fingerprint, differences)
             values ($1, $2, $3, $4)
             on conflict (tenant_id) do update
             set version = excluded.version, fingerprint = excluded.fingerprint,
                 differences = excluded.differences, checked_at = now()",
            &[&check.tenant_id, &check.version, &check.fingerprint, &differences],
        )
        .await
        .map(drop)
    }
}
