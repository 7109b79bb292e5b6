//! Roles in a restore: whose login stays shut, and what a role had that another one gets.

use tenantry::embedded::EmbeddedPostgres;
use tenantry::operations::request::{BackupChoice, RestoreAs};

use super::{boards, fleet_with_backup, left_on, second_server, undo};
use crate::harness::{BY, Fleet, connect, slug};

/// Whether the role of `acme` may log in on a server.
async fn may_log_in(postgres: &EmbeddedPostgres) -> bool {
    let client = connect(&postgres.database_url("postgres")).await.unwrap();
    let sql = "select rolcanlogin from pg_roles where rolname = 'tenant_acme'";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_suspended_tenant_stays_suspended_wherever_a_restore_brings_it() {
    let fleet = fleet_with_backup().await;
    let second = second_server(&fleet).await;
    let (acme, latest) = (slug("acme"), BackupChoice::Latest);
    let suspend = fleet.environment.suspend(&acme, None, BY).await.unwrap();
    fleet.complete(&suspend).await;

    let restore = fleet.environment.restore_on(&acme, latest, Some("second"), BY).await.unwrap();
    fleet.complete(&restore).await;
    let there = may_log_in(&second).await;
    undo(&fleet).await;
    let back = may_log_in(&fleet.postgres).await;
    let resume = fleet.environment.resume(&acme, BY).await.unwrap();
    fleet.complete(&resume).await;

    assert!(!there && !back, "its role may log in: {there}, {back}");
    assert_eq!(boards(&fleet).await, 2);
}

/// What `acme` may do without asking: a large object, and rights to what it might make.
async fn own_something(fleet: &Fleet) {
    // A strict tenant makes large objects only from version 16 on.
    let object =
        "select lo_from_bytea(4711, 'large'); alter large object 4711 owner to tenant_acme";
    fleet.admin("tenant_acme").await.batch_execute(object).await.unwrap();
    let connection = fleet.router().connection(&slug("acme")).await.unwrap();
    let sql = "grant select on large object 4711 to tenant_globex;
               alter default privileges grant select on tables to tenant_globex";
    connection.batch_execute(sql).await.unwrap();
}

/// The large object of `acme`, as an application reads it.
async fn large_object(fleet: &Fleet, name: &str) -> String {
    let connection = fleet.router().connection(&slug(name)).await.unwrap();
    let sql = "select convert_from(lo_get(4711), 'utf8')";
    connection.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn what_a_tenant_owns_itself_comes_back_under_any_name_and_on_any_server() {
    let fleet = fleet_with_backup().await;
    fleet.create_tenant("globex").await;
    own_something(&fleet).await;
    fleet.admin("postgres").await.batch_execute("create role auditor").await.unwrap();
    let connection = fleet.router().connection(&slug("acme")).await.unwrap();
    let sql = "grant select on large object 4711 to auditor;
               alter default privileges grant select on sequences to auditor";
    connection.batch_execute(sql).await.unwrap();
    drop(connection);
    fleet.back_up("acme").await;
    let second = second_server(&fleet).await;
    let (acme, latest) = (slug("acme"), BackupChoice::Latest);

    for (name, server) in [("acme-here", "default"), ("acme-there", "second")] {
        let to = RestoreAs { slug: slug(name), server: Some(server.to_owned()) };
        let asked = fleet.environment.restore_as(&acme, latest, to, BY).await.unwrap();
        fleet.complete(&asked).await;
        assert_eq!(large_object(&fleet, name).await, "large");
    }
    let moved = fleet.environment.restore_on(&acme, latest, Some("second"), BY).await.unwrap();
    fleet.complete(&moved).await;
    assert_eq!(large_object(&fleet, "acme").await, "large");
    undo(&fleet).await;
    assert_eq!(large_object(&fleet, "acme").await, "large");
    let rename = fleet.environment.rename(&acme, &slug("acme-corp"), BY).await.unwrap();
    fleet.complete(&rename).await;
    let restore = fleet.environment.restore(&slug("acme-corp"), latest, BY).await.unwrap();
    fleet.complete(&restore).await;

    assert_eq!(large_object(&fleet, "acme-corp").await, "large");
    fleet.assert_healthy().await;
    let left = left_on(&second).await;
    assert!(!left.contains(&"role tenant_globex".to_owned()), "{left:?}");
}

#[tokio::test]
async fn nobody_keeps_another_tenant_from_being_deleted() {
    let fleet = fleet_with_backup().await;
    fleet.create_tenant("globex").await;
    own_something(&fleet).await;
    let restore = fleet.environment.restore(&slug("acme"), BackupChoice::Latest, BY).await.unwrap();
    fleet.complete(&restore).await;
    own_something(&fleet).await;

    let delete = fleet.environment.delete(&slug("globex"), false, BY).await.unwrap();
    fleet.complete(&delete).await;

    assert_eq!(large_object(&fleet, "acme").await, "large");
    undo(&fleet).await;
    fleet.assert_healthy().await;
}
