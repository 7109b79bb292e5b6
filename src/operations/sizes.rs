//! How large tenants' databases are, and how long they were at work: looked at once an hour, with one query for each
//! server. Whichever replica comes first looks.

use std::collections::HashMap;
use std::time::Duration;

use tenantry_provisioning::{DatabaseUsage, database_usage};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Environment, StepError};
use crate::catalog::usage::Measured;
use crate::tenant::Tenant;

/// How often to look whether it is time.
const PAUSE: Duration = Duration::from_mins(1);
/// How often the sizes are looked at.
const EVERY: Duration = Duration::from_hours(1);

/// Looks at the sizes of databases when it is time, until `shutdown`.
pub async fn run(environment: Environment, shutdown: CancellationToken) {
    // Not at once: a replica that has just begun has more urgent work.
    while shutdown.run_until_cancelled(sleep(PAUSE)).await.is_some() {
        let measured = environment.catalog.chore("sizes", measure_if_due(&environment));
        match shutdown.run_until_cancelled(Box::pin(measured)).await {
            None => return,
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                tracing::warn!(%error, "the sizes of databases are not known; they will be looked at again");
            }
        }
    }
}

async fn measure_if_due(environment: &Environment) -> Result<(), StepError> {
    if !environment.catalog.sizes_due(EVERY.as_secs_f64()).await? {
        return Ok(());
    }
    environment.catalog.forget_usage_notes().await?;
    environment.measure_databases().await
}

impl Environment {
    /// Writes down how large every tenant's database is now. A server that is away keeps the others from nothing.
    pub async fn measure_databases(&self) -> Result<(), StepError> {
        let mut by_server: HashMap<Uuid, Vec<Tenant>> = HashMap::new();
        for tenant in self.catalog.living_tenants(None).await? {
            by_server.entry(tenant.server_id).or_default().push(tenant);
        }
        let mut outcome = Ok(());
        for (server, tenants) in by_server {
            let measured = self.measure_on(server, &tenants).await;
            outcome = outcome.and(measured);
        }
        outcome
    }

    async fn measure_on(&self, id: Uuid, tenants: &[Tenant]) -> Result<(), StepError> {
        let server = self.server(id).await?;
        let databases: Vec<_> = tenants.iter().map(|tenant| tenant.database.clone()).collect();
        let mut ids: HashMap<&str, Uuid> =
            tenants.iter().map(|tenant| (tenant.database.as_str(), tenant.id)).collect();
        let measured = database_usage(&server, &databases).await?.into_iter().filter_map(|usage| {
            let DatabaseUsage { database, oid, bytes, counted_since, active_seconds } = usage;
            let tenant = ids.remove(database.as_str())?;
            Some(Measured { tenant, oid, bytes, counted_since, active_seconds })
        });
        let measured: Vec<_> = measured.collect();
        Ok(self.catalog.record_measured(id, &measured).await?)
    }
}
