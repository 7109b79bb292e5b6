//! The way back: what a tenant left follows it, so that it goes back without a copy and without a loss. Whatever makes
//! that doubtful closes the way, and nothing of it is left.

use std::time::Duration;

use tenantry::catalog::CatalogError;
use tenantry::catalog::lock::Claim;
use tenantry::embedded::{EmbeddedPostgres, PostgresSettings};
use tenantry::operations::request::BackupChoice;
use tenantry::operations::upkeep;
use tokio_postgres::Client;

use super::{
    BY, Disturbance, OperationState, TenantState, Two, Way, Writers, connect, die_everywhere,
    eventually, logical, once, slug,
};
use crate::harness::process;

/// A tenant on `eu-2` that `default` follows.
async fn moved() -> Two {
    let two = Two::start().await;
    two.fleet.create_tenant_with("acme", true).await;
    two.relocate("eu-2").await;
    let left = two.follower().await.expect("what it left follows");
    assert_eq!(left.server_name, "default");
    two.assert_tidy("after the move").await;
    two
}

/// A session in what the tenant left on `default`.
async fn kept(two: &Two) -> Client {
    let left = two.follower().await.expect("it follows");
    two.fleet.admin(&format!("tenantry_old_{}", left.operation.simple())).await
}

async fn boards(client: &Client) -> i64 {
    client.query_one("select count(*) from boards", &[]).await.unwrap().get(0)
}

/// Why nothing follows, by the newest of what the tenant left.
async fn why_not(two: &Two) -> String {
    assert!(two.follower().await.is_none());
    let acme = two.fleet.tenant("acme").await;
    let mut left = two.fleet.catalog().left_by(&acme).await.unwrap();
    left.remove(0).unfollowed.expect("somebody has said why")
}

#[tokio::test]
async fn going_back_and_forth_under_writes_copies_nothing_and_loses_nothing() {
    let two = Two::start().await;
    two.fleet.create_tenant_with("acme", true).await;
    let admin = two.fleet.admin("tenant_acme").await;
    Writers::prepare(&admin).await;
    let more = "create table ballast (n int primary key, t text);
                insert into ballast select n, repeat(md5(n::text), 10) from generate_series(1, 20000) n;
                create sequence tickets start 1000";
    admin.batch_execute(more).await.unwrap();
    let before = two.fleet.tenant("acme").await;
    let writers = Writers::start(&two.router(), 8);
    two.relocate("eu-2").await;

    for to in ["default", "eu-2", "default"] {
        tokio::time::sleep(Duration::from_millis(300)).await;
        two.at_home().await.batch_execute("select nextval('tickets')").await.unwrap();
        let acme = two.fleet.tenant("acme").await;
        assert_eq!(two.fleet.catalog().server_left(&acme).await.unwrap(), to);
        let moved = two.relocate(to).await;
        assert!(!moved.memory["return"].is_null(), "nothing is copied: {}", moved.memory);
        two.assert_tidy(to).await;
    }

    tokio::time::sleep(Duration::from_millis(200)).await;
    let longest = writers.stop_and_check(&two.at_home().await).await;
    assert!(longest < Duration::from_secs(15), "somebody waited for {longest:?}");
    let acme = two.fleet.tenant("acme").await;
    assert_eq!(acme.epoch, before.epoch + 4);
    let facts = "select (select nextval('tickets')), (select count(*) from ballast)";
    let row = two.at_home().await.query_one(facts, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (1003, 20_000), "sequences go on");
    assert_eq!(two.audit().await, [] as [String; 0]);
    for server in [&two.fleet.postgres, &two.other] {
        let log = std::fs::read_to_string(server.log_path()).unwrap();
        assert!(!log.contains("password='"), "a password is in the log");
    }
}

#[tokio::test]
async fn wherever_a_return_dies_one_place_serves() {
    Box::pin(die_everywhere(true)).await;
}

