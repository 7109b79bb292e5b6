//! A tenant on its way to another server: what comes along, who waits, and what is left where it fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tenantry::catalog::CatalogError;
use tenantry::catalog::operations::{OperationRecord, OperationState};
use tenantry::catalog::servers::{Edit, ServerChange};
use tenantry::catalog::tenants::NewTenant;
use tenantry::embedded::{EmbeddedPostgres, PostgresSettings};
use tenantry::operations::Environment;
use tenantry::operations::runner::{Disturbance, StepPoint};
use tenantry::router::RouterSettings;
use tenantry::tenant::{Label, TenantState};
use tokio::task::JoinSet;

use crate::harness::replica::Replica;
use crate::harness::{BY, Fleet, connect, new_tenant, once, process, router_settings, slug};

mod left;
mod rows;

/// A fleet of two servers, `default` and `eu-2`.
struct Two {
    fleet: Fleet,
    other: EmbeddedPostgres,
}

impl Two {
    async fn start() -> Self {
        let fleet = Fleet::start().await;
        let other = another(&fleet.environment).await;
        Self { fleet, other }
    }

    /// Asks and sees that it ends well.
    async fn relocate(&self, name: &str, to: &str) {
        let asked = self.ask(name, to).await;
        self.fleet.complete(&asked).await;
    }

    async fn ask(&self, name: &str, to: &str) -> OperationRecord {
        self.fleet.environment.relocate(&slug(name), to, BY).await.unwrap()
    }

