//! After a disaster: a fleet out of the bucket, and out of nothing else but the master key.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tenantry::catalog::Catalog;
use tenantry::catalog::backups::BackupRecord;
use tenantry::catalog::operations::{OperationFilter, OperationRecord, OperationState};
use tenantry::catalog::servers::ServerChange;
use tenantry::catalog::tenants::NewTenant;
use tenantry::embedded::{EmbeddedPostgres, PostgresSettings};
use tenantry::operations::rebuild::{Found, Rebuild};
use tenantry::operations::request::{BackupChoice, RestoreAs};
use tenantry::operations::{Environment, Runner};
use tenantry::router::TenantRouter;
use tenantry::tenant::{Label, TenantSettings, TenantState, Tier};
use tenantry_backup::ObjectKey;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::harness::{self, BY, Fleet, connect, new_tenant, router_settings, slug};

mod survivors;

/// What there is after a disaster: another cluster with an empty catalog, the bucket and the master key.
struct Ruins {
    environment: Environment,
    postgres: EmbeddedPostgres,
}

impl Ruins {
    async fn backups_of(&self, name: &str) -> Vec<BackupRecord> {
        let tenant = self.catalog().tenant(&slug(name)).await.unwrap();
        self.catalog().backups_of(tenant.id).await.unwrap()
    }

    async fn of(fleet: &Fleet) -> Self {
        let postgres = EmbeddedPostgres::start_scratch(PostgresSettings::scratch()).await.unwrap();
        let catalog = harness::catalog(&postgres, &fleet.master_key);
        catalog.init().await.unwrap();
        catalog.server().prepare().await.unwrap();
        catalog.add_server("new", &postgres.url().into()).await.unwrap();
        let limits = fleet.environment.limits.clone();
        let store = fleet.environment.store.clone();
        let environment = Environment::new(catalog, store, limits).await.unwrap();
        Self { environment, postgres }
    }

    fn catalog(&self) -> &Catalog {
        &self.environment.catalog
    }

    async fn ask(&self) -> Found {
        let tiers = vec![Tier::Dedicated, Tier::Shared];
        let rebuild = Rebuild { servers: Vec::new(), tiers };
        self.environment.rebuild_from_bucket(&rebuild, "test").await.unwrap()
    }

    async fn complete(&self, found: &Found) -> BTreeMap<String, OperationRecord> {
        let runner = Runner::new(self.environment.clone(), CancellationToken::new());
        runner.complete_batch(found.batch, 2).await.unwrap();
        let filter = OperationFilter { batch: Some(found.batch), limit: 100, ..Default::default() };
        let operations = self.catalog().operations(&filter).await.unwrap();
        operations.into_iter().map(|(operation, slug)| (slug.to_string(), operation)).collect()
    }

    async fn count(&self, database: &str, table: &str) -> i64 {
        let client = connect(&self.postgres.database_url(database)).await.unwrap();
        client.query_one(&format!("select count(*) from {table}"), &[]).await.unwrap().get(0)
    }

    async fn may_log_in(&self, role: &str) -> bool {
        let client = connect(&self.postgres.database_url("postgres")).await.unwrap();
        let sql = "select rolcanlogin from pg_roles where rolname = $1";
        client.query_one(sql, &[&role]).await.unwrap().get(0)
    }

    async fn assert_healthy(&self) {
        let report = tenantry::doctor::examine(&self.environment).await.unwrap();
        assert!(report.is_healthy(), "{:#?}", report.findings);
    }
}

