//! Metering: what tenants use is counted once, whoever serves them, and written down.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use reqwest::StatusCode;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tenantry::catalog::tokens::Scope;
use tenantry::catalog::usage::{Counted, Usage, UsageFilter};
use tenantry::router::{RouterSettings, TenantRouter};
use tenantry::sql::SqlSettings;
use uuid::Uuid;

use crate::cli::Cli;
use crate::harness::process::Serving;
use crate::harness::replica::Replica;
use crate::harness::{Fleet, eventually, router_settings, slug};
use crate::sql::Sql;

fn today() -> Date {
    Timestamp::now().to_zoned(TimeZone::UTC).date()
}

/// What a tenant has used, over all days: midnight may come.
async fn used(fleet: &Fleet, tenant: &str) -> Vec<Usage> {
    let filter = UsageFilter { tenant: Some(slug(tenant)), limit: 100, ..UsageFilter::default() };
    fleet.catalog().usage(&filter).await.unwrap()
}

async fn queries(fleet: &Fleet, tenant: &str) -> i64 {
    used(fleet, tenant).await.iter().map(|usage| usage.queries).sum()
}

fn router(fleet: &Fleet, meter_interval: Duration) -> TenantRouter {
    let settings = RouterSettings { meter_interval, ..router_settings() };
    TenantRouter::new(fleet.catalog().clone(), fleet.changes.clone(), settings)
}

#[tokio::test]
async fn statements_of_applications_are_counted_once_over_replicas() {
    let fleet = Fleet::start().await;
    for name in ["acme", "globex"] {
        fleet.create_tenant(name).await;
    }
    let hour = Duration::from_hours(1);
    let routers = [router(&fleet, hour), router(&fleet, hour)];

    for router in &routers {
        let mut connection = router.connection(&slug("acme")).await.unwrap();
        for _ in 0..3 {
            connection.query_one("select 1", &[]).await.unwrap();
        }
        let transaction = connection.transaction().await.unwrap();
        transaction.query("select 2", &[]).await.unwrap();
        transaction.commit().await.unwrap();
    }
    let reader = routers[0].read_only(&slug("globex")).await.unwrap();
    reader.query("select 1", &[]).await.unwrap();
    drop(reader);
    assert_eq!(queries(&fleet, "acme").await, 0, "nothing is told on the way of a request");

    // A router that is closed tells what it has counted.
    routers[0].close().await;
    assert_eq!((queries(&fleet, "acme").await, queries(&fleet, "globex").await), (4, 1));
    routers[1].close().await;
    routers[1].close().await;
    assert_eq!((queries(&fleet, "acme").await, queries(&fleet, "globex").await), (8, 1));
}

#[tokio::test]
async fn sql_over_http_and_open_connections_are_counted() {
    let settings =
        RouterSettings { meter_interval: Duration::from_millis(100), ..router_settings() };
    let sql = Sql::start_with(SqlSettings::default(), settings).await;
    let rows = "select n, 'x' as x from generate_series(1, 50) n";
    let heard = sql.query(rows).await;
    assert_eq!(heard.status, StatusCode::OK);
    let batch = json!({ "queries": [{ "query": "select 1" }, { "query": "select 2" }] });
    assert_eq!(sql.ask("acme", batch).await.status, StatusCode::OK);
    assert_ne!(sql.query("select nothing").await.status, StatusCode::OK);

    let fleet = &sql.fleet;
    eventually("it is told", async || queries(fleet, "acme").await == 4).await;
    let bytes = heard.body.to_string().len();
    let used_now = used(fleet, "acme").await;
    assert_eq!(used_now.iter().map(|usage| usage.sql_rows).sum::<i64>(), 52);
    let sql_bytes: i64 = used_now.iter().map(|usage| usage.sql_bytes).sum();
    assert!(sql_bytes > i64::try_from(bytes).unwrap(), "{sql_bytes} of {bytes}");
    // One session lies idle, and is looked at every second.
    let seconds = async || -> f64 {
        used(fleet, "acme").await.iter().map(|usage| usage.connection_seconds).sum()
    };
    eventually("a second has passed", async || seconds().await >= 1.0).await;
    assert!(seconds().await < 60.0);
    assert!(used(fleet, "globex").await.is_empty(), "who uses nothing has no row");
}

#[tokio::test]
async fn a_replica_that_is_told_to_stop_tells_first_what_it_has_counted() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let token = fleet.catalog().create_token("app", &[Scope::Data]).await.unwrap();
    let mut serving = Serving::start(&fleet);
    let public = serving.address("the data plane").await;
    for _ in 0..5 {
        let asked = reqwest::Client::new()
            .post(format!("{public}/sql"))
            .bearer_auth(token.expose_secret())
            .header("X-Tenant", "acme")
            .json(&json!({ "query": "select 1" }));
        assert_eq!(asked.send().await.unwrap().status(), StatusCode::OK);
    }
    assert_eq!(queries(&fleet, "acme").await, 0, "a minute has not passed");

    let (status, _) = serving.terminate().await;

    assert!(status.success());
    assert_eq!(queries(&fleet, "acme").await, 5);
}

