//! Making the tenants of approved registrations. It takes no input: whatever is due in the catalog is
//! done, by whichever replica comes first, and a replica that dies leaves it due.

use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Environment, Work};
use crate::catalog::CatalogError;
use crate::catalog::changes::{Change, Changes};

/// How often to look when nothing is heard.
const PAUSE: Duration = Duration::from_secs(30);

/// Makes tenants as their registrations are approved, until `shutdown`.
pub async fn run(environment: Environment, changes: Changes, shutdown: CancellationToken) {
    let mut news = changes.subscribe();
    loop {
        match shutdown.run_until_cancelled(make_due(&environment)).await {
            None => return,
            Some(Ok(())) => {}
            Some(Err(error)) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "the tenant of a registration could not be made");
            }
        }
        let heard =
            async { while !matches!(news.next().await, Change::Registration | Change::Unknown) {} };
        if shutdown.run_until_cancelled(timeout(PAUSE, heard)).await.is_none() {
            return;
        }
    }
}

async fn make_due(environment: &Environment) -> Result<(), CatalogError> {
    let work = Work::Provision { sample_data: false };
    let operation = |tenant| work.new_operation(tenant, "registration");
    let mut outcome = Ok(());
    for id in environment.catalog.registrations_due().await? {
        // One that cannot be had must not keep the others waiting.
        match environment.catalog.fulfil_registration(id, operation).await {
            Ok(Some(made)) => {
                tracing::info!(tenant = %made.slug, registration = %id, "a registration has its tenant");
            }
            Ok(None) => {}
            Err(error) => outcome = Err(error),
        }
    }
    outcome
}