#[tokio::test]
async fn a_fleet_comes_back_from_the_bucket_with_its_names_states_and_aliases() {
    let fleet = Fleet::start().await;
    for name in ["acme", "globex", "hooli"] {
        fleet.create_tenant_with(name, true).await;
        fleet.back_up(name).await;
    }
    let big = NewTenant { tier: Tier::Dedicated, ..new_tenant("zorg") };
    let big = fleet.environment.create_tenant(&big, true, BY).await.unwrap();
    fleet.complete(&big).await;
    fleet.back_up("zorg").await;
    let rename = fleet.environment.rename(&slug("acme"), &slug("acme-corp"), BY).await.unwrap();
    fleet.complete(&rename).await;
    let why = Some("unpaid".to_owned());
    let suspend = fleet.environment.suspend(&slug("globex"), why, BY).await.unwrap();
    fleet.complete(&suspend).await;
    let delete = fleet.environment.delete(&slug("hooli"), true, BY).await.unwrap();
    fleet.complete(&delete).await;
    let crowd = "insert into members (tenant_id, issuer, subject, role)
                 select t.id, 'https://id.example', 'user-' || n, 'member'
                 from tenants t, generate_series(1, 2500) n where t.slug = 'acme-corp'";
    fleet.admin("tenantry").await.batch_execute(crowd).await.unwrap();
    fleet.environment.back_up_catalog().await.unwrap();
    let before = fleet.tenant("acme").await;

    let ruins = Ruins::of(&fleet).await;
    let found = ruins.ask().await;
    let done = ruins.complete(&found).await;

    assert_eq!((found.tenants, found.known, found.lost.len()), (3, 1, 0), "{found:?}");
    assert!(done.values().all(|one| one.state == OperationState::Succeeded), "{done:#?}");
    let first = done.values().min_by_key(|one| one.id).unwrap();
    assert_eq!(first.tenant_id, big.tenant_id, "a dedicated tenant comes first");
    let acme = ruins.catalog().tenant(&slug("acme")).await.unwrap();
    assert_eq!((acme.id, acme.slug.as_str()), (before.id, "acme-corp"));
    assert_eq!(acme.epoch, before.epoch + 1);
    assert_eq!(acme.schema_version, before.schema_version);
    let globex = ruins.catalog().tenant(&slug("globex")).await.unwrap();
    assert_eq!(globex.state, TenantState::Suspended);
    assert_eq!(globex.suspended_reason.as_deref(), Some("unpaid"));
    assert!(!ruins.may_log_in(globex.role.as_str()).await, "it is suspended on the server too");
    assert!(ruins.catalog().tenant(&slug("hooli")).await.is_err(), "what was deleted stays so");
    assert_eq!(ruins.count(acme.database.as_str(), "boards").await, 3);
    let router =
        TenantRouter::new(ruins.catalog().clone(), ruins.catalog().changes(), router_settings());
    router.connection(&slug("acme")).await.unwrap();
    assert_eq!(ruins.backups_of("zorg").await.len(), 1);
    assert_eq!(ruins.count("tenantry", "members").await, 2500);
    ruins.assert_healthy().await;

    let again = ruins.ask().await;
    assert_eq!((again.tenants, again.known), (0, 4));
}

#[tokio::test]
async fn a_region_binds_a_tenant_that_comes_back_too() {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    let eu = TenantSettings::parse(json!({ "fleet": { "region": "eu" } })).unwrap();
    fleet.catalog().change_settings(&slug("acme"), "test", |_| Ok(eu)).await.unwrap();
    fleet.back_up("acme").await;
    fleet.environment.back_up_catalog().await.unwrap();

    let ruins = Ruins::of(&fleet).await;
    let found = ruins.ask().await;
    assert_eq!(found.tenants, 0);
    let (name, why) = &found.lost[0];
    assert_eq!(name, "acme");
    assert!(why.contains("region \"eu\""), "{why}");

    let region = ServerChange { region: Label::parse("eu").ok().into(), ..ServerChange::default() };
    for server in ruins.catalog().servers().await.unwrap() {
        ruins.catalog().change_server(&server.name, &region).await.unwrap();
    }
    let found = ruins.ask().await;
    ruins.complete(&found).await;

    assert_eq!((found.tenants, found.lost.len()), (1, 0), "{found:?}");
    assert_eq!(ruins.catalog().tenant(&slug("acme")).await.unwrap().state, TenantState::Active);
}

#[tokio::test]
async fn without_a_catalog_backup_tenants_come_back_under_new_names() {
    let fleet = Fleet::start().await;
    let id = fleet.create_tenant_with("acme", true).await.id;
    fleet.back_up("acme").await;

    let ruins = Ruins::of(&fleet).await;
    let found = ruins.ask().await;
    let done = ruins.complete(&found).await;

    assert!(!found.has_catalog);
    let name = format!("restored-{}", &id.simple().to_string()[20..]);
    assert_eq!(done[&name].state, OperationState::Succeeded, "{done:#?}");
    let tenant = ruins.catalog().tenant(&slug(&name)).await.unwrap();
    assert_eq!((tenant.id, tenant.state), (id, TenantState::Active));
    assert_eq!(ruins.count(tenant.database.as_str(), "boards").await, 3);
    ruins.assert_healthy().await;
}

#[tokio::test]
async fn a_rebuild_goes_on_where_it_stopped_and_never_costs_a_backup() {
    let fleet = Fleet::start().await;
    for name in ["acme", "globex"] {
        fleet.create_tenant_with(name, true).await;
        fleet.back_up(name).await;
    }
    fleet.create_tenant("initech").await;
    fleet.environment.back_up_catalog().await.unwrap();
    let dump = fleet.tenant("globex").await.id.to_string();
    let folder = fleet.s3.data_dir().join("backups/tenantry").join(dump);
    let backup = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    std::fs::rename(backup.join("dump"), backup.join(".away")).unwrap();

    let ruins = Ruins::of(&fleet).await;
    let found = ruins.ask().await;
    let done = ruins.complete(&found).await;

    assert_eq!(done["acme"].state, OperationState::Succeeded);
    assert_eq!(done["globex"].state, OperationState::Failed);
    let [(lost, why)] = &found.lost[..] else { panic!("{found:?}") };
    assert!(lost == "initech" && why.contains("no backup"), "{lost}: {why}");

    std::fs::rename(backup.join(".away"), backup.join("dump")).unwrap();
    let again = ruins.ask().await;
    let done = ruins.complete(&again).await;
    assert_eq!(done["globex"].state, OperationState::Succeeded, "{:?}", done["globex"].error);
    assert_eq!(ruins.count("tenant_globex", "boards").await, 3);
}

