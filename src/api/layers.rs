//! What every request passes: an id, a span, limits, and an answer in our shape whatever happens.

use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request};
use axum::http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use tower::util::option_layer;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::CorsLayer;
use tracing::Instrument as _;
use uuid::Uuid;

use crate::catalog::audit_log::within;
use crate::problem::Problem;
use crate::resolve::ClientAddress;
use crate::{metrics, telemetry};

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The largest body, in bytes.
const BODY_LIMIT: usize = 1024 * 1024;
/// What a line for each request is logged as; `TENANTRY_LOG_LEVEL=info,tenantry::access=off` is quiet.
const ACCESS_LOG: &str = "tenantry::access";
/// Endpoints that are asked all the time, and whose answers nobody reads.
const PROBES: [&str; 4] = ["/livez", "/readyz", "/health", "/metrics"];
/// Longer than the longest wait that an endpoint offers.
const TIME_LIMIT: Duration = Duration::from_secs(90);

/// Wraps a route table; `cors` says which pages of others may call it.
pub(super) fn wrap(routes: Router, cors: Option<CorsLayer>) -> Router {
    routes
        .fallback(|| async {
            let detail =
                "there is nothing at this address; see /openapi.json on the admin listener";
            Problem::new(StatusCode::NOT_FOUND, "no_such_endpoint", "Not found", detail)
        })
        .method_not_allowed_fallback(|| async {
            let detail = "this address does not take this method";
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "Method not allowed",
                detail,
            )
        })
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(CatchPanicLayer::custom(|_| {
            tracing::error!("a handler panicked");
            Problem::internal().into_response()
        }))
        .layer(middleware::from_fn(bound))
        .layer(option_layer(cors))
        .layer(middleware::from_fn(observe))
}

/// Bounds a request's time.
async fn bound(request: Request, next: Next) -> Response {
    tokio::time::timeout(TIME_LIMIT, next.run(request)).await.unwrap_or_else(|_| {
        let detail = "the request took too long; what it asked for may still be going on";
        Problem::new(StatusCode::GATEWAY_TIMEOUT, "timeout", "Timeout", detail).into_response()
    })
}

/// Gives the request an id and a span, and counts it.
async fn observe(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let given = request.headers().get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let id = given
        .filter(|text| is_sane(text))
        .map_or_else(|| Uuid::now_v7().to_string(), str::to_owned);
    let endpoint = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned());
    let client = request.extensions().get().map(|ClientAddress(address)| address.to_string());
    let span = tracing::info_span!(
        "request",
        method = %request.method(),
        endpoint,
        request_id = id,
        tenant = tracing::field::Empty,
        user = tracing::field::Empty,
    );

    telemetry::continue_trace(&span, request.headers());

    let mut response = within(&id, next.run(request)).instrument(span.clone()).await;

    let status = response.status().as_u16();
    span.in_scope(|| metrics::request(&endpoint, status, started.elapsed()));
    telemetry::answered(&span, status);
    let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    span.in_scope(|| {
        if PROBES.contains(&endpoint.as_str()) {
            tracing::debug!(target: ACCESS_LOG, client, status, elapsed_ms, "answered");
        } else {
            tracing::info!(target: ACCESS_LOG, client, status, elapsed_ms, "answered");
        }
    });
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, value);
    }
    // Answers are one caller's: no cache keeps them, and no browser guesses at what they are.
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    response
}

/// Whether a caller's request id may go into our log.
fn is_sane(text: &str) -> bool {
    (1..=100).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
}
