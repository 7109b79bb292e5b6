//! Rows of `tenants`: making one together with the operation that provisions it, finding it, and
//! what a worker that holds its lock may change.

use std::collections::HashMap;
use std::sync::Arc;

use deadpool_postgres::GenericClient;
use secrecy::SecretString;
use serde_json::json;
use tenantry_provisioning::{DatabaseName, RoleName, ServerUrl, random_password};
use tokio_postgres::Row;
use tokio_postgres::types::Json;
use uuid::Uuid;

use super::audit_log::{self, Event};
use super::operations::{NewOperation, OperationRecord, insert};
use super::schema::{columns, track_of};
use super::settings::{self, change_within};
use super::slugs::{self, LEADS_TO, SLUGS};
use super::{
    Catalog, CatalogError, TenantLock, WRITTEN_THROUGH, execute, maybe, placement, rows, servers,
};
use crate::sealing::Purpose;
use crate::tenant::settings::Limits;
use crate::tenant::{
    EffectiveLimits, Label, SchemaState, Tenant, TenantSettings, TenantSlug, TenantState, Tier,
};

/// What a tenant is asked with.
#[derive(Clone, Debug)]
pub struct NewTenant {
    /// Its name in URLs and in database names.
    pub slug: TenantSlug,
    /// Its name for people.
    pub name: String,
    /// How it is hosted.
    pub tier: Tier,
    /// What is kept about it from the beginning.
    pub settings: TenantSettings,
    /// The server to host it; the best by the rules of placement when none is named.
    pub server: Option<String>,
    /// The track whose migration files it gets beyond the common ones.
    pub track: Option<Label>,
}

/// Which tenants to list, by slug.
#[derive(Clone, Debug, Default)]
pub struct TenantFilter {
    /// In this state; deleted ones are listed only when asked for.
    pub state: Option<TenantState>,
    /// On the server with this name.
    pub server: Option<String>,
    /// After this slug, for the next page.
    pub after: Option<TenantSlug>,
    /// At most this many.
    pub limit: i64,
}

/// Everything that a router needs to connect to a tenant's database.
#[derive(Clone, Debug)]
pub struct Place {
    /// The tenant.
    pub tenant: Tenant,
    /// Every slug that leads to it.
    pub slugs: Vec<TenantSlug>,
    /// Its server, as the administrator reaches it.
    pub server: Arc<ServerUrl>,
    /// The password of its login role.
    pub password: SecretString,
    /// Whether workers would bring it up to date if it were asked for.
    pub is_behind: bool,
}

const COLUMNS: &str = "t.id, t.slug, t.name, t.tier, t.state, t.suspended_reason, t.settings, \
     coalesce(t.server_id, '00000000-0000-0000-0000-000000000000') as server_id, \
     coalesce(s.name, '(removed)') as server_name, s.region, t.database_name, t.role_name, t.epoch, t.generation, \
     (select limits from tiers where tiers.name = t.tier) as tier_limits, t.schema_version, t.repeatables_digest, \
     t.track, t.track_version, t.track_repeatables, t.created_at, t.updated_at";

pub(super) fn slug_of(row: &Row) -> Result<TenantSlug, CatalogError> {
    TenantSlug::parse(row.get("slug")).map_err(|error| CatalogError::Corrupt(error.to_string()))
}

fn tenant_of(row: &Row) -> Result<Tenant, CatalogError> {
    let corrupt = |error: &dyn std::fmt::Display| CatalogError::Corrupt(error.to_string());
    let settings = TenantSettings::stored(row.get("settings"));
    let limits = EffectiveLimits::new(settings.limits(), &Limits::stored(row.get("tier_limits")));
    Ok(Tenant {
        id: row.get("id"),
        slug: slug_of(row)?,
        name: row.get("name"),
        tier: Tier::parse(row.get("tier")).expect("checked by the table"),
        state: TenantState::parse(row.get("state")).expect("checked by the table"),
        suspended_reason: row.get("suspended_reason"),
        settings,
        limits,
        server_id: row.get("server_id"),
        server_name: row.get("server_name"),
        server_region: servers::region_of(row)?,
        database: DatabaseName::parse(row.get("database_name")).map_err(|e| corrupt(&e))?,
        role: RoleName::parse(row.get("role_name")).map_err(|e| corrupt(&e))?,
        epoch: row.get("epoch"),
        generation: row.get("generation"),
        schema_version: row.get("schema_version"),
        repeatables_digest: row.get("repeatables_digest"),
        track: track_of(row)?,
        created_at: row.get("created_at"),
        updated_at: row.get("updated_at"),
    })
}

