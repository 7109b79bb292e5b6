//! Where backups rest: an S3 bucket, a directory or memory, behind one type.
//!
//! Invariants: an object is there in whole or not at all; what one upload keeps in memory has a
//! bound; no error and no `Debug` shows a credential. Keys that this crate did not write are neither
//! listed nor deleted.

mod catalog;
mod checkpoints;
mod directory;
mod error;
mod memory;
mod protection;
mod s3;

use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use tokio::io::{AsyncRead, ReadBuf};
use uuid::Uuid;

pub use error::StoreError;
pub use protection::{LockMode, NotAProtection, ObjectLock, ServerEncryption};
pub use s3::S3Settings;

use crate::object_key::{KeyScope, ObjectKey};

/// The largest object that [`BackupStore::get`] reads, in bytes. A manifest is far below it.
pub const MAX_SMALL_OBJECT_BYTES: u64 = 1024 * 1024;

/// How long [`BackupStore::check`] may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(8);
/// Tenants whose backups are listed at a time.
const LISTS: usize = 16;

/// A place for backups; a cheap clone of one handle.
#[derive(Clone)]
pub struct BackupStore {
    backend: Backend,
}

#[derive(Clone)]
enum Backend {
    S3(s3::S3),
    Directory(directory::Directory),
    Memory(memory::Memory),
}

/// One object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Which object.
    pub key: ObjectKey,
    /// Its size as stored, in bytes.
    pub size: u64,
    /// When it was last written, by the store's clock.
    pub last_modified: Timestamp,
}

/// What an upload stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uploaded {
    /// Size of the object, in bytes.
    pub bytes: u64,
    /// SHA-256 of the object, in lower-case hex.
    pub sha256: String,
}

impl BackupStore {
    /// A bucket of S3, or of anything that speaks its protocol. Connects to nothing yet, apart from
    /// what the AWS chain needs to find a region; see [`BackupStore::check`].
    pub async fn s3(settings: S3Settings) -> Result<Self, StoreError> {
        Ok(Self { backend: Backend::S3(s3::S3::new(settings).await?) })
    }

    /// An existing directory: for tests, and for a mounted file system that is itself backed up.
    #[must_use]
    pub fn directory(root: PathBuf) -> Self {
        Self { backend: Backend::Directory(directory::Directory::new(root)) }
    }

    /// Memory, gone with the last clone: for tests.
    #[must_use]
    pub fn memory() -> Self {
        Self { backend: Backend::Memory(memory::Memory::default()) }
    }

