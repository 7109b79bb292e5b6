//! Files without a transaction: whatever is cut goes on, and every statement is run once.

use std::time::Duration;

use tenantry_provisioning::{
    Connection, MigrationTimeouts, SchemaError, Server, apply, build_from_zero,
};
use tokio::time::sleep;

use super::ground::Ground;
use super::subject::{FILES, Subject, migrations};

const TABLES: &str = "
    create table t1 (n int); create table t2 (n int); create table t3 (n int);
    create table t4 (n int); create table t5 (n int); create table t6 (n int);
    create table t7 (n int); create index t4_old on t4 (n);
    insert into t2 values (1), (2); insert into t3 values (0); insert into t6 values (0)";

const STATEMENTS: &str = "-- tenantry: no-transaction
set search_path = public;
insert into t1 values (1);
create unique index concurrently t2_n on t2 (n);
update t3 set n = n + 1; -- with; comment
drop index concurrently t4_old;
vacuum (analyze) t5;
-- tenantry: may-repeat
do $$ begin update t6 set n = n + 1; commit; end $$;
create function f() returns int language sql as $$ select n from t6; $$;
alter table t7 add m int";

const NEXT: (&str, &str) = ("V5__next.sql", "create table next (n int)");

/// Ends the session that waits for this one, as soon as there is one. Who looks may be waited for, too.
async fn cut(admin: &Connection, gate: i32) {
    for _ in 0..6000 {
        let ended = admin
            .query(
                "select pg_terminate_backend(pid) from pg_stat_activity
                 where wait_event_type = 'Lock' and $1 = any (pg_blocking_pids(pid))",
                &[&gate],
            )
            .await
            .unwrap();
        if !ended.is_empty() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("nobody waits for a lock");
}

async fn number(admin: &Connection, sql: &str) -> i64 {
    admin.query_one(&format!("select ({sql})::bigint"), &[]).await.unwrap().get(0)
}

/// Whether an index is there, and whether it is valid.
async fn valid(admin: &Connection, index: &str) -> Option<bool> {
    let sql = "select indisvalid from pg_index where indexrelid = to_regclass($1)";
    admin.query_opt(sql, &[&index]).await.unwrap().map(|row| row.get(0))
}

struct Scene {
    server: Server,
    acme: Subject,
    files: Vec<(&'static str, &'static str)>,
    admin: Connection,
    _ground: Ground,
}

impl Scene {
    async fn new(statements: &'static str) -> Self {
        let ground = Ground::new().await;
        let server = ground.server().await;
        let acme = Subject::made("acme", &server).await;
        let mut files = FILES.to_vec();
        files.extend([("V3__tables.sql", TABLES), ("V4__statements.sql", statements), NEXT]);
        let admin = server.connect(&acme.database).await.unwrap();
        let scene = Self { server, acme, files, admin, _ground: ground };
        apply(&scene.server, &scene.acme.database, &migrations(&scene.files[..3]), timeouts())
            .await
            .unwrap();
        scene
    }

    async fn apply(&self) -> Result<i64, SchemaError> {
        let set = migrations(&self.files);
        Ok(apply(&self.server, &self.acme.database, &set, timeouts()).await?.to)
    }

    /// Applies while this lock is held, and cuts the run when it waits.
    async fn cut_at(&self, lock: &str) -> SchemaError {
        let gate = self.server.connect(&self.acme.database).await.unwrap();
        // Asked within the transaction, it would keep a snapshot open, which others wait for, too.
        let pid = gate.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
        gate.batch_execute(&format!("begin; {lock}")).await.unwrap();
        let (outcome, ()) = tokio::join!(self.apply(), cut(&self.admin, pid));
        gate.batch_execute("rollback").await.unwrap();
        outcome.unwrap_err()
    }
}

fn timeouts() -> MigrationTimeouts {
    MigrationTimeouts { lock: Duration::from_secs(20), ..MigrationTimeouts::default() }
}

#[tokio::test]
async fn a_run_that_is_cut_at_every_statement_runs_each_once() {
    let scene = Scene::new(STATEMENTS).await;

    for table in 1..=7 {
        let lock = format!("lock table t{table} in access exclusive mode");
        let error = scene.cut_at(&lock).await;
        assert!(error.is_transient(), "t{table}: {error}");
    }
    assert_eq!(scene.apply().await.unwrap(), 5);

    let admin = &scene.admin;
    assert_eq!(number(admin, "select count(*) from t1").await, 1);
    assert_eq!(number(admin, "select n from t3").await, 1);
    assert_eq!(number(admin, "select n from t6").await, 1);
    assert_eq!(number(admin, "select count(m) from t7").await, 0);
    assert_eq!(valid(admin, "t2_n").await, Some(true));
    assert_eq!(valid(admin, "t4_old").await, None);
    let open = "select count(*) from tenantry.schema_statements where ended_at is null";
    assert_eq!(number(admin, open).await, 0);
    let history = "select count(*) from tenantry.schema_history";
    assert_eq!(number(admin, history).await, 5);
}

#[tokio::test]
async fn an_invalid_index_is_dropped_and_built_again() {
    let scene = Scene::new(STATEMENTS).await;

    // It waits for the old transaction after it has made the index.
    scene.cut_at("update t2 set n = n; select count(*) from boards").await;
    let before = valid(&scene.admin, "t2_n").await;
    scene.cut_at("set transaction isolation level repeatable read; select * from t2").await;
    let between = valid(&scene.admin, "t2_n").await;
    scene.apply().await.unwrap();

    assert_eq!((before, between), (Some(false), Some(false)));
    assert_eq!(valid(&scene.admin, "t2_n").await, Some(true));
    let indexes = "select count(*) from pg_index where indrelid = 't2'::regclass";
    assert_eq!(number(&scene.admin, indexes).await, 1);
}

#[tokio::test]
async fn what_was_done_and_not_written_down_is_adopted() {
    let scene = Scene::new(STATEMENTS).await;
    scene.apply().await.unwrap();
    // As if the session had died between a statement and its note: 3 is the index, 5 the drop.
    scene
        .admin
        .batch_execute(
            "update tenantry.schema_statements set ended_at = null where number in (3, 5);
             delete from tenantry.schema_history where version >= 4; drop table next",
        )
        .await
        .unwrap();

    assert_eq!(scene.apply().await.unwrap(), 5);

    assert_eq!(valid(&scene.admin, "t2_n").await, Some(true));
    assert_eq!(number(&scene.admin, "select n from t3").await, 1);
}

#[tokio::test]
async fn a_failed_index_leaves_nothing_and_is_built_when_the_rows_allow_it() {
    let scene = Scene::new(STATEMENTS).await;
    scene.admin.batch_execute("insert into t2 values (1)").await.unwrap();

    let error = scene.apply().await.unwrap_err();
    let left = valid(&scene.admin, "t2_n").await;
    scene.admin.batch_execute("delete from t2").await.unwrap();
    scene.apply().await.unwrap();

    let text = error.to_string();
    assert!(text.contains("V4__statements.sql") && text.contains("23505"), "{text}");
    assert_eq!(left, None);
    assert_eq!(valid(&scene.admin, "t2_n").await, Some(true));
    assert_eq!(number(&scene.admin, "select count(*) from t1").await, 1);
}

#[tokio::test]
async fn nobody_guesses_whether_a_statement_that_commits_was_done() {
    let scene = Scene::new(
        "-- tenantry: no-transaction
insert into t1 values (1);
do $$ begin insert into t2 values (3); commit; lock table t3; commit; end $$;
insert into t1 values (2)",
    )
    .await;

    scene.cut_at("lock table t3").await;
    let doubt = scene.apply().await.unwrap_err();
    let remedy = doubt.remedy().unwrap().into_owned();
    let (_, statement) = remedy.split_once('`').unwrap();
    let (statement, _) = statement.split_once('`').unwrap();
    scene.admin.batch_execute(statement).await.unwrap();
    scene.apply().await.unwrap();

    assert!(matches!(doubt, SchemaError::InDoubt { number: 2, line: 3, .. }), "{doubt}");
    assert!(!doubt.is_transient() && doubt.to_string().contains("do '…'"), "{doubt}");
    assert_eq!(number(&scene.admin, "select count(*) from t1").await, 2);
    assert_eq!(number(&scene.admin, "select count(*) from t2 where n = 3").await, 1);
}

#[tokio::test]
async fn a_statement_that_fails_may_be_mended_and_one_that_ran_may_not() {
    let mut scene = Scene::new(
        "-- tenantry: no-transaction\ninsert into t1 values (1);\n\ninsert into nowhere values (1)",
    )
    .await;

    let failed = scene.apply().await.unwrap_err();
    scene.files[3].1 = "-- tenantry: no-transaction\ninsert into t1 values (2); select 1";
    let edited = scene.apply().await.unwrap_err();
    scene.files[3].1 = "-- tenantry: no-transaction\ninsert into t1 values (1); select 1";
    scene.apply().await.unwrap();

    assert!(failed.to_string().contains("V4__statements.sql:4"), "{failed}");
    assert!(matches!(edited, SchemaError::Edited { .. }), "{edited}");
    assert_eq!(number(&scene.admin, "select sum(n) from t1").await, 1);
}

#[tokio::test]
async fn an_older_database_gets_the_journal_when_it_needs_it() {
    let scene = Scene::new(STATEMENTS).await;
    let drop = "drop table tenantry.schema_statements, tenantry.schema_repeatables";
    scene.admin.batch_execute(drop).await.unwrap();

    scene.apply().await.unwrap();

    let tenant = scene.acme.connect(&scene.server).await.unwrap();
    for table in ["schema_statements", "schema_repeatables"] {
        let error =
            tenant.query(&format!("select * from tenantry.{table}"), &[]).await.unwrap_err();
        assert_eq!(super::subject::code(&error), "42501");
    }
    assert_eq!(scene.acme.findings(&scene.server, 1).await, []);
}

#[tokio::test]
async fn a_build_that_is_in_doubt_begins_anew() {
    let ground = Ground::new().await;
    let server = ground.server().await;
    let acme = Subject::new("acme");
    let mut files = FILES.to_vec();
    files.push((
        "V3__slow.sql",
        "-- tenantry: no-transaction\ncreate table once (n int);\n
         do $$ begin insert into once values (1); commit; perform pg_sleep(0.5); end $$",
    ));
    let set = migrations(&files);
    let end = async || loop {
        let ended = server
            .client()
            .await
            .unwrap()
            .query("select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'PgSleep'", &[])
            .await
            .unwrap();
        if !ended.is_empty() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    };

    let (build, timeouts) = (acme.build(), timeouts());
    let (cut, ()) = tokio::join!(build_from_zero(&server, &build, &set, timeouts), end());
    let applied = build_from_zero(&server, &build, &set, timeouts).await.unwrap();

    assert!(cut.unwrap_err().is_transient());
    assert_eq!((applied.from, applied.to), (0, 3));
    acme.possess(&server, &build).await.unwrap();
    let admin = server.connect(&acme.database).await.unwrap();
    assert_eq!(number(&admin, "select count(*) from once").await, 1);
}

#[tokio::test]
async fn a_run_that_goes_on_has_the_settings_of_the_one_that_was_cut() {
    let scene = Scene::new(
        "-- tenantry: no-transaction
select pg_catalog.set_config('search_path', 'stats', false);
insert into public.t1 values (1);
vacuum public.t5;
create table there (n int)",
    )
    .await;

    scene.cut_at("lock table t5 in access exclusive mode").await;
    scene.apply().await.unwrap();

    assert_eq!(number(&scene.admin, "select count(*) from stats.there").await, 0);
    assert_eq!(number(&scene.admin, "select count(*) from t1").await, 1);
}

#[tokio::test]
async fn a_file_that_commits_by_itself_is_not_run_twice_unseen() {
    let scene =
        Scene::new("insert into t1 values (1);\ncommit;\nalter table t2 add column m int").await;

    scene.cut_at("lock table t1 in access exclusive mode").await;
    let cut = scene.cut_at("lock table t2 in access exclusive mode").await;
    let doubt = scene.apply().await.unwrap_err();
    let remedy = doubt.remedy().unwrap().into_owned();
    let statement = remedy.split('`').nth(1).unwrap();
    scene.admin.batch_execute("alter table t2 add column m int").await.unwrap();
    scene.admin.batch_execute(statement).await.unwrap();
    let applied = scene.apply().await.unwrap();

    assert!(cut.is_transient(), "nothing was committed before: {cut}");
    assert!(matches!(doubt, SchemaError::HalfDone { .. }) && !doubt.is_transient(), "{doubt}");
    assert_eq!(applied, 5);
    assert_eq!(number(&scene.admin, "select count(*) from t1").await, 1);
    assert_eq!(number(&scene.admin, "select count(*) from tenantry.schema_statements").await, 0);
}

#[tokio::test]
async fn a_file_that_brings_its_own_transaction_leaves_no_mark() {
    let scene = Scene::new("begin;\ninsert into t1 values (1);\ncommit;").await;

    scene.apply().await.unwrap();

    assert_eq!(number(&scene.admin, "select count(*) from t1").await, 1);
    assert_eq!(number(&scene.admin, "select count(*) from tenantry.schema_statements").await, 0);
}

#[tokio::test]
async fn a_block_that_commits_and_is_refused_a_lock_is_not_begun_again_unseen() {
    let scene = Scene::new(
        "-- tenantry: no-transaction
do $$ begin insert into t1 values (1); commit; lock table t2; commit; end $$",
    )
    .await;
    let gate = scene.server.connect(&scene.acme.database).await.unwrap();
    gate.batch_execute("begin; lock table t2").await.unwrap();
    let short = MigrationTimeouts { lock: Duration::from_millis(200), ..timeouts() };
    let set = migrations(&scene.files);

    let refused = apply(&scene.server, &scene.acme.database, &set, short).await.unwrap_err();
    gate.batch_execute("rollback").await.unwrap();
    let doubt = scene.apply().await.unwrap_err();

    assert!(matches!(refused, SchemaError::Blocked { tries: 1, .. }), "{refused}");
    assert!(matches!(doubt, SchemaError::InDoubt { number: 1, .. }), "{doubt}");
    assert_eq!(number(&scene.admin, "select count(*) from t1").await, 1);
}

#[tokio::test]
async fn a_reindex_that_is_cut_leaves_no_copy_behind() {
    let scene = Scene::new(
        "-- tenantry: no-transaction\r
create schema \"Odd\"; create table \"Odd\".\"T;\" (n int);\r
create unique index concurrently if not exists \"I;\" on \"Odd\" . \"T;\" (n);\r
reindex table concurrently t4",
    )
    .await;
    let indexes = "select count(*) from pg_index where indrelid = 't4'::regclass";
    let lock = "lock table t4 in row exclusive mode";

    scene.cut_at(lock).await;
    let copies = number(&scene.admin, indexes).await;
    scene.cut_at(lock).await;
    scene.apply().await.unwrap();

    assert_eq!(copies, 2, "PostgreSQL itself leaves one");
    assert_eq!(number(&scene.admin, indexes).await, 1);
    assert_eq!(valid(&scene.admin, "t4_old").await, Some(true));
    assert_eq!(valid(&scene.admin, "\"Odd\".\"I;\"").await, Some(true));
}
