//! The keys of one provider: from the settings, or fetched.

use std::fmt;
use std::sync::Arc;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

use super::remote::{Address, FetchError, RemoteKeys, Timing};

/// The shortest shared secret, in bytes (RFC 7518, section 3.2).
const MIN_SECRET_BYTES: usize = 32;

const HMAC: &[Algorithm] = &[Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
const RSA: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];
/// What a public key can prove.
const PUBLIC: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// Where a provider's keys come from.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// A secret that the provider shares with us, for HS256, HS384 or HS512; at least 256 bits.
    Secret(SecretString),
    /// A public key in PEM: RSA, EC (P-256 or P-384) or Ed25519.
    Pem(String),
    /// The URL of a JSON Web Key Set; `https`, or `http` on loopback.
    Jwks(String),
    /// The issuer's OpenID Connect discovery document names the key set.
    Discovery,
}

/// Why settings give no key.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KeyError {
    /// A shared secret that can be guessed.
    #[error("the shared secret has fewer than 256 bits; make one with `openssl rand -base64 48`")]
    WeakSecret,
    /// Not a public key in PEM.
    #[error("the PEM holds no public key for RS, PS, ES or EdDSA signatures")]
    BadPem,
    /// No accepted algorithm fits the key.
    #[error("the keys fit none of the algorithms that are accepted")]
    WrongAlgorithm,
    /// An address that is not `https`, or none at all.
    #[error("`{0}` is no address that keys may come from: it must be https, or http on loopback")]
    BadAddress(String),
}

/// A key that can prove tokens of some algorithms.
pub(super) struct Key {
    id: Option<String>,
    pub(super) decoding: DecodingKey,
    algorithms: Vec<Algorithm>,
}

#[derive(Debug)]
pub(super) struct KeySet {
    keys: Vec<Arc<Key>>,
}

#[derive(Debug)]
pub(super) enum Keys {
    Fixed(KeySet),
    Remote(RemoteKeys),
}

impl Keys {
    pub(super) fn new(source: KeySource, issuer: &str, timing: Timing) -> Result<Self, KeyError> {
        let remote = |address| Ok(Self::Remote(RemoteKeys::new(address, timing)?));
        match source {
            KeySource::Secret(secret) => {
                let secret = secret.expose_secret().as_bytes();
                if secret.len() < MIN_SECRET_BYTES {
                    return Err(KeyError::WeakSecret);
                }
                Ok(Self::fixed(DecodingKey::from_secret(secret), HMAC))
            }
            KeySource::Pem(pem) => from_pem(pem.as_bytes()),
            KeySource::Jwks(url) => remote(Address::KeySet(url)),
            KeySource::Discovery => remote(Address::Issuer(issuer.to_owned())),
        }
    }

    /// What the keys could prove.
    pub(super) fn algorithms(&self) -> &[Algorithm] {
        match self {
            Self::Fixed(set) => &set.keys[0].algorithms,
            Self::Remote(_) => PUBLIC,
        }
    }

    /// The key that a token names. Without a name there must be one that it can mean.
    pub(super) async fn find(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Option<Arc<Key>>, Arc<FetchError>> {
        match self {
            // A fixed key has no name of its own to compare with.
            Self::Fixed(set) => Ok(set.find(None, algorithm)),
            Self::Remote(remote) => remote.find(id, algorithm).await,
        }
    }

    fn fixed(decoding: DecodingKey, algorithms: &[Algorithm]) -> Self {
        let key = Key { id: None, decoding, algorithms: algorithms.to_vec() };
        Self::Fixed(KeySet { keys: vec![Arc::new(key)] })
    }
}

impl KeySet {
    /// Reads a JSON Web Key Set. What is no public key for signatures is left out, as RFC 7517 says.
    pub(super) fn parse(json: &[u8]) -> Result<Self, FetchError> {
        #[derive(Deserialize)]
        struct Document {
            keys: Vec<Value>,
        }
        let document: Document = serde_json::from_slice(json)
            .map_err(|_| FetchError::Malformed("the key set is not what RFC 7517 says"))?;
        let keys: Vec<_> = document.keys.into_iter().filter_map(Key::parse).map(Arc::new).collect();
        if keys.is_empty() {
            return Err(FetchError::Malformed("the key set holds no public key for signatures"));
        }
        Ok(Self { keys })
    }

    pub(super) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<Arc<Key>> {
        let mut fitting = self.keys.iter().filter(|key| {
            key.algorithms.contains(&algorithm) && (id.is_none() || key.id.as_deref() == id)
        });
        let found = fitting.next()?;
        fitting.next().is_none().then(|| Arc::clone(found))
    }
}

impl Key {
    fn parse(json: Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(json).ok()?;
        let common = &jwk.common;
        let signs =
            common.public_key_use.as_ref().is_none_or(|use_| *use_ == PublicKeyUse::Signature)
                && common
                    .key_operations
                    .as_ref()
                    .is_none_or(|all| all.contains(&KeyOperations::Verify));
        let possible: &[Algorithm] = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => RSA,
            AlgorithmParameters::EllipticCurve(key) => match key.curve {
                EllipticCurve::P256 => &[Algorithm::ES256],
                EllipticCurve::P384 => &[Algorithm::ES384],
                _ => return None,
            },
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
                &[Algorithm::EdDSA]
            }
            // A shared secret in a public document is no secret.
            _ => return None,
        };
        let mut algorithms = possible.to_vec();
        if let Some(named) = common.key_algorithm {
            let named = named.to_string().parse().ok()?;
            algorithms.retain(|algorithm| *algorithm == named);
        }
        let decoding = DecodingKey::from_jwk(&jwk).ok()?;
        (signs && !algorithms.is_empty()).then(|| Self {
            id: common.key_id.clone(),
            decoding,
            algorithms,
        })
    }
}

/// A kind of key reads only its own PEM.
fn from_pem(pem: &[u8]) -> Result<Keys, KeyError> {
    if let Ok(key) = DecodingKey::from_rsa_pem(pem) {
        return Ok(Keys::fixed(key, RSA));
    }
    if let Ok(key) = DecodingKey::from_ec_pem(pem) {
        return Ok(Keys::fixed(key, &[Algorithm::ES256, Algorithm::ES384]));
    }
    let key = DecodingKey::from_ed_pem(pem).map_err(|_| KeyError::BadPem)?;
    Ok(Keys::fixed(key, &[Algorithm::EdDSA]))
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("id", &self.id)
            .field("algorithms", &self.algorithms)
            .finish_non_exhaustive()
    }
}
