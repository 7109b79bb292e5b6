//! How old backups are and may be: told once when it is too much, once when it is well again.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use jiff::{SignedDuration, Timestamp};
use reqwest::Method;
use serde_json::{Value, json};
use tenantry::catalog::operations::OperationState;
use tenantry::operations::request::BackupChoice;
use tenantry::operations::webhook::{Webhook, tell};
use tenantry::tenant::settings::BackupPolicy;
use tenantry_backup::{BackupStore, S3Settings};
use tokio::net::TcpListener;

use crate::cli::Cli;
use crate::harness::process::command;
use crate::harness::replica::Replica;
use crate::harness::{BY, Fleet, s3_settings, slug};

type Heard = Arc<Mutex<Vec<Value>>>;

/// A fleet whose backups may be a day old, with somebody who hears what happens.
async fn fleet() -> (Fleet, Heard) {
    let heard = Heard::default();
    let kept = heard.clone();
    let receive = async move |body: String| {
        kept.lock().unwrap().push(serde_json::from_str(&body).unwrap());
        StatusCode::NO_CONTENT
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let routes = Router::new().route("/hook", post(receive));
    tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });

    let mut fleet = Fleet::start().await;
    let webhook = Webhook::new(url, "a secret".to_owned().into());
    fleet.environment = fleet.environment.clone().with_webhook(Some(webhook));
    let policy = json!({ "goal_rpo": "24h" });
    fleet.environment.limits.backups.policy = BackupPolicy::parse(policy).unwrap();
    fleet.create_tenant("acme").await;
    (fleet, heard)
}

/// What the webhook has heard since it was last asked.
async fn news(fleet: &Fleet, heard: &Heard) -> Vec<Value> {
    tell(&fleet.environment).await.unwrap();
    std::mem::take(&mut *heard.lock().unwrap())
}

fn kinds(news: &[Value]) -> Vec<&str> {
    news.iter().map(|message| message["event"].as_str().unwrap()).collect()
}

fn in_hours(hours: i64) -> Timestamp {
    Timestamp::now() + SignedDuration::from_hours(hours)
}

#[tokio::test]
async fn a_missed_goal_is_told_once_and_so_is_its_end() {
    let (fleet, heard) = fleet().await;
    fleet.environment.watch_goals(in_hours(23)).await.unwrap();
    assert_eq!(news(&fleet, &heard).await, Vec::<Value>::new());

    for hours in [25, 26] {
        let (one, other) = tokio::join!(
            fleet.environment.watch_goals(in_hours(hours)),
            fleet.environment.watch_goals(in_hours(hours))
        );
        one.and(other).unwrap();
    }

    let told = news(&fleet, &heard).await;
    assert_eq!(kinds(&told), ["backup_goal_missed"], "it counts from the tenant's beginning");
    assert_eq!(told[0]["tenant_slug"], "acme");
    assert_eq!(told[0]["detail"]["goal_rpo_seconds"], 24 * 3600);
    assert_eq!(told[0]["detail"]["data_of"], Value::Null);
    fleet.back_up("acme").await;
    for _ in 0..2 {
        fleet.environment.watch_goals(in_hours(2)).await.unwrap();
    }
    let told = news(&fleet, &heard).await;
    assert_eq!(kinds(&told), ["backup_goal_met"]);
    assert!(told[0]["detail"]["missed_since"].is_string());
}

#[tokio::test]
async fn a_backup_that_still_stands_counts_as_of_then() {
    let (fleet, _) = fleet().await;
    let backup = fleet.back_up("acme").await.id;
    let age = async || {
        let tenant = fleet.tenant("acme").await.id;
        fleet.environment.achieved(tenant, Timestamp::now()).await.unwrap().unwrap().age_secs
    };
    let admin = fleet.admin("tenantry").await;
    admin.batch_execute("update backups set started_at = now() - interval '3 days'").await.unwrap();
    assert!((259_200..259_300).contains(&age().await), "{}", age().await);

    let confirm = format!(
        "update backups set confirmed_at = now() - interval '1 hour' where id = '{backup}'"
    );
    admin.batch_execute(&confirm).await.unwrap();

    assert!((3600..3700).contains(&age().await), "{}", age().await);
}

#[tokio::test]
async fn a_backup_that_nobody_can_restore_meets_no_goal() {
    let (fleet, _) = fleet().await;
    let older = fleet.back_up("acme").await.id;
    let newest = fleet.back_up("acme").await.id;
    let admin = fleet.admin("tenantry").await;
    let date_back =
        format!("update backups set started_at = now() - interval '3 days' where id = '{older}'");
    admin.batch_execute(&date_back).await.unwrap();
    let tenant = fleet.tenant("acme").await.id;

    for useless in ["problem = 'altered'", "problem = null, erased_at = now()"] {
        let useless = format!("update backups set {useless} where id = '{newest}'");
        admin.batch_execute(&useless).await.unwrap();

        let achieved = fleet.environment.achieved(tenant, Timestamp::now()).await.unwrap().unwrap();

        assert!((259_200..259_300).contains(&achieved.age_secs), "{achieved:?}");
        assert!(achieved.is_missed());
    }
}

