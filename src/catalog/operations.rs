//! Rows of `operations`: asking for one, watching it, and a worker's notes on it.
//!
//! The catalog keeps kind, input and memory as JSON; what they mean is the business of
//! [`crate::operations`].

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_postgres::Row;
use uuid::Uuid;

use super::audit_log::request_id;
use super::slugs::LEADS_TO;
use super::{Catalog, CatalogError, execute, maybe, one, rows};
use crate::tenant::TenantSlug;

/// One row: an operation as the catalog knows it.
#[derive(Clone, Debug)]
pub struct OperationRecord {
    /// Made by whoever asked, so that asking twice is noticed.
    pub id: Uuid,
    /// The tenant that it changes.
    pub tenant_id: Uuid,
    /// Which list of steps.
    pub kind: String,
    /// The parameters.
    pub input: Value,
    /// How far it is.
    pub state: OperationState,
    /// Whether the undoing steps are the ones to run.
    pub abandoning: bool,
    /// How many steps of the list are done.
    pub completed_steps: i32,
    /// What earlier steps wrote down.
    pub memory: Value,
    /// How often a worker has taken it.
    pub attempts: i32,
    /// Why it failed, or why it is being tried again.
    pub error: Option<Failure>,
    /// The fleet run that it belongs to.
    pub batch_id: Option<Uuid>,
    /// Who asked.
    pub requested_by: String,
    /// The worker that has it now.
    pub leased_by: Option<String>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When a worker first took it.
    pub started_at: Option<Timestamp>,
    /// When it succeeded, failed or was cancelled.
    pub finished_at: Option<Timestamp>,
}

/// How far an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    /// Waits for a worker.
    Queued,
    /// A worker has it.
    Running,
    /// Done.
    Succeeded,
    /// Stopped at an error; `retry` goes on where it stopped.
    Failed,
    /// Given up and undone.
    Cancelled,
}

/// Why an operation stopped: the step, the error and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Failure {
    /// The step that failed.
    pub step: String,
    /// What went wrong; holds no secret.
    pub message: String,
    /// What the operator can do.
    pub remedy: Option<String>,
}

/// What an operation is asked with.
#[derive(Clone, Debug)]
pub struct NewOperation<'a> {
    /// Its id, made by the caller.
    pub id: Uuid,
    /// The tenant that it changes.
    pub tenant_id: Uuid,
    /// Which list of steps.
    pub kind: &'a str,
    /// The parameters.
    pub input: Value,
    /// The fleet run that it belongs to.
    pub batch_id: Option<Uuid>,
    /// Only a worker with this set of migration files may take it.
    pub migrations_digest: Option<&'a str>,
    /// Who asks.
    pub requested_by: &'a str,
    /// The same key finds the same operation again.
    pub idempotency_key: Option<&'a str>,
}

/// One tenant's part of a batch.
#[derive(Clone, Copy, Debug)]
pub struct BatchItem {
    /// The operation's id.
    pub operation: Uuid,
    /// The tenant that it changes.
    pub tenant: Uuid,
}

/// Which operations to list, newest first.
#[derive(Clone, Debug, Default)]
pub struct OperationFilter {
    /// Of this tenant.
    pub tenant: Option<TenantSlug>,
    /// In this state.
    pub state: Option<OperationState>,
    /// Of this batch.
    pub batch: Option<Uuid>,
    /// Older than this one, for the next page.
    pub before: Option<Uuid>,
    /// At most this many.
    pub limit: i64,
}

