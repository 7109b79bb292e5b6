//! How well each tenant is protected: what its backups are to be, and the newest good one that it has.

use std::collections::HashMap;

use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{Catalog, CatalogError, Params, execute, one, rows};
use crate::catalog::operations::NewOperation;
use crate::tenant::TenantSlug;
use crate::tenant::settings::BackupPolicy;

/// One tenant, served or suspended, and its newest good backup.
#[derive(Clone, Debug)]
pub struct Protection {
    /// The tenant.
    pub tenant_id: Uuid,
    /// Its slug.
    pub slug: TenantSlug,
    /// The server that hosts it.
    pub server_id: Uuid,
    /// What its own settings and its tier say of backups.
    pub policy: BackupPolicy,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// The moment whose data its newest good backup holds, or was shown to hold still.
    pub data_of: Option<Timestamp>,
    /// When a restore last showed that one of its backups is good, which it still is, and how long that took.
    pub proven_at: Option<Timestamp>,
    /// The same, in seconds.
    pub proven_seconds: Option<f64>,
    /// When the schedule last asked for a backup.
    pub asked_at: Option<Timestamp>,
    /// What the schedule last asked for, if it failed an hour ago or longer.
    pub failed: Option<Uuid>,
    /// Whether a backup is queued or under way.
    pub open: bool,
}

impl Protection {
    fn from_row(row: &Row) -> Result<Self, CatalogError> {
        Ok(Self {
            tenant_id: row.get("id"),
            slug: super::tenants::slug_of(row)?,
            server_id: row.get("server_id"),
            policy: policy_of(row),
            created_at: row.get("created_at"),
            data_of: row.get("data_of"),
            proven_at: row.get("proven_at"),
            proven_seconds: row.get("proven_seconds"),
            asked_at: row.get("asked_at"),
            failed: row.get("failed"),
            open: row.get("open"),
        })
    }
}

impl Catalog {
    /// Every tenant that can be backed up, or this one. `scheduler` is who asks for scheduled backups.
    pub async fn protections(
        &self,
        scheduler: &str,
        only: Option<Uuid>,
    ) -> Result<Vec<Protection>, CatalogError> {
        let found = rows(
            &self.client().await?,
            "-- protection::list
             select t.id, t.slug, t.server_id, t.settings -> 'backup' as own, r.backup as of_tier, t.created_at,
                    b.data_of, p.proven_at, p.proven_seconds, s.created_at as asked_at,
                    case when s.state = 'failed' and not s.abandoning
                              and s.finished_at <= now() - interval '1 hour' then s.id end as failed,
                    exists (select from operations o where o.tenant_id = t.id and o.kind = 'backup'
                                                       and o.state in ('queued', 'running')) as open
             from tenants t
             join tiers r on r.name = t.tier
             left join lateral (
                 select greatest(b.started_at, b.confirmed_at) as data_of
                 from backups b where b.tenant_id = t.id and b.problem is null and b.erased_at is null
                 order by b.started_at desc limit 1) b on true
             left join lateral (
                 select b.proven_at, b.proven_seconds from backups b
                 where b.tenant_id = t.id and b.proven_at is not null
                   and b.problem is null and b.erased_at is null
                 order by b.proven_at desc limit 1) p on true
             left join lateral (
                 select o.id, o.state, o.abandoning, o.created_at, o.finished_at from operations o
                 where o.tenant_id = t.id and o.kind = 'backup' and o.requested_by = $1
                 order by o.created_at desc limit 1) s on true
             where t.state in ('active', 'suspended') and ($2::uuid is null or t.id = $2)
             order by t.id",
            &[&scheduler, &only],
        )
        .await?;
        found.iter().map(Protection::from_row).collect()
    }

    /// How many backups are queued or under way on each server.
    pub async fn open_backups_by_server(&self) -> Result<HashMap<Uuid, usize>, CatalogError> {
        let found = rows(
            &self.client().await?,
            "-- protection::open_by_server
             select t.server_id, count(*) from operations o join tenants t on t.id = o.tenant_id
             where o.kind = 'backup' and o.state in ('queued', 'running') and t.server_id is not null
             group by t.server_id",
            &[],
        )
        .await?;
        let number = |row: &Row| usize::try_from(row.get::<_, i64>(1)).unwrap_or(usize::MAX);
        Ok(found.iter().map(|row| (row.get(0), number(row))).collect())
    }

