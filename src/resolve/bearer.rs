//! [`Tokens`]: who sends a request, by a token of ours.

use std::sync::Arc;

use aws_lc_rs::digest;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use secrecy::SecretString;

use super::ResolveError;
use super::remembered::{Remembered, TTL};
use crate::catalog::Catalog;
use crate::catalog::tokens::TokenRecord;
use crate::oidc::{TokenVerifier, Verified};

/// No token of ours is longer; what is longer is not looked up.
const MAX_LEN: usize = 128;
/// How every token of ours begins.
const PREFIX: &str = "tenantry_";

/// Checks the tokens of requests. Clones share what they remember.
#[derive(Clone)]
pub struct Tokens {
    catalog: Catalog,
    known: Remembered<Digest, Arc<TokenRecord>>,
}

/// Memory holds no token, only its hash, as the catalog does.
type Digest = [u8; 32];

impl Tokens {
    /// Checks tokens against this catalog.
    #[must_use]
    pub fn new(catalog: Catalog) -> Self {
        Self { known: Remembered::new(&catalog, TTL), catalog }
    }

    /// The token that a request carries; `None` when it carries none that is valid.
    pub async fn of(&self, headers: &HeaderMap) -> Result<Option<Arc<TokenRecord>>, ResolveError> {
        match bearer(headers).filter(|token| is_ours(token)) {
            Some(secret) => self.check(secret).await,
            None => Ok(None),
        }
    }

    async fn check(&self, secret: &str) -> Result<Option<Arc<TokenRecord>>, ResolveError> {
        let text = SecretString::from(secret.to_owned());
        let asked = async { Ok(self.catalog.token(&text).await?.map(Arc::new)) };
        self.known.get(hash(secret), asked).await
    }
}

/// The one `Authorization: Bearer …` of a request.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    if values.next().is_some() {
        return None;
    }
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim_start_matches(' ');
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// Whether a token looks like one of ours rather than one of an identity provider.
pub(super) fn is_ours(token: &str) -> bool {
    token.starts_with(PREFIX) && token.len() <= MAX_LEN
}

/// Proves a token of an identity provider. Why it proves nothing is for the log.
pub(super) async fn prove(verifier: &TokenVerifier, token: &str) -> Result<Verified, ResolveError> {
    verifier.verify(token).await.map_err(|error| {
        tracing::debug!(error = &error as &dyn std::error::Error, "a token was refused");
        if error.is_transient() {
            ResolveError::KeysAway(error)
        } else {
            ResolveError::Unauthenticated
        }
    })
}

/// Who sends a request, by a token of one of these providers.
pub async fn prove_bearer(
    verifier: &TokenVerifier,
    headers: &HeaderMap,
) -> Result<Verified, ResolveError> {
    let token = bearer(headers).ok_or(ResolveError::Unauthenticated)?;
    prove(verifier, token).await
}

fn hash(secret: &str) -> Digest {
    let mut bytes = Digest::default();
    bytes.copy_from_slice(digest::digest(&digest::SHA256, secret.as_bytes()).as_ref());
    bytes
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn one_bearer_token_is_read() {
        for text in ["Bearer tenantry_x", "bearer tenantry_x", "BEARER  tenantry_x"] {
            assert_eq!(bearer(&headers(&[text])), Some("tenantry_x"), "{text}");
        }
    }

    #[test]
    fn everything_else_is_no_token() {
        for text in ["", "Bearer", "Bearer ", "Basic tenantry_x", "tenantry_x"] {
            assert_eq!(bearer(&headers(&[text])), None, "{text}");
        }
        assert_eq!(bearer(&headers(&["Bearer tenantry_x", "Bearer tenantry_x"])), None);
        assert_eq!(bearer(&headers(&[])), None);
    }

    #[test]
    fn ours_have_a_prefix_and_an_end() {
        assert!(is_ours("tenantry_x"));
        assert!(!is_ours("eyJhbGciOiJub25lIn0.e30."));
        assert!(!is_ours(&format!("tenantry_{}", "x".repeat(MAX_LEN))));
    }
}
