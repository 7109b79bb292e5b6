//! Objects as files below a directory.
//!
//! A file is written beside its place, synced, and renamed into it, so it is there in whole or not at
//! all. The root has to exist: creating it could hide a disk that is not mounted.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;

use aws_lc_rs::digest;
use bytes::Bytes;
use jiff::Timestamp;
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use uuid::Uuid;

use super::{MAX_SMALL_OBJECT_BYTES, ObjectReader, RawObject, StoreError, Uploaded};
use crate::object_key::parse_id;

/// What the name of an unfinished file ends in.
const UNFINISHED: &str = ".unfinished";
const BUFFER_BYTES: usize = 256 * 1024;

#[derive(Clone)]
pub(super) struct Directory {
    root: PathBuf,
}

impl Directory {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(super) fn describe(&self) -> String {
        format!("directory {}", self.root.display())
    }

    pub(super) async fn upload(
        &self,
        key: &str,
        mut reader: Pin<&mut (impl AsyncRead + Send)>,
    ) -> Result<Uploaded, StoreError> {
        self.require_root().await?;
        let failed = |error| StoreError::from_io("a write", key, error);
        let path = self.root.join(key);
        let folder = path.parent().unwrap_or(&self.root).to_owned();
        tokio::fs::create_dir_all(&folder).await.map_err(failed)?;
        let unfinished = Unfinished::beside(&path);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        options.mode(0o600);
        let mut file = options.open(&unfinished.path).await.map_err(failed)?;

        let mut sha256 = digest::Context::new(&digest::SHA256);
        let mut bytes = 0;
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let read = reader.read(&mut buffer).await.map_err(StoreError::Source)?;
            if read == 0 {
                break;
            }
            sha256.update(&buffer[..read]);
            bytes += read as u64;
            file.write_all(&buffer[..read]).await.map_err(failed)?;
        }
        file.flush().await.map_err(failed)?;
        file.sync_all().await.map_err(failed)?;
        drop(file);
        tokio::fs::rename(&unfinished.path, &path).await.map_err(failed)?;
        sync_folder(folder).await.map_err(failed)?;
        Ok(Uploaded { bytes, sha256: hex::encode(sha256.finish()) })
    }

    pub(super) async fn get(&self, key: &str) -> Result<Bytes, StoreError> {
        let reader = self.open(key).await?;
        let mut body = Vec::new();
        let mut bounded = reader.take(MAX_SMALL_OBJECT_BYTES + 1);
        bounded
            .read_to_end(&mut body)
            .await
            .map_err(|error| StoreError::from_io("a read", key, error))?;
        if body.len() as u64 > MAX_SMALL_OBJECT_BYTES {
            return Err(StoreError::TooLarge {
                key: key.to_owned(),
                limit: MAX_SMALL_OBJECT_BYTES,
            });
        }
        Ok(body.into())
    }

    pub(super) async fn open(&self, key: &str) -> Result<ObjectReader, StoreError> {
        self.require_root().await?;
        let failed = |error| StoreError::from_io("a read", key, error);
        let file = File::open(self.root.join(key)).await.map_err(failed)?;
        let size = file.metadata().await.map_err(failed)?.len();
        Ok(ObjectReader::new(size, file))
    }

    pub(super) async fn list(&self, prefix: &str) -> Result<Vec<RawObject>, StoreError> {
        let files = self.files(prefix).await?;
        Ok(files.into_iter().filter(|object| !object.key.ends_with(UNFINISHED)).collect())
    }

    pub(super) async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.require_root().await?;
        let path = self.root.join(key);
        remove_file(&path).await.map_err(|error| StoreError::from_io("a delete", key, error))?;
        // The folder of a backup goes with its last object; a folder with files in it stays.
        if let Some(folder) = path.parent().filter(|folder| *folder != self.root) {
            let _ = tokio::fs::remove_dir(folder).await;
        }
        Ok(())
    }

    pub(super) async fn abort_unfinished(
        &self,
        prefix: &str,
        before: Timestamp,
    ) -> Result<u64, StoreError> {
        let mut aborted = 0;
        for object in self.files(prefix).await? {
            if object.key.ends_with(UNFINISHED) && object.last_modified < before {
                self.delete(&object.key).await?;
                aborted += 1;
            }
        }
        Ok(aborted)
    }

    pub(super) async fn tenants(&self) -> Result<Vec<Uuid>, StoreError> {
        let objects = self.list("").await?;
        Ok(objects.iter().filter_map(|object| parse_id(object.key.split_once('/')?.0)).collect())
    }

    /// Every file whose key begins with `prefix`, unfinished ones included.
    async fn files(&self, prefix: &str) -> Result<Vec<RawObject>, StoreError> {
        self.require_root().await?;
        let (root, wanted) = (self.root.clone(), prefix.to_owned());
        let walked = tokio::task::spawn_blocking(move || {
            let folder = wanted.rsplit_once('/').map_or("", |(folder, _)| folder);
            let mut found = Vec::new();
            walk(&root, &root.join(folder), &wanted, &mut found).map(|()| found)
        });
        let walked = walked.await.unwrap_or_else(|stopped| Err(io::Error::other(stopped)));
        walked.map_err(|error| StoreError::from_io("a listing", prefix, error))
    }

    async fn require_root(&self) -> Result<(), StoreError> {
        match tokio::fs::metadata(&self.root).await {
            Ok(found) if found.is_dir() => Ok(()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::from_io("a look at the directory", "", error))
            }
            _ => Err(StoreError::NoSuchBucket { place: self.describe() }),
        }
    }
}

/// A file that is removed unless it was renamed away.
struct Unfinished {
    path: PathBuf,
}

impl Unfinished {
    fn beside(path: &Path) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = format!(".{name}-{}{UNFINISHED}", Uuid::new_v4());
        Self { path: path.with_file_name(name) }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // After the rename there is nothing here; after a failed removal `abort_unfinished` finds it.
        let _ = fs::remove_file(&self.path);
    }
}

fn walk(root: &Path, folder: &Path, prefix: &str, found: &mut Vec<RawObject>) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        let about = match entry.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            about => about?,
        };
        if about.is_dir() {
            walk(root, &path, prefix, found)?;
        } else if let Some(key) = path.strip_prefix(root).ok().and_then(Path::to_str)
            && key.starts_with(prefix)
        {
            let last_modified = about.modified()?.try_into().unwrap_or_else(|_| Timestamp::now());
            found.push(RawObject { key: key.to_owned(), size: about.len(), last_modified });
        }
    }
    Ok(())
}

async fn remove_file(path: &Path) -> io::Result<()> {
    match tokio::fs::remove_file(path).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// A rename is safe from a power cut only once its folder is synced.
async fn sync_folder(folder: PathBuf) -> io::Result<()> {
    File::open(folder).await?.sync_all().await
}
