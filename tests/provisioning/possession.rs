//! From a build to a tenant, from one database of a tenant to the next, and away.

use std::process::Command;
use std::time::Duration;

use tenantry_provisioning::{
    DatabaseName, Error, FindingKind, Marker, MigrationTimeouts, Owner, Proof, Source, Swap,
    build_from_zero, random_password, scram_verifier,
};
use uuid::Uuid;

use super::ground::Ground;
use super::subject::{FILES, Subject, migrations, run};
use crate::harness::eventually;

#[tokio::test]
async fn possession_may_be_taken_twice() {
    let ground = Ground::new().await;
    let server = ground.server().await;
    let mut acme = Subject::made("acme", &server).await;
    run(&server, "revoke connect on database tenant_acme from tenant_acme; alter database tenant_acme allow_connections false").await;

    acme.password = random_password();
    acme.possess(&server, &acme.build()).await.unwrap();

    acme.connect(&server).await.unwrap();
    assert_eq!(acme.findings(&server, 1).await, []);
    let next = random_password();
    server.rotate_password(&acme.role, acme.owner.tenant, &scram_verifier(&next)).await.unwrap();
    acme.password = next;
    acme.connect(&server).await.unwrap();
    let clear = server.rotate_password(&acme.role, acme.owner.tenant, "secret").await.unwrap_err();
    assert!(matches!(clear, Error::NotAVerifier));
}

#[tokio::test]
async fn what_others_made_is_left_alone() {
    let ground = Ground::new().await;
    let server = ground.server().await;
    let acme = Subject::built("acme", &server).await;
    run(&server, "create role tenant_acme").await;

    let role = acme.possess(&server, &acme.build()).await.unwrap_err();
    run(&server, "drop role tenant_acme; create database tenant_acme").await;
    let database = acme.possess(&server, &acme.build()).await.unwrap_err();

    assert!(matches!(role, Error::NotOurs { kind: "role", .. }), "{role}");
    assert!(matches!(database, Error::NotOurs { kind: "database", .. }), "{database}");
    assert!(server.role(&acme.role).await.unwrap().is_none(), "the transaction left nothing");
    assert!(server.database(&acme.build()).await.unwrap().is_some());
    for proof in [Proof::Owner(acme.owner.tenant), Proof::Name] {
        let dropped = server.drop_owned_database(&acme.database, proof).await.unwrap_err();
        assert!(matches!(dropped, Error::NotOurs { .. }), "{dropped}");
    }
    let fenced = server.fence(&acme.database, acme.owner.tenant).await.unwrap_err();
    assert!(matches!(fenced, Error::NotOurs { .. }), "{fenced}");
}

#[tokio::test]
async fn a_spare_becomes_a_tenant() {
    let ground = Ground::new().await;
    let server = ground.server().await;
    let set = migrations(FILES);
    let (build, template) =
        (DatabaseName::build(Uuid::new_v4()), DatabaseName::template(set.digest()));
    build_from_zero(&server, &build, &set, MigrationTimeouts::default()).await.unwrap();
    for _ in 0..2 {
        server.seal_as_template(&build, &template, set.digest(), 2).await.unwrap();
    }
    let id = Uuid::new_v4();
    let (build, spare) = (DatabaseName::build(id), DatabaseName::spare(id));
    server.create_build(&build, Source::Template(&template)).await.unwrap();
    server.create_build(&build, Source::Template(&template)).await.unwrap();
    for _ in 0..2 {
        server.seal_as_spare(&build, &spare, set.digest(), 2).await.unwrap();
    }
    let facts = server.database(&spare).await.unwrap().unwrap();
    assert_eq!(facts.marker, Some(Marker::Spare { digest: set.digest().to_owned(), version: 2 }));
    assert!(!facts.allow_connections);

    let acme = Subject::new("acme");
    acme.possess(&server, &spare).await.unwrap();

    acme.connect(&server)
        .await
        .unwrap()
        .batch_execute("insert into boards (title) values ('x')")
        .await
        .unwrap();
    assert_eq!(acme.findings(&server, 1).await, []);
    assert!(server.database(&spare).await.unwrap().is_none());
    let missing = server
        .create_build(&DatabaseName::build(id), Source::Template(&DatabaseName::template("ff")))
        .await;
    assert!(matches!(missing, Err(Error::Missing { .. })), "{missing:?}");
    let taken = acme.possess(&server, &template).await;
    taken.unwrap();
    server.drop_owned_database(&template, Proof::Name).await.unwrap();
    assert!(server.database(&template).await.unwrap().is_none());
}

