//! From wave to wave: each statement names the wave that it leaves, so that it can be made once only.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::super::tenants::slug_of;
use super::super::{Catalog, CatalogError, execute, maybe, one, rows};
use super::{ItemState, RolloutRecord, RolloutState, RolloutTenant, WaveCount, failure_of};
use crate::catalog::operations::Failure;

/// What of a batch has gone wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failures {
    /// How many operations.
    pub number: i64,
    /// When the last of them did.
    pub newest: Option<Timestamp>,
}

/// Puts tenants into a wave; one that was in an earlier wave comes once more.
pub(super) async fn add(
    client: &impl GenericClient,
    rollout: Uuid,
    wave: i32,
    tenants: &[Uuid],
    backup_first: bool,
) -> Result<(), CatalogError> {
    let operations: Vec<Uuid> = tenants.iter().map(|_| Uuid::now_v7()).collect();
    let backups: Vec<Option<Uuid>> =
        tenants.iter().map(|_| backup_first.then(Uuid::now_v7)).collect();
    execute(
        client,
        "-- rollouts::add
         insert into rollout_tenants (rollout_id, wave, tenant_id, operation_id, backup_id, server_id)
         select $1, $2, i.*, t.server_id
         from unnest($3::uuid[], $4::uuid[], $5::uuid[]) as i (tenant_id, operation_id, backup_id)
         join tenants t on t.id = i.tenant_id
         on conflict (rollout_id, tenant_id) do update
         set wave = excluded.wave, operation_id = excluded.operation_id, backup_id = excluded.backup_id,
             server_id = excluded.server_id, asked = null",
        &[&rollout, &wave, &tenants, &operations, &backups],
    )
    .await
    .map(drop)
}

impl Catalog {
    /// Begins the first wave; the templates stand.
    pub async fn begin_rollout(&self, id: Uuid) -> Result<(), CatalogError> {
        execute(
            &self.client().await?,
            "-- rollouts::begin
             with changed as (
                 update rollouts set begun_at = now()
                 where id = $1 and state = 'running' and begun_at is null
                 returning *
             )
             insert into rollout_events (rollout_id, kind, detail)
             select id, 'wave_started', jsonb_build_object('wave', wave, 'name', waves[wave + 1]) from changed",
            &[&id],
        )
        .await
        .map(drop)
    }

    /// What of a batch has gone wrong until now: as long as this stays the same, nothing more has.
    pub async fn failures(&self, id: Uuid) -> Result<Failures, CatalogError> {
        let found = one(
            &self.client().await?,
            "-- rollouts::failures
             select count(*), max(finished_at) from operations
             where batch_id = $1 and state in ('failed', 'cancelled')",
            &[&id],
        )
        .await?;
        Ok(Failures { number: found.get(0), newest: found.get(1) })
    }

    /// Writes down who has failed since the last look, and pauses a rollout in which too many have.
    /// A batch that is no rollout is left alone.
    pub async fn guard_rollout(&self, id: Uuid) -> Result<(), CatalogError> {
        if self.failures(id).await?.number == 0 {
            return Ok(());
        }
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        // Who holds the row counts alone, and sees every failure that was written before.
        let locked = maybe(
            &transaction,
            "-- rollouts::lock\nselect state, max_failures from rollouts where id = $1 for update",
            &[&id],
        )
        .await?;
        let Some(locked) = locked else { return Ok(()) };
        execute(
            &transaction,
            "-- rollouts::note_failures
             insert into rollout_events (rollout_id, kind, detail, at)
             select i.rollout_id, 'tenant_failed', jsonb_build_object('tenant', i.slug, 'wave', i.wave,
                        'operation_id', i.latest_operation, 'error', i.error), clock_timestamp()
             from rollout_items i
             where i.rollout_id = $1 and i.state = 'failed'
               and not exists (
                 select from rollout_events e
                 where e.rollout_id = $1 and e.kind = 'tenant_failed' and e.at >= i.finished_at
                   and e.detail ->> 'operation_id' = i.latest_operation::text)",
            &[&id],
        )
        .await?;
        if let (Some(RolloutState::Running), Some(most)) =
            (RolloutState::parse(locked.get(0)), locked.get::<_, Option<i32>>(1))
        {
            let failed: i64 = one(
                &transaction,
                "-- rollouts::count_failures
                 select count(*) from rollout_items where rollout_id = $1 and state = 'failed'",
                &[&id],
            )
            .await?
            .get(0);
            if failed > i64::from(most) {
                let reason = Failure {
                    step: "guard".to_owned(),
                    message: format!("{failed} tenants have failed, and {most} may"),
                    remedy: Some(format!(
                        "`tenantry migrate show {id}` lists them; fix them, then `tenantry migrate resume {id}`"
                    )),
                };
                execute(
                    &transaction,
                    "-- rollouts::guard
                     with changed as (
                         update rollouts set state = 'paused', reason = $2 where id = $1 returning id
                     )
                     insert into rollout_events (rollout_id, kind, detail)
                     select id, 'paused', jsonb_build_object('reason', $2::jsonb) from changed",
                    &[&id, &json!(reason)],
                )
                .await?;
            }
        }
        Ok(transaction.commit().await?)
    }

