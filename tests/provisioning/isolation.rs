//! What a tenant can reach, and how a breach is found.

use std::sync::Arc;
use std::time::Duration;

use tenantry_provisioning::{Error, FindingKind, Marker, scram_verifier};
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use super::ground::Ground;
use super::subject::{Subject, code};

#[tokio::test]
async fn a_tenant_can_use_its_data_and_nothing_else() {
    let ground = Ground::new().await;
    let server = ground.server().await;

    let acme = Subject::made("acme-corp", &server).await;

    let session = acme.connect(&server).await.unwrap();
    session.batch_execute("insert into boards (title) values ('one'); insert into stats.days values ('2026-01-01')").await.unwrap();
    let stamp = session.query_one("select current_setting('tenantry.tenant')", &[]).await.unwrap();
    assert_eq!(stamp.get::<_, String>(0), format!("{}:1", acme.owner.tenant));
    for sql in [
        "create table t ()",
        "create temporary table t ()",
        "create schema s",
        "alter table boards add x int",
        "drop table boards",
        "truncate boards",
        "select * from tenantry.schema_history",
        "select * from tenantry.schema_statements",
        "select * from tenantry.schema_repeatables",
        "insert into tenantry.schema_history values (9)",
        "set role tenantry_owner",
        "alter role current_user set tenantry.tenant = 'x'",
        "alter database \"tenant_acme-corp\" set tenantry.tenant = 'x'",
        "alter database \"tenant_acme-corp\" rename to x",
        "create extension hstore",
        "create role x",
        "create database x",
    ] {
        let error = session.batch_execute(sql).await.unwrap_err();
        assert_eq!(code(&error), "42501", "{sql}: {error:?}");
    }
    for database in ["postgres", "template1"] {
        let url =
            server.url().with_database(database).with_user(acme.role.as_str(), &acme.password);
        let error = url.connect().await.unwrap_err();
        assert!(matches!(error, Error::MissingPrivilege { .. }), "{database}: {error}");
    }
    assert_eq!(acme.findings(&server, 1).await, []);
}

/// What somebody does by hand, how it is undone, and what is found in between.
const BREACHES: &[(&str, &str, FindingKind, &str)] = &[
    (
        "grant connect on database tenant_acme to public",
        "revoke connect on database tenant_acme from public",
        FindingKind::PublicRight,
        "connect",
    ),
    (
        "grant connect on database tenant_acme to tenantry_app",
        "revoke connect on database tenant_acme from tenantry_app",
        FindingKind::ForeignRight,
        "tenantry_app connect",
    ),
    (
        "grant temporary on database tenant_acme to tenant_acme",
        "revoke temporary on database tenant_acme from tenant_acme",
        FindingKind::ForeignRight,
        "tenant_acme temporary",
    ),
    (
        "alter role tenant_acme createdb",
        "alter role tenant_acme nocreatedb",
        FindingKind::RoleAttribute,
        "createdb",
    ),
    (
        "grant tenantry_owner to tenant_acme",
        "revoke tenantry_owner from tenant_acme",
        FindingKind::Membership,
        "tenantry_owner",
    ),
    (
        "grant pg_read_all_data to tenantry_app",
        "revoke pg_read_all_data from tenantry_app",
        FindingKind::Membership,
        "pg_read_all_data",
    ),
    ("create role spy; grant tenant_acme to spy", "drop role spy", FindingKind::Member, "spy"),
    ("create database other", "drop database other", FindingKind::ReachesDatabase, "other"),
    ("alter database tenant_acme set tenantry.tenant = 'x'", "", FindingKind::WrongStamp, "x"),
    ("alter database tenant_acme reset tenantry.tenant", "STAMP", FindingKind::WrongStamp, "none"),
    (
        "alter role tenant_acme set tenantry.tenant = 'y'",
        "alter role tenant_acme reset tenantry.tenant",
        FindingKind::WrongStamp,
        "y",
    ),
    (
        "alter database tenant_acme is_template true",
        "alter database tenant_acme is_template false",
        FindingKind::Clonable,
        "tenant_acme",
    ),
    (
        "set password_encryption = 'md5'; alter role tenant_acme password 'x'",
        "PASSWORD",
        FindingKind::WeakPassword,
        "tenant_acme",
    ),
    ("comment on role tenant_acme is 'mine'", "ROLE", FindingKind::WrongMarker, "role tenant_acme"),
    (
        "comment on database tenant_acme is null",
        "DATABASE",
        FindingKind::WrongMarker,
        "database tenant_acme",
    ),
];

#[tokio::test]
async fn every_breach_is_found() {
    let ground = Ground::new().await;
    let server = ground.server().await;
    let acme = Subject::made("acme", &server).await;
    let marker = Marker::Tenant(acme.owner);
    for (breach, repair, kind, subject) in BREACHES {
        ground.superuser_runs(breach).await;

        let found = acme.findings(&server, 1).await;

        assert_eq!(found, [(*kind, (*subject).to_owned())], "{breach}");
        let repair = match *repair {
            "STAMP" | "" => format!(
                "alter database tenant_acme set tenantry.tenant = '{}:1'",
                acme.owner.tenant
            ),
            "PASSWORD" => {
                format!("alter role tenant_acme password '{}'", scram_verifier(&acme.password))
            }
            "ROLE" => format!("comment on role tenant_acme is '{marker}'"),
            "DATABASE" => format!("comment on database tenant_acme is '{marker}'"),
            sql => sql.to_owned(),
        };
        ground.superuser_runs(&repair).await;
        assert_eq!(acme.findings(&server, 1).await, [], "{repair}");
    }
    assert_eq!(acme.findings(&server, 2).await.len(), 1, "the stamp of another epoch");
}

#[tokio::test]
async fn a_fence_ends_sessions_and_refuses_new_ones() {
    let ground = Ground::new().await;
    let server = ground.server().await;
    let acme = Subject::made("acme", &server).await;
    let (one, two) = (acme.connect(&server).await.unwrap(), acme.connect(&server).await.unwrap());
    let busy = tokio::spawn(async move { one.batch_execute("select pg_sleep(60)").await.is_err() });

    let ended = server.fence(&acme.database, acme.owner.tenant).await.unwrap();

    assert_eq!(ended, 2);
    assert!(busy.await.unwrap());
    assert!(two.batch_execute("select 1").await.is_err());
    assert!(acme.connect(&server).await.is_err());
    assert_eq!(server.fence(&acme.database, acme.owner.tenant).await.unwrap(), 0);
    let other = server.unfence(&acme.database, Uuid::new_v4()).await.unwrap_err();
    assert!(matches!(other, Error::NotOurs { .. }));
    server.unfence(&acme.database, acme.owner.tenant).await.unwrap();
    acme.connect(&server).await.unwrap();
}

#[tokio::test]
async fn a_fence_lets_nobody_slip_in() {
    let ground = Ground::new().await;
    let server = ground.server().await;
    let acme = Arc::new(Subject::made("acme", &server).await);
    let knocking: Vec<_> = (0..4)
        .map(|_| {
            let (acme, server) = (acme.clone(), server.clone());
            tokio::spawn(async move {
                loop {
                    match acme.connect(&server).await {
                        Ok(session) => _ = session.batch_execute("select 1").await,
                        Err(error) if error.sql_state().map(SqlState::code) == Some("55000") => {
                            return;
                        }
                        Err(_) => {}
                    }
                }
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;

    server.fence(&acme.database, acme.owner.tenant).await.unwrap();
    let after = server.database(&acme.database).await.unwrap().unwrap().connections;

    assert_eq!(after, 0);
    for task in knocking {
        task.await.unwrap();
    }
}
