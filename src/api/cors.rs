//! Which web pages may call the public endpoints from a browser.
//!
//! Whatever is not allowed here the browser keeps from the page. It is no guard of ours: every request
//! still needs its token. There are no cookies, so credentials are never allowed.

use std::time::Duration;

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, Method};
use tower_http::cors::{Any, CorsLayer};

use super::layers::REQUEST_ID;
use super::sql;
use crate::resolve::TENANT_HEADER;

/// How long a browser may remember what it was allowed.
const REMEMBERED: Duration = Duration::from_mins(10);

/// Allows pages of these origins, or of all when the one origin is `*`. Without any, browsers are not
/// answered at all.
pub(super) fn allow(origins: &[HeaderValue]) -> Option<CorsLayer> {
    let layer = match origins {
        [] => return None,
        [all] if all == "*" => CorsLayer::new().allow_origin(Any),
        some => CorsLayer::new().allow_origin(some.to_vec()),
    };
    let own = [
        AUTHORIZATION,
        CONTENT_TYPE,
        HeaderName::from_static(TENANT_HEADER),
        REQUEST_ID,
        HeaderName::from_static("idempotency-key"),
    ];
    let layer = layer
        .allow_methods([Method::GET, Method::HEAD, Method::POST])
        .allow_headers(own.into_iter().chain(sql::HEADERS).collect::<Vec<_>>())
        .expose_headers([REQUEST_ID, RETRY_AFTER, LOCATION])
        .max_age(REMEMBERED);
    Some(layer)
}
