//! Tenants with a schema of their own: the files of a track, after those that every tenant gets.

use serde_json::{Value, json};
use tenantry::catalog::operations::{OperationRecord, OperationState};
use tenantry::catalog::tenants::NewTenant;
use tenantry::operations::verify::{DriftState, Verified};
use tenantry::operations::{Environment, upkeep};
use tenantry::tenant::{Label, Tenant};

use crate::harness::{BY, Fleet, Options, new_tenant, slug};

mod choosing;
mod commands;
mod moves;
mod rollouts;
mod steps;

/// Beside the common `V1__boards.sql`: a file of the same name, whose statements run one by one.
const AUDITS: &str = "-- tenantry: no-transaction
create table audits (id bigint primary key, board_id bigint references boards);
create index concurrently audits_board on audits (board_id);";
const VIEW: &str = "create or replace view audited as select title from boards join audits on board_id = boards.id";

/// A fleet whose directory has the tracks `gold`, with two files, and `silver`, with none that has a version.
async fn fleet() -> Fleet {
    fleet_with(Options::default()).await
}

async fn fleet_with(options: Options) -> Fleet {
    let fleet = Fleet::start_with(options).await;
    add(&fleet, "gold", "V1__boards.sql", AUDITS);
    add(&fleet, "gold", "R__audited.sql", VIEW);
    add(&fleet, "silver", "R__silver.sql", "create or replace view silver as select 1 as one");
    fleet.environment.reload_migrations().await.unwrap();
    fleet
}

fn add(fleet: &Fleet, track: &str, name: &str, sql: &str) {
    std::fs::create_dir_all(fleet.migrations.path().join("tracks").join(track)).unwrap();
    fleet.add_migration(&format!("tracks/{track}/{name}"), sql);
}

fn label(name: &str) -> Label {
    Label::parse(name).unwrap()
}

async fn ask(fleet: &Fleet, name: &str, track: &str) -> OperationRecord {
    let new = NewTenant { track: Some(label(track)), ..new_tenant(name) };
    fleet.environment.create_tenant(&new, true, BY).await.unwrap()
}

async fn create(fleet: &Fleet, name: &str, track: &str) -> Tenant {
    let operation = ask(fleet, name, track).await;
    fleet.complete(&operation).await;
    fleet.tenant(name).await
}

/// The common version, the track, and the version in it.
async fn standing(fleet: &Fleet, name: &str) -> (i64, Option<String>, i64) {
    let tenant = fleet.tenant(name).await;
    (tenant.schema_version, tenant.track_name().map(ToString::to_string), tenant.track_version())
}

fn in_gold(common: i64, version: i64) -> (i64, Option<String>, i64) {
    (common, Some("gold".to_owned()), version)
}

async fn verify(environment: &Environment, name: &str) -> Verified {
    use futures_util::StreamExt as _;

    let tenant = environment.to_verify(&[slug(name)], None).await.unwrap();
    let found: Vec<Verified> = environment.verify(tenant, 1).collect().await;
    found.into_iter().next().unwrap()
}

async fn assert_clean(fleet: &Fleet, name: &str) {
    let found = verify(&fleet.environment, name).await;
    assert_eq!(found.state, DriftState::Clean, "{name}: {found:#?}");
}

async fn migrate(fleet: &Fleet, name: &str) -> OperationRecord {
    use tenantry::catalog::operations::OperationFilter;

    fleet.environment.reload_migrations().await.unwrap();
    let batch = fleet.environment.migrate_fleet(&[slug(name)], "test").await.unwrap();
    fleet.runner().complete_batch(batch, 1).await.unwrap();
    let filter = OperationFilter { batch: Some(batch), limit: 1, ..OperationFilter::default() };
    fleet.catalog().operations(&filter).await.unwrap().remove(0).0
}