    /// What a tenant's own settings and its tier say of its backups.
    pub async fn backup_policy(&self, tenant: Uuid) -> Result<BackupPolicy, CatalogError> {
        let row = one(
            &self.client().await?,
            "-- protection::policy
             select t.settings -> 'backup' as own, r.backup as of_tier
             from tenants t join tiers r on r.name = t.tier where t.id = $1",
            &[&tenant],
        )
        .await?;
        Ok(policy_of(&row))
    }

    /// Writes down which tenants miss their goals now, each with what to say of it, and tells what is new: who
    /// misses one since now, and who meets it again. Returns those whose miss is new.
    pub async fn tell_goals(&self, missed: &[(Uuid, Value)]) -> Result<Vec<Uuid>, CatalogError> {
        let tenants: Vec<Uuid> = missed.iter().map(|(tenant, _)| *tenant).collect();
        let details: Vec<&Value> = missed.iter().map(|(_, detail)| detail).collect();
        let told = rows(
            &self.client().await?,
            "-- protection::tell_goals
             with missed as (select * from unnest($1::uuid[], $2::jsonb[]) as m (tenant_id, detail)),
             begun as (
                 insert into missed_backup_goals (tenant_id) select tenant_id from missed
                 on conflict do nothing returning tenant_id),
             met as (
                 delete from missed_backup_goals g
                 where not exists (select from missed m where m.tenant_id = g.tenant_id)
                 returning g.tenant_id, g.since),
             told as (
                 insert into backup_events (tenant_id, kind, detail)
                 select tenant_id, 'backup_goal_missed', detail from begun join missed using (tenant_id)
                 union all
                 select m.tenant_id, 'backup_goal_met', jsonb_build_object('missed_since', m.since)
                 from met m join tenants t on t.id = m.tenant_id where t.state in ('active', 'suspended'))
             select tenant_id from begun",
            &[&tenants, &details],
        )
        .await?;
        Ok(told.iter().map(|row| row.get(0)).collect())
    }

    /// Asks for the backup of a tenant, unless it was asked for with its idempotency key, or another one is open, or
    /// the tenant cannot be backed up any more. Says whether it did.
    pub async fn enqueue_backup(&self, new: &NewOperation<'_>) -> Result<bool, CatalogError> {
        let sql = "-- protection::enqueue_backup
             insert into operations (id, tenant_id, kind, input, requested_by, idempotency_key)
             select $1, t.id, $3, $4, $5, $6 from tenants t
             where t.id = $2 and t.state in ('active', 'suspended')
               and not exists (select from operations o where o.tenant_id = t.id and o.kind = 'backup'
                                                          and o.state in ('queued', 'running'))
             on conflict (idempotency_key) do nothing";
        self.enqueue_by(sql, new).await
    }

    /// Asks for an operation, unless one was asked for with its idempotency key. Says whether it did.
    pub async fn enqueue_once(&self, new: &NewOperation<'_>) -> Result<bool, CatalogError> {
        let sql = "-- protection::enqueue_once
             insert into operations (id, tenant_id, kind, input, requested_by, idempotency_key)
             values ($1, $2, $3, $4, $5, $6)
             on conflict (idempotency_key) do nothing";
        self.enqueue_by(sql, new).await
    }

    async fn enqueue_by(&self, sql: &str, new: &NewOperation<'_>) -> Result<bool, CatalogError> {
        let NewOperation { id, tenant_id, kind, input, requested_by, idempotency_key, .. } = new;
        let client = self.client().await?;
        let params: Params<'_> = &[id, tenant_id, kind, input, requested_by, idempotency_key];
        Ok(execute(&client, sql, params).await? == 1)
    }
}

fn policy_of(row: &Row) -> BackupPolicy {
    let policy = |name| row.get::<_, Option<_>>(name).map(BackupPolicy::stored);
    let tier = policy("of_tier").unwrap_or_default();
    policy("own").unwrap_or_default().or(&tier)
}
