//! What the router tells those of this crate who open sessions of another kind than its own.
//!
//! The rules are the same for them: a place only of a tenant that is active, the stamp checked before
//! anything else, nothing open beyond the server's budget, and no statement beyond the tenant's rate.

use std::sync::Arc;
use std::time::Instant;

use uuid::Uuid;

use super::read_replicas::ReadReplica;
use super::server::Server;
use super::{Meter, RouterError, RouterSettings, TenantRouter, Toll};
use crate::catalog::changes::Subscription;
use crate::catalog::tenants::Place;
use crate::metrics;
use crate::tenant::TenantSlug;

impl TenantRouter {
    /// The place of an active tenant; waits out a cutover.
    pub(crate) async fn active(
        &self,
        slug: &TenantSlug,
        deadline: Instant,
    ) -> Result<Arc<Place>, RouterError> {
        Ok(Arc::clone(&self.shared.routes.active(slug, deadline).await?.place))
    }

    /// [`TenantRouter::active`] as soon as a statement of the tenant may run, with the toll for what follows.
    pub(crate) async fn enter(
        &self,
        slug: &TenantSlug,
        deadline: Instant,
    ) -> Result<(Arc<Place>, Option<Toll>), RouterError> {
        let (route, toll) = self.shared.routes.enter(slug, deadline).await?;
        Ok((Arc::clone(&route.place), toll))
    }

    /// The same, and where else the tenant can be read from now, the least busy first.
    pub(crate) async fn enter_to_read(
        &self,
        slug: &TenantSlug,
        deadline: Instant,
    ) -> Result<(Arc<Place>, Vec<Arc<ReadReplica>>, Option<Toll>), RouterError> {
        let (route, toll) = self.shared.routes.enter(slug, deadline).await?;
        Ok((Arc::clone(&route.place), self.shared.elsewhere(&route), toll))
    }

    /// Forgets a place that turned out to be stale.
    pub(crate) async fn forget(&self, slug: &TenantSlug) {
        self.shared.evict(slug).await;
    }

    /// The budget of a server, for whoever opens connections to it.
    pub(crate) fn server(&self, id: Uuid) -> Arc<Server> {
        self.shared.servers.get(id)
    }

    /// What counts a tenant's usage.
    pub(crate) fn meter(&self, tenant: Uuid) -> Arc<Meter> {
        self.shared.meters.of(tenant)
    }

    /// The bounds that everybody keeps to.
    pub(crate) fn settings(&self) -> &RouterSettings {
        &self.shared.settings
    }

    /// Everything that changes from now on.
    pub(crate) fn news(&self) -> Subscription {
        self.shared.changes.subscribe()
    }

    /// The refusal of a database without the tenant's stamp; the operator is told.
    pub(crate) fn wrong_stamp(slug: &TenantSlug) -> RouterError {
        metrics::isolation_violation("wrong_stamp");
        tracing::error!(tenant = %slug, "a database without the tenant's stamp was refused");
        RouterError::WrongDatabase(slug.clone())
    }
}