#[tokio::test]
async fn a_tenant_that_is_made_in_a_track_has_its_files_and_nobody_else_has() {
    let fleet = fleet_with(Options { spares: 1, ..Options::default() }).await;
    upkeep::tend(&fleet.environment).await.unwrap();

    create(&fleet, "from-spare", "gold").await;
    create(&fleet, "from-template", "gold").await;
    create(&fleet, "views-only", "silver").await;
    fleet.create_tenant("globex").await;

    for name in ["from-spare", "from-template"] {
        assert_eq!(standing(&fleet, name).await, in_gold(1, 1), "{name}");
        assert_eq!(fleet.count(name, "audited").await, 0);
        assert_eq!(fleet.count(name, "boards").await, 3, "the sample rows come after");
        assert_eq!(fleet.count(name, "tenantry.track_history").await, 1);
        assert_clean(&fleet, name).await;
    }
    assert_eq!(standing(&fleet, "views-only").await, (1, Some("silver".to_owned()), 0));
    assert_eq!(fleet.count("views-only", "silver").await, 1);
    assert_clean(&fleet, "views-only").await;
    let globex = fleet.admin("tenant_globex").await;
    let found =
        "select to_regclass('audits') is null and to_regclass('tenantry.track_history') is null";
    assert!(globex.query_one(found, &[]).await.unwrap().get::<_, bool>(0));
    assert_clean(&fleet, "globex").await;
    let router = fleet.router();
    let tenant = router.connection(&slug("from-spare")).await.unwrap();
    assert_eq!((tenant.track_version("gold"), tenant.track_version("silver")), (Some(1), None));
    assert!(tenant.has_migration(1) && !tenant.has_migration(2));
    tenant.query("select * from audited", &[]).await.unwrap();
    for forbidden in ["select * from tenantry.track_history", "drop view audited"] {
        assert!(tenant.execute(forbidden, &[]).await.is_err(), "{forbidden}");
    }
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn drift_is_told_beside_the_files_of_the_tenants_own_track() {
    let fleet = fleet().await;
    create(&fleet, "acme", "gold").await;
    create(&fleet, "initech", "gold").await;
    add(&fleet, "gold", "V2__notes.sql", "create table notes (id bigint primary key)");
    fleet.environment.reload_migrations().await.unwrap();

    let behind = verify(&fleet.environment, "acme").await;
    assert_eq!((behind.state, behind.differences.len()), (DriftState::Behind, 0), "{behind:#?}");
    let admin = fleet.admin("tenant_acme").await;
    admin.batch_execute("alter table audits add column extra int").await.unwrap();
    let drifted = verify(&fleet.environment, "acme").await;
    assert_eq!(drifted.state, DriftState::Drifted);
    assert_eq!(drifted.differences.len(), 1, "{drifted:#?}");
    assert_eq!(drifted.differences[0].object, "column public.audits.extra");

    assert_eq!(migrate(&fleet, "initech").await.state, OperationState::Succeeded);
    assert_clean(&fleet, "initech").await;
    let catalog = fleet.admin("tenantry").await;
    catalog.batch_execute("update tenants set track = null where slug = 'initech'").await.unwrap();
    let stray = verify(&fleet.environment, "initech").await;
    assert_eq!(stray.state, DriftState::Drifted);
    let problem = stray.problem.unwrap();
    assert!(problem.message.contains("files of track gold, and its tenant is in no track"));
    assert!(problem.remedy.unwrap().contains("set-track SLUG gold"));
    fleet.environment.set_track(&slug("initech"), Some(&label("gold")), "test").await.unwrap();
    assert_eq!(
        standing(&fleet, "initech").await,
        in_gold(1, 2),
        "the database knows how far it is"
    );
    assert_clean(&fleet, "initech").await;
}

#[tokio::test]
async fn a_track_that_is_gone_or_older_is_told_and_the_tenant_is_served() {
    let fleet = fleet().await;
    create(&fleet, "acme", "gold").await;
    fleet.create_tenant("globex").await;
    let gold = fleet.migrations.path().join("tracks/gold");
    let notes = "create table notes (id bigint primary key)";
    add(&fleet, "gold", "V2__notes.sql", notes);
    assert_eq!(migrate(&fleet, "acme").await.state, OperationState::Succeeded);
    fleet.add_migration("V2__labels.sql", "create table labels (id bigint primary key);");

    std::fs::remove_file(gold.join("V2__notes.sql")).unwrap();
    let older = migrate(&fleet, "acme").await;
    assert_eq!(standing(&fleet, "acme").await, in_gold(2, 2), "the common file is applied");
    let status = fleet.environment.fleet_status().await.unwrap();
    assert_eq!((status.behind(), status.ahead()), (1, 1), "{status:#?}");
    std::fs::rename(&gold, fleet.migrations.path().join("tracks/old")).unwrap();
    let gone = migrate(&fleet, "acme").await;
    let status = fleet.environment.fleet_status().await.unwrap();
    let verified = verify(&fleet.environment, "acme").await;

    let told = |record: &OperationRecord| {
        let error = record.error.clone().unwrap();
        format!("{}; {}", error.message, error.remedy.unwrap())
    };
    assert_eq!((older.state, gone.state), (OperationState::Failed, OperationState::Failed));
    assert!(told(&older).contains("version 2 (notes) of track gold"), "{}", told(&older));
    assert!(told(&older).contains("put the file back"), "{}", told(&older));
    assert!(told(&gone).contains("no track gold; there are old, silver"), "{}", told(&gone));
    assert!(told(&gone).contains("put the folder tracks/gold"), "{}", told(&gone));
    assert_eq!((status.behind(), status.ahead()), (2, 0), "whoever is in it is to be told");
    assert_eq!(verified.state, DriftState::Unverified);
    assert!(verified.problem.unwrap().message.contains("no track gold"));
    let tenant = fleet.router().connection(&slug("acme")).await.unwrap();
    tenant.query("select * from notes", &[]).await.unwrap();
    assert_eq!(migrate(&fleet, "globex").await.state, OperationState::Succeeded);
    fleet.create_tenant("newcomer").await;
}

#[tokio::test]
async fn a_track_that_cannot_be_used_keeps_nobody_else_from_anything() {
    let fleet = fleet().await;
    create(&fleet, "acme", "gold").await;
    fleet.create_tenant("globex").await;
    add(&fleet, "gold", "V7__late.sql", "select 1");
    fleet.add_migration("V2__labels.sql", "create table labels (id bigint primary key);");

    let failed = migrate(&fleet, "acme").await;
    let others = migrate(&fleet, "globex").await;
    upkeep::tend(&fleet.environment).await.unwrap();
    fleet.create_tenant("newcomer").await;
    create(&fleet, "views-only", "silver").await;

    let error = failed.error.unwrap();
    assert!(error.message.contains("track gold cannot be used"), "{error:?}");
    assert!(error.message.contains("tracks/gold/V7__late.sql follows"), "{error:?}");
    assert_eq!(standing(&fleet, "acme").await, in_gold(2, 1), "it has the common files");
    assert_eq!(others.state, OperationState::Succeeded);
    assert_eq!(standing(&fleet, "newcomer").await, (2, None, 0));
    let new = NewTenant { track: Some(label("gold")), ..new_tenant("late") };
    let refused = fleet.environment.create_tenant(&new, false, BY).await.unwrap_err();
    assert!(refused.to_string().contains("fix tracks/gold"), "{refused}");
    fleet.router().connection(&slug("acme")).await.unwrap();
}