    /// Where this is, for people: `s3://bucket/prefix at endpoint`. Holds no credential.
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.backend {
            Backend::S3(s3) => s3.describe(),
            Backend::Directory(directory) => directory.describe(),
            Backend::Memory(_) => "memory".to_owned(),
        }
    }

    /// Proves that the store is there, that we may write, read, list and delete, and that it locks and
    /// encrypts what it is asked to, with a probe object under `.tenantry-probe-<uuid>`. Ends within 10 seconds, whatever the store does.
    pub async fn check(&self) -> Result<(), StoreError> {
        let probe = format!(".tenantry-probe-{}", Uuid::new_v4());
        let checked = tokio::time::timeout(CHECK_TIMEOUT, self.check_with(&probe)).await;
        checked.unwrap_or(Err(StoreError::Timeout {
            operation: "check",
            after_secs: CHECK_TIMEOUT.as_secs(),
        }))
    }

    /// Stores a small object, replacing one of the same name.
    pub async fn put(&self, key: &ObjectKey, body: Bytes) -> Result<(), StoreError> {
        self.put_raw(&key.to_string(), body).await
    }

    /// Reads a whole small object; one above [`MAX_SMALL_OBJECT_BYTES`] is [`StoreError::TooLarge`].
    pub async fn get(&self, key: &ObjectKey) -> Result<Bytes, StoreError> {
        self.get_raw(&key.to_string()).await
    }

    /// Stores everything that `reader` gives, in bounded memory. When the reader fails, the store
    /// fails or this future is dropped, nothing is stored.
    pub async fn upload(
        &self,
        key: &ObjectKey,
        reader: impl AsyncRead + Send,
    ) -> Result<Uploaded, StoreError> {
        let reader = std::pin::pin!(reader);
        let key = key.to_string();
        match &self.backend {
            Backend::S3(s3) => s3.upload(&key, reader).await,
            Backend::Directory(directory) => directory.upload(&key, reader).await,
            Backend::Memory(memory) => memory.upload(&key, reader).await,
        }
    }

    /// Reads an object as a stream. On S3 a broken connection is resumed where it broke; when the
    /// object was replaced meanwhile the stream ends in an error that wraps [`StoreError::Changed`].
    pub async fn open(&self, key: &ObjectKey) -> Result<ObjectReader, StoreError> {
        let key = key.to_string();
        match &self.backend {
            Backend::S3(s3) => s3.open(&key).await,
            Backend::Directory(directory) => directory.open(&key).await,
            Backend::Memory(memory) => memory.open(&key),
        }
    }

    /// Every object of this crate's within `scope`, in the order of the keys.
    pub async fn list(&self, scope: KeyScope) -> Result<Vec<ObjectInfo>, StoreError> {
        let listed = self.list_raw(&scope.prefix()).await?;
        let mut objects: Vec<_> = listed
            .into_iter()
            .filter_map(|RawObject { key, size, last_modified }| {
                ObjectKey::parse(&key).map(|key| ObjectInfo { key, size, last_modified })
            })
            .collect();
        objects.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(objects)
    }

    /// Deletes an object; one that is not there is fine.
    pub async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.delete_raw(&key.to_string()).await
    }

    /// Until when the store itself refuses to lose an object; `None` when nothing holds it, or when it is not
    /// there. S3 tells only who may ask (`s3:GetObjectRetention`).
    pub async fn locked_until(&self, key: &ObjectKey) -> Result<Option<Timestamp>, StoreError> {
        match &self.backend {
            Backend::S3(s3) => s3.locked_until(&key.to_string()).await,
            Backend::Directory(_) | Backend::Memory(_) => Ok(None),
        }
    }

    /// Discards what interrupted uploads of this backup left in the store, and counts them. A store
    /// that cannot list them has none to show: that is `Ok(0)`.
    pub async fn abort_unfinished(&self, tenant: Uuid, backup: Uuid) -> Result<u64, StoreError> {
        let prefix = KeyScope::Backup { tenant, backup }.prefix();
        match &self.backend {
            Backend::S3(s3) => s3.abort_unfinished(&prefix, Timestamp::MAX).await,
            Backend::Directory(directory) => {
                directory.abort_unfinished(&prefix, Timestamp::MAX).await
            }
            Backend::Memory(_) => Ok(0),
        }
    }

    /// Discards what uploads of a tenant left that began before this moment and never ended, and counts them.
    /// As with [`BackupStore::abort_unfinished`], a store may have none to show.
    pub async fn abort_older(&self, tenant: Uuid, before: Timestamp) -> Result<u64, StoreError> {
        let prefix = KeyScope::Tenant(tenant).prefix();
        match &self.backend {
            Backend::S3(s3) => s3.abort_unfinished(&prefix, before).await,
            Backend::Directory(directory) => directory.abort_unfinished(&prefix, before).await,
            Backend::Memory(_) => Ok(0),
        }
    }

    /// Deletes a backup: its manifest first, so that it never looks whole while it is going; then the
    /// dump, whatever else lies under it, and unfinished uploads. Twice equals once.
    pub async fn remove_backup(&self, tenant: Uuid, backup: Uuid) -> Result<(), StoreError> {
        self.delete(&ObjectKey::manifest(tenant, backup)).await?;
        self.delete(&ObjectKey::dump(tenant, backup)).await?;
        for object in self.list(KeyScope::Backup { tenant, backup }).await? {
            self.delete(&object.key).await?;
        }
        self.abort_unfinished(tenant, backup).await?;
        Ok(())
    }

    /// Deletes what a bucket with versioning keeps of a tenant's manifests from before: earlier ones, and
    /// those of backups that are gone. Fails where the bucket's lock forbids it.
    pub async fn forget_versions(&self, tenant: Uuid) -> Result<(), StoreError> {
        match &self.backend {
            Backend::S3(s3) => s3.forget_versions(&KeyScope::Tenant(tenant).prefix()).await,
            Backend::Directory(_) | Backend::Memory(_) => Ok(()),
        }
    }

    /// The backups of a tenant that are complete: those with a manifest, oldest id first.
    pub async fn backups_of(&self, tenant: Uuid) -> Result<Vec<Uuid>, StoreError> {
        let objects = self.list(KeyScope::Tenant(tenant)).await?;
        Ok(objects
            .iter()
            .map(|object| &object.key)
            .filter(|key| **key == ObjectKey::manifest(tenant, key.backup()))
            .map(ObjectKey::backup)
            .collect())
    }

    /// The same of many tenants, some at a time: each tenant with each of its backups, in the order of the tenants.
    pub async fn backups_of_each(
        &self,
        tenants: Vec<Uuid>,
    ) -> Result<Vec<(Uuid, Uuid)>, StoreError> {
        let lists = tenants.into_iter().map(|tenant| {
            async move { Ok::<_, StoreError>((tenant, self.backups_of(tenant).await?)) }.boxed()
        });
        let lists: Vec<_> = lists.collect();
        let mut lists = stream::iter(lists).buffered(LISTS);
        let mut found = Vec::new();
        while let Some((tenant, backups)) = lists.try_next().await? {
            found.extend(backups.into_iter().map(|backup| (tenant, backup)));
        }
        Ok(found)
    }

    /// Every tenant that has an object here, complete backup or not.
    pub async fn tenants(&self) -> Result<Vec<Uuid>, StoreError> {
        let mut tenants = match &self.backend {
            Backend::S3(s3) => s3.tenants().await,
            Backend::Directory(directory) => directory.tenants().await,
            Backend::Memory(memory) => Ok(memory.tenants()),
        }?;
        tenants.sort_unstable();
        tenants.dedup();
        Ok(tenants)
    }

    async fn check_with(&self, probe: &str) -> Result<(), StoreError> {
        if let Backend::S3(s3) = &self.backend {
            s3.require_bucket().await?;
        }
        self.put_raw(probe, Bytes::from_static(b"tenantry")).await?;
        let read = async {
            let body = self.get_raw(probe).await?;
            let listed = self.list_raw(probe).await?;
            let seen = listed.iter().any(|object| object.key == probe);
            if body != "tenantry" || !seen {
                return Err(StoreError::Inconsistent);
            }
            match &self.backend {
                Backend::S3(s3) => s3.require_protection(probe).await,
                Backend::Directory(_) | Backend::Memory(_) => Ok(()),
            }
        };
        let read = read.await;
        let deleted = self.delete_raw(probe).await;
        read.and(deleted)
    }

    async fn put_raw(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        match &self.backend {
            Backend::S3(s3) => s3.put(key, body).await,
            Backend::Directory(directory) => {
                directory.upload(key, std::pin::pin!(&body[..])).await.map(drop)
            }
            Backend::Memory(memory) => {
                memory.put(key, body);
                Ok(())
            }
        }
    }

    async fn get_raw(&self, key: &str) -> Result<Bytes, StoreError> {
        match &self.backend {
            Backend::S3(s3) => s3.get(key).await,
            Backend::Directory(directory) => directory.get(key).await,
            Backend::Memory(memory) => memory.get(key),
        }
    }

    async fn list_raw(&self, prefix: &str) -> Result<Vec<RawObject>, StoreError> {
        match &self.backend {
            Backend::S3(s3) => s3.list(prefix).await,
            Backend::Directory(directory) => directory.list(prefix).await,
            Backend::Memory(memory) => Ok(memory.list(prefix)),
        }
    }

    async fn delete_raw(&self, key: &str) -> Result<(), StoreError> {
        match &self.backend {
            Backend::S3(s3) => s3.delete(key).await,
            Backend::Directory(directory) => directory.delete(key).await,
            Backend::Memory(memory) => {
                memory.delete(key);
                Ok(())
            }
        }
    }
}

impl fmt::Debug for BackupStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BackupStore({})", self.describe())
    }
}

/// An object as a stream of bytes. Its errors of the store's wrap a [`StoreError`].
pub struct ObjectReader {
    size: u64,
    body: Pin<Box<dyn AsyncRead + Send>>,
}

impl ObjectReader {
    fn new(size: u64, body: impl AsyncRead + Send + 'static) -> Self {
        Self { size, body: Box::pin(body) }
    }

    /// Size of the whole object, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }
}

impl AsyncRead for ObjectReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        self.body.as_mut().poll_read(cx, buf)
    }
}

impl fmt::Debug for ObjectReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectReader").field("size", &self.size).finish_non_exhaustive()
    }
}

/// An object as a backend lists it, its key still text.
struct RawObject {
    key: String,
    size: u64,
    last_modified: Timestamp,
}
