//! What can go wrong with a store, in an operator's words.

use std::error::Error;
use std::io;

/// Why the store did not do what was asked. It never holds a credential.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The settings cannot be used as they are.
    #[error("the backup store is misconfigured: {reason}")]
    Settings {
        /// What is wrong.
        reason: &'static str,
    },
    /// The bucket, or the directory, does not exist.
    #[error("the backup store {place} does not exist")]
    NoSuchBucket {
        /// The bucket or directory.
        place: String,
    },
    /// The store knows us and says no, or does not know us.
    #[error("the backup store denied {operation}")]
    Denied {
        /// What was refused.
        operation: &'static str,
        /// The store's own words.
        source: Box<dyn Error + Send + Sync>,
    },
    /// There is no such object.
    #[error("there is no object {key}")]
    NotFound {
        /// Its key.
        key: String,
    },
    /// The store could not be reached, or is overloaded.
    #[error("the backup store could not be reached for {operation}")]
    Unreachable {
        /// What was attempted.
        operation: &'static str,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The store did not answer in time.
    #[error("the backup store gave no answer to {operation} within {after_secs} s")]
    Timeout {
        /// What was attempted.
        operation: &'static str,
        /// How long we waited.
        after_secs: u64,
    },
    /// A small object was asked for and this is not one.
    #[error("the object {key} is larger than {limit} bytes")]
    TooLarge {
        /// Its key.
        key: String,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The object was replaced or cut while it was being read.
    #[error("the object {key} changed while it was read")]
    Changed {
        /// Its key.
        key: String,
    },
    /// The object is not what was stored: it was damaged where it lies.
    #[error("the object {key} is damaged: it does not match the checksum that was stored with it")]
    Damaged {
        /// Its key.
        key: String,
    },
    /// What was written is not what was read or listed.
    #[error("the backup store does not show what was just written to it")]
    Inconsistent,
    /// The stream that was to be stored failed; nothing was stored.
    #[error("the stream that was to be stored failed")]
    Source(#[source] io::Error),
    /// Anything else.
    #[error("the backup store failed at {operation}")]
    Other {
        /// What was attempted.
        operation: &'static str,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
}

impl StoreError {
    /// What an operator can do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Settings { .. } => "correct the settings of the backup store",
            Self::NoSuchBucket { .. } => {
                "create the bucket (or the directory), or correct its name and region"
            }
            Self::Denied { .. } => {
                "check the credentials, and that they allow s3:PutObject, s3:GetObject, s3:DeleteObject, \
                 s3:AbortMultipartUpload, s3:ListBucket and s3:ListBucketMultipartUploads"
            }
            Self::NotFound { .. } => {
                "check the tenant and the backup; a lifecycle rule may have deleted it"
            }
            Self::Unreachable { .. } | Self::Timeout { .. } => {
                "check the endpoint, DNS, proxies and firewalls between here and the store, then try again"
            }
            Self::TooLarge { .. } => "this is no object of ours: find out who wrote it",
            Self::Changed { .. } => "find out who else writes to this store, then try again",
            Self::Damaged { .. } => {
                "this object is lost: use another backup, and find out what happened to the store"
            }
            Self::Inconsistent => "use a store that is consistent after a write, as S3 is",
            Self::Source(_) => "see the cause: the store itself is well",
            Self::Other { .. } => "see the cause, and the store's own log",
        }
    }

    /// Whether the same call may succeed later without anybody changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Timeout { .. })
    }

    /// Whether an object is at fault: it is gone, or not what was stored. Any other error is about the store, or
    /// about what we may do there.
    #[must_use]
    pub fn blames_object(&self) -> bool {
        matches!(
            self,
            Self::NotFound { .. }
                | Self::TooLarge { .. }
                | Self::Changed { .. }
                | Self::Damaged { .. }
        )
    }

    /// The error of a file operation on a directory store.
    pub(super) fn from_io(operation: &'static str, key: &str, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound { key: key.to_owned() },
            io::ErrorKind::PermissionDenied => Self::Denied { operation, source: error.into() },
            _ => Self::Other { operation, source: error.into() },
        }
    }

    /// The error inside an [`io::Error`] of an [`ObjectReader`](super::ObjectReader), if it has one.
    pub(crate) fn from_stream(error: io::Error) -> Result<Self, io::Error> {
        error.downcast::<Self>()
    }
}
