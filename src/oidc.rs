//! [`TokenVerifier`]: whether a bearer token was made by an identity provider that the operator trusts.
//!
//! - The provider is the one whose issuer equals the token's `iss`, byte by byte; no other is tried.
//! - The algorithm must be one that the provider is set up with and that its key can have; the token's
//!   header only picks among those. No token brings its key, or the address of one, with it.
//! - `exp`, `iss`, `aud` and `sub` must be there, and a name that is there twice makes a token void.
//! - Why a token was refused is for the log, not for its bearer.
//!
//! Keys come from the settings (a shared secret, a PEM) or from the provider's key set, which is cached,
//! fetched ahead of its expiry and when a token names an unknown key, and kept while the provider is
//! away; see [`KeySource`].

use std::collections::BTreeMap;
use std::str::FromStr as _;
use std::sync::Arc;

use jsonwebtoken::{Validation, decode};
use serde::de::IgnoredAny;
use serde_json::Value;
use thiserror::Error;

mod keys;
mod remote;
mod unverified;

pub use jsonwebtoken::Algorithm;
pub use keys::{KeyError, KeySource};
pub use remote::{FetchError, Timing};

use keys::Keys;
use unverified::Unverified;

/// A longer token is not even looked at, in bytes.
const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// The longest subject, in bytes (RFC 7519 leaves it open, OpenID Connect allows 255).
const MAX_SUBJECT_BYTES: usize = 255;
/// How far the provider's clock and ours may be apart, in seconds.
const LEEWAY_SECS: u64 = 30;

/// Verifies tokens of a fixed list of providers. Clones share the keys.
#[derive(Clone, Debug)]
pub struct TokenVerifier {
    providers: Arc<[Provider]>,
}

/// A provider and what makes a token of it valid here.
#[derive(Clone, Debug)]
pub struct ProviderSettings {
    /// The `iss` of its tokens.
    pub issuer: String,
    /// A token must be meant for one of these.
    pub audiences: Vec<String>,
    /// The signatures that are accepted; all that the keys can make when it is empty.
    pub algorithms: Vec<Algorithm>,
    /// Where the keys come from.
    pub keys: KeySource,
    /// How a fetched key set ages.
    pub timing: Timing,
}

/// What a provider says, proven.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    /// Who says it: one of the settings' issuers.
    pub issuer: String,
    /// Of whom; unique within the issuer.
    pub subject: String,
    /// All of it: a JSON object.
    pub claims: Value,
}

/// Why a token proves nothing.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TokenError {
    /// It is no signed token, or one that says a thing twice.
    #[error("it is malformed: {0}")]
    Malformed(&'static str),
    /// No provider with its `iss` is set up.
    #[error("its issuer is not known here")]
    UnknownIssuer,
    /// The provider does not sign in this way.
    #[error("its algorithm is not one of its issuer's")]
    WrongAlgorithm,
    /// The provider has no such key.
    #[error("its key is not one of its issuer's")]
    UnknownKey,
    /// Signature, time, audience or the form of a claim.
    #[error("it is not valid")]
    Invalid(#[source] jsonwebtoken::errors::Error),
    /// The provider has never given its keys, or not for too long. The token may be good.
    #[error("the keys of its issuer cannot be had")]
    KeysAway(#[source] Arc<FetchError>),
}

#[derive(Clone, Debug)]
struct Provider {
    issuer: String,
    audiences: Vec<String>,
    /// One for each accepted algorithm.
    validations: Vec<(Algorithm, Validation)>,
    keys: Arc<Keys>,
}

impl TokenVerifier {
    /// Takes on providers; fetches nothing yet.
    ///
    /// # Errors
    ///
    /// When a key in the settings is none, is too weak, or does not fit the algorithms.
    pub fn new(providers: Vec<ProviderSettings>) -> Result<Self, KeyError> {
        let providers: Result<Vec<_>, _> = providers.into_iter().map(Provider::new).collect();
        Ok(Self { providers: providers?.into() })
    }

    /// These providers, and those behind more issuers, whose keys are found by discovery; each issuer
    /// with the audiences that its tokens may also be meant for. Keys that `earlier` has fetched stay.
    ///
    /// An issuer that cannot be used is left out, and logged.
    #[must_use]
    pub fn with(&self, issuers: &BTreeMap<String, Vec<String>>, earlier: &Self) -> Self {
        let mut providers = self.providers.to_vec();
        for (issuer, audiences) in issuers {
            let known = |provider: &&mut Provider| provider.issuer == *issuer;
            if let Some(provider) = providers.iter_mut().find(known) {
                provider.accept(audiences);
                continue;
            }
            // New keys come with an HTTP client, which is too dear to make again at each look.
            let keys = match earlier.provider(issuer) {
                Some(earlier) => Ok(Arc::clone(&earlier.keys)),
                None => Keys::new(KeySource::Discovery, issuer, Timing::default()).map(Arc::new),
            };
            let made = keys
                .and_then(|keys| Provider::with_keys(issuer.clone(), audiences.clone(), &[], keys));
            match made {
                Ok(provider) => providers.push(provider),
                Err(error) => tracing::warn!(issuer, %error, "an issuer cannot be used"),
            }
        }
        Self { providers: providers.into() }
    }

    /// Whether tokens of this issuer can be proven.
    #[must_use]
    pub fn knows(&self, issuer: &str) -> bool {
        self.provider(issuer).is_some()
    }

    /// Whether a token is meant for whom these providers' tokens must be. One of another list may have
    /// been proven for somebody else.
    #[must_use]
    pub fn expects(&self, token: &Verified) -> bool {
        let provider = self.provider(&token.issuer);
        provider.is_some_and(|provider| token.is_meant_for(&provider.audiences))
    }

    fn provider(&self, issuer: &str) -> Option<&Provider> {
        self.providers.iter().find(|provider| provider.issuer == issuer)
    }

    /// Proves a token.
    pub async fn verify(&self, token: &str) -> Result<Verified, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Malformed("it is too long"));
        }
        let Unverified { header, claims } = Unverified::parse(token)?;
        let issuer = claims.get("iss").and_then(Value::as_str).ok_or(TokenError::UnknownIssuer)?;
        let provider = self.provider(issuer).ok_or(TokenError::UnknownIssuer)?;

        let algorithm = Algorithm::from_str(&header.alg).map_err(|_| TokenError::WrongAlgorithm)?;
        let accepted = provider.validations.iter().find(|(accepted, _)| *accepted == algorithm);
        let (_, validation) = accepted.ok_or(TokenError::WrongAlgorithm)?;
        let key = provider.keys.find(header.kid.as_deref(), algorithm).await;
        let key = key.map_err(TokenError::KeysAway)?.ok_or(TokenError::UnknownKey)?;
        decode::<IgnoredAny>(token, &key.decoding, validation).map_err(TokenError::Invalid)?;

        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default();
        let printable = !subject.contains(char::is_control);
        if subject.is_empty() || subject.len() > MAX_SUBJECT_BYTES || !printable {
            return Err(TokenError::Malformed("its subject is missing, too long or not printable"));
        }
        let (issuer, subject) = (provider.issuer.clone(), subject.to_owned());
        Ok(Verified { issuer, subject, claims: Value::Object(claims) })
    }
}

