//! Every store keeps the same promises.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::FutureExt;
use tempfile::TempDir;
use tenantry_backup::{BackupStore, KeyScope, MAX_SMALL_OBJECT_BYTES, ObjectKey, StoreError};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use uuid::Uuid;

use crate::scene::noise;

#[tokio::test]
async fn a_small_object_comes_back_until_it_is_deleted() {
    for (store, _files) in stores() {
        let key = ObjectKey::manifest(Uuid::now_v7(), Uuid::now_v7());

        store.put(&key, Bytes::from_static(b"first")).await.unwrap();
        store.put(&key, Bytes::from_static(b"second")).await.unwrap();
        let read = store.get(&key).await.unwrap();
        store.delete(&key).await.unwrap();
        store.delete(&key).await.unwrap();

        assert_eq!(read, "second", "{store:?}");
        assert!(matches!(store.get(&key).await, Err(StoreError::NotFound { .. })), "{store:?}");
        assert!(matches!(store.open(&key).await, Err(StoreError::NotFound { .. })), "{store:?}");
    }
}

#[tokio::test]
async fn a_large_object_is_streamed_and_not_read_whole() {
    let body = noise(usize::try_from(MAX_SMALL_OBJECT_BYTES).unwrap() + 1);
    for (store, _files) in stores() {
        let key = ObjectKey::dump(Uuid::now_v7(), Uuid::now_v7());

        let uploaded = store.upload(&key, &body[..]).await.unwrap();
        let mut reader = store.open(&key).await.unwrap();
        let mut read = Vec::new();
        reader.read_to_end(&mut read).await.unwrap();

        assert_eq!((uploaded.bytes, reader.size()), (body.len() as u64, body.len() as u64));
        assert_eq!(uploaded.sha256.len(), 64);
        assert!(read == body, "{store:?}");
        assert!(matches!(store.get(&key).await, Err(StoreError::TooLarge { .. })), "{store:?}");
    }
}

#[tokio::test]
async fn an_upload_that_fails_or_is_dropped_leaves_nothing() {
    for (store, files) in stores() {
        let (tenant, backup) = (Uuid::now_v7(), Uuid::now_v7());
        let key = ObjectKey::dump(tenant, backup);

        let failed = store.upload(&key, Endless { error_after: Some(3) }).await;
        let dropped = store.upload(&key, Endless { error_after: None });
        let unfinished = tokio::time::timeout(std::time::Duration::from_millis(250), dropped).await;

        assert!(matches!(failed, Err(StoreError::Source(_))), "{store:?}");
        assert!(unfinished.is_err(), "{store:?}");
        assert_eq!(store.list(KeyScope::Backup { tenant, backup }).await.unwrap(), []);
        assert_eq!(store.abort_unfinished(tenant, backup).await.unwrap(), 0, "{store:?}");
        assert!(matches!(store.open(&key).await, Err(StoreError::NotFound { .. })), "{store:?}");
        drop(files);
    }
}

#[tokio::test]
async fn a_listing_shows_the_scope_and_no_foreign_object() {
    for (store, files) in stores() {
        let (tenant, other) = (Uuid::now_v7(), Uuid::now_v7());
        let (whole, half) = (Uuid::now_v7(), Uuid::now_v7());
        let keys = [
            ObjectKey::dump(tenant, whole),
            ObjectKey::manifest(tenant, whole),
            ObjectKey::dump(tenant, half),
            ObjectKey::dump(other, whole),
        ];
        for key in &keys {
            store.put(key, Bytes::from_static(b"body")).await.unwrap();
        }
        if let Some(files) = &files {
            std::fs::write(files.path().join("readme.txt"), "not ours").unwrap();
        }

        let listed = store.list(KeyScope::Tenant(tenant)).await.unwrap();
        let one = store.list(KeyScope::Backup { tenant, backup: half }).await.unwrap();

        let mut expected = keys[..3].to_vec();
        expected.sort();
        let listed: Vec<_> = listed.into_iter().map(|object| object.key).collect();
        assert_eq!(listed, expected, "{store:?}");
        assert_eq!((one.len(), one[0].size), (1, 4), "{store:?}");
        assert_eq!(store.backups_of(tenant).await.unwrap(), [whole], "{store:?}");
        assert!(store.backups_of(other).await.unwrap().is_empty(), "{store:?}");
        assert_eq!(store.tenants().await.unwrap(), [tenant, other], "{store:?}");
    }
}

