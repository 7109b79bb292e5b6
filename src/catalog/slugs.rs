//! Rows of `tenant_slugs`: every slug that leads to a tenant.
//!
//! A tenant keeps the slugs that it had before a rename, as aliases: tokens, subdomains and headers that
//! carry one still mean this tenant, and nobody else can take it, until an operator removes it or the tenant
//! is deleted. A slug that a rename asks for is nobody else's from that moment on. Triggers see to that,
//! whichever statement makes or changes a tenant.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;
use tenantry_provisioning::{DatabaseName, RoleName};
use tokio_postgres::Row;
use uuid::Uuid;

use super::audit_log::{self, Event};
use super::operations::{NewOperation, OperationRecord, insert};
use super::tenants::slug_of;
use super::{Catalog, CatalogError, TenantLock, execute, maybe, one, rows};
use crate::tenant::{Tenant, TenantSlug, TenantState};

/// The id of the tenant that the slug `$1` leads to.
pub(super) const LEADS_TO: &str = "(select tenant_id from tenant_slugs where slug = $1 and leads)";

/// Every slug that leads to the tenant `t`, the oldest first; read with [`all_of`].
pub(super) const SLUGS: &str = "array(select l.slug from tenant_slugs l where l.tenant_id = t.id and l.leads \
     order by l.created_at, l.slug)";

/// A slug that a tenant had before, and that still leads to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Alias {
    /// The slug.
    #[schema(value_type = String)]
    pub slug: TenantSlug,
    /// Since when it leads to the tenant, under its name then.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

impl Catalog {
    /// Asks for a rename, and keeps the slug for it: both or none.
    pub async fn enqueue_rename(
        &self,
        to: &TenantSlug,
        operation: &NewOperation<'_>,
    ) -> Result<OperationRecord, CatalogError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let record = insert(&transaction, operation).await?;
        let reserved = execute(
            &transaction,
            "-- slugs::reserve
             insert into tenant_slugs as s (slug, tenant_id, leads, reserved_for)
             select $1, t.id, false, $3 from tenants t
             where t.id = $2 and t.state in ('active', 'suspended') for update
             on conflict (slug) do update set reserved_for = excluded.reserved_for
             where s.tenant_id = excluded.tenant_id and s.reserved_for is null",
            &[&to.as_str(), &operation.tenant_id, &operation.id],
        )
        .await?;
        if reserved == 0 {
            return Err(not_free(to));
        }
        transaction.commit().await?;
        Ok(record)
    }

    /// Refuses a slug that a tenant cannot be renamed to, as it is its own or somebody else's, for whoever asks before
    /// somebody is asked to confirm it. Only [`Catalog::enqueue_rename`] keeps the slug.
    pub async fn require_free_slug(
        &self,
        tenant: &Tenant,
        to: &TenantSlug,
    ) -> Result<(), CatalogError> {
        require_another_slug(tenant, to)?;
        let client = self.client().await?;
        let taken = maybe(
            &client,
            "-- slugs::taken
             select 1 from tenant_slugs where slug = $1 and (tenant_id <> $2 or reserved_for is not null)",
            &[&to.as_str(), &tenant.id],
        )
        .await?;
        taken.map_or(Ok(()), |_| Err(not_free(to)))
    }

    /// The slugs that a tenant had before.
    pub async fn aliases(&self, slug: &TenantSlug) -> Result<Vec<Alias>, CatalogError> {
        let tenant = self.tenant(slug).await?;
        let client = self.client().await?;
        let found = rows(
            &client,
            "-- slugs::aliases
             select slug, created_at from tenant_slugs
             where tenant_id = $1 and leads and slug <> $2 order by slug",
            &[&tenant.id, &tenant.slug.as_str()],
        )
        .await?;
        let alias =
            |row: &Row| Ok(Alias { slug: slug_of(row)?, created_at: row.get("created_at") });
        found.iter().map(alias).collect()
    }

    /// Lets a slug that a tenant had before lead to it no more; anybody may take it then.
    pub async fn remove_alias(
        &self,
        slug: &TenantSlug,
        alias: &TenantSlug,
        by: &str,
    ) -> Result<(), CatalogError> {
        let tenant = self.tenant(slug).await?.id;
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        // The row of the tenant is locked, so that no rename to or from the alias comes in between.
        let row = one(
            &transaction,
            "-- slugs::present\nselect slug from tenants where id = $1 for update",
            &[&tenant],
        )
        .await?;
        let present = slug_of(&row)?;
        if *alias == present {
            return Err(CatalogError::Conflict(format!(
                "`{alias}` is the tenant's own slug, and no alias; rename the tenant first"
            )));
        }
        let removed = execute(
            &transaction,
            "-- slugs::remove_alias
             delete from tenant_slugs
             where slug = $2 and tenant_id = $1 and leads and reserved_for is null",
            &[&tenant, &alias.as_str()],
        )
        .await?;
        if removed == 0 {
            return Err(CatalogError::Missing { what: "alias", name: alias.to_string() });
        }
        let detail = json!({ "alias": alias });
        let event = Event { actor: by, action: "alias.removed", tenant: Some(&present), detail };
        audit_log::record(&transaction, &event).await?;
        Ok(transaction.commit().await?)
    }

    /// The slug that a living tenant has now.
    pub async fn slug_of_tenant(&self, id: Uuid) -> Result<Option<TenantSlug>, CatalogError> {
        let client = self.client().await?;
        let row = maybe(
            &client,
            "-- slugs::slug_of_tenant
             select slug from tenants where id = $1 and state <> 'deleted'",
            &[&id],
        )
        .await?;
        row.as_ref().map(slug_of).transpose()
    }

    /// Whether two slugs lead to one tenant.
    pub async fn is_same_tenant(
        &self,
        one_slug: &TenantSlug,
        other: &TenantSlug,
    ) -> Result<bool, CatalogError> {
        let client = self.client().await?;
        let row = one(
            &client,
            "-- slugs::is_same_tenant
             select count(*) = 2 and min(tenant_id::text) = max(tenant_id::text) as same
             from tenant_slugs where slug in ($1, $2) and leads",
            &[&one_slug.as_str(), &other.as_str()],
        )
        .await?;
        Ok(row.get::<_, Option<bool>>("same").unwrap_or(false))
    }
}

