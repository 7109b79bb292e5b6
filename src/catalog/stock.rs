//! Databases that belong to no live tenant: templates, spares made ahead of time, and the databases
//! that a restore replaced. Each row names what may exist on a server before it is made there, so that
//! nothing on a server is ever without an owner.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use tenantry_provisioning::DatabaseName;
use tokio_postgres::types::Json;
use uuid::Uuid;

use super::servers::AWAY;
use super::{Catalog, CatalogError, TenantLock, execute, maybe, rows};

/// A clone of the template, ready or being made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spare {
    /// Names its database.
    pub id: Uuid,
    /// The migration set that it was cloned with.
    pub digest: String,
    /// The newest file of that set.
    pub version: i64,
    /// Whether it is complete.
    pub ready: bool,
    /// The provisioning that has taken it.
    pub claimed_by: Option<Uuid>,
}

/// A database that a restore replaced.
#[derive(Clone, Debug)]
pub struct Retained {
    /// Its present name.
    pub database: DatabaseName,
    /// Where it is.
    pub server_id: Uuid,
    /// The name of that server.
    pub server_name: String,
    /// Whose data it holds.
    pub tenant_id: Uuid,
    /// The operation that replaced it.
    pub operation_id: Uuid,
}

/// What [`retained_of`] reads.
pub(super) const RETAINED: &str = "r.database_name, r.server_id, r.tenant_id, r.operation_id, \
     (select s.name from servers s where s.id = r.server_id)";

/// A template database, ready or being made.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    /// The set of migration files that it holds.
    pub digest: String,
    /// The newest of those files.
    pub version: i64,
    /// Whether it is complete.
    pub ready: bool,
    /// How many milliseconds each file took, by its name; empty where nobody knows.
    pub timings: BTreeMap<String, f64>,
}

impl Catalog {
    /// Every template of a server.
    pub async fn templates(&self, server: Uuid) -> Result<Vec<Template>, CatalogError> {
        let client = self.client().await?;
        let found = rows(
            &client,
            "-- stock::templates
             select digest, version, ready, timings from templates where server_id = $1 order by created_at",
            &[&server],
        )
        .await?;
        Ok(found
            .iter()
            .map(|row| Template {
                digest: row.get(0),
                version: row.get(1),
                ready: row.get(2),
                timings: row
                    .get::<_, Option<Json<BTreeMap<String, f64>>>>(3)
                    .map(|Json(timings)| timings)
                    .unwrap_or_default(),
            })
            .collect())
    }

    /// Writes down a template: about to be made, or complete. Timings that are known stay known. What is known
    /// already is not written again.
    pub async fn record_template(
        &self,
        server: Uuid,
        digest: &str,
        version: i64,
        ready: bool,
        timings: Option<&BTreeMap<String, f64>>,
    ) -> Result<(), CatalogError> {
        let client = self.client().await?;
        execute(
            &client,
            "-- stock::record_template
             insert into templates (server_id, digest, version, ready, timings)
             values ($1, $2, $3, $4, $5)
             on conflict (server_id, digest) do update
                 set ready = excluded.ready, timings = coalesce(excluded.timings, templates.timings)
                 where templates.ready <> excluded.ready or templates.timings is distinct from
                       coalesce(excluded.timings, templates.timings)",
            &[&server, &digest, &version, &ready, &timings.map(Json)],
        )
        .await
        .map(drop)
    }

    /// Forgets a template whose database is gone.
    pub async fn forget_template(&self, server: Uuid, digest: &str) -> Result<(), CatalogError> {
        let client = self.client().await?;
        execute(
            &client,
            "-- stock::forget_template\ndelete from templates where server_id = $1 and digest = $2",
            &[&server, &digest],
        )
        .await
        .map(drop)
    }

    /// Servers that somebody may come to, that answer, and that have fewer ready spares than this.
    pub async fn short_of_spares(&self, spares: usize) -> Result<HashSet<Uuid>, CatalogError> {
        let found = rows(
            &self.client().await?,
            &format!(
                "-- stock::short_of_spares
                 select s.id from servers s
                 where s.cordoned is null and not {AWAY}
                   and $1 > (select count(*) from spares p
                             where p.server_id = s.id and p.ready and p.claimed_by is null)"
            ),
            &[&i64::try_from(spares).unwrap_or(i64::MAX)],
        )
        .await?;
        Ok(found.iter().map(|row| row.get(0)).collect())
    }

    /// Every spare of a server.
    pub async fn spares(&self, server: Uuid) -> Result<Vec<Spare>, CatalogError> {
        let client = self.client().await?;
        let found = rows(
            &client,
            "-- stock::spares
             select id, digest, version, ready, claimed_by from spares where server_id = $1
             order by created_at",
            &[&server],
        )
        .await?;
        Ok(found
            .iter()
            .map(|row| Spare {
                id: row.get(0),
                digest: row.get(1),
                version: row.get(2),
                ready: row.get(3),
                claimed_by: row.get(4),
            })
            .collect())
    }

    /// Writes down a spare that is about to be made.
    pub async fn announce_spare(
        &self,
        id: Uuid,
        server: Uuid,
        digest: &str,
        version: i64,
    ) -> Result<(), CatalogError> {
        let client = self.client().await?;
        execute(
            &client,
            "-- stock::announce_spare
             insert into spares (id, server_id, digest, version) values ($1, $2, $3, $4)",
            &[&id, &server, &digest, &version],
        )
        .await
        .map(drop)
    }

