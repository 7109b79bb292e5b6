//! Tenants that are brought up to date without anybody asking: what they should be at, and the operations that
//! do it. Both planes come here: a worker says which files it has, and a router, or a worker, has a tenant
//! migrated.
//!
//! However many ask for a tenant, one operation is open for it: its row of `catch_ups` is written in the same
//! statement, and whoever comes second finds it there.

use std::time::Duration;

use deadpool_postgres::GenericClient;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Catalog, CatalogError, execute, maybe, one, rows};

/// When tenants are brought up to date without anybody asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CatchUpMode {
    /// When they are next used.
    OnDemand,
    /// One after the other.
    Background,
}

/// What the files of a worker make of a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedSchema {
    /// All of its files.
    pub digest: String,
    /// When.
    pub mode: CatchUpMode,
    /// Where tenants should be.
    pub version: i64,
    /// The digest of their repeatable files; none where these are held back.
    pub repeatables: Option<String>,
    /// The digest of the template in which the files are tried.
    pub template: String,
    /// Where tenants of tracks should be, by track; see [`Catalog::fleet_status`].
    pub tracks: Value,
}

/// An operation that brings a tenant up to date.
#[derive(Clone, Copy, Debug)]
pub struct CatchUp {
    /// Its id.
    pub operation: Uuid,
    /// How long ago it was asked for.
    pub age: Duration,
}

/// How it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CatchingUp {
    /// When.
    pub mode: CatchUpMode,
    /// Where tenants should be.
    pub version: i64,
    /// Tenants that failed, and are tried again after a pause.
    pub failed: i64,
    /// Whether so many failed in a row that no other is taken in the background: none of the same track, or of none.
    pub is_stopped: bool,
}

/// Requests are waiting for it.
const WAITED_FOR: i16 = 1;
/// Nobody is.
const NOT_WAITED_FOR: i16 = -1;

impl CatchUpMode {
    /// Its name in settings, in the catalog and in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OnDemand => "on-demand",
            Self::Background => "background",
        }
    }
}

impl Catalog {
    /// Says that a worker lives, and which files it has. What waits for files that nobody has any more is
    /// cancelled.
    pub async fn want_schema(&self, wanted: &WantedSchema) -> Result<(), CatalogError> {
        let client = self.client().await?;
        execute(
            &client,
            "-- catching_up::forget_gone
             delete from wanted_schemas where seen_at < now() - interval '1 minute' and digest <> $1",
            &[&wanted.digest],
        )
        .await?;
        execute(
            &client,
            "-- catching_up::cancel
             update operations o set state = 'cancelled', finished_at = now()
             from catch_ups c
             where o.id = c.operation_id and o.state = 'queued' and c.digest <> $1
               and not exists (select from wanted_schemas w where w.digest = c.digest)",
            &[&wanted.digest],
        )
        .await?;
        execute(
            &client,
            "-- catching_up::want
             insert into wanted_schemas as w (digest, mode, version, repeatables, template, tracks)
             values ($1, $2, $3, $4, $5, $6)
             on conflict (digest) do update
             set mode = excluded.mode, version = excluded.version, repeatables = excluded.repeatables,
                 template = excluded.template, tracks = excluded.tracks, seen_at = now(),
                 first_seen_at = case when w.seen_at < now() - interval '1 minute' then now()
                                      else w.first_seen_at end",
            &[
                &wanted.digest,
                &wanted.mode.as_str(),
                &wanted.version,
                &wanted.repeatables,
                &wanted.template,
                &wanted.tracks,
            ],
        )
        .await
        .map(drop)
    }

    /// Has a tenant migrated that somebody wants to use; none where there is nothing to do, or where it has just
    /// failed.
    pub async fn catch_up(&self, tenant: Uuid) -> Result<Option<CatchUp>, CatalogError> {
        let client = self.client().await?;
        ask(&client, tenant, CatchUpMode::OnDemand).await?;
        let row = maybe(
            &client,
            "-- catching_up::open
             select o.id, extract(epoch from now() - o.created_at)::float8 as age_secs
             from catch_ups c join operations o on o.id = c.operation_id
             where c.tenant_id = $1 and o.state in ('queued', 'running')",
            &[&tenant],
        )
        .await?;
        Ok(row.map(|row| CatchUp {
            operation: row.get("id"),
            age: Duration::try_from_secs_f64(row.get("age_secs")).unwrap_or_default(),
        }))
    }

