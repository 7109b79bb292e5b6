//! What a tenant may use, said by itself or by its tier: in force in every replica, changed at run time, and
//! never at the expense of a neighbour.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::Request;
use axum::routing::get;
use reqwest::StatusCode;
use reqwest::header::RETRY_AFTER;
use serde_json::{Value, json};
use tenantry::resolve::SingleTenant;
use tenantry::router::{RouterError, RouterSettings, TenantRouter};
use tenantry::sql::SqlSettings;
use tenantry::tenant::Tier;
use tenantry::tenant::settings::{SettingsPath, SettingsRules};
use tenantry::{Tenancy, TenantConnection};
use tokio::task::JoinSet;
use tower::ServiceExt as _;

use crate::harness::{BY, Fleet, eventually, new_tenant, router_settings, slug};
use crate::sql::Sql;

mod tiers;

async fn fleet() -> Fleet {
    let fleet = Fleet::start().await;
    for name in ["acme", "globex"] {
        fleet.create_tenant(name).await;
    }
    fleet
}

/// Gives a tenant limits of its own; `null` takes them away.
async fn limit(fleet: &Fleet, tenant: &str, limits: Value) {
    let path: SettingsPath = "limits".parse().unwrap();
    let (rules, tenant) = (SettingsRules::default(), slug(tenant));
    let change = fleet.catalog().change_settings(&tenant, "test", |before| {
        rules.change(before, |settings| path.set(settings, limits))
    });
    change.await.unwrap();
}

/// Gives a tier exactly these limits.
async fn limit_tier(fleet: &Fleet, tier: Tier, limits: Value) {
    fleet.catalog().change_tier(tier, "test", |(before, _)| *before = limits).await.unwrap();
}

fn router(fleet: &Fleet, settings: RouterSettings) -> TenantRouter {
    TenantRouter::new(fleet.catalog().clone(), fleet.changes.clone(), settings)
}

/// Whoever must wait longer than a moment hears it.
fn impatient() -> RouterSettings {
    RouterSettings { pool_wait_timeout: Duration::from_millis(300), ..router_settings() }
}

/// Or is in its turn but finds no connection in the short time.
fn is_served(status: StatusCode) -> bool {
    matches!(status, StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE)
}

fn patient() -> RouterSettings {
    RouterSettings { pool_wait_timeout: Duration::from_mins(2), ..router_settings() }
}

async fn ask(router: &TenantRouter, tenant: &str) -> Result<(), RouterError> {
    let connection = router.connection(&slug(tenant)).await?;
    connection.query_one("select 1", &[]).await.unwrap();
    Ok(())
}

async fn timeout_of(router: &TenantRouter, tenant: &str) -> String {
    let connection = router.connection(&slug(tenant)).await.unwrap();
    let row = connection.query_one("select current_setting('statement_timeout')", &[]).await;
    row.unwrap().get(0)
}

async fn backend(router: &TenantRouter, tenant: &str) -> i32 {
    let connection = router.connection(&slug(tenant)).await.unwrap();
    connection.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0)
}

async fn handler(tenant: TenantConnection) -> String {
    tenant.query("select 1", &[]).await.unwrap().len().to_string()
}

