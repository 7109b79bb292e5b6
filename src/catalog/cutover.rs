//! What a cutover writes down: where a tenant is served now, and which of its databases are kept.

use std::time::Duration;

use tenantry_provisioning::DatabaseName;
use uuid::Uuid;

use super::schema::columns;
use super::stock::{RETAINED, Retained, retained_of};
use super::{Catalog, CatalogError, TenantLock, execute, maybe, rows};
use crate::tenant::{SchemaState, Tenant, TenantState};

impl Catalog {
    /// The database of a tenant that was replaced last, of those that are still kept.
    pub async fn newest_retained(&self, tenant: Uuid) -> Result<Option<Retained>, CatalogError> {
        let sql = format!(
            "-- cutover::newest_retained
             select {RETAINED} from retained_databases r
             where r.tenant_id = $1 and r.drop_after > now()
             order by r.retained_at desc, r.operation_id desc limit 1"
        );
        let row = maybe(&self.client().await?, &sql, &[&tenant]).await?;
        row.as_ref().map(retained_of).transpose()
    }

    /// The server on which a tenant was before the one that it is on now, by what is kept of it there.
    pub async fn server_left(&self, tenant: &Tenant) -> Result<String, CatalogError> {
        let client = self.client().await?;
        let row = maybe(
            &client,
            "-- cutover::server_left
             select s.name from retained_databases r join servers s on s.id = r.server_id
             where r.tenant_id = $1 and r.server_id <> $2
             order by r.retained_at desc, r.operation_id desc limit 1",
            &[&tenant.id, &tenant.server_id],
        )
        .await?;
        row.map(|row| row.get(0)).ok_or_else(|| {
            CatalogError::Conflict(format!(
                "nothing is kept of `{0}` on another server; name one: `tenantry tenant relocate {0} --to SERVER`",
                tenant.slug
            ))
        })
    }

    /// Lets the time come of what a tenant left on other servers, unless something is under way that may need it.
    pub async fn expire_left(&self, tenant: &Tenant) -> Result<Vec<Retained>, CatalogError> {
        let client = self.client().await?;
        let sql = format!(
            "-- cutover::expire_left
             update retained_databases r set drop_after = now()
             where r.tenant_id = $1 and r.server_id <> $2
               and not exists (select from operations o
                               where o.tenant_id = $1 and o.state in ('queued', 'running', 'failed'))
             returning {RETAINED}"
        );
        let found = rows(&client, &sql, &[&tenant.id, &tenant.server_id]).await?;
        found.iter().map(retained_of).collect()
    }
}

impl TenantLock {
    /// Serves the tenant from a database with this epoch and schema, on this server.
    pub async fn serve_at(
        &self,
        server: Uuid,
        state: TenantState,
        epoch: i64,
        schema: &SchemaState,
    ) -> Result<(), CatalogError> {
        let from = self.read_tenant().await?.state;
        let to =
            from.transition(state).map_err(|error| CatalogError::Conflict(error.to_string()))?;
        let SchemaState { version, repeatables, track } = schema;
        let (track, track_version, track_repeatables) = columns(track.as_ref());
        self.update(
            "-- cutover::serve_at
             update tenants set state = $2, server_id = $3, epoch = $4, schema_version = $5,
                    repeatables_digest = coalesce($6, repeatables_digest), track = coalesce($7, track),
                    track_version = coalesce($8, track_version),
                    track_repeatables = coalesce($9, track_repeatables)
             where id = $1",
            &[
                &self.tenant(),
                &to.as_str(),
                &server,
                &epoch,
                &version,
                &repeatables,
                &track,
                &track_version,
                &track_repeatables,
            ],
        )
        .await
    }

    /// Keeps a replaced database for at least so long from now. False if it is kept no more.
    pub async fn keep_retained(
        &self,
        database: &DatabaseName,
        keep: Duration,
    ) -> Result<bool, CatalogError> {
        let changed = execute(
            self.session()?,
            "-- cutover::keep_retained
             update retained_databases
             set drop_after = greatest(drop_after, now() + $3::float8 * interval '1 second')
             where tenant_id = $1 and database_name = $2",
            &[&self.tenant(), &database.as_str(), &keep.as_secs_f64()],
        )
        .await?;
        Ok(changed > 0)
    }

    /// Restores that were to bring the tenant to another server and never did: what they made may still be
    /// lying there.
    pub async fn failed_moves(&self) -> Result<Vec<(Uuid, Uuid)>, CatalogError> {
        let found = rows(
            self.session()?,
            "-- cutover::failed_moves
             select o.id, s.id
             from operations o join tenants t on t.id = o.tenant_id
             join servers s on s.id = (o.input ->> 'server')::uuid
             where t.id = $1 and o.state <> 'succeeded' and s.id <> t.server_id",
            &[&self.tenant()],
        )
        .await?;
        Ok(found.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Serves the tenant from the database that was to be replaced, which has its name again and is kept no more: both
    /// or none, as what is kept tells how far a cutover is.
    pub async fn serve_again(
        &self,
        state: TenantState,
        reason: Option<&str>,
        replaced: (&DatabaseName, Uuid),
    ) -> Result<(), CatalogError> {
        let from = self.read_tenant().await?.state;
        let to =
            from.transition(state).map_err(|error| CatalogError::Conflict(error.to_string()))?;
        let (database, server) = replaced;
        self.update(
            "-- cutover::serve_again
             with forgotten as (
                 delete from retained_databases
                 where tenant_id = $1 and database_name = $4 and server_id = $5
             )
             update tenants set state = $2, suspended_reason = $3 where id = $1",
            &[&self.tenant(), &to.as_str(), &reason, &database.as_str(), &server],
        )
        .await
    }

    /// Where operations that never ended well may have left what they built, each with its server: not where the
    /// tenant is now, but where it was when they began. Those of old have not noted that, so it may be wherever the
    /// tenant has been.
    pub async fn builds_left(&self) -> Result<Vec<(Uuid, Uuid)>, CatalogError> {
        let found = rows(
            self.session()?,
            "-- cutover::builds_left
             select o.id, s.id
             from operations o join servers s
               on case when o.memory ? 'place' then s.id = (o.memory ->> 'place')::uuid
                       else o.kind in ('restore', 'restore_at', 'restore_table', 'drill') and o.started_at is not null
                        and s.id in (select (b.memory -> 'before' ->> 'server_id')::uuid
                                     from operations b where b.tenant_id = o.tenant_id)
                  end
             where o.tenant_id = $1 and o.state <> 'succeeded'
             order by o.id, s.id",
            &[&self.tenant()],
        )
        .await?;
        Ok(found.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Forgets a replaced database that has another name again.
    pub async fn forget_retained(
        &self,
        database: &DatabaseName,
        server: Uuid,
    ) -> Result<(), CatalogError> {
        execute(
            self.session()?,
            "-- cutover::forget_retained
             delete from retained_databases
             where tenant_id = $1 and database_name = $2 and server_id = $3",
            &[&self.tenant(), &database.as_str(), &server],
        )
        .await
        .map(drop)
    }
}
