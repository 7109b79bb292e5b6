//! The store and a whole life of backups on an S3 server that nobody here wrote: SeaweedFS, as PyPI has it.
//!
//! It has what the embedded server lacks, and what a real bucket has: pages of listings, unfinished uploads that
//! show, versions, Object Lock.

use std::io;

use aws_sdk_s3::Client;
use aws_sdk_s3::types::{
    BucketVersioningStatus, DefaultRetention, ObjectLockConfiguration, ObjectLockEnabled,
    ObjectLockRetentionMode, ObjectLockRule, VersioningConfiguration,
};
use bytes::Bytes;
use futures_util::stream;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tenantry::catalog::operations::OperationState;
use tenantry::operations::Environment;
use tenantry::operations::request::BackupChoice;
use tenantry::tenant::settings::BackupPolicy;
use tenantry_backup::{
    BackupStore, KeyScope, LockMode, ObjectKey, ObjectLock, S3Settings, StoreError,
};
use tokio::io::AsyncReadExt as _;
use tokio_util::io::StreamReader;
use uuid::Uuid;

use crate::cli::Cli;
use crate::harness::faulty_s3::{Fault, FaultyS3, Trouble};
use crate::harness::seaweed::SeaweedFs;
use crate::harness::{BY, Fleet, slug};

const MIB: usize = 1024 * 1024;

#[tokio::test]
async fn the_store_keeps_its_promises_on_another_server() {
    let Some(server) = SeaweedFs::start().await else { return };
    let client = server.client();
    client.create_bucket().bucket("backups").send().await.unwrap();
    let store = server.store("backups").await;

    store.check().await.unwrap();
    strangers_are_refused(&server).await;
    small_objects_come_and_go(&store).await;
    large_objects_come_in_parts(&store, &client).await;
    unfinished_uploads_are_found(&store, &client).await;
    long_listings_are_whole(&store).await;
    damage_on_the_way_is_refused(&server).await;
}

async fn strangers_are_refused(server: &SeaweedFs) {
    let missing = server.store("nowhere").await.check().await.unwrap_err();
    assert!(matches!(missing, StoreError::NoSuchBucket { .. }), "{missing:?}");
    let credentials = Some(("somebody".to_owned(), "else".into()));
    let wrong = S3Settings { credentials, ..server.settings("backups") };
    let denied = BackupStore::s3(wrong).await.unwrap().check().await.unwrap_err();
    assert!(matches!(denied, StoreError::Denied { .. }), "{denied:?}");
}

async fn small_objects_come_and_go(store: &BackupStore) {
    let key = ObjectKey::manifest(Uuid::now_v7(), Uuid::now_v7());

    store.put(&key, Bytes::from_static(b"first")).await.unwrap();
    store.put(&key, Bytes::from_static(b"second")).await.unwrap();

    assert_eq!(store.get(&key).await.unwrap(), "second");
    assert_eq!(store.locked_until(&key).await.unwrap(), None);
    store.delete(&key).await.unwrap();
    store.delete(&key).await.unwrap();
    assert!(matches!(store.get(&key).await, Err(StoreError::NotFound { .. })));
    assert!(matches!(store.open(&key).await, Err(StoreError::NotFound { .. })));
    assert_eq!(store.locked_until(&key).await.unwrap(), None);
}

async fn large_objects_come_in_parts(store: &BackupStore, client: &Client) {
    let (tenant, backup) = (Uuid::now_v7(), Uuid::now_v7());
    let key = ObjectKey::dump(tenant, backup);
    let body = noise(20 * MIB + 1);

    let uploaded = store.upload(&key, &body[..]).await.unwrap();

    assert_eq!(uploaded.bytes, body.len() as u64);
    assert!(read(store, &key).await == body);
    // One that breaks off leaves nothing, not even what no listing shows.
    let other = ObjectKey::dump(tenant, Uuid::now_v7());
    let pieces = body.chunks(MIB).map(|piece| Ok(Bytes::copy_from_slice(piece)));
    let broken = pieces.chain([Err(io::Error::other("the dump broke off"))]);
    let broken = StreamReader::new(stream::iter(broken));
    assert!(matches!(store.upload(&other, broken).await, Err(StoreError::Source(_))));
    assert!(matches!(store.open(&other).await, Err(StoreError::NotFound { .. })));
    assert_eq!(unfinished(client, "backups").await, 0);
    let listed = store.list(KeyScope::Tenant(tenant)).await.unwrap();
    assert_eq!(
        listed.iter().map(|object| (&object.key, object.size)).collect::<Vec<_>>(),
        [(&key, body.len() as u64)]
    );
    assert!(store.tenants().await.unwrap().contains(&tenant));
    store.remove_backup(tenant, backup).await.unwrap();
    assert!(store.list(KeyScope::Tenant(tenant)).await.unwrap().is_empty());
}

