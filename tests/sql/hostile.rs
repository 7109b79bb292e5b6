//! A tenant that turns its own role against the service: what it does stays its own affair.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::json;
use tenantry::router::RouterSettings;
use tenantry::sql::SqlSettings;

use super::Sql;
use crate::harness::{BY, eventually, router_settings, slug};

/// Goes on when it is cancelled, and when its time is up.
pub const STUBBORN: &str = "do $$ begin loop begin perform pg_sleep(3600);
     exception when query_canceled then null; end; end loop; end $$";

/// What it takes that a tenant's own sessions serve as new ones do.
async fn without_sessions(sql: &Sql, tenant: &str) {
    let admin = sql.fleet.admin("postgres").await;
    let end = "select pg_terminate_backend(pid) from pg_stat_activity where usename = $1";
    admin.execute(end, &[&format!("tenant_{tenant}")]).await.unwrap();
    eventually("its sessions are gone", async || sql.backends(tenant).await == 0).await;
}

#[tokio::test]
async fn a_statement_that_cannot_be_cancelled_ends_soon_after_its_caller_left() {
    let router = RouterSettings {
        pool_max_size: 3,
        pool_wait_timeout: Duration::from_millis(500),
        ..router_settings()
    };
    let sql = Sql::start_with(SqlSettings::default(), router).await;
    // Neither its password nor a connection of its role is needed to end it.
    sql.query("alter role current_user password 'mine'").await.ok();
    let mut most = 0;

    for _ in 0..8 {
        let body = json!({ "query": STUBBORN });
        let leaving = sql.request("acme").json(&body).timeout(Duration::from_millis(100)).send();
        _ = leaving.await;
        most = most.max(sql.backends("acme").await);
    }
    let many = futures_util::future::join_all((0..8).map(|_| {
        let body = json!({ "query": STUBBORN });
        sql.request("globex").json(&body).timeout(Duration::from_millis(400)).send()
    }));
    assert!(many.await.iter().all(Result::is_err));
    most = most.max(sql.backends("globex").await);

    assert!(most <= 3, "{most} backends, and three may be open");
    let stubborn = "query like 'do %' and usename like 'tenant%'";
    eventually("they are ended", async || sql.count(stubborn).await == 0).await;
    sql.ask("globex", json!({ "query": "select 1" })).await.ok();
}

#[tokio::test]
async fn what_a_role_sets_for_itself_ends_no_session() {
    let sql = Sql::start().await;
    for set in [
        "set idle_session_timeout = '1ms'",
        "in database tenant_acme set idle_session_timeout = '1ms'",
    ] {
        sql.query(&format!("alter role tenant_acme {set}")).await.ok();
    }
    without_sessions(&sql, "acme").await;

    sql.query("select 1").await.ok();
    tokio::time::sleep(Duration::from_millis(50)).await;

    let shown = sql.query("show idle_session_timeout").await.ok();
    assert_eq!(shown["rows"][0]["idle_session_timeout"], "0");
}

#[tokio::test]
async fn whose_sessions_end_as_they_begin_makes_no_server_away() {
    let hasty =
        RouterSettings { pool_wait_timeout: Duration::from_millis(300), ..router_settings() };
    let sql = Sql::start_with(SqlSettings::default(), hasty).await;
    sql.query("select 1").await.ok();
    // Ends whatever its role begins, as fast as it can, and is not one of the service's own sessions.
    let admin = sql.fleet.admin("tenant_acme").await;
    let hunt = "do $$ begin for n in 1..30000 loop
                  perform pg_terminate_backend(pid, 0) from pg_stat_activity where usename = 'tenant_acme';
                  perform pg_sleep(0.0001); perform pg_stat_clear_snapshot();
                end loop; end $$";
    let hunting = tokio::spawn(async move { admin.batch_execute(hunt).await });

    for _ in 0..30 {
        let ask =
            |tenant| sql.ask(tenant, json!({ "query": "set application_name = 'used once'" }));
        let (_, neighbour) = tokio::join!(ask("acme"), ask("globex"));
        assert_eq!(neighbour.status, StatusCode::OK, "{neighbour:?}");
    }
    hunting.abort();
}

#[tokio::test]
async fn a_role_that_changes_its_password_shuts_out_its_own_tenant_until_that_is_rotated() {
    let sql = Sql::start().await;
    sql.query("alter role current_user password 'mine'").await.ok();
    without_sessions(&sql, "acme").await;

    let shut_out = sql.query("select 1").await;
    let neighbour = sql.ask("globex", json!({ "query": "select 1" })).await;

    assert_eq!(
        (shut_out.status, shut_out.code()),
        (StatusCode::SERVICE_UNAVAILABLE, "tenant_password_refused")
    );
    neighbour.ok();
    let rotation = sql.fleet.environment.rotate_password(&slug("acme"), BY).await.unwrap();
    sql.fleet.complete(&rotation).await;
    sql.query("select 1").await.ok();
}
