//! Checkpoints of the log that stands beside the backups: `catalog/audit-log/<number>.json`.
//!
//! This crate does not know what is in them. Numbers are in the order of time, and have twenty digits so that keys
//! are in that order too.

use bytes::Bytes;
use jiff::Timestamp;

use super::{BackupStore, StoreError};

const FOLDER: &str = "catalog/audit-log/";
const SUFFIX: &str = ".json";
const DIGITS: usize = 20;

impl BackupStore {
    /// Stores a checkpoint, replacing one of the same number.
    pub async fn put_checkpoint(&self, number: u64, body: Bytes) -> Result<(), StoreError> {
        self.put_raw(&key(number), body).await
    }

    /// Reads a checkpoint.
    pub async fn get_checkpoint(&self, number: u64) -> Result<Bytes, StoreError> {
        self.get_raw(&key(number)).await
    }

    /// The checkpoints, and when each was stored, the lowest number first.
    pub async fn checkpoints(&self) -> Result<Vec<(u64, Timestamp)>, StoreError> {
        let listed = self.list_raw(FOLDER).await?;
        let mut found: Vec<_> = listed
            .into_iter()
            .filter_map(|object| Some((parse(&object.key)?, object.last_modified)))
            .collect();
        found.sort_unstable();
        Ok(found)
    }

    /// Deletes a checkpoint; one that is not there is fine.
    pub async fn delete_checkpoint(&self, number: u64) -> Result<(), StoreError> {
        self.delete_raw(&key(number)).await
    }
}

fn key(number: u64) -> String {
    format!("{FOLDER}{number:0DIGITS$}{SUFFIX}")
}

fn parse(key: &str) -> Option<u64> {
    let digits = key.strip_prefix(FOLDER)?.strip_suffix(SUFFIX)?;
    let fits = digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    fits.then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn checkpoints_are_listed_by_number_and_backups_of_the_catalog_are_none() {
        let store = BackupStore::memory();
        for number in [10, 9, 100] {
            store.put_checkpoint(number, Bytes::from(number.to_string())).await.unwrap();
        }
        let id = uuid::Uuid::now_v7();
        store.put_catalog(id, b"{}").await.unwrap();

        let numbers = async || -> Vec<u64> {
            let found = store.checkpoints().await.unwrap();
            found.into_iter().map(|(number, _)| number).collect()
        };

        assert_eq!(numbers().await, [9, 10, 100]);
        assert_eq!(store.catalogs().await.unwrap(), [id]);
        assert_eq!(store.get_checkpoint(100).await.unwrap(), "100");
        store.delete_checkpoint(9).await.unwrap();
        store.delete_checkpoint(9).await.unwrap();
        assert_eq!(numbers().await, [10, 100]);
    }

    #[test]
    fn only_what_is_written_here_is_a_checkpoint() {
        assert_eq!(parse(&key(7)), Some(7));
        for name in ["7.json", "+0000000000000000007.json", "00000000000000000007"] {
            assert_eq!(parse(&format!("{FOLDER}{name}")), None, "{name}");
        }
    }
}
