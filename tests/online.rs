//! A tenant that moves while it is served: nobody hears an error, nothing is lost, and nothing is left behind.

use std::time::Duration;

use tenantry::audit::{Audit, AuditOptions};
use tenantry::catalog::lock::Claim;
use tenantry::catalog::operations::{OperationRecord, OperationState};
use tenantry::catalog::way_back::Left;
use tenantry::embedded::{EmbeddedPostgres, PostgresSettings};
use tenantry::operations::Way;
use tenantry::operations::runner::Disturbance;
use tenantry::router::{RouterSettings, TenantRouter};
use tenantry::tenant::TenantState;

use crate::harness::{BY, Fleet, Options, connect, eventually, once, router_settings, slug};

mod arrival;
mod back;
mod deaths;
mod network;
mod refusals;
mod upgrade;
mod writers;

use writers::Writers;

/// A fleet of two servers that replicate, `default` and `eu-2`.
struct Two {
    fleet: Fleet,
    other: EmbeddedPostgres,
}

fn logical() -> PostgresSettings {
    let mut settings = PostgresSettings::scratch();
    let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    settings.extra = vec![
        set("wal_level", "logical"),
        set("log_statement", "all"),
        // A server starts no second subscription for so long after the first, which is 5 s unless somebody says.
        set("wal_retrieve_retry_interval", "100ms"),
    ];
    settings
}

impl Two {
    async fn start() -> Self {
        let options = Options { postgres: logical(), ..Options::default() };
        let fleet = Fleet::start_with(options).await;
        let other = EmbeddedPostgres::start_scratch(logical()).await.unwrap();
        let record = fleet.catalog().add_server("eu-2", &other.url().into()).await.unwrap();
        fleet.environment.server(record.id).await.unwrap().prepare().await.unwrap();
        Self { fleet, other }
    }

    fn router(&self) -> TenantRouter {
        let settings =
            RouterSettings { pool_wait_timeout: Duration::from_secs(30), ..router_settings() };
        TenantRouter::new(self.fleet.catalog().clone(), self.fleet.changes.clone(), settings)
    }

    async fn ask(&self, to: &str) -> OperationRecord {
        self.fleet.environment.relocate_by(&slug("acme"), to, Way::Online, BY).await.unwrap()
    }

    /// Asks and sees that it ends well.
    async fn relocate(&self, to: &str) -> OperationRecord {
        let asked = self.ask(to).await;
        let ended = self.fleet.complete(&asked).await;
        assert_eq!(self.fleet.tenant("acme").await.server_name, to);
        ended
    }

    /// An administrator's session where the tenant is now.
    async fn at_home(&self) -> tokio_postgres::Client {
        let home = self.fleet.tenant("acme").await.server_name;
        let server = if home == "default" { &self.fleet.postgres } else { &self.other };
        connect(&server.database_url("tenant_acme")).await.unwrap()
    }

    /// What an audit finds.
    async fn audit(&self) -> Vec<String> {
        let environment = &self.fleet.environment;
        let begun = Audit::begin(environment, AuditOptions::default(), "test").await.unwrap();
        let report = begun.unwrap().run().await.unwrap().report;
        report.findings.iter().map(|found| format!("{} {}", found.kind, found.subject)).collect()
    }

    /// What the tenant left and what follows it, of which there is at most one.
    async fn follower(&self) -> Option<Left> {
        let mut found = self.fleet.catalog().followers().await.unwrap();
        assert!(found.len() < 2, "{found:?}");
        found.pop().filter(Left::is_following)
    }

    /// Nothing of a relocation is left, but databases that are kept, shut, and what the one needs that follows.
    async fn assert_tidy(&self, context: &str) {
        let home = self.fleet.tenant("acme").await.server_name;
        let follower = self.follower().await;
        for (name, server) in [("default", &self.fleet.postgres), ("eu-2", &self.other)] {
            let session = connect(&server.url()).await.unwrap();
            let sql = "select 'slot ' || slot_name from pg_replication_slots
                       union all select 'subscription ' || subname from pg_subscription
                       union all select 'role ' || rolname from pg_roles where rolname ~ '^tenantry_(move|back)'
                       union all select datname || ' is open' from pg_database
                                 where datname ~ '^tenantry_(build|old)' and (datallowconn or datname ~ 'build')
                       union all select rolname || ' may enter ' || datname from pg_roles, pg_database
                                 where datname ~ '^tenantry_old' and not rolsuper
                                   and has_database_privilege(rolname, datname, 'connect')
                       order by 1";
            let rows = session.query(sql, &[]).await.unwrap();
            let found: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
            let joint = follower.as_ref().map(|left| {
                let (id, at_home) = (left.operation.simple(), name == home);
                let away = [
                    format!("subscription tenantry_back_{id}"),
                    format!("tenantry_old_{id} is open"),
                ];
                let here = ["role", "slot"].map(|kind| format!("{kind} tenantry_back_{id}"));
                if at_home {
                    here.to_vec()
                } else if name == left.server_name {
                    away.to_vec()
                } else {
                    Vec::new()
                }
            });
            assert_eq!(found, joint.unwrap_or_default(), "{context}: {name}");
        }
        let sql = "select count(*) from pg_publication";
        let published: i64 = self.at_home().await.query_one(sql, &[]).await.unwrap().get(0);
        assert_eq!(published, i64::from(follower.is_some()), "{context}");
        self.fleet.assert_healthy().await;
    }
}

