//! What cannot become a tenant's is named, each with what to do about it, and nothing has been done.

use tenantry::catalog::operations::OperationState;
use tenantry::operations::runner::Disturbance;
use tenantry::operations::{AdoptFrom, AdoptionError};

use super::{BY, Scene, connect, from, lines, on_server, slug};

/// What is done inside of a database, in which role `old_app` owns everything, and what is said of it.
const INSIDE: &[(&str, &str)] = &[
    (
        "create function f() returns int language sql security definer as 'select 1'",
        "security_definer",
    ),
    (
        "create function f(int) returns int language sql immutable as 'select $1';
         create table t (a int, b int generated always as (f(a)) stored)",
        "runs_on_restore",
    ),
    (
        "create type mood as enum ('fine');
         create function told(mood) returns json language sql as 'select null::json';
         create cast (mood as json) with function told(mood)",
        "runs_on_restore",
    ),
    (
        "create type mood as enum ('fine'); create table p (i int primary key);
         create function told(mood) returns int language plpgsql as 'begin return 1; end';
         create cast (mood as int) with function told(mood) as implicit; create table f (x mood references p)",
        "runs_on_restore",
    ),
    (
        "create view v as select 1; create table t (i int, check (table_to_xml('v', true, false, '') is not null))",
        "runs_on_restore",
    ),
    (
        "create function f(int) returns int language sql immutable as 'select $1';
         create table t (a int); create index on t (f(a))",
        "runs_on_restore",
    ),
    (
        "create function before(int, int) returns int language plpgsql immutable as 'begin return 1; end';
         reset role; create operator class ints for type int using btree as
         operator 1 <, operator 3 =, operator 5 >, function 1 before(int, int)",
        "runs_on_restore",
    ),
    (
        "create function told(text, oid) returns text language sql as 'select $1';
         reset role; create extension citext; alter extension citext add function told(text, oid)",
        "extension_member",
    ),
    (
        "create function now() returns timestamptz language sql as 'select pg_catalog.now()'",
        "shadows",
    ),
    (
        "create function e() returns event_trigger language plpgsql as 'begin end';
         reset role; create event trigger watch on ddl_command_end execute function e()",
        "event_trigger",
    ),
    ("create table t (id int primary key); create publication p for table t", "publication"),
    (
        "reset role; create subscription s connection 'dbname=x' publication p with (connect = false)",
        "subscription",
    ),
    ("reset role; create extension dblink", "extension"),
    ("reset role; create extension pg_stat_statements", "extension"),
    (
        "reset role; create foreign data wrapper w; create server s foreign data wrapper w",
        "foreign_server",
    ),
    (
        "reset role; create function f(int, int) returns int language internal as 'int4pl'",
        "untrusted_function",
    ),
    (
        "create table t (id int); alter table t enable row level security;
         create policy p on t to old_app using (true)",
        "policy",
    ),
    ("create schema tenantry", "our_schema"),
    (
        "reset role; set allow_in_place_tablespaces = on;; create tablespace fast location '';;
         create table t (id int) tablespace fast",
        "tablespace",
    ),
    (
        "reset role; set allow_system_table_mods = on;
         create function pg_catalog.mine() returns int language sql as 'select 1'",
        "in_catalog",
    ),
    ("reset role; grant select on pg_authid to public", "catalog_right"),
    ("reset role; grant select (rolpassword) on pg_authid to public", "catalog_right"),
    ("reset role; grant execute on function pg_read_file(text) to public", "server_function"),
    ("reset role; select pg_create_logical_replication_slot('theirs', 'pgoutput')", "slot"),
    (
        "reset role; create role boss superuser; create table t (id int); alter table t owner to boss",
        "superuser",
    ),
    ("reset role; create table t (id int); grant select on t to tenant_globex", "tenant_role"),
    // Last: a replication slot waits for it.
    (
        "create table t (id int);; begin; insert into t values (1); prepare transaction 'x'",
        "prepared",
    ),
];

/// What is said of a database as the server has it; `{}` is its name.
const OUTSIDE: &[(&str, &str)] = &[
    ("alter database {} set search_path = app, public", "setting"),
    ("alter database {} set role = 'old_app'", "setting"),
    ("alter database {} set standard_conforming_strings = off", "setting"),
    ("alter database {} is_template true", "template"),
    ("alter database {} allow_connections false", "shut"),
    ("comment on database {} is 'tenantry group role'", "ours"),
    ("create role tenant_acme", "name_taken"),
    ("create database tenant_acme", "name_taken"),
    ("create database open", "open_database"),
    ("revoke connect on database open from public;; drop database {}", "missing"),
    (
        "drop database {};; create database {} template template0 encoding 'LATIN1' locale 'C'",
        "encoding",
    ),
    (
        "drop database {};; create database {} template template0 encoding 'UTF8' locale 'POSIX'",
        "locale",
    ),
];

