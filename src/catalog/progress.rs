//! A worker's notes on the operation that it holds. Each fails with [`CatalogError::LostLock`] when the
//! lease has passed to somebody else.

use std::sync::PoisonError;

use futures_util::future;
use serde_json::Value;
use uuid::Uuid;

use super::lock::{Claim, Claimant, Claimed};
use super::operations::{Failure, OperationState};
use super::rollouts::Enqueue;
use super::schema::columns;
use super::{CatalogError, Params, TenantLock, WRITTEN_THROUGH, execute, maybe};

impl TenantLock {
    /// Writes down that the first `completed` steps are done.
    pub async fn record_progress(&self, completed: i32) -> Result<(), CatalogError> {
        let changed = execute(
            self.session()?,
            "-- operations::record_progress
             update operations set completed_steps = $3
             where id = $1 and lease_token = $2 and state = 'running'",
            &[&self.operation(), &self.token(), &completed],
        )
        .await?;
        held(changed)
    }

    /// Writes down what a later step, or a later attempt, must know. It is on the disk when this returns.
    pub async fn remember(&self, key: &str, value: &Value) -> Result<(), CatalogError> {
        let sql = format!(
            "-- operations::remember
             update operations set memory = memory || jsonb_build_object($3::text, $4::jsonb)
             where id = $1 and lease_token = $2 and state = 'running' and {WRITTEN_THROUGH}"
        );
        let params: Params<'_> = &[&self.operation(), &self.token(), &key, value];
        held(execute(self.session()?, &sql, params).await?)
    }

    /// Ends the operation: done, or given up and undone.
    pub async fn finish(self, state: OperationState, completed: i32) -> Result<(), CatalogError> {
        self.end(state, completed, None, 0.0).await
    }

    /// Ends an operation of a rollout, refills the queue where that `refill`s it, and takes the next one, all in one
    /// round trip. What cannot be taken now is left to the next claim.
    ///
    /// Only in a session that knows these statements is their order this one. It is no condition: until the operation
    /// has ended there is less room and not more, its tenant is no candidate, and two tenants' locks do no harm.
    pub async fn finish_and_claim(
        self,
        state: OperationState,
        completed: i32,
        rollout: Uuid,
        refill: Option<&Enqueue>,
        claimant: Claimant<'_>,
    ) -> Result<Option<Claimed>, CatalogError> {
        let refilled = async {
            match refill {
                Some(enqueue) => enqueue.run(self.session()?, rollout).await.map(drop),
                None => Ok(()),
            }
        };
        let (settled, refilled, taken) = future::join3(
            self.settle(state, completed, None, 0.0),
            refilled,
            self.holder().take(Claim::Batch(rollout), claimant),
        )
        .await;
        settled?;
        if let Err(error) = refilled {
            tracing::debug!(%error, "what comes next is left to the leader of the rollout");
        }
        match taken {
            Ok(taken) => Ok(self.into_holder().into_claimed(taken).await),
            Err(error) => {
                tracing::debug!(%error, "the next operation was not taken");
                Ok(None)
            }
        }
    }

    /// Ends the operation with an error.
    pub async fn fail(self, completed: i32, failure: &Failure) -> Result<(), CatalogError> {
        self.end(OperationState::Failed, completed, Some(failure), 0.0).await
    }

    /// Puts the operation back into the queue, to be tried again after a while.
    pub async fn postpone(
        self,
        completed: i32,
        failure: &Failure,
        delay_secs: f64,
    ) -> Result<(), CatalogError> {
        self.end(OperationState::Queued, completed, Some(failure), delay_secs).await
    }

    /// Puts the operation back into the queue, between two steps. That was no try, so it does not count as one.
    pub async fn hand_back(self, completed: i32) -> Result<(), CatalogError> {
        self.end(OperationState::Queued, completed, None, 0.0).await
    }

    async fn end(
        self,
        state: OperationState,
        completed: i32,
        failure: Option<&Failure>,
        delay_secs: f64,
    ) -> Result<(), CatalogError> {
        self.settle(state, completed, failure, delay_secs).await?;
        self.into_holder().keep();
        Ok(())
    }

    /// Writes the end through to the disk, and gives the tenant's lock back with it. That of a rollout's migration,
    /// whose own history is on the disk, gets there with what follows, and at the latest with the rollout's end: if
    /// it is lost, the migration is looked at once more and finds nothing to do.
    async fn settle(
        &self,
        state: OperationState,
        completed: i32,
        failure: Option<&Failure>,
        delay_secs: f64,
    ) -> Result<(), CatalogError> {
        let failure = failure.map(|failure| serde_json::json!(failure));
        let schema = self.schema.lock().unwrap_or_else(PoisonError::into_inner).take();
        let version = schema.as_ref().map(|schema| schema.version);
        let repeatables = schema.as_ref().and_then(|schema| schema.repeatables.as_deref());
        let (track, track_version, track_repeatables) =
            columns(schema.as_ref().and_then(|schema| schema.track.as_ref()));
        let settled = maybe(
            self.session()?,
            // Handed back, it has its error and its attempts of before, and at least one where a step was done.
            // Of a rollout that was given up meanwhile nothing begins again; its row makes the two wait for each
            // other.
            "-- operations::settle
             with durable as (
                 select set_config('synchronous_commit',
                                   case when kind = 'migrate' and batch_id is not null and $3::text = 'succeeded'
                                        then 'off' else 'on' end, true)
                 from operations where id = $1
             ), rollout as (
                 select r.state from rollouts r join operations o on o.batch_id = r.id
                 where o.id = $1 and o.kind = 'migrate' and $3::text = 'queued' for share of r
             ), outcome as materialized (
                 select case when exists (select from rollout where state = 'aborted') then 'cancelled'
                             else $3::text end as becomes
             ), settled as (
                 update operations
                 set state = becomes, completed_steps = $4,
                     error = case when $3 = 'queued' then coalesce($5, error) else $5 end,
                     attempts = case when $3 = 'queued' and $5 is null
                                     then greatest(attempts - 1, least($4, 1)) else attempts end,
                     run_after = now() + $6::float8 * interval '1 second',
                     finished_at = case when becomes = 'queued' then null else now() end,
                     lease_token = null, lease_until = null, leased_by = null
                 from outcome
                 where id = $1 and lease_token = $2 and state = 'running' and (select true from durable)
                 returning tenant_id
             ), schema as (
                 update tenants t
                 set schema_version = $7, repeatables_digest = coalesce($8, repeatables_digest),
                     track = coalesce($9, track), track_version = coalesce($10, track_version),
                     track_repeatables = coalesce($11, track_repeatables)
                 from settled s where t.id = s.tenant_id and $7::bigint is not null
                 returning t.id
             )
             select pg_advisory_unlock(hashtextextended(s.tenant_id::text, 0))
             from settled s left join schema on schema.id = s.tenant_id",
            &[
                &self.operation(),
                &self.token(),
                &state.as_str(),
                &completed,
                &failure,
                &delay_secs,
                &version,
                &repeatables,
                &track,
                &track_version,
                &track_repeatables,
            ],
        )
        .await?;
        match settled.map(|row| row.get(0)) {
            Some(true) => Ok(()),
            _ => Err(CatalogError::LostLock),
        }
    }
}

fn held(changed: u64) -> Result<(), CatalogError> {
    if changed == 1 { Ok(()) } else { Err(CatalogError::LostLock) }
}
