//! Keys: another master key, and another key for a tenant's backups; nothing gets lost by either.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use secrecy::{ExposeSecret as _, SecretString};
use tenantry::catalog::Catalog;
use tenantry::catalog::operations::{OperationFilter, OperationState};
use tenantry::operations::request::BackupChoice;
use tenantry::operations::runner::{Disturbance, StepPoint};
use tenantry::operations::{Environment, Runner};
use tenantry::sealing::MasterKey;
use tenantry_backup::{ObjectKey, load_manifest};
use tenantry_provisioning::ServerUrl;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::cli::Cli;
use crate::harness::{BY, Fleet, limits, slug, store};

/// The fleet under another master key, which may open what the fleet's own has sealed.
async fn under(fleet: &Fleet, key: &SecretString, opening_too: bool) -> Environment {
    let mut key = MasterKey::parse(key).unwrap();
    if opening_too {
        key = key.opening_too(MasterKey::parse(&fleet.master_key).unwrap());
    }
    let url = ServerUrl::parse(&fleet.postgres.database_url("tenantry")).unwrap();
    let limits = limits(fleet.migrations.path().to_owned(), 0);
    Environment::new(Catalog::new(&url, key, 10), Some(store(&fleet.s3).await), limits)
        .await
        .unwrap()
}

/// Everything in the catalog, as text.
pub async fn everything(fleet: &Fleet) -> String {
    let client = fleet.admin("tenantry").await;
    let tables = client
        .query("select tablename::text from pg_tables where schemaname = 'public'", &[])
        .await
        .unwrap();
    let mut text = String::new();
    for table in tables {
        let sql = format!("select t::text from {} t", table.get::<_, String>(0));
        for row in client.query(&sql, &[]).await.unwrap() {
            text.push_str(row.get(0));
        }
    }
    text
}

/// What every manifest in the bucket says of the master key.
async fn key_ids(fleet: &Fleet) -> Vec<String> {
    let store = fleet.environment.store.as_ref().unwrap();
    let mut ids = Vec::new();
    for tenant in store.tenants().await.unwrap() {
        for backup in store.backups_of(tenant).await.unwrap() {
            ids.push(load_manifest(store, tenant, backup).await.unwrap().key_id);
        }
    }
    ids
}

async fn restored(fleet: &Fleet, environment: &Environment, backup: Uuid) {
    let admin = fleet.admin("tenant_acme").await;
    admin.batch_execute("delete from boards").await.unwrap();
    drop(admin);
    let asked = environment.restore(&slug("acme"), BackupChoice::Id(backup), BY).await.unwrap();
    let runner = Runner::new(environment.clone(), CancellationToken::new());
    let done = runner.complete(asked.id).await.unwrap();
    assert_eq!(done.state, OperationState::Succeeded, "{:?}", done.error);
    assert_eq!(fleet.count("acme", "boards").await, 3);
}

#[tokio::test]
async fn another_master_key_takes_over_all_that_the_one_of_before_has_sealed() {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    let first = fleet.back_up("acme").await.id;
    let rotation = fleet.environment.rotate_backup_key(&slug("acme"), BY).await.unwrap();
    fleet.complete(&rotation).await;
    fleet.back_up("acme").await;
    let rotation = fleet.environment.rotate_password(&slug("acme"), BY).await.unwrap();
    fleet.complete(&rotation).await;
    fleet.create_tenant("gone").await;
    fleet.back_up("gone").await;
    let deletion = fleet.environment.delete(&slug("gone"), true, BY).await.unwrap();
    fleet.complete(&deletion).await;
    let before = fleet.tenant("acme").await.generation;
    let old = MasterKey::parse(&fleet.master_key).unwrap().id();
    let new = MasterKey::generate();
    let environment = under(&fleet, &new, true).await;
    let catalog = &environment.catalog;
    catalog.verify().await.unwrap();

    assert!(catalog.reseal().await.unwrap() > 5);
    let batch = environment.reseal_backups("test").await.unwrap().unwrap();
    let runner = Runner::new(environment.clone(), CancellationToken::new());
    runner.complete_batch(batch, 2).await.unwrap();
    catalog.adopt_master_key().await.unwrap();

    assert!(!everything(&fleet).await.contains(&format!("01{old}")));
    let present = catalog.master_key_id();
    assert_eq!(key_ids(&fleet).await, [present.as_str(); 3]);
    let under_keys = catalog.under_master_keys().await.unwrap();
    assert_eq!(under_keys.keys().collect::<Vec<_>>(), [&present]);
    assert_eq!(fleet.tenant("acme").await.generation, before, "no router has to look again");
    assert_eq!(catalog.reseal().await.unwrap(), 0);
    assert!(environment.reseal_backups("test").await.unwrap().is_none());
    assert!(fleet.catalog().verify().await.is_err());
    let alone = under(&fleet, &new, false).await;
    alone.catalog.verify().await.unwrap();
    restored(&fleet, &alone, first).await;
}

