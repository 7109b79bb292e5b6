//! [`Problem`]: the one shape of an error over HTTP, everywhere.
//!
//! `detail` comes from texts of this project, never from a driver, a server or the text of a request.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An error as a caller sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// The HTTP status; not part of the body.
    #[serde(skip)]
    pub status: u16,
    /// What went wrong, in a few words.
    pub error: String,
    /// What to do about it.
    pub detail: String,
    /// A stable name for programs.
    pub code: String,
    /// When to try again, in seconds; not part of the body.
    #[serde(skip)]
    retry_after_secs: Option<u64>,
}

impl Problem {
    /// A problem with a stable code.
    #[must_use]
    pub fn new(status: StatusCode, code: &str, error: &str, detail: impl Into<String>) -> Self {
        Self {
            status: status.as_u16(),
            error: error.to_owned(),
            detail: detail.into(),
            code: code.to_owned(),
            retry_after_secs: None,
        }
    }

    /// The same, with the time after which it may be tried again.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after_secs = Some(wait.as_secs() + u64::from(wait.subsec_nanos() > 0));
        self
    }

    /// Nobody proved who they are.
    #[must_use]
    pub fn unauthenticated() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthenticated",
            "Authentication required",
            "send a valid token as `Authorization: Bearer …`",
        )
    }

    /// Something that this needs is away for the moment.
    #[must_use]
    pub fn unavailable() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "Temporarily unavailable",
            "try again in a moment; if it lasts, see /health",
        )
    }

    /// A defect of ours; what it was is in the log.
    #[must_use]
    pub fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "Internal error",
            "the server's log has the cause, under this response's X-Request-Id",
        )
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let wait = self.retry_after_secs.unwrap_or(1);
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        match status {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(wait));
            }
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        response
    }
}