impl OperationState {
    /// The state's name in the catalog and in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Reads a state's name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Queued, Self::Running, Self::Succeeded, Self::Failed, Self::Cancelled]
            .into_iter()
            .find(|state| state.as_str() == text)
    }

    /// Whether nobody will work on it again unless somebody asks.
    #[must_use]
    pub fn is_settled(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

impl OperationRecord {
    pub(super) fn from_row(row: &Row) -> Self {
        Self {
            id: row.get("id"),
            tenant_id: row.get("tenant_id"),
            kind: row.get("kind"),
            input: row.get("input"),
            state: OperationState::parse(row.get("state")).expect("checked by the table"),
            abandoning: row.get("abandoning"),
            completed_steps: row.get("completed_steps"),
            memory: row.get("memory"),
            attempts: row.get("attempts"),
            error: row
                .get::<_, Option<Value>>("error")
                .and_then(|error| serde_json::from_value(error).ok()),
            batch_id: row.get("batch_id"),
            requested_by: row.get("requested_by"),
            leased_by: row.get("leased_by"),
            created_at: row.get("created_at"),
            started_at: row.get("started_at"),
            finished_at: row.get("finished_at"),
        }
    }
}

/// The one statement that makes an operation; also used where a tenant is made with it.
pub(super) async fn insert(
    client: &impl deadpool_postgres::GenericClient,
    new: &NewOperation<'_>,
) -> Result<OperationRecord, CatalogError> {
    let row = one(
        client,
        "-- operations::insert
         insert into operations
             (id, tenant_id, kind, input, batch_id, migrations_digest, requested_by, idempotency_key, request_id)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         returning *",
        &[
            &new.id,
            &new.tenant_id,
            &new.kind,
            &new.input,
            &new.batch_id,
            &new.migrations_digest,
            &new.requested_by,
            &new.idempotency_key,
            &request_id().as_deref(),
        ],
    )
    .await
    .map_err(|error| {
        let name = new.idempotency_key.unwrap_or_default();
        error.on_constraint("operations_idempotency_key", "operation with the idempotency key", name)
    })?;
    Ok(OperationRecord::from_row(&row))
}

impl Catalog {
    /// Asks for an operation; a worker will take it.
    pub async fn enqueue(&self, new: &NewOperation<'_>) -> Result<OperationRecord, CatalogError> {
        insert(&self.client().await?, new).await
    }

    /// Asks for one operation for each item; all of them or none. The rest is taken from `like`. The audit log has one
    /// entry for all of them.
    pub async fn enqueue_batch(
        &self,
        like: &NewOperation<'_>,
        items: &[BatchItem],
    ) -> Result<(), CatalogError> {
        let ids: Vec<Uuid> = items.iter().map(|item| item.operation).collect();
        let tenants: Vec<Uuid> = items.iter().map(|item| item.tenant).collect();
        execute(
            &self.client().await?,
            "-- operations::enqueue_batch
             with noted as (
                 insert into audit_log (actor, action, request_id, detail)
                 select $7, 'batch.asked', $8,
                        jsonb_build_object('batch', $5::uuid, 'kind', $3::text, 'tenants', cardinality($1::uuid[]))
                 where cardinality($1::uuid[]) > 0
             )
             insert into operations
                 (id, tenant_id, kind, input, batch_id, migrations_digest, requested_by, request_id)
             select id, tenant_id, $3, $4, $5, $6, $7, $8 from unnest($1::uuid[], $2::uuid[]) as item (id, tenant_id)",
            &[
                &ids,
                &tenants,
                &like.kind,
                &like.input,
                &like.batch_id,
                &like.migrations_digest,
                &like.requested_by,
                &request_id().as_deref(),
            ],
        )
        .await
        .map(drop)
    }

    /// One operation.
    pub async fn operation(&self, id: Uuid) -> Result<OperationRecord, CatalogError> {
        let client = self.client().await?;
        let row =
            maybe(&client, "-- operations::by_id\nselect * from operations where id = $1", &[&id])
                .await?;
        match row {
            Some(row) => Ok(OperationRecord::from_row(&row)),
            None => Err(CatalogError::Missing { what: "operation", name: id.to_string() }),
        }
    }

    /// The operation that was asked for with this idempotency key.
    pub async fn operation_by_key(
        &self,
        key: &str,
    ) -> Result<Option<OperationRecord>, CatalogError> {
        let client = self.client().await?;
        let row = maybe(
            &client,
            "-- operations::by_key\nselect * from operations where idempotency_key = $1",
            &[&key],
        )
        .await?;
        Ok(row.as_ref().map(OperationRecord::from_row))
    }

    /// Operations, newest first, each with its tenant's slug.
    pub async fn operations(
        &self,
        filter: &OperationFilter,
    ) -> Result<Vec<(OperationRecord, TenantSlug)>, CatalogError> {
        let client = self.client().await?;
        // Spelled out: only so is it known, whatever the plan, that an index of the open or the failed ones will do.
        let state = filter
            .state
            .map(|state| format!("and o.state = '{}'", state.as_str()))
            .unwrap_or_default();
        let sql = format!(
            "-- operations::list
             select o.*, t.slug
             from operations o join tenants t on t.id = o.tenant_id
             where ($1::text is null or t.slug = $1 or t.id = {LEADS_TO}) {state}
               and ($2::uuid is null or o.batch_id = $2)
               and ($3::uuid is null or o.id < $3)
             order by o.id desc
             limit $4"
        );
        let found = rows(
            &client,
            &sql,
            &[
                &filter.tenant.as_ref().map(TenantSlug::as_str),
                &filter.batch,
                &filter.before,
                &filter.limit,
            ],
        )
        .await?;
        found
            .iter()
            .map(|row| Ok((OperationRecord::from_row(row), super::tenants::slug_of(row)?)))
            .collect()
    }

    /// How many operations are in each state, of one batch or of all.
    pub async fn count_operations(
        &self,
        batch: Option<Uuid>,
    ) -> Result<Vec<(OperationState, i64)>, CatalogError> {
        let client = self.client().await?;
        let found = rows(
            &client,
            "-- operations::count
             select state, count(*) from operations where $1::uuid is null or batch_id = $1 group by state",
            &[&batch],
        )
        .await?;
        Ok(found
            .iter()
            .filter_map(|row| Some((OperationState::parse(row.get(0))?, row.get(1))))
            .collect())
    }

    /// Puts a failed operation back into the queue; it goes on at the step that failed.
    ///
    /// A queued one that waits for its next attempt is tried at once.
    pub async fn retry(&self, id: Uuid) -> Result<OperationRecord, CatalogError> {
        if let Some(record) = self.requeue(id, None).await? {
            return Ok(record);
        }
        let state = self.operation(id).await?.state.as_str();
        Err(CatalogError::Conflict(format!(
            "operation {id} is {state}; only one that is failed can be retried"
        )))
    }

    /// Gives up an operation that is not running and has done fewer than `no_return` steps: a worker
    /// undoes what it has done.
    pub async fn cancel(&self, id: Uuid, no_return: i32) -> Result<OperationRecord, CatalogError> {
        if let Some(record) = self.requeue(id, Some(no_return)).await? {
            return Ok(record);
        }
        Err(CatalogError::Conflict(match self.operation(id).await?.state {
            OperationState::Queued | OperationState::Failed => format!(
                "operation {id} is past its point of no return; `tenantry operation retry {id}` goes on with it"
            ),
            state => format!(
                "operation {id} is {}; only one that is queued or failed can be cancelled",
                state.as_str()
            ),
        }))
    }

    /// Queues an operation again; with a point of no return, to be undone, unless it is past that. The audit log
    /// has who asked.
    async fn requeue(
        &self,
        id: Uuid,
        no_return: Option<i32>,
    ) -> Result<Option<OperationRecord>, CatalogError> {
        let client = self.client().await?;
        let row = maybe(
            &client,
            "-- operations::requeue
             with asked as (
                 update operations
                 set state = 'queued', run_after = now(), finished_at = null, attempts = 0,
                     completed_steps = case when $2::int is not null and not abandoning then 0
                                            else completed_steps end,
                     abandoning = abandoning or $2::int is not null
                 where id = $1 and state in ('failed', 'queued')
                   and ($2::int is null or abandoning or completed_steps < $2)
                 returning *
             ), noted as (
                 insert into audit_log (actor, action, tenant_slug, tenant_id, request_id, detail)
                 select $3::text, case when $2::int is null then 'operation.retried' else 'operation.given_up' end,
                        t.slug, t.id, $4::text, jsonb_build_object('operation', a.id, 'kind', a.kind)
                 from asked a join tenants t on t.id = a.tenant_id
             )
             select * from asked",
            &[&id, &no_return, &self.by(), &request_id().as_deref()],
        )
        .await?;
        Ok(row.as_ref().map(OperationRecord::from_row))
    }
}
