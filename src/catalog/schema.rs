//! The schema that a tenant has, as the catalog knows it: its version, and its track.
//!
//! The database has the last word on both. What stands here is what a worker found there, or left there; and which
//! track the tenant is in, which somebody decides.

use std::sync::PoisonError;

use serde_json::json;
use tokio_postgres::Row;

use super::audit_log::{self, Event};
use super::{Catalog, CatalogError, TenantLock, execute, rows};
use crate::tenant::{Label, SchemaState, Tenant, TenantState, TenantTrack};

/// The track of a tenant's row.
pub(super) fn track_of(row: &Row) -> Result<Option<TenantTrack>, CatalogError> {
    let Some(name) = row.get::<_, Option<&str>>("track") else { return Ok(None) };
    let name = Label::parse(name).map_err(|error| CatalogError::Corrupt(error.to_string()))?;
    let (version, repeatables_digest) = (row.get("track_version"), row.get("track_repeatables"));
    Ok(Some(TenantTrack { name, version, repeatables_digest }))
}

/// A track as the columns of a tenant's row.
pub(super) fn columns(track: Option<&TenantTrack>) -> (Option<&str>, Option<i64>, Option<&str>) {
    (
        track.map(|track| track.name.as_str()),
        track.map(|track| track.version),
        track.map(|track| track.repeatables_digest.as_str()),
    )
}

impl Catalog {
    /// How many served or suspended tenants are at each schema version.
    pub async fn count_schema_versions(&self) -> Result<Vec<(i64, i64)>, CatalogError> {
        let client = self.client().await?;
        let found = rows(
            &client,
            "-- schema::count_versions
             select schema_version, count(*) from tenants
             where state in ('active', 'suspended', 'restoring', 'renaming') group by 1 order by 1",
            &[],
        )
        .await?;
        Ok(found.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Puts a tenant into a track of which its database has this much, or into none. Refused where it is no longer as
    /// it was given; whoever calls this keeps its operations from running meanwhile ([`Catalog::try_hold`]).
    pub async fn set_track(
        &self,
        tenant: &Tenant,
        track: Option<&TenantTrack>,
        by: &str,
    ) -> Result<(), CatalogError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let (name, version, repeatables) = columns(track);
        let before = tenant.track_name().map(Label::as_str);
        let settled = TenantState::SETTLED.map(TenantState::as_str);
        let changed = execute(
            &transaction,
            "-- schema::set_track
             update tenants
             set track = $2, track_version = coalesce($3::bigint, 0), track_repeatables = coalesce($4, '')
             where id = $1 and track is not distinct from $5 and state = any($6)",
            &[&tenant.id, &name, &version, &repeatables, &before, &&settled[..]],
        )
        .await?;
        if changed == 0 {
            let slug = &tenant.slug;
            return Err(CatalogError::Conflict(format!(
                "tenant {slug} has just been changed by somebody else; see `tenantry tenant show {slug}`"
            )));
        }
        let detail = json!({ "before": before, "after": name });
        let event =
            Event { actor: by, action: "track.changed", tenant: Some(&tenant.slug), detail };
        audit_log::record(&transaction, &event).await?;
        Ok(transaction.commit().await?)
    }
}

/// What only the holder of the tenant's lock may do.
impl TenantLock {
    /// Notes what the last migration left behind, which is written down with the end of the operation, whatever that is.
    pub fn leave_schema(&self, schema: SchemaState) {
        *self.schema.lock().unwrap_or_else(PoisonError::into_inner) = Some(schema);
    }
}