impl Catalog {
    /// Writes down a new tenant and the operation that will provision it, in one transaction: neither
    /// is there without the other. The loser of a race for one slug gets [`CatalogError::Exists`].
    pub async fn create_tenant(
        &self,
        id: Uuid,
        new: &NewTenant,
        operation: &NewOperation<'_>,
    ) -> Result<OperationRecord, CatalogError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let record = self.insert_tenant(&transaction, id, new, operation).await?;
        transaction.commit().await?;
        Ok(record)
    }

    /// [`Catalog::create_tenant`] as a part of something larger.
    pub(super) async fn insert_tenant(
        &self,
        transaction: &impl GenericClient,
        id: Uuid,
        new: &NewTenant,
        operation: &NewOperation<'_>,
    ) -> Result<OperationRecord, CatalogError> {
        crate::tenant::check_name(&new.name)?;
        let corrupt = |error: &dyn std::fmt::Display| CatalogError::Corrupt(error.to_string());
        let database = DatabaseName::tenant(new.slug.as_str()).map_err(|e| corrupt(&e))?;
        let role = RoleName::tenant(new.slug.as_str()).map_err(|e| corrupt(&e))?;
        let password = self.seal(Purpose::TenantPassword, id, &random_password());
        let backup_key = self.new_backup_key(id);

        let server = placement::choose(transaction, new).await?;
        execute(
            transaction,
            "-- tenants::create
             insert into tenants
                 (id, slug, name, tier, state, settings, server_id, database_name, role_name,
                  password_sealed, backup_key_sealed, track)
             values ($1, $2, $3, $4, 'provisioning', $5, $10, $6, $7, $8, $9, $11)",
            &[
                &id,
                &new.slug.as_str(),
                &new.name,
                &new.tier.as_str(),
                &Json(&new.settings),
                &database.as_str(),
                &role.as_str(),
                &password,
                &backup_key,
                &server,
                &new.track.as_ref().map(Label::as_str),
            ],
        )
        .await
        .map_err(|error| error.on_constraint("tenants_slug_key", "tenant", new.slug.as_str()))
        .map_err(|error| slugs::explain(error, &new.slug))?;
        let (by, nothing) = (operation.requested_by, TenantSettings::default());
        if new.settings != nothing {
            settings::record(transaction, &new.slug, by, &nothing, &new.settings).await?;
        }
        insert(transaction, operation).await
    }

    /// The living tenant that this slug leads to: its own, or one that it had before.
    pub async fn tenant(&self, slug: &TenantSlug) -> Result<Tenant, CatalogError> {
        let client = self.client().await?;
        let sql = format!(
            "-- tenants::by_slug
             select {COLUMNS} from tenants t join servers s on s.id = t.server_id
             where t.id = {LEADS_TO} and t.state <> 'deleted'"
        );
        match maybe(&client, &sql, &[&slug.as_str()]).await? {
            Some(row) => tenant_of(&row),
            None => Err(CatalogError::Missing { what: "tenant", name: slug.to_string() }),
        }
    }

    /// Whose these databases of a server are.
    pub async fn owners(
        &self,
        server: Uuid,
        databases: &[&str],
    ) -> Result<HashMap<String, TenantSlug>, CatalogError> {
        let client = self.client().await?;
        let sql = "-- tenants::owners
             select database_name, slug from tenants
             where server_id = $1 and database_name = any($2) and state <> 'deleted'";
        let found = rows(&client, sql, &[&server, &databases]).await?;
        found.iter().map(|row| Ok((row.get("database_name"), slug_of(row)?))).collect()
    }

    /// The tenant with this id, deleted or not.
    pub async fn tenant_by_id(&self, id: Uuid) -> Result<Tenant, CatalogError> {
        by_id(&self.client().await?, id).await
    }

    /// Tenants by slug, one page.
    pub async fn tenants(&self, filter: &TenantFilter) -> Result<Vec<Tenant>, CatalogError> {
        let client = self.client().await?;
        let sql = format!(
            "-- tenants::list
             select {COLUMNS} from tenants t left join servers s on s.id = t.server_id
             where case when $1::text is null then t.state <> 'deleted' else t.state = $1 end
               and ($2::text is null or s.name = $2)
               and ($3::text is null or t.slug > $3)
             order by t.slug, t.id
             limit $4"
        );
        let found = rows(
            &client,
            &sql,
            &[
                &filter.state.map(TenantState::as_str),
                &filter.server,
                &filter.after.as_ref().map(TenantSlug::as_str),
                &filter.limit,
            ],
        )
        .await?;
        found.iter().map(tenant_of).collect()
    }

    /// Every living tenant by slug; of the server with this name, or of all.
    pub async fn living_tenants(&self, server: Option<&str>) -> Result<Vec<Tenant>, CatalogError> {
        let server = server.map(str::to_owned);
        self.tenants(&TenantFilter { server, limit: i64::MAX, ..TenantFilter::default() }).await
    }

    /// Living tenants by id, one page: an order that no rename changes.
    pub async fn tenants_after(&self, id: Uuid, limit: i64) -> Result<Vec<Tenant>, CatalogError> {
        let client = self.client().await?;
        let sql = format!(
            "-- tenants::list_by_id
             select {COLUMNS} from tenants t join servers s on s.id = t.server_id
             where t.id > $1 and t.state <> 'deleted' order by t.id limit $2"
        );
        rows(&client, &sql, &[&id, &limit]).await?.iter().map(tenant_of).collect()
    }

    /// How many tenants are in each state.
    pub async fn count_tenants(&self) -> Result<Vec<(TenantState, i64)>, CatalogError> {
        let client = self.client().await?;
        let found = rows(
            &client,
            "-- tenants::count\nselect state, count(*) from tenants group by state",
            &[],
        )
        .await?;
        Ok(found
            .iter()
            .filter_map(|row| Some((TenantState::parse(row.get(0))?, row.get(1))))
            .collect())
    }

    /// Where a living tenant is served, and with which password; `None` when there is no such tenant, or
    /// only what a deletion has left of it.
    pub async fn place(&self, slug: &TenantSlug) -> Result<Option<Place>, CatalogError> {
        let client = self.client().await?;
        let sql = format!(
            "-- tenants::place
             select {COLUMNS}, t.password_sealed, s.url_sealed, {SLUGS} as slugs,
                    exists (select from tenants_behind b where b.tenant_id = t.id) as is_behind
             from tenants t join servers s on s.id = t.server_id
             where t.id = {LEADS_TO} and t.state <> 'deleted' and t.password_sealed is not null"
        );
        let Some(row) = maybe(&client, &sql, &[&slug.as_str()]).await? else {
            return Ok(None);
        };
        let tenant = tenant_of(&row)?;
        let password =
            self.open(Purpose::TenantPassword, tenant.id, row.get::<_, &[u8]>("password_sealed"))?;
        let server = self.open_server_url(tenant.server_id, row.get("url_sealed"))?;
        let slugs = slugs::all_of(&row)?;
        Ok(Some(Place { tenant, slugs, server, password, is_behind: row.get("is_behind") }))
    }

    /// Changes what needs no lock, as no operation reads or writes it: name and settings.
    pub async fn update_tenant(
        &self,
        slug: &TenantSlug,
        name: Option<&str>,
        settings: Option<&TenantSettings>,
        by: &str,
    ) -> Result<Tenant, CatalogError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        if let Some(settings) = settings {
            change_within(&transaction, slug, by, |_| Ok(settings.clone())).await?;
        }
        if let Some(name) = name {
            let sql = format!(
                "-- tenants::set_name
                 with before as (
                     select id, name from tenants where id = {LEADS_TO} and state <> 'deleted' for update
                 )
                 update tenants t set name = $2 from before where t.id = before.id returning before.name"
            );
            let Some(before) = maybe(&transaction, &sql, &[&slug.as_str(), &name]).await? else {
                let name = slug.to_string();
                return Err(CatalogError::Missing { what: "tenant", name });
            };
            let detail = json!({ "before": before.get::<_, String>(0), "after": name });
            let event = Event { actor: by, action: "name.changed", tenant: Some(slug), detail };
            audit_log::record(&transaction, &event).await?;
        }
        transaction.commit().await?;
        self.tenant(slug).await
    }
}

