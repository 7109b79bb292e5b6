//! The manifest: what a backup holds, written after the dump, so present means complete.
//!
//! A manifest is authenticated under a key derived from the tenant's own, over *every* field of the
//! JSON, those that this version does not know included. It holds no secret and no slug. Its words
//! are a format: a new field is optional, and is left out of the JSON when it is absent.

use std::collections::BTreeMap;

use aws_lc_rs::hmac;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::key::BackupKey;
use crate::object_key::ObjectKey;
use crate::tools::major_of;

/// The newest format that this version reads.
const MANIFEST_FORMAT: u32 = 2;
/// The format of a manifest whose dump has the usual name: versions that know no other name read it.
const USUAL_FORMAT: u32 = 1;

/// Hex digits in front of the MAC that tell a wrong key from an altered manifest.
const KEY_CHECK_DIGITS: usize = 16;

/// What one backup holds and how to check it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of this format: see [`Manifest::format_of`].
    pub format: u32,
    /// The tenant whose data this is.
    pub tenant: Uuid,
    /// The backup.
    pub backup: Uuid,
    /// When the dump began.
    pub started_at: Timestamp,
    /// When the dump was stored.
    pub finished_at: Timestamp,
    /// The attempt that the dump is of and is named after, where that was not the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<Uuid>,
    /// Size of the stored object, in bytes: compressed and encrypted.
    pub dump_bytes: u64,
    /// SHA-256 of the stored object, in lower-case hex.
    pub dump_sha256: String,
    /// Size of the archive that `pg_dump` wrote, in bytes.
    pub plain_bytes: u64,
    /// The version of the server that was dumped, as it names itself.
    pub server_version: String,
    /// The version of `pg_dump`, as it names itself.
    pub client_version: String,
    /// The newest migration that the database held.
    pub schema_version: i64,
    /// The digest of the migration set that made the schema, in hex, where known.
    pub schema_digest: Option<String>,
    /// Every table with its rows, counted in the snapshot that was dumped.
    pub tables: Vec<TableRows>,
    /// Which master key wrapped the tenant's key; opaque to this crate.
    pub key_id: String,
    /// The tenant's key, wrapped, in base64; opaque to this crate. Empty once the key is destroyed.
    pub wrapped_key: String,
    /// Public keys of others (`age1…`) to which the dump is encrypted too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also_for: Vec<String>,
    /// The authentication code; empty until [`Manifest::sign`].
    pub mac: String,
    /// Fields of a newer version: kept, and covered by the authentication code. Empty in one of ours.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// How many rows a table held.
// A field that is not known here would be dropped on reading and so escape the MAC: refuse it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableRows {
    /// The table's schema.
    pub schema: String,
    /// The table.
    pub table: String,
    /// Its number of rows.
    pub rows: i64,
}

/// Why a manifest is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The bytes are no manifest.
    #[error("the manifest cannot be read")]
    Unreadable(#[source] serde_json::Error),
    /// Written by a newer version.
    #[error("the manifest has format {found}; this version reads up to {MANIFEST_FORMAT}")]
    UnsupportedFormat {
        /// The format of the manifest.
        found: u32,
    },
    /// The manifest describes the backup of another tenant.
    #[error("the backup belongs to tenant {found}, not to {expected}")]
    WrongTenant {
        /// Whose backup was asked for.
        expected: Uuid,
        /// Whose backup it is.
        found: Uuid,
    },
    /// The manifest describes another backup of the same tenant.
    #[error("the manifest describes backup {found}, not {expected}")]
    WrongBackup {
        /// Which backup was asked for.
        expected: Uuid,
        /// Which backup it is.
        found: Uuid,
    },
    /// The manifest was signed with another key.
    #[error("the manifest was signed with another key")]
    WrongKey,
    /// The manifest is not what was signed.
    #[error("the manifest was altered after it was signed")]
    Altered,
}

impl ManifestError {
    /// What an operator can do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Unreadable(_) | Self::Altered => {
                "do not trust this backup: restore another one, and find out who can write to the store"
            }
            Self::UnsupportedFormat { .. } => {
                "restore with the version that made the backup, or a newer one"
            }
            Self::WrongTenant { .. } | Self::WrongBackup { .. } => {
                "name the right tenant and backup; if they are right, objects were moved in the store"
            }
            Self::WrongKey => "give the key of the tenant as it was when the backup was made",
        }
    }
}

impl Manifest {
    /// The format of a manifest whose dump is of this attempt.
    #[must_use]
    pub fn format_of(attempt: Option<Uuid>) -> u32 {
        if attempt.is_some() { MANIFEST_FORMAT } else { USUAL_FORMAT }
    }

