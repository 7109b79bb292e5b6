//! Adopting on the command line and over HTTP.

use reqwest::Method;
use serde_json::{Value, json};

use super::LEGACY;
use crate::harness::replica::Replica;
use crate::harness::{eventually, process};

async fn with_legacy(replica: &Replica) {
    let admin = replica.fleet.admin("postgres").await;
    admin.batch_execute("create role old_app login").await.unwrap();
    admin.batch_execute("create database old owner old_app").await.unwrap();
    admin.batch_execute("revoke connect on database old from public").await.unwrap();
    in_old(replica, super::OLD).await;
    in_old(replica, LEGACY).await;
}

/// Runs statements, and leaves.
async fn in_old(replica: &Replica, sql: &str) {
    replica.fleet.admin("old").await.batch_execute(sql).await.unwrap();
    let admin = replica.fleet.admin("postgres").await;
    eventually("nobody is in the database", async || {
        let sql = "select count(*) from pg_stat_activity where datname = 'old'";
        admin.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
}

#[tokio::test]
async fn operators_adopt_on_the_command_line() {
    let replica = Replica::start().await;
    with_legacy(&replica).await;
    let run = |arguments: &[&str]| {
        let mut command = process::command(&replica.fleet);
        command.args(["tenant", "adopt", "acme", "--server", "default", "--database", "old"]);
        command.args(arguments).output().unwrap()
    };
    let json = |output: &std::process::Output| -> Value {
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
    };

    let shown = run(&["--dry-run"]);
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.status.success(), "{shown:?}");
    for line in [
        "alter table app.cards owner to tenantry_owner;",
        "alter database \"old\" rename to \"tenant_acme\";",
        "-- the role old_app will have no access",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(text.contains("password '…'"), "{text}");
    in_old(&replica, "create schema tenantry").await;
    let refused = run(&["--dry-run", "--output-format", "json"]);
    assert_eq!(refused.status.code(), Some(4));
    assert_eq!(json(&refused)["obstacles"][0]["kind"], "our_schema");
    assert_eq!(run(&["--yes"]).status.code(), Some(4));
    in_old(&replica, "drop schema tenantry").await;
    assert_eq!(run(&[]).status.code(), Some(4), "nobody has confirmed it");

    let done = run(&["--yes", "--baseline", "1", "--output-format", "json"]);

    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(json(&done)["kind"], "adopt", "{said}");
    assert!(said.contains("No history was written") || done.status.code() == Some(4), "{said}");
    assert_eq!(replica.fleet.count("acme", "boards").await, 4);
    replica.fleet.assert_healthy().await;
}

#[tokio::test]
async fn administrators_adopt_over_http() {
    let replica = Replica::start().await;
    with_legacy(&replica).await;
    let path = "/api/setup/tenants/acme/adopt";
    let body = json!({ "server": "default", "database": "old" });

    let dry = format!("{path}?dry_run=true");
    let (status, plan) = replica.call(Method::POST, &dry, Some(body.clone())).await;
    assert_eq!((status.as_u16(), &plan["obstacles"]), (200, &json!([])), "{plan}");
    assert!(plan["statements"].as_array().unwrap().len() > 40, "{plan}");
    for (body, expected) in [
        (json!({ "server": "default" }), 422),
        (json!({ "server": "nowhere", "database": "old" }), 404),
        (json!({ "server": "default", "database": "gone" }), 409),
        (json!({ "server": "default", "database": "old", "baseline": 99 }), 409),
    ] {
        let (status, answer) = replica.call(Method::POST, path, Some(body.clone())).await;
        assert_eq!(status.as_u16(), expected, "{body}: {answer}");
    }

    let (status, asked) = replica.call(Method::POST, path, Some(body.clone())).await;
    assert_eq!((status.as_u16(), &asked["kind"]), (202, &json!("adopt")), "{asked}");
    replica.settle(&asked).await;
    assert_eq!(replica.fleet.count("acme", "boards").await, 4);
    let (status, answer) = replica.call(Method::POST, path, Some(body)).await;
    assert_eq!(status.as_u16(), 409, "{answer}");
    let (_, log) = replica.get("/api/audit-log?tenant=acme").await;
    assert!(log.to_string().contains("\"adopt\""), "{log}");
}
