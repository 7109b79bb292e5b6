//! A tenant's key: an age X25519 identity, which alone opens that tenant's backups.
//!
//! Deleting it makes every backup of the tenant unreadable. The key never appears in a `Debug`, a
//! log or an object: whoever keeps it does so sealed, through [`BackupKey::to_secret`].

use std::fmt;

use age::x25519;
use aws_lc_rs::{hkdf, hmac};
use secrecy::{ExposeSecret, SecretString};

/// One tenant's secret key.
#[derive(Clone)]
pub struct BackupKey {
    identity: x25519::Identity,
    manifest_key: hmac::Key,
}

/// Why a text is no key. It never quotes the text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not `AGE-SECRET-KEY-1…`, or damaged.
    #[error("the backup key is not an age X25519 identity ({reason})")]
    NotAnIdentity {
        /// What the parser disliked.
        reason: &'static str,
    },
}

impl BackupKey {
    /// Makes a new random key.
    #[must_use]
    pub fn generate() -> Self {
        Self::from_identity(x25519::Identity::generate())
    }

    /// Reads what [`BackupKey::to_secret`] wrote.
    pub fn parse(secret: &SecretString) -> Result<Self, KeyError> {
        let identity = secret
            .expose_secret()
            .trim()
            .parse()
            .map_err(|reason| KeyError::NotAnIdentity { reason })?;
        Ok(Self::from_identity(identity))
    }

    /// The key as text (`AGE-SECRET-KEY-1…`), as the `age` command reads it: seal it before it rests.
    #[must_use]
    pub fn to_secret(&self) -> SecretString {
        self.identity.to_string()
    }

    /// The key's public half (`age1…`): what it is called, and all that is needed to encrypt to it.
    #[must_use]
    pub fn public(&self) -> String {
        self.recipient().to_string()
    }

    /// What opens an encrypted dump.
    pub(crate) fn identity(&self) -> &x25519::Identity {
        &self.identity
    }

    /// What seals a dump.
    pub(crate) fn recipient(&self) -> x25519::Recipient {
        self.identity.to_public()
    }

    /// What authenticates a manifest: derived from the identity, and useless for opening a dump.
    pub(crate) fn manifest_key(&self) -> &hmac::Key {
        &self.manifest_key
    }

    fn from_identity(identity: x25519::Identity) -> Self {
        let text = identity.to_string();
        let manifest_key = hkdf::Salt::new(hkdf::HKDF_SHA256, b"tenantry-backup")
            .extract(text.expose_secret().as_bytes())
            .expand(&[b"manifest hmac-sha256 v1"], hmac::HMAC_SHA256)
            .expect("32 bytes are within what HKDF-SHA256 can give")
            .into();
        Self { identity, manifest_key }
    }
}

impl fmt::Debug for BackupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BackupKey([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_being_written_down() {
        let key = BackupKey::generate();

        let again = BackupKey::parse(&key.to_secret()).unwrap();

        assert_eq!(key.to_secret().expose_secret(), again.to_secret().expose_secret());
        assert!(key.to_secret().expose_secret().starts_with("AGE-SECRET-KEY-1"));
        let tag = hmac::sign(key.manifest_key(), b"manifest");
        hmac::verify(again.manifest_key(), b"manifest", tag.as_ref()).unwrap();
    }

    #[test]
    fn two_keys_differ() {
        let (one, other) = (BackupKey::generate(), BackupKey::generate());

        let tag = hmac::sign(one.manifest_key(), b"manifest");

        assert!(hmac::verify(other.manifest_key(), b"manifest", tag.as_ref()).is_err());
    }

    #[test]
    fn neither_debug_nor_an_error_shows_the_secret() {
        let key = BackupKey::generate();
        let damaged = key.to_secret().expose_secret().replace('1', "2");

        let error = BackupKey::parse(&SecretString::from(damaged.clone())).unwrap_err();

        assert_eq!(format!("{key:?}"), "BackupKey([redacted])");
        assert!(!format!("{error} {error:?}").contains(&damaged[16..24]));
    }
}
