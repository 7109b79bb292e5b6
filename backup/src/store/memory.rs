//! Objects in a map, for tests.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};

use aws_lc_rs::digest;
use bytes::Bytes;
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncReadExt};
use uuid::Uuid;

use super::{MAX_SMALL_OBJECT_BYTES, ObjectReader, RawObject, StoreError, Uploaded};
use crate::object_key::parse_id;

#[derive(Clone, Default)]
pub(super) struct Memory {
    objects: Arc<Mutex<BTreeMap<String, Stored>>>,
}

struct Stored {
    body: Bytes,
    last_modified: Timestamp,
}

impl Memory {
    pub(super) fn put(&self, key: &str, body: Bytes) {
        let stored = Stored { body, last_modified: Timestamp::now() };
        self.lock().insert(key.to_owned(), stored);
    }

    pub(super) fn get(&self, key: &str) -> Result<Bytes, StoreError> {
        let body = self.body(key)?;
        if body.len() as u64 > MAX_SMALL_OBJECT_BYTES {
            return Err(StoreError::TooLarge {
                key: key.to_owned(),
                limit: MAX_SMALL_OBJECT_BYTES,
            });
        }
        Ok(body)
    }

    pub(super) async fn upload(
        &self,
        key: &str,
        mut reader: Pin<&mut (impl AsyncRead + Send)>,
    ) -> Result<Uploaded, StoreError> {
        let mut body = Vec::new();
        reader.read_to_end(&mut body).await.map_err(StoreError::Source)?;
        let sha256 = hex::encode(digest::digest(&digest::SHA256, &body));
        let bytes = body.len() as u64;
        self.put(key, body.into());
        Ok(Uploaded { bytes, sha256 })
    }

    pub(super) fn open(&self, key: &str) -> Result<ObjectReader, StoreError> {
        let body = self.body(key)?;
        Ok(ObjectReader::new(body.len() as u64, Cursor::new(body)))
    }

    pub(super) fn list(&self, prefix: &str) -> Vec<RawObject> {
        let objects = self.lock();
        let within = objects.iter().filter(|(key, _)| key.starts_with(prefix));
        within
            .map(|(key, stored)| RawObject {
                key: key.clone(),
                size: stored.body.len() as u64,
                last_modified: stored.last_modified,
            })
            .collect()
    }

    pub(super) fn delete(&self, key: &str) {
        self.lock().remove(key);
    }

    pub(super) fn tenants(&self) -> Vec<Uuid> {
        let objects = self.lock();
        objects.keys().filter_map(|key| parse_id(key.split_once('/')?.0)).collect()
    }

    fn body(&self, key: &str) -> Result<Bytes, StoreError> {
        let objects = self.lock();
        let stored =
            objects.get(key).ok_or_else(|| StoreError::NotFound { key: key.to_owned() })?;
        Ok(stored.body.clone())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Stored>> {
        self.objects.lock().expect("no code panics while it holds this lock")
    }
}
