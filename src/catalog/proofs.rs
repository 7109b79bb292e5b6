//! What verifying and drills found out about backups: columns of `backups`.

use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use super::backups::{BackupRecord, COLUMNS, from_row};
use super::operations::{BatchItem, NewOperation};
use super::{Catalog, CatalogError, TenantLock, execute, one, rows};
use crate::sealing::SealError;

/// What is known of a backup beyond its being there.
#[derive(Clone, Debug, Default)]
pub struct Proof {
    /// When every byte of it was last read and compared with its manifest.
    pub verified_at: Option<Timestamp>,
    /// When a drill last restored it and compared what came of it.
    pub proven_at: Option<Timestamp>,
    /// How many seconds that restore took.
    pub proven_seconds: Option<f64>,
    /// Why it is not to be relied on.
    pub problem: Option<String>,
}

impl CatalogError {
    /// Whether what was asked for is gone, or damaged; and not merely out of reach of this process.
    #[must_use]
    pub fn is_loss(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::Corrupt(_) | Self::Sealed(SealError::Damaged))
    }
}

impl Catalog {
    /// Whether one of these tenants has a backup that the catalog knows.
    pub async fn knows_backups_of(&self, tenants: &[Uuid]) -> Result<bool, CatalogError> {
        let row = one(
            &self.client().await?,
            "-- proofs::knows_backups_of
             select exists (select from backups where tenant_id = any($1))",
            &[&tenants],
        )
        .await?;
        Ok(row.get(0))
    }

    /// Writes down that a backup was verified, or what is wrong with it. One that was only `missing`, and is there
    /// again, is good again; only a drill takes any other problem back.
    pub async fn record_verified(
        &self,
        backup: Uuid,
        problem: Option<&str>,
        missing: bool,
    ) -> Result<(), CatalogError> {
        let client = self.client().await?;
        execute(
            &client,
            "-- proofs::record_verified
             update backups
             set verified_at = case when $2::text is null then now() else verified_at end,
                 problem = case when $2 is null and missing then null
                                when $3 and not missing then coalesce(problem, $2)
                                else coalesce($2, problem) end,
                 missing = $3 and (missing or problem is null)
             where id = $1",
            &[&backup, &problem, &missing],
        )
        .await
        .map(drop)
    }

    /// The newest good backup of every served or suspended tenant; those first that were never proven nor drilled,
    /// or not for the longest time. A drill that fails is a turn too: nobody keeps the others from theirs.
    pub async fn drill_candidates(&self, limit: i64) -> Result<Vec<BackupRecord>, CatalogError> {
        let client = self.client().await?;
        let sql = format!(
            "-- proofs::drill_candidates
             select {COLUMNS}
             from (select distinct on (tenant_id) * from backups
                   where problem is null and erased_at is null order by tenant_id, started_at desc) b
             join tenants t on t.id = b.tenant_id and t.state in ('active', 'suspended')
             order by greatest(
                          (select max(p.proven_at) from backups p where p.tenant_id = b.tenant_id),
                          (select max(o.created_at) from operations o
                           where o.tenant_id = b.tenant_id and o.kind = 'drill')) nulls first, b.id
             limit $1"
        );
        rows(&client, &sql, &[&limit]).await?.iter().map(from_row).collect()
    }

    /// When a drill was last asked for by this requester.
    pub async fn last_drill(&self, requested_by: &str) -> Result<Option<Timestamp>, CatalogError> {
        let client = self.client().await?;
        let row = one(
            &client,
            "-- proofs::last_drill
             select max(created_at) from operations where kind = 'drill' and requested_by = $1",
            &[&requested_by],
        )
        .await?;
        Ok(row.get(0))
    }

    /// Enqueues operations that are of one kind and of one batch, each with parameters of its own.
    pub async fn enqueue_each(
        &self,
        like: &NewOperation<'_>,
        items: &[(BatchItem, serde_json::Value)],
    ) -> Result<(), CatalogError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        for (item, input) in items {
            let operation = NewOperation {
                id: item.operation,
                tenant_id: item.tenant,
                input: input.clone(),
                ..like.clone()
            };
            super::operations::insert(&transaction, &operation).await?;
        }
        Ok(transaction.commit().await?)
    }
}

impl TenantLock {
    /// Writes down that a drill has restored a backup, and how long that took.
    pub async fn record_proven(&self, backup: Uuid, took: Duration) -> Result<(), CatalogError> {
        execute(
            self.session()?,
            "-- proofs::record_proven
             update backups set verified_at = now(), proven_at = now(), proven_seconds = $3, problem = null,
                    missing = false
             where id = $1 and tenant_id = $2",
            &[&backup, &self.tenant(), &took.as_secs_f64()],
        )
        .await
        .map(drop)
    }

    /// Writes down why a backup is not to be relied on, and whether that is only because it is `missing`.
    pub async fn record_problem(
        &self,
        backup: Uuid,
        problem: &str,
        missing: bool,
    ) -> Result<(), CatalogError> {
        execute(
            self.session()?,
            "-- proofs::record_problem
             update backups set problem = $3, missing = $4 where id = $1 and tenant_id = $2",
            &[&backup, &self.tenant(), &problem, &missing],
        )
        .await
        .map(drop)
    }
}