/// The whole of it, three times, with eight writers who hear no error: what was acknowledged is there, once.
#[tokio::test]
async fn nobody_hears_an_error_and_nothing_is_lost() {
    let two = Two::start().await;
    two.fleet.create_tenant_with("acme", true).await;
    let admin = two.fleet.admin("tenant_acme").await;
    Writers::prepare(&admin).await;
    let rich = "create table ledger (day date, note text, primary key (day, note)) partition by range (day);
                create table ledger_1 partition of ledger for values from ('2026-01-01') to ('2027-01-01');
                insert into ledger select '2026-05-01', E'tab\\tline\\n' || n from generate_series(1, 3000) n;
                create table doubled (id int primary key, n int, twice int generated always as (n * 2) stored);
                insert into doubled values (1, 21); grant select on doubled to tenantry_app;
                create function refuse() returns trigger language plpgsql as
                    $$ begin raise exception 'a trigger ran'; end $$;
                create table quiet (id int primary key); insert into quiet values (1);
                create trigger loud before insert on quiet for each row execute function refuse();
                create sequence tickets start 1000; select nextval('tickets'), nextval('tickets');
                create sequence unused start 7;";
    admin.batch_execute(rich).await.unwrap();
    let before = two.fleet.tenant("acme").await;
    let writers = Writers::start(&two.router(), 8);
    tokio::time::sleep(Duration::from_millis(300)).await;

    for to in ["eu-2", "default", "eu-2"] {
        let moved = two.relocate(to).await;
        assert!(moved.memory["return"].is_null(), "it is copied");
        two.fleet.environment.finish_relocation(&slug("acme")).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    let longest = writers.stop_and_check(&two.at_home().await).await;
    assert!(longest < Duration::from_secs(15), "somebody waited for {longest:?}");
    let acme = two.fleet.tenant("acme").await;
    assert_eq!((acme.epoch, acme.state), (before.epoch + 3, TenantState::Active));
    let facts = "select (select count(*) from ledger), (select twice from doubled), (select nextval('tickets')),
                        (select nextval('unused')), (select count(*) from quiet),
                        (select reltuples > 0 from pg_class where oid = 'ledger_1'::regclass),
                        (select count(*) from tenantry.schema_history)";
    let row = two.at_home().await.query_one(facts, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i32>(1)), (3000, 42));
    assert_eq!((row.get::<_, i64>(2), row.get::<_, i64>(3)), (1002, 7), "sequences go on");
    assert_eq!((row.get::<_, i64>(4), row.get::<_, bool>(5)), (1, true));
    two.assert_tidy("at the end").await;
    for server in [&two.fleet.postgres, &two.other] {
        let log = std::fs::read_to_string(server.log_path()).unwrap();
        assert!(
            log.contains("create publication") && !log.contains("password='"),
            "a password is in the log"
        );
    }
}

/// Killed, failed and repeated before and after each step, under writes: served from exactly one place, with all that
/// was acknowledged. It takes its time: twenty relocations.
#[tokio::test]
async fn wherever_it_dies_one_place_serves() {
    Box::pin(die_everywhere(false)).await;
}

/// `back` goes back to what follows, each time; else everything is copied, each time.
async fn die_everywhere(back: bool) {
    let two = Two::start().await;
    two.fleet.create_tenant_with("acme", true).await;
    Writers::prepare(&two.fleet.admin("tenant_acme").await).await;
    let writers = Writers::start(&two.router(), 2);
    for step in ["preflight", "follow", "verify", "move", "leave_server"] {
        for (what, done) in [
            (Disturbance::Vanish, false),
            (Disturbance::Vanish, true),
            (Disturbance::Repeat, false),
            (Disturbance::Fail, false),
        ] {
            let context = format!("{step} {what:?} {done}");
            let from = two.fleet.tenant("acme").await.server_name;
            let to = if from == "default" { "eu-2" } else { "default" };
            if !back {
                two.fleet.environment.finish_relocation(&slug("acme")).await.unwrap();
            }
            let follows = two.follower().await.is_some();
            assert!(
                follows == back || (back && from == "default" && step == "preflight"),
                "{context}"
            );
            let asked = two.ask(to).await;
            let runner = two.fleet.disturbed_runner(once(step, done, what));
            let mut ended = runner.complete(asked.id).await.unwrap();
            if ended.state == OperationState::Failed {
                assert_eq!(what, Disturbance::Fail, "{context}: {:?}", ended.error);
                let serving = two.fleet.tenant("acme").await;
                assert_eq!(serving.state, TenantState::Active, "{context}");
                assert_eq!(serving.server_name == to, step == "leave_server", "{context}");
                two.fleet.catalog().retry(asked.id).await.unwrap();
                ended = two.fleet.runner().complete(asked.id).await.unwrap();
            }
            assert_eq!(ended.state, OperationState::Succeeded, "{context}: {:?}", ended.error);
            assert_eq!(two.fleet.tenant("acme").await.server_name, to, "{context}");
            assert_eq!(!ended.memory["return"].is_null(), follows, "{context}");
            two.assert_tidy(&context).await;
        }
    }
    writers.stop_and_check(&two.at_home().await).await;
}