/// Refuses the slug that the tenant has.
pub fn require_another_slug(tenant: &Tenant, to: &TenantSlug) -> Result<(), CatalogError> {
    if tenant.slug != *to {
        return Ok(());
    }
    Err(CatalogError::Conflict(format!("the tenant is called `{to}` already; choose another slug")))
}

impl TenantLock {
    /// Gives the tenant the slug that was kept for this operation, with its database and its role under
    /// their new names. The slug that it had stays as an alias.
    pub async fn rename(
        &self,
        to: &TenantSlug,
        database: &DatabaseName,
        role: &RoleName,
        state: TenantState,
    ) -> Result<(), CatalogError> {
        let from = self.read_tenant().await?.state;
        let state =
            from.transition(state).map_err(|error| CatalogError::Conflict(error.to_string()))?;
        self.update(
            "-- slugs::rename
             update tenants set slug = $2, database_name = $3, role_name = $4, state = $5
             where id = $1",
            &[&self.tenant(), &to.as_str(), &database.as_str(), &role.as_str(), &state.as_str()],
        )
        .await
        .map_err(|error| explain(error, to))
    }

    /// Frees the slug that was kept for this operation; one that leads to the tenant goes on doing so.
    pub async fn free_slug(&self) -> Result<(), CatalogError> {
        execute(
            self.session()?,
            "-- slugs::free
             with freed as (delete from tenant_slugs where reserved_for = $1 and not leads)
             update tenant_slugs set reserved_for = null where reserved_for = $1 and leads",
            &[&self.operation()],
        )
        .await
        .map(drop)
    }

    /// Every slug that leads to the tenant, or that a rename has asked for.
    pub async fn slugs(&self) -> Result<Vec<TenantSlug>, CatalogError> {
        let found = rows(
            self.session()?,
            "-- slugs::of_tenant\nselect slug from tenant_slugs where tenant_id = $1 order by slug",
            &[&self.tenant()],
        )
        .await?;
        found.iter().map(slug_of).collect()
    }
}

/// What the column `slugs` says.
pub(super) fn all_of(row: &Row) -> Result<Vec<TenantSlug>, CatalogError> {
    let slugs: Vec<&str> = row.get("slugs");
    let parse = |slug: &str| {
        TenantSlug::parse(slug).map_err(|error| CatalogError::Corrupt(error.to_string()))
    };
    slugs.into_iter().map(parse).collect()
}

/// Says in words that a slug leads, or is about to lead, to another tenant.
pub(super) fn explain(error: CatalogError, slug: &TenantSlug) -> CatalogError {
    match error.on_constraint("tenant_slugs_key", "slug", slug.as_str()) {
        CatalogError::Exists { what: "slug", .. } => not_free(slug),
        other => other,
    }
}

fn not_free(slug: &TenantSlug) -> CatalogError {
    CatalogError::Conflict(format!(
        "the slug `{slug}` is taken: a tenant has it, had it, or is being renamed to it; choose another, or \
         see `tenantry tenant show {slug}`"
    ))
}
