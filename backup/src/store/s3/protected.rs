//! [`ObjectLock`] and [`ServerEncryption`] in the words of S3, and whether a bucket does as it is asked.

use std::time::{Duration, SystemTime};

use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{ObjectLockEnabled, ObjectLockMode, ServerSideEncryption};

use super::S3;
use crate::object_key::ObjectKey;
use crate::store::StoreError;
use crate::store::protection::{LockMode, ObjectLock, ServerEncryption};

const DAY: Duration = Duration::from_hours(24);

/// What a request for a new object says of its protection.
#[derive(Default)]
pub(super) struct Protected {
    pub(super) mode: Option<ObjectLockMode>,
    pub(super) until: Option<DateTime>,
    pub(super) encryption: Option<ServerSideEncryption>,
    pub(super) key_id: Option<String>,
}

impl S3 {
    /// The protection of the object with this key, from now on.
    pub(super) fn protected(&self, key: &str) -> Protected {
        let (encryption, key_id) = match &self.encryption {
            None => (None, None),
            Some(ServerEncryption::Aes256) => (Some(ServerSideEncryption::Aes256), None),
            Some(ServerEncryption::Kms(key)) => (Some(ServerSideEncryption::AwsKms), key.clone()),
        };
        let lock = self.object_lock.filter(|_| ObjectKey::parse(key).is_some());
        Protected {
            mode: lock.map(|lock| lock_mode(lock.mode)),
            until: lock.map(|ObjectLock { days, .. }| {
                DateTime::from(SystemTime::now() + DAY * u32::from(days))
            }),
            encryption,
            key_id,
        }
    }

    /// Says clearly that the bucket has no Object Lock, or did not encrypt this object, where it was asked to.
    pub(in crate::store) async fn require_protection(&self, key: &str) -> Result<(), StoreError> {
        if self.object_lock.is_some() && !self.has_object_lock().await? {
            let reason = "the bucket has no Object Lock, which is chosen when a bucket is made";
            return Err(StoreError::Settings { reason });
        }
        let Some(wanted) = self.protected(key).encryption else { return Ok(()) };
        let found = self.client.head_object().bucket(&self.bucket).key(self.full(key)).send();
        let found = found.await.map_err(|error| self.attempt("a look", key).failed(&error))?;
        if found.server_side_encryption() == Some(&wanted) {
            return Ok(());
        }
        let reason = "the store does not encrypt as it is asked to";
        Err(StoreError::Settings { reason })
    }

    async fn has_object_lock(&self) -> Result<bool, StoreError> {
        let asked = self.client.get_object_lock_configuration().bucket(&self.bucket).send().await;
        match asked {
            Ok(found) => {
                let found = found.object_lock_configuration;
                let enabled = found.and_then(|found| found.object_lock_enabled);
                Ok(enabled == Some(ObjectLockEnabled::Enabled))
            }
            Err(error) if error.code() == Some("ObjectLockConfigurationNotFoundError") => Ok(false),
            Err(error) if super::failure::is_not_implemented(&error) => Ok(false),
            Err(error) => {
                Err(self.attempt("a look at the bucket's Object Lock", "").failed(&error))
            }
        }
    }
}

fn lock_mode(mode: LockMode) -> ObjectLockMode {
    match mode {
        LockMode::Governance => ObjectLockMode::Governance,
        LockMode::Compliance => ObjectLockMode::Compliance,
    }
}
