//! [`Tokens`]: who sends a request, by its bearer token.
//!
//! What the catalog said is remembered for a few seconds, so a revoked token ends within them. While
//! the catalog cannot be reached, a token that it knew before still counts: the tenants that are known
//! stay reachable. A token that it has refused since does not.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use moka::future::Cache;
use secrecy::SecretString;

use crate::catalog::tokens::TokenRecord;
use crate::catalog::{Catalog, CatalogError};

/// How long the catalog's yes counts without asking again.
const TTL: Duration = Duration::from_secs(5);
/// Most tokens that are remembered.
const CAPACITY: u64 = 10_000;
/// No token is longer; what is longer is not looked up.
const MAX_LEN: usize = 128;
/// How every token begins.
const PREFIX: &str = "tenantry_";

/// Checks the tokens of requests. Clones share what they remember.
#[derive(Clone)]
pub struct Tokens {
    catalog: Catalog,
    fresh: Cache<Digest, Arc<TokenRecord>>,
    /// The last yes, for when the catalog is away.
    last_known: Cache<Digest, Arc<TokenRecord>>,
}

/// Memory holds no token, only its hash, as the catalog does.
type Digest = [u8; 32];

impl Tokens {
    /// Checks tokens against this catalog.
    #[must_use]
    pub fn new(catalog: Catalog) -> Self {
        Self {
            catalog,
            fresh: Cache::builder().max_capacity(CAPACITY).time_to_live(TTL).build(),
            last_known: Cache::builder().max_capacity(CAPACITY).build(),
        }
    }

    /// The token that a request carries; `None` when it carries none that is valid.
    pub async fn of(&self, headers: &HeaderMap) -> Result<Option<Arc<TokenRecord>>, CatalogError> {
        match bearer(headers) {
            Some(secret) => self.check(secret).await,
            None => Ok(None),
        }
    }

    async fn check(&self, secret: &str) -> Result<Option<Arc<TokenRecord>>, CatalogError> {
        let key = hash(secret);
        if let Some(token) = self.fresh.get(&key).await {
            return Ok(Some(token));
        }
        let token = match self.catalog.token(&SecretString::from(secret.to_owned())).await {
            Ok(Some(token)) => Arc::new(token),
            Ok(None) => {
                self.last_known.invalidate(&key).await;
                return Ok(None);
            }
            Err(error) if error.is_transient() => self.last_known.get(&key).await.ok_or(error)?,
            Err(error) => return Err(error),
        };
        self.fresh.insert(key, Arc::clone(&token)).await;
        self.last_known.insert(key, Arc::clone(&token)).await;
        Ok(Some(token))
    }
}

/// The one `Authorization: Bearer tenantry_…` of a request.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    if values.next().is_some() {
        return None;
    }
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim_start_matches(' ');
    let plausible = token.starts_with(PREFIX) && token.len() <= MAX_LEN;
    (scheme.eq_ignore_ascii_case("bearer") && plausible).then_some(token)
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
        let long = format!("Bearer tenantry_{}", "x".repeat(MAX_LEN));
        for text in ["", "Bearer", "Bearer ", "Basic tenantry_x", "tenantry_x", "Bearer x", &long] {
            assert_eq!(bearer(&headers(&[text])), None, "{text}");
        }
        assert_eq!(bearer(&headers(&["Bearer tenantry_x", "Bearer tenantry_x"])), None);
        assert_eq!(bearer(&headers(&[])), None);
    }
}
