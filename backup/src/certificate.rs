//! The certificate of an erasure: which keys were destroyed, and what nobody can read any more.
//!
//! It is signed with Ed25519 over every field, so that whoever has the public key can check it without us.
//! It holds no secret: of a key it names the public half.

use std::fmt;

use aws_lc_rs::rand;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _, Signature};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::document::{DocumentError, signature, verify_document};

/// The format that this version writes, and the newest that it reads.
pub const CERTIFICATE_FORMAT: u32 = 1;

/// What its signature is for.
const PURPOSE: &str = "erasure certificate";

/// That keys were destroyed, and what became unreadable by it.
// A field that is not known here would be dropped on reading and so escape the signature: refuse it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// The version of this format: [`CERTIFICATE_FORMAT`].
    pub format: u32,
    /// Its id.
    pub certificate: Uuid,
    /// The tenant whose data it was.
    pub tenant: Uuid,
    /// What the tenant was called.
    pub tenant_name: String,
    /// Who asked for it.
    pub requested_by: String,
    /// When the keys were gone.
    pub erased_at: Timestamp,
    /// Whether the tenant itself was deleted, with its databases.
    pub tenant_deleted: bool,
    /// The public halves of the keys that were destroyed.
    pub keys: Vec<String>,
    /// What was encrypted to them.
    pub backups: Vec<ErasedBackup>,
    /// The public half of the key that signs, in hex.
    pub public_key: String,
    /// The signature, in hex; empty until [`Certificate::sign`].
    pub signature: String,
}

/// A backup that can no longer be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErasedBackup {
    /// The backup.
    pub backup: Uuid,
    /// The moment whose data it held.
    pub started_at: Timestamp,
    /// Size of the stored dump, in bytes.
    pub dump_bytes: u64,
    /// SHA-256 of the stored dump, in lower-case hex: who has a copy can tell that it is this one.
    pub dump_sha256: String,
    /// Public keys of others to which it was encrypted too: their holders still read a copy of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also_for: Vec<String>,
}

/// The key that signs certificates.
pub struct CertificateKey {
    pair: Ed25519KeyPair,
    seed: SecretString,
}

impl Certificate {
    /// Reads a certificate. This checks its form only: [`Certificate::verify`] it.
    pub fn from_json(bytes: &[u8]) -> Result<Self, DocumentError> {
        let certificate: Self = serde_json::from_slice(bytes).map_err(DocumentError::Unreadable)?;
        if certificate.format > CERTIFICATE_FORMAT {
            return Err(DocumentError::UnsupportedFormat { found: certificate.format });
        }
        Ok(certificate)
    }

    /// Signs the certificate as it stands now; any later change makes it invalid.
    pub fn sign(&mut self, key: &CertificateKey) {
        self.public_key = key.public();
        self.signature = signature(PURPOSE, &self.document(), key);
    }

    /// Checks that the holder of this public key signed the certificate as it is.
    pub fn verify(&self, public_key: &str) -> Result<(), DocumentError> {
        verify_document(PURPOSE, &self.document(), public_key)
    }

    fn document(&self) -> Value {
        serde_json::to_value(self).expect("a certificate is plain data")
    }
}

impl CertificateKey {
    /// Makes a new random key.
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "it cannot fail, as the messages say")]
    pub fn generate() -> Self {
        let mut seed = [0; 32];
        rand::fill(&mut seed).expect("the system has randomness");
        Self::parse(&hex::encode(seed).into()).expect("any 32 bytes are a key")
    }

    /// Reads what [`CertificateKey::to_secret`] wrote.
    pub fn parse(secret: &SecretString) -> Result<Self, DocumentError> {
        let seed = hex::decode(secret.expose_secret()).map_err(|_| DocumentError::NotAKey)?;
        let pair = (seed.len() == 32).then(|| Ed25519KeyPair::from_seed_unchecked(&seed).ok());
        let pair = pair.flatten().ok_or(DocumentError::NotAKey)?;
        Ok(Self { pair, seed: secret.clone() })
    }

    /// The key as text: seal it before it rests.
    #[must_use]
    pub fn to_secret(&self) -> SecretString {
        self.seed.clone()
    }

    pub(crate) fn sign_bytes(&self, bytes: &[u8]) -> Signature {
        self.pair.sign(bytes)
    }

    /// Its public half, in hex.
    #[must_use]
    pub fn public(&self) -> String {
        hex::encode(self.pair.public_key())
    }
}

impl fmt::Debug for CertificateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertificateKey({})", self.public())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn signed(key: &CertificateKey) -> Certificate {
        let mut certificate = Certificate {
            format: CERTIFICATE_FORMAT,
            certificate: Uuid::from_u128(1),
            tenant: Uuid::from_u128(2),
            tenant_name: "acme".to_owned(),
            requested_by: "cli:ana".to_owned(),
            erased_at: "2026-01-02T03:04:05Z".parse().unwrap(),
            tenant_deleted: false,
            keys: vec!["age1x".to_owned()],
            backups: vec![ErasedBackup {
                backup: Uuid::from_u128(3),
                started_at: "2026-01-01T00:00:00Z".parse().unwrap(),
                dump_bytes: 10,
                dump_sha256: "ab".repeat(32),
                also_for: Vec::new(),
            }],
            public_key: String::new(),
            signature: String::new(),
        };
        certificate.sign(key);
        certificate
    }

    #[test]
    fn a_certificate_verifies_with_the_public_key_alone() {
        let key = CertificateKey::parse(&CertificateKey::generate().to_secret()).unwrap();
        let json = serde_json::to_vec_pretty(&signed(&key)).unwrap();

        let again = Certificate::from_json(&json).unwrap();

        again.verify(&key.public()).unwrap();
        let other = CertificateKey::generate();
        let error = again.verify(&other.public()).unwrap_err();
        assert!(matches!(error, DocumentError::OtherKey { .. }), "{error:?}");
        assert!(matches!(again.verify("age1x"), Err(DocumentError::NotAKey)));
    }

    #[test]
    fn any_altered_field_is_noticed() {
        let key = CertificateKey::generate();
        let good = serde_json::to_value(signed(&key)).unwrap();
        for (path, value) in [
            ("/tenant", json!(Uuid::from_u128(9))),
            ("/tenant_name", json!("globex")),
            ("/erased_at", json!("2027-01-02T03:04:05Z")),
            ("/tenant_deleted", json!(true)),
            ("/keys/0", json!("age1y")),
            ("/backups/0/dump_sha256", json!("cd".repeat(32))),
            ("/backups", json!([])),
            ("/signature", json!("")),
        ] {
            let mut bad = good.clone();
            *bad.pointer_mut(path).unwrap() = value;
            let bad = Certificate::from_json(&serde_json::to_vec(&bad).unwrap()).unwrap();
            assert!(matches!(bad.verify(&key.public()), Err(DocumentError::Altered)), "{path}");
        }
        let mut more = good;
        more["note"] = json!("and more");
        assert!(Certificate::from_json(&serde_json::to_vec(&more).unwrap()).is_err());
    }

    #[test]
    fn debug_does_not_show_the_secret() {
        let key = CertificateKey::generate();

        assert!(!format!("{key:?}").contains(key.to_secret().expose_secret()));
    }
}
