//! What the bucket is asked to do with backups: to lose them for nobody (Object Lock), and to encrypt them.
//!
//! Both are asked for object by object, so that a bucket of somebody else's needs no defaults for us. Only what
//! is of a backup is locked: the probe of a check and the backups of the catalog come and go. Encryption by the
//! store comes on top of ours, for those who must show it; it keeps nothing from the store.

use std::fmt;
use std::str::FromStr;

/// How long, and how strictly, the bucket holds each object of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectLock {
    /// Who may end it before its time.
    pub mode: LockMode,
    /// For so many days from the upload.
    pub days: u16,
}

/// Who may end a lock before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Who has `s3:BypassGovernanceRetention`.
    Governance,
    /// Nobody.
    Compliance,
}

/// With what the store encrypts what it keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerEncryption {
    /// With keys of its own.
    Aes256,
    /// With a key of AWS KMS: this one, or the bucket's.
    Kms(Option<String>),
}

/// A text is no lock, or no encryption.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("expected {0}")]
pub struct NotAProtection(&'static str);

impl ObjectLock {
    /// What [`ObjectLock::from_str`] takes.
    pub const EXPECTED: &'static str =
        "mode and days from 1 to 36500, such as `governance=30` or `compliance=365`";
}

impl FromStr for ObjectLock {
    type Err = NotAProtection;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text.split_once('=').and_then(|(mode, days)| {
            let mode = match mode {
                "governance" => LockMode::Governance,
                "compliance" => LockMode::Compliance,
                _ => return None,
            };
            let days = days.parse().ok().filter(|days| (1..=36_500).contains(days))?;
            Some(Self { mode, days })
        });
        parsed.ok_or(NotAProtection(Self::EXPECTED))
    }
}

impl fmt::Display for ObjectLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match self.mode {
            LockMode::Governance => "governance",
            LockMode::Compliance => "compliance",
        };
        write!(f, "{mode}={}", self.days)
    }
}

impl ServerEncryption {
    /// What [`ServerEncryption::from_str`] takes.
    pub const EXPECTED: &'static str =
        "word such as `AES256`, `aws:kms`, or `aws:kms=` and a key's id or ARN";
}

impl FromStr for ServerEncryption {
    type Err = NotAProtection;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.strip_prefix("aws:kms=")) {
            ("AES256", _) => Ok(Self::Aes256),
            ("aws:kms", _) => Ok(Self::Kms(None)),
            (_, Some(key)) if !key.is_empty() => Ok(Self::Kms(Some(key.to_owned()))),
            _ => Err(NotAProtection(Self::EXPECTED)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_a_mode_and_a_number_of_days() {
        for text in ["governance=1", "compliance=36500"] {
            assert_eq!(text.parse::<ObjectLock>().unwrap().to_string(), text);
        }
        for text in ["", "governance", "governance=0", "compliance=36501", "legal=1", "=1"] {
            assert!(text.parse::<ObjectLock>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_encryption_is_the_stores_or_of_a_key() {
        let kms = |key: &str| ServerEncryption::Kms(Some(key.to_owned()));
        let arn = "arn:aws:kms:eu-west-1:1:key/2";

        assert_eq!("AES256".parse::<ServerEncryption>().unwrap(), ServerEncryption::Aes256);
        assert_eq!("aws:kms".parse::<ServerEncryption>().unwrap(), ServerEncryption::Kms(None));
        assert_eq!(format!("aws:kms={arn}").parse::<ServerEncryption>().unwrap(), kms(arn));
        for text in ["", "aes", "aws:kms=", "kms"] {
            assert!(text.parse::<ServerEncryption>().is_err(), "{text}");
        }
    }
}