#[tokio::test]
async fn a_template_cannot_be_taken() {
    let ground = Ground::new().await;
    let server = ground.server().await;
    let (build, template) =
        (DatabaseName::build(Uuid::new_v4()), DatabaseName::template("0123456789abcdef"));
    server.create_build(&build, Source::Zero).await.unwrap();
    server.seal_as_template(&build, &template, "it's", 0).await.unwrap();

    let refused = Subject::new("acme").possess(&server, &template).await.unwrap_err();

    assert!(matches!(refused, Error::NotOurs { .. }), "{refused}");
}

#[tokio::test]
async fn a_swap_replaces_a_database_with_its_sessions_and_keeps_it() {
    let ground = Ground::new().await;
    let server = ground.server().await;
    let acme = Subject::made("acme", &server).await;
    let session = acme.connect(&server).await.unwrap();
    session.batch_execute("insert into boards (title) values ('old')").await.unwrap();
    let restore = Owner { operation: Uuid::new_v4(), ..acme.owner };
    let (incoming, retired) =
        (DatabaseName::build(restore.operation), DatabaseName::old(restore.operation));
    build_from_zero(&server, &incoming, &migrations(FILES), MigrationTimeouts::default())
        .await
        .unwrap();
    server.open_build(&incoming).await.unwrap();
    let beside = server.connect(&incoming).await.unwrap();
    beside.batch_execute("insert into boards (title) values ('new')").await.unwrap();
    let swap = Swap {
        live: &acme.database,
        incoming: &incoming,
        retired: &retired,
        role: &acme.role,
        owner: restore,
        epoch: 2,
    };

    for _ in 0..2 {
        server.swap(swap).await.unwrap();
    }

    assert!(session.batch_execute("select 1").await.is_err());
    let titles =
        acme.connect(&server).await.unwrap().query("select title from boards", &[]).await.unwrap();
    assert_eq!(titles.iter().map(|row| row.get(0)).collect::<Vec<&str>>(), ["new"]);
    assert_eq!(acme.findings(&server, 2).await, []);
    let kept = server.database(&retired).await.unwrap().unwrap();
    assert_eq!(kept.marker, Some(Marker::Tenant(restore)));
    assert!(!kept.allow_connections);
    let by_name = server.drop_owned_database(&retired, Proof::Name).await.unwrap_err();
    assert!(matches!(by_name, Error::NotOurs { .. }));
    server.drop_owned_database(&retired, Proof::Owner(acme.owner.tenant)).await.unwrap();
    assert!(server.database(&retired).await.unwrap().is_none());
    assert!(server.database(&incoming).await.unwrap().is_none());
}

#[tokio::test]
async fn a_swap_brings_back_a_database_that_was_lost() {
    let ground = Ground::new().await;
    let server = ground.server().await;
    let acme = Subject::made("acme", &server).await;
    run(&server, "drop database tenant_acme").await;
    let restore = Owner { operation: Uuid::new_v4(), ..acme.owner };
    let (incoming, retired) =
        (DatabaseName::build(restore.operation), DatabaseName::old(restore.operation));
    build_from_zero(&server, &incoming, &migrations(FILES), MigrationTimeouts::default())
        .await
        .unwrap();

    let swap = Swap {
        live: &acme.database,
        incoming: &incoming,
        retired: &retired,
        role: &acme.role,
        owner: restore,
        epoch: 2,
    };
    server.swap(swap).await.unwrap();

    assert_eq!(acme.findings(&server, 2).await, []);
}

