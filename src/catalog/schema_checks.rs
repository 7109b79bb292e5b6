//! Rows of `schema_checks`: what the last look at each tenant's schema found.
//!
//! A look changes nothing about a tenant, so it needs no [`super::TenantLock`]; of two looks, the later counts.

use jiff::Timestamp;
use uuid::Uuid;

use super::{Catalog, CatalogError, execute, one};

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

/// How the served and suspended tenants looked when they were last looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DriftCounts {
    /// As the files make it.
    pub clean: i64,
    /// Otherwise.
    pub drifted: i64,
    /// Nobody has looked yet.
    pub unchecked: i64,
    /// When the one was looked at whose look is the longest ago.
    pub oldest: Option<Timestamp>,
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

    /// How many tenants had drifted when they were last looked at.
    pub async fn drift_counts(&self) -> Result<DriftCounts, CatalogError> {
        let row = one(
            &self.client().await?,
            "-- schema_checks::count
             select count(*) filter (where c.differences = 0) as clean,
                    count(*) filter (where c.differences > 0) as drifted,
                    count(*) filter (where c.tenant_id is null) as unchecked,
                    min(c.checked_at) as oldest
             from tenants t left join schema_checks c on c.tenant_id = t.id
             where t.state in ('active', 'suspended', 'restoring', 'renaming')",
            &[],
        )
        .await?;
        Ok(DriftCounts {
            clean: row.get("clean"),
            drifted: row.get("drifted"),
            unchecked: row.get("unchecked"),
            oldest: row.get("oldest"),
        })
    }
}
