//! Scopes: a tenant named for later, and found again only if it is still the same one.

use std::sync::Arc;
use std::time::Instant;

use super::{RouterError, TenantConnection, TenantRouter};
use crate::catalog::CatalogError;
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
        self.expect_same(scope).await?;
        same(scope, self.connection(scope.slug()).await?)
    }

    /// A connection that can only read, as [`TenantRouter::read_only`] gives it, to the database of the
    /// tenant that the scope was made for.
    ///
    /// # Errors
    ///
    /// As [`TenantRouter::connection_in`].
    pub async fn read_only_in(&self, scope: &TenantScope) -> Result<TenantConnection, RouterError> {
        self.expect_same(scope).await?;
        same(scope, self.read_only(scope.slug()).await?)
    }

    /// Looks who has the slug now, before a connection is made for the wrong one. A cached route may be
    /// behind the scope, and work is not dropped for that: a no comes from the catalog itself.
    async fn expect_same(&self, scope: &TenantScope) -> Result<(), RouterError> {
        let slug = scope.slug();
        if self.route(slug).await?.tenant.id == scope.id() {
            return Ok(());
        }
        match self.shared.routes.catalog().tenant(slug).await {
            Ok(tenant) if tenant.id == scope.id() => {
                self.shared.routes.evict(slug).await;
                Ok(())
            }
            Ok(_) => Err(refuse(scope)),
            Err(CatalogError::Missing { .. }) => Err(RouterError::UnknownTenant(slug.clone())),
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