    /// Everything of ours on a server: databases, and login roles of tenants.
    async fn found(&self, server: &str) -> Vec<String> {
        let url = if server == "default" { self.fleet.postgres.url() } else { self.other.url() };
        let sql = "select datname::text from pg_database where datname ~ '^tenant' and not datistemplate
                       and datname !~ '^tenantry'
                   union all select rolname::text || ' may log in' from pg_roles where rolname ~ '^tenant_'
                   union all select datname::text from pg_database where datname ~ '_(build|old)_'
                   order by 1";
        let rows = connect(&url).await.unwrap().query(sql, &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }
}

async fn another(environment: &Environment) -> EmbeddedPostgres {
    let other = EmbeddedPostgres::start_scratch(PostgresSettings::scratch()).await.unwrap();
    let record = environment.catalog.add_server("eu-2", &other.url().into()).await.unwrap();
    environment.server(record.id).await.unwrap().prepare().await.unwrap();
    other
}

/// What `pg_dump` makes of the two would differ in nothing.
const RICH: &str = "
    create table money (id bigint generated always as identity (start 40) primary key, amount numeric(12, 4),
        twice numeric generated always as (amount * 2) stored, at timestamptz default now(), tags text[]);
    insert into money (amount, tags) select n / 7.0, array['a', null, n::text] from generate_series(1, 500) n;
    create sequence tickets start 1000; select nextval('tickets'), nextval('tickets');
    create table ledger (day date, note text) partition by range (day);
    create table ledger_1 partition of ledger for values from ('2026-01-01') to ('2027-01-01');
    insert into ledger values ('2026-05-01', E'tab\\tline\\nend'), ('2026-05-02', null);
    create materialized view totals as select count(*) as n, sum(amount) as sum from money;
    create unlogged table scratch as select 1 as one;
    create type mood as enum ('well', 'ill'); create table moods (mood mood); insert into moods values ('ill');
    create function doubled(int) returns int language sql immutable as 'select $1 * 2';
    create index money_doubled on money (doubled(id::int));
    grant select on money to tenantry_app;
    select lo_from_bytea(4711, 'large');
    alter large object 4711 owner to tenant_acme;
    comment on table money is 'whose';";

#[tokio::test]
async fn everything_comes_along_and_may_go_back() {
    let two = Two::start().await;
    two.fleet.create_tenant_with("acme", true).await;
    let beside = NewTenant { server: Some("default".to_owned()), ..new_tenant("globex") };
    let made = two.fleet.environment.create_tenant(&beside, true, BY).await.unwrap();
    two.fleet.complete(&made).await;
    two.fleet.admin("tenant_acme").await.batch_execute(RICH).await.unwrap();
    let router = two.fleet.router();
    router.connection(&slug("acme")).await.unwrap();
    let before = two.fleet.tenant("acme").await;

    two.relocate("acme", "eu-2").await;

    let acme = two.fleet.tenant("acme").await;
    assert_eq!(
        (&*acme.server_name, acme.epoch, acme.state),
        ("eu-2", before.epoch + 1, TenantState::Active)
    );
    let tenant = router.connection(&slug("acme")).await.unwrap();
    let row = tenant
        .query_one("select count(*), min(id), inet_server_port() from money", &[])
        .await
        .unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (500, 40));
    assert!(two.other.url().contains(&format!(":{}/", row.get::<_, i32>(2))), "it is over there");
    let there = connect(&two.other.database_url("tenant_acme")).await.unwrap();
    let facts = "select (select nextval('tickets')), (select count(*) from ledger), (select sum(n)::bigint from totals),
                        (select convert_from(lo_get(4711), 'utf8')), (select count(*) from scratch),
                        (select obj_description('money'::regclass)), (select doubled(21)),
                        (select count(*) from tenantry.schema_history)";
    let row = there.query_one(facts, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1), row.get::<_, i64>(2)), (1002, 2, 500));
    assert_eq!(
        (row.get::<_, &str>(3), row.get::<_, i64>(4), row.get::<_, &str>(5)),
        ("large", 1, "whose")
    );
    let old = format!(
        "tenantry_old_{}",
        two.fleet.catalog().newest_retained(acme.id).await.unwrap().unwrap().operation_id.simple()
    );
    assert_eq!(
        two.found("default").await,
        ["tenant_globex", "tenant_globex may log in", old.as_str()]
    );
    assert_eq!(two.found("eu-2").await, ["tenant_acme", "tenant_acme may log in"]);
    assert_eq!(two.fleet.count("globex", "boards").await, 3);
    two.fleet.assert_healthy().await;

    let undo = two.fleet.environment.undo_restore(&slug("acme"), BY).await.unwrap();
    two.fleet.complete(&undo).await;
    assert_eq!(two.fleet.tenant("acme").await.server_name, "default");
    router.connection(&slug("acme")).await.unwrap();
    two.relocate("acme", "eu-2").await;
    two.relocate("acme", "default").await;
    assert_eq!(two.fleet.count("acme", "money").await, 500);
    two.fleet.assert_healthy().await;
}