/// What follows holds what was written since; whoever asks for what was before that is told so.
#[tokio::test]
async fn what_follows_is_not_what_was_left() {
    let two = moved().await;
    let home = two.at_home().await;

    home.batch_execute("insert into boards (title) values ('since')").await.unwrap();

    let kept = kept(&two).await;
    eventually("it has come across", async || boards(&kept).await == 4).await;
    let refused = two.fleet.environment.undo_restore(&slug("acme"), BY).await.unwrap_err();
    assert!(
        matches!(&refused, CatalogError::Conflict(why) if why.contains("relocate acme --back")),
        "{refused}"
    );
    // A dump takes nothing of it along, and so does what comes of the dump.
    two.fleet.back_up("acme").await;
    let drill = two.fleet.environment.drill_tenant(&slug("acme"), BY).await.unwrap();
    two.fleet.complete(&drill).await;
    assert_eq!(two.audit().await, [] as [String; 0]);
    two.assert_tidy("after a drill").await;
}

/// The copied schema is not the tenant's any more: the next move copies again. What is kept can still be served, as it
/// was then, with sequences that clash with nothing.
#[tokio::test]
async fn a_migration_closes_the_way() {
    let two = moved().await;
    two.at_home().await.batch_execute("insert into boards (title) values ('since')").await.unwrap();
    let kept = kept(&two).await;
    eventually("it has come across", async || boards(&kept).await == 4).await;
    drop(kept);
    two.fleet.add_migration("V2__labels.sql", "create table labels (id bigint primary key);");
    two.fleet.environment.reload_migrations().await.unwrap();

    let batch = two.fleet.environment.migrate_fleet(&[], "test").await.unwrap();
    two.fleet.runner().complete_batch(batch, 1).await.unwrap();

    assert_eq!(why_not(&two).await, "the tenant's schema was migrated");
    two.assert_tidy("after a migration").await;
    let undo = two.fleet.environment.undo_restore(&slug("acme"), BY).await.unwrap();
    two.fleet.complete(&undo).await;
    let home = two.at_home().await;
    home.batch_execute("insert into boards (title) values ('again')").await.unwrap();
    assert_eq!(boards(&home).await, 5);
    let moved = two.relocate("eu-2").await;
    assert!(moved.memory["return"].is_null(), "everything is copied");
    assert_eq!(boards(&two.at_home().await).await, 5);
    two.assert_tidy("after another move").await;
}

/// A return that is given up leaves what follows as it was.
#[tokio::test]
async fn what_follows_goes_on_when_a_return_is_given_up() {
    let two = moved().await;
    let before = two.follower().await.unwrap().operation;
    for step in ["follow", "move"] {
        let asked = two.ask("default").await;
        let runner = two.fleet.disturbed_runner(once(step, false, Disturbance::Fail));
        assert_eq!(runner.complete(asked.id).await.unwrap().state, OperationState::Failed);

        two.fleet.environment.cancel(asked.id).await.unwrap();
        let ended = two.fleet.runner().complete(asked.id).await.unwrap();

        assert_eq!(ended.state, OperationState::Cancelled);
        assert_eq!(two.fleet.tenant("acme").await.server_name, "eu-2");
        assert_eq!(two.follower().await.unwrap().operation, before);
        two.assert_tidy(step).await;
    }
    two.at_home().await.batch_execute("insert into boards (title) values ('since')").await.unwrap();
    assert!(!two.relocate("default").await.memory["return"].is_null());
    assert_eq!(two.fleet.count("acme", "boards").await, 4);
}

/// The switch fails when everything has come across already: the tenant is served where it was, and the next try
/// copies, as nobody knows what the follower missed meanwhile.
#[tokio::test]
async fn a_switch_that_fails_at_its_end_closes_the_way() {
    let two = moved().await;
    let host = connect(&two.fleet.postgres.url()).await.unwrap();
    host.batch_execute("create role tenant_acme").await.unwrap();
    let asked = two.ask("default").await;
    let ended = two.fleet.runner().complete(asked.id).await.unwrap();
    assert_eq!(ended.state, OperationState::Failed, "somebody else has the name of its role");
    let acme = two.fleet.tenant("acme").await;
    assert_eq!((&*acme.server_name, acme.state), ("eu-2", TenantState::Active));
    let home = two.at_home().await;
    home.batch_execute("insert into boards (title) values ('since')").await.unwrap();
    drop(home);
    host.batch_execute("drop role tenant_acme").await.unwrap();

    two.fleet.catalog().retry(asked.id).await.unwrap();
    let done = two.fleet.complete(&asked).await;

    assert!(done.memory["return"].is_null(), "everything is copied");
    assert_eq!(two.fleet.count("acme", "boards").await, 4);
    assert_eq!(two.follower().await.unwrap().server_name, "eu-2");
    two.assert_tidy("after the retry").await;
}

