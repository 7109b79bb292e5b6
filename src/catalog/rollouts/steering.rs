//! What somebody does to a rollout: hold it, go on with it, give it up.

use serde_json::json;
use uuid::Uuid;

use super::super::{Catalog, CatalogError, execute, maybe};
use super::{COLUMNS, RolloutRecord, RolloutState};
use crate::catalog::audit_log::{self, Event};
use crate::catalog::operations::Failure;

impl Catalog {
    /// Holds a rollout: operations under way end, the others stay in the queue until somebody resumes it.
    pub async fn pause_rollout(
        &self,
        id: Uuid,
        reason: &Failure,
    ) -> Result<Option<RolloutRecord>, CatalogError> {
        let sql = format!(
            "-- rollouts::pause
             with changed as (
                 update rollouts set state = 'paused', reason = $2 where id = $1 and state = 'running'
                 returning *
             ), told as (
                 insert into rollout_events (rollout_id, kind, detail)
                 select id, 'paused', jsonb_build_object('reason', $2::jsonb) from changed
             )
             select {COLUMNS} from changed"
        );
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let row = maybe(&transaction, &sql, &[&id, &json!(reason)]).await?;
        if row.is_some() {
            let detail = json!({ "rollout": id, "reason": reason });
            let event = Event { actor: self.by(), action: "rollout.paused", tenant: None, detail };
            audit_log::record(&transaction, &event).await?;
        }
        transaction.commit().await?;
        Ok(row.as_ref().map(RolloutRecord::from_row))
    }

    /// Goes on with a paused rollout, or with what failed of one that has ended: tenants that failed are
    /// tried again, those that are done stay done. One that is running is left as it is.
    pub async fn resume_rollout(&self, id: Uuid, by: &str) -> Result<RolloutRecord, CatalogError> {
        let before = self.rollout(id).await?;
        // Its leader may have died: whoever asks goes on with it.
        if before.state == RolloutState::Running {
            return Ok(before);
        }
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let sql = format!(
            "-- rollouts::resume
             with changed as (
                 update rollouts
                 set state = 'running', reason = null, finished_at = null, bake_until = null
                 where id = $1 and state in ('paused', 'failed')
                 returning *
             ), told as (
                 insert into rollout_events (rollout_id, kind, detail)
                 select id, 'resumed', jsonb_build_object('by', $2::text) from changed
             )
             select {COLUMNS} from changed"
        );
        let changed = match maybe(&transaction, &sql, &[&id, &by]).await {
            Ok(changed) => changed,
            Err(error) => {
                drop(transaction);
                return Err(self.or_open(error).await);
            }
        };
        let Some(changed) = changed else {
            drop(transaction);
            let state = self.rollout(id).await?.state.as_str();
            return Err(CatalogError::Conflict(format!(
                "rollout {id} is {state}; only one that is paused or has failed can be resumed"
            )));
        };
        execute(
            &transaction,
            "-- rollouts::retry
             update operations o
             set state = 'queued', run_after = now(), finished_at = null, attempts = 0,
                 completed_steps = case when abandoning then 0 else completed_steps end, abandoning = false
             from rollout_items i
             where i.rollout_id = $1 and i.state = 'failed' and o.id in (i.operation_id, i.backup_id)
               and o.state in ('failed', 'cancelled')",
            &[&id],
        )
        .await?;
        let detail = json!({ "rollout": id });
        let event = Event { actor: by, action: "rollout.resumed", tenant: None, detail };
        audit_log::record(&transaction, &event).await?;
        transaction.commit().await?;
        Ok(RolloutRecord::from_row(&changed))
    }

    /// Gives a rollout up, also one that has failed: operations under way end, the others are cancelled. What is done
    /// stays done.
    pub async fn abort_rollout(&self, id: Uuid, by: &str) -> Result<RolloutRecord, CatalogError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let sql = format!(
            "-- rollouts::abort
             with changed as (
                 update rollouts set state = 'aborted', finished_at = coalesce(finished_at, now())
                 where id = $1 and state in ('running', 'paused', 'failed')
                 returning *
             ), told as (
                 insert into rollout_events (rollout_id, kind, detail)
                 select id, 'aborted', jsonb_build_object('by', $2::text) from changed
             )
             select {COLUMNS} from changed"
        );
        let Some(row) = maybe(&transaction, &sql, &[&id, &by]).await? else {
            drop(transaction);
            let state = self.rollout(id).await?.state.as_str();
            return Err(CatalogError::Conflict(format!(
                "rollout {id} is {state}; only one that is running, paused or failed can be aborted"
            )));
        };
        // A backup that has begun may as well be had; nothing comes after it.
        execute(
            &transaction,
            "-- rollouts::cancel
             update operations set state = 'cancelled', finished_at = now()
             where batch_id = $1 and state = 'queued' and (kind = 'migrate' or attempts = 0)",
            &[&id],
        )
        .await?;
        let detail = json!({ "rollout": id });
        let event = Event { actor: by, action: "rollout.aborted", tenant: None, detail };
        audit_log::record(&transaction, &event).await?;
        transaction.commit().await?;
        Ok(RolloutRecord::from_row(&row))
    }
}
