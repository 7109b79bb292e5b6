//! `tenantry doctor --fix`: what it puts right, and what it never touches.

use serde_json::Value;
use tenantry::doctor::{examine, put_right};
use tenantry_backup::{BackupStore, S3Settings};
use tokio_postgres::Client;
use uuid::Uuid;

use crate::cli::Cli;
use crate::harness::faulty_s3::FaultyS3;
use crate::harness::process::command;
use crate::harness::{BY, Fleet, eventually, s3_settings, slug};

/// A number that no operation has.
const NOBODYS: &str = "00000000000000000000000000000007";

fn texts(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|one| one["what"].as_str().unwrap().to_owned()).collect()
}

async fn fixes(fleet: &Fleet) -> Vec<String> {
    let report = examine(&fleet.environment).await.unwrap();
    report.fixes.into_iter().map(|fix| fix.what).collect()
}

async fn is_there(admin: &Client, database: &str) -> bool {
    let sql = "select exists (select from pg_database where datname = $1)";
    admin.query_one(sql, &[&database]).await.unwrap().get(0)
}

async fn make(admin: &Client, database: &str, comment: Option<String>) {
    admin.batch_execute(&format!("create database {database}")).await.unwrap();
    let revoke = format!("revoke all on database {database} from public");
    admin.batch_execute(&revoke).await.unwrap();
    if let Some(comment) = comment {
        let sql = format!("comment on database {database} is '{comment}'");
        admin.batch_execute(&sql).await.unwrap();
    }
}

/// An operation that is over, as the catalog knows it.
async fn ended(fleet: &Fleet) -> Uuid {
    let operation = fleet.environment.suspend(&slug("acme"), None, BY).await.unwrap();
    fleet.complete(&operation).await;
    let resumed = fleet.environment.resume(&slug("acme"), BY).await.unwrap();
    fleet.complete(&resumed).await;
    operation.id
}

#[tokio::test]
async fn what_is_ours_and_nobodys_is_put_right_and_the_rest_is_left_with_what_to_do() {
    let fleet = Fleet::start().await;
    let acme = fleet.create_tenant("acme").await;
    let operation = ended(&fleet).await;
    let gone = fleet.create_tenant("gone").await;
    let deleted = fleet.environment.delete(&slug("gone"), false, BY).await.unwrap();
    fleet.complete(&deleted).await;
    let (cli, admin) = (Cli::new(&fleet), fleet.admin("postgres").await);
    fleet.assert_healthy().await;
    assert_eq!(fixes(&fleet).await, [] as [String; 0]);

    let left = format!("tenantry_build_{}", operation.simple());
    let guest = format!("tenantry_guest_{}", deleted.id.simple());
    let (build, spare) = (format!("tenantry_build_{NOBODYS}"), format!("tenantry_spare_{NOBODYS}"));
    let of_acme = format!("tenantry tenant={} operation={operation}", acme.id);
    make(&admin, &left, None).await;
    make(&admin, &build, None).await;
    make(&admin, &spare, Some("tenantry spare digest=abc version=1".to_owned())).await;
    let template = "tenantry_template_0123456789ab";
    make(&admin, template, Some("tenantry template digest=0123456789ab version=1".to_owned()))
        .await;
    admin.batch_execute(&format!("alter database {template} is_template true")).await.unwrap();
    // Somebody's data: a tenant's, of a name that is ours or not; and what only looks like ours.
    make(&admin, &format!("tenantry_old_{NOBODYS}"), Some(of_acme.clone())).await;
    make(&admin, "tenantry_build_ffffffffffffffffffffffffffffffff", Some(of_acme)).await;
    make(&admin, "tenant_ghost", None).await;
    make(&admin, "tenantry_spare_00000000000000000000000000000008", None).await;
    admin
        .batch_execute(&format!(
            "create role {guest} login;
             comment on role {guest} is 'tenantry tenant={} operation={}';
             create role tenant_ghost login;
             grant connect, temporary on database tenant_acme to public;
             alter database tenant_acme is_template true;
             grant connect on database postgres to public;
             comment on role tenantry_app is null",
            gone.id, deleted.id
        ))
        .await
        .unwrap();

    cli.refused("doctor --fix", 4, "add --yes").await;
    assert!(is_there(&admin, &build).await);
    let (status, told) = cli.told("doctor").await;
    assert_eq!(status, 1, "{told}");
    assert!(told.contains("`tenantry doctor --fix` would:"), "{told}");
    let output = cli.run("doctor --fix --yes --output-format json").await;

    let (plan, done) = (String::from_utf8_lossy(&output.stderr), &output.stdout);
    let done: Value = serde_json::from_slice(done).unwrap();
    assert_eq!(output.status.code(), Some(1), "{plan}");
    assert_eq!(done["failed"], Value::Array(Vec::new()), "{done}");
    let fixed = texts(&done["fixed"]);
    for words in [
        "mark the role tenantry_app as ours, take from PUBLIC the right to connect to the database postgres",
        "take from PUBLIC what it has in the database of `acme`",
        &format!("`{left}`, which the suspend {operation} has left"),
        &format!("`{build}`, which no tenant has"),
        &format!("`{spare}`, which no tenant has"),
        &format!("`{template}`, which no tenant has"),
        &format!("role `{guest}`, which the delete {} has left", deleted.id),
    ] {
        assert!(fixed.iter().any(|what| what.contains(words)), "{words}: {fixed:#?}");
        assert!(plan.contains(words), "{words}: {plan}");
    }
    assert_eq!((fixed.len(), &done["fixes"]), (7, &Value::Array(Vec::new())), "{fixed:#?}");
    let findings = texts(&done["findings"]);
    for kept in [
        &format!("database `tenantry_old_{NOBODYS}`"),
        "database `tenantry_build_ffffffffffffffffffffffffffffffff`",
        "database `tenant_ghost`",
        "database `tenantry_spare_00000000000000000000000000000008`",
        "role `tenant_ghost`",
    ] {
        assert!(findings.iter().any(|what| what.starts_with(kept)), "{kept}: {findings:#?}");
    }
    assert_eq!(findings.len(), 5, "{findings:#?}");
    assert!(done.to_string().contains("keep a dump (`pg_dump`)"), "{done}");
    assert_eq!(fleet.count("acme", "boards").await, 0);
    // One line each.
    let (_, log) = cli.told("audit-log --action server.fixed --output-format json").await;
    assert_eq!(log.matches("server.fixed").count(), 7, "{log}");
    let (status, told) = cli.told("doctor --fix").await;
    assert_eq!(status, 1, "{told}");
    assert!(told.contains("nothing that can be put right"), "{told}");
}