/// What somebody changes by hand is found when it is needed, or by the upkeep; the tenant goes back by a copy.
#[tokio::test]
async fn a_follower_that_is_lost_is_given_up_and_everything_is_copied() {
    let two = moved().await;
    let home = two.at_home().await;
    home.batch_execute("alter table boards add column note text").await.unwrap();

    let back = two.relocate("default").await;

    assert!(back.memory["return"].is_null(), "everything is copied");
    let home = two.at_home().await;
    home.batch_execute("insert into boards (title, note) values ('since', 'x')").await.unwrap();
    assert_eq!(boards(&home).await, 4);
    assert_eq!(two.follower().await.unwrap().server_name, "eu-2");
    two.assert_tidy("after the copy").await;
    let host = connect(&two.fleet.postgres.url()).await.unwrap();
    // Its reader comes back at once, and then it cannot be dropped.
    let drop_it = "select pg_terminate_backend(active_pid, 5000) from pg_replication_slots;
                   select pg_drop_replication_slot(slot_name) from pg_replication_slots";
    eventually("the slot is dropped", async || host.batch_execute(drop_it).await.is_ok()).await;

    upkeep::tend(&two.fleet.environment).await.unwrap();

    assert_eq!(why_not(&two).await, "its replication slot is gone");
    two.assert_tidy("after the upkeep").await;
}

/// It looks as before, and what is written to it does not come across.
#[tokio::test]
async fn a_table_that_was_made_anew_closes_the_way() {
    let two = Two::start().await;
    two.fleet.create_tenant_with("acme", true).await;
    let staging = "create table staging (id int primary key)";
    two.fleet.admin("tenant_acme").await.batch_execute(staging).await.unwrap();
    two.relocate("eu-2").await;
    assert!(two.follower().await.is_some());

    let anew = format!("drop table staging; {staging}");
    two.at_home().await.batch_execute(&anew).await.unwrap();
    upkeep::tend(&two.fleet.environment).await.unwrap();

    assert_eq!(why_not(&two).await, "a table of the tenant's was made since");
    two.assert_tidy("after the upkeep").await;
}

/// The server that keeps it is away: what is done to the tenant goes on, and the rest is cut off when it is back.
#[tokio::test]
async fn a_server_that_is_away_holds_nothing_up() {
    let mut two = moved().await;
    two.relocate("default").await;
    two.other.kill();
    let home = two.at_home().await;
    home.batch_execute("insert into boards (title) values ('since')").await.unwrap();
    drop(home);

    let to = slug("acme-two");
    let rename = two.fleet.environment.rename(&slug("acme"), &to, BY).await.unwrap();
    two.fleet.complete(&rename).await;

    assert_eq!(why_not(&two).await, "the tenant was renamed");
    assert_eq!(joints(&two.fleet.postgres).await, [] as [String; 0]);
    two.other.restart().await.unwrap();
    upkeep::tend(&two.fleet.environment).await.unwrap();
    assert_eq!(joints(&two.other).await, [] as [String; 0]);
    assert!(two.fleet.catalog().followers().await.unwrap().is_empty());
    two.fleet.assert_healthy().await;
    // It was away for a moment only, and nobody changed anything: it goes on.
    two.fleet.complete(&two.fleet.environment.relocate(&to, "eu-2", BY).await.unwrap()).await;
    two.fleet.complete(&two.fleet.environment.relocate(&to, "default", BY).await.unwrap()).await;
    two.other.kill();
    let home = two.fleet.admin("tenant_acme-two").await;
    home.batch_execute("insert into boards (title) values ('while it was away')").await.unwrap();
    _ = upkeep::tend(&two.fleet.environment).await;
    two.other.restart().await.unwrap();
    upkeep::tend(&two.fleet.environment).await.unwrap();
    let asked = two.fleet.environment.relocate(&to, "eu-2", BY).await.unwrap();
    let back = two.fleet.complete(&asked).await;
    assert!(!back.memory["return"].is_null(), "nothing is copied");
    let home = connect(&two.other.database_url("tenant_acme-two")).await.unwrap();
    assert_eq!(boards(&home).await, 5);
}

