//! The way back of tenants that were moved: what each has left on another server, and whether that follows its
//! database.

use jiff::Timestamp;
use serde_json::json;
use tokio_postgres::Row;
use uuid::Uuid;

use super::audit_log::{self, Event};
use super::{Catalog, CatalogError, execute, one, rows};
use crate::tenant::{Tenant, TenantSlug};

/// A database that a tenant has left on another server.
#[derive(Clone, Debug)]
pub struct Left {
    /// Whose it is.
    pub tenant: Uuid,
    /// The operation that left it.
    pub operation: Uuid,
    /// Where it is.
    pub server: Uuid,
    /// The name of that server.
    pub server_name: String,
    /// Until when it is kept.
    pub kept_until: Timestamp,
    /// The server of the database that it follows; also while something of that is still to be removed.
    pub follows: Option<Uuid>,
    /// The fingerprint of the schema that both have.
    pub schema: Option<String>,
    /// Why it follows no more, or never did.
    pub unfollowed: Option<String>,
}

const COLUMNS: &str = "r.tenant_id, r.operation_id, r.server_id, s.name, r.drop_after, r.follows, r.schema, \
     r.unfollowed from retained_databases r join servers s on s.id = r.server_id";

impl Left {
    /// Whether it follows the tenant's database, as far as the catalog knows.
    #[must_use]
    pub fn is_following(&self) -> bool {
        self.follows.is_some() && self.unfollowed.is_none()
    }
}

impl Catalog {
    /// What a tenant has left on other servers than its own, the newest first.
    pub async fn left_by(&self, tenant: &Tenant) -> Result<Vec<Left>, CatalogError> {
        let sql = format!(
            "-- way_back::left_by
             select {COLUMNS}
             where r.tenant_id = $1 and r.server_id <> $2
             order by r.retained_at desc, r.operation_id desc"
        );
        let found = rows(&self.client().await?, &sql, &[&tenant.id, &tenant.server_id]).await?;
        Ok(found.iter().map(from_row).collect())
    }

    /// Whatever follows, or has followed and is not cut off yet.
    pub async fn followers(&self) -> Result<Vec<Left>, CatalogError> {
        let sql = format!(
            "-- way_back::followers\nselect {COLUMNS} where r.follows is not null order by r.operation_id"
        );
        let found = rows(&self.client().await?, &sql, &[]).await?;
        Ok(found.iter().map(from_row).collect())
    }

    /// The same, of tenants at which no worker is.
    pub async fn idle_followers(&self) -> Result<Vec<Left>, CatalogError> {
        let sql = format!(
            "-- way_back::idle_followers
             select {COLUMNS}
             where r.follows is not null
               and not exists (select from operations o where o.tenant_id = r.tenant_id and o.state = 'running')
             order by r.operation_id"
        );
        let found = rows(&self.client().await?, &sql, &[]).await?;
        Ok(found.iter().map(from_row).collect())
    }

