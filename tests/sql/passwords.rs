//! Connection strings that are enough: the password of a tenant's own role, and nothing that comes near it.

use std::process::Stdio;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::{Client, RequestBuilder, StatusCode};
use secrecy::ExposeSecret as _;
use serde_json::json;
use tenantry::sql::SqlSettings;
use tokio::process::Command;
use tokio::time::timeout;

use super::{Heard, Sql, hear};
use crate::harness::process::{Serving, command};
use crate::harness::{BY, Fleet, eventually, router_settings, slug};

async fn start() -> Sql {
    let settings = SqlSettings { password_auth: true, ..SqlSettings::default() };
    Sql::start_with(settings, router_settings()).await
}

async fn password(fleet: &Fleet, tenant: &str) -> String {
    let place = fleet.catalog().place(&slug(tenant)).await.unwrap().unwrap();
    place.password.expose_secret().to_owned()
}

/// A request with a connection string, and nothing else that says who asks.
fn request(sql: &Sql, user: &str, password: &str) -> RequestBuilder {
    let string = format!("postgresql://{user}:{password}@localhost/{user}");
    let body = json!({ "query": "select current_database() as d, current_user::text as u" });
    sql.client.post(&sql.url).header("Neon-Connection-String", string).json(&body)
}

async fn ask(sql: &Sql, user: &str, password: &str) -> Heard {
    hear(request(sql, user, password)).await
}

#[tokio::test]
async fn a_tenants_own_password_is_enough() {
    let sql = start().await;
    for tenant in ["acme", "globex"] {
        let (role, password) = (format!("tenant_{tenant}"), password(&sql.fleet, tenant).await);

        let row = ask(&sql, &role, &password).await.ok()["rows"][0].clone();
        let named = hear(request(&sql, &role, &password).header("X-Tenant", tenant)).await;

        assert_eq!(row, json!({ "d": role, "u": role }));
        named.ok();
    }
}

/// A connection string that somebody wrote down before a rename.
#[tokio::test]
async fn a_connection_string_with_a_former_name_goes_on_working() {
    let sql = start().await;
    let password = password(&sql.fleet, "acme").await;
    ask(&sql, "tenant_acme", &password).await.ok();

    let renaming = sql.fleet.environment.rename(&slug("acme"), &slug("acme-corp"), BY).await;
    sql.fleet.complete(&renaming.unwrap()).await;

    for user in ["tenant_acme", "tenant_acme-corp"] {
        let row = ask(&sql, user, &password).await.ok()["rows"][0].clone();
        assert_eq!(row, json!({ "d": "tenant_acme-corp", "u": "tenant_acme-corp" }));
    }
}

#[tokio::test]
async fn whoever_is_wrong_hears_the_same_after_the_same_time() {
    let sql = start().await;
    let (own, foreign) = (password(&sql.fleet, "acme").await, password(&sql.fleet, "globex").await);
    ask(&sql, "tenant_acme", &own).await.ok();
    let cut = &own[..own.len() - 1];
    let long = "x".repeat(1000);

    let mut heard = Vec::new();
    for (user, password) in [
        ("tenant_acme", foreign.as_str()),
        ("tenant_acme", cut),
        ("tenant_nobody", own.as_str()),
        ("postgres", "postgres"),
        ("acme", own.as_str()),
        (long.as_str(), "x"),
    ] {
        let started = Instant::now();
        let refused = ask(&sql, user, password).await;
        let took = started.elapsed();
        assert!(took >= Duration::from_millis(240), "{user} was refused after {took:?}");
        assert_eq!(
            (refused.status, refused.code()),
            (StatusCode::UNAUTHORIZED, "password_refused")
        );
        heard.push(refused.body);
    }

    assert!(heard.windows(2).all(|two| two[0] == two[1]), "{heard:?}");
    let elsewhere = request(&sql, "tenant_acme", &own).header("X-Tenant", "globex");
    let elsewhere = hear(elsewhere).await;
    assert_eq!((elsewhere.status, elsewhere.code()), (StatusCode::FORBIDDEN, "access_denied"));
    ask(&sql, "tenant_acme", &own).await.ok();
}

