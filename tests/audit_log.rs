//! The audit log: everything is in it, and whoever tampers with it is found out.

use std::fmt::Write as _;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tenantry::catalog::Catalog;
use tenantry::catalog::audit_log::{AuditFilter, Event, Recorded};
use tenantry::operations::Environment;
use tenantry::operations::checkpoints::verify::{BreachKind, Verification};
use tenantry::sealing::MasterKey;
use tenantry_provisioning::ServerUrl;
use tokio_postgres::Client;

use crate::cli::Cli;
use crate::harness::replica::Replica;
use crate::harness::{BY, Fleet, limits, slug};

mod denied;
mod tricks;

use tricks::{RELINK, TRICKS, Trick};

async fn record(fleet: &Fleet, action: &str) {
    let detail = json!({ "of": action });
    let event = Event { actor: "ana", action, tenant: None, detail };
    fleet.catalog().record(&event).await.unwrap();
}

async fn checkpoint(fleet: &Fleet) -> i64 {
    fleet.environment.make_checkpoint(Duration::ZERO).await.unwrap().unwrap()
}

async fn verified(fleet: &Fleet) -> Verification {
    fleet.environment.verify_audit_log(None).await.unwrap()
}

/// Events of an action, of a noun, or all, the newest first.
async fn events(fleet: &Fleet, action: &str) -> Vec<Recorded> {
    let action = Some(action.to_owned()).filter(|action| !action.is_empty());
    let filter = AuditFilter { action, limit: 1000, ..AuditFilter::default() };
    fleet.catalog().audit_log(&filter).await.unwrap()
}

/// A session of somebody who owns the catalog: no trigger stands in their way.
async fn owner(fleet: &Fleet) -> Client {
    let client = fleet.admin("tenantry").await;
    client.batch_execute("set session_replication_role = replica").await.unwrap();
    client
}

#[tokio::test]
async fn what_is_asked_for_is_in_the_log_with_its_request_and_its_end() {
    let replica = Replica::start().await;
    let fleet = &replica.fleet;

    let asked = replica
        .client
        .post(format!("{}/api/setup/tenant?wait=true", replica.admin))
        .bearer_auth(&replica.token)
        .header("x-request-id", "order-66")
        .json(&json!({ "slug": "acme" }))
        .send()
        .await
        .unwrap();
    assert_eq!(asked.status(), StatusCode::CREATED);
    let id = fleet.environment.suspend(&slug("acme"), Some("unpaid".to_owned()), BY).await.unwrap();
    fleet.complete(&id).await;
    let url = Cli::new(fleet).run("tenant url acme --quiet").await;
    assert!(url.status.success());
    let cli = Cli::new(fleet);
    for line in ["token create --name ci --scope migrate", "token revoke ci", "config export"] {
        assert!(cli.run(line).await.status.success(), "{line}");
    }

    let found = events(fleet, "operation").await;
    let of = |action: &str, kind: &str| -> &Recorded {
        found.iter().find(|e| e.action == action && e.detail["kind"] == kind).unwrap()
    };
    for action in ["operation.asked", "operation.succeeded"] {
        let event = of(action, "provision");
        assert_eq!(event.actor, "token:test");
        assert_eq!(event.request_id.as_deref(), Some("order-66"));
        assert_eq!(event.tenant_slug.as_deref(), Some("acme"));
    }
    assert_eq!(of("operation.asked", "suspend").detail["input"]["reason"], "unpaid");
    assert_eq!(of("operation.asked", "suspend").request_id, None);
    assert_eq!(found.len(), 4, "each once: {found:#?}");
    let tokens = events(fleet, "token").await;
    let actions: Vec<_> = tokens.iter().map(|event| event.action.as_str()).collect();
    assert_eq!(actions, ["token.revoked", "token.created", "token.created"]);
    assert_eq!(tokens[1].detail["scopes"], json!(["migrate"]));
    assert!(tokens[0].actor.starts_with("cli:"), "{:?}", tokens[0]);
    assert_eq!(tokens[0].detail["token"], "ci");
    let shown = events(fleet, "tenant.url_shown").await;
    assert_eq!((shown.len(), shown[0].tenant_slug.as_deref()), (1, Some("acme")));
    assert_eq!(events(fleet, "catalog.exported").await.len(), 1);
    assert_eq!(events(fleet, "server.added").await[0].detail["server"], "default");
    let password = String::from_utf8(url.stdout).unwrap();
    let password = password.split([':', '@']).nth(2).unwrap();
    let all = events(fleet, "").await;
    assert!(!format!("{all:?}").contains(password));
    assert!(verified(fleet).await.good);
}