    /// Notes that what an operation has left follows a tenant's database from now on.
    pub async fn note_following(
        &self,
        tenant: &Tenant,
        operation: Uuid,
        schema: &str,
    ) -> Result<(), CatalogError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let noted = rows(
            &transaction,
            "-- way_back::note_following
             update retained_databases r set follows = $3, schema = $4, unfollowed = null
             from servers s
             where r.tenant_id = $1 and r.operation_id = $2 and s.id = r.server_id and r.follows is null
             returning s.name",
            &[&tenant.id, &operation, &tenant.server_id, &schema],
        )
        .await?;
        for row in noted {
            let detail = json!({ "operation": operation, "server": row.get::<_, &str>(0) });
            let action = "way_back.opened";
            let event = Event { actor: self.by(), action, tenant: Some(&tenant.slug), detail };
            audit_log::record(&transaction, &event).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// Notes why what an operation has left does not follow, and on which server something may be left of the try.
    pub async fn note_unfollowed(
        &self,
        tenant: &Tenant,
        operation: Uuid,
        why: &str,
    ) -> Result<(), CatalogError> {
        execute(
            &self.client().await?,
            "-- way_back::note_unfollowed
             update retained_databases set follows = $3, unfollowed = coalesce(unfollowed, $4)
             where tenant_id = $1 and operation_id = $2 and (follows is null or unfollowed is not null)",
            &[&tenant.id, &operation, &tenant.server_id, &why],
        )
        .await
        .map(drop)
    }

    /// Notes that nothing of a tenant follows any more, but for what the operation `spared` left. Returns all that is
    /// to be cut off.
    pub async fn end_following(
        &self,
        tenant: (Uuid, &TenantSlug),
        spared: Option<Uuid>,
        why: &str,
    ) -> Result<Vec<Left>, CatalogError> {
        let (id, slug) = tenant;
        let mut client = self.client().await?;
        let sql = format!(
            "-- way_back::ended
             select {COLUMNS}
             where r.tenant_id = $1 and r.operation_id is distinct from $2 and r.follows is not null"
        );
        let transaction = client.transaction().await?;
        let ended = rows(
            &transaction,
            "-- way_back::end_following
             update retained_databases r set unfollowed = $3 from servers s
             where r.tenant_id = $1 and r.operation_id is distinct from $2 and s.id = r.server_id
               and r.follows is not null and r.unfollowed is null
             returning r.operation_id, s.name",
            &[&id, &spared, &why],
        )
        .await?;
        for row in ended {
            let (operation, server): (Uuid, &str) = (row.get(0), row.get(1));
            let detail = json!({ "operation": operation, "server": server, "why": why });
            let action = "way_back.closed";
            let event = Event { actor: self.by(), action, tenant: Some(slug), detail };
            audit_log::record(&transaction, &event).await?;
        }
        let found = rows(&transaction, &sql, &[&id, &spared]).await?;
        transaction.commit().await?;
        Ok(found.iter().map(from_row).collect())
    }

    /// Notes that a kept database is not to be trusted any more, unless it has been noted, or somebody is at its tenant
    /// or about to be. Returns whether it is noted now.
    pub async fn end_doubtful(
        &self,
        slug: &TenantSlug,
        left: &Left,
        why: &str,
    ) -> Result<bool, CatalogError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let ended = execute(
            &transaction,
            "-- way_back::end_doubtful
             update retained_databases r set unfollowed = $3
             where r.server_id = $1 and r.operation_id = $2 and r.follows is not null and r.unfollowed is null
               and not exists (select from operations o
                               where o.tenant_id = r.tenant_id and o.state in ('queued', 'running'))",
            &[&left.server, &left.operation, &why],
        )
        .await?;
        if ended > 0 {
            let detail =
                json!({ "operation": left.operation, "server": left.server_name, "why": why });
            let action = "way_back.closed";
            let event = Event { actor: self.by(), action, tenant: Some(slug), detail };
            audit_log::record(&transaction, &event).await?;
        }
        transaction.commit().await?;
        Ok(ended > 0)
    }

    /// Whether the database that an operation has left followed the tenant's once, wherever it is.
    pub async fn has_followed(&self, tenant: Uuid, operation: Uuid) -> Result<bool, CatalogError> {
        let row = one(
            &self.client().await?,
            "-- way_back::has_followed
             select exists (select from retained_databases
                            where tenant_id = $1 and operation_id = $2 and schema is not null) as has",
            &[&tenant, &operation],
        )
        .await?;
        Ok(row.get("has"))
    }

    /// Forgets what a kept database followed, once nothing of that is left on either server.
    pub async fn forget_following(&self, left: &Left) -> Result<(), CatalogError> {
        execute(
            &self.client().await?,
            "-- way_back::forget_following
             update retained_databases set follows = null
             where server_id = $1 and operation_id = $2 and unfollowed is not null",
            &[&left.server, &left.operation],
        )
        .await
        .map(drop)
    }
}

fn from_row(row: &Row) -> Left {
    Left {
        tenant: row.get(0),
        operation: row.get(1),
        server: row.get(2),
        server_name: row.get(3),
        kept_until: row.get(4),
        follows: row.get(5),
        schema: row.get(6),
        unfollowed: row.get(7),
    }
}
