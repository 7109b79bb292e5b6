//! [`Refusal`]: what a caller of `/sql` is told instead of an answer.
//!
//! An error of PostgreSQL is passed on whole: it is about the caller's own statement and data. The client
//! reads fields only in a 400, so where PostgreSQL has a code for what happened on our side, the client gets
//! that; everybody else gets a status and a [`Problem`].

use std::error::Error as _;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};

use crate::extract::{ROTATE, password_refused};
use crate::problem::Problem;
use crate::resolve::ResolveError;
use crate::router::RouterError;
use crate::sql::SqlError;
use crate::sql::pg_error::PgError;
use crate::tenant::TenantState;

/// A refusal in both shapes that it may have.
pub(super) enum Refusal {
    /// PostgreSQL's error, for everybody.
    Postgres(Box<PgError>),
    /// Ours, for everybody.
    Problem(Problem),
    /// Ours, with PostgreSQL's code for the client.
    Either(Problem, &'static str),
}

impl Refusal {
    pub fn into_response(self, is_client: bool) -> Response {
        match self {
            Self::Postgres(error) => (StatusCode::BAD_REQUEST, Json(error)).into_response(),
            Self::Either(problem, code) if is_client => {
                let error = PgError::ours(code, problem.error, problem.detail);
                (StatusCode::BAD_REQUEST, Json(error)).into_response()
            }
            Self::Problem(problem) | Self::Either(problem, _) => problem.into_response(),
        }
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<ResolveError> for Refusal {
    fn from(error: ResolveError) -> Self {
        Self::Problem(error.into())
    }
}

impl From<RouterError> for Refusal {
    fn from(error: RouterError) -> Self {
        let code = match &error {
            RouterError::UnknownTenant(_)
            | RouterError::AnotherTenant(_)
            | RouterError::NotServed {
                state: TenantState::Deleting | TenantState::Deleted, ..
            } => Some("3D000"),
            // What PostgreSQL says of a database that accepts no connections.
            RouterError::NotServed { state: TenantState::Suspended, .. } => Some("55000"),
            RouterError::NotServed { .. } | RouterError::Held(_) => Some("57P03"),
            RouterError::Busy(_) => Some("53300"),
            RouterError::RateLimited { .. } => Some("53400"),
            RouterError::WrongDatabase(_)
            | RouterError::Unreachable { .. }
            | RouterError::Catalog { .. } => None,
        };
        match code {
            Some(code) => Self::Either(error.into(), code),
            None => Self::Problem(error.into()),
        }
    }
}

impl From<SqlError> for Refusal {
    fn from(error: SqlError) -> Self {
        match error {
            SqlError::Route(error) => error.into(),
            SqlError::Refused(error) => Self::Postgres(error),
            SqlError::Unreachable(source) if source.sql_state() == Some("28P01") => {
                tracing::warn!(error = %source, remedy = ROTATE, "a tenant's database refuses its role's password");
                Self::Either(password_refused(), "28P01")
            }
            SqlError::Unreachable(source) | SqlError::Lost(source) => {
                let cause = source.source();
                tracing::warn!(error = %source, cause, "a tenant's database cannot be reached");
                match source.sql_state() {
                    Some("53300") => Self::Either(Problem::unavailable(), "53300"),
                    _ => Self::Problem(Problem::unavailable()),
                }
            }
            SqlError::Unread => {
                tracing::warn!("answers of /sql that nobody reads take all the room that they may");
                Self::Either(Problem::unavailable(), "53200")
            }
            SqlError::TooLong => {
                too_large("the answer has more bytes than TENANTRY_SQL_MAX_RESPONSE_BYTES allows")
            }
            SqlError::TooManyRows => {
                too_large("the answer has more rows than TENANTRY_SQL_MAX_ROWS allows")
            }
            SqlError::TimedOut => {
                let detail = "the statements took longer than TENANTRY_SQL_STATEMENT_TIMEOUT allows and were \
                              stopped; ask for less at a time";
                let status = StatusCode::GATEWAY_TIMEOUT;
                Self::Either(Problem::new(status, "statement_timeout", "Timeout", detail), "57014")
            }
        }
    }
}

fn too_large(what: &str) -> Refusal {
    let detail = format!("{what}; ask for fewer at a time, with limit and a condition on the key");
    let status = StatusCode::PAYLOAD_TOO_LARGE;
    Refusal::Either(Problem::new(status, "result_too_large", "Result too large", detail), "54000")
}
