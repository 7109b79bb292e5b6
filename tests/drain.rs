//! Servers that are emptied, evened out and removed: nobody's request fails, nobody is forgotten, no rule gives way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tenantry::catalog::CatalogError;
use tenantry::catalog::lock::Claim;
use tenantry::catalog::operations::{OperationFilter, OperationRecord, OperationState};
use tenantry::catalog::servers::{Edit, ServerChange, ServerState};
use tenantry::catalog::tenants::NewTenant;
use tenantry::embedded::{EmbeddedPostgres, PostgresSettings};
use tenantry::operations::moves::Failed;
use tenantry::operations::removal::{RemovalError, Stock};
use tenantry::operations::runner::{Disturbance, StepPoint};
use tenantry::operations::upkeep;
use tenantry::router::{RouterSettings, TenantRouter};
use tenantry::tenant::moves::Destination;
use tenantry::tenant::{Label, TenantSettings};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::harness::replica::Replica;
use crate::harness::{BY, Fleet, connect, new_tenant, process, router_settings, slug};

/// Another server of the fleet, with nobody on it.
async fn add(fleet: &Fleet, name: &str) -> EmbeddedPostgres {
    let server = EmbeddedPostgres::start_scratch(PostgresSettings::scratch()).await.unwrap();
    let record = fleet.catalog().add_server(name, &server.url().into()).await.unwrap();
    fleet.environment.server(record.id).await.unwrap().prepare().await.unwrap();
    server
}

async fn create_on(fleet: &Fleet, name: &str, server: &str, fleet_settings: Value) {
    let settings = TenantSettings::parse(json!({ "fleet": fleet_settings })).unwrap();
    let new = NewTenant { settings, server: Some(server.to_owned()), ..new_tenant(name) };
    let asked = fleet.environment.create_tenant(&new, true, BY).await.unwrap();
    fleet.complete(&asked).await;
}

async fn hosted(fleet: &Fleet) -> BTreeMap<String, (i64, ServerState)> {
    let servers = fleet.catalog().servers().await.unwrap();
    servers.into_iter().map(|one| (one.name.clone(), (one.tenants, one.state()))).collect()
}

/// Drives a batch until nothing of it is open.
async fn settle(fleet: &Fleet, batch: Uuid) -> Vec<OperationRecord> {
    fleet.runner().complete_batch(batch, 4).await.unwrap();
    let filter =
        OperationFilter { batch: Some(batch), limit: i64::MAX, ..OperationFilter::default() };
    let found = fleet.catalog().operations(&filter).await.unwrap();
    found.into_iter().map(|(operation, _)| operation).collect()
}

