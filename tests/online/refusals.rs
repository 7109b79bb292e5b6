//! What logical replication leaves out: it is said before anything is made, or found before the switch.

use tenantry::catalog::lock::Claim;
use tenantry::catalog::operations::OperationState;
use tenantry::operations::runner::Disturbance;

use super::{BY, Two, connect, once, slug};

/// What makes it, what is said of it, and what takes it away again.
const OBSTACLES: &[(&str, &str, &str)] = &[
    (
        "create table bare (n int)",
        "neither a primary key nor a replica identity",
        "drop table bare",
    ),
    (
        "create table late (n int primary key deferrable)",
        "late has neither a primary key nor a replica identity",
        "drop table late",
    ),
    (
        "create table whole (n int, j json); alter table whole replica identity full",
        "a type without equality",
        "drop table whole",
    ),
    ("create unlogged table scratch (n int primary key)", "is unlogged", "drop table scratch"),
    (
        "create materialized view frozen as select 1 as one",
        "holds what it held",
        "drop materialized view frozen",
    ),
    ("select lo_from_bytea(4711, 'large')", "large objects", "select lo_unlink(4711)"),
    (
        "create function f() returns trigger language plpgsql as 'begin return new; end';
         create trigger always before insert on boards for each row execute function f();
         alter table boards enable always trigger always",
        "fires for what is replicated",
        "drop function f() cascade",
    ),
    (
        "create rule always as on insert to boards do also nothing; alter table boards enable replica rule always",
        "applies to what is replicated",
        "drop rule always on boards",
    ),
    (
        "create function e() returns event_trigger language plpgsql as 'begin end';
         create event trigger watch on ddl_command_end execute function e()",
        "runs when the schema is changed",
        "drop function e() cascade",
    ),
    ("create publication theirs for table boards", "publication theirs", "drop publication theirs"),
    (
        "select pg_create_logical_replication_slot('theirs', 'pgoutput')",
        "slot theirs is somebody else's",
        "select pg_drop_replication_slot('theirs')",
    ),
];

#[tokio::test]
async fn what_cannot_be_followed_is_said_and_goes_offline() {
    let two = Two::start().await;
    let acme = two.fleet.create_tenant_with("acme", true).await;
    let (environment, admin) = (&two.fleet.environment, two.fleet.admin("tenant_acme").await);
    assert_eq!(environment.online_obstacles(&acme, "eu-2").await.unwrap(), []);
    for (make, said, unmake) in OBSTACLES {
        admin.batch_execute(make).await.unwrap();
        let obstacles = environment.online_obstacles(&acme, "eu-2").await.unwrap();
        assert_eq!(obstacles.len(), 1, "{make}: {obstacles:?}");
        assert!(obstacles[0].what.contains(said), "{obstacles:?}");
        admin.batch_execute(unmake).await.unwrap();
    }
    admin.batch_execute("create unlogged table scratch as select 1 as one").await.unwrap();
    drop(admin);

    let asked = two.ask("eu-2").await;
    let ended = two.fleet.runner().complete(asked.id).await.unwrap();
    let error = ended.error.unwrap();
    assert_eq!((ended.state, &*error.step), (OperationState::Failed, "preflight"));
    assert!(
        error.message.contains("cannot be moved online: table public.scratch is unlogged"),
        "{}",
        error.message
    );
    assert!(error.remedy.unwrap().contains("--offline"));
    environment.cancel(asked.id).await.unwrap();
    two.fleet.runner().complete(asked.id).await.unwrap();

    // Nobody insists: it goes in the other way, with all that it has.
    let asked = environment.relocate(&slug("acme"), "eu-2", BY).await.unwrap();
    let done = two.fleet.complete(&asked).await;
    assert_eq!(done.memory["online"], false);
    let sql = "select one from scratch";
    assert_eq!(two.at_home().await.query_one(sql, &[]).await.unwrap().get::<_, i32>(0), 1);
    two.assert_tidy("offline").await;
}

/// Somebody changes the schema behind the copy's back, or adds what does not come along: the tenant stays.
#[tokio::test]
async fn what_changes_under_way_keeps_the_tenant_where_it_was() {
    let two = Two::start().await;
    two.fleet.create_tenant_with("acme", true).await;
    for (change, said) in [
        (
            "create table later (n int primary key); insert into later values (1)",
            "schema was changed",
        ),
        ("alter table boards add column note text", "schema was changed"),
        ("select lo_from_bytea(4711, 'large')", "large objects"),
    ] {
        let asked = two.ask("eu-2").await;
        let runner = two.fleet.disturbed_runner(once("move", false, Disturbance::Vanish));
        runner.run_one(Claim::Operation(asked.id)).await.unwrap();
        two.fleet.admin("tenant_acme").await.batch_execute(change).await.unwrap();

        let ended = two.fleet.runner().complete(asked.id).await.unwrap();

        let error = ended.error.unwrap();
        assert_eq!((ended.state, &*error.step), (OperationState::Failed, "move"));
        assert!(error.message.contains(said), "{}", error.message);
        assert_eq!(two.fleet.tenant("acme").await.server_name, "default");
        let tenant = two.router().connection(&slug("acme")).await.unwrap();
        tenant.execute("insert into boards (title) values ('still')", &[]).await.unwrap();
        two.fleet.environment.cancel(asked.id).await.unwrap();
        two.fleet.runner().complete(asked.id).await.unwrap();
        two.assert_tidy(change).await;
    }
    two.at_home().await.batch_execute("select lo_unlink(4711)").await.unwrap();
    two.relocate("eu-2").await;
    let sql =
        "select (select count(*) from later), (select count(*) from boards where note is null)";
    let row = two.at_home().await.query_one(sql, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (1, 6));
}

/// What an undoing that was cut off left over there under the tenant's name is older than what the tenant has: it is
/// refused, and the retry begins anew.
#[tokio::test]
async fn a_copy_that_is_out_of_date_is_never_served() {
    let two = Two::start().await;
    let acme = two.fleet.create_tenant_with("acme", true).await;
    let asked = two.ask("eu-2").await;
    let runner = two.fleet.disturbed_runner(once("move", false, Disturbance::Vanish));
    runner.run_one(Claim::Operation(asked.id)).await.unwrap();
    let there = connect(&two.other.url()).await.unwrap();
    there.batch_execute("create database tenant_acme").await.unwrap();
    let marker = format!("tenantry tenant={} operation={}", acme.id, asked.id);
    let mark = format!(
        "create role tenant_acme; comment on role tenant_acme is '{marker}';
         comment on database tenant_acme is '{marker}'"
    );
    there.batch_execute(&mark).await.unwrap();

    let ended = two.fleet.runner().complete(asked.id).await.unwrap();

    assert_eq!(ended.state, OperationState::Failed);
    let error = ended.error.unwrap();
    assert!(error.message.contains("out of date by now"), "{}", error.message);
    assert_eq!(two.fleet.tenant("acme").await.server_name, "default");
    assert_eq!(two.fleet.count("acme", "boards").await, 3);
    two.fleet.catalog().retry(asked.id).await.unwrap();
    let ended = two.fleet.runner().complete(asked.id).await.unwrap();
    assert_eq!(ended.state, OperationState::Succeeded, "{:?}", ended.error);
    let boards = two.at_home().await.query_one("select count(*) from boards", &[]).await.unwrap();
    assert_eq!(boards.get::<_, i64>(0), 3);
    two.assert_tidy("after the retry").await;
}
