//! A tenant of a track that is restored, cloned, moved or renamed is in its track afterwards, at the right version.

use tenantry::embedded::{EmbeddedPostgres, PostgresSettings};
use tenantry::operations::Way;
use tenantry::operations::request::{BackupChoice, RestoreAs};

use super::*;
use crate::harness::clone_as;

fn logical() -> PostgresSettings {
    let mut settings = PostgresSettings::scratch();
    settings.extra = vec![("wal_level".to_owned(), "logical".to_owned())];
    settings
}

async fn another(fleet: &Fleet) -> EmbeddedPostgres {
    let other = EmbeddedPostgres::start_scratch(logical()).await.unwrap();
    let record = fleet.catalog().add_server("eu-2", &other.url().into()).await.unwrap();
    fleet.environment.server(record.id).await.unwrap().prepare().await.unwrap();
    other
}

async fn newer_file(fleet: &Fleet) {
    add(fleet, "gold", "V2__notes.sql", "create table notes (id bigint primary key)");
    fleet.environment.reload_migrations().await.unwrap();
}

#[tokio::test]
async fn a_backup_from_before_is_brought_to_the_track_wherever_it_is_restored() {
    let fleet = fleet().await;
    create(&fleet, "acme", "gold").await;
    fleet.create_tenant("globex").await;
    fleet.back_up("acme").await;
    fleet.back_up("globex").await;
    newer_file(&fleet).await;
    fleet.environment.set_track(&slug("globex"), Some(&label("gold")), "test").await.unwrap();

    for name in ["acme", "globex"] {
        let latest = BackupChoice::Latest;
        let restore = fleet.environment.restore(&slug(name), latest, BY).await.unwrap();
        fleet.complete(&restore).await;
        let to = RestoreAs { slug: slug(&format!("{name}-2")), server: None };
        let copy = fleet.environment.restore_as(&slug(name), latest, to, BY).await.unwrap();
        fleet.complete(&copy).await;
    }

    for name in ["acme", "acme-2", "globex", "globex-2"] {
        assert_eq!(standing(&fleet, name).await, in_gold(1, 2), "{name}");
        assert_eq!(fleet.count(name, "notes").await, 0);
        assert_clean(&fleet, name).await;
    }
    let undo = fleet.environment.undo_restore(&slug("acme"), BY).await.unwrap();
    fleet.complete(&undo).await;
    assert_eq!(
        standing(&fleet, "acme").await,
        in_gold(1, 2),
        "what was replaced is brought there too"
    );
    assert_clean(&fleet, "acme").await;
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn a_catalog_that_does_not_know_the_track_learns_it_from_the_backup() {
    let fleet = fleet().await;
    create(&fleet, "acme", "gold").await;
    fleet.back_up("acme").await;
    let forget = "update tenants set track = null, track_version = 0, track_repeatables = ''";
    fleet.admin("tenantry").await.batch_execute(forget).await.unwrap();

    let to = RestoreAs { slug: slug("copy"), server: None };
    let copy =
        fleet.environment.restore_as(&slug("acme"), BackupChoice::Latest, to, BY).await.unwrap();
    fleet.complete(&copy).await;
    let restore = fleet.environment.restore(&slug("acme"), BackupChoice::Latest, BY).await.unwrap();
    fleet.complete(&restore).await;

    for name in ["acme", "copy"] {
        assert_eq!(standing(&fleet, name).await, in_gold(1, 1), "{name}");
        assert_clean(&fleet, name).await;
    }
}

#[tokio::test]
async fn a_restore_whose_track_is_gone_leaves_the_tenant_served_and_says_what_to_do() {
    let fleet = fleet().await;
    create(&fleet, "acme", "gold").await;
    fleet.back_up("acme").await;
    let (gold, away) =
        ["tracks/gold", "gold"].map(|path| fleet.migrations.path().join(path)).into();
    std::fs::rename(&gold, &away).unwrap();
    fleet.environment.reload_migrations().await.unwrap();

    let restore = fleet.environment.restore(&slug("acme"), BackupChoice::Latest, BY).await.unwrap();
    let failed = fleet.runner().complete(restore.id).await.unwrap();
    let clone = fleet.environment.clone_tenant(&slug("acme"), clone_as("copy"), BY).await;

    assert_eq!(failed.state, OperationState::Failed);
    let error = failed.error.unwrap();
    assert!(error.remedy.unwrap().contains("put the folder tracks/gold"), "{}", error.message);
    assert!(clone.unwrap_err().to_string().contains("no track gold"));
    fleet.router().connection(&slug("acme")).await.unwrap();
    std::fs::rename(&away, &gold).unwrap();
    fleet.environment.reload_migrations().await.unwrap();
    fleet.catalog().retry(restore.id).await.unwrap();
    fleet.complete(&restore).await;
    assert_eq!(standing(&fleet, "acme").await, in_gold(1, 1));
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn a_clone_is_in_the_track_of_its_original_and_newer_files_come_with_it() {
    let fleet = fleet().await;
    create(&fleet, "acme", "gold").await;
    newer_file(&fleet).await;

    let clone = fleet.environment.clone_tenant(&slug("acme"), clone_as("copy"), BY).await.unwrap();
    fleet.complete(&clone).await;
    let rename = fleet.environment.rename(&slug("acme"), &slug("acme-corp"), BY).await.unwrap();
    fleet.complete(&rename).await;

    assert_eq!(standing(&fleet, "copy").await, in_gold(1, 2));
    assert_eq!(standing(&fleet, "acme-corp").await, in_gold(1, 1));
    assert_clean(&fleet, "copy").await;
    assert_eq!(migrate(&fleet, "acme-corp").await.state, OperationState::Succeeded);
    assert_eq!(standing(&fleet, "acme-corp").await, in_gold(1, 2));
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn a_tenant_keeps_its_track_on_its_way_to_another_server_and_back() {
    let fleet = fleet_with(Options { postgres: logical(), ..Options::default() }).await;
    create(&fleet, "acme", "gold").await;
    let _other = another(&fleet).await;

    for (way, to) in [(Way::Offline, "eu-2"), (Way::Online, "default"), (Way::Auto, "eu-2")] {
        let asked = fleet.environment.relocate_by(&slug("acme"), to, way, BY).await.unwrap();
        fleet.complete(&asked).await;

        assert_eq!(fleet.tenant("acme").await.server_name, to);
        assert_eq!(standing(&fleet, "acme").await, in_gold(1, 1), "{way:?}");
        assert_clean(&fleet, "acme").await;
    }

    newer_file(&fleet).await;
    assert_eq!(migrate(&fleet, "acme").await.state, OperationState::Succeeded);
    assert_eq!(standing(&fleet, "acme").await, in_gold(1, 2), "the history came along");
    let back = fleet.environment.relocate(&slug("acme"), "default", BY).await.unwrap();
    fleet.complete(&back).await;
    assert_clean(&fleet, "acme").await;
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn a_drill_proves_the_backup_of_a_tenant_of_a_track() {
    let fleet = fleet().await;
    create(&fleet, "acme", "gold").await;
    fleet.back_up("acme").await;

    let drill = fleet.environment.drill_tenant(&slug("acme"), BY).await.unwrap();

    fleet.complete(&drill).await;
    fleet.assert_healthy().await;
}
