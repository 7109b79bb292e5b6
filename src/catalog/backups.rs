//! Rows of `backups`: an index of what lies in the bucket. The manifests there are the truth.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::Row;
use uuid::Uuid;

use super::proofs::Proof;
use super::{Catalog, CatalogError, TenantLock, execute, maybe, rows};
use crate::tenant::TenantSlug;

/// One complete backup.
#[derive(Clone, Debug)]
pub struct BackupRecord {
    /// The id of the operation that made it, and its folder in the bucket.
    pub id: Uuid,
    /// Whose it is.
    pub tenant_id: Uuid,
    /// That tenant's slug.
    pub slug: TenantSlug,
    /// Size of the stored object in bytes.
    pub dump_bytes: i64,
    /// Size of the dump before compression in bytes.
    pub plain_bytes: i64,
    /// The schema version that it holds.
    pub schema_version: i64,
    /// The PostgreSQL that it was taken from.
    pub server_version: String,
    /// The moment whose data it holds.
    pub started_at: Timestamp,
    /// When its manifest was written.
    pub finished_at: Timestamp,
    /// Until when nothing was written after it, as far as that was looked at.
    pub confirmed_at: Option<Timestamp>,
    /// What is known of it beyond its being there.
    pub proof: Proof,
    /// When its key was destroyed: nobody can read it any more.
    pub erased_at: Option<Timestamp>,
}

impl BackupRecord {
    /// Whether it can be relied on, as far as is known: not erased, and nothing was found wrong with it.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.erased_at.is_none() && self.proof.problem.is_none()
    }

    /// The last moment whose data it holds, as far as that was looked at.
    #[must_use]
    pub fn data_of(&self) -> Timestamp {
        self.confirmed_at.map_or(self.started_at, |confirmed| confirmed.max(self.started_at))
    }
}

pub(super) const COLUMNS: &str = "b.id, b.tenant_id, t.slug, b.dump_bytes, b.plain_bytes, b.schema_version, \
     b.server_version, b.started_at, b.finished_at, b.confirmed_at, b.verified_at, b.proven_at, \
     b.proven_seconds, b.problem, b.erased_at";

pub(super) fn from_row(row: &Row) -> Result<BackupRecord, CatalogError> {
    Ok(BackupRecord {
        id: row.get("id"),
        tenant_id: row.get("tenant_id"),
        slug: super::tenants::slug_of(row)?,
        dump_bytes: row.get("dump_bytes"),
        plain_bytes: row.get("plain_bytes"),
        schema_version: row.get("schema_version"),
        server_version: row.get("server_version"),
        started_at: row.get("started_at"),
        finished_at: row.get("finished_at"),
        confirmed_at: row.get("confirmed_at"),
        proof: Proof {
            verified_at: row.get("verified_at"),
            proven_at: row.get("proven_at"),
            proven_seconds: row.get("proven_seconds"),
            problem: row.get("problem"),
        },
        erased_at: row.get("erased_at"),
    })
}

impl Catalog {
    /// Backups, newest first; of one tenant, or of all.
    pub async fn backups(
        &self,
        tenant: Option<Uuid>,
        limit: i64,
    ) -> Result<Vec<BackupRecord>, CatalogError> {
        let client = self.client().await?;
        let sql = format!(
            "-- backups::list
             select {COLUMNS} from backups b join tenants t on t.id = b.tenant_id
             where $1::uuid is null or t.id = $1
             order by b.started_at desc, b.id desc
             limit $2"
        );
        let found = rows(&client, &sql, &[&tenant, &limit]).await?;
        found.iter().map(from_row).collect()
    }

