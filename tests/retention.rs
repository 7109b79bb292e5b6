//! Retention: what goes goes for a reason, and some of it never does.

use std::time::{Duration, SystemTime};

use axum::http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use reqwest::Method;
use serde_json::{Value, json};
use tenantry::catalog::lock::Claim;
use tenantry::catalog::operations::OperationState;
use tenantry::operations::request::{BackupChoice, RestoreAs};
use tenantry::tenant::settings::BackupPolicy;
use tenantry::tenant::{TenantSettings, TenantState};
use tenantry_backup::ObjectKey;
use uuid::Uuid;

use crate::harness::process::command;
use crate::harness::replica::Replica;
use crate::harness::{BY, Fleet, slug};

/// A fleet that keeps the newest two, and acme with three backups, a day between them; newest first.
async fn fleet() -> (Fleet, [Uuid; 3]) {
    let mut fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let mut backups = [Uuid::nil(); 3];
    for age in [2, 1, 0] {
        let backup = fleet.back_up("acme").await.id;
        date_back(&fleet, backup, age).await;
        backups[age] = backup;
    }
    fleet.environment.limits.backups.policy = policy(json!({ "retention": "last=2" }));
    (fleet, backups)
}

fn policy(value: Value) -> BackupPolicy {
    BackupPolicy::parse(value).unwrap()
}

/// Makes a backup so many days older.
async fn date_back(fleet: &Fleet, backup: Uuid, days: usize) {
    let older = format!(
        "update backups set started_at = started_at - {days} * interval '1 day' where id = '{backup}'"
    );
    fleet.admin("tenantry").await.batch_execute(&older).await.unwrap();
}

async fn set(fleet: &Fleet, settings: Value) {
    let settings = TenantSettings::parse(settings).unwrap();
    fleet.catalog().change_settings(&slug("acme"), "test", |_| Ok(settings)).await.unwrap();
}

/// The ids that the catalog and the bucket both have, newest first; they must agree.
async fn left(fleet: &Fleet) -> Vec<Uuid> {
    let tenant = fleet.tenant("acme").await.id;
    let known: Vec<Uuid> =
        fleet.catalog().backups_of(tenant).await.unwrap().iter().map(|backup| backup.id).collect();
    let mut stored = fleet.environment.store.as_ref().unwrap().backups_of(tenant).await.unwrap();
    stored.sort_unstable();
    let mut sorted = known.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, stored);
    known
}

async fn prune(fleet: &Fleet) -> Vec<Uuid> {
    let asked = fleet.environment.prune(&slug("acme"), BY).await.unwrap();
    fleet.complete(&asked).await;
    left(fleet).await
}

/// Why each backup stays, newest first.
async fn reasons(fleet: &Fleet) -> Vec<String> {
    let acme = fleet.tenant("acme").await;
    let plan = fleet.environment.prune_plan(&acme, Timestamp::now()).await.unwrap();
    plan.backups.iter().map(|(_, reasons)| reasons.join(", ")).collect()
}

#[tokio::test]
async fn what_the_retention_does_not_keep_goes_from_the_bucket_and_the_catalog() {
    let (fleet, [newest, second, _]) = fleet().await;

    assert_eq!(reasons(&fleet).await, ["the newest, last 1", "last 2", ""]);
    assert_eq!(prune(&fleet).await, [newest, second]);
    assert_eq!(prune(&fleet).await, [newest, second], "twice is once");

    set(&fleet, json!({ "backup": { "retention": "last=1" } })).await;
    assert_eq!(prune(&fleet).await, [newest], "its own word counts first");
}

#[tokio::test]
async fn nothing_goes_where_nobody_said_what_to_keep() {
    let (mut fleet, backups) = fleet().await;
    fleet.environment.limits.backups.policy = BackupPolicy::default();

    assert_eq!(prune(&fleet).await, backups);
    assert_eq!(reasons(&fleet).await, ["no retention is set"; 3]);
}

#[tokio::test]
async fn what_is_proven_awaited_or_held_stays() {
    let (mut fleet, backups) = fleet().await;
    fleet.environment.limits.backups.policy = policy(json!({ "retention": "last=1" }));
    let [newest, second, third] = backups;
    let awaiting =
        fleet.environment.restore(&slug("acme"), BackupChoice::Id(third), BY).await.unwrap();
    assert_eq!(reasons(&fleet).await, ["the newest, last 1", "", "a restore waits for it"]);

    set(&fleet, json!({ "backup": { "legal_hold": true } })).await;
    assert_eq!(reasons(&fleet).await[1], "legal hold");
    let refused = fleet.environment.delete(&slug("acme"), false, BY).await.unwrap_err();
    assert!(refused.to_string().contains("under legal hold"), "{refused}");
    for refused in [
        fleet.environment.erase(&slug("acme"), BY).await,
        fleet.environment.destroy_backup_keys(&slug("acme"), BY).await,
    ] {
        assert!(refused.unwrap_err().to_string().contains("under legal hold"));
    }
    fleet.complete(&awaiting).await;
    assert_eq!(prune(&fleet).await, [newest, second, third], "the hold keeps all of them");

    set(&fleet, json!({})).await;
    assert_eq!(prune(&fleet).await, [newest, third], "a restore has proven the oldest");
    let proven = fleet.catalog().backup(third).await.unwrap();
    assert!(
        proven.proof.proven_at.is_some() && proven.proof.proven_seconds.unwrap() > 0.0,
        "{proven:?}"
    );
}