#[tokio::test]
async fn failures_are_told_and_the_success_after_them() {
    let (fleet, heard) = fleet().await;
    fleet.back_up("acme").await;
    assert_eq!(news(&fleet, &heard).await, Vec::<Value>::new(), "all is well");
    let mut broken = fleet.environment.clone();
    let credentials = Some(("somebody".to_owned(), "else".to_owned().into()));
    let wrong = S3Settings { credentials, ..s3_settings(&fleet.s3) };
    broken.store = Some(BackupStore::s3(wrong).await.unwrap());
    let runner =
        tenantry::operations::Runner::new(broken, tokio_util::sync::CancellationToken::new());

    let asked = fleet.environment.back_up(&slug("acme"), BY).await.unwrap();
    let failed = runner.complete(asked.id).await.unwrap();
    assert_eq!(failed.state, OperationState::Failed);
    let told = news(&fleet, &heard).await;
    assert_eq!(kinds(&told), ["backup_failed"]);
    assert_eq!(told[0]["detail"]["operation_id"], asked.id.to_string());
    assert!(told[0]["detail"]["error"]["message"].as_str().unwrap().contains("denied"), "{told:?}");
    // Every hour it is tried again, and fails again: that is no news, until a day has passed.
    for hours in [1, 1, 25] {
        let catalog = fleet.admin("tenantry").await;
        let later = format!("update backup_events set at = at - interval '{hours} hours'");
        catalog.batch_execute(&later).await.unwrap();
        fleet.catalog().retry(asked.id).await.unwrap();
        runner.complete(asked.id).await.unwrap();
        let told = news(&fleet, &heard).await;
        let expected: &[&str] = if hours > 24 { &["backup_failed"] } else { &[] };
        assert_eq!(kinds(&told), expected, "after {hours} hours");
    }
    for _ in 0..2 {
        fleet.back_up("acme").await;
    }

    let told = news(&fleet, &heard).await;
    assert_eq!(kinds(&told), ["backup_recovered"], "once");
    fleet.catalog().retry(failed.id).await.unwrap();
    fleet.complete(&failed).await;
    assert_eq!(news(&fleet, &heard).await, Vec::<Value>::new());
}

#[tokio::test]
async fn what_was_achieved_is_shown_beside_its_goal() {
    let replica = Replica::start().await;
    replica.create("acme").await;
    let (_, before) = replica.get("/api/setup/tenants/acme/backups").await;
    assert_eq!(before["protection"]["data_of"], Value::Null);
    let cli = Cli::new(&replica.fleet);
    let (_, told) = cli.told("tenant show acme").await;
    assert!(told.contains("everything (no backup)"), "{told}");
    let shown = cli.json("tenant show acme").await;
    assert_eq!(shown["protection"]["age_seconds"], Value::Null, "{shown}");
    replica.fleet.back_up("acme").await;
    let (acme, environment) = (slug("acme"), &replica.fleet.environment);
    let restore = environment.restore(&acme, BackupChoice::Latest, BY);
    let restore = restore.await.unwrap();
    replica.fleet.complete(&restore).await;
    let own = json!({ "backup": { "goal_rpo": "26h" } });
    replica.call(Method::PATCH, "/api/setup/tenants/acme/settings", Some(own)).await;

    let (status, listed) = replica.get("/api/setup/tenants/acme/backups").await;

    assert_eq!(status, StatusCode::OK);
    let protection = &listed["protection"];
    assert_eq!(protection["goal_rpo_seconds"], 26 * 3600, "{listed}");
    assert_eq!(protection["goal_met"], true);
    assert!(protection["age_seconds"].as_u64().unwrap() < 300);
    assert!(protection["recovery_seconds"].as_f64().unwrap() > 0.0);
    for (line, words) in [
        ("tenant show acme", "(goal "),
        ("tenant show acme", "met)"),
        ("tenant show acme", "Restored in"),
        ("backup list acme", "restored in "),
        ("tier set shared --backup-goal-rpo 2h", "are changed"),
        ("tier show shared", "goal_rpo 2h"),
    ] {
        let mut command = command(&replica.fleet);
        command.args(line.split(' '));
        let ended = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = String::from_utf8_lossy(&ended.stdout);
        assert!(text.contains(words), "{line}: {text}");
    }
}
