//! Sealing of secrets at rest: AES-256-GCM under the operator's master key.
//!
//! Every sealed value is bound to its owner and its purpose as associated data, so a value that is
//! copied to another row does not open. The key's id travels with the value, so that a wrong key is
//! told apart from a damaged value, and so that keys which were the master key before can go on opening
//! what they sealed. They seal nothing: whatever is written is under the present key.
//!
//! Layout: version (1 byte) · key id (8) · nonce (12) · ciphertext and tag.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{digest, rand};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret as _, SecretSlice, SecretString};
use thiserror::Error;
use uuid::Uuid;

const VERSION: u8 = 1;
const KEY_ID_LEN: usize = 8;
const HEADER_LEN: usize = 1 + KEY_ID_LEN + NONCE_LEN;

/// The key under which the catalog's secrets are sealed: 32 bytes, from `TENANTRY_MASTER_KEY`.
pub struct MasterKey {
    key: LessSafeKey,
    id: [u8; KEY_ID_LEN],
    /// Keys that only open.
    others: Vec<MasterKey>,
}

/// What a sealed value is for; part of the associated data.
#[derive(Clone, Copy, Debug)]
pub enum Purpose {
    /// The password of a tenant's login role.
    TenantPassword,
    /// The key that a tenant's backups are encrypted to.
    BackupKey,
    /// The connection string of a server.
    ServerUrl,
    /// The connection string of a server's read replica.
    ReadReplicaUrl,
    /// A backup of the catalog, as a whole.
    CatalogBackup,
    /// The value by which a catalog recognises its master key.
    KeyCheck,
}

/// Why a value could not be sealed or opened.
#[derive(Debug, Error)]
pub enum SealError {
    /// The setting is not 32 bytes of base64 or hex.
    #[error(
        "TENANTRY_MASTER_KEY must be 32 random bytes in base64 or hex; make one with `openssl rand -base64 32`"
    )]
    BadKey,
    /// The value was sealed under another master key.
    #[error(
        "the value was sealed under the master key {sealed_with}, but TENANTRY_MASTER_KEY is the key {present}; set the key of this catalog, or give the one of before as TENANTRY_MASTER_KEY_PREVIOUS"
    )]
    OtherKey {
        /// Id of the key that the value names.
        sealed_with: String,
        /// Id of the key at hand.
        present: String,
    },
    /// The value was altered, cut or moved from another owner.
    #[error("a sealed value in the catalog is damaged or belongs to another owner")]
    Damaged,
}

impl MasterKey {
    /// Reads a key from its setting: base64 or hex of exactly 32 bytes.
    pub fn parse(text: &SecretString) -> Result<Self, SealError> {
        let text = text.expose_secret().trim();
        let bytes: SecretSlice<u8> = hex::decode(text)
            .or_else(|_| STANDARD.decode(text))
            .map_err(|_| SealError::BadKey)?
            .into();
        Self::from_bytes(bytes.expose_secret())
    }

    /// A new random key, as text for the setting.
    #[must_use]
    pub fn generate() -> SecretString {
        let mut bytes = [0; 32];
        rand::fill(&mut bytes).expect("the system has randomness");
        STANDARD.encode(bytes).into()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, SealError> {
        let key = UnboundKey::new(&AES_256_GCM, bytes).map_err(|_| SealError::BadKey)?;
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(b"tenantry master key id");
        hash.update(bytes);
        let mut id = [0; KEY_ID_LEN];
        id.copy_from_slice(&hash.finish().as_ref()[..KEY_ID_LEN]);
        Ok(Self { key: LessSafeKey::new(key), id, others: Vec::new() })
    }

    /// The same key, which also opens what `other` has sealed.
    #[must_use]
    pub fn opening_too(mut self, other: Self) -> Self {
        self.others.push(other);
        self
    }

    /// A name for the key that reveals nothing of it.
    #[must_use]
    pub fn id(&self) -> String {
        hex::encode(self.id)
    }

    /// Seals a secret for one owner and purpose.
    #[must_use]
    pub fn seal(&self, purpose: Purpose, owner: Uuid, secret: &SecretString) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).expect("the system has randomness");