    /// Where the dump lies.
    #[must_use]
    pub fn dump_key(&self) -> ObjectKey {
        ObjectKey::dump_by(self.tenant, self.backup, self.attempt)
    }

    /// Reads a manifest as it lies in the store. This checks its form only: [`Manifest::verify`] it.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Self = serde_json::from_slice(bytes).map_err(ManifestError::Unreadable)?;
        if manifest.format > MANIFEST_FORMAT {
            return Err(ManifestError::UnsupportedFormat { found: manifest.format });
        }
        Ok(manifest)
    }

    /// The bytes that lie in the store.
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "it cannot fail, as the message says")]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a manifest has only text keys and finite numbers")
    }

    /// Authenticates the manifest as it stands now; any later change makes it invalid.
    pub fn sign(&mut self, key: &BackupKey) {
        let tag = hmac::sign(key.manifest_key(), &self.signed_bytes());
        self.mac = format!("{}.{}", key_check(key), hex::encode(tag));
    }

    /// Checks that this is the manifest of a backup of `tenant`, as it was signed with its key.
    pub fn verify(&self, key: &BackupKey, tenant: Uuid) -> Result<(), ManifestError> {
        if self.format > MANIFEST_FORMAT {
            return Err(ManifestError::UnsupportedFormat { found: self.format });
        }
        if self.tenant != tenant {
            return Err(ManifestError::WrongTenant { expected: tenant, found: self.tenant });
        }
        let (check, tag) = self.mac.split_once('.').ok_or(ManifestError::Altered)?;
        let tag = hex::decode(tag).map_err(|_| ManifestError::Altered)?;
        if hmac::verify(key.manifest_key(), &self.signed_bytes(), &tag).is_ok() {
            return Ok(());
        }
        // Only a hint for the operator: a forger can choose which of the two errors to see.
        let other_key = check.len() == KEY_CHECK_DIGITS && check != key_check(key);
        Err(if other_key { ManifestError::WrongKey } else { ManifestError::Altered })
    }

    /// The major version of the programs that made the dump, and of those that read it at least.
    #[must_use]
    pub fn client_major(&self) -> Option<u32> {
        major_of(&self.client_version)
    }

    fn signed_bytes(&self) -> Vec<u8> {
        let mut value =
            serde_json::to_value(self).expect("a manifest has only text keys and finite numbers");
        if let Value::Object(fields) = &mut value {
            fields.remove("mac");
        }
        let mut bytes = Vec::new();
        write_canonical(&value, &mut bytes);
        bytes
    }
}

/// A short value that is the same for the same key, and tells nothing about it.
fn key_check(key: &BackupKey) -> String {
    let tag = hmac::sign(key.manifest_key(), b"tenantry manifest key check");
    hex::encode(tag)[..KEY_CHECK_DIGITS].to_owned()
}

