//! Read replicas as an operator meets them: commands, the admin API, numbers, and SQL over HTTP.

use std::process::Output;

use reqwest::Client;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tenantry::catalog::tokens::Scope;

use super::{EmbeddedPostgres, Fleet, add_server, connect, eventually, router_settings};
use crate::harness::process::{Serving, command};
use crate::sql::{READER, Sql, hear};

/// Runs a command; the standby's password must not be in what it says.
async fn run(fleet: &Fleet, line: &[&str]) -> Output {
    let mut command = command(fleet);
    command.args(line);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    for text in [&output.stdout, &output.stderr] {
        assert!(!String::from_utf8_lossy(text).contains(fleet.postgres.password()));
    }
    output
}

/// What a command says that must succeed.
async fn json_of(fleet: &Fleet, line: &[&str]) -> Value {
    let output = run(fleet, &[line, &["--output-format", "json"]].concat()).await;
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{line:?}: {complaint}");
    serde_json::from_slice(&output.stdout).unwrap()
}

async fn assert_refused(fleet: &Fleet, line: &[&str], words: &str) {
    let output = run(fleet, line).await;
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{line:?}: {complaint}");
    assert!(complaint.contains(words), "{line:?}: {complaint}");
}

#[tokio::test]
async fn a_read_replica_is_added_checked_and_removed() {
    let fleet = Fleet::start().await;
    let standby = fleet.postgres.start_standby().await.unwrap();
    let (foreign, foreign_standby) = add_server(&fleet, &[]).await;
    let url = standby.url();
    let add = ["server", "replica", "add", "default", "copy", "--url"];

    let twice = url.replace("127.0.0.1", "127.0.0.1,127.0.0.1");
    assert_refused(&fleet, &[&add[..], &[&twice]].concat(), "several hosts").await;
    assert_refused(&fleet, &[&add[..], &[&foreign.url()]].concat(), "no standby").await;
    let other = foreign_standby.url();
    assert_refused(&fleet, &[&add[..], &[&other]].concat(), "standby of another server").await;
    json_of(&fleet, &[&add[..], &[&url]].concat()).await;
    assert_eq!(run(&fleet, &[&add[..], &[&url]].concat()).await.status.code(), Some(1));

    let listed = json_of(&fleet, &["server", "replica", "list", "default"]).await;
    let port = standby.port().unwrap();
    assert_eq!(listed[0]["address"], format!("127.0.0.1:{port}"));
    json_of(&fleet, &["server", "check", "default"]).await;
    fleet.assert_healthy().await;
    standby.kill();
    standby.ended().await;
    let checked = run(&fleet, &["server", "check", "default"]).await;
    let said = String::from_utf8_lossy(&checked.stdout);
    assert_eq!(checked.status.code(), Some(1), "{said}");
    assert!(said.contains("read replica `copy`"), "{said}");
    let report = tenantry::doctor::examine(&fleet.environment).await.unwrap();
    assert!(report.is_healthy(), "reads go to the server: {:?}", report.findings);
    assert!(report.findings.iter().any(|finding| finding.what.contains("read replica `copy`")));

    json_of(&fleet, &["server", "replica", "remove", "default", "copy"]).await;
    json_of(&fleet, &["server", "check", "default"]).await;
    let gone = run(&fleet, &["server", "replica", "remove", "default", "copy"]).await;
    assert_eq!(gone.status.code(), Some(1));
}

