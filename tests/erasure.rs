//! Erasure: what was in backups cannot be read again, with all that is left. And the customer's own key,
//! which reads its backups without us.

use std::process::{Command, Stdio};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tenantry::catalog::operations::OperationState;
use tenantry::operations::request::BackupChoice;
use tenantry::operations::runner::{Disturbance, StepPoint};
use tenantry::sealing::{MasterKey, Purpose};
use tenantry::tenant::TenantSettings;
use tenantry_backup::{BackupKey, Certificate, ObjectKey, load_manifest, verify_stored};
use tokio::io::AsyncReadExt as _;
use uuid::Uuid;

use crate::cli::Cli;
use crate::harness::{BY, Fleet, slug};
use crate::keys::everything;

/// The backups that somebody reads who has the catalog, the bucket and the master key: every value that
/// the master key may have sealed is tried as a key of every dump.
async fn readable(fleet: &Fleet, tenant: Uuid) -> Vec<Uuid> {
    let store = fleet.environment.store.as_ref().unwrap();
    let master = MasterKey::parse(&fleet.master_key).unwrap();
    let mark = format!("01{}", master.id());
    let catalog = everything(fleet).await;
    let mut sealed: Vec<Vec<u8>> = catalog
        .match_indices(&mark)
        .map(|(at, _)| {
            let hex_digits = catalog[at..].bytes().take_while(u8::is_ascii_hexdigit).count();
            hex::decode(&catalog[at..at + hex_digits / 2 * 2]).unwrap()
        })
        .collect();
    let mut manifests = Vec::new();
    for backup in store.backups_of(tenant).await.unwrap() {
        let manifest = load_manifest(store, tenant, backup).await.unwrap();
        sealed.push(STANDARD.decode(&manifest.wrapped_key).unwrap());
        manifests.push(manifest);
    }
    assert!(sealed.len() > 1, "there is always the server's connection string");
    let keys: Vec<BackupKey> = sealed
        .iter()
        .filter_map(|value| master.open(Purpose::BackupKey, tenant, value).ok())
        .map(|secret| BackupKey::parse(&secret).unwrap())
        .collect();
    let mut read = Vec::new();
    for manifest in manifests {
        for key in &keys {
            if verify_stored(store, &manifest, key).await.is_ok() {
                read.push(manifest.backup);
                break;
            }
        }
    }
    read
}

async fn object(fleet: &Fleet, key: &ObjectKey) -> Vec<u8> {
    let mut reader = fleet.environment.store.as_ref().unwrap().open(key).await.unwrap();
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).await.unwrap();
    bytes
}

#[tokio::test]
async fn a_destroyed_key_leaves_nothing_that_opens_a_backup() {
    let fleet = Fleet::start().await;
    let tenant = fleet.create_tenant_with("acme", true).await.id;
    fleet.create_tenant("globex").await;
    let neighbour = fleet.back_up("globex").await.id;
    let first = fleet.back_up("acme").await.id;
    let rotation = fleet.environment.rotate_backup_key(&slug("acme"), BY).await.unwrap();
    fleet.complete(&rotation).await;
    let second = fleet.back_up("acme").await.id;
    let keys = fleet.catalog().backup_keys(tenant).await.unwrap();
    let keys: Vec<String> = keys.iter().map(|key| key.open.public()).collect();
    assert_eq!(readable(&fleet, tenant).await, [first, second]);

    let asked = fleet.environment.destroy_backup_keys(&slug("acme"), BY).await.unwrap();
    fleet.complete(&asked).await;

    assert_eq!(readable(&fleet, tenant).await, [] as [Uuid; 0]);
    let choice = BackupChoice::Id(first);
    let refused = fleet.environment.restore(&slug("acme"), choice, BY).await.unwrap_err();
    assert!(refused.to_string().contains("was destroyed"), "{refused}");
    let refused = fleet.environment.restore(&slug("acme"), BackupChoice::Latest, BY).await;
    assert!(refused.unwrap_err().to_string().contains("no suitable backup"));
    let certificate = fleet.catalog().erasure(asked.id).await.unwrap();
    let public = fleet.catalog().certificate_key().await.unwrap().public();
    certificate.verify(&public).unwrap();
    let erased: Vec<Uuid> = certificate.backups.iter().map(|backup| backup.backup).collect();
    assert_eq!((erased, certificate.keys), (vec![first, second], keys));
    assert!(!certificate.tenant_deleted);
    // The tenant goes on, with a key of its own; so does the neighbour.
    let third = fleet.back_up("acme").await.id;
    assert_eq!(readable(&fleet, tenant).await, [third]);
    assert_eq!(readable(&fleet, fleet.tenant("globex").await.id).await, [neighbour]);
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn a_backup_that_comes_between_two_attempts_is_erased_too() {
    for step in ["strip_manifests", "destroy_keys"] {
        let fleet = Fleet::start().await;
        let tenant = fleet.create_tenant_with("acme", true).await.id;
        let first = fleet.back_up("acme").await.id;
        let asked = fleet.environment.destroy_backup_keys(&slug("acme"), BY).await.unwrap();
        let runner = fleet.disturbed_runner(Arc::new(move |point: &StepPoint<'_>| {
            if point.step == step && !point.done { Disturbance::Fail } else { Disturbance::None }
        }));
        assert_eq!(runner.complete(asked.id).await.unwrap().state, OperationState::Failed);

        let rotation = fleet.environment.rotate_backup_key(&slug("acme"), BY).await.unwrap();
        fleet.complete(&rotation).await;
        let second = fleet.back_up("acme").await.id;
        let keys = fleet.catalog().backup_keys(tenant).await.unwrap();
        let mut keys: Vec<String> = keys.iter().map(|key| key.open.public()).collect();
        fleet.catalog().retry(asked.id).await.unwrap();
        fleet.complete(&asked).await;

        assert_eq!(readable(&fleet, tenant).await, [] as [Uuid; 0], "{step}");
        let mut certificate = fleet.catalog().erasure(asked.id).await.unwrap();
        let erased: Vec<Uuid> = certificate.backups.iter().map(|backup| backup.backup).collect();
        keys.sort_unstable();
        certificate.keys.sort_unstable();
        assert_eq!((erased, certificate.keys), (vec![first, second], keys), "{step}");
    }
}

