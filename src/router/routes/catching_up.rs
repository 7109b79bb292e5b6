//! A tenant that is behind is migrated when it is used, where the settings say so: requests wait, as in a cutover.
//!
//! The catalog says with the place whether a tenant is behind, so one that is not costs nothing. Of all who wait
//! in this replica one asks and listens, and over the replicas one operation is open. Must never: keep a tenant
//! away. One whose migration fails, takes long, or finds no worker is served at its old version.

use std::time::Duration;

use tokio::time::timeout;

use super::{Route, Routes};
use crate::catalog::changes::Change;
use crate::catalog::operations::OperationState;
use crate::router::RouterSettings;

/// How long requests wait for a migration: as for a cutover, less what it takes to connect after it.
pub(super) fn hold(settings: &RouterSettings) -> Duration {
    settings.pool_wait_timeout * 3 / 4
}

impl Routes {
    /// Has the tenant migrated, and waits for that.
    pub(super) async fn catch_up(&self, route: &Route) {
        let mut news = self.changes.subscribe();
        let tenant = &route.place.tenant;
        let asked = match self.catalog.in_time(self.catalog.catch_up(tenant.id)).await {
            Ok(Some(asked)) => asked,
            Ok(None) => return,
            Err(error) => {
                return tracing::debug!(tenant = %tenant.slug, %error, "nobody can be asked for a migration");
            }
        };
        // Counted from when it was asked for: who comes later, or looks again, waits for the rest.
        let left = self.hold.unwrap_or_default().saturating_sub(asked.age);
        let ended = async {
            loop {
                match news.next().await {
                    Change::Operation(id, state) if id == asked.operation && state.is_settled() => {
                        return Some(state);
                    }
                    Change::Unknown => return None,
                    _ => {}
                }
            }
        };
        match timeout(left, ended).await {
            // It is elsewhere now, or nobody knows.
            Ok(Some(OperationState::Succeeded) | None) => {
                for slug in &route.place.slugs {
                    self.settings_changed(slug).await;
                }
            }
            Ok(Some(_)) => {
                tracing::warn!(tenant = %tenant.slug, operation = %asked.operation, "served at its old version: its migration failed");
            }
            Err(_) if left.is_zero() => {}
            Err(_) => {
                tracing::info!(tenant = %tenant.slug, operation = %asked.operation, "served at its old version while it is migrated");
            }
        }
    }
}