/// Says of a backup what nobody would say by hand.
async fn note(fleet: &Fleet, backup: Uuid, what: &str) {
    let sql = format!("update backups set {what} where id = '{backup}'");
    fleet.admin("tenantry").await.batch_execute(&sql).await.unwrap();
}

#[tokio::test]
async fn a_backup_that_nobody_can_restore_takes_nobodys_place() {
    let (mut fleet, [newest, second, third]) = fleet().await;
    fleet.environment.limits.backups.policy = policy(json!({ "retention": "last=1" }));
    note(&fleet, newest, "problem = 'altered', proven_at = now()").await;

    assert_eq!(reasons(&fleet).await, ["the newest, last 1", "the newest, last 1", ""]);
    assert_eq!(prune(&fleet).await, [newest, second]);
    assert!(fleet.catalog().backup(third).await.is_err());

    note(&fleet, newest, "problem = null, erased_at = now()").await;
    assert_eq!(prune(&fleet).await, [newest, second], "nor one whose key is destroyed");
}

#[tokio::test]
async fn the_newest_that_was_verified_stays() {
    let (mut fleet, [newest, _, third]) = fleet().await;
    fleet.environment.limits.backups.policy = policy(json!({ "retention": "last=1" }));
    let oldest = fleet.catalog().backup(third).await.unwrap();
    fleet.environment.verify_backup(&oldest).await.unwrap();

    assert_eq!(prune(&fleet).await, [newest, third]);
}

#[tokio::test]
async fn a_backup_that_stood_until_today_is_as_young_as_that() {
    let (mut fleet, [newest, _, third]) = fleet().await;
    fleet.environment.limits.backups.policy = policy(json!({ "retention": "days=1" }));
    note(&fleet, third, "confirmed_at = now() - interval '1 hour'").await;

    assert_eq!(prune(&fleet).await, [newest, third], "nothing else has the data of this morning");
}

#[tokio::test]
async fn what_becomes_another_tenant_is_awaited_too() {
    let (mut fleet, [newest, _, third]) = fleet().await;
    fleet.environment.limits.backups.policy = policy(json!({ "retention": "last=1" }));
    let drill = fleet.environment.drill_tenant(&slug("acme"), BY).await.unwrap();
    let fail = format!("update operations set state = 'failed' where id = '{}'", drill.id);
    fleet.admin("tenantry").await.batch_execute(&fail).await.unwrap();
    let to = RestoreAs { slug: slug("copy"), server: None };
    let choice = BackupChoice::Id(third);
    let asked = fleet.environment.restore_as(&slug("acme"), choice, to, BY).await.unwrap();

    let kept = reasons(&fleet).await;
    assert_eq!(
        kept,
        ["the newest, last 1", "", "a restore waits for it"],
        "a failed drill is over"
    );
    assert_eq!(prune(&fleet).await, [newest, third]);

    fleet.complete(&asked).await;
    assert_eq!(fleet.tenant("copy").await.state, TenantState::Active);
}

#[tokio::test]
async fn a_hold_counts_that_comes_after_the_request() {
    let (fleet, backups) = fleet().await;
    let acme = slug("acme");
    for asked in [
        fleet.environment.destroy_backup_keys(&acme, BY).await.unwrap(),
        fleet.environment.erase(&acme, BY).await.unwrap(),
        fleet.environment.delete(&acme, false, BY).await.unwrap(),
    ] {
        set(&fleet, json!({ "backup": { "legal_hold": true } })).await;

        let refused = fleet.runner().complete(asked.id).await.unwrap();

        assert_eq!(refused.state, OperationState::Failed, "{}", asked.kind);
        let error = refused.error.unwrap();
        assert!(error.message.contains("under legal hold"), "{error:?}");
        assert_eq!(fleet.tenant("acme").await.state, TenantState::Active);
        assert_eq!(left(&fleet).await, backups);
        let newest = fleet.catalog().backup(backups[0]).await.unwrap();
        assert_eq!(newest.erased_at, None);
    }
}

#[tokio::test]
async fn a_backup_is_followed_by_its_pruning() {
    let (fleet, [newest, second, _]) = fleet().await;

    let latest = fleet.back_up("acme").await.id;
    while fleet.runner().run_one(Claim::Any).await.unwrap().is_some() {}

    assert_eq!(left(&fleet).await, [latest, newest]);
    assert!(fleet.catalog().backup(second).await.is_err());
}