    /// Offers a finished spare.
    pub async fn offer_spare(&self, id: Uuid) -> Result<(), CatalogError> {
        let client = self.client().await?;
        execute(
            &client,
            "-- stock::offer_spare\nupdate spares set ready = true where id = $1",
            &[&id],
        )
        .await
        .map(drop)
    }

    /// Takes an unclaimed spare off the shelf, so that nobody can claim it while it is dropped.
    pub async fn withdraw_spare(&self, id: Uuid) -> Result<bool, CatalogError> {
        let client = self.client().await?;
        let changed = execute(
            &client,
            "-- stock::withdraw_spare
             update spares set ready = false where id = $1 and claimed_by is null",
            &[&id],
        )
        .await?;
        Ok(changed == 1)
    }

    /// Forgets a spare whose database is gone.
    pub async fn forget_spare(&self, id: Uuid) -> Result<(), CatalogError> {
        let client = self.client().await?;
        execute(&client, "-- stock::forget_spare\ndelete from spares where id = $1", &[&id])
            .await
            .map(drop)
    }

    /// Whether a provisioning is waiting or under way: stocking up can wait.
    pub async fn is_provisioning(&self) -> Result<bool, CatalogError> {
        let client = self.client().await?;
        let row = super::one(
            &client,
            "-- stock::is_provisioning
             select exists (select from operations where kind = 'provision' and state in ('queued', 'running')
                            and run_after <= now())",
            &[],
        )
        .await?;
        Ok(row.get(0))
    }

    /// Replaced databases whose time has come, of one tenant or of all. One that a cutover may still have to bring back
    /// is not among them.
    pub async fn expired_databases(
        &self,
        tenant: Option<Uuid>,
    ) -> Result<Vec<Retained>, CatalogError> {
        let client = self.client().await?;
        let found = rows(
            &client,
            &format!(
                "-- stock::expired_databases
                 select {RETAINED} from retained_databases r join operations o on o.id = r.operation_id
                 where r.drop_after < now() and o.state not in ('queued', 'running', 'failed')
                   and ($1::uuid is null or r.tenant_id = $1)
                   and not exists (select from operations u
                                   where u.tenant_id = r.tenant_id and u.state = 'running')"
            ),
            &[&tenant],
        )
        .await?;
        found.iter().map(retained_of).collect()
    }

    /// Every replaced database of a server, expired or not.
    pub async fn retained_databases(&self, server: Uuid) -> Result<Vec<Retained>, CatalogError> {
        let client = self.client().await?;
        let found = rows(
            &client,
            &format!(
                "-- stock::retained_databases
                 select {RETAINED} from retained_databases r where r.server_id = $1"
            ),
            &[&server],
        )
        .await?;
        found.iter().map(retained_of).collect()
    }

    /// Forgets a replaced database that has been dropped.
    pub async fn forget_database(&self, retained: &Retained) -> Result<(), CatalogError> {
        let client = self.client().await?;
        execute(
            &client,
            "-- stock::forget_database
             delete from retained_databases where server_id = $1 and database_name = $2",
            &[&retained.server_id, &retained.database.as_str()],
        )
        .await
        .map(drop)
    }
}

impl TenantLock {
    /// Takes a ready spare for the lock's operation; the one it took before, if it did.
    pub async fn claim_spare(
        &self,
        server: Uuid,
        digest: &str,
    ) -> Result<Option<Uuid>, CatalogError> {
        let row = maybe(
            self.session()?,
            "-- stock::claim_spare
             update spares set claimed_by = $1
             where id = coalesce(
                 (select id from spares where claimed_by = $1),
                 (select id from spares
                  where server_id = $2 and digest = $3 and ready and claimed_by is null
                  order by created_at limit 1 for update skip locked))
             returning id",
            &[&self.operation(), &server, &digest],
        )
        .await?;
        Ok(row.map(|row| row.get(0)))
    }

    /// The spares that any operation of this tenant holds.
    pub async fn claimed_spares(&self) -> Result<Vec<Uuid>, CatalogError> {
        let found = rows(
            self.session()?,
            "-- stock::claimed_spares
             select s.id from spares s join operations o on o.id = s.claimed_by where o.tenant_id = $1",
            &[&self.tenant()],
        ).await?;
        Ok(found.iter().map(|row| row.get(0)).collect())
    }

    /// Writes down that a replaced database is kept for a while.
    pub async fn retain_database(
        &self,
        database: &DatabaseName,
        server: Uuid,
        keep: Duration,
    ) -> Result<(), CatalogError> {
        execute(
            self.session()?,
            "-- stock::retain_database
             insert into retained_databases (database_name, server_id, tenant_id, operation_id, drop_after)
             values ($1, $2, $3, $4, now() + $5::float8 * interval '1 second')
             on conflict do nothing",
            &[&database.as_str(), &server, &self.tenant(), &self.operation(), &keep.as_secs_f64()],
        )
        .await
        .map(drop)
    }

    /// The databases that restores of this tenant have replaced.
    pub async fn retained_databases(&self) -> Result<Vec<Retained>, CatalogError> {
        let found = rows(
            self.session()?,
            &format!(
                "-- stock::retained_of_tenant
                 select {RETAINED} from retained_databases r where r.tenant_id = $1"
            ),
            &[&self.tenant()],
        )
        .await?;
        found.iter().map(retained_of).collect()
    }
}

pub(super) fn retained_of(row: &tokio_postgres::Row) -> Result<Retained, CatalogError> {
    Ok(Retained {
        database: DatabaseName::parse(row.get(0))
            .map_err(|error| CatalogError::Corrupt(error.to_string()))?,
        server_id: row.get(1),
        tenant_id: row.get(2),
        operation_id: row.get(3),
        server_name: row.get(4),
    })
}