#[tokio::test]
async fn a_token_counts_and_the_password_beside_it_does_not() {
    let sql = start().await;
    let own = password(&sql.fleet, "acme").await;
    let with = |token: &str, password: &str| {
        hear(request(&sql, "tenant_acme", password).bearer_auth(token).header("X-Tenant", "acme"))
    };

    with(&sql.token, "wrong").await.ok();
    assert_eq!(with("tenantry_wrong", &own).await.code(), "unauthenticated");
}

#[tokio::test]
async fn without_the_setting_a_password_means_nothing() {
    let sql = Sql::start().await;
    let own = password(&sql.fleet, "acme").await;

    let named = hear(request(&sql, "tenant_acme", &own).header("X-Tenant", "acme")).await;

    assert_eq!((named.status, named.code()), (StatusCode::UNAUTHORIZED, "unauthenticated"));
    assert_eq!(ask(&sql, "tenant_acme", &own).await.code(), "tenant_missing");
}

#[tokio::test]
async fn a_password_that_was_changed_is_refused() {
    let sql = start().await;
    let old = password(&sql.fleet, "acme").await;
    ask(&sql, "tenant_acme", &old).await.ok();

    let rotation = sql.fleet.environment.rotate_password(&slug("acme"), BY).await.unwrap();
    sql.fleet.complete(&rotation).await;

    eventually("the old one is refused", async || {
        ask(&sql, "tenant_acme", &old).await.status != StatusCode::OK
    })
    .await;
    assert_eq!(ask(&sql, "tenant_acme", &old).await.code(), "password_refused");
    let new = password(&sql.fleet, "acme").await;
    ask(&sql, "tenant_acme", &new).await.ok();
}

#[tokio::test]
async fn only_who_has_the_password_hears_that_a_tenant_is_suspended() {
    let sql = start().await;
    let own = password(&sql.fleet, "acme").await;
    ask(&sql, "tenant_acme", &own).await.ok();
    let suspend = sql.fleet.environment.suspend(&slug("acme"), None, BY).await.unwrap();
    sql.fleet.complete(&suspend).await;

    eventually("the suspension is seen", async || {
        ask(&sql, "tenant_acme", &own).await.body["code"] == "55000"
    })
    .await;
    assert_eq!(ask(&sql, "tenant_acme", "wrong").await.code(), "password_refused");
}

#[tokio::test]
async fn guessing_comes_to_an_end_and_costs_the_catalog_nothing() {
    let sql = start().await;
    let own = password(&sql.fleet, "acme").await;
    let statistics = "select xact_commit from pg_stat_database where datname = 'tenantry'";
    let guess = async |guess: usize| {
        let refused = request(&sql, "tenant_acme", &format!("guess{guess}"));
        let answer = refused.send().await.unwrap();
        (answer.status(), answer.headers().get("Retry-After").cloned())
    };
    let guesses = |number: usize| join_all((0..number).map(&guess));
    let heard = guesses(40).await;

    let judged = heard.iter().filter(|(status, _)| *status == StatusCode::UNAUTHORIZED).count();
    // One more comes every six seconds.
    assert!((10..=12).contains(&judged), "{heard:?}");
    for (status, wait) in &heard {
        assert_eq!(*status == StatusCode::TOO_MANY_REQUESTS, wait.is_some(), "{heard:?}");
    }
    assert_eq!(ask(&sql, "tenant_acme", &own).await.code(), "too_many_attempts");
    let other = password(&sql.fleet, "globex").await;
    ask(&sql, "tenant_globex", &other).await.ok();

    let admin = sql.fleet.admin("postgres").await;
    let count = async || admin.query_one(statistics, &[]).await.unwrap().get::<_, i64>(0);
    let before = count().await;
    guesses(100).await;
    assert!(count().await - before < 50, "a refused guess asks nobody");
    let catalog = sql.fleet.admin("tenantry").await;
    let told = "select count(*), min(tenant_slug) from audit_log
        where action = 'request.denied' and detail ->> 'violation' = 'wrong_password'";
    eventually("the audit log has them as one", async || {
        let row = catalog.query_one(told, &[]).await.unwrap();
        (row.get(0), row.get(1)) == (1_i64, Some("acme"))
    })
    .await;
}