async fn unfinished_uploads_are_found(store: &BackupStore, client: &Client) {
    let (tenant, backup, other) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
    for id in [backup, backup, other] {
        let key = format!("tenantry/{}", ObjectKey::dump(tenant, id));
        client.create_multipart_upload().bucket("backups").key(key).send().await.unwrap();
    }

    assert_eq!(store.abort_unfinished(tenant, backup).await.unwrap(), 2);
    assert_eq!(store.abort_unfinished(tenant, backup).await.unwrap(), 0);
    assert_eq!(unfinished(client, "backups").await, 1, "that of another backup stays");
    let hour = SignedDuration::from_hours(1);
    let now = Timestamp::now();
    assert_eq!(store.abort_older(tenant, now - hour).await.unwrap(), 0, "it may be under way");
    assert_eq!(store.abort_older(Uuid::now_v7(), now + hour).await.unwrap(), 0);
    assert_eq!(store.abort_older(tenant, now + hour).await.unwrap(), 1);
    assert_eq!(unfinished(client, "backups").await, 0);
}

/// A page has a thousand.
async fn long_listings_are_whole(store: &BackupStore) {
    let tenant = Uuid::now_v7();
    let mut puts = tokio::task::JoinSet::new();
    for batch in 0..8 {
        let store = store.clone();
        puts.spawn(async move {
            for _ in 0..(1_005 + 7 - batch) / 8 {
                let key = ObjectKey::manifest(tenant, Uuid::now_v7());
                store.put(&key, Bytes::from_static(b"{}")).await.unwrap();
            }
        });
    }
    puts.join_all().await;

    assert_eq!(store.list(KeyScope::Tenant(tenant)).await.unwrap().len(), 1_005);
    assert_eq!(store.backups_of(tenant).await.unwrap().len(), 1_005);
}

async fn damage_on_the_way_is_refused(server: &SeaweedFs) {
    let faulty = FaultyS3::before(&server.endpoint()).await;
    let settings = S3Settings { endpoint: Some(faulty.endpoint()), ..server.settings("backups") };
    let store = BackupStore::s3(settings).await.unwrap();
    let key = ObjectKey::dump(Uuid::now_v7(), Uuid::now_v7());
    let body = noise(9 * MIB);
    let trouble = |fault, times| Trouble { fault, skip: 0, times, at: 500 };

    faulty.arm(trouble(Fault::FlipUp, 1000));
    store.upload(&key, &body[..]).await.unwrap_err();
    store.put(&key, Bytes::from_static(b"small")).await.unwrap_err();
    assert!(faulty.calm() > 0);
    assert!(matches!(store.open(&key).await, Err(StoreError::NotFound { .. })));

    for fault in [Fault::ErrorInOk, Fault::LostAnswer, Fault::CutUp, Fault::SlowDown] {
        faulty.arm(trouble(fault, 1));
        store.upload(&key, &body[..]).await.unwrap();
        assert_eq!(faulty.calm(), 1, "{fault:?}");
        assert!(read(&store, &key).await == body, "{fault:?}");
    }
    faulty.arm(trouble(Fault::CutDown, 1));
    assert!(read(&store, &key).await == body, "a download goes on where it broke");
}