#[tokio::test]
async fn a_rebuild_that_was_cut_off_knows_every_backup_the_next_time() {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    fleet.back_up("acme").await;
    fleet.environment.back_up_catalog().await.unwrap();
    let ruins = Ruins::of(&fleet).await;
    let catalog = connect(&ruins.postgres.database_url("tenantry")).await.unwrap();
    let sql = "alter table backups add constraint cut_off check (false) not valid";
    catalog.batch_execute(sql).await.unwrap();
    let rebuild = Rebuild { servers: Vec::new(), tiers: vec![Tier::Shared] };
    _ = ruins.environment.rebuild_from_bucket(&rebuild, "test").await;

    catalog.batch_execute("alter table backups drop constraint cut_off").await.unwrap();
    let found = ruins.ask().await;
    let done = ruins.complete(&found).await;

    assert_eq!(done["acme"].state, OperationState::Succeeded, "{:?}", done["acme"].error);
    assert_eq!(ruins.backups_of("acme").await.len(), 1);
}

/// Has the manifest of a tenant's newest backup say that it is newer than any.
async fn forge_date(fleet: &Fleet, name: &str) {
    let newest = fleet.backups_of(name).await.remove(0);
    let key = ObjectKey::manifest(newest.tenant_id, newest.id);
    let store = fleet.environment.store.as_ref().unwrap();
    let mut manifest: Value = serde_json::from_slice(&store.get(&key).await.unwrap()).unwrap();
    manifest["started_at"] = "2099-01-01T00:00:00Z".into();
    store.put(&key, manifest.to_string().into()).await.unwrap();
}

#[tokio::test]
async fn a_manifest_that_nobody_signed_counts_for_nothing() {
    let fleet = Fleet::start().await;
    for name in ["acme", "globex"] {
        fleet.create_tenant_with(name, true).await;
        fleet.back_up(name).await;
    }
    fleet.back_up("acme").await;
    fleet.environment.back_up_catalog().await.unwrap();
    for name in ["acme", "globex"] {
        forge_date(&fleet, name).await;
    }

    let ruins = Ruins::of(&fleet).await;
    let found = ruins.ask().await;
    let done = ruins.complete(&found).await;

    assert_eq!(done["acme"].state, OperationState::Succeeded, "{:?}", done["acme"].error);
    assert_eq!(ruins.backups_of("acme").await.len(), 1);
    let [(lost, why)] = &found.lost[..] else { panic!("{found:?}") };
    assert!(lost == "globex" && why.contains("altered"), "{lost}: {why}");
    assert!(!done.contains_key("globex"));
}

#[tokio::test]
async fn a_slug_that_is_taken_keeps_nobody_else_waiting() {
    let fleet = Fleet::start().await;
    for name in ["acme", "globex"] {
        fleet.create_tenant_with(name, true).await;
        fleet.back_up(name).await;
    }
    fleet.environment.back_up_catalog().await.unwrap();
    let ruins = Ruins::of(&fleet).await;
    let hasty = ruins.environment.create_tenant(&new_tenant("acme"), false, BY).await.unwrap();
    let runner = Runner::new(ruins.environment.clone(), CancellationToken::new());
    runner.complete(hasty.id).await.unwrap();

    let found = ruins.ask().await;
    let done = ruins.complete(&found).await;

    let [(lost, why)] = &found.lost[..] else { panic!("{found:?}") };
    assert!(lost == "acme" && why.contains("taken"), "{lost}: {why}");
    assert_eq!(done["globex"].state, OperationState::Succeeded, "{:?}", done["globex"].error);

    let (from, to) = (slug("acme"), slug("acme-new"));
    let rename = ruins.environment.rename(&from, &to, BY).await.unwrap();
    runner.complete(rename.id).await.unwrap();
    ruins.catalog().remove_alias(&to, &from, "test").await.unwrap();
    let found = ruins.ask().await;
    ruins.complete(&found).await;
    assert_eq!(ruins.count("tenant_acme", "boards").await, 3);
}