        let mut sealed = Vec::with_capacity(HEADER_LEN + secret.expose_secret().len() + 16);
        sealed.push(VERSION);
        sealed.extend_from_slice(&self.id);
        sealed.extend_from_slice(&nonce);
        let mut body = secret.expose_secret().as_bytes().to_vec();
        self.key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                associated_data(purpose, owner),
                &mut body,
            )
            .expect("a short secret is within the cipher's limit");
        sealed.append(&mut body);
        sealed
    }

    /// Opens what [`MasterKey::seal`] made for the same owner and purpose.
    pub fn open(
        &self,
        purpose: Purpose,
        owner: Uuid,
        sealed: &[u8],
    ) -> Result<SecretString, SealError> {
        if sealed.len() < HEADER_LEN || sealed[0] != VERSION {
            return Err(SealError::Damaged);
        }
        let (header, body) = sealed.split_at(HEADER_LEN);
        let key_id = &header[1..=KEY_ID_LEN];
        let key =
            std::iter::once(self).chain(&self.others).find(|key| key.id == key_id).ok_or_else(
                || SealError::OtherKey { sealed_with: hex::encode(key_id), present: self.id() },
            )?;
        let nonce = Nonce::try_assume_unique_for_key(&header[1 + KEY_ID_LEN..])
            .map_err(|_| SealError::Damaged)?;
        let mut body = body.to_vec();
        let plain = key
            .key
            .open_in_place(nonce, associated_data(purpose, owner), &mut body)
            .map_err(|_| SealError::Damaged)?;
        let text = std::str::from_utf8(plain).map_err(|_| SealError::Damaged)?;
        Ok(text.to_owned().into())
    }

    /// The id of the key that sealed a value, as the value says.
    #[must_use]
    pub fn id_in(sealed: &[u8]) -> Option<String> {
        let whole = sealed.len() >= HEADER_LEN && sealed[0] == VERSION;
        whole.then(|| hex::encode(&sealed[1..=KEY_ID_LEN]))
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey({})", self.id())
    }
}

fn associated_data(purpose: Purpose, owner: Uuid) -> Aad<Vec<u8>> {
    let purpose: &[u8] = match purpose {
        Purpose::TenantPassword => b"tenant password",
        Purpose::BackupKey => b"backup key",
        Purpose::ServerUrl => b"server url",
        Purpose::ReadReplicaUrl => b"read replica url",
        Purpose::CatalogBackup => b"catalog backup",
        Purpose::KeyCheck => b"key check",
    };
    Aad::from([b"tenantry:", purpose, b":", owner.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> MasterKey {
        MasterKey::parse(&MasterKey::generate()).unwrap()
    }

    #[test]
    fn a_secret_opens_for_its_owner_and_purpose_only() {
        let (key, owner) = (key(), Uuid::now_v7());
        let sealed = key.seal(Purpose::TenantPassword, owner, &"hush".to_owned().into());

        assert_eq!(
            key.open(Purpose::TenantPassword, owner, &sealed).unwrap().expose_secret(),
            "hush"
        );
        assert!(key.open(Purpose::TenantPassword, Uuid::now_v7(), &sealed).is_err());
        assert!(key.open(Purpose::BackupKey, owner, &sealed).is_err());
    }

    #[test]
    fn any_altered_byte_is_noticed() {
        let (key, owner) = (key(), Uuid::now_v7());
        let sealed = key.seal(Purpose::BackupKey, owner, &"hush".to_owned().into());

        for at in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[at] ^= 1;
            assert!(key.open(Purpose::BackupKey, owner, &bad).is_err(), "byte {at}");
            assert!(key.open(Purpose::BackupKey, owner, &sealed[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn another_master_key_is_named_as_such() {
        let owner = Uuid::now_v7();
        let sealed = key().seal(Purpose::ServerUrl, owner, &"hush".to_owned().into());

        let error = key().open(Purpose::ServerUrl, owner, &sealed).unwrap_err();

        assert!(matches!(error, SealError::OtherKey { .. }));
    }

    #[test]
    fn a_key_of_before_opens_and_does_not_seal() {
        let owner = Uuid::now_v7();
        let (before, now) = (MasterKey::generate(), MasterKey::generate());
        let old = MasterKey::parse(&before).unwrap();
        let sealed = old.seal(Purpose::ServerUrl, owner, &"hush".to_owned().into());
        let both = MasterKey::parse(&now).unwrap().opening_too(MasterKey::parse(&before).unwrap());

        let again = both.seal(
            Purpose::ServerUrl,
            owner,
            &both.open(Purpose::ServerUrl, owner, &sealed).unwrap(),
        );

        assert_eq!(MasterKey::id_in(&sealed), Some(old.id()));
        assert_eq!(MasterKey::id_in(&again), Some(both.id()));
        assert!(old.open(Purpose::ServerUrl, owner, &again).is_err());
        assert!(both.open(Purpose::BackupKey, owner, &sealed).is_err());
    }

    #[test]
    fn keys_of_a_wrong_length_are_refused() {
        for text in ["", "short", "AAAA", &"0".repeat(63), &STANDARD.encode([0; 31])] {
            assert!(MasterKey::parse(&text.to_owned().into()).is_err(), "{text:?}");
        }
    }
}