#[tokio::test]
async fn a_whole_life_of_backups_in_a_bucket_that_keeps_versions() {
    let Some(server) = SeaweedFs::start().await else { return };
    let client = server.client();
    client.create_bucket().bucket("versions").send().await.unwrap();
    let status = BucketVersioningStatus::Enabled;
    let versioning = VersioningConfiguration::builder().status(status).build();
    client
        .put_bucket_versioning()
        .bucket("versions")
        .versioning_configuration(versioning)
        .send()
        .await
        .unwrap();
    let fleet = fleet(&server, "versions").await;
    let (acme, store) = (slug("acme"), fleet.environment.store.clone().unwrap());
    let tenant = fleet.create_tenant_with("acme", true).await.id;

    let first = fleet.back_up("acme").await.id;
    let second = fleet.back_up("acme").await.id;
    for backup in [first, second] {
        let record = fleet.catalog().backup(backup).await.unwrap();
        fleet.environment.verify_backup(&record).await.unwrap();
    }
    let asked = fleet.environment.drill_tenant(&acme, BY).await.unwrap();
    fleet.complete(&asked).await;
    fleet.admin("tenant_acme").await.batch_execute("delete from cards").await.unwrap();
    let choice = BackupChoice::Id(first);
    let asked = fleet.environment.restore(&acme, choice, BY).await.unwrap();
    fleet.complete(&asked).await;
    assert_eq!(fleet.count("acme", "cards").await, 12);

    let third = fleet.back_up("acme").await.id;
    let asked = fleet.environment.prune(&acme, BY).await.unwrap();
    fleet.complete(&asked).await;
    // The newest, and the newest that is proven.
    assert_eq!(store.backups_of(tenant).await.unwrap(), [second, third]);

    let asked = fleet.environment.destroy_backup_keys(&acme, BY).await.unwrap();
    fleet.complete(&asked).await;
    // One version of each manifest that is there, without its key; none of the one that was pruned.
    assert_eq!(manifests(&client, "versions").await, 2);
    let asked = fleet.environment.erase(&acme, BY).await.unwrap();
    fleet.complete(&asked).await;
    assert_eq!(manifests(&client, "versions").await, 0);
    assert!(store.list(KeyScope::Tenant(tenant)).await.unwrap().is_empty());
    assert_eq!(unfinished(&client, "versions").await, 0);
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn what_object_lock_holds_stays_and_says_until_when() {
    let Some(server) = SeaweedFs::start().await else { return };
    let client = server.client();
    let create = client.create_bucket().bucket("locked").object_lock_enabled_for_bucket(true);
    create.send().await.unwrap();
    let mode = ObjectLockRetentionMode::Compliance;
    let retention = DefaultRetention::builder().mode(mode).days(1).build();
    let lock = ObjectLockConfiguration::builder()
        .object_lock_enabled(ObjectLockEnabled::Enabled)
        .rule(ObjectLockRule::builder().default_retention(retention).build())
        .build();
    client
        .put_object_lock_configuration()
        .bucket("locked")
        .object_lock_configuration(lock)
        .send()
        .await
        .unwrap();
    let fleet = fleet(&server, "locked").await;
    let store = fleet.environment.store.clone().unwrap();
    let tenant = fleet.create_tenant_with("acme", true).await;
    let first = fleet.back_up("acme").await.id;
    fleet.back_up("acme").await;

    let until = store.locked_until(&ObjectKey::dump(tenant.id, first)).await.unwrap().unwrap();

    let now = Timestamp::now();
    assert!(until > now + SignedDuration::from_hours(23), "{until}");
    let plan = fleet.environment.prune_plan(&tenant, now).await.unwrap();
    assert!(plan.backups[1].1[0].starts_with("locked in the bucket until"), "{plan:?}");
    let asked = fleet.environment.prune(&slug("acme"), BY).await.unwrap();
    fleet.complete(&asked).await;
    assert_eq!(store.backups_of(tenant.id).await.unwrap().len(), 2);
    // A key that a locked version holds cannot be destroyed, and nobody is told that it was.
    let asked = fleet.environment.destroy_backup_keys(&slug("acme"), BY).await.unwrap();
    let refused = fleet.runner().complete(asked.id).await.unwrap();
    assert_eq!(refused.state, OperationState::Failed);
    assert!(fleet.catalog().erasure(asked.id).await.is_err());
    let error = refused.error.unwrap();
    assert!(error.message.contains("denied a delete of a version"), "{error:?}");
}

/// The bucket has no default: each object of a backup is locked by itself, and nothing else is.
#[tokio::test]
async fn a_lock_that_is_asked_for_holds_backups_and_no_probe() {
    let Some(server) = SeaweedFs::start().await else { return };
    let client = server.client();
    client.create_bucket().bucket("plain").send().await.unwrap();
    let create = client.create_bucket().bucket("lockable").object_lock_enabled_for_bucket(true);
    create.send().await.unwrap();
    let object_lock = Some(ObjectLock { mode: LockMode::Governance, days: 30 });
    let locking = async |bucket: &str| {
        let settings = S3Settings { object_lock, ..server.settings(bucket) };
        BackupStore::s3(settings).await.unwrap()
    };
    let store = locking("lockable").await;
    let (tenant, backup) = (Uuid::now_v7(), Uuid::now_v7());
    let (dump, manifest) = (ObjectKey::dump(tenant, backup), ObjectKey::manifest(tenant, backup));

    store.check().await.unwrap();
    store.upload(&dump, &noise(9 * MIB)[..]).await.unwrap();
    store.put(&manifest, Bytes::from_static(b"{}")).await.unwrap();

    for key in [&dump, &manifest] {
        let until = store.locked_until(key).await.unwrap().unwrap();
        let left = until.duration_since(Timestamp::now());
        assert!(left > SignedDuration::from_hours(29 * 24), "{key}: {left}");
    }
    let refused = locking("plain").await.check().await.unwrap_err();
    assert!(refused.to_string().contains("the bucket has no Object Lock"), "{refused}");
}

#[tokio::test]
async fn a_bucket_that_does_not_do_as_it_is_asked_is_named() {
    let fleet = Fleet::start().await;
    let cli = Cli::new(&fleet);
    let check = "config check --bucket";

    let found = cli.json(check).await;
    assert!(found["notes"].to_string().contains("does as it is asked"), "{found}");
    for (name, value, words) in [
        ("TENANTRY_S3_OBJECT_LOCK", "compliance=30", "the bucket has no Object Lock"),
        ("TENANTRY_S3_OBJECT_LOCK", "forever", "mode and days"),
        ("TENANTRY_S3_ENCRYPTION", "AES256", "does not encrypt as it is asked to"),
        ("TENANTRY_S3_ENCRYPTION", "rot13", "`aws:kms`"),
        ("TENANTRY_S3_BUCKET", "nowhere", "nowhere does not exist"),
    ] {
        let ended = Cli::new(&fleet).with(name, value).run(check).await;
        let text = String::from_utf8_lossy(&ended.stdout).into_owned();
        assert_eq!(ended.status.code(), Some(1), "{text}");
        assert!(text.contains(words) && text.contains("help: "), "{text}");
    }
}

/// A fleet with its backups on that server; it keeps the newest of each tenant.
async fn fleet(server: &SeaweedFs, bucket: &str) -> Fleet {
    let mut fleet = Fleet::start().await;
    let environment: &mut Environment = &mut fleet.environment;
    environment.store = Some(server.store(bucket).await);
    environment.limits.backups.policy =
        BackupPolicy::parse(json!({ "retention": "last=1" })).unwrap();
    fleet
}

async fn read(store: &BackupStore, key: &ObjectKey) -> Vec<u8> {
    let mut bytes = Vec::new();
    store.open(key).await.unwrap().read_to_end(&mut bytes).await.unwrap();
    bytes
}

/// How many uploads have begun and not ended.
async fn unfinished(client: &Client, bucket: &str) -> usize {
    let listed = client.list_multipart_uploads().bucket(bucket).send().await.unwrap();
    listed.uploads().len()
}

/// How many versions of manifests there are.
async fn manifests(client: &Client, bucket: &str) -> usize {
    let listed = client.list_object_versions().bucket(bucket).send().await.unwrap();
    let keys = listed.versions().iter().filter_map(|version| version.key());
    keys.filter(|key| key.ends_with("/manifest.json")).count()
}

/// Bytes that do not repeat.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