    /// Has the next tenant of every server migrated where none is being brought up to date; nobody of a track of which
    /// too many have failed in a row, nor of those in none. One replica at a time looks.
    pub async fn catch_up_in_background(&self) -> Result<Option<CatchingUp>, CatalogError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let mine = one(
            &transaction,
            "-- catching_up::look
             select pg_try_advisory_xact_lock(hashtextextended('catching up', 1))",
            &[],
        )
        .await?;
        if !mine.get::<_, bool>(0) {
            return Ok(None);
        }
        let row = maybe(
            &transaction,
            "-- catching_up::status\nselect mode, version, failed, is_stopped from catching_up",
            &[],
        )
        .await?;
        let Some(row) = row else { return Ok(None) };
        let status = CatchingUp {
            mode: CatchUpMode::Background,
            version: row.get("version"),
            failed: row.get("failed"),
            is_stopped: row.get("is_stopped"),
        };
        let next = rows(
            &transaction,
            "-- catching_up::next
             select distinct on (b.server_id) b.tenant_id
             from tenants_behind b
             left join catch_ups c on c.tenant_id = b.tenant_id and c.digest = b.digest
             left join operations o on o.id = c.operation_id
             where not exists (select from catch_ups_stopped s where s.track is not distinct from b.track)
               and not exists (
                 select from catch_ups oc join operations oo on oo.id = oc.operation_id
                 join tenants ot on ot.id = oc.tenant_id
                 where ot.server_id = b.server_id and oo.state in ('queued', 'running'))
               and (o.id is null or o.state in ('succeeded', 'cancelled')
                    or o.state = 'failed' and o.finished_at + catch_up_pause(c.failures) <= now())
             order by b.server_id, o.finished_at nulls first, b.tenant_id",
            &[],
        )
        .await?;
        for row in &next {
            ask(&transaction, row.get(0), CatchUpMode::Background).await?;
        }
        transaction.commit().await?;
        Ok(Some(status))
    }
}

/// Asks for the operation, unless one is open or has just failed. One that this statement cannot see yet was
/// asked for a moment ago by somebody else, and is open.
async fn ask(
    client: &impl GenericClient,
    tenant: Uuid,
    mode: CatchUpMode,
) -> Result<(), CatalogError> {
    let urgency = match mode {
        CatchUpMode::OnDemand => WAITED_FOR,
        CatchUpMode::Background => NOT_WAITED_FOR,
    };
    execute(
        client,
        "-- catching_up::ask
         with asked as (
             insert into catch_ups as c (tenant_id, operation_id, digest)
             select tenant_id, $2, digest from tenants_behind where tenant_id = $1
             on conflict (tenant_id) do update
             set operation_id = excluded.operation_id, digest = excluded.digest,
                 failures = case when c.digest = excluded.digest and exists (
                     select from operations o where o.id = c.operation_id and o.state = 'failed')
                     then c.failures + 1 else 0 end
             where exists (
                 select from operations o where o.id = c.operation_id
                   and (o.state in ('succeeded', 'cancelled')
                        or o.state = 'failed' and (c.digest <> excluded.digest
                            or o.finished_at + catch_up_pause(c.failures) <= now())))
             returning tenant_id
         )
         insert into operations (id, tenant_id, kind, input, migrations_digest, requested_by, urgency)
         select $2, b.tenant_id, 'migrate', jsonb_build_object('to', b.version), b.digest, $3, $4
         from asked join tenants_behind b using (tenant_id)",
        &[&tenant, &Uuid::now_v7(), &mode.as_str(), &urgency],
    )
    .await
    .map(drop)
}
