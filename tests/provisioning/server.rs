//! Preparing and checking a server, with and without a superuser, and what it refuses.

use std::time::Duration;

use tenantry_provisioning::{
    DatabaseName, Error, Marker, MigrationTimeouts, Owner, Proof, Rename, RoleName, Server,
    ServerUrl, Source, Swap, baseline, build_from_zero, random_password, read_schema,
    reference_schema, scram_verifier,
};
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use super::ground::Ground;
use super::subject::{FILES, Subject, migrations, run};

#[tokio::test]
async fn a_server_is_prepared_once_however_often_it_is_asked() {
    let ground = Ground::new().await;
    let server = ground.bare_server();
    let before = server.check().await.unwrap();
    assert!(
        before.iter().any(|problem| problem.what.contains("tenantry_owner is missing")),
        "{before:?}"
    );
    assert!(before.iter().any(|problem| problem.what.contains("`template1`")), "{before:?}");

    let (one, two, three) = tokio::join!(server.prepare(), server.prepare(), server.prepare());

    one.unwrap();
    two.unwrap();
    three.unwrap();
    assert_eq!(server.check().await.unwrap(), []);
    let roles = server.list_roles().await.unwrap();
    assert_eq!(roles.len(), 2);
    assert!(roles.iter().all(|role| role.marker == Some(Marker::GroupRole) && !role.can_login));
}

#[tokio::test]
async fn a_group_role_that_could_do_harm_is_not_adopted() {
    let ground = Ground::new().await;
    let server = ground.bare_server();
    run(&server, "create role tenantry_owner nologin; create role tenantry_app login").await;

    let refused = server.prepare().await.unwrap_err();
    run(&server, "alter role tenantry_app nologin").await;

    assert!(matches!(refused, Error::NotOurs { kind: "role", .. }), "{refused}");
    server.prepare().await.unwrap();
}

#[tokio::test]
async fn an_administrator_needs_not_be_a_superuser() {
    let ground = Ground::new().await;
    ground.superuser_runs("create role keeper login createdb createrole").await;
    let secret = random_password();
    ground
        .superuser_runs(&format!("alter role keeper password '{}'", scram_verifier(&secret)))
        .await;
    let url = ground.bare_server().url().with_user("keeper", &secret);
    let server = Server::new(url, 4);
    let first = server.prepare().await.unwrap_err();
    assert!(
        first.remedy().unwrap().contains("grant connect on database postgres to keeper"),
        "{first:?}"
    );
    let problems = server.check().await.unwrap();
    assert!(
        problems.iter().any(|problem| problem.remedy.contains("grant set on parameter")),
        "{problems:?}"
    );
    for database in ["postgres", "template1"] {
        ground
            .superuser_runs(&format!("grant connect on database {database} to keeper; revoke connect, temporary on database {database} from public"))
            .await;
    }
    server.prepare().await.unwrap();
    let acme = Subject::built("acme", &server).await;
    let unstamped = acme.possess(&server, &acme.build()).await.unwrap_err();
    assert!(
        unstamped.remedy().unwrap().contains("grant set on parameter tenantry.tenant"),
        "{unstamped}"
    );
    ground.superuser_runs("grant set on parameter tenantry.tenant to keeper").await;
    assert_eq!(server.check().await.unwrap(), []);

    acme.possess(&server, &acme.build()).await.unwrap();

    let session = acme.connect(&server).await.unwrap();
    session.batch_execute("insert into boards (title) values ('x')").await.unwrap();
    assert_eq!(acme.findings(&server, 1).await, []);
    let (set, timeouts) = (migrations(FILES), MigrationTimeouts::default());
    let found = read_schema(&server, &acme.database, Duration::from_secs(5)).await.unwrap();
    let build = DatabaseName::build(Uuid::new_v4());
    let expected = reference_schema(&server, &build, None, (&set, None), timeouts).await.unwrap();
    assert_eq!(expected.differences(&found.schema), []);
    baseline(&server, &acme.database, &set, timeouts).await.unwrap();
    let restore = Owner { operation: Uuid::new_v4(), ..acme.owner };
    let (incoming, retired) =
        (DatabaseName::build(restore.operation), DatabaseName::old(restore.operation));
    build_from_zero(&server, &incoming, &migrations(FILES), MigrationTimeouts::default())
        .await
        .unwrap();
    server
        .swap(Swap {
            live: &acme.database,
            incoming: &incoming,
            retired: &retired,
            role: &acme.role,
            owner: restore,
            epoch: 2,
        })
        .await
        .unwrap();
    assert_eq!(acme.findings(&server, 2).await, []);
    let names = (&acme.database, &acme.role);
    let (database, role) =
        (DatabaseName::tenant("initech").unwrap(), RoleName::tenant("initech").unwrap());
    let (tenant, grace) = (acme.owner.tenant, Duration::ZERO);
    for (from, to) in [(names, (&database, &role)), ((&database, &role), names)] {
        server.rename(Rename { from, to, tenant, grace }).await.unwrap();
    }
    assert_eq!(acme.findings(&server, 2).await, []);
    let open = acme.connect(&server).await.unwrap();
    assert_eq!(server.fence(&acme.database, acme.owner.tenant).await.unwrap(), 1);
    server.unfence(&acme.database, acme.owner.tenant).await.unwrap();
    let open_too = acme.connect(&server).await.unwrap();
    server
        .rotate_password(&acme.role, acme.owner.tenant, &scram_verifier(&random_password()))
        .await
        .unwrap();
    for database in [&acme.database, &retired] {
        server.drop_owned_database(database, Proof::Owner(acme.owner.tenant)).await.unwrap();
    }
    server.drop_role(&acme.role, acme.owner.tenant).await.unwrap();
    assert!(server.list_databases().await.unwrap().is_empty());
    drop((open, open_too));

    let (build, template) =
        (DatabaseName::build(Uuid::new_v4()), DatabaseName::template("0123456789abcdef"));
    server.create_build(&build, Source::Zero).await.unwrap();
    server.seal_as_template(&build, &template, "0123456789abcdef", 0).await.unwrap();
    server.create_build(&build, Source::Template(&template)).await.unwrap();
    server.drop_owned_database(&template, Proof::Name).await.unwrap();
}

#[tokio::test]
async fn what_the_server_refuses_is_told_with_a_remedy() {
    let ground = Ground::new().await;
    let server = ground.server().await;
    let nowhere = ServerUrl::parse("postgres://x@127.0.0.1:1/x").unwrap();
    let unreachable = nowhere.connect().await.unwrap_err();
    let absent = server.url().with_database("absent").connect().await.unwrap_err();
    let version = server.facts().await.unwrap().major;
    let build = DatabaseName::build(Uuid::new_v4());
    let mismatch = if version >= 15 {
        ground
            .superuser_runs(
                "update pg_database set datcollversion = '1' where datname = 'template0'",
            )
            .await;
        let refused = server.create_build(&build, Source::Zero).await;
        assert_eq!(server.check().await.unwrap().len(), 1);
        ground
            .superuser_runs(
                "update pg_database set datcollversion = null where datname = 'template0'",
            )
            .await;
        Some(refused.unwrap_err())
    } else {
        None
    };

    assert!(unreachable.is_transient() && unreachable.remedy().is_some(), "{unreachable}");
    assert!(unreachable.to_string().contains("127.0.0.1:1"), "{unreachable}");
    assert_eq!(absent.sql_state(), Some(&SqlState::INVALID_CATALOG_NAME));
    assert!(mismatch.is_none_or(|error| matches!(error, Error::CollationMismatch(_))));
}