/// What only the holder of the tenant's lock may do.
impl TenantLock {
    /// The tenant as it is now.
    pub async fn read_tenant(&self) -> Result<Tenant, CatalogError> {
        by_id(self.session()?, self.tenant()).await
    }

    /// Moves the tenant to another state, if its life allows that.
    pub async fn set_state(
        &self,
        to: TenantState,
        reason: Option<&str>,
    ) -> Result<(), CatalogError> {
        let from = self.read_tenant().await?.state;
        from.transition(to).map_err(|error| CatalogError::Conflict(error.to_string()))?;
        self.update(
            "-- tenants::set_state
             update tenants set state = $2, suspended_reason = $3,
                    deleted_at = case when $2 = 'deleted' then now() end
             where id = $1",
            &[&self.tenant(), &to.as_str(), &reason],
        )
        .await
    }

    /// Serves the tenant from a database with this epoch and schema; the spare that its provisioning took, if it took
    /// one, is used up.
    ///
    /// `state` is where it goes: active, or suspended when it was suspended before.
    pub async fn serve(
        &self,
        tenant: &Tenant,
        state: TenantState,
        epoch: i64,
        schema: &SchemaState,
    ) -> Result<(), CatalogError> {
        let to = tenant
            .state
            .transition(state)
            .map_err(|error| CatalogError::Conflict(error.to_string()))?;
        let SchemaState { version, repeatables, track } = schema;
        let (track, track_version, track_repeatables) = columns(track.as_ref());
        self.update(
            "-- tenants::serve
             with used_up as (delete from spares where claimed_by = $5)
             update tenants set state = $2, epoch = $3, schema_version = $4,
                    repeatables_digest = coalesce($6, repeatables_digest), track = coalesce($7, track),
                    track_version = coalesce($8, track_version),
                    track_repeatables = coalesce($9, track_repeatables)
             where id = $1",
            &[
                &self.tenant(),
                &to.as_str(),
                &epoch,
                &version,
                &self.operation(),
                &repeatables,
                &track,
                &track_version,
                &track_repeatables,
            ],
        )
        .await
    }

