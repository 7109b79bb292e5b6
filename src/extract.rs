//! The axum extractor: a request in, a connection to its tenant's database out.
//!
//! A handler that takes a [`TenantConnection`] runs only for a request whose tenant was resolved, whose
//! caller may name that tenant, and whose tenant is served. The application has a [`Tenancy`] as its
//! state, or in it:
//!
//! ```no_run
//! # use axum::{Json, Router, http::StatusCode, routing::get};
//! use tenantry::{Tenancy, TenantConnection};
//!
//! async fn boards(tenant: TenantConnection) -> Result<Json<Vec<String>>, StatusCode> {
//!     let rows = tenant.query("select title from boards", &[]).await; // only ever this tenant's
//!     let rows = rows.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
//!     Ok(Json(rows.iter().map(|row| row.get(0)).collect()))
//! }
//!
//! fn routes(tenancy: Tenancy) -> Router {
//!     Router::new().route("/boards", get(boards)).with_state(tenancy)
//! }
//! ```
//!
//! A refusal is answered as a [`Problem`]. A handler that only hands work on takes a [`TenantScope`], and
//! costs no connection. [`TenantLayer`] does the same for a whole router, whatever its handlers take. A
//! request is resolved once, however many of these it meets.

use std::sync::Arc;

use axum::extract::{FromRef, FromRequestParts};
use axum::http::StatusCode;
use axum::http::request::Parts;
use uuid::Uuid;

use crate::problem::Problem;
use crate::resolve::{Access, ResolveError, Resolved, TenantResolver, denied};
use crate::router::{RouterError, TenantConnection, TenantRouter};
use crate::tenant::{TenantScope, TenantState};

mod layer;

pub use layer::{TenantLayer, TenantService};

/// How an application tells its tenants apart and reaches them. Cheap to clone.
#[derive(Clone)]
pub struct Tenancy {
    /// From a slug to a connection.
    pub router: TenantRouter,
    /// From a request to a slug.
    pub resolver: Arc<dyn TenantResolver>,
}

impl Tenancy {
    /// The tenant of a request; its slug and its caller go to the current span's fields `tenant` and
    /// `user`.
    pub async fn resolve(&self, parts: &Parts) -> Result<Resolved, ResolveError> {
        let resolved = self.resolver.resolve(parts).await?;
        let span = tracing::Span::current();
        span.record("tenant", resolved.slug.as_str()).record("user", &resolved.user);
        Ok(resolved)
    }

    /// [`Tenancy::resolve`], unless the request has been resolved before; what is found goes to its
    /// extensions.
    pub async fn resolve_once(&self, parts: &mut Parts) -> Result<Resolved, ResolveError> {
        if let Some(resolved) = parts.extensions.get::<Resolved>() {
            return Ok(resolved.clone());
        }
        let resolved = self.resolve(parts).await?;
        parts.extensions.insert(resolved.clone());
        Ok(resolved)
    }
}

/// Refuses the tenant that has the slug now if it is another one than the caller may name. A resolver
/// remembers what the catalog said of a caller, and a slug can change hands in the meantime.
pub(crate) fn check_tenant(resolved: &Resolved, id: Uuid) -> Result<(), RouterError> {
    if resolved.tenant.is_none_or(|meant| meant == id) {
        return Ok(());
    }
    Err(RouterError::AnotherTenant(resolved.slug.clone()))
}

impl<S> FromRequestParts<S> for TenantConnection
where
    Tenancy: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let tenancy = Tenancy::from_ref(state);
        let resolved = tenancy.resolve_once(parts).await?;
        let connection = match resolved.access {
            Access::ReadWrite => tenancy.router.connection(&resolved.slug).await?,
            Access::ReadOnly => tenancy.router.read_only(&resolved.slug).await?,
        };
        check_tenant(&resolved, connection.tenant().id)?;
        Ok(connection)
    }
}

impl<S> FromRequestParts<S> for Resolved
where
    Tenancy: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Ok(Tenancy::from_ref(state).resolve_once(parts).await?)
    }
}

impl<S> FromRequestParts<S> for TenantScope
where
    Tenancy: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let tenancy = Tenancy::from_ref(state);
        let resolved = tenancy.resolve_once(parts).await?;
        let scope = tenancy.router.scope(&resolved.slug).await?;
        check_tenant(&resolved, scope.id())?;
        Ok(scope)
    }
}

impl From<RouterError> for Problem {
    fn from(error: RouterError) -> Self {
        if let RouterError::Unreachable { .. } | RouterError::Catalog { .. } = &error {
            tracing::warn!(error = &error as &dyn std::error::Error, "a tenant cannot be reached");
        }
        match error {
            RouterError::UnknownTenant(_)
            | RouterError::AnotherTenant(_)
            | RouterError::NotServed {
                state: TenantState::Deleting | TenantState::Deleted, ..
            } => denied(),
            RouterError::NotServed { state: TenantState::Suspended, .. } => Self::new(
                StatusCode::FORBIDDEN,
                "tenant_suspended",
                "Tenant suspended",
                "the tenant is suspended; its operator can resume it",
            ),
            RouterError::NotServed { .. } | RouterError::Held(_) => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "tenant_not_ready",
                "Tenant not ready",
                "the tenant's database is being made or replaced; try again in a moment",
            ),
            RouterError::Busy(_) => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "tenant_busy",
                "Tenant busy",
                "all connections of the tenant are in use; try again in a moment",
            ),
            RouterError::RateLimited { retry_after, .. } => Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limited",
                "Too many queries",
                "the tenant runs as many queries a second as it may; send fewer, or try again after the time in Retry-After",
            )
            .retry_after(retry_after),
            RouterError::WrongDatabase(_) => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "isolation_refused",
                "Isolation refused",
                "the database that was reached is not this tenant's; the operator has been told",
            ),
            RouterError::Unreachable { source, .. } if source.is_of_password() => {
                password_refused()
            }
            // A secret that does not open will not open in a moment either.
            RouterError::Catalog { source, .. } if !source.is_transient() => Self::internal(),
            RouterError::Unreachable { .. } | RouterError::Catalog { .. } => Self::unavailable(),
        }
    }
}

/// What an operator does about a password that somebody has changed on the server.
pub(crate) const ROTATE: &str = "run `tenantry tenant rotate-password`";

/// The server has another password for the tenant's role than the catalog.
pub(crate) fn password_refused() -> Problem {
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "tenant_password_refused",
        "Tenant unavailable",
        "the database has another password for the tenant's role than it should; its operator can give it a new one",
    )
}