    /// Whose each backup is; of these tenants, or of all.
    pub async fn backup_owners(
        &self,
        tenants: Option<&[Uuid]>,
    ) -> Result<HashMap<Uuid, Uuid>, CatalogError> {
        let found = rows(
            &self.client().await?,
            "-- backups::owners
             select id, tenant_id from backups where $1::uuid[] is null or tenant_id = any ($1)",
            &[&tenants],
        )
        .await?;
        Ok(found.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Which of these are no tenants that the catalog has, or had.
    pub async fn strangers(&self, tenants: &[Uuid]) -> Result<Vec<Uuid>, CatalogError> {
        let found = rows(
            &self.client().await?,
            "-- backups::strangers
             select p.id from unnest($1::uuid[]) as p (id)
             where not exists (select from tenants t where t.id = p.id) order by p.id",
            &[&tenants],
        )
        .await?;
        Ok(found.iter().map(|row| row.get(0)).collect())
    }

    /// Every backup of one tenant, newest first.
    pub async fn backups_of(&self, tenant: Uuid) -> Result<Vec<BackupRecord>, CatalogError> {
        let client = self.client().await?;
        let sql = format!(
            "-- backups::of_tenant
             select {COLUMNS} from backups b join tenants t on t.id = b.tenant_id
             where b.tenant_id = $1 order by b.started_at desc, b.id desc"
        );
        rows(&client, &sql, &[&tenant]).await?.iter().map(from_row).collect()
    }

    /// Backups of a tenant that a restore is going to read, also one that makes another tenant of them. A drill that
    /// has failed is over: it said what is wrong with its backup.
    pub async fn awaited_backups(&self, tenant: Uuid) -> Result<HashSet<Uuid>, CatalogError> {
        let found = rows(
            &self.client().await?,
            "-- backups::awaited
             select b.id from backups b
             where b.tenant_id = $1
               and exists (select from operations o
                           where o.input ->> 'backup' = b.id::text
                             and (o.state in ('queued', 'running') or o.state = 'failed' and o.kind <> 'drill'))",
            &[&tenant],
        )
        .await?;
        Ok(found.iter().map(|row| row.get(0)).collect())
    }

    /// Backups of a tenant that are to be taken, or failed and may be tried again.
    pub async fn open_backups(&self, tenant: Uuid) -> Result<Vec<Uuid>, CatalogError> {
        let found = rows(
            &self.client().await?,
            "-- backups::open
             select id from operations
             where tenant_id = $1 and kind = 'backup' and state in ('queued', 'running', 'failed')",
            &[&tenant],
        )
        .await?;
        Ok(found.iter().map(|row| row.get(0)).collect())
    }

    /// The newest good backup of a tenant that was started before a moment, or the newest of all.
    pub async fn newest_backup(
        &self,
        tenant: Uuid,
        before: Option<Timestamp>,
    ) -> Result<Option<BackupRecord>, CatalogError> {
        let client = self.client().await?;
        let sql = format!(
            "-- backups::newest
             select {COLUMNS} from backups b join tenants t on t.id = b.tenant_id
             where b.tenant_id = $1 and b.problem is null and b.erased_at is null
               and ($2::timestamptz is null or b.started_at < $2)
             order by b.started_at desc limit 1"
        );
        maybe(&client, &sql, &[&tenant, &before]).await?.as_ref().map(from_row).transpose()
    }

    /// The newest backup of a tenant, and what shows whether anything was written since; `None` when there is
    /// nothing that could show it.
    pub async fn newest_witness(
        &self,
        tenant: Uuid,
    ) -> Result<Option<(BackupRecord, Value)>, CatalogError> {
        let client = self.client().await?;
        let sql = format!(
            "-- backups::newest_witness
             select {COLUMNS}, b.witness from backups b join tenants t on t.id = b.tenant_id
             where b.tenant_id = $1 order by b.started_at desc limit 1"
        );
        let Some(row) = maybe(&client, &sql, &[&tenant]).await? else { return Ok(None) };
        let backup = from_row(&row)?;
        Ok(row.get::<_, Option<Value>>("witness").map(|witness| (backup, witness)))
    }

    /// One backup.
    pub async fn backup(&self, id: Uuid) -> Result<BackupRecord, CatalogError> {
        let client = self.client().await?;
        let sql = format!(
            "-- backups::by_id
             select {COLUMNS} from backups b join tenants t on t.id = b.tenant_id where b.id = $1"
        );
        match maybe(&client, &sql, &[&id]).await? {
            Some(row) => from_row(&row),
            None => Err(CatalogError::Missing { what: "backup", name: id.to_string() }),
        }
    }
}

impl TenantLock {
    /// Indexes a backup whose manifest has been written, with what will show whether anything was written since.
    pub async fn record_backup(
        &self,
        manifest: &tenantry_backup::Manifest,
        witness: Option<&Value>,
    ) -> Result<(), CatalogError> {
        execute(
            self.session()?,
            "-- backups::record
             insert into backups
                 (id, tenant_id, dump_bytes, plain_bytes, schema_version, server_version, started_at, finished_at,
                  witness, key_id)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
             on conflict (id) do update set key_id = excluded.key_id",
            &[
                &manifest.backup,
                &self.tenant(),
                &signed(manifest.dump_bytes),
                &signed(manifest.plain_bytes),
                &manifest.schema_version,
                &manifest.server_version,
                &manifest.started_at,
                &manifest.finished_at,
                &witness,
                &manifest.key_id,
            ],
        )
        .await
        .map(drop)
    }

    /// Writes down that a backup of this tenant holds the data of this moment too.
    pub async fn confirm_backup(&self, id: Uuid, moment: Timestamp) -> Result<(), CatalogError> {
        execute(
            self.session()?,
            "-- backups::confirm
             update backups set confirmed_at = $3 where tenant_id = $1 and id = $2",
            &[&self.tenant(), &id, &moment],
        )
        .await
        .map(drop)
    }

    /// Writes down that a restore has shown a backup of this tenant to be good, and how long it took since the
    /// lock's operation began.
    pub async fn prove_backup(&self, id: Uuid) -> Result<(), CatalogError> {
        execute(
            self.session()?,
            "-- backups::prove
             update backups b
             set proven_at = now(), proven_seconds = extract(epoch from now() - o.started_at)::float8
             from operations o where b.tenant_id = $1 and b.id = $2 and o.id = $3",
            &[&self.tenant(), &id, &self.operation()],
        )
        .await
        .map(drop)
    }

    /// Forgets one backup of this tenant, or all of them.
    pub async fn forget_backups(&self, id: Option<Uuid>) -> Result<(), CatalogError> {
        execute(
            self.session()?,
            "-- backups::forget
             delete from backups where tenant_id = $1 and ($2::uuid is null or id = $2)",
            &[&self.tenant(), &id],
        )
        .await
        .map(drop)
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).expect("no object has 8 EiB")
}