#[tokio::test]
async fn the_time_that_statements_run_is_counted_once_whatever_the_server_forgets() {
    let fleet = Fleet::start().await;
    for name in ["acme", "globex"] {
        fleet.create_tenant(name).await;
    }
    let active = async |tenant: &str| -> f64 {
        fleet.environment.measure_databases().await.unwrap();
        used(&fleet, tenant).await.iter().map(|usage| usage.active_seconds).sum()
    };
    let sleep = async || -> f64 {
        let client = fleet.admin("tenant_acme").await;
        let began = Instant::now();
        client.query("select pg_sleep(1)", &[]).await.unwrap();
        began.elapsed().as_secs_f64()
    };
    assert!(active("acme").await.abs() < 1e-9, "of the time before nothing is known");

    let once = sleep().await;
    // A backend tells at its end what it has counted.
    eventually("it is counted", async || active("acme").await >= 1.0).await;
    assert!(active("acme").await < once + 0.9, "and once, however often one looks");
    assert!(active("globex").await < 0.5);

    let reset = "select pg_stat_reset()";
    fleet.admin("tenant_acme").await.batch_execute(reset).await.unwrap();
    let twice = once + sleep().await;
    eventually("the server counts anew", async || active("acme").await >= 2.0).await;
    assert!(active("acme").await < twice + 0.9);
}

#[tokio::test]
async fn a_note_that_comes_twice_is_added_once() {
    let fleet = Fleet::start().await;
    let tenant = fleet.create_tenant("acme").await.id;
    let (catalog, replica, today) = (fleet.catalog(), Uuid::now_v7(), today());
    let counted =
        Counted { tenant, queries: 5, connection_seconds: 1.5, sql_rows: 2, sql_bytes: 3 };
    let unknown = Counted { tenant: Uuid::now_v7(), ..counted };

    for number in [1, 1, 2, 2, 1] {
        catalog.add_usage(replica, number, today, &[counted, unknown]).await.unwrap();
    }
    catalog.add_usage(Uuid::now_v7(), 1, today, &[counted]).await.unwrap();

    let found = used(&fleet, "acme").await;
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].queries, found[0].sql_rows, found[0].sql_bytes), (15, 6, 9));
    assert!((found[0].connection_seconds - 4.5).abs() < 1e-9);
}

#[tokio::test]
async fn sizes_and_backups_are_in_the_table_the_export_and_the_api() {
    let replica = Replica::start().await;
    let fleet = &replica.fleet;
    replica.create("acme").await;
    replica.create("globex").await;
    fleet.back_up("acme").await;
    fleet.environment.measure_databases().await.unwrap();
    let before = used(fleet, "acme").await[0].database_bytes.unwrap();
    fleet
        .admin("tenant_acme")
        .await
        .batch_execute(
            "create table big as select repeat(n::text, 500) from generate_series(1, 5000) n",
        )
        .await
        .unwrap();
    fleet.environment.measure_databases().await.unwrap();
    fleet.admin("tenant_acme").await.batch_execute("drop table big").await.unwrap();
    fleet.environment.measure_databases().await.unwrap();

    let backups = fleet.backups_of("acme").await;
    let (_, listed) = replica.get("/api/setup/tenants/acme/usage").await;
    let own = listed["usage"].as_array().unwrap();
    let sum = |name: &str| own.iter().map(|day| day[name].as_i64().unwrap()).sum::<i64>();
    assert_eq!(sum("backups"), 1);
    assert_eq!(sum("backup_bytes"), backups[0].dump_bytes);
    assert!(own[0]["largest_database_bytes"].as_i64().unwrap() > before, "{listed}");
    assert!(own[0]["database_bytes"].as_i64() < own[0]["largest_database_bytes"].as_i64());
    assert_eq!(replica.get("/api/setup/tenants/nobody/usage").await.0, StatusCode::NOT_FOUND);

    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let (status, page) = replica.get(&format!("/api/usage?limit=1{after}")).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        seen.extend(page["usage"].as_array().unwrap().iter().map(|u| u["tenant_slug"].clone()));
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert!(seen.contains(&json!("acme")) && seen.contains(&json!("globex")), "{seen:?}");
    let (status, _) = replica.get("/api/usage?after=there").await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);

    let cli = Cli::new(fleet);
    let run = async |line: &str| {
        let output = cli.run(line).await;
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(run("usage --tenant acme").await.contains("MiB"));
    let csv = run("usage --csv").await;
    assert!(csv.starts_with("day,tenant_slug,") && csv.contains(",globex,"), "{csv}");
    let line = run("usage --tenant globex --output-format json").await;
    let day: Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
    assert_eq!(day["tenant_slug"], "globex");
    assert!(run("usage --to 2000-01-01").await.contains("Nothing was used"));
    cli.refused("usage --tenant nobody", 1, "there is no tenant").await;
}
