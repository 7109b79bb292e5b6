//! Backups of the catalog itself: into the bucket, beside those of the tenants that it knows, and as often as
//! the newest one is older than it should be. With the bucket and the master key, every tenant can be had back.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Environment, StepError, chain};
use crate::catalog::CatalogError;
use crate::catalog::export::CatalogExport;
use crate::metrics;

/// How often to look.
const PAUSE: Duration = Duration::from_mins(1);
/// How old the newest may become.
const EVERY: Duration = Duration::from_hours(1);
/// How many are kept: two days of them.
const KEPT: usize = 48;

impl Environment {
    /// Backs the catalog up to the bucket; returns the backup's id.
    pub async fn back_up_catalog(&self) -> Result<Uuid, StepError> {
        let store = self.store()?;
        let export = self.catalog.export(&self.limits.configuration).await?;
        let id = Uuid::now_v7();
        store.put_catalog(id, &self.catalog.seal_export(&export)).await?;
        let stored = store.catalogs().await?;
        for old in stored.iter().rev().skip(KEPT) {
            store.delete_catalog(*old).await?;
        }
        Ok(id)
    }

    /// The newest backup of the catalog in the bucket, if there is one. One that the master key does not open
    /// gives way to the one before; that none can be opened is an error.
    pub async fn newest_catalog_backup(&self) -> Result<Option<CatalogExport>, StepError> {
        let store = self.store()?;
        let mut refused = None;
        for id in store.catalogs().await?.into_iter().rev() {
            match self.catalog.open_export(&store.get_catalog(id).await?) {
                Err(error @ CatalogError::Sealed(_)) => {
                    tracing::warn!(%id, error = %chain(&error), "a backup of the catalog is passed over");
                    refused.get_or_insert(error);
                }
                opened => return Ok(Some(opened?)),
            }
        }
        refused.map_or(Ok(None), |error| Err(error.into()))
    }
}

/// Backs the catalog up now and then, until `shutdown`.
pub async fn run(environment: Environment, shutdown: CancellationToken) {
    if environment.store.is_none() {
        return;
    }
    loop {
        let backed_up = environment.catalog.chore("catalog backup", back_up_if_due(&environment));
        match shutdown.run_until_cancelled(Box::pin(backed_up)).await {
            None => return,
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                tracing::warn!(%error, "the catalog is not backed up; it will be tried again");
            }
        }
        if shutdown.run_until_cancelled(sleep(PAUSE)).await.is_none() {
            return;
        }
    }
}

async fn back_up_if_due(environment: &Environment) -> Result<(), StepError> {
    let newest = environment.store()?.catalogs().await?.pop();
    if let Some(made) = newest.and_then(made_at) {
        let age = Duration::try_from(Timestamp::now().duration_since(made)).unwrap_or_default();
        metrics::catalog_backup_age(age);
        if age < EVERY {
            return Ok(());
        }
    }
    let id = environment.back_up_catalog().await?;
    metrics::catalog_backup_age(Duration::ZERO);
    tracing::info!(%id, "the catalog is backed up");
    Ok(())
}

/// The ids of backups are in the order of time, and say it.
fn made_at(id: Uuid) -> Option<Timestamp> {
    let (seconds, nanos) = id.get_timestamp()?.to_unix();
    Timestamp::new(i64::try_from(seconds).ok()?, i32::try_from(nanos).ok()?).ok()
}