/// Twenty tenants leave while all of them are asked without a pause; a worker dies in the middle of it.
#[tokio::test]
async fn a_server_is_emptied_under_load_and_no_request_fails() {
    let fleet = Fleet::start().await;
    let _others = [add(&fleet, "eu-2").await, add(&fleet, "eu-3").await];
    let slugs: Vec<String> = (0..20).map(|n| format!("t{n}")).collect();
    for name in &slugs {
        create_on(&fleet, name, "default", json!({})).await;
    }
    let ballast =
        "create table ballast as select repeat(md5(n::text), 30) from generate_series(1, 3000) n";
    fleet.admin("tenant_t7").await.batch_execute(ballast).await.unwrap();
    let settings =
        RouterSettings { pool_wait_timeout: Duration::from_mins(1), ..router_settings() };
    let router = TenantRouter::new(fleet.catalog().clone(), fleet.changes.clone(), settings);
    let running = Arc::new(AtomicBool::new(true));
    let mut clients = JoinSet::new();
    for name in &slugs {
        let (router, running, name) = (router.clone(), Arc::clone(&running), slug(name));
        clients.spawn(async move {
            let mut written = 0_i64;
            while running.load(Ordering::Relaxed) {
                let tenant = router.connection(&name).await.expect("requests wait");
                let sql = "insert into boards (title) values ('during')";
                written +=
                    i64::try_from(tenant.execute(sql, &[]).await.expect("none fails")).unwrap();
                tokio::time::sleep(Duration::from_millis(40)).await;
            }
            (name, written)
        });
    }

    let asked = fleet.environment.drain("default", &[], Failed::Retry).await.unwrap();
    let batch = asked.batch_id.unwrap();
    assert_eq!((asked.asked, asked.going.len(), asked.staying.len()), (20, 20, 0));
    assert_eq!(asked.going[0].tenant.as_str(), "t7", "the largest first");
    assert_eq!(hosted(&fleet).await["default"], (20, ServerState::Draining));
    // A worker dies over the third.
    let left = Arc::new(std::sync::atomic::AtomicI32::new(3));
    let dying = fleet.disturbed_runner(Arc::new(move |point: &StepPoint<'_>| {
        let hit = point.step == "move" && !point.done && left.fetch_sub(1, Ordering::SeqCst) == 1;
        if hit { Disturbance::Vanish } else { Disturbance::None }
    }));
    for _ in 0..3 {
        dying.run_one(Claim::Batch(batch)).await.unwrap();
    }
    // Whoever asks again finds the same batch, and asks for nothing twice.
    let again = fleet.environment.drain("default", &[], Failed::Retry).await.unwrap();
    assert_eq!((again.batch_id, again.asked, again.going.len()), (Some(batch), 0, 18));
    let operations = settle(&fleet, batch).await;

    assert_eq!(operations.len(), 20);
    assert!(operations.iter().all(|one| one.state == OperationState::Succeeded));
    let hosted = hosted(&fleet).await;
    assert_eq!(hosted["default"], (0, ServerState::Retired));
    assert_eq!((hosted["eu-2"].0, hosted["eu-3"].0), (10, 10), "spread as new tenants are");
    running.store(false, Ordering::Relaxed);
    for (name, written) in clients.join_all().await {
        let tenant = router.connection(&name).await.unwrap();
        let sql = "select count(*) from boards where title = 'during'";
        let found: i64 = tenant.query_one(sql, &[]).await.unwrap().get(0);
        assert_eq!(found, written, "{name} has all that was acknowledged, once");
    }
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn whom_no_rule_lets_go_is_told_of_and_stays_served() {
    let fleet = Fleet::start().await;
    let _eu_2 = add(&fleet, "eu-2").await;
    let eu =
        ServerChange { region: Edit::Set(Label::parse("eu").unwrap()), ..ServerChange::default() };
    fleet.catalog().change_server("default", &eu).await.unwrap();
    let small = ServerChange { max_tenants: Edit::Set(2), ..ServerChange::default() };
    fleet.catalog().change_server("eu-2", &small).await.unwrap();
    create_on(&fleet, "rival", "eu-2", json!({})).await;
    create_on(&fleet, "bound", "default", json!({ "region": "eu" })).await;
    create_on(&fleet, "apart", "default", json!({ "apart_from": ["rival"] })).await;
    create_on(&fleet, "free", "default", json!({})).await;
    let environment = &fleet.environment;

    let planned = environment.drain_plan("default", &[]).await.unwrap();
    assert_eq!(hosted(&fleet).await["default"].1, ServerState::Active, "a plan changes nothing");
    let moves = environment.drain("default", &[], Failed::Retry).await.unwrap();
    assert_eq!(planned.going.len(), moves.going.len());
    let why: BTreeMap<&str, &str> =
        moves.staying.iter().map(|one| (one.tenant.as_str(), one.why.as_str())).collect();
    assert_eq!(why.len(), 2, "{why:?}");
    assert!(why["bound"].contains("eu-2: it is in no region"), "{why:?}");
    assert!(why["apart"].contains("it has rival"), "{why:?}");

    // The place is taken although nobody is there yet.
    let named = NewTenant { server: Some("eu-2".to_owned()), ..new_tenant("newcomer") };
    let refused = environment.create_tenant(&named, false, BY).await.unwrap_err();
    assert!(refused.to_string().contains("it is full"), "{refused}");
    // Whoever fails to go is served where it was.
    let operation = moves.going[0].operation_id.unwrap();
    let going = moves.going[0].tenant.clone();
    let failed = fleet.disturbed_runner(Arc::new(|_: &StepPoint<'_>| Disturbance::Fail));
    assert_eq!(failed.complete(operation).await.unwrap().state, OperationState::Failed);
    for name in ["bound", "apart", "free"] {
        fleet.router().connection(&slug(name)).await.unwrap();
    }
    let left = environment.drain("default", &[], Failed::Leave).await.unwrap();
    assert_eq!((left.asked, left.staying.len()), (0, 3));
    let told = left.staying.iter().find(|one| one.tenant == going).unwrap();
    assert!(
        told.why.contains("its relocation failed") && told.why.contains(&operation.to_string()),
        "{}",
        told.why
    );

    let again = environment.drain("default", &[], Failed::Retry).await.unwrap();
    assert_eq!((again.asked, again.going.len()), (1, 1));
    assert_eq!(fleet.catalog().operation(operation).await.unwrap().state, OperationState::Queued);
    // Whoever ends the drain ends what has not begun.
    let open = ServerChange { cordoned: Edit::Clear, ..ServerChange::default() };
    let (record, batch) = environment.change_server("default", &open).await.unwrap();
    assert_eq!((record.state(), batch), (ServerState::Active, moves.batch_id));
    let given_up = fleet.catalog().operation(operation).await.unwrap();
    assert!(given_up.abandoning, "{given_up:?}");
}

#[tokio::test]
async fn a_drain_goes_only_where_it_is_told() {
    let fleet = Fleet::start().await;
    let _others = [add(&fleet, "eu-2").await, add(&fleet, "us-1").await];
    let us =
        ServerChange { region: Edit::Set(Label::parse("us").unwrap()), ..ServerChange::default() };
    fleet.catalog().change_server("us-1", &us).await.unwrap();
    for name in ["acme", "globex"] {
        create_on(&fleet, name, "default", json!({})).await;
    }
    let to = |text: &str| [Destination::parse(text).unwrap()];

    let eu = fleet.environment.drain_plan("default", &to("eu-2")).await.unwrap();
    assert!(eu.going.iter().all(|going| going.to == "eu-2") && eu.going.len() == 2);
    let us = fleet.environment.drain_plan("default", &to("region=us")).await.unwrap();
    assert!(us.going.iter().all(|going| going.to == "us-1") && us.going.len() == 2);
    let key = Label::parse("disk").unwrap();
    let tags = [(key.clone(), Some(Label::parse("nvme").unwrap()))].into();
    let fast = ServerChange { tags, ..ServerChange::default() };
    fleet.catalog().change_server("eu-2", &fast).await.unwrap();
    for named in ["disk=nvme", "tag=disk"] {
        let plan = fleet.environment.drain_plan("default", &to(named)).await.unwrap();
        assert!(
            plan.going.iter().all(|going| going.to == "eu-2") && plan.going.len() == 2,
            "{named}"
        );
    }
    let tape = fleet.environment.drain_plan("default", &to("disk=tape")).await.unwrap();
    assert_eq!(tape.staying.len(), 2);
    let nowhere = fleet.environment.drain_plan("default", &to("default")).await.unwrap();
    assert!(nowhere.staying[0].why.contains("there is no such other server"));
    let missing = fleet.environment.drain("eu-9", &[], Failed::Retry).await.unwrap_err();
    assert!(matches!(missing, CatalogError::Missing { what: "server", .. }), "{missing}");
}

#[tokio::test]
async fn a_server_is_removed_once_nothing_of_ours_is_on_it() {
    let fleet = Fleet::start().await;
    let old = add(&fleet, "old").await;
    upkeep::tend(&fleet.environment).await.unwrap();
    create_on(&fleet, "acme", "old", json!({})).await;
    create_on(&fleet, "gone", "old", json!({})).await;
    fleet.back_up("gone").await;
    let gone = fleet.tenant("gone").await.id;
    let asked = fleet.environment.delete(&slug("gone"), true, BY).await.unwrap();
    fleet.complete(&asked).await;
    let refused = async |stock, drop_kept| {
        let error = fleet.environment.remove_server("old", stock, drop_kept).await.unwrap_err();
        assert!(matches!(error, RemovalError::Catalog(CatalogError::Conflict(_))), "{error}");
        error.to_string()
    };

    let said = refused(Stock::Refuse, false).await;
    for part in [
        "1 tenant (acme): `tenantry server drain old`",
        "1 template and 0 spares of ours",
        "--clean",
    ] {
        assert!(said.contains(part), "{said}");
    }
    assert!(!refused(Stock::Drop, false).await.contains("template"));
    let moves = fleet.environment.drain("old", &[], Failed::Retry).await.unwrap();
    let said = refused(Stock::Drop, false).await;
    assert!(said.contains("1 operation that names it") || said.contains("1 tenant"), "{said}");
    settle(&fleet, moves.batch_id.unwrap()).await;
    let said = refused(Stock::Drop, false).await;
    assert!(said.contains("1 database that tenants have left, kept until"), "{said}");
    let removed = fleet.environment.remove_server("old", Stock::Drop, true).await.unwrap();

    assert_eq!((removed.dropped.len(), removed.roles_left.len()), (2, 0), "{removed:?}");
    assert_eq!(hosted(&fleet).await.into_keys().collect::<Vec<_>>(), ["default"]);
    let left = "select datname::text from pg_database where datname ~ '^tenant'
                union all select rolname::text from pg_roles where rolname ~ '^tenant'";
    let left = connect(&old.url()).await.unwrap().query(left, &[]).await.unwrap();
    assert!(
        left.is_empty(),
        "{:?}",
        left.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>()
    );
    let deleted = fleet.catalog().tenant_by_id(gone).await.unwrap();
    assert_eq!((&*deleted.server_name, deleted.server_id), ("(removed)", Uuid::nil()));
    // What it left in the bucket can still be destroyed, restored, and deleted for good.
    let keys = fleet.environment.destroy_backup_keys(&slug("gone"), BY).await.unwrap();
    fleet.complete(&keys).await;
    fleet.router().connection(&slug("acme")).await.unwrap();
    fleet.assert_healthy().await;
    let back = fleet.catalog().add_server("old", &old.url().into()).await.unwrap();
    fleet.environment.server(back.id).await.unwrap().prepare().await.unwrap();
    create_on(&fleet, "globex", "old", json!({})).await;
    fleet.assert_healthy().await;
}

/// A server that is gone for good is forgotten; nobody is placed there at the last moment.
#[tokio::test]
async fn a_dead_server_can_be_removed_and_a_race_with_a_new_tenant_loses_nobody() {
    let fleet = Fleet::start().await;
    for round in 0..5 {
        let name = format!("dead-{round}");
        let url = format!("postgres://admin@127.0.0.1:{}/postgres", round + 1);
        fleet.catalog().add_server(&name, &url.into()).await.unwrap();
        let named = NewTenant { server: Some(name.clone()), ..new_tenant(&format!("t{round}")) };

        let (created, removed) = tokio::join!(
            fleet.environment.create_tenant(&named, false, BY),
            fleet.environment.remove_server(&name, Stock::Leave, false),
        );

        assert!(created.is_ok() != removed.is_ok(), "{created:?} {removed:?}");
        let is_there = fleet.catalog().server_by_name(&name).await.is_ok();
        assert_eq!(is_there, created.is_ok());
    }
}

#[tokio::test]
async fn servers_are_evened_out_by_rules_first_and_numbers_then() {
    let fleet = Fleet::start().await;
    let _eu_2 = add(&fleet, "eu-2").await;
    let eu =
        ServerChange { region: Edit::Set(Label::parse("eu").unwrap()), ..ServerChange::default() };
    fleet.catalog().change_server("eu-2", &eu).await.unwrap();
    for name in ["a", "b", "c", "d", "e"] {
        create_on(&fleet, name, "default", json!({})).await;
    }
    create_on(&fleet, "bound", "eu-2", json!({ "region": "eu" })).await;
    let ballast =
        "create table ballast as select repeat(md5(n::text), 30) from generate_series(1, 9000) n";
    fleet.admin("tenant_a").await.batch_execute(ballast).await.unwrap();

    let plan = fleet.environment.rebalance_plan().await.unwrap();

    // Five beside one: two go, and not the large one.
    let going: Vec<&str> = plan.going.iter().map(|one| one.tenant.as_str()).collect();
    assert_eq!((going.len(), going.contains(&"a"), plan.batch_id), (2, false, None), "{going:?}");
    assert!(plan.going.iter().all(|one| one.bytes.is_some() && one.pause_seconds.is_some()));
    let moves = fleet.environment.rebalance().await.unwrap();
    let again = fleet.environment.rebalance().await.unwrap();
    assert_eq!((moves.asked, again.asked), (2, 0), "those on their way count");
    settle(&fleet, moves.batch_id.unwrap()).await;
    let hosted = hosted(&fleet).await;
    assert_eq!((hosted["default"].0, hosted["eu-2"].0), (3, 3));
    assert!(fleet.environment.rebalance_plan().await.unwrap().going.is_empty());
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn operators_drain_and_remove_on_the_command_line_and_over_http() {
    let replica = Replica::start().await;
    let _eu_2 = add(&replica.fleet, "eu-2").await;
    for name in ["acme", "globex"] {
        create_on(&replica.fleet, name, "default", json!({})).await;
    }
    let run = |arguments: &[&str]| {
        let mut command = process::command(&replica.fleet);
        let output = command
            .arg("server")
            .args(arguments)
            .args(["--output-format", "json"])
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), serde_json::from_str::<Value>(&text).unwrap_or(json!(said)))
    };

    let (status, plan) = run(&["drain", "default", "--plan"]);
    assert_eq!((status, plan["going"].as_array().map(Vec::len)), (Some(0), Some(2)), "{plan}");
    assert_eq!(run(&["drain", "default"]).0, Some(4), "not without a word");
    let (status, drained) =
        run(&["drain", "default", "--to", "eu-2", "--yes", "--concurrency", "2"]);
    assert_eq!((status, &drained["server"]["state"]), (Some(0), &json!("retired")), "{drained}");
    assert_eq!((&drained["moved"], &drained["staying"]), (&json!(2), &json!([])), "{drained}");
    assert_eq!(run(&["drain", "default", "--to", "colour=Red", "--yes"]).0, Some(2));
    let (status, listed) = run(&["list"]);
    assert_eq!(
        (status, &listed[0]["state"], &listed[1]["state"]),
        (Some(0), &json!("retired"), &json!("active"))
    );
    let (status, said) = run(&["remove", "eu-2", "--yes"]);
    assert!(status == Some(4) && said.to_string().contains("2 tenants (acme, globex)"), "{said}");
    let (status, server) = run(&["uncordon", "default"]);
    assert_eq!((status, &server["state"]), (Some(0), &json!("active")), "{server}");

    let (status, plan) =
        replica.call(Method::GET, "/api/servers/eu-2/drain?to=default", None).await;
    assert_eq!((status.as_u16(), &plan["going"][0]["to"]), (200, &json!("default")), "{plan}");
    let (status, moves) = replica.call(Method::POST, "/api/servers/eu-2/drain", None).await;
    assert_eq!(
        (status.as_u16(), moves["going"].as_array().map(Vec::len)),
        (202, Some(2)),
        "{moves}"
    );
    for going in moves["going"].as_array().unwrap() {
        replica.settle(&json!({ "id": going["operation_id"] })).await;
    }
    let refused = replica.call(Method::DELETE, "/api/servers/eu-2", None).await;
    assert_eq!(refused.0.as_u16(), 409, "{}", refused.1);
    let path = "/api/servers/eu-2?stock=drop&drop_kept=true";
    let (status, removed) = replica.call(Method::DELETE, path, None).await;
    assert_eq!((status.as_u16(), &removed["server"]), (200, &json!("eu-2")), "{removed}");
    let (status, none) = replica.call(Method::GET, "/api/rebalance", None).await;
    assert_eq!((status.as_u16(), &none["going"]), (200, &json!([])), "{none}");
    for (method, path, expected) in [
        (Method::DELETE, "/api/servers/eu-2", 404),
        (Method::GET, "/api/servers/default/drain?to=colour%3DRed", 422),
        (Method::POST, "/api/servers/nowhere/drain", 404),
        (Method::DELETE, "/api/servers/default?stock=sell", 422),
    ] {
        let (status, answer) = replica.call(method, path, None).await;
        assert_eq!(status.as_u16(), expected, "{path}: {answer}");
    }
}
