//! The loops of a replica that does control-plane work: drive operations, lead rollouts, bring tenants up to
//! date, ask for scheduled backups, audit, sign checkpoints of the audit log, measure databases, remove what ended long ago,
//! make the tenants of registrations, tend templates and spares, keep the gauges. Every loop ends with the shutdown signal; operations
//! under way are handed back between two steps.

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::audit;
use crate::catalog::CatalogError;
use crate::catalog::changes::Changes;
use crate::metrics;
use crate::operations::{
    Environment, Runner, backup, catalog_backup, catching_up, checkpoints, drills, history,
    registrations, rollouts, sizes, upkeep,
};
use crate::tenant::TenantState;

/// How often the gauges are brought up to date.
const GAUGES: Duration = Duration::from_secs(15);
/// A server that does not answer within this time counts as down.
const SERVER_PATIENCE: Duration = Duration::from_secs(5);

/// The loops of one replica.
pub struct Worker {
    environment: Environment,
    changes: Changes,
    concurrency: usize,
}

impl Worker {
    /// A worker that drives at most `concurrency` operations at a time.
    #[must_use]
    pub fn new(environment: Environment, changes: Changes, concurrency: usize) -> Self {
        Self { environment, changes, concurrency }
    }

    /// Works until `shutdown`; returns once everything under way is handed back.
    pub async fn run(self, shutdown: CancellationToken) {
        let runner = Runner::new(self.environment.clone(), shutdown.clone());
        tokio::join!(
            runner.work(self.concurrency, &self.changes),
            registrations::run(self.environment.clone(), self.changes.clone(), shutdown.clone()),
            catching_up::run(self.environment.clone(), self.changes.clone(), shutdown.clone()),
            rollouts::run(self.environment.clone(), self.changes.clone(), shutdown.clone()),
            backup::schedule::run(self.environment.clone(), self.changes.clone(), shutdown.clone()),
            catalog_backup::run(self.environment.clone(), shutdown.clone()),
            checkpoints::run(self.environment.clone(), shutdown.clone()),
            sizes::run(self.environment.clone(), shutdown.clone()),
            history::run(self.environment.clone(), shutdown.clone()),
            drills::run(self.environment.clone(), shutdown.clone()),
            audit::schedule::run(self.environment.clone(), shutdown.clone()),
            upkeep::run(self.environment.clone(), self.changes.clone(), shutdown.clone()),
            watch_gauges(&self.environment, shutdown),
        );
    }
}

async fn watch_gauges(environment: &Environment, shutdown: CancellationToken) {
    loop {
        if let Err(error) = refresh_gauges(environment).await {
            tracing::debug!(%error, "the gauges are not up to date");
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = sleep(GAUGES) => {}
        }
    }
}

async fn refresh_gauges(environment: &Environment) -> Result<(), CatalogError> {
    let counted = environment.catalog.count_tenants().await?;
    for state in TenantState::ALL {
        let number =
            counted.iter().find(|(counted, _)| *counted == state).map_or(0, |(_, number)| *number);
        metrics::tenants(state.as_str(), number);
    }
    for (version, number) in environment.catalog.count_schema_versions().await? {
        metrics::schema_version(version, number);
    }
    if let Some(last) = environment.catalog.last_audit().await? {
        let found = last.findings;
        metrics::audit_findings("critical", found.critical);
        metrics::audit_findings("high", found.high);
        metrics::audit_findings("medium", found.medium);
        metrics::audit_findings("low", found.low);
    }
    for record in environment.catalog.servers().await? {
        let up = environment.server_answers(record.id, SERVER_PATIENCE).await;
        metrics::server_up(&record.name, up);
        if record.away || !up {
            environment.catalog.note_server(record.id, up).await?;
        }
    }
    Ok(())
}
