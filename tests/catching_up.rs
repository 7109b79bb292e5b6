//! Tenants that are brought up to date without anybody asking: when they are used, and in the background.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tenantry::catalog::catching_up::CatchUpMode;
use tenantry::catalog::changes::Change;
use tenantry::catalog::lock::Claim;
use tenantry::catalog::operations::OperationState;
use tenantry::operations::catching_up::CatchingUpWorker;
use tenantry::operations::rollouts::RolloutPlan;
use tenantry::operations::{Environment, Runner, upkeep};
use tenantry::router::{RouterSettings, TenantRouter};
use tenantry::worker::Worker;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use crate::harness::process::command;
use crate::harness::{Fleet, eventually, router_settings, slug};

const LABELS: &str = "create table labels (id bigint primary key);";
/// Refused where a board is called Welcome, as in the sample data.
const PICKY: &str = "alter table boards add constraint none check (title <> 'Welcome');";

fn environment(fleet: &Fleet, mode: CatchUpMode) -> Environment {
    let mut environment = fleet.environment.clone();
    environment.limits.catch_up = Some(mode);
    environment
}

/// A worker that knows a new file; the template has been made with it.
async fn worker(fleet: &Fleet, mode: CatchUpMode, name: &str, sql: &str) -> CatchingUpWorker {
    fleet.add_migration(name, sql);
    let environment = environment(fleet, mode);
    environment.reload_migrations().await.unwrap();
    upkeep::tend(&environment).await.unwrap();
    let mut worker = CatchingUpWorker::new(environment).unwrap();
    worker.look().await.unwrap();
    worker
}

/// Drives whatever comes, until the guard is dropped.
fn drive(fleet: &Fleet) -> DropGuard {
    let stop = CancellationToken::new();
    let runner = Runner::new(fleet.environment.clone(), stop.clone());
    let changes = fleet.changes.clone();
    tokio::spawn(async move { runner.work(2, &changes).await });
    stop.drop_guard()
}

fn router(fleet: &Fleet, wait: Duration) -> TenantRouter {
    let settings = RouterSettings {
        migrates_on_demand: true,
        pool_wait_timeout: wait,
        route_ttl: Duration::from_millis(200),
        ..router_settings()
    };
    TenantRouter::new(fleet.catalog().clone(), fleet.changes.clone(), settings)
}

async fn has(router: &TenantRouter, name: &str, version: i64) -> bool {
    router.connection(&slug(name)).await.unwrap().has_migration(version)
}

async fn version(fleet: &Fleet, name: &str) -> i64 {
    fleet.tenant(name).await.schema_version
}

async fn ask(fleet: &Fleet, sql: &str) -> i64 {
    fleet.admin("tenantry").await.query_one(sql, &[]).await.unwrap().get(0)
}

async fn migrations(fleet: &Fleet) -> i64 {
    ask(fleet, "select count(*) from operations where kind = 'migrate'").await
}

