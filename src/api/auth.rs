//! Who calls the admin API, and what they may do there.

use axum::extract::{FromRef, FromRequestParts};
use axum::http::HeaderMap;
use axum::http::request::Parts;

use super::error::ApiError;
use crate::catalog::tokens::Scope;
use crate::operations::request::Requester;
use crate::problem::Problem;
use crate::resolve::{Administrator, Administrators};

/// The longest `Idempotency-Key`.
const MAX_KEY_LEN: usize = 200;

/// An administrator. Whether a token is unknown, revoked, malformed or without the claim makes no
/// difference to the answer.
pub(super) struct Caller {
    administrator: Administrator,
    idempotency_key: Option<String>,
}

impl Caller {
    /// Refuses a caller whose token lacks a scope.
    pub fn require(&self, scope: Scope) -> Result<(), ApiError> {
        if self.administrator.scopes.contains(&scope) {
            Ok(())
        } else {
            Err(ApiError::forbidden(scope.as_str()))
        }
    }

    /// The caller, for the record.
    pub fn requester(&self) -> Requester<'_> {
        let name = &self.administrator.name;
        Requester { name, idempotency_key: self.idempotency_key.as_deref() }
    }
}

impl<S> FromRequestParts<S> for Caller
where
    Administrators: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let found = Administrators::from_ref(state).of(&parts.headers).await;
        let administrator = found.map_err(Problem::from)?.ok_or_else(Problem::unauthenticated)?;
        tracing::Span::current().record("user", &administrator.name);
        // Keys of different administrators, or for different addresses, never meet.
        let scoped = |key| format!("{} {} {key}", administrator.id, parts.uri.path());
        let idempotency_key = idempotency_key(&parts.headers)?.map(scoped);
        Ok(Self { administrator, idempotency_key })
    }
}

/// What a request is known by when it comes again.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let fits = |text: &&str| !text.is_empty() && text.len() <= MAX_KEY_LEN;
    match value.to_str().ok().filter(fits) {
        Some(text) => Ok(Some(text.to_owned())),
        None => Err(ApiError::invalid("an Idempotency-Key has 1 to 200 visible ASCII characters")),
    }
}