/// Three seconds: a rate shows over time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_gets_its_rate_in_all_modes_together_and_its_neighbour_is_not_slowed() {
    const RATE: f64 = 20.0;
    let fleet = fleet().await;
    limit(&fleet, "acme", json!({ "queries_per_second": 20 })).await;
    let router = router(&fleet, patient());
    let (served, neighbours) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let started = Instant::now();
    let is_over = move || started.elapsed() > Duration::from_secs(3);

    let mut clients = JoinSet::new();
    for client in 0..8 {
        let (router, served) = (router.clone(), Arc::clone(&served));
        clients.spawn(async move {
            while !is_over() {
                let acme = slug("acme");
                let connection = match client % 2 {
                    0 => router.connection(&acme).await,
                    _ => router.read_only(&acme).await,
                };
                connection.unwrap().query_one("select 1", &[]).await.unwrap();
                served.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let (asking, counted) = (router.clone(), Arc::clone(&neighbours));
    clients.spawn(async move {
        while !is_over() {
            ask(&asking, "globex").await.unwrap();
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    clients.join_all().await;

    let (seconds, served) = (started.elapsed().as_secs_f64(), served.load(Ordering::Relaxed));
    let neighbours = neighbours.load(Ordering::Relaxed);
    assert!(f64::from(served) <= RATE * (seconds + 1.0) + 1.0, "{served} in {seconds} s");
    assert!(f64::from(served) >= RATE * seconds / 4.0, "{served} in {seconds} s");
    assert!(neighbours * 2 > served, "{neighbours} beside {served}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_turn_holds_no_connection() {
    let fleet = fleet().await;
    limit(&fleet, "acme", json!({ "queries_per_second": 1 })).await;
    let router = router(&fleet, RouterSettings { server_budget: 1, ..patient() });
    for _ in 0..5 {
        ask(&router, "acme").await.unwrap();
    }
    let mut waiting = JoinSet::new();
    for _ in 0..60 {
        let router = router.clone();
        waiting.spawn(async move { ask(&router, "acme").await });
    }

    for _ in 0..20 {
        ask(&router, "globex").await.unwrap();
    }

    let mut served = 0;
    while waiting.try_join_next().is_some() {
        served += 1;
    }
    assert!(served < 50, "the neighbour waited for the crowd: {served} came first");
}

#[tokio::test]
async fn every_statement_of_a_held_connection_counts() {
    let fleet = fleet().await;
    limit(&fleet, "acme", json!({ "queries_per_second": 1 })).await;
    let settings =
        RouterSettings { pool_wait_timeout: Duration::from_secs(3), ..router_settings() };
    let router = router(&fleet, settings);

    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(router.connection(&slug("acme")).await.unwrap());
    }
    for connection in &mut held {
        let transaction = connection.transaction().await.unwrap();
        for _ in 0..6 {
            transaction.query_one("select 1", &[]).await.unwrap();
        }
        transaction.commit().await.unwrap();
    }

    // Five came at once after the pause. The other thirteen are owed, and the next one's is after them.
    let refused = ask(&router, "acme").await.unwrap_err();
    let RouterError::RateLimited { slug, retry_after } = refused else { panic!("{refused}") };
    assert_eq!(slug.as_str(), "acme");
    assert!(retry_after <= Duration::from_secs(14), "{retry_after:?}");
}

#[tokio::test]
async fn a_request_beyond_the_rate_hears_when_to_come_back() {
    let sql = Sql::start_with(SqlSettings::default(), impatient()).await;
    limit(&sql.fleet, "acme", json!({ "queries_per_second": 1 })).await;
    let batch = json!({ "queries": [{ "query": "select 1" }, { "query": "select 2" }] });
    let until_refused = async || {
        for _ in 0..50 {
            let answer = sql.request("acme").json(&batch).send().await.unwrap();
            if !is_served(answer.status()) {
                return answer;
            }
        }
        panic!("never refused");
    };

    let answer = until_refused().await;
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_ne!(answer.headers()[RETRY_AFTER], "0");
    let body: Value = answer.json().await.unwrap();
    assert_eq!(
        (&body["code"], &body["error"]),
        (&json!("rate_limited"), &json!("Too many queries"))
    );
    until_refused().await;
    let client = sql.ask_as_client("acme", json!({ "query": "select 1", "params": [] })).await;
    assert_eq!((client.status, client.code()), (StatusCode::BAD_REQUEST, "53400"));
    let neighbour = async || sql.ask("globex", json!({ "query": "select 1" })).await;
    eventually("a neighbour is served", async || neighbour().await.status == StatusCode::OK).await;

    let resolver = Arc::new(SingleTenant::new(slug("acme")));
    let tenancy = Tenancy { router: router(&sql.fleet, impatient()), resolver };
    let application = axum::Router::new().route("/", get(handler)).with_state(tenancy);
    let mut answer = None;
    for _ in 0..50 {
        let request = Request::get("/").body(Body::empty()).unwrap();
        let heard = application.clone().oneshot(request).await.unwrap();
        if !is_served(heard.status()) {
            answer = Some(heard);
            break;
        }
    }
    let answer = answer.expect("refused at last");
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_ne!(answer.headers()[RETRY_AFTER], "0");
}

#[tokio::test]
async fn a_rate_is_changed_at_run_time_in_every_replica() {
    let fleet = fleet().await;
    let replicas = [router(&fleet, impatient()), router(&fleet, impatient())];
    let refuses = async |router: &TenantRouter| {
        for _ in 0..20 {
            match ask(router, "acme").await {
                Err(RouterError::RateLimited { .. }) => return true,
                Ok(()) | Err(RouterError::Unreachable { .. } | RouterError::Busy(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        false
    };
    for router in &replicas {
        assert!(!refuses(router).await);
    }
    let before = backend(&replicas[0], "acme").await;

    limit_tier(&fleet, Tier::Shared, json!({ "queries_per_second": 1 })).await;
    for router in &replicas {
        eventually("the limit is in force", async || refuses(router).await).await;
        assert!(matches!(router.route(&slug("globex")).await, Ok(place) if
            place.tenant.limits.queries_per_second().is_some()));
    }
    limit(&fleet, "acme", json!({ "queries_per_second": 100_000 })).await;
    for router in &replicas {
        eventually("the tenant's own counts", async || !refuses(router).await).await;
    }
    limit(&fleet, "acme", Value::Null).await;
    for router in &replicas {
        eventually("the tier's counts again", async || refuses(router).await).await;
    }
    limit_tier(&fleet, Tier::Shared, json!({})).await;
    for router in &replicas {
        eventually("nothing is limited", async || !refuses(router).await).await;
    }
    assert_ne!(backend(&replicas[0], "acme").await, before, "its own limits are a new generation");
}

#[tokio::test]
async fn limits_of_a_tier_reach_its_tenants_and_renew_only_what_they_change() {
    let fleet = fleet().await;
    let mut alone = new_tenant("initech");
    alone.tier = Tier::Dedicated;
    let operation = fleet.environment.create_tenant(&alone, false, BY).await.unwrap();
    fleet.complete(&operation).await;
    limit(&fleet, "globex", json!({ "statement_timeout": "10s" })).await;
    let router = fleet.router();
    let before = (backend(&router, "acme").await, fleet.tenant("acme").await.generation);
    let neighbours = (backend(&router, "globex").await, backend(&router, "initech").await);
    let held = router.connection(&slug("acme")).await.unwrap();

    limit_tier(&fleet, Tier::Shared, json!({ "statement_timeout": "20s" })).await;

    eventually("the tier's limit is in force", async || timeout_of(&router, "acme").await == "20s")
        .await;
    let reader = router.read_only(&slug("acme")).await.unwrap();
    let row = reader.query_one("select current_setting('statement_timeout')", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "20s");
    let row = held.query_one("select pg_backend_pid()", &[]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), before.0, "work in progress goes on");
    drop((held, reader));
    let renewed = backend(&router, "acme").await;
    assert_ne!(renewed, before.0);
    assert_eq!(fleet.tenant("acme").await.generation, before.1, "its place is what it was");
    assert_eq!(timeout_of(&router, "globex").await, "10s", "its own limit counts first");
    assert_eq!(timeout_of(&router, "initech").await, "0", "another tier");
    assert_eq!((backend(&router, "globex").await, backend(&router, "initech").await), neighbours);

    let with_rate = json!({ "statement_timeout": "20s", "queries_per_second": 100_000 });
    limit_tier(&fleet, Tier::Shared, with_rate).await;
    eventually("the rate is known", async || {
        let place = router.route(&slug("acme")).await.unwrap();
        place.tenant.limits.queries_per_second().is_some()
    })
    .await;
    assert_eq!(backend(&router, "acme").await, renewed, "a rate closes no connection");

    limit_tier(&fleet, Tier::Shared, json!({})).await;
    eventually("no limit is left", async || timeout_of(&router, "acme").await == "0").await;
    assert_eq!(timeout_of(&router, "globex").await, "10s");
}

#[tokio::test]
async fn limits_of_a_tier_are_in_force_for_sql_over_http() {
    let sql = Sql::start().await;
    let timeout = async || {
        let heard = sql.query("select current_setting('statement_timeout') as t").await.ok();
        heard["rows"][0]["t"].clone()
    };
    assert_eq!(timeout().await, "30s");

    limit_tier(&sql.fleet, Tier::Shared, json!({ "statement_timeout": "7s" })).await;
    eventually("the tier's limit is in force", async || timeout().await == "7s").await;
    limit_tier(&sql.fleet, Tier::Shared, json!({})).await;
    eventually("it is not any more", async || timeout().await == "30s").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_refused_while_limits_change() {
    let fleet = fleet().await;
    let settings = RouterSettings { pool_max_size: 2, ..patient() };
    let router = router(&fleet, settings);
    let working = Arc::new(AtomicBool::new(true));
    let mut clients = JoinSet::new();
    for _ in 0..12 {
        let (router, working) = (router.clone(), Arc::clone(&working));
        clients.spawn(async move {
            while working.load(Ordering::Relaxed) {
                ask(&router, "acme").await.unwrap();
            }
        });
    }

    for round in 1..=15 {
        let timeout = format!("{round}s");
        limit_tier(&fleet, Tier::Shared, json!({ "statement_timeout": timeout })).await;
        if round % 3 == 0 {
            eventually("it is in force", async || timeout_of(&router, "acme").await == timeout)
                .await;
        }
    }

    working.store(false, Ordering::Relaxed);
    clients.join_all().await;
}