fn kinds(obstacles: &[tenantry_provisioning::Obstacle]) -> Vec<&str> {
    obstacles.iter().map(|obstacle| obstacle.kind.as_str()).collect()
}

#[tokio::test]
async fn what_is_inside_is_named_with_its_remedy() {
    let scene = Scene::start().await;
    scene.fleet.create_tenant("globex").await;
    for (number, (sql, kind)) in INSIDE.iter().enumerate() {
        let name = format!("legacy_{number}");
        scene.database(&name).await;
        let client = scene.fleet.admin(&name).await;
        for part in format!("grant create on schema public to old_app;; set role old_app; {sql}")
            .split(";;")
        {
            client.batch_execute(part).await.unwrap_or_else(|error| panic!("{part}: {error:?}"));
        }
        drop(client);

        let plan =
            scene.fleet.environment.plan_adoption(&on_server("acme"), &from(&name)).await.unwrap();
        assert_eq!(kinds(&plan.obstacles), [*kind], "{sql}: {:#?}", plan.obstacles);
        assert!(!plan.obstacles[0].remedy.is_empty(), "{sql}");
        let refused = scene.try_adopt("acme", from(&name)).await.unwrap_err();
        assert!(matches!(refused, AdoptionError::Refused(_)), "{sql}: {refused:?}");
    }
    let last = format!("legacy_{}", INSIDE.len() - 1);
    scene.run(&last, "rollback prepared 'x'").await;
}

#[tokio::test]
async fn what_the_server_says_of_it_is_named_with_its_remedy() {
    let scene = Scene::start().await;
    for (number, (sql, kind)) in OUTSIDE.iter().enumerate() {
        let name = format!("legacy_{number}");
        let admin = scene.fleet.admin("postgres").await;
        scene.database(&name).await;
        for part in sql.replace("{}", &name).split(";;") {
            admin.batch_execute(part).await.unwrap_or_else(|error| panic!("{part}: {error:?}"));
        }

        let found = scene.obstacles("acme", &from(&name)).await;

        assert!(kinds(&found).contains(kind), "{sql}: {found:#?}");
        // One that lets everybody in keeps others from being tenants.
        for name in [name.as_str(), "tenant_acme"] {
            let shut = format!("revoke connect on database {name} from public");
            _ = admin.batch_execute(&shut).await;
        }
        admin.batch_execute("drop role if exists tenant_acme").await.unwrap();
        admin.batch_execute("drop database if exists tenant_acme").await.unwrap();
    }
    for (name, kind) in [
        ("postgres", "shared"),
        ("template1", "shared"),
        ("tenantry", "session"),
        ("tenantry_build_x", "missing"),
        ("Old App", "name"),
        ("", "name"),
    ] {
        let found = scene.obstacles("acme", &from(name)).await;
        assert!(kinds(&found).contains(&kind), "{name}: {found:#?}");
    }
    let template = "select datname::text from pg_database where datname ~ '^tenantry_template_'";
    let template = lines(&scene.fleet.admin("postgres").await, template).await.remove(0);
    assert!(kinds(&scene.obstacles("acme", &from(&template)).await).contains(&"ours"));
    scene.fleet.create_tenant("globex").await;
    let found = scene.obstacles("acme", &from("tenant_globex")).await;
    assert!(kinds(&found).contains(&"ours"), "{found:#?}");
    let found = scene.obstacles("globex", &from("old")).await;
    assert_eq!(kinds(&found), ["slug_taken", "name_taken", "name_taken"]);
    let found = scene.obstacles("acme", &AdoptFrom { baseline: Some(9), ..from("old") }).await;
    assert_eq!(kinds(&found), ["baseline"]);
}

#[tokio::test]
async fn known_functions_are_let_in_if_nobody_can_lead_them_astray() {
    let scene = Scene::start().await;
    scene
        .run("old", "create function f() returns int language sql security definer as 'select 1'")
        .await;
    let trusted = AdoptFrom { trust_functions: true, ..from("old") };

    let found = scene.obstacles("acme", &trusted).await;
    assert_eq!(kinds(&found), ["security_definer"]);
    assert!(found[0].remedy.contains("set search_path"), "{found:?}");
    scene.run("old", "alter function f() set search_path = pg_catalog, pg_temp").await;

    scene.fleet.complete(&scene.adopt("acme", trusted).await).await;
    scene.assert_no_findings().await;
}

