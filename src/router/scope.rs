//! Scopes: a tenant named for later, and found again only if it is still the same one.

use std::sync::Arc;
use std::time::Instant;

use super::{RouterError, TenantConnection, TenantRouter};
use crate::metrics;
use crate::tenant::{TenantScope, TenantSlug};

impl TenantConnection {
    /// What a job carries to work for this tenant later: see [`TenantRouter::connection_in`].
    #[must_use]
    pub fn scope(&self) -> TenantScope {
        TenantScope::from(self.tenant())
    }
}

impl TenantRouter {
    /// The scope of a tenant, without a connection to it.
    ///
    /// # Errors
    ///
    /// As [`TenantRouter::connection`]: no work is taken for a tenant that is not served.
    pub async fn scope(&self, slug: &TenantSlug) -> Result<TenantScope, RouterError> {
        let deadline = Instant::now() + self.shared.settings.pool_wait_timeout;
        let route = self.shared.routes.active(slug, deadline).await?;
        Ok(TenantScope::from(&route.place.tenant))
    }

    /// A connection to the database of the tenant that the scope was made for.
    ///
    /// # Errors
    ///
    /// As [`TenantRouter::connection`], and [`RouterError::AnotherTenant`] when the slug has meanwhile
    /// become another tenant's.
    pub async fn connection_in(
        &self,
        scope: &TenantScope,
    ) -> Result<TenantConnection, RouterError> {
        let slug = self.present_slug(scope).await?;
        same(scope, self.connection(&slug).await?)
    }

    /// A connection that can only read, as [`TenantRouter::read_only`] gives it, to the database of the
    /// tenant that the scope was made for.
    ///
    /// # Errors
    ///
    /// As [`TenantRouter::connection_in`].
    pub async fn read_only_in(&self, scope: &TenantScope) -> Result<TenantConnection, RouterError> {
        let slug = self.present_slug(scope).await?;
        same(scope, self.read_only(&slug).await?)
    }

    /// Looks who has the slug now, before a connection is made for the wrong one. A cached route may be
    /// behind the scope, and the tenant may have another slug since: work is not dropped for either, and a
    /// no comes from the catalog itself.
    async fn present_slug(&self, scope: &TenantScope) -> Result<TenantSlug, RouterError> {
        let slug = scope.slug();
        let route = self.route(slug).await;
        let is_taken = match &route {
            Ok(place) if place.tenant.id == scope.id() => return Ok(slug.clone()),
            Ok(_) => true,
            Err(RouterError::UnknownTenant(_)) => false,
            Err(error) => return Err(error.clone()),
        };
        match self.shared.routes.catalog().slug_of_tenant(scope.id()).await {
            Ok(Some(present)) => {
                self.shared.routes.evict(&present).await;
                Ok(present)
            }
            Ok(None) if is_taken => Err(refuse(scope)),
            Ok(None) => Err(RouterError::UnknownTenant(slug.clone())),
            Err(error) => Err(RouterError::Catalog { slug: slug.clone(), source: Arc::new(error) }),
        }
    }
}

/// The slug may have changed hands while the connection was made.
fn same(
    scope: &TenantScope,
    connection: TenantConnection,
) -> Result<TenantConnection, RouterError> {
    if connection.tenant().id == scope.id() { Ok(connection) } else { Err(refuse(scope)) }
}

fn refuse(scope: &TenantScope) -> RouterError {
    metrics::isolation_violation("stale_scope");
    tracing::warn!(tenant = %scope.slug(), id = %scope.id(), "work for a tenant that is gone was refused");
    RouterError::AnotherTenant(scope.slug().clone())
}
