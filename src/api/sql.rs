//! `POST /sql`: SQL over HTTP, as the npm client `@neondatabase/serverless` speaks it.
//!
//! The tenant and the caller come from the request as everywhere else. The connection string that the client
//! sends beside them proves nothing, unless the operator wants the password in it to count
//! (`SQL_PASSWORD_AUTH`). One that names another database is refused, because somebody means another tenant.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest as _, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use crate::catalog::tenants::Place;
use crate::extract::{Tenancy, check_tenant};
use crate::metrics;
use crate::problem::Problem;
use crate::resolve::connection_string::CONNECTION_STRING;
use crate::resolve::{Claim, Passwords, denied};
use crate::router::RouterError;
use crate::sql::{Answered, Gateway};
use crate::tenant::TenantScope;

mod refusal;
mod request;
mod sending;

use refusal::Refusal;
pub(super) use request::HEADERS;
use sending::sending;

/// What the endpoint works with.
#[derive(Clone)]
pub(super) struct Endpoint {
    pub tenancy: Tenancy,
    pub gateway: Gateway,
    /// None where the password of a connection string does not count.
    pub passwords: Option<Arc<Passwords>>,
}

pub(super) async fn run(State(endpoint): State<Endpoint>, request: Request) -> Response {
    // Whoever sends a connection string is the client, which reads an error's fields only in a 400.
    let is_client = request.headers().contains_key(CONNECTION_STRING);
    match endpoint.answer(request).await {
        Ok(answered) => sending(answered, endpoint.gateway.settings().send_timeout),
        Err(refusal) => refusal.into_response(is_client),
    }
}

impl Endpoint {
    async fn answer(&self, request: Request) -> Result<Answered, Refusal> {
        let (mut parts, body) = request.into_parts();
        if let Some(passwords) = &self.passwords {
            self.prove(passwords, &mut parts).await?;
        }
        let resolved = self.tenancy.resolve(&parts).await?;
        let place = self.tenancy.router.route(&resolved.slug).await?;
        check_tenant(&resolved, place.tenant.id)?;
        check_database(&parts.headers, &place)?;
        metrics::tenant_request(place.tenant.slug.as_str(), "/sql");
        let headers = std::mem::take(&mut parts.headers);
        let body = Bytes::from_request(Request::from_parts(parts, body), &()).await;
        let request = request::read(&headers, &body.map_err(|error| unreadable(&error))?)?;
        let tenant = TenantScope::from(&place.tenant);
        Ok(self.gateway.run(&tenant, resolved.access, &request).await?)
    }

    /// Proves who sends a request that has a password and no token.
    async fn prove(&self, passwords: &Passwords, parts: &mut Parts) -> Result<(), Refusal> {
        let Ok(Some(claim)) = Claim::of(parts) else { return Ok(()) };
        let place = match passwords.slug_of(&claim)? {
            Some(slug) => match self.tenancy.router.route(&slug).await {
                Err(RouterError::UnknownTenant(_)) => None,
                place => Some(place?),
            },
            None => None,
        };
        let proven = passwords.prove(claim, place.as_deref()).await?;
        parts.extensions.insert(proven);
        Ok(())
    }
}

/// Refuses a connection string that names the database of somebody else. It may be older than the name
/// that the tenant has now.
fn check_database(headers: &HeaderMap, place: &Place) -> Result<(), Problem> {
    let named = request::connection_string(headers)?.and_then(|string| string.database);
    let Some(name) = named else { return Ok(()) };
    let named = name.strip_prefix("tenant_").unwrap_or(&name);
    let is_own = name == place.tenant.database.as_str()
        || place.slugs.iter().any(|slug| [name.as_str(), named].contains(&slug.as_str()));
    if is_own {
        return Ok(());
    }
    metrics::isolation_violation("foreign_database");
    tracing::warn!("a connection string names another database than the tenant's");
    Err(denied())
}

fn unreadable(error: &BytesRejection) -> Problem {
    if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "request_too_large",
            "Request too large",
            "send fewer statements or parameters at a time",
        );
    }
    Problem::new(
        StatusCode::BAD_REQUEST,
        "body_unreadable",
        "Unreadable body",
        "the body ended too early; send it again",
    )
}