#[tokio::test]
async fn whoever_is_in_it_is_named_and_not_put_out() {
    let scene = Scene::start().await;
    let user = connect(&scene.fleet.postgres.database_url("old")).await.unwrap();
    let found = scene.obstacles("acme", &from("old")).await;
    assert_eq!(kinds(&found), ["session"], "{found:#?}");
    assert!(found[0].remedy.contains("pg_terminate_backend"), "{found:?}");
    drop(user);

    // Somebody may come between two steps.
    let asked = scene.adopt("acme", from("old")).await;
    scene.disturb(&asked, "shut", false, Disturbance::Fail).await;
    let user = connect(&scene.fleet.postgres.database_url("old")).await.unwrap();
    scene.fleet.catalog().retry(asked.id).await.unwrap();
    let failed = scene.fleet.runner().complete(asked.id).await.unwrap();
    assert_eq!(failed.state, OperationState::Failed);
    assert!(failed.error.unwrap().message.contains("there is a session"));
    user.batch_execute("create table still (id int)").await.unwrap();
    connect(&scene.fleet.postgres.database_url("old")).await.unwrap();
    drop(user);

    scene.fleet.catalog().retry(asked.id).await.unwrap();
    scene.fleet.complete(&asked).await;
    assert_eq!(scene.fleet.count("acme", "still").await, 0);
}

#[tokio::test]
async fn two_adoptions_of_one_database_end_in_one_tenant() {
    let scene = Scene::start().await;
    let first = scene.adopt("acme", from("old")).await;
    let second = scene.adopt("globex", from("old")).await;
    scene.disturb(&second, "rehearse", false, Disturbance::Fail).await;
    scene.run("postgres", "alter database old allow_connections true").await;

    scene.fleet.complete(&first).await;
    scene.fleet.catalog().retry(second.id).await.unwrap();
    let failed = scene.fleet.runner().complete(second.id).await.unwrap();

    assert_eq!(failed.state, OperationState::Failed);
    scene.fleet.environment.cancel(second.id).await.unwrap();
    let ended = scene.fleet.runner().complete(second.id).await.unwrap();
    assert_eq!(ended.state, OperationState::Cancelled, "{:?}", ended.error);
    scene.fleet.router().connection(&slug("acme")).await.unwrap();
    scene.fleet.assert_healthy().await;
}

#[tokio::test]
async fn what_could_only_fail_later_is_found_while_there_is_a_way_back() {
    let scene = Scene::start().await;
    scene.run("old", "create table t (id int)").await;
    let asked = scene.adopt("acme", from("old")).await;
    scene.disturb(&asked, "shut", false, Disturbance::Fail).await;
    scene.run("old", "begin; insert into t values (1); prepare transaction 'late'").await;

    scene.fleet.catalog().retry(asked.id).await.unwrap();
    let failed = scene.fleet.runner().complete(asked.id).await.unwrap();

    let error = failed.error.unwrap();
    assert_eq!(error.step, "rehearse");
    assert!(error.remedy.unwrap().contains("rollback prepared 'late'"), "{}", error.message);
    scene.fleet.environment.cancel(asked.id).await.unwrap();
    scene.fleet.runner().complete(asked.id).await.unwrap();
    scene.run("old", "rollback prepared 'late'").await;
}

#[tokio::test]
async fn a_database_may_have_the_name_already() {
    let scene = Scene::start().await;
    scene.database("tenant_acme").await;
    scene.run("tenant_acme", "create table t (id int)").await;

    scene.fleet.complete(&scene.adopt("acme", from("tenant_acme")).await).await;

    assert_eq!(scene.fleet.count("acme", "t").await, 0);
    scene.assert_no_findings().await;
    scene.fleet.assert_healthy().await;
}

/// What was clean when somebody asked may not be any more, and its code would run with an administrator's rights.
#[tokio::test]
async fn what_comes_after_asking_is_found_before_anything_is_done() {
    let scene = Scene::start().await;
    let asked = scene.adopt("acme", from("old")).await;
    scene.disturb(&asked, "shut", false, Disturbance::Fail).await;
    scene
        .run(
            "old",
            "create table seen (who text); create function e() returns event_trigger language plpgsql
             as 'begin insert into public.seen values (current_user); end';
             create event trigger watch on ddl_command_end execute function e()",
        )
        .await;

    scene.fleet.catalog().retry(asked.id).await.unwrap();
    let failed = scene.fleet.runner().complete(asked.id).await.unwrap();

    let error = failed.error.unwrap();
    assert_eq!(error.step, "rehearse");
    assert!(error.message.contains("watch"), "{}", error.message);
    connect(&scene.fleet.postgres.database_url("old")).await.unwrap();
    scene.fleet.environment.cancel(asked.id).await.unwrap();
    scene.fleet.runner().complete(asked.id).await.unwrap();
    let seen = scene.fleet.admin("old").await.query_one("select count(*) from seen", &[]).await;
    assert_eq!(seen.unwrap().get::<_, i64>(0), 0);
    let again = scene.fleet.environment.adopt(&on_server("acme"), from("old"), BY).await;
    assert!(matches!(again, Err(AdoptionError::Refused(_))));
}