#[tokio::test]
async fn a_damaged_backup_of_the_catalog_gives_way_to_the_one_before() {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    fleet.back_up("acme").await;
    fleet.environment.back_up_catalog().await.unwrap();
    let store = fleet.environment.store.as_ref().unwrap();
    store.put_catalog(Uuid::now_v7(), b"what a full disk left").await.unwrap();

    let ruins = Ruins::of(&fleet).await;
    let found = ruins.ask().await;
    let done = ruins.complete(&found).await;

    assert!(found.has_catalog);
    assert_eq!(done["acme"].state, OperationState::Succeeded);
}

#[tokio::test]
async fn a_tenant_that_was_being_deleted_is_not_served_again() {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    fleet.back_up("acme").await;
    let catalog = fleet.admin("tenantry").await;
    catalog.batch_execute("update tenants set state = 'deleting'").await.unwrap();
    fleet.environment.back_up_catalog().await.unwrap();

    let ruins = Ruins::of(&fleet).await;
    let found = ruins.ask().await;
    ruins.complete(&found).await;

    let acme = ruins.catalog().tenant(&slug("acme")).await.unwrap();
    assert_eq!(acme.state, TenantState::Suspended);
}

#[tokio::test]
async fn backups_that_a_deleted_tenant_left_can_be_restored_after_a_disaster_too() {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    let backup = fleet.back_up("acme").await.id;
    let delete = fleet.environment.delete(&slug("acme"), true, BY).await.unwrap();
    fleet.complete(&delete).await;
    fleet.environment.back_up_catalog().await.unwrap();

    let ruins = Ruins::of(&fleet).await;
    ruins.ask().await;
    let to = RestoreAs { slug: slug("acme-of-old"), server: None };
    let choice = BackupChoice::Id(backup);
    let asked = ruins.environment.restore_as(&slug("acme"), choice, to, BY).await.unwrap();
    let runner = Runner::new(ruins.environment.clone(), CancellationToken::new());
    let done = runner.complete(asked.id).await.unwrap();

    assert_eq!(done.state, OperationState::Succeeded, "{:?}", done.error);
    assert_eq!(ruins.count("tenant_acme-of-old", "boards").await, 3);
}

#[tokio::test]
async fn a_tenant_of_a_track_comes_back_in_it_whether_or_not_the_catalog_was_backed_up() {
    let fleet = Fleet::start().await;
    std::fs::create_dir_all(fleet.migrations.path().join("tracks/gold")).unwrap();
    let audits = "create table audits (id bigint primary key)";
    fleet.add_migration("tracks/gold/V1__audits.sql", audits);
    fleet.environment.reload_migrations().await.unwrap();
    let track = Some(Label::parse("gold").unwrap());
    let new = NewTenant { track, ..new_tenant("acme") };
    let made = fleet.environment.create_tenant(&new, true, BY).await.unwrap();
    fleet.complete(&made).await;
    let acme = fleet.tenant("acme").await;
    fleet.back_up("acme").await;

    for is_known in [false, true] {
        if is_known {
            fleet.environment.back_up_catalog().await.unwrap();
        }
        let ruins = Ruins::of(&fleet).await;
        let found = ruins.ask().await;
        ruins.complete(&found).await;

        let back = ruins.catalog().tenant_by_id(acme.id).await.unwrap();
        assert_eq!((found.has_catalog, back.state), (is_known, TenantState::Active));
        assert_eq!((back.schema(), back.track_name()), ((1, 1), new.track.as_ref()));
        assert_eq!(ruins.count(back.database.as_str(), "audits").await, 0);
        ruins.assert_healthy().await;
    }
}

#[tokio::test]
async fn a_rebuild_that_is_given_up_leaves_the_backup() {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    fleet.back_up("acme").await;
    fleet.environment.back_up_catalog().await.unwrap();

    let ruins = Ruins::of(&fleet).await;
    let found = ruins.ask().await;
    let filter = OperationFilter { batch: Some(found.batch), limit: 1, ..Default::default() };
    let asked = ruins.catalog().operations(&filter).await.unwrap().remove(0).0;
    ruins.environment.cancel(asked.id).await.unwrap();
    let done = ruins.complete(&found).await;

    assert_eq!(done["acme"].state, OperationState::Cancelled);
    let objects = fleet.objects();
    assert!(objects.contains(&"dump".to_owned()), "{objects:?}");
}

#[tokio::test]
async fn a_catalog_backup_shows_no_name_and_no_secret() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let id = fleet.environment.back_up_catalog().await.unwrap();
    let store = fleet.environment.store.as_ref().unwrap();

    let stored = store.get_catalog(id).await.unwrap();
    let export = fleet.environment.newest_catalog_backup().await.unwrap().unwrap();

    let text = String::from_utf8_lossy(&stored);
    assert!(!text.contains("acme"));
    let plain = serde_json::to_string(&export).unwrap();
    let password = fleet.catalog().tenant_password(fleet.tenant("acme").await.id).await.unwrap();
    assert!(
        plain.contains("acme") && !plain.contains(secrecy::ExposeSecret::expose_secret(&password))
    );
}