/// As an operator runs it and its customer uses it: the string that `tenantry tenant url` prints, the client
/// as it is, two replicas.
#[tokio::test]
async fn the_npm_client_needs_nothing_but_its_connection_string() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let printed = command(&fleet).args(["tenant", "url", "acme", "--quiet"]).output().unwrap();
    let string = String::from_utf8(printed.stdout).unwrap().trim().to_owned();
    let settings = [
        ("TENANTRY_SQL_PASSWORD_AUTH", "true"),
        ("TENANTRY_BASE_DOMAIN", "db.example.com"),
        ("TENANTRY_TRUSTED_PROXIES", "127.0.0.1"),
    ];
    let mut serving = Serving::start_with(&fleet, &settings);
    let address = serving.address("the data plane").await;
    let url = format!("{address}/sql");

    let client = Command::new("node")
        .args(["--test", "--test-reporter=spec", "tests/neon/password.mjs"])
        .env("SQL_URL", &url)
        .env("SQL_STRING", &string)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let client = timeout(Duration::from_mins(1), client).await.expect("it ends").unwrap();
    let said = String::from_utf8_lossy(&client.stdout);
    assert!(client.status.success(), "{said}{}", String::from_utf8_lossy(&client.stderr));

    // The host that the client makes of a connection string names nobody; the string does.
    let password = password(&fleet, "acme").await;
    let through = |host: &str, forwarded_for: &str, password: &str| {
        let string = format!("postgresql://tenant_acme:{password}@acme.db.example.com/tenant_acme");
        let request = Client::new().post(&url).header("Neon-Connection-String", string);
        let request = request.header("X-Forwarded-Host", host);
        let request = request.header("X-Forwarded-For", forwarded_for);
        hear(request.json(&json!({ "query": "select 1 as n" })))
    };
    through("api.db.example.com", "192.0.2.1", &password).await.ok();
    let elsewhere = through("globex.db.example.com", "192.0.2.1", &password).await;
    assert_eq!(elsewhere.code(), "access_denied");
    join_all((0..20).map(|_| through("api.db.example.com", "192.0.2.7", "wr0ng"))).await;
    let guesser = through("api.db.example.com", "192.0.2.7", &password).await;
    assert_eq!(guesser.code(), "too_many_attempts");
    through("api.db.example.com", "192.0.2.8", &password).await.ok();

    let (_, log) = serving.terminate().await;
    let log = format!("{log:?}");
    assert!(!log.contains(&password) && !log.contains("wr0ng") && !log.contains("postgresql://"));
}

/// The server has the new password a moment before the catalog has.
#[tokio::test]
async fn a_request_in_the_midst_of_a_change_is_served() {
    let sql = start().await;
    let admin = sql.fleet.admin("postgres").await;
    let question = "select rolpassword from pg_authid where rolname = 'tenant_acme'";
    let old: String = admin.query_one(question, &[]).await.unwrap().get(0);
    let change = async |to: &str| {
        let change = format!("alter role tenant_acme password '{to}'");
        admin.batch_execute(&change).await.unwrap();
    };

    change("another").await;
    let (heard, ()) = tokio::join!(sql.query("select 1 as n"), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        change(&old).await;
    });

    assert_eq!(heard.ok()["rows"][0]["n"], 1);
}
