//! [`TenantLayer`]: the tenant resolved once, for everything below.

use std::task::{Context, Poll};

use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use futures_util::future::BoxFuture;
use tower::{Layer, Service};

use super::Tenancy;
use crate::problem::Problem;

/// Lets only requests through whose tenant is resolved and whose caller may name it. Handlers below, also
/// those without a tenant in their arguments, are not reached by anybody else, and the extractors reuse
/// what the layer found. Whether the tenant is served is known when a connection is asked for.
///
/// Put it on a router with [`axum::Router::route_layer`], so that an address that does not exist is
/// answered as such.
#[derive(Clone)]
pub struct TenantLayer {
    tenancy: Tenancy,
}

/// What a [`TenantLayer`] makes of a service.
#[derive(Clone)]
pub struct TenantService<S> {
    inner: S,
    tenancy: Tenancy,
}

impl TenantLayer {
    /// Resolves as this says.
    #[must_use]
    pub fn new(tenancy: Tenancy) -> Self {
        Self { tenancy }
    }
}

impl<S> Layer<S> for TenantLayer {
    type Service = TenantService<S>;

    fn layer(&self, inner: S) -> TenantService<S> {
        TenantService { inner, tenancy: self.tenancy.clone() }
    }
}

impl<S> Service<Request> for TenantService<S>
where
    S: Service<Request, Response = Response> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let tenancy = self.tenancy.clone();
        // The one that is ready goes along; its clone has to become so.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        Box::pin(async move {
            let (mut parts, body) = request.into_parts();
            match tenancy.resolve_once(&mut parts).await {
                Ok(_) => inner.call(Request::from_parts(parts, body)).await,
                Err(error) => Ok(Problem::from(error).into_response()),
            }
        })
    }
}
