//! Who calls the admin API: a token of ours, with scopes.

use std::sync::Arc;

use axum::extract::{FromRef, FromRequestParts};
use axum::http::request::Parts;

use super::error::ApiError;
use crate::catalog::tokens::{Scope, TokenRecord};
use crate::operations::request::Requester;
use crate::problem::Problem;
use crate::resolve::Tokens;

/// The longest `Idempotency-Key`.
const MAX_KEY_LEN: usize = 200;

/// The holder of a valid admin token. Whether a token is unknown, revoked or malformed makes no
/// difference to the answer.
pub(super) struct Caller {
    token: Arc<TokenRecord>,
    name: String,
    idempotency_key: Option<String>,
}

impl Caller {
    /// Refuses a caller whose token lacks a scope.
    pub fn require(&self, scope: Scope) -> Result<(), ApiError> {
        if self.token.scopes.contains(&scope) {
            Ok(())
        } else {
            Err(ApiError::forbidden(scope.as_str()))
        }
    }

    /// The caller, for the record.
    pub fn requester(&self) -> Requester<'_> {
        Requester { name: &self.name, idempotency_key: self.idempotency_key.as_deref() }
    }
}

impl<S> FromRequestParts<S> for Caller
where
    Tokens: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let token = Tokens::from_ref(state).of(&parts.headers).await?;
        let token = token.ok_or_else(Problem::unauthenticated)?;
        let name = format!("token:{}", token.name);
        let idempotency_key = idempotency_key(parts, &token)?;
        Ok(Self { token, name, idempotency_key })
    }
}

/// Keys of different tokens, or for different addresses, never meet.
fn idempotency_key(parts: &Parts, token: &TokenRecord) -> Result<Option<String>, ApiError> {
    let Some(value) = parts.headers.get("idempotency-key") else { return Ok(None) };
    let fits = |text: &&str| !text.is_empty() && text.len() <= MAX_KEY_LEN;
    match value.to_str().ok().filter(fits) {
        Some(text) => Ok(Some(format!("{} {} {text}", token.id, parts.uri.path()))),
        None => Err(ApiError::invalid("an Idempotency-Key has 1 to 200 visible ASCII characters")),
    }
}