    /// Ends a wave: the next one waits for so many seconds.
    pub async fn close_wave(
        &self,
        id: Uuid,
        wave: i32,
        bake_secs: f64,
    ) -> Result<(), CatalogError> {
        execute(
            &self.client().await?,
            "-- rollouts::close_wave
             with changed as (
                 update rollouts set bake_until = now() + $3::float8 * interval '1 second'
                 where id = $1 and wave = $2 and state = 'running' and bake_until is null
                 returning *
             )
             insert into rollout_events (rollout_id, kind, detail)
             select c.id, 'wave_finished', jsonb_build_object('wave', c.wave, 'name', c.waves[c.wave + 1],
                        'succeeded', count(*) filter (where i.state = 'succeeded'),
                        'failed', count(*) filter (where i.state = 'failed'))
             from changed c left join rollout_items i on i.rollout_id = c.id and i.wave = c.wave
             group by c.id, c.wave, c.waves",
            &[&id, &wave, &bake_secs],
        )
        .await
        .map(drop)
    }

    /// Goes from a wave that has ended to the next.
    pub async fn next_wave(&self, id: Uuid, wave: i32) -> Result<(), CatalogError> {
        execute(
            &self.client().await?,
            "-- rollouts::next_wave
             with changed as (
                 update rollouts set wave = wave + 1, bake_until = null
                 where id = $1 and wave = $2 and state = 'running' and bake_until is not null
                 returning *
             )
             insert into rollout_events (rollout_id, kind, detail)
             select id, 'wave_started', jsonb_build_object('wave', wave, 'name', waves[wave + 1]) from changed",
            &[&id, &wave],
        )
        .await
        .map(drop)
    }