#[tokio::test]
async fn read_replicas_are_seen_in_the_api_and_in_the_numbers() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let standby = fleet.postgres.start_standby().await.unwrap();
    let token = fleet.catalog().create_token("test", &Scope::ALL).await.unwrap();
    let mut serving = Serving::start(&fleet);
    let admin = serving.address("the admin API").await;
    fleet.catalog().add_read_replica("default", "copy", &standby.url().into()).await.unwrap();
    let get = async |path: &str| {
        let request = Client::new().get(format!("{admin}{path}"));
        request.bearer_auth(token.expose_secret()).send().await.unwrap()
    };
    let numbers = async |wanted: &str| get("/metrics").await.text().await.unwrap().contains(wanted);

    let listed: Value = get("/api/servers/default/replicas").await.json().await.unwrap();
    assert_eq!(listed["replicas"][0]["name"], "copy");
    assert!(!listed.to_string().contains(standby.password()));
    assert_eq!(get("/api/servers/nowhere/replicas").await.status(), 404);
    let labels = "{server=\"default\",replica=\"copy\"}";
    let up = format!("tenantry_replica_up{labels} 1");
    eventually("it is up", async || numbers(&up).await).await;
    let lag = format!("tenantry_replica_lag_seconds{labels} ");
    eventually("its lag is known", async || numbers(&lag).await).await;
    standby.kill();
    let down = format!("tenantry_replica_up{labels} 0");
    eventually("it is down", async || numbers(&down).await).await;
}

#[tokio::test]
async fn who_only_reads_over_http_is_led_to_a_read_replica() {
    let sql = Sql::start_with(tenantry::sql::SqlSettings::default(), router_settings()).await;
    let standby: EmbeddedPostgres = sql.fleet.postgres.start_standby().await.unwrap();
    sql.fleet.catalog().add_read_replica("default", "copy", &standby.url().into()).await.unwrap();
    let question = "select pg_is_in_recovery() as elsewhere";
    let reader = async || {
        let request = sql.request("acme").header(READER, "yes");
        let heard = hear(request.json(&json!({ "query": question }))).await.ok();
        heard["rows"][0]["elsewhere"] == true
    };
    let batch = async |isolation: &str| {
        let request = sql.request("acme").header("Neon-Batch-Read-Only", "true");
        let request = request.header("Neon-Batch-Isolation-Level", isolation);
        let body = json!({ "queries": [{ "query": question }] });
        let heard = hear(request.json(&body)).await.ok();
        heard["results"][0]["rows"][0]["elsewhere"] == true
    };
    eventually("readers are led there", reader).await;

    eventually("batches are, too", || batch("RepeatableRead")).await;
    assert!(!batch("Serializable").await, "no standby knows them");
    let writer = sql.query(question).await.ok();
    assert_eq!(writer["rows"][0]["elsewhere"], false);

    standby.kill();
    standby.ended().await;
    eventually("readers are answered by the primary", async || !reader().await).await;
}

#[tokio::test]
async fn what_a_read_replica_cannot_finish_is_read_from_the_primary() {
    let sql = Sql::start_with(tenantry::sql::SqlSettings::default(), router_settings()).await;
    let standby = sql.fleet.postgres.start_standby().await.unwrap();
    sql.fleet.catalog().add_read_replica("default", "copy", &standby.url().into()).await.unwrap();
    let there = connect(&standby.url()).await.unwrap();
    let read = async |query: &str| {
        let request = sql.request("acme").header(READER, "yes");
        let heard = hear(request.json(&json!({ "query": query }))).await.ok();
        heard["rows"][0]["elsewhere"].as_bool().unwrap()
    };
    let question = "select pg_is_in_recovery() as elsewhere";
    let slow = "select pg_is_in_recovery() as elsewhere, pg_sleep(6)";
    let under_way = async || {
        let running =
            "select from pg_stat_activity where state = 'active' and query like '%pg_sleep(6)'
                         and pid <> pg_backend_pid()";
        eventually("it runs there", async || !there.query(running, &[]).await.unwrap().is_empty())
            .await;
    };
    eventually("readers are led there", || read(question)).await;

    let end =
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'tenant_acme'";
    let ended = async {
        under_way().await;
        there.execute(end, &[]).await.unwrap();
    };
    assert!(!tokio::join!(read(slow), ended).0);

    eventually("readers are led there again", || read(question)).await;
    let killed = async {
        under_way().await;
        standby.kill();
    };
    assert!(!tokio::join!(read(slow), killed).0);
}