#[tokio::test]
async fn what_somebody_uses_or_another_catalog_may_have_is_left_alone() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let operation = ended(&fleet).await;
    let admin = fleet.admin("postgres").await;
    let (left, build) =
        (format!("tenantry_build_{}", operation.simple()), format!("tenantry_build_{NOBODYS}"));
    make(&admin, &left, None).await;
    make(&admin, &build, None).await;

    // Somebody is in it, when it is looked at and when it is dropped.
    let report = examine(&fleet.environment).await.unwrap();
    assert_eq!(report.fixes.len(), 2, "{:?}", report.fixes);
    let inside = fleet.admin(&build).await;
    assert_eq!(fixes(&fleet).await.len(), 1);
    let planned = report.fixes.iter().find(|fix| fix.what.contains(&build)).unwrap();
    let refused = put_right(&fleet.environment, planned).await.unwrap_err();
    assert!(refused.to_string().contains("no longer what it was"), "{refused}");
    drop(inside);
    // Nor is another one of the same name dropped.
    eventually("nobody is in it", async || fixes(&fleet).await.len() == 2).await;
    admin.batch_execute(&format!("drop database {build}")).await.unwrap();
    make(&admin, &build, None).await;
    put_right(&fleet.environment, planned).await.unwrap_err();
    assert!(is_there(&admin, &build).await);

    // A tenant that this catalog never had: the server may be another catalog's, too.
    let marker = format!("tenantry tenant={} operation={}", Uuid::from_u128(5), Uuid::from_u128(6));
    make(&admin, "tenant_others", Some(marker)).await;
    let report = examine(&fleet.environment).await.unwrap();
    assert_eq!(report.fixes.len(), 1, "{:?}", report.fixes);
    assert!(report.fixes[0].what.contains(&left), "{:?}", report.fixes);
    put_right(&fleet.environment, &report.fixes[0]).await.unwrap();
    assert!(!is_there(&admin, &left).await);
    assert!(is_there(&admin, &build).await && is_there(&admin, "tenant_others").await);
}