#[tokio::test]
async fn a_tenant_is_dropped_with_its_sessions() {
    let ground = Ground::new().await;
    let server = ground.server().await;
    let acme = Subject::made("acme", &server).await;
    let session = acme.connect(&server).await.unwrap();
    let other =
        server.drop_owned_database(&acme.database, Proof::Owner(Uuid::new_v4())).await.unwrap_err();
    assert!(matches!(other, Error::NotOurs { .. }));
    let other = server.drop_role(&acme.role, Uuid::new_v4()).await.unwrap_err();
    assert!(matches!(other, Error::NotOurs { .. }));

    for _ in 0..2 {
        server.drop_owned_database(&acme.database, Proof::Owner(acme.owner.tenant)).await.unwrap();
        server.drop_role(&acme.role, acme.owner.tenant).await.unwrap();
    }

    assert!(session.batch_execute("select 1").await.is_err());
    assert!(server.list_databases().await.unwrap().is_empty());
    assert_eq!(server.list_roles().await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_role_goes_although_its_database_stays() {
    let ground = Ground::new().await;
    let server = ground.server().await;
    let acme = Subject::made("acme", &server).await;

    server.drop_role(&acme.role, acme.owner.tenant).await.unwrap();

    assert!(server.role(&acme.role).await.unwrap().is_none());
    assert_eq!(
        acme.findings(&server, 1).await,
        [(FindingKind::RoleMissing, "tenant_acme".to_owned())]
    );
}

#[tokio::test]
async fn what_an_interrupted_drop_left_is_dropped_again() {
    let ground = Ground::new().await;
    let server = ground.server().await;
    let acme = Subject::made("acme", &server).await;
    let build = DatabaseName::build(Uuid::new_v4());
    server.create_build(&build, Source::Zero).await.unwrap();
    ground
        .superuser_runs("update pg_database set datconnlimit = -2 where datname like 'tenant%'")
        .await;
    assert!(server.database(&build).await.unwrap().unwrap().is_invalid);

    server.create_build(&build, Source::Zero).await.unwrap();
    server.drop_owned_database(&acme.database, Proof::Owner(acme.owner.tenant)).await.unwrap();

    assert!(!server.database(&build).await.unwrap().unwrap().is_invalid);
    assert!(server.database(&acme.database).await.unwrap().is_none());
}

#[tokio::test]
async fn a_caller_that_gives_up_at_any_moment_leaves_what_a_retry_finishes() {
    let ground = Ground::new().await;
    let server = ground.server().await;
    for patience in (0..120).step_by(8) {
        let acme = Subject::new(&format!("t{patience}"));
        let making = async || -> Result<(), Box<dyn std::error::Error>> {
            let set = migrations(FILES);
            if server.database(&acme.database).await?.is_none() {
                build_from_zero(&server, &acme.build(), &set, MigrationTimeouts::default()).await?;
            }
            Ok(acme.possess(&server, &acme.build()).await?)
        };

        _ = tokio::time::timeout(Duration::from_millis(patience), making()).await;
        let between = server.list_databases().await.unwrap();
        let named = |name: &str| between.iter().any(|facts| facts.name == name);
        let mut tries = 0;
        while let Err(error) = making().await {
            tries += 1;
            assert!(tries < 20, "{error}");
        }

        assert!(!(named(acme.build().as_str()) && named(acme.database.as_str())), "{between:?}");
        assert_eq!(acme.findings(&server, 1).await, [], "{patience} ms");
    }
}

/// A server drops nothing while a client, of whatever database, does not read what it asked for.
#[tokio::test]
async fn a_drop_that_others_hold_up_is_given_up_with_their_names() {
    let ground = Ground::new().await;
    let server = ground.server().await;
    let globex = Subject::made("globex", &server).await;
    let client = globex.connect(&server).await.unwrap();
    let process: i32 = client.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
    let endless = "select generate_series(1, 2000000000), repeat('x', 2000)";
    let unread = client.query_raw(endless, std::iter::empty::<i32>()).await.unwrap();
    let admin = server.client().await.unwrap();
    eventually("the server waits for the client", async || {
        let sql = "select 1 from pg_stat_activity where pid = $1 and wait_event = 'ClientWrite'";
        admin.query_opt(sql, &[&process]).await.unwrap().is_some()
    })
    .await;
    // The buffers of a connection have room for some more rows now and then.
    let stopped = Stopped::new(process);
    let build = DatabaseName::build(Uuid::new_v4());
    server.create_build(&build, Source::Zero).await.unwrap();

    let refused = server.drop_owned_database(&build, Proof::Name).await.unwrap_err();

    drop(stopped);
    let told = refused.to_string();
    assert!(matches!(refused, Error::HeldUp { .. }), "{told}");
    assert!(
        told.contains(&format!("process {process} (tenant_globex in tenant_globex)")),
        "{told}"
    );
    assert!(refused.is_transient() && refused.remedy().is_some());
    drop((unread, client));
    server.drop_owned_database(&build, Proof::Name).await.unwrap();
    assert!(server.database(&build).await.unwrap().is_none());
}

/// A process that does nothing until this is dropped.
struct Stopped(i32);

impl Stopped {
    fn new(process: i32) -> Self {
        let stopped = Self(process);
        assert!(stopped.signal("STOP"));
        stopped
    }

    fn signal(&self, name: &str) -> bool {
        let sent = Command::new("kill").args(["-s", name, &self.0.to_string()]).status();
        sent.unwrap().success()
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.signal("CONT");
    }
}