#[tokio::test]
async fn what_nobody_can_read_does_not_stop_the_rest_from_being_sealed_again() {
    let fleet = Fleet::start().await;
    let acme = fleet.create_tenant("acme").await.id;
    fleet.back_up("acme").await;
    let destroyed = fleet.environment.destroy_backup_keys(&slug("acme"), BY).await.unwrap();
    fleet.complete(&destroyed).await;
    let after = fleet.back_up("acme").await.id;
    let globex = fleet.create_tenant("globex").await.id;
    let (damaged, last) = (fleet.back_up("globex").await.id, fleet.back_up("globex").await.id);
    let store = fleet.environment.store.as_ref().unwrap();
    store.put(&ObjectKey::manifest(globex, damaged), "{}".into()).await.unwrap();
    let environment = under(&fleet, &MasterKey::generate(), true).await;

    environment.catalog.reseal().await.unwrap();
    let batch = environment.reseal_backups("test").await.unwrap().unwrap();
    let runner = Runner::new(environment.clone(), CancellationToken::new());
    runner.complete_batch(batch, 2).await.unwrap();

    let filter = OperationFilter { batch: Some(batch), limit: 2, ..Default::default() };
    for (operation, slug) in environment.catalog.operations(&filter).await.unwrap() {
        let error = operation.error.map(|error| error.message).unwrap_or_default();
        match slug.as_str() {
            "acme" => assert_eq!(operation.state, OperationState::Succeeded, "{error}"),
            _ => assert!(error.contains("manifest cannot be read"), "{error}"),
        }
    }
    for (tenant, backup) in [(acme, after), (globex, last)] {
        let manifest = load_manifest(store, tenant, backup).await.unwrap();
        assert_eq!(manifest.key_id, environment.catalog.master_key_id());
    }
}

#[tokio::test]
async fn the_command_says_what_is_under_which_key() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    fleet.back_up("acme").await;
    let old = MasterKey::parse(&fleet.master_key).unwrap().id();
    let new = MasterKey::generate();
    let present = MasterKey::parse(&new).unwrap().id();
    let alone = Cli::new(&fleet).with("TENANTRY_MASTER_KEY", new.expose_secret());
    let both = Cli::new(&fleet)
        .with("TENANTRY_MASTER_KEY", new.expose_secret())
        .with("TENANTRY_MASTER_KEY_PREVIOUS", fleet.master_key.expose_secret());

    fleet.environment.back_up_catalog().await.unwrap();
    alone.refused("key status", 1, "TENANTRY_MASTER_KEY_PREVIOUS").await;
    let before = both.json("key status").await;
    let rotated = both.json("key rotate").await;
    let after = alone.json("key status").await;
    let (_, again) = both.told("key rotate").await;
    assert!(again.starts_with("0 secrets and the backups of 0 tenants were put under"), "{again}");
    let all = format!("which has {} secrets and 1 backup now", after["under"][&present]["secrets"]);
    assert!(again.contains(&all), "{again}");

    assert_eq!(
        (&before["complete"], &before["under"][&old]["backups"]),
        (&false.into(), &1.into())
    );
    assert_eq!((&rotated["complete"], &after["complete"]), (&true.into(), &true.into()));
    assert_eq!(after["under"][&present]["backups"], 1);
    assert!(after["under"][&old].is_null());
    let opens_alone = under(&fleet, &new, false).await.newest_catalog_backup().await;
    assert!(opens_alone.unwrap().is_some(), "after a disaster the new key is all there is");
    Cli::new(&fleet).refused("key status", 1, "sealed under the master key").await;
}

#[tokio::test]
async fn backups_stay_readable_when_their_tenant_gets_another_key() {
    let fleet = Fleet::start().await;
    let tenant = fleet.create_tenant_with("acme", true).await.id;
    let public = async || fleet.catalog().backup_key(tenant).await.unwrap().open.public();
    let (first, before) = (fleet.back_up("acme").await.id, public().await);
    // A dump that is there already, and whose manifest is written when there is another key.
    let half = fleet.environment.back_up(&slug("acme"), BY).await.unwrap();
    let once = AtomicBool::new(true);
    let runner = fleet.disturbed_runner(Arc::new(move |point: &StepPoint<'_>| {
        let hit = point.step == "write_manifest" && once.swap(false, Ordering::Relaxed);
        if hit { Disturbance::Fail } else { Disturbance::None }
    }));
    assert_eq!(runner.complete(half.id).await.unwrap().state, OperationState::Failed);

    let rotation = fleet.environment.rotate_backup_key(&slug("acme"), BY).await.unwrap();
    fleet.complete(&rotation).await;
    fleet.catalog().retry(half.id).await.unwrap();
    fleet.complete(&half).await;
    let third = fleet.back_up("acme").await.id;

    assert_ne!(public().await, before);
    for backup in [first, half.id, third] {
        restored(&fleet, &fleet.environment, backup).await;
    }
    fleet.assert_healthy().await;
}
