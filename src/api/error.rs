//! The one map from what goes wrong to HTTP. Exhaustive, so that a new error must find its place.
//!
//! `detail` comes from this project's own texts; what PostgreSQL or a driver said goes to the log.

use axum::body::HttpBody as _;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;

use crate::catalog::{CatalogError, VersionError};
use crate::operations::removal::RemovalError;
use crate::operations::rollouts::RolloutError;
use crate::operations::tracks::TrackError;
use crate::operations::{AdoptionError, StepError, chain};
use crate::problem::Problem;
use crate::tenant::SlugError;
use crate::tenant::settings::SettingsError;

/// The longest text for people, in bytes.
const MAX_TEXT_LEN: usize = 1000;

/// An error of the admin API.
#[derive(Debug)]
pub(super) struct ApiError(Problem);

impl ApiError {
    /// The caller's token does not allow this.
    pub fn forbidden(scope: &str) -> Self {
        let detail = format!("this needs a token with the scope `{scope}`");
        Self(Problem::new(StatusCode::FORBIDDEN, "missing_scope", "Forbidden", detail))
    }

    /// What was sent is understood and cannot be used.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", "Invalid request", detail))
    }
}

/// A body that may be left out. The content type does not matter: what is there must be right.
pub(super) fn optional_json<T: Default + DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    if body.is_empty() || body == b"null" {
        return Ok(T::default());
    }
    serde_json::from_slice(body).map_err(|error| {
        Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid_body",
            "Invalid body",
            error.to_string(),
        )
        .into()
    })
}

/// Nothing in the body: what is said there would not be heard, such as that backups are to be kept.
pub(super) struct NoBody;

impl<S: Sync> FromRequest<S> for NoBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        if request.body().is_end_stream() {
            return Ok(Self);
        }
        Err(ApiError::invalid("this takes no body; options go into the address, after a `?`"))
    }
}

/// Text that PostgreSQL can store.
pub(super) fn plain_text(text: Option<String>, field: &str) -> Result<Option<String>, ApiError> {
    match text {
        Some(text) if text.contains('\0') || text.len() > MAX_TEXT_LEN => {
            Err(ApiError::invalid(format!("`{field}` has at most {MAX_TEXT_LEN} bytes and no NUL")))
        }
        text => Ok(text),
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.0.into_response()
    }
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl From<CatalogError> for ApiError {
    fn from(error: CatalogError) -> Self {
        let problem = match &error {
            CatalogError::Exists { what, name } => Problem::new(
                StatusCode::CONFLICT,
                "exists",
                "Already exists",
                format!("{what} `{name}` exists already; choose another name"),
            ),
            CatalogError::Missing { what, name } => Problem::new(
                StatusCode::NOT_FOUND,
                "not_found",
                "Not found",
                format!("there is no {what} `{name}`"),
            ),
            CatalogError::Conflict(reason) => {
                Problem::new(StatusCode::CONFLICT, "conflict", "Conflict", reason.clone())
            }
            CatalogError::Settings(error) => return error.clone().into(),
            CatalogError::Unreachable(_) | CatalogError::LostLock => Problem::unavailable(),
            CatalogError::Version(
                VersionError::Absent | VersionError::Behind { .. } | VersionError::Ahead { .. },
            ) => Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "catalog_version",
                "Catalog not ready",
                "the catalog has another version than this server; its operator must run `tenantry init`",
            ),
            CatalogError::Database(_) if error.is_transient() => Problem::unavailable(),
            CatalogError::Database(_)
            | CatalogError::Migration(_)
            | CatalogError::Sealed(_)
            | CatalogError::Corrupt(_) => Problem::internal(),
        };
        if problem.status >= 500 {
            tracing::error!(error = %chain(&error), "request failed");
        }
        Self(problem)
    }
}

impl From<RemovalError> for ApiError {
    fn from(error: RemovalError) -> Self {
        match error {
            RemovalError::Catalog(error) => error.into(),
            RemovalError::Step(error) => error.into(),
        }
    }
}

impl From<TrackError> for ApiError {
    fn from(error: TrackError) -> Self {
        match error {
            TrackError::Catalog(error) => error.into(),
            TrackError::Step(error) => error.into(),
        }
    }
}

impl From<RolloutError> for ApiError {
    fn from(error: RolloutError) -> Self {
        match error {
            RolloutError::Plan(error) => Self::invalid(error.to_string()),
            RolloutError::Catalog(error) => error.into(),
        }
    }
}

impl From<AdoptionError> for ApiError {
    fn from(error: AdoptionError) -> Self {
        match error {
            AdoptionError::Refused(obstacles) => {
                let told: Vec<String> = obstacles.iter().map(ToString::to_string).collect();
                let (code, title) = ("cannot_be_adopted", "The database cannot be adopted");
                Self(Problem::new(StatusCode::CONFLICT, code, title, told.join("; ")))
            }
            AdoptionError::Catalog(error) => error.into(),
            AdoptionError::Step(error) => error.into(),
        }
    }
}

impl From<StepError> for ApiError {
    fn from(error: StepError) -> Self {
        tracing::error!(error = %chain(&error), "request failed");
        let remedy = match error {
            StepError::Retry(_, remedy) | StepError::Fail(_, remedy) => remedy,
            StepError::Lost => None,
        };
        let remedy = remedy.unwrap_or_else(|| "try again in a moment".to_owned());
        let (code, title) = ("cannot_look", "Cannot look");
        Self(Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, title, remedy))
    }
}

impl From<SlugError> for ApiError {
    fn from(error: SlugError) -> Self {
        Self(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid_slug",
            "Invalid tenant slug",
            error.to_string(),
        ))
    }
}

impl From<SettingsError> for ApiError {
    fn from(error: SettingsError) -> Self {
        Self(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid_settings",
            "Invalid settings",
            error.to_string(),
        ))
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        let (status, code, detail) = match rejection {
            // serde's words name the field and the type, never a value of ours.
            JsonRejection::JsonDataError(error) => {
                (StatusCode::UNPROCESSABLE_ENTITY, "invalid_body", error.body_text())
            }
            JsonRejection::MissingJsonContentType(_) => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "send the body as JSON, with `Content-Type: application/json`".to_owned(),
            ),
            other if other.status() == StatusCode::PAYLOAD_TOO_LARGE => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
                "the body may have at most 1 MiB".to_owned(),
            ),
            _ => (StatusCode::BAD_REQUEST, "malformed_body", "the body is not JSON".to_owned()),
        };
        Self(Problem::new(status, code, "Invalid body", detail))
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid_query",
            "Invalid query",
            rejection.body_text(),
        ))
    }
}

impl From<PathRejection> for ApiError {
    fn from(_: PathRejection) -> Self {
        Self(Problem::new(
            StatusCode::NOT_FOUND,
            "not_found",
            "Not found",
            "the address holds an id that is none",
        ))
    }
}
