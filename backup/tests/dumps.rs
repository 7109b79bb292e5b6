//! From a database to a backup and back.

use std::time::Duration;

use tenantry_backup::{
    DumpError, KeyScope, ManifestError, ObjectKey, Recipient, RestoreError, finish, load_manifest,
    verify_stored,
};
use tokio::io::AsyncReadExt as _;
use uuid::Uuid;

use crate::scene::Scene;

#[tokio::test]
async fn what_was_dumped_is_restored() {
    for bytes in [0, 1, 65_536, 1_000_000] {
        let scene = Scene::new(bytes).await;

        let written = scene.back_up().await;
        let manifest = load_manifest(&scene.store, scene.tenant, scene.backup).await.unwrap();
        let restored = scene.restore(&manifest, "").await.unwrap();
        let verified = verify_stored(&scene.store, &manifest, &scene.key).await.unwrap();

        assert_eq!(manifest, written);
        assert_eq!(restored.plain_bytes, bytes as u64);
        assert_eq!(verified, restored);
        assert!(scene.restored() == scene.content, "{bytes} bytes");
    }
}

#[tokio::test]
async fn a_dump_of_which_pg_dump_says_that_it_failed_is_not_stored() {
    let scene = Scene::new(300_000).await;

    let error = scene.dump("fail").await.unwrap_err();

    let DumpError::PgDump { status, stderr } = &error else { panic!("{error:?}") };
    assert_eq!(
        (status.code(), stderr.as_str()),
        (Some(1), "pg_dump: error: the connection was lost")
    );
    assert_eq!(scene.store.list(KeyScope::Tenant(scene.tenant)).await.unwrap(), []);
}

#[tokio::test]
async fn a_dump_that_is_cancelled_is_not_stored() {
    let scene = Scene::new(300_000).await;

    let cancelled = tokio::time::timeout(Duration::from_millis(300), scene.dump("hang")).await;

    assert!(cancelled.is_err());
    assert_eq!(scene.store.list(KeyScope::Tenant(scene.tenant)).await.unwrap(), []);
}

#[tokio::test]
async fn a_dump_without_a_manifest_is_no_backup() {
    let scene = Scene::new(1_000).await;

    let dumped = scene.dump("").await.unwrap();
    let loaded = load_manifest(&scene.store, scene.tenant, scene.backup).await.unwrap_err();
    let mut unsigned = scene.manifest(dumped);
    unsigned.mac.clear();
    let finished = finish(&scene.store, &unsigned).await.unwrap_err();

    assert!(matches!(loaded, RestoreError::NotABackup { .. }));
    assert!(matches!(finished, DumpError::NotSigned));
    assert!(scene.store.backups_of(scene.tenant).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_backup_of_one_tenant_is_not_restored_for_another() {
    let mut scene = Scene::new(1_000).await;
    let manifest = scene.back_up().await;
    scene.tenant = Uuid::now_v7();

    let error = scene.restore(&manifest, "").await.unwrap_err();

    assert!(matches!(error, RestoreError::Manifest(ManifestError::WrongTenant { .. })));
    assert!(scene.restored().is_empty());
}

#[tokio::test]
async fn a_manifest_that_was_moved_is_refused() {
    let scene = Scene::new(1_000).await;
    let manifest = scene.back_up().await;
    let elsewhere = tenantry_backup::ObjectKey::manifest(Uuid::now_v7(), scene.backup);
    scene.store.put(&elsewhere, manifest.to_json().into()).await.unwrap();

    let error = load_manifest(&scene.store, elsewhere.tenant(), scene.backup).await.unwrap_err();

    assert!(matches!(error, RestoreError::Manifest(ManifestError::WrongTenant { .. })));
}

#[tokio::test]
async fn a_failure_of_pg_restore_is_told_in_its_words() {
    let scene = Scene::new(1_000_000).await;
    let manifest = scene.back_up().await;

    let error = scene.restore(&manifest, "fail").await.unwrap_err();

    let RestoreError::PgRestore { stderr, .. } = &error else { panic!("{error:?}") };
    assert_eq!(stderr, "pg_restore: error: the role does not exist");
}

#[tokio::test]
async fn a_pg_restore_that_needs_no_more_does_not_end_the_check() {
    let scene = Scene::new(1_000_000).await;
    let manifest = scene.back_up().await;

    let good = scene.restore(&manifest, "satisfied").await;
    let mut body = scene.stored_dump().await;
    *body.last_mut().unwrap() ^= 1;
    scene.replace_dump(&body).await;
    let bad = scene.restore(&manifest, "satisfied").await;

    assert!(good.is_ok(), "{good:?}");
    assert!(matches!(bad, Err(RestoreError::Altered)), "{bad:?}");
}

#[tokio::test]
async fn an_archive_of_a_newer_postgresql_is_refused_before_anything_is_read() {
    let scene = Scene::new(1_000).await;
    let mut manifest = scene.back_up().await;
    manifest.client_version = "18.1".to_owned();
    manifest.sign(&scene.key);

    let error = scene.restore(&manifest, "").await.unwrap_err();

    assert!(matches!(error, RestoreError::OlderTools { .. }));
}

#[tokio::test]
async fn dumps_and_restores_can_move_between_threads() {
    fn is_send<T: Send>(value: T) -> T {
        value
    }
    let scene = Scene::new(1_000).await;

    let manifest = is_send(scene.back_up()).await;

    is_send(scene.restore(&manifest, "")).await.unwrap();
    is_send(verify_stored(&scene.store, &manifest, &scene.key)).await.unwrap();
}

#[tokio::test]
async fn somebody_elses_key_opens_the_dump_too() {
    let mut scene = Scene::new(300_000).await;
    let other = age::x25519::Identity::generate();
    scene.also_for = vec![Recipient::parse(&other.to_public().to_string()).unwrap()];

    let manifest = scene.back_up().await;

    let mut sealed = Vec::new();
    let object = ObjectKey::dump(scene.tenant, scene.backup);
    scene.store.open(&object).await.unwrap().read_to_end(&mut sealed).await.unwrap();
    let opened = |identity: &age::x25519::Identity| {
        let decryptor = age::Decryptor::new(&sealed[..]).unwrap();
        decryptor.decrypt(std::iter::once(identity as &dyn age::Identity)).map(|mut reader| {
            let mut compressed = Vec::new();
            std::io::Read::read_to_end(&mut reader, &mut compressed).unwrap();
            compressed
        })
    };
    let compressed = opened(&other).unwrap();
    let mut content = Vec::new();
    let mut decoder = async_compression::tokio::bufread::ZstdDecoder::new(&compressed[..]);
    decoder.read_to_end(&mut content).await.unwrap();
    assert!(content == scene.content);
    assert!(opened(&age::x25519::Identity::generate()).is_err());
    verify_stored(&scene.store, &manifest, &scene.key).await.unwrap();
}
