//! `POST /sql`: SQL over HTTP, as the npm client `@neondatabase/serverless` speaks it.
//!
//! The tenant and the caller come from the request as everywhere else. The connection string that the client
//! sends beside them proves nothing and routes nothing; one that names another database is refused, because
//! somebody means another tenant.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest as _, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};

use crate::catalog::tenants::Place;
use crate::extract::Tenancy;
use crate::metrics;
use crate::problem::Problem;
use crate::resolve::{Resolved, denied};
use crate::sql::Gateway;

mod refusal;
mod request;

use refusal::Refusal;
pub(super) use request::HEADERS;
use request::{CONNECTION_STRING, database_named};

/// What the endpoint works with.
#[derive(Clone)]
pub(super) struct Endpoint {
    pub tenancy: Tenancy,
    pub gateway: Gateway,
}

pub(super) async fn run(State(endpoint): State<Endpoint>, request: Request) -> Response {
    // Whoever sends a connection string is the client, which reads an error's fields only in a 400.
    let is_client = request.headers().contains_key(CONNECTION_STRING);
    match endpoint.answer(request).await {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(refusal) => refusal.into_response(is_client),
    }
}

impl Endpoint {
    async fn answer(&self, request: Request) -> Result<Vec<u8>, Refusal> {
        let (parts, body) = request.into_parts();
        let Resolved { slug, access, .. } = self.tenancy.resolve(&parts).await?;
        let place = self.tenancy.router.route(&slug).await?;
        check_database(&parts.headers, &place)?;
        let headers = parts.headers.clone();
        let body = Bytes::from_request(Request::from_parts(parts, body), &()).await;
        let request = request::read(&headers, &body.map_err(|error| unreadable(&error))?)?;
        Ok(self.gateway.run(&slug, access, &request).await?)
    }
}

/// Refuses a connection string that names the database of somebody else. It may be older than the name
/// that the tenant has now.
fn check_database(headers: &HeaderMap, place: &Place) -> Result<(), Problem> {
    let Some(name) = database_named(headers)? else { return Ok(()) };
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
