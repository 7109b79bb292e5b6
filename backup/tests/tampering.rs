//! A stored dump that is not what it was, in every way, and the error that says so.

use tenantry_backup::{
    BackupKey, Manifest, ManifestError, RestoreError, load_manifest, verify_stored,
};

use crate::scene::Scene;

/// What age encrypts at a time, with its authentication tag.
const CHUNK: usize = 64 * 1024 + 16;
const NONCE: usize = 16;

#[tokio::test]
async fn a_dump_that_is_cut_anywhere_is_refused() {
    let scene = Scene::new(300_000).await;
    let manifest = scene.back_up().await;
    let whole = scene.stored_dump().await;

    for cut in cuts(&whole) {
        scene.replace_dump(&whole[..cut]).await;
        let error = scene.restore(&manifest, "").await.unwrap_err();
        let RestoreError::Truncated { expected, found } = error else { panic!("{cut}: {error:?}") };
        assert_eq!((expected, found), (whole.len() as u64, cut as u64));
        assert!(scene.restored() != scene.content, "{cut}");
    }
}

#[tokio::test]
async fn the_encryption_alone_notices_a_cut() {
    let scene = Scene::new(300_000).await;
    let manifest = scene.back_up().await;
    let whole = scene.stored_dump().await;

    for cut in cuts(&whole) {
        let body = &whole[..cut];
        scene.replace_dump(body).await;
        let error = scene.restore(&resigned(&scene, &manifest, body), "").await.unwrap_err();
        assert!(matches!(error, RestoreError::Altered), "{cut}: {error:?}");
        assert!(scene.restored() != scene.content, "{cut}");
    }
}

#[tokio::test]
async fn a_flipped_bit_is_noticed_wherever_it_is() {
    let scene = Scene::new(300_000).await;
    let manifest = scene.back_up().await;
    let whole = scene.stored_dump().await;
    let payload = header_bytes(&whole);
    let places = [0, 30, payload - 1, payload, payload + CHUNK, whole.len() / 2, whole.len() - 1];

    for place in places {
        let mut body = whole.clone();
        body[place] ^= 1;
        scene.replace_dump(&body).await;
        let error = scene.restore(&manifest, "").await.unwrap_err();
        assert!(is_told(&error, place, payload), "{place}: {error:?}");
        let error = verify_stored(&scene.store, &manifest, &scene.key).await.unwrap_err();
        assert!(is_told(&error, place, payload), "{place}: {error:?}");
    }
}

#[tokio::test]
async fn the_fault_of_the_stream_is_told_and_not_that_of_pg_restore() {
    let scene = Scene::new(3_000_000).await;
    let manifest = scene.back_up().await;
    let mut body = scene.stored_dump().await;
    let first_chunk = header_bytes(&body);
    body[first_chunk] ^= 1;
    scene.replace_dump(&body).await;

    let error = scene.restore(&manifest, "fail").await.unwrap_err();

    assert!(matches!(error, RestoreError::Altered), "{error:?}");
}

#[tokio::test]
async fn bytes_that_hang_on_are_refused() {
    let scene = Scene::new(100_000).await;
    let manifest = scene.back_up().await;
    let mut body = scene.stored_dump().await;
    body.extend_from_slice(b"more");
    scene.replace_dump(&body).await;

    let longer = scene.restore(&manifest, "").await.unwrap_err();
    let resigned = scene.restore(&resigned(&scene, &manifest, &body), "").await.unwrap_err();

    assert!(matches!(longer, RestoreError::Altered), "{longer:?}");
    assert!(matches!(resigned, RestoreError::Altered), "{resigned:?}");
}

#[tokio::test]
async fn another_good_dump_in_its_place_is_refused() {
    let scene = Scene::new(100_000).await;
    let manifest = scene.back_up().await;

    scene.dump("").await.unwrap();
    let again = scene.stored_dump().await;
    let error = scene.restore(&resigned(&scene, &manifest, &again), "").await.unwrap_err();

    assert!(matches!(error, RestoreError::Altered), "{error:?}");
}

#[tokio::test]
async fn a_wrong_key_opens_neither_the_manifest_nor_the_dump() {
    let mut scene = Scene::new(100_000).await;
    let manifest = scene.back_up().await;
    scene.key = BackupKey::generate();

    let refused = scene.restore(&manifest, "").await.unwrap_err();
    let mut resigned = manifest.clone();
    resigned.sign(&scene.key);
    let closed = scene.restore(&resigned, "").await.unwrap_err();

    assert!(matches!(refused, RestoreError::Manifest(ManifestError::WrongKey)), "{refused:?}");
    assert!(matches!(closed, RestoreError::WrongKey), "{closed:?}");
    assert!(scene.restored().is_empty());
}

#[tokio::test]
async fn a_manifest_that_was_altered_in_the_store_is_refused_before_the_dump_is_read() {
    let scene = Scene::new(1_000).await;
    let mut manifest = scene.back_up().await;
    manifest.tables[0].rows += 1;
    let key = tenantry_backup::ObjectKey::manifest(scene.tenant, scene.backup);
    scene.store.put(&key, manifest.to_json().into()).await.unwrap();

    let loaded = load_manifest(&scene.store, scene.tenant, scene.backup).await.unwrap();
    let error = scene.restore(&loaded, "").await.unwrap_err();

    assert!(matches!(error, RestoreError::Manifest(ManifestError::Altered)), "{error:?}");
    assert!(scene.restored().is_empty());
}

/// A manifest that a forger with the key could have made: only the layers below can tell.
fn resigned(scene: &Scene, manifest: &Manifest, body: &[u8]) -> Manifest {
    let mut manifest = manifest.clone();
    manifest.dump_bytes = body.len() as u64;
    manifest.sign(&scene.key);
    manifest
}

/// In the header an altered bit can look like another key.
fn is_told(error: &RestoreError, place: usize, payload: usize) -> bool {
    match error {
        RestoreError::Altered => true,
        RestoreError::WrongKey => place < payload,
        _ => false,
    }
}

/// Every boundary of the format, and a byte to each side of it.
fn cuts(whole: &[u8]) -> Vec<usize> {
    let payload = header_bytes(whole);
    let boundaries = (payload..whole.len()).step_by(CHUNK);
    let around = boundaries.flat_map(|boundary| boundary - 1..=boundary + 1);
    let mut cuts = vec![0, 1, payload - NONCE - 1, payload - NONCE, whole.len() - 1];
    cuts.extend(around.filter(|cut| *cut < whole.len()));
    assert!(cuts.len() > 15, "the dump is of several chunks");
    cuts
}

/// Where the first encrypted chunk begins: after the text header and the nonce.
fn header_bytes(whole: &[u8]) -> usize {
    let mac = whole.windows(5).position(|window| window == b"\n--- ").expect("an age header") + 1;
    let line = whole[mac..].iter().position(|byte| *byte == b'\n').expect("the end of the header");
    mac + line + 1 + NONCE
}