/// What joins databases on a server.
async fn joints(server: &EmbeddedPostgres) -> Vec<String> {
    let session = connect(&server.url()).await.unwrap();
    let sql = "select slot_name::text from pg_replication_slots
               union all select subname::text from pg_subscription
               union all select rolname::text from pg_roles where rolname ~ '^tenantry_(move|back)'";
    let rows = session.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Another database in its place, its time, another move, and the end of the tenant.
#[tokio::test]
async fn whatever_ends_the_way_back_leaves_nothing() {
    let two = moved().await;
    let environment = &two.fleet.environment;
    two.fleet.back_up("acme").await;
    let restore = environment.restore(&slug("acme"), BackupChoice::Latest, BY).await.unwrap();
    two.fleet.complete(&restore).await;
    assert!(two.follower().await.is_none());
    two.assert_tidy("after a restore").await;

    two.relocate("default").await;
    assert_eq!(two.follower().await.unwrap().server_name, "eu-2");
    assert!(environment.finish_relocation(&slug("acme")).await.unwrap() > 0);
    assert!(two.follower().await.is_none());
    two.assert_tidy("after the way was given up").await;

    two.relocate("eu-2").await;
    assert!(two.follower().await.is_some());
    let catalog = two.fleet.admin("tenantry").await;
    let expire = "update retained_databases set drop_after = now() - interval '1 second'";
    catalog.batch_execute(expire).await.unwrap();
    upkeep::tend(environment).await.unwrap();
    assert!(two.follower().await.is_none());
    two.assert_tidy("after its time").await;

    two.relocate("default").await;
    let third = EmbeddedPostgres::start_scratch(logical()).await.unwrap();
    let record = two.fleet.catalog().add_server("eu-3", &third.url().into()).await.unwrap();
    environment.server(record.id).await.unwrap().prepare().await.unwrap();
    let onward = environment.relocate_by(&slug("acme"), "eu-3", Way::Online, BY).await.unwrap();
    two.fleet.complete(&onward).await;
    assert_eq!(two.follower().await.unwrap().server_name, "default");
    assert_eq!(joints(&two.other).await, [] as [String; 0]);
    assert_eq!(two.audit().await, [] as [String; 0]);

    let delete = environment.delete(&slug("acme"), false, BY).await.unwrap();
    two.fleet.complete(&delete).await;
    for server in [&two.fleet.postgres, &two.other, &third] {
        assert_eq!(joints(server).await, [] as [String; 0]);
    }
    two.fleet.assert_healthy().await;
}

/// The new server cannot be followed, and nobody minds: the move is as it always was, and says so.
#[tokio::test]
async fn a_move_to_a_server_that_cannot_be_followed_has_no_way_back() {
    let two = Two::start().await;
    let plain = EmbeddedPostgres::start_scratch(PostgresSettings::scratch()).await.unwrap();
    let record = two.fleet.catalog().add_server("plain", &plain.url().into()).await.unwrap();
    two.fleet.environment.server(record.id).await.unwrap().prepare().await.unwrap();
    two.fleet.create_tenant_with("acme", true).await;

    two.relocate("plain").await;

    let why = why_not(&two).await;
    assert!(why.contains("wal_level"), "{why}");
    assert_eq!(joints(&plain).await, [] as [String; 0]);
    assert_eq!(joints(&two.fleet.postgres).await, [] as [String; 0]);
    let home = connect(&plain.database_url("tenant_acme")).await.unwrap();
    assert_eq!(boards(&home).await, 3);
    // What was shut is as it was left.
    let undo = two.fleet.environment.undo_restore(&slug("acme"), BY).await.unwrap();
    two.fleet.complete(&undo).await;
    assert_eq!(two.fleet.count("acme", "boards").await, 3);
    two.fleet.assert_healthy().await;
}

/// What the catalog does not know of is named, as it keeps the log of a whole server.
#[tokio::test]
async fn a_stray_slot_of_a_way_back_is_found() {
    let two = moved().await;
    let asked = two.follower().await.unwrap().operation;
    let stray = "tenantry_back_00000000000000000000000000000000";
    let admin = two.at_home().await;
    let make = "select pg_create_logical_replication_slot($1, 'pgoutput')";
    admin.execute(make, &[&stray]).await.unwrap();

    let report = tenantry::doctor::examine(&two.fleet.environment).await.unwrap();

    assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
    assert!(report.findings[0].what.contains(stray), "{:?}", report.findings);
    assert!(report.fixes.is_empty(), "{:?}", report.fixes);
    assert_eq!(two.audit().await, [format!("replication_slot {stray}")]);
    admin.execute("select pg_drop_replication_slot($1)", &[&stray]).await.unwrap();
    assert_eq!(two.follower().await.unwrap().operation, asked);
}

/// Either server dies in the middle of a return; what follows goes on where it was, as soon as both are there.
#[tokio::test]
async fn a_return_outlives_the_death_of_either_server() {
    let mut two = moved().await;
    for (to, from) in [("default", "eu-2"), ("eu-2", "default")] {
        let asked = two.ask(to).await;
        let runner = two.fleet.disturbed_runner(once("move", false, Disturbance::Vanish));
        runner.run_one(Claim::Operation(asked.id)).await.unwrap();
        let home = two.at_home().await;
        home.batch_execute("insert into boards (title) values ('since')").await.unwrap();
        drop(home);
        // `default` has the catalog, too.
        two.other.kill();

        two.fleet.catalog().release_all_abandoned().await.unwrap();
        two.fleet.runner().run_one(Claim::Operation(asked.id)).await.unwrap();

        let acme = two.fleet.tenant("acme").await;
        assert_eq!((&*acme.server_name, acme.state), (from, TenantState::Active));
        two.other.restart().await.unwrap();
        let ended = two.fleet.runner().complete(asked.id).await.unwrap();
        assert_eq!(ended.state, OperationState::Succeeded, "{:?}", ended.error);
        assert_eq!(two.fleet.tenant("acme").await.server_name, to);
        two.assert_tidy(to).await;
    }
    assert_eq!(boards(&two.at_home().await).await, 5);
}

#[tokio::test]
async fn operators_see_whether_it_follows() {
    let two = Two::start().await;
    two.fleet.create_tenant_with("acme", true).await;
    let run = |arguments: &[&str]| {
        let mut command = process::command(&two.fleet);
        let output = command.args(["tenant"]).args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        (String::from_utf8_lossy(&output.stdout).into_owned(), said)
    };

    let (_, said) = run(&["relocate", "acme", "--to", "eu-2", "--yes"]);
    assert!(said.contains("what it left on default follows it"), "{said}");
    let (shown, _) = run(&["show", "acme"]);
    assert!(shown.contains("Left behind") && shown.contains("it follows"), "{shown}");
    let (_, said) = run(&["relocate", "acme", "--back", "--yes"]);
    assert!(said.contains("what it left on eu-2 follows it"), "{said}");
    two.at_home().await.batch_execute("create table more (n int primary key)").await.unwrap();
    let (_, said) = run(&["relocate", "acme", "--back", "--yes"]);
    assert!(said.contains("copied anew: the tenant's schema was changed since"), "{said}");
    let (shown, _) = run(&["show", "acme", "--output-format", "json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["left"][0]["server"], "default", "{shown}");
    assert_eq!(shown["left"][0]["follows"], true, "{shown}");
}