/// Everything that has been made by then goes with it.
#[tokio::test]
async fn one_that_is_given_up_leaves_nothing_on_either_server() {
    let two = Two::start().await;
    two.fleet.create_tenant_with("acme", true).await;
    for step in ["follow", "verify", "move"] {
        let asked = two.ask("eu-2").await;
        let runner = two.fleet.disturbed_runner(once(step, false, Disturbance::Fail));
        let ended = runner.complete(asked.id).await.unwrap();
        assert_eq!(ended.state, OperationState::Failed);

        two.fleet.environment.cancel(asked.id).await.unwrap();
        let ended = two.fleet.runner().complete(asked.id).await.unwrap();

        assert_eq!(ended.state, OperationState::Cancelled);
        assert_eq!(two.fleet.tenant("acme").await.server_name, "default");
        assert_eq!(two.fleet.count("acme", "boards").await, 3);
        two.assert_tidy(step).await;
    }
}

/// Deleting a tenant in the middle of a move takes what joins the servers along.
#[tokio::test]
async fn a_tenant_may_be_deleted_in_the_middle() {
    let two = Two::start().await;
    let acme = two.fleet.create_tenant_with("acme", true).await;
    let asked = two.ask("eu-2").await;
    let runner = two.fleet.disturbed_runner(once("move", false, Disturbance::Fail));
    assert_eq!(runner.complete(asked.id).await.unwrap().state, OperationState::Failed);

    let delete = two.fleet.environment.delete(&slug("acme"), false, BY).await.unwrap();
    two.fleet.complete(&delete).await;

    for server in [&two.fleet.postgres, &two.other] {
        let session = connect(&server.url()).await.unwrap();
        let sql = "select count(*) from (select slot_name from pg_replication_slots
                       union all select subname from pg_subscription
                       union all select rolname from pg_roles where rolname ~ '^tenantry_(move|back)' or rolname = $1
                       union all select datname from pg_database where datname ~ '_(build|old)_' or datname = $1) s";
        let left = session.query_one(sql, &[&acme.database.as_str()]).await.unwrap();
        assert_eq!(left.get::<_, i64>(0), 0);
    }
    two.fleet.assert_healthy().await;
}

/// What joins two databases for an operation that nobody knows is named; an audit of a move under way finds nothing.
#[tokio::test]
async fn what_is_left_over_is_found_and_what_is_under_way_is_not() {
    let two = Two::start().await;
    two.fleet.create_tenant_with("acme", true).await;
    let asked = two.ask("eu-2").await;
    let runner = two.fleet.disturbed_runner(once("move", false, Disturbance::Vanish));
    runner.run_one(Claim::Operation(asked.id)).await.unwrap();

    two.fleet.assert_healthy().await;
    let found = two.audit().await;
    assert_eq!(found, [] as [String; 0]);
    let ended = two.fleet.runner().complete(asked.id).await.unwrap();
    assert_eq!(ended.state, OperationState::Succeeded, "{:?}", ended.error);

    let stray = format!("tenantry_move_{}", asked.id.simple());
    let admin = two.at_home().await;
    let make = "select pg_create_logical_replication_slot($1, 'pgoutput')";
    admin.execute(make, &[&stray]).await.unwrap();
    let report = tenantry::doctor::examine(&two.fleet.environment).await.unwrap();
    assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
    assert!(
        report.findings[0].what.contains(&stray)
            && report.findings[0].remedy.contains("pg_drop_replication_slot")
    );
    assert_eq!(two.audit().await, [format!("replication_slot {stray}")]);
    // The operation that it was made for is over, so it may be dropped without somebody looking at it.
    let [fix] = &report.fixes[..] else { panic!("{:?}", report.fixes) };
    tenantry::doctor::put_right(&two.fleet.environment, fix).await.unwrap();
    two.fleet.assert_healthy().await;
}