    /// Adds a last wave of these tenants, unless somebody else has.
    pub async fn add_wave(
        &self,
        rollout: &RolloutRecord,
        name: &str,
        tenants: &[Uuid],
        backup_first: bool,
    ) -> Result<(), CatalogError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let waves = i32::try_from(rollout.waves.len()).expect("waves are few");
        let added = execute(
            &transaction,
            "-- rollouts::add_wave
             update rollouts set waves = waves || $3::text
             where id = $1 and state = 'running' and cardinality(waves) = $2",
            &[&rollout.id, &waves, &name],
        )
        .await?;
        if added == 1 {
            add(&transaction, rollout.id, waves, tenants, backup_first).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// Ends a rollout, well or not.
    pub async fn finish_rollout(
        &self,
        id: Uuid,
        state: RolloutState,
        reason: Option<&Failure>,
    ) -> Result<(), CatalogError> {
        execute(
            &self.client().await?,
            "-- rollouts::finish
             with changed as (
                 update rollouts set state = $2, reason = $3, finished_at = now()
                 where id = $1 and state = 'running'
                 returning *
             )
             insert into rollout_events (rollout_id, kind, detail)
             select c.id, $2, jsonb_build_object('reason', c.reason,
                        'succeeded', count(*) filter (where i.state = 'succeeded'),
                        'failed', count(*) filter (where i.state = 'failed'))
             from changed c left join rollout_items i on i.rollout_id = c.id
             group by c.id, c.reason",
            &[&id, &state.as_str(), &reason.map(|reason| json!(reason))],
        )
        .await
        .map(drop)
    }

    /// Tenants below a rollout's target that it has not failed on: made, restored or brought back by
    /// somebody with older files. Of a rollout of named tenants, only these. `tracks` says where those of tracks should
    /// be, as in [`Catalog::fleet_status`]; nothing where that is left alone.
    pub async fn stragglers(
        &self,
        rollout: &RolloutRecord,
        tracks: Option<&Value>,
        named_only: bool,
    ) -> Result<Vec<Uuid>, CatalogError> {
        let found = rows(
            &self.client().await?,
            "-- rollouts::stragglers
             select t.id from tenants t
             left join rollout_items i on i.rollout_id = $1 and i.tenant_id = t.id
             where t.state in ('active', 'suspended', 'restoring', 'renaming')
               and (t.schema_version < $2 or t.track_version < ($4::jsonb -> t.track ->> 'version')::bigint)
               and coalesce(i.state = 'succeeded', not $3)",
            &[&rollout.id, &rollout.target_version, &named_only, &tracks],
        )
        .await?;
        Ok(found.iter().map(|row| row.get(0)).collect())
    }

    /// Whether an operation of these kinds is under way that was begun before the rollout was.
    pub async fn is_anything_coming(
        &self,
        rollout: Uuid,
        kinds: &[&str],
    ) -> Result<bool, CatalogError> {
        let found = one(
            &self.client().await?,
            "-- rollouts::is_anything_coming
             select exists (
                 select from operations o join rollouts r on r.id = $1
                 where o.kind = any ($2) and o.state = 'running' and o.started_at < r.created_at)",
            &[&rollout, &kinds],
        )
        .await?;
        Ok(found.get(0))
    }

    /// Whether operations of a rollout are queued or under way.
    pub async fn is_rollout_busy(&self, id: Uuid) -> Result<bool, CatalogError> {
        let found = one(
            &self.client().await?,
            "-- rollouts::is_busy
             select exists (
                 select from operations o join tenants t on t.id = o.tenant_id
                 where o.batch_id = $1 and o.state in ('queued', 'running')
                   and t.state not in ('deleting', 'deleted'))",
            &[&id],
        )
        .await?;
        Ok(found.get(0))
    }

    /// How many tenants of each wave stand where.
    pub async fn count_rollout(&self, id: Uuid) -> Result<Vec<WaveCount>, CatalogError> {
        let found = rows(
            &self.client().await?,
            "-- rollouts::count
             select wave, state, count(*) from rollout_items where rollout_id = $1 group by 1, 2 order by 1, 2",
            &[&id],
        )
        .await?;
        Ok(found
            .iter()
            .filter_map(|row| {
                let state = ItemState::parse(row.get(1))?;
                Some(WaveCount { wave: row.get(0), state, tenants: row.get(2) })
            })
            .collect())
    }

    /// The tenants of a rollout, in the order of their waves.
    pub async fn rollout_tenants(&self, id: Uuid) -> Result<Vec<RolloutTenant>, CatalogError> {
        let found = rows(
            &self.client().await?,
            "-- rollouts::tenants
             select tenant_id, slug, wave, state, schema_version, error, latest_operation
             from rollout_items where rollout_id = $1 order by wave, slug",
            &[&id],
        )
        .await?;
        found
            .iter()
            .map(|row| {
                Ok(RolloutTenant {
                    tenant_id: row.get("tenant_id"),
                    slug: slug_of(row)?,
                    wave: row.get("wave"),
                    state: ItemState::parse(row.get("state")).expect("the view names no other"),
                    schema_version: row.get("schema_version"),
                    error: failure_of(row.get("error")),
                    operation: row.get("latest_operation"),
                })
            })
            .collect()
    }
}