#[tokio::test]
async fn old_litter_of_uploads_goes_and_whole_backups_never() {
    let (fleet, [newest, second, third]) = fleet().await;
    let (tenant, store) = (fleet.tenant("acme").await.id, fleet.environment.store.clone().unwrap());
    let strays = [(); 3].map(|()| Uuid::now_v7());
    let [old, young, whole] = strays;
    for backup in strays {
        store.put(&ObjectKey::dump(tenant, backup), "half".into()).await.unwrap();
    }
    store.put(&ObjectKey::manifest(tenant, whole), "{}".into()).await.unwrap();
    let folder = fleet.s3.data_dir().join(format!("backups/tenantry/{tenant}"));
    let two_days_ago = SystemTime::now() - Duration::from_hours(48);
    for backup in [old, whole] {
        for file in std::fs::read_dir(folder.join(backup.to_string())).unwrap() {
            let file = std::fs::File::options().write(true).open(file.unwrap().path()).unwrap();
            file.set_modified(two_days_ago).unwrap();
        }
    }
    // One that failed may be tried again, and finds its dump.
    let failed = fleet.environment.back_up(&slug("acme"), BY).await.unwrap();
    let fail = format!("update operations set state = 'failed' where id = '{}'", failed.id);
    fleet.admin("tenantry").await.batch_execute(&fail).await.unwrap();
    store.put(&ObjectKey::dump(tenant, failed.id), "whole".into()).await.unwrap();

    let acme = fleet.tenant("acme").await;
    let later = Timestamp::now() + SignedDuration::from_mins(1);
    let plan = fleet.environment.prune_plan(&acme, later).await.unwrap();
    let litter: Vec<Uuid> = plan.litter().map(|stray| stray.backup).collect();
    assert_eq!((plan.strays.len(), litter), (3, vec![old]));
    let asked = fleet.environment.prune(&slug("acme"), BY).await.unwrap();
    fleet.complete(&asked).await;

    assert!(store.get(&ObjectKey::dump(tenant, old)).await.is_err());
    for backup in [young, whole, failed.id, newest, second] {
        store.open(&ObjectKey::dump(tenant, backup)).await.unwrap();
    }
    assert!(store.open(&ObjectKey::dump(tenant, third)).await.is_err());
    let dropped = fleet.environment.cancel(failed.id).await.unwrap();
    let dropped = fleet.runner().complete(dropped.id).await.unwrap();
    assert_eq!(dropped.state, OperationState::Cancelled);
}

#[tokio::test]
async fn the_command_line_says_what_goes_and_why_the_rest_stays() {
    let (fleet, [newest, _, third]) = fleet().await;
    let (newest, third) = (newest.to_string(), third.to_string());

    for (line, status, words) in [
        ("backup prune", 2, "<SLUG>..."),
        ("backup prune acme --dry-run", 0, "the newest, last 1"),
        ("backup prune acme --dry-run", 0, third.as_str()),
        ("backup prune --all --dry-run --output-format json", 0, "\"keep\": []"),
        ("backup hold acme", 0, "are held"),
        ("backup prune acme", 0, "Nothing is to be removed"),
        ("tenant delete acme --yes", 4, "under legal hold"),
        ("backup hold acme --release", 0, "no longer held"),
        ("backup prune --all", 4, "add --yes"),
        ("backup prune --all", 4, third.as_str()),
        ("backup prune acme --dry-run", 0, "the retention does not ask for it"),
        ("backup prune --all --yes", 0, "1 backup of 1 tenant removed"),
        ("backup prune acme --dry-run", 0, newest.as_str()),
        ("backup prune --all", 0, "Nothing is to be removed"),
        ("tier set shared --backup-retention last=0", 2, "a number from 1 to 10000"),
        ("tier set shared --backup-retention last=9", 0, "are changed"),
        ("tier list", 0, "retention last=9"),
    ] {
        let mut command = command(&fleet);
        command.env("TENANTRY_BACKUP_RETENTION", "last=2").args(line.split(' '));
        let ended = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = [ended.stdout, ended.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert_eq!(ended.status.code(), Some(status), "{line}: {text}");
        assert!(text.contains(words), "{line}: {text}");
    }
}

#[tokio::test]
async fn the_api_shows_and_prunes() {
    let replica = Replica::start().await;
    replica.create("acme").await;
    for _ in 0..2 {
        replica.fleet.back_up("acme").await;
    }
    let own = json!({ "backup": { "retention": "last=1" } });
    replica.call(Method::PATCH, "/api/setup/tenants/acme/settings", Some(own)).await;

    let (status, plan) = replica.get("/api/setup/tenants/acme/prune").await;
    assert_eq!(status, StatusCode::OK, "{plan}");
    assert_eq!(plan["backups"][0]["keep"], json!(["the newest", "last 1"]));
    assert_eq!(plan["backups"][1]["keep"], json!([]));
    let (status, asked) = replica.call(Method::POST, "/api/setup/tenants/acme/prune", None).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{asked}");
    let id = asked["id"].as_str().unwrap().parse().unwrap();
    replica.fleet.runner().complete(id).await.unwrap();

    assert_eq!(left(&replica.fleet).await.len(), 1);
}