/// A role on which nothing depends can be dropped by anybody who may; the next tenant needs it.
#[tokio::test]
async fn a_group_role_that_is_missing_comes_back() {
    let fleet = Fleet::start().await;
    let admin = fleet.admin("postgres").await;
    let sql = "select datname::text from pg_database where datname like 'tenantry\\_%'";
    for row in admin.query(sql, &[]).await.unwrap() {
        let name: &str = row.get(0);
        let drop = format!("alter database {name} is_template false");
        admin.batch_execute(&drop).await.unwrap();
        admin.batch_execute(&format!("drop database {name}")).await.unwrap();
    }
    admin.batch_execute("drop role tenantry_app").await.unwrap();

    let planned = examine(&fleet.environment).await.unwrap().fixes;
    assert_eq!(planned.len(), 1, "{planned:?}");
    assert_eq!(planned[0].what, "create the role tenantry_app");
    put_right(&fleet.environment, &planned[0]).await.unwrap();

    assert_eq!(fixes(&fleet).await, [] as [String; 0]);
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn a_bucket_that_does_not_answer_and_a_rollout_that_failed_are_findings_among_others() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    fleet.admin("postgres").await.batch_execute("create role tenantry_stray").await.unwrap();
    fleet.add_migration("V2__broken.sql", "create table broken (");
    let cli = Cli::new(&fleet);
    let (_, told) = cli.told("migrate up").await;
    assert!(told.contains("V2__broken.sql"), "{told}");

    let nowhere = command(&fleet)
        .env("TENANTRY_S3_ENDPOINT", "http://127.0.0.1:1")
        .args(["doctor", "--output-format", "json"])
        .output()
        .unwrap();

    let report: Value = serde_json::from_slice(&nowhere.stdout).unwrap();
    let found = texts(&report["findings"]).join("\n");
    assert_eq!(nowhere.status.code(), Some(1));
    for told in ["the bucket cannot be listed", "role `tenantry_stray` is unknown", "is failed: "] {
        assert!(found.contains(told), "{found}");
    }
}

/// A large bucket is listed for minutes.
#[tokio::test]
async fn backups_that_come_and_go_while_the_bucket_is_listed_are_no_finding() {
    let fleet = Fleet::start().await;
    let acme = fleet.create_tenant("acme").await.id;
    let (pruned, lost) = (fleet.back_up("acme").await.id, fleet.back_up("acme").await.id);
    let bucket = FaultyS3::before(&fleet.s3.endpoint()).await;
    let behind = S3Settings { endpoint: Some(bucket.endpoint()), ..s3_settings(&fleet.s3) };
    let mut environment = fleet.environment.clone();
    environment.store = Some(BackupStore::s3(behind).await.unwrap());
    let examined = async || examine(&environment).await.unwrap().findings;
    let meanwhile = async || {
        let held = bucket.hold().await;
        eventually("it is listed", async || bucket.is_held_up()).await;
        let store = fleet.environment.store.as_ref().unwrap();
        store.remove_backup(acme, pruned).await.unwrap();
        let forget = format!("delete from backups where id = '{pruned}'");
        fleet.admin("tenantry").await.batch_execute(&forget).await.unwrap();
        fleet.back_up("acme").await;
        drop(held);
    };

    let (findings, ()) = tokio::join!(examined(), meanwhile());

    assert!(findings.is_empty(), "{findings:#?}");
    let store = fleet.environment.store.as_ref().unwrap();
    store.remove_backup(acme, lost).await.unwrap();
    let findings = examined().await;
    assert_eq!(findings.len(), 1, "{findings:#?}");
    let what = format!("backup {lost} is in the catalog but not in the bucket");
    assert_eq!(findings[0].what, what);
}

#[tokio::test]
async fn a_tenant_that_is_made_while_its_server_is_looked_at_is_no_finding() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let (admin, catalog) = (fleet.admin("postgres").await, fleet.admin("tenantry").await);
    // The first look at the server sees none of it; the catalog answers once it is there.
    let away = "alter database tenant_acme rename to elsewhere";
    admin.batch_execute(away).await.unwrap();
    catalog.batch_execute("begin; lock table operations in access exclusive mode").await.unwrap();
    let environment = fleet.environment.clone();
    let examined = tokio::spawn(async move { examine(&environment).await.unwrap().findings });
    let waits = "select exists (select from pg_stat_activity
                                where wait_event_type = 'Lock' and query like '-- operations::list%')";
    eventually("it asks the catalog", async || admin.query_one(waits, &[]).await.unwrap().get(0))
        .await;

    let back = "alter database elsewhere rename to tenant_acme";
    admin.batch_execute(back).await.unwrap();
    catalog.batch_execute("commit").await.unwrap();

    let findings = examined.await.unwrap();
    assert!(findings.is_empty(), "{findings:#?}");
}