#[tokio::test]
async fn a_dump_whose_key_is_destroyed_becomes_no_backup() {
    let fleet = Fleet::start().await;
    let tenant = fleet.create_tenant("acme").await.id;
    let half = fleet.environment.back_up(&slug("acme"), BY).await.unwrap();
    let runner = fleet.disturbed_runner(Arc::new(|point: &StepPoint<'_>| {
        if point.step == "write_manifest" { Disturbance::Fail } else { Disturbance::None }
    }));
    assert_eq!(runner.complete(half.id).await.unwrap().state, OperationState::Failed);
    let asked = fleet.environment.destroy_backup_keys(&slug("acme"), BY).await.unwrap();
    fleet.complete(&asked).await;

    fleet.catalog().retry(half.id).await.unwrap();
    let refused = fleet.runner().complete(half.id).await.unwrap();

    let error = refused.error.unwrap();
    assert!(error.message.contains("was destroyed"), "{error:?}");
    assert!(error.remedy.unwrap().contains("take a new backup"));
    assert_eq!(readable(&fleet, tenant).await, [] as [Uuid; 0]);
}

#[tokio::test]
async fn a_tenant_that_is_erased_is_certified_to_be_gone() {
    let fleet = Fleet::start().await;
    let tenant = fleet.create_tenant_with("acme", true).await.id;
    let backup = fleet.back_up("acme").await.id;
    let dump = object(&fleet, &ObjectKey::dump(tenant, backup)).await;
    let key = fleet.catalog().backup_key(tenant).await.unwrap().open;
    let store = fleet.environment.store.as_ref().unwrap();
    let manifest = load_manifest(store, tenant, backup).await.unwrap();

    let asked = fleet.environment.erase(&slug("acme"), BY).await.unwrap();
    fleet.complete(&asked).await;

    assert!(fleet.objects().is_empty(), "{:?}", fleet.objects());
    let certificate = fleet.catalog().erasure(asked.id).await.unwrap();
    assert!(certificate.tenant_deleted);
    assert_eq!(certificate.backups[0].dump_sha256, manifest.dump_sha256);
    // Somebody has kept the dump, and what its manifest said but for the key.
    let mut kept = manifest;
    kept.wrapped_key.clear();
    kept.sign(&key);
    store.put(&ObjectKey::dump(tenant, backup), dump.into()).await.unwrap();
    store.put(&ObjectKey::manifest(tenant, backup), kept.to_json().into()).await.unwrap();
    verify_stored(store, &kept, &key).await.unwrap();
    assert_eq!(readable(&fleet, tenant).await, [] as [Uuid; 0]);
}

#[tokio::test]
async fn a_certificate_is_checked_without_a_catalog() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    fleet.back_up("acme").await;
    let cli = Cli::new(&fleet);
    let offline = Cli::new(&fleet).with("TENANTRY_CATALOG_URL", "").with("TENANTRY_MASTER_KEY", "");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("certificate.json");

    cli.refused("backup key destroy acme", 4, "--yes").await;
    let done = cli.json("backup key destroy acme --yes").await;
    let id = done["id"].as_str().unwrap();
    let shown = cli.json(&format!("erasure show {id}")).await;
    let public = cli.json("erasure public-key").await["public_key"].as_str().unwrap().to_owned();
    let listed = cli.json("erasure list acme").await;
    let check = async |certificate: &Value, status: i32, words: &str| {
        std::fs::write(&file, serde_json::to_vec(certificate).unwrap()).unwrap();
        let line = format!("erasure verify {} --public-key {public}", file.display());
        if status == 0 {
            offline.json(&line).await;
        } else {
            offline.refused(&line, status, words).await;
        }
    };

    check(&shown, 0, "").await;
    let mut altered = shown.clone();
    altered["backups"] = json!([]);
    check(&altered, 4, "altered after it was signed").await;
    check(&json!({}), 4, "cannot be read").await;
    assert_eq!(listed[0], shown);
    assert!(!cli.json("backup list acme").await[0]["erased_at"].is_null());
    Certificate::from_json(&serde_json::to_vec(&shown).unwrap()).unwrap();
}