impl Verified {
    /// Whether it is meant for one of these.
    #[must_use]
    pub fn is_meant_for(&self, audiences: &[String]) -> bool {
        let among = |audience: &Value| {
            audience.as_str().is_some_and(|text| audiences.iter().any(|one| one == text))
        };
        match self.claims.get("aud") {
            Some(Value::Array(list)) => list.iter().any(among),
            Some(audience) => among(audience),
            None => false,
        }
    }
}

impl TokenError {
    /// Whether the same token may be proven a little later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::KeysAway(_))
    }
}

impl Provider {
    fn new(settings: ProviderSettings) -> Result<Self, KeyError> {
        let ProviderSettings { issuer, audiences, algorithms, keys, timing } = settings;
        let keys = Keys::new(keys, &issuer, timing)?;
        Self::with_keys(issuer, audiences, &algorithms, Arc::new(keys))
    }

    fn with_keys(
        issuer: String,
        audiences: Vec<String>,
        algorithms: &[Algorithm],
        keys: Arc<Keys>,
    ) -> Result<Self, KeyError> {
        let mut accepted = keys.algorithms().to_vec();
        if !algorithms.is_empty() {
            accepted.retain(|algorithm| algorithms.contains(algorithm));
        }
        if accepted.is_empty() {
            return Err(KeyError::WrongAlgorithm);
        }
        let validation = |algorithm| {
            let mut validation = Validation::new(algorithm);
            validation.leeway = LEEWAY_SECS;
            validation.validate_nbf = true;
            validation.set_issuer(&[&issuer]);
            validation.set_audience(&audiences);
            validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
            (algorithm, validation)
        };
        let validations = accepted.into_iter().map(validation).collect();
        Ok(Self { issuer, audiences, validations, keys })
    }

    /// From now on also takes tokens that are meant for these.
    fn accept(&mut self, audiences: &[String]) {
        self.audiences.extend_from_slice(audiences);
        for (_, validation) in &mut self.validations {
            validation.aud.get_or_insert_default().extend(audiences.iter().cloned());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn looking_again_at_the_same_issuers_costs_next_to_nothing() {
        let settled = TokenVerifier::new(Vec::new()).unwrap();
        let issuer = |number| (format!("https://{number}.example"), vec!["app".to_owned()]);
        let issuers: BTreeMap<_, _> = (0..30).map(issuer).collect();
        let began = Instant::now();
        let earlier = settled.with(&issuers, &settled);
        let first = began.elapsed();

        let again = || {
            let began = Instant::now();
            assert!(settled.with(&issuers, &earlier).knows("https://7.example"));
            began.elapsed()
        };
        let again = (0..5).map(|_| again()).min().unwrap();

        assert!(again < first / 4, "{again:?} after {first:?}");
    }
}