/// Compact JSON with every object's fields in order. Written out, because whether `serde_json` keeps
/// its maps sorted depends on a feature that any crate of the program may turn on.
pub(crate) fn write_canonical(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_canonical(item, out);
            }
            out.push(b']');
        }
        Value::Object(fields) => {
            let sorted: BTreeMap<_, _> = fields.iter().collect();
            out.push(b'{');
            for (index, (name, field)) in sorted.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                out.extend_from_slice(Value::from(name.as_str()).to_string().as_bytes());
                out.push(b':');
                write_canonical(field, out);
            }
            out.push(b'}');
        }
        scalar => out.extend_from_slice(scalar.to_string().as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn signed(key: &BackupKey) -> Manifest {
        let mut manifest = Manifest {
            format: Manifest::format_of(None),
            tenant: Uuid::from_u128(1),
            backup: Uuid::from_u128(2),
            started_at: "2026-01-02T03:04:05.678901Z".parse().unwrap(),
            finished_at: "2026-01-02T03:05:05Z".parse().unwrap(),
            attempt: None,
            dump_bytes: 1_000,
            dump_sha256: "ab".repeat(32),
            plain_bytes: 4_000,
            server_version: "15.18".to_owned(),
            client_version: "15.18".to_owned(),
            schema_version: 7,
            schema_digest: None,
            tables: vec![TableRows { schema: "public".into(), table: "notes".into(), rows: 3 }],
            key_id: "k1".to_owned(),
            wrapped_key: "d3JhcHBlZA==".to_owned(),
            also_for: Vec::new(),
            mac: String::new(),
            extra: BTreeMap::new(),
        };
        manifest.sign(key);
        manifest
    }

    fn reread(manifest: &Value) -> Result<Manifest, ManifestError> {
        Manifest::from_json(&serde_json::to_vec(manifest).unwrap())
    }

    #[test]
    fn a_signed_manifest_verifies_after_a_trip_through_the_store() {
        let key = BackupKey::generate();
        let manifest = signed(&key);

        let again = Manifest::from_json(&manifest.to_json()).unwrap();

        assert_eq!(again, manifest);
        again.verify(&key, again.tenant).unwrap();
    }

    #[test]
    fn every_field_is_covered() {
        let key = BackupKey::generate();
        let original = serde_json::to_value(signed(&key)).unwrap();
        let tenant = Uuid::from_u128(1);
        let changes = [
            ("backup", json!(Uuid::from_u128(3))),
            ("started_at", json!("2026-01-02T03:04:05.678902Z")),
            ("finished_at", json!("2026-01-02T03:05:06Z")),
            ("attempt", json!(Uuid::from_u128(3))),
            ("dump_bytes", json!(1_001)),
            ("dump_sha256", json!("cd".repeat(32))),
            ("plain_bytes", json!(4_001)),
            ("server_version", json!("15.19")),
            ("client_version", json!("15.19")),
            ("schema_version", json!(8)),
            ("schema_digest", json!("00")),
            ("tables", json!([{"schema": "public", "table": "notes", "rows": 4}])),
            ("tables", json!([])),
            ("key_id", json!("k2")),
            ("wrapped_key", json!("b3RoZXI=")),
            ("also_for", json!(["age1x"])),
            ("added", json!({"by": "somebody"})),
        ];

        for (field, value) in changes {
            let mut altered = original.clone();
            altered[field] = value;
            let refused = reread(&altered).unwrap().verify(&key, tenant).unwrap_err();
            assert!(matches!(refused, ManifestError::Altered), "{field}: {refused:?}");
        }
    }

    #[test]
    fn fields_of_a_newer_version_are_kept_and_covered() {
        let key = BackupKey::generate();
        let mut newer = signed(&key);
        newer.extra.insert("drilled".to_owned(), json!({"z": 1, "a": [true, null, 1.5]}));
        newer.sign(&key);

        let again = Manifest::from_json(&newer.to_json()).unwrap();
        let mut altered = serde_json::to_value(&newer).unwrap();
        altered["drilled"]["z"] = json!(2);

        again.verify(&key, again.tenant).unwrap();
        let refused = reread(&altered).unwrap().verify(&key, again.tenant).unwrap_err();
        assert!(matches!(refused, ManifestError::Altered));
    }

    #[test]
    fn the_order_of_the_fields_does_not_matter() {
        let key = BackupKey::generate();
        let Value::Object(fields) = serde_json::to_value(signed(&key)).unwrap() else { panic!() };
        let backwards: Vec<_> =
            fields.iter().rev().map(|(name, value)| format!("{}:{value}", json!(name))).collect();

        let again = Manifest::from_json(format!("{{{}}}", backwards.join(",")).as_bytes()).unwrap();

        again.verify(&key, again.tenant).unwrap();
    }

    #[test]
    fn another_key_another_tenant_and_a_missing_mac_are_told_apart() {
        let key = BackupKey::generate();
        let manifest = signed(&key);
        let unsigned = Manifest { mac: String::new(), ..manifest.clone() };

        let wrong_key = manifest.verify(&BackupKey::generate(), manifest.tenant).unwrap_err();
        let wrong_tenant = manifest.verify(&key, Uuid::from_u128(9)).unwrap_err();
        let no_mac = unsigned.verify(&key, manifest.tenant).unwrap_err();

        assert!(matches!(wrong_key, ManifestError::WrongKey));
        assert!(matches!(wrong_tenant, ManifestError::WrongTenant { .. }));
        assert!(matches!(no_mac, ManifestError::Altered));
    }

    #[test]
    fn a_newer_format_and_an_unknown_table_field_are_refused() {
        let key = BackupKey::generate();
        let mut newer = serde_json::to_value(signed(&key)).unwrap();
        let mut padded = newer.clone();
        newer["format"] = json!(MANIFEST_FORMAT + 1);
        padded["tables"][0]["bytes"] = json!(1);

        assert!(matches!(reread(&newer), Err(ManifestError::UnsupportedFormat { found: 3 })));
        assert!(matches!(reread(&padded), Err(ManifestError::Unreadable(_))));
    }
}