    /// Operations of this tenant other than the lock's own that never succeeded: what they built may
    /// still be lying on the server.
    pub async fn unfinished_operations(&self) -> Result<Vec<Uuid>, CatalogError> {
        let found = rows(
            self.session()?,
            "-- tenants::unfinished_operations
             select id from operations where tenant_id = $1 and id <> $2 and state <> 'succeeded'",
            &[&self.tenant(), &self.operation()],
        )
        .await?;
        Ok(found.iter().map(|row| row.get(0)).collect())
    }

    /// Cancels everything else that was still going to be done to this tenant.
    pub async fn cancel_others(&self) -> Result<(), CatalogError> {
        execute(
            self.session()?,
            "-- tenants::cancel_others
             update operations set state = 'cancelled', finished_at = now()
             where tenant_id = $1 and id <> $2 and state in ('queued', 'failed')",
            &[&self.tenant(), &self.operation()],
        )
        .await
        .map(drop)
    }

    /// Changes the tenant's row by a statement that ends in its condition. It is on the disk when this returns.
    pub(super) async fn update(
        &self,
        sql: &str,
        params: super::Params<'_>,
    ) -> Result<(), CatalogError> {
        let sql = format!("{sql} and {WRITTEN_THROUGH}");
        match execute(self.session()?, &sql, params).await? {
            1 => Ok(()),
            _ => Err(CatalogError::Missing { what: "tenant", name: self.tenant().to_string() }),
        }
    }
}

/// The tenant of the operation that is under way with this lease.
pub(super) async fn claimed(
    client: &impl GenericClient,
    token: Uuid,
) -> Result<Option<Tenant>, CatalogError> {
    let sql = format!(
        "-- tenants::claimed
         select {COLUMNS} from tenants t left join servers s on s.id = t.server_id
         where t.id = (select o.tenant_id from operations o where o.state = 'running' and o.lease_token = $1)"
    );
    maybe(client, &sql, &[&token]).await?.as_ref().map(tenant_of).transpose()
}

pub(super) async fn by_id(client: &impl GenericClient, id: Uuid) -> Result<Tenant, CatalogError> {
    let sql = format!(
        "-- tenants::by_id
         select {COLUMNS} from tenants t left join servers s on s.id = t.server_id where t.id = $1"
    );
    let found = maybe(client, &sql, &[&id]).await?.as_ref().map(tenant_of).transpose()?;
    found.ok_or_else(|| CatalogError::Missing { what: "tenant", name: id.to_string() })
}