/// `age` and `zstd` as a customer has them: programs that nobody here wrote.
#[tokio::test]
async fn a_customer_reads_its_backup_with_its_own_key_and_without_us() {
    let fleet = Fleet::start().await;
    let tenant = fleet.create_tenant_with("acme", true).await.id;
    let own = BackupKey::generate();
    let settings = json!({ "encryption": { "recipient": own.public() } });
    let settings = TenantSettings::parse(settings).unwrap();
    fleet.catalog().change_settings(&slug("acme"), "test", |_| Ok(settings)).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (identity, dump) = (folder.path().join("key.txt"), folder.path().join("dump"));
    std::fs::write(&identity, own.to_secret().expose_secret()).unwrap();

    let backup = fleet.back_up("acme").await.id;

    let store = fleet.environment.store.as_ref().unwrap();
    let manifest = load_manifest(store, tenant, backup).await.unwrap();
    assert_eq!(manifest.also_for, [own.public()]);
    assert_eq!(readable(&fleet, tenant).await, [backup], "we read it as before");
    std::fs::write(&dump, object(&fleet, &ObjectKey::dump(tenant, backup)).await).unwrap();
    let found = |program: &str| {
        let found = Command::new(program).arg("--version").stdout(Stdio::null()).status();
        found.is_ok_and(|status| status.success())
    };
    if !(found("age") && found("zstd")) {
        eprintln!("`age` or `zstd` is not installed: only our own reader was tried");
        return;
    }
    let line = format!(
        "set -o pipefail; age --decrypt --identity {} {} | zstd --decompress | pg_restore --list",
        identity.display(),
        dump.display()
    );
    let output = Command::new("bash").args(["-c", &line]).output().unwrap();
    let listed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(listed.contains("TABLE DATA public boards"), "{listed}");
}

#[tokio::test]
async fn what_a_deleted_tenant_left_in_backups_can_be_erased() {
    let fleet = Fleet::start().await;
    let cli = Cli::new(&fleet);
    let mut tenants = Vec::new();
    for _ in 0..2 {
        let tenant = fleet.create_tenant_with("acme", true).await.id;
        let backup = fleet.back_up("acme").await.id;
        let delete = fleet.environment.delete(&slug("acme"), true, BY).await.unwrap();
        fleet.complete(&delete).await;
        tenants.push((tenant, backup));
    }
    let (first, second) = (tenants[0], tenants[1]);
    assert_eq!(readable(&fleet, first.0).await, [first.1]);
    cli.refused("backup key destroy acme --yes", 4, "--tenant-id").await;

    let erased = cli.json(&format!("backup key destroy acme --tenant-id {} --yes", first.0)).await;

    assert_eq!(erased["status"], "succeeded", "{erased}");
    assert_eq!(readable(&fleet, first.0).await, [] as [Uuid; 0]);
    assert_eq!(readable(&fleet, second.0).await, [second.1]);
    let id = erased["id"].as_str().unwrap().parse().unwrap();
    let certificate = fleet.catalog().erasure(id).await.unwrap();
    let public = fleet.catalog().certificate_key().await.unwrap().public();
    certificate.verify(&public).unwrap();
    assert!(certificate.tenant_deleted);
    let backups: Vec<Uuid> = certificate.backups.iter().map(|backup| backup.backup).collect();
    assert_eq!((backups, certificate.keys.len()), (vec![first.1], 1));
    // Of the two, one is left that the slug can mean; and a living tenant is always meant first.
    let living = fleet.create_tenant("acme").await.id;
    assert_eq!(fleet.environment.owner_of_backups(&slug("acme")).await.unwrap().id, living);
    let delete = fleet.environment.delete(&slug("acme"), false, BY).await.unwrap();
    fleet.complete(&delete).await;
    cli.json("backup key destroy acme --yes").await;
    assert_eq!(readable(&fleet, second.0).await, [] as [Uuid; 0]);
    cli.refused("backup key destroy acme --yes", 1, "there is no tenant").await;
    let other = format!("backup key destroy globex --tenant-id {} --yes", first.0);
    cli.refused(&other, 2, "is `acme`").await;
    fleet.assert_healthy().await;
}