#[tokio::test]
async fn a_failed_operation_its_retry_and_its_end_are_in_the_log() {
    let replica = Replica::start().await;
    replica.create("acme").await;
    let fleet = &replica.fleet;
    fleet.add_migration("V2__wrong.sql", "select nothing from nowhere;");
    fleet.environment.reload_migrations().await.unwrap();
    let batch = fleet.environment.migrate_fleet(&[slug("acme")], "test").await.unwrap();
    fleet.runner().complete_batch(batch, 1).await.unwrap();
    let batch_asked = events(fleet, "batch.asked").await;
    assert_eq!(batch_asked.len(), 1, "one entry, however many they are");
    assert_eq!(batch_asked[0].detail, json!({ "batch": batch, "kind": "migrate", "tenants": 1 }));
    let failed = &events(fleet, "operation.failed").await[0];
    assert!(failed.detail["error"]["message"].as_str().unwrap().contains("nowhere"), "{failed:?}");
    let id = failed.detail["operation"].as_str().unwrap();

    let (status, _) = replica.post(&format!("/api/operations/{id}/cancel"), Value::Null).await;

    assert_eq!(status, StatusCode::ACCEPTED);
    let given_up = &events(fleet, "operation.given_up").await[0];
    assert_eq!(given_up.actor, "token:test");
    assert!(given_up.request_id.is_some(), "{given_up:?}");
    assert_eq!(given_up.detail["operation"], id);
}

#[tokio::test]
async fn concurrent_writers_make_one_chain() {
    let fleet = Fleet::start().await;
    let before = verified(&fleet).await.entries;
    let write = async |writer: usize| {
        for number in 0..25 {
            record(&fleet, &format!("test.{writer}-{number}")).await;
        }
    };

    futures_util::future::join_all((0..8).map(write)).await;

    let verification = verified(&fleet).await;
    assert!(verification.good, "{verification:?}");
    assert_eq!(verification.entries, before + 200);
    assert_eq!(verification.last, i64::try_from(verification.entries).unwrap());
}

/// What is tampered with is put back after each trick.
struct Original(Client);

impl Original {
    async fn of(fleet: &Fleet) -> Self {
        let client = owner(fleet).await;
        client
            .batch_execute(
                "create schema kept; create table kept.audit_log as table audit_log;
                 create table kept.audit_chain as table audit_chain",
            )
            .await
            .unwrap();
        Self(client)
    }