async fn status(fleet: &Fleet, line: &str) -> String {
    let mut command = command(fleet);
    command.args(line.split(' '));
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn a_tenant_that_is_used_is_migrated_first_once_for_all_who_wait() {
    let fleet = Fleet::start().await;
    for name in ["acme", "globex"] {
        fleet.create_tenant(name).await;
    }
    let routers = [(); 3].map(|()| router(&fleet, Duration::from_secs(10)));
    for router in &routers {
        assert!(!has(router, "acme", 2).await, "nobody is behind yet");
    }
    let slow = format!("{LABELS} select pg_sleep(0.3);");
    worker(&fleet, CatchUpMode::OnDemand, "V2__labels.sql", &slow).await;
    let _driven = drive(&fleet);
    let acme = slug("acme");

    // They took it to be up to date, and hear that it is not.
    eventually("it is migrated", async || has(&routers[0], "acme", 2).await).await;
    let uses = (0..30).map(|number| routers[number % 3].connection(&acme));
    for connection in join_all(uses).await {
        let connection = connection.unwrap();
        assert!(connection.has_migration(2));
        connection.query("select * from labels", &[]).await.unwrap();
    }

    assert_eq!(migrations(&fleet).await, 1);
    assert_eq!(version(&fleet, "globex").await, 1, "nobody has used it");
    let uses = (0..30).map(|number| routers[number % 3].connection(&acme));
    join_all(uses).await;
    assert_eq!(migrations(&fleet).await, 1);
    let globex = slug("globex");
    let uses = (0..30).map(|number| routers[number % 3].connection(&globex));
    for connection in join_all(uses).await {
        assert!(connection.unwrap().has_migration(2), "whoever comes first waits");
    }
    assert_eq!(migrations(&fleet).await, 2);
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn a_tenant_whose_migration_fails_is_served_and_tried_again_after_a_growing_pause() {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    worker(&fleet, CatchUpMode::OnDemand, "V2__picky.sql", PICKY).await;
    let _driven = drive(&fleet);
    let router = router(&fleet, Duration::from_secs(10));
    let past = async |minutes: i64| {
        let sql = format!(
            "update operations set finished_at = finished_at - interval '{minutes} minutes'"
        );
        fleet.admin("tenantry").await.batch_execute(&sql).await.unwrap();
        // Longer than a route is remembered.
        tokio::time::sleep(Duration::from_millis(300)).await;
    };

    for expected in [1, 1] {
        let connection = router.connection(&slug("acme")).await.unwrap();
        connection.query("select * from boards", &[]).await.unwrap();
        assert!(!connection.has_migration(2));
        assert_eq!(migrations(&fleet).await, expected);
        past(0).await;
    }
    for (minutes, expected) in [(2, 2), (1, 2), (2, 3), (3, 3), (2, 4)] {
        past(minutes).await;
        assert!(!has(&router, "acme", 2).await);
        assert_eq!(migrations(&fleet).await, expected, "after {minutes} minutes");
    }
    let shown = status(&fleet, "migrate status --detail --output-format json").await;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let how = json!({ "mode": "on-demand", "version": 2, "failed": 1, "is_stopped": false });
    assert_eq!(shown["catching_up"], how);
    assert_eq!(shown["tenants"][0]["status"], "failed");
    assert!(shown["tenants"][0]["error"].as_str().unwrap().contains("V2__picky.sql"), "{shown:#}");

    fleet.admin("tenant_acme").await.batch_execute("update boards set title = 'x'").await.unwrap();
    past(60).await;
    assert!(has(&router, "acme", 2).await);
    assert_eq!(ask(&fleet, "select failed from catching_up").await, 0);
}

#[tokio::test]
async fn a_long_migration_and_no_worker_at_all_keep_nobody_away() {
    let fleet = Fleet::start().await;
    for name in ["acme", "globex"] {
        fleet.create_tenant(name).await;
    }
    let slow = format!("{LABELS} select pg_sleep(6);");
    worker(&fleet, CatchUpMode::OnDemand, "V2__slow.sql", &slow).await;
    let router = router(&fleet, Duration::from_secs(4));
    let use_it = async |name: &str| {
        let began = Instant::now();
        let connection = router.connection(&slug(name)).await.unwrap();
        connection.query("select * from boards", &[]).await.unwrap();
        (connection.has_migration(2), began.elapsed())
    };

    let (has_it, waited) = use_it("acme").await;
    assert!(!has_it && waited >= Duration::from_millis(2900), "{waited:?}");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (has_it, waited) = use_it("acme").await;
    assert!(!has_it && waited < Duration::from_millis(2900), "once is enough: {waited:?}");

    let _driven = drive(&fleet);
    let (has_it, waited) = use_it("globex").await;
    assert!(!has_it && waited >= Duration::from_millis(2900), "{waited:?}");
    eventually("both are migrated", async || use_it("acme").await.0 && use_it("globex").await.0)
        .await;
    assert_eq!(migrations(&fleet).await, 2);

    // The last worker is long gone: nobody waits for its files.
    fleet.add_migration("V3__notes.sql", "create table notes (id bigint primary key);");
    worker(&fleet, CatchUpMode::OnDemand, "V4__more.sql", "select 1").await;
    let admin = fleet.admin("tenantry").await;
    admin
        .batch_execute("update wanted_schemas set seen_at = now() - interval '2 minutes'")
        .await
        .unwrap();
    let (_, waited) = use_it("acme").await;
    assert!(waited < Duration::from_millis(2900), "{waited:?}");
    assert_eq!(migrations(&fleet).await, 2);
}

#[tokio::test]
async fn a_rollout_a_freeze_and_files_that_do_not_run_migrate_nobody_on_demand() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let mut worker = worker(&fleet, CatchUpMode::OnDemand, "V2__labels.sql", LABELS).await;
    let _driven = drive(&fleet);
    // With routes that live long: it must hear of whatever changes who is behind.
    let settings = RouterSettings { migrates_on_demand: true, ..router_settings() };
    let router = TenantRouter::new(fleet.catalog().clone(), fleet.changes.clone(), settings);
    let mut use_it = async || {
        worker.look().await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        has(&router, "acme", 2).await
    };

    fleet.environment.freeze_at(1, "test").await.unwrap();
    assert!(!use_it().await, "frozen");
    let plan = RolloutPlan { tenants: vec![slug("acme")], ..RolloutPlan::default() };
    fleet.catalog().unfreeze("test").await.unwrap();
    let rollout = fleet.environment.start_rollout(&plan, "test").await.unwrap().unwrap();
    assert!(!use_it().await, "a rollout is open");
    fleet.catalog().abort_rollout(rollout.id, "test").await.unwrap();
    let template = "update templates set ready = false where version = 2";
    fleet.admin("tenantry").await.batch_execute(template).await.unwrap();
    assert!(!use_it().await, "they have run in no template");
    assert_eq!(migrations(&fleet).await, 0);

    upkeep::tend(&fleet.environment).await.unwrap();
    eventually("it is migrated", async || use_it().await).await;
}

/// Routers forget every route when they hear of one.
#[tokio::test]
async fn a_template_that_stands_is_no_news() {
    let fleet = Fleet::start().await;
    worker(&fleet, CatchUpMode::OnDemand, "V2__labels.sql", LABELS).await;
    let (admin, mut news) = (fleet.admin("tenantry").await, fleet.changes.subscribe());
    let mut told = async || {
        let mark = Uuid::now_v7();
        let tell = format!("select pg_notify('tenantry_rollouts', '{mark}')");
        admin.batch_execute(&tell).await.unwrap();
        let mut told = 0;
        loop {
            match news.next().await {
                Change::Migrations => told += 1,
                Change::Rollout(id) if id == mark => return told,
                _ => {}
            }
        }
    };
    told().await;

    for _ in 0..2 {
        upkeep::tend(&fleet.environment).await.unwrap();
    }
    let again = "update templates set ready = ready, timings = timings";
    admin.batch_execute(again).await.unwrap();
    assert_eq!(told().await, 0);
    admin.batch_execute("update templates set ready = false where version = 2").await.unwrap();
    upkeep::tend(&fleet.environment).await.unwrap();

    assert_eq!(told().await, 1, "now it stands again");
}

#[tokio::test]
async fn in_the_background_all_are_migrated_one_at_a_time_and_after_everything_else() {
    let fleet = Fleet::start().await;
    let names = ["acme", "globex", "hooli"];
    for name in names {
        fleet.create_tenant(name).await;
    }
    let mut worker = worker(&fleet, CatchUpMode::Background, "V2__labels.sql", LABELS).await;
    let open = "select count(*) from operations where state in ('queued', 'running')";

    assert_eq!(ask(&fleet, open).await, 1, "one of each server");
    worker.look().await.unwrap();
    assert_eq!(ask(&fleet, open).await, 1);
    let made = crate::harness::new_tenant("umbrella");
    let by = crate::harness::BY;
    let made = fleet.environment.create_tenant(&made, false, by).await.unwrap();
    let first = fleet.runner().run_one(Claim::Any).await.unwrap();
    assert_eq!(first, Some(made.id), "whoever was asked for comes first");
    let plan = RolloutPlan { tenants: vec![slug("acme")], ..RolloutPlan::default() };
    let rollout = fleet.environment.start_rollout(&plan, "test").await.unwrap().unwrap();
    assert_eq!(fleet.runner().run_one(Claim::Any).await.unwrap(), None, "a rollout is open");
    fleet.catalog().abort_rollout(rollout.id, "test").await.unwrap();

    let stop = CancellationToken::new();
    let environment = environment(&fleet, CatchUpMode::Background);
    tokio::spawn(Worker::new(environment, fleet.changes.clone(), 2).run(stop.clone()));
    eventually("all are migrated", async || {
        let mut done = true;
        for name in names {
            done &= version(&fleet, name).await == 2;
        }
        done
    })
    .await;
    stop.cancel();
    assert_eq!(migrations(&fleet).await, 3);
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn three_failures_in_a_row_stop_the_background_until_one_is_mended() {
    let fleet = Fleet::start().await;
    for number in 0..5 {
        fleet.create_tenant_with(&format!("tenant-{number}"), true).await;
    }
    let mut worker = worker(&fleet, CatchUpMode::Background, "V2__picky.sql", PICKY).await;
    let mut turns = async || {
        for _ in 0..8 {
            worker.look().await.unwrap();
            fleet.runner().run_one(Claim::Any).await.unwrap();
        }
    };

    turns().await;
    assert_eq!(migrations(&fleet).await, 3);
    let shown = status(&fleet, "migrate status").await;
    assert!(shown.contains("in the background: 3 failed, and nobody else is taken"), "{shown}");

    let failed = "select id from operations where state = 'failed' limit 1";
    let failed = fleet.admin("tenantry").await.query_one(failed, &[]).await.unwrap().get(0);
    let tenant = fleet.catalog().operation(failed).await.unwrap().tenant_id;
    let mended = fleet.catalog().tenant_by_id(tenant).await.unwrap();
    let admin = fleet.admin(&format!("tenant_{}", mended.slug)).await;
    admin.batch_execute("update boards set title = 'x'").await.unwrap();
    fleet.catalog().retry(failed).await.unwrap();
    turns().await;

    assert_eq!(fleet.catalog().operation(failed).await.unwrap().state, OperationState::Succeeded);
    assert_eq!(migrations(&fleet).await, 5, "it went on with the others");
}

#[tokio::test]
async fn what_waits_for_files_that_nobody_has_any_more_is_cancelled() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    worker(&fleet, CatchUpMode::Background, "V2__labels.sql", LABELS).await;
    let admin = fleet.admin("tenantry").await;
    admin
        .batch_execute("update wanted_schemas set seen_at = now() - interval '2 minutes'")
        .await
        .unwrap();

    let mut newer = worker(&fleet, CatchUpMode::Background, "V3__notes.sql", "select 1").await;
    newer.look().await.unwrap();
    while fleet.runner().run_one(Claim::Any).await.unwrap().is_some() {}

    assert_eq!(ask(&fleet, "select count(*) from operations where state = 'cancelled'").await, 1);
    assert_eq!(version(&fleet, "acme").await, 3);
}