#[tokio::test]
async fn removing_a_backup_takes_all_of_it_and_nothing_else() {
    for (store, _files) in stores() {
        let (tenant, gone, kept) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
        let extra = ObjectKey::parse(&format!("{tenant}/{gone}/notes/extra")).unwrap();
        for key in [
            ObjectKey::dump(tenant, gone),
            ObjectKey::manifest(tenant, gone),
            extra,
            ObjectKey::dump(tenant, kept),
            ObjectKey::manifest(tenant, kept),
        ] {
            store.put(&key, Bytes::from_static(b"body")).await.unwrap();
        }

        store.remove_backup(tenant, gone).await.unwrap();
        store.remove_backup(tenant, gone).await.unwrap();

        assert_eq!(store.backups_of(tenant).await.unwrap(), [kept], "{store:?}");
        assert_eq!(store.list(KeyScope::Tenant(tenant)).await.unwrap().len(), 2, "{store:?}");
    }
}

#[tokio::test]
async fn a_check_passes_and_leaves_no_probe() {
    for (store, files) in stores() {
        store.check().await.unwrap();

        if let Some(files) = files {
            assert_eq!(std::fs::read_dir(files.path()).unwrap().count(), 0);
        }
    }
}

#[tokio::test]
async fn a_directory_that_is_missing_is_not_created() {
    let files = TempDir::new().unwrap();
    let store = BackupStore::directory(files.path().join("unmounted"));
    let key = ObjectKey::dump(Uuid::now_v7(), Uuid::now_v7());

    let checked = store.check().await.unwrap_err();
    let uploaded = store.upload(&key, &b"body"[..]).await.unwrap_err();

    assert!(matches!(checked, StoreError::NoSuchBucket { .. }));
    assert!(matches!(uploaded, StoreError::NoSuchBucket { .. }));
    assert!(!files.path().join("unmounted").exists());
}

#[tokio::test]
async fn what_a_killed_process_left_in_a_directory_is_found_and_removed() {
    let files = TempDir::new().unwrap();
    let store = BackupStore::directory(files.path().to_owned());
    let (tenant, backup) = (Uuid::now_v7(), Uuid::now_v7());
    let folder = files.path().join(format!("{tenant}/{backup}"));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(".dump-1.unfinished"), "half").unwrap();

    let listed = store.list(KeyScope::Tenant(tenant)).await.unwrap();
    let aborted = store.abort_unfinished(tenant, backup).await.unwrap();

    assert_eq!((listed.len(), aborted), (0, 1));
    assert!(!folder.exists());
}

/// Both stores, each with the directory that it lies in.
fn stores() -> [(BackupStore, Option<TempDir>); 2] {
    let files = TempDir::new().expect("a scratch directory");
    let directory = BackupStore::directory(files.path().to_owned());
    [(BackupStore::memory(), None), (directory, Some(files))]
}

/// A stream that gives blocks until it fails, or until it waits for ever.
struct Endless {
    error_after: Option<u32>,
}

impl AsyncRead for Endless {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.error_after {
            Some(0) => Poll::Ready(Err(io::Error::other("the source broke"))),
            Some(left) => {
                *left -= 1;
                buf.put_slice(b"block");
                Poll::Ready(Ok(()))
            }
            None => std::future::pending().poll_unpin(cx),
        }
    }
}