    async fn put_back(&self) {
        self.0
            .batch_execute(
                "truncate audit_log; truncate audit_chain;
                 insert into audit_log overriding system value select * from kept.audit_log;
                 insert into audit_chain select * from kept.audit_chain",
            )
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn whoever_tampers_with_the_log_is_found_out_and_told_where() {
    let fleet = Fleet::start().await;
    for number in 0..10 {
        record(&fleet, &format!("test.n{number}")).await;
    }
    checkpoint(&fleet).await;
    let first = events(&fleet, "test.n0").await[0].id;
    let original = Original::of(&fleet).await;
    let number: i64 = original
        .0
        .query_one("select number from audit_chain where entry = $1", &[&first])
        .await
        .unwrap()
        .get(0);
    let fill = |sql: &str| sql.replace("$e", &first.to_string()).replace("$n", &number.to_string());
    assert!(verified(&fleet).await.good);

    for Trick { name, sql, kind, entry } in TRICKS {
        original.0.batch_execute(&fill(sql)).await.unwrap();

        let found = verified(&fleet).await;

        let entry = entry.map(|entry| first + entry);
        let named = found.breaches.iter().any(|it| it.kind == *kind && it.entry == entry);
        assert!(named && !found.good, "{name}: {found:#?}");
        assert!(found.breaches.len() < 8, "{name}: {found:#?}");
        original.put_back().await;
        assert!(verified(&fleet).await.good, "{name} is undone");
    }
}

#[tokio::test]
async fn a_chain_that_was_made_anew_is_not_what_the_checkpoints_say() {
    let fleet = Fleet::start().await;
    for number in 0..10 {
        record(&fleet, &format!("test.n{number}")).await;
    }
    let good = checkpoint(&fleet).await;
    record(&fleet, "test.late").await;
    record(&fleet, "test.later").await;
    let last = checkpoint(&fleet).await;
    let late = events(&fleet, "test.late").await[0].id;
    let owner = owner(&fleet).await;
    let relink = RELINK.replace("$n", &(good + 1).to_string());

    owner
        .batch_execute(&format!(
            "update audit_log set actor = 'mallory' where id = {late}; {relink}"
        ))
        .await
        .unwrap();

    let found = verified(&fleet).await;
    assert_eq!(found.breaches.len(), 1, "{found:#?}");
    assert_eq!(found.breaches[0].kind, BreachKind::Rewritten);
    let between = format!("links {} to {last}", good + 1);
    assert!(found.breaches[0].what.contains(&between), "{found:#?}");
    assert_eq!(found.vouched_to, good);
    let mut without = fleet.environment.clone();
    without.store = None;
    let blind = without.verify_audit_log(None).await.unwrap();
    assert!(blind.good && blind.checkpoints.is_none(), "the chain alone cannot tell: {blind:?}");
}

#[tokio::test]
async fn a_checkpoint_that_nobody_signed_is_told() {
    let fleet = Fleet::start().await;
    record(&fleet, "test.one").await;
    let number = checkpoint(&fleet).await.unsigned_abs();
    let store = fleet.environment.store.clone().unwrap();
    let body = store.get_checkpoint(number).await.unwrap();

    let altered = String::from_utf8(body.to_vec()).unwrap().replace("\"hash\":\"", "\"hash\":\"0");
    store.put_checkpoint(number, altered.into()).await.unwrap();
    let found = verified(&fleet).await;
    assert_eq!(found.breaches[0].kind, BreachKind::Checkpoint, "{found:#?}");
    store.put_checkpoint(number, body.clone()).await.unwrap();
    store.put_checkpoint(number + 7, body).await.unwrap();
    let copied = verified(&fleet).await;
    assert_eq!(copied.breaches[0].kind, BreachKind::Checkpoint, "{copied:#?}");
    store.delete_checkpoint(number + 7).await.unwrap();
    assert!(verified(&fleet).await.good);

    // Somebody gives the catalog another key, and signs with it.
    let trusted = fleet.catalog().certificate_key().await.unwrap().public();
    owner(&fleet).await.batch_execute("delete from certificate_key").await.unwrap();
    let replaced = verified(&fleet).await;
    assert!(replaced.breaches.iter().any(|it| it.what.contains("another key")), "{replaced:#?}");
    let told = fleet.environment.verify_audit_log(Some(&trusted)).await.unwrap();
    assert!(told.good && told.checkpoints == Some(1), "{told:#?}");
}

#[tokio::test]
async fn a_retention_leaves_a_chain_that_verifies_and_says_so() {
    let fleet = Fleet::start().await;
    for number in 0..5 {
        record(&fleet, &format!("old.n{number}")).await;
    }
    let through = checkpoint(&fleet).await;
    record(&fleet, "new.one").await;
    let all = events(&fleet, "").await.len();
    let prune = async |keep| fleet.environment.prune_audit_log(keep).await;
    let (store, number) = (fleet.environment.store.clone().unwrap(), through.unsigned_abs());
    let body = store.get_checkpoint(number).await.unwrap();

    assert_eq!(prune(Duration::from_hours(24)).await.unwrap(), 0, "nothing is that old");
    store.put_checkpoint(number, "{}".into()).await.unwrap();
    let refused = prune(Duration::ZERO).await.unwrap_err();
    assert!(refused.to_string().contains("not what its checkpoint says"), "{refused}");
    store.delete_checkpoint(number).await.unwrap();
    assert_eq!(prune(Duration::ZERO).await.unwrap(), 0, "no checkpoint vouches for the rest");
    store.put_checkpoint(number, body).await.unwrap();
    let removed = prune(Duration::ZERO).await.unwrap();

    assert_eq!(i64::try_from(removed).unwrap(), through);
    let left = events(&fleet, "").await;
    assert_eq!(left.len(), all - usize::try_from(removed).unwrap() + 1);
    assert_eq!(left[0].action, "audit_log.pruned");
    assert_eq!(prune(Duration::ZERO).await.unwrap(), 0, "twice equals once");
    let found = verified(&fleet).await;
    assert!(found.good, "{found:#?}");
    assert_eq!((found.first, found.entries), (through, 2));
    let last = checkpoint(&fleet).await;
    assert!(verified(&fleet).await.good);
    store.delete_checkpoint(last.unsigned_abs()).await.unwrap();
    owner(&fleet)
        .await
        .batch_execute(
            "delete from audit_log where action = 'audit_log.pruned';
             delete from audit_chain where number = (select max(number) from audit_chain)",
        )
        .await
        .unwrap();
    let without_note = verified(&fleet).await;
    assert!(without_note.breaches[0].what.contains("no note of a retention"), "{without_note:#?}");
}

#[tokio::test]
async fn what_was_in_the_log_before_is_chained_by_the_migration() {
    let fleet = Fleet::start().await;
    fleet.admin("postgres").await.batch_execute("create database earlier").await.unwrap();
    let url = ServerUrl::parse(&fleet.postgres.database_url("earlier")).unwrap();
    let client = fleet.admin("earlier").await;
    for version in 1..31 {
        client.batch_execute(&migration(version)).await.unwrap();
    }
    let mut rows =
        String::from("insert into audit_log (actor, action, tenant_slug, detail) values ");
    for number in 0..100 {
        _ = write!(rows, "('ana', 'test.n{number}', 'é', '{{\"b\": 1.50, \"a\": \"\\u00e9\"}}'),");
    }
    client.batch_execute(rows.trim_end_matches(',')).await.unwrap();

    client.batch_execute(&migration(31)).await.unwrap();

    let catalog = Catalog::new(&url, MasterKey::parse(&fleet.master_key).unwrap(), 2);
    let limits = limits(fleet.migrations.path().to_owned(), 0);
    let environment = Environment::new(catalog.clone(), None, limits).await.unwrap();
    let event = Event { actor: "ana", action: "test.new", tenant: None, detail: json!({}) };
    catalog.record(&event).await.unwrap();
    let found = environment.verify_audit_log(None).await.unwrap();
    assert!(found.good, "{found:#?}");
    assert_eq!((found.entries, found.last), (101, 101));
}

fn migration(version: i32) -> String {
    let start = format!("V{version}__");
    let files = std::fs::read_dir("migrations/catalog").unwrap();
    let mut paths = files.map(|file| file.unwrap().path());
    let named =
        |path: &std::path::PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(&start);
    std::fs::read_to_string(paths.find(named).unwrap()).unwrap()
}

#[tokio::test]
async fn the_log_is_filtered_paged_and_exported() {
    let replica = Replica::start().await;
    let fleet = &replica.fleet;
    for number in 0..7 {
        record(fleet, &format!("page.n{number}")).await;
    }
    record(fleet, "=cmd,\"x\"").await;

    let (mut seen, mut before) = (Vec::new(), String::new());
    loop {
        let path = format!("/api/audit-log?actor=ana&action=page&limit=3{before}");
        let (status, page) = replica.get(&path).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        seen.extend(page["events"].as_array().unwrap().iter().map(|e| e["action"].clone()));
        let Some(next) = page["next"].as_i64() else { break };
        before = format!("&before={next}");
    }
    let expected: Vec<Value> = (0..7).rev().map(|n| json!(format!("page.n{n}"))).collect();
    assert_eq!(seen, expected);
    let until = "until=2000-01-01T00:00:00Z";
    let (_, none) = replica.get(&format!("/api/audit-log?{until}")).await;
    assert_eq!(none["events"], json!([]));
    let wrong = replica.call(Method::GET, "/api/audit-log?colour=red", None).await;
    assert_eq!(wrong.0, StatusCode::UNPROCESSABLE_ENTITY);

    let cli = Cli::new(fleet);
    let run = async |line: &str| {
        let output = cli.run(line).await;
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let lines = run("audit-log --action page --output-format json").await;
    let lines: Vec<Value> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!((lines.len(), &lines[6]["action"]), (7, &json!("page.n0")));
    let csv = run("audit-log --actor ana --all --csv").await;
    assert_eq!(csv.lines().count(), 9, "{csv}");
    assert!(csv.starts_with("id,at,actor,action,"), "{csv}");
    assert!(csv.lines().nth(1).unwrap().contains("\"'=cmd,\"\"x\"\"\""), "{csv}");
    assert_eq!(run("audit-log --actor ana --limit 2").await.lines().count(), 3);
    assert!(run("audit-log --until 1d").await.contains("Nothing was asked for"));
}

#[tokio::test]
async fn the_command_line_verifies_the_log() {
    let fleet = Fleet::start().await;
    record(&fleet, "test.one").await;
    checkpoint(&fleet).await;
    let cli = Cli::new(&fleet);

    let good = cli.json("audit-log verify").await;
    assert_eq!((&good["good"], &good["checkpoints"]), (&json!(true), &json!(1)), "{good}");
    let bare = Cli::new(&fleet).with("TENANTRY_S3_BUCKET", "").run("audit-log verify").await;
    assert!(bare.status.success());
    assert!(String::from_utf8_lossy(&bare.stderr).contains("Only the chain was checked"));

    let id = events(&fleet, "test.one").await[0].id;
    owner(&fleet).await.execute("delete from audit_log where id = $1", &[&id]).await.unwrap();
    let bad = cli.run("audit-log verify").await;
    assert_eq!(bad.status.code(), Some(1), "{bad:?}");
    let text = String::from_utf8(bad.stdout).unwrap();
    assert!(text.contains(&format!("entry {id} is gone")), "{text}");
}