/// Writers that wait, and every number that was acknowledged is there afterwards, once.
#[tokio::test]
async fn writers_wait_and_lose_nothing() {
    let two = Two::start().await;
    two.fleet.create_tenant("acme").await;
    let table = "create table numbers (writer int, n int, primary key (writer, n));
                 grant select, insert on numbers to tenantry_app;";
    two.fleet.admin("tenant_acme").await.batch_execute(table).await.unwrap();
    let settings =
        RouterSettings { pool_wait_timeout: Duration::from_secs(30), ..router_settings() };
    let (catalog, changes) = (two.fleet.catalog().clone(), two.fleet.changes.clone());
    let router = tenantry::router::TenantRouter::new(catalog, changes, settings);
    let running = Arc::new(AtomicBool::new(true));
    let mut writers = JoinSet::new();
    for writer in 0..4 {
        let (router, running) = (router.clone(), Arc::clone(&running));
        writers.spawn(async move {
            let (mut acknowledged, mut n, mut longest) = (0, 0, Duration::ZERO);
            while running.load(Ordering::Relaxed) {
                let begun = Instant::now();
                let tenant = router.connection(&slug("acme")).await.expect("requests wait");
                let sql = "insert into numbers values ($1, $2)";
                // Only a statement that runs at the moment of the cutover may be ended.
                if tenant.execute(sql, &[&writer, &n]).await.is_ok() {
                    acknowledged += 1;
                }
                n += 1;
                longest = longest.max(begun.elapsed());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            (acknowledged, n)
        });
    }
    tokio::time::sleep(Duration::from_millis(300)).await;

    for to in ["eu-2", "default", "eu-2"] {
        two.relocate("acme", to).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    running.store(false, Ordering::Relaxed);
    let mut acknowledged = 0;
    for (written, tried) in writers.join_all().await {
        assert!(
            tried - written <= 3,
            "{} of {tried} statements were ended by three cutovers",
            tried - written
        );
        acknowledged += i64::from(written);
    }
    let there = connect(&two.other.database_url("tenant_acme")).await.unwrap();
    let found: i64 = there.query_one("select count(*) from numbers", &[]).await.unwrap().get(0);
    // One whose answer was lost may be there.
    assert!((acknowledged..=acknowledged + 12).contains(&found), "{found} of {acknowledged}");
}

/// Killed, failed and repeated before and after each step: served from exactly one place, with all that it had.
#[tokio::test]
async fn wherever_it_dies_one_place_serves() {
    let two = Two::start().await;
    two.fleet.create_tenant_with("acme", true).await;
    for step in ["preflight", "move", "leave_server"] {
        for done in [false, true] {
            for what in [Disturbance::Vanish, Disturbance::Repeat, Disturbance::Fail] {
                if done && what != Disturbance::Vanish {
                    continue;
                }
                let from = two.fleet.tenant("acme").await.server_name;
                let to = if from == "default" { "eu-2" } else { "default" };
                let asked = two.ask("acme", to).await;
                let runner = two.fleet.disturbed_runner(once(step, done, what));
                let mut ended = runner.complete(asked.id).await.unwrap();
                if ended.state == OperationState::Failed {
                    assert_eq!(what, Disturbance::Fail);
                    let serving = two.fleet.tenant("acme").await;
                    let moved = step == "leave_server";
                    assert_eq!(serving.server_name == to, moved, "{step}");
                    assert_eq!(serving.state, TenantState::Active, "{step}");
                    two.fleet.catalog().retry(asked.id).await.unwrap();
                    ended = two.fleet.runner().complete(asked.id).await.unwrap();
                }
                assert_eq!(
                    ended.state,
                    OperationState::Succeeded,
                    "{step} {done} {what:?}: {:?}",
                    ended.error
                );
                assert_eq!(two.fleet.tenant("acme").await.server_name, to);
                let tenant = two.fleet.router().connection(&slug("acme")).await.unwrap();
                let row = tenant.query_one("select count(*) from boards", &[]).await.unwrap();
                assert_eq!(row.get::<_, i64>(0), 3);
                let builds = [two.found("default").await, two.found("eu-2").await].concat();
                assert!(!builds.iter().any(|name| name.contains("_build_")), "{builds:?}");
                two.fleet.assert_healthy().await;
            }
        }
    }
}

#[tokio::test]
async fn one_that_is_given_up_leaves_nothing_over_there() {
    let two = Two::start().await;
    two.fleet.create_tenant_with("acme", true).await;
    for step in ["preflight", "move"] {
        let asked = two.ask("acme", "eu-2").await;
        let fail = move |point: &StepPoint<'_>| {
            if point.step == step && point.done {
                Disturbance::None
            } else if point.step == step {
                Disturbance::Fail
            } else {
                Disturbance::None
            }
        };
        let ended = two.fleet.disturbed_runner(Arc::new(fail)).complete(asked.id).await.unwrap();
        assert_eq!(ended.state, OperationState::Failed);
        two.fleet.environment.cancel(asked.id).await.unwrap();
        let ended = two.fleet.runner().complete(asked.id).await.unwrap();

        assert_eq!(ended.state, OperationState::Cancelled);
        assert_eq!(two.found("eu-2").await, [] as [&str; 0], "{step}");
        assert_eq!(two.fleet.tenant("acme").await.server_name, "default");
        assert_eq!(two.fleet.count("acme", "boards").await, 3);
        two.fleet.assert_healthy().await;
    }
}

/// The server that it is going to dies in the middle of the copy.
#[tokio::test]
async fn a_target_that_dies_leaves_the_tenant_where_it_was() {
    let two = Two::start().await;
    two.fleet.create_tenant_with("acme", true).await;
    let rows = "create table ballast as select n, repeat(md5(n::text), 30) as t from generate_series(1, 60000) n";
    two.fleet.admin("tenant_acme").await.batch_execute(rows).await.unwrap();
    let asked = two.ask("acme", "eu-2").await;
    let (runner, id) = (two.fleet.runner(), asked.id);
    let moving =
        tokio::spawn(
            async move { runner.run_one(tenantry::catalog::lock::Claim::Operation(id)).await },
        );
    crate::harness::eventually("the copy has begun", async || {
        two.found("eu-2").await.iter().any(|name| name.contains("_build_"))
    })
    .await;

    two.other.stop().await.unwrap();
    moving.await.unwrap().unwrap();

    let acme = two.fleet.tenant("acme").await;
    assert_eq!((&*acme.server_name, acme.state), ("default", TenantState::Active));
    let tenant = two.fleet.router().connection(&slug("acme")).await.unwrap();
    let row = tenant.query_one("select count(*) from boards", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 3);
    let waiting = two.fleet.catalog().operation(asked.id).await.unwrap();
    assert_eq!(waiting.state, OperationState::Queued, "it is tried again: {:?}", waiting.error);
}

#[tokio::test]
async fn what_cannot_go_there_is_refused_before_anybody_waits() {
    let two = Two::start().await;
    two.fleet.create_tenant("acme").await;
    let environment = &two.fleet.environment;
    let refused =
        async |to: &str| environment.relocate(&slug("acme"), to, BY).await.unwrap_err().to_string();

    assert!(refused("default").await.contains("is on server `default` already"));
    assert!(refused("nowhere").await.contains("nowhere"));
    let us =
        ServerChange { region: Edit::Set(Label::parse("us").unwrap()), ..ServerChange::default() };
    two.fleet.catalog().change_server("eu-2", &us).await.unwrap();
    let cordoned =
        ServerChange { cordoned: Edit::Set("old".to_owned()), ..ServerChange::default() };
    two.fleet.catalog().change_server("eu-2", &cordoned).await.unwrap();
    assert!(refused("eu-2").await.contains("it is cordoned: old"));
    let open = ServerChange { cordoned: Edit::Clear, ..ServerChange::default() };
    two.fleet.catalog().change_server("eu-2", &open).await.unwrap();

    // A database of that name that is somebody else's.
    connect(&two.other.url())
        .await
        .unwrap()
        .batch_execute("create database tenant_acme")
        .await
        .unwrap();
    let asked = two.ask("acme", "eu-2").await;
    let ended = two.fleet.runner().complete(asked.id).await.unwrap();
    assert_eq!(ended.error.as_ref().map(|error| &*error.step), Some("preflight"));
    assert!(ended.error.unwrap().message.contains("has a database `tenant_acme` already"));
    assert_eq!(two.fleet.tenant("acme").await.state, TenantState::Active);
    two.fleet.environment.cancel(asked.id).await.unwrap();
    two.fleet.runner().complete(asked.id).await.unwrap();
}

#[tokio::test]
async fn a_suspended_tenant_moves_and_stays_suspended() {
    let two = Two::start().await;
    two.fleet.create_tenant_with("acme", true).await;
    let suspend =
        two.fleet.environment.suspend(&slug("acme"), Some("unpaid".to_owned()), BY).await.unwrap();
    two.fleet.complete(&suspend).await;

    two.relocate("acme", "eu-2").await;

    let acme = two.fleet.tenant("acme").await;
    assert_eq!(
        (acme.state, acme.suspended_reason.as_deref()),
        (TenantState::Suspended, Some("unpaid"))
    );
    let sql = "select rolcanlogin from pg_roles where rolname = 'tenant_acme'";
    let there = connect(&two.other.url()).await.unwrap();
    assert!(!there.query_one(sql, &[]).await.unwrap().get::<_, bool>(0), "nor there may it log in");
    let resume = two.fleet.environment.resume(&slug("acme"), BY).await.unwrap();
    two.fleet.complete(&resume).await;
    two.fleet.router().connection(&slug("acme")).await.unwrap();
}

#[tokio::test]
async fn operators_ask_on_the_command_line_and_over_http() {
    let replica = Replica::start().await;
    let _other = another(&replica.fleet.environment).await;
    replica.create("acme").await;
    let run = |arguments: &[&str]| {
        let mut command = process::command(&replica.fleet);
        command.args(["tenant", "relocate", "acme"]).args(arguments).output().unwrap()
    };

    let unconfirmed = run(&["--to", "eu-2"]);
    let said = String::from_utf8_lossy(&unconfirmed.stderr).into_owned();
    assert_eq!(unconfirmed.status.code(), Some(4), "{said}");
    let moved = run(&["--to", "eu-2", "--yes", "--output-format", "json"]);
    assert!(moved.status.success(), "{}", String::from_utf8_lossy(&moved.stderr));
    assert_eq!(replica.fleet.tenant("acme").await.server_name, "eu-2");

    let path = "/api/setup/tenants/acme/relocate";
    let (status, asked) = replica.call(Method::POST, path, Some(json!({ "to": "default" }))).await;
    assert_eq!((status.as_u16(), &asked["kind"]), (202, &json!("relocate")), "{asked}");
    let ended: Value = replica.settle(&asked).await;
    assert_eq!(ended["status"], "succeeded", "{ended}");
    assert_eq!(replica.fleet.tenant("acme").await.server_name, "default");

    let back = run(&["--back", "--yes"]);
    assert!(back.status.success(), "{}", String::from_utf8_lossy(&back.stderr));
    assert!(
        String::from_utf8_lossy(&back.stderr)
            .contains("not online: the tenant's server has wal_level")
    );
    assert_eq!(replica.fleet.tenant("acme").await.server_name, "eu-2");
    let insisted = run(&["--back", "--online", "--yes"]);
    assert_eq!(insisted.status.code(), Some(4), "{}", String::from_utf8_lossy(&insisted.stderr));
    let finished = run(&["--finish", "--yes", "--output-format", "json"]);
    let said: Value = serde_json::from_slice(&finished.stdout).unwrap();
    assert_eq!(said, json!({ "dropped": 2 }), "{}", String::from_utf8_lossy(&finished.stderr));
    let nowhere = run(&["--back", "--yes"]);
    assert!(String::from_utf8_lossy(&nowhere.stderr).contains("nothing is kept"), "{nowhere:?}");
    let asked = replica
        .call(Method::POST, path, Some(json!({ "to": "default", "way": "offline" })))
        .await
        .1;
    assert_eq!(replica.settle(&asked).await["status"], "succeeded");
    for (body, expected) in [
        (json!({ "to": "default" }), 409),
        (json!({ "to": "nowhere" }), 404),
        (json!({}), 422),
        (json!({ "to": "eu-2", "online": true }), 422),
    ] {
        let (status, answer) = replica.call(Method::POST, path, Some(body.clone())).await;
        assert_eq!(status.as_u16(), expected, "{body}: {answer}");
    }
    let new = new_tenant("globex");
    let error = replica.fleet.environment.relocate(&new.slug, "eu-2", BY).await.unwrap_err();
    assert!(matches!(error, CatalogError::Missing { what: "tenant", .. }), "{error}");
}
