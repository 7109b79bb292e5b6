//! Backups of what knows the tenants: `catalog/<id>.json`, beside the tenants' own.
//!
//! This crate does not know what is in them, and whoever writes them has encrypted what is nobody's business.
//! Ids are in the order of time.

use tokio::io::AsyncReadExt;
use uuid::Uuid;

use super::{Backend, BackupStore, StoreError};
use crate::object_key::parse_id;

const FOLDER: &str = "catalog/";
const SUFFIX: &str = ".json";

impl BackupStore {
    /// Stores a backup of the catalog.
    pub async fn put_catalog(&self, id: Uuid, body: &[u8]) -> Result<(), StoreError> {
        let (key, reader) = (key(id), std::pin::pin!(body));
        let uploaded = match &self.backend {
            Backend::S3(s3) => s3.upload(&key, reader).await,
            Backend::Directory(directory) => directory.upload(&key, reader).await,
            Backend::Memory(memory) => memory.upload(&key, reader).await,
        };
        uploaded.map(drop)
    }

    /// Reads a backup of the catalog, whatever its size.
    pub async fn get_catalog(&self, id: Uuid) -> Result<Vec<u8>, StoreError> {
        let key = key(id);
        let mut object = match &self.backend {
            Backend::S3(s3) => s3.open(&key).await,
            Backend::Directory(directory) => directory.open(&key).await,
            Backend::Memory(memory) => memory.open(&key),
        }?;
        let mut body = Vec::new();
        object
            .read_to_end(&mut body)
            .await
            .map_err(|error| StoreError::from_stream(error).unwrap_or(StoreError::Inconsistent))?;
        Ok(body)
    }

    /// The backups of the catalog, oldest first.
    pub async fn catalogs(&self) -> Result<Vec<Uuid>, StoreError> {
        let listed = self.list_raw(FOLDER).await?;
        let id = |key: &str| parse_id(key.strip_prefix(FOLDER)?.strip_suffix(SUFFIX)?);
        let mut ids: Vec<Uuid> = listed.iter().filter_map(|object| id(&object.key)).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// Deletes a backup of the catalog; one that is not there is fine.
    pub async fn delete_catalog(&self, id: Uuid) -> Result<(), StoreError> {
        self.delete_raw(&key(id)).await
    }
}

fn key(id: Uuid) -> String {
    format!("{FOLDER}{id}{SUFFIX}")
}
