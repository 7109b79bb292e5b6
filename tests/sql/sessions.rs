//! Sessions: nothing of one request reaches the next, and no request outlives its caller or its bounds.

use std::time::Duration;

use reqwest::{RequestBuilder, StatusCode};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tenantry::catalog::tokens::Scope;
use tenantry::router::RouterSettings;
use tenantry::sql::SqlSettings;
use tenantry::tenant::TenantSettings;

use super::{FOREVER, Heard, READER, Sql, hasty, hear, woken};
use crate::harness::process::Serving;
use crate::harness::{Fleet, budget, eventually, router_settings, slug};

/// The backend that answers, as seen by a plain query.
async fn backend(sql: &Sql) -> Value {
    sql.query("select pg_backend_pid() as pid").await.ok()["rows"][0]["pid"].clone()
}

/// A request of somebody who may only read.
fn reader(sql: &Sql) -> RequestBuilder {
    sql.request("acme").header(READER, "yes")
}

async fn read(sql: &Sql, body: Value) -> Heard {
    hear(reader(sql).json(&body)).await
}

#[tokio::test]
async fn a_session_serves_again_and_prepares_a_text_once() {
    let sql = Sql::start().await;
    let first = backend(&sql).await;

    for _ in 0..3 {
        assert_eq!(backend(&sql).await, first);
    }
    let prepared = "select count(*)::int as n from pg_prepared_statements where statement like 'select pg_backend%'";
    assert_eq!(sql.query(prepared).await.ok()["rows"][0]["n"], 1);
}

/// A reset is waited for by nobody, and yet it is half the work of a point query.
#[tokio::test]
async fn only_what_may_have_left_something_is_reset() {
    let sql = Sql::start().await;
    let admin = sql.fleet.admin("postgres").await;
    let last = async || {
        let question = "select query from pg_stat_activity where usename = 'tenant_acme'";
        admin.query_one(question, &[]).await.unwrap().get::<_, String>(0)
    };
    let plain = "select title from boards where id in (1, 2)";
    for (text, is_reset) in [(plain, false), ("select pg_sleep(0)", true), (plain, false)] {
        sql.query(text).await.ok();

        eventually("the server is told", async || last().await.contains("wire::reset") == is_reset)
            .await;
    }
}

#[tokio::test]
async fn no_state_of_one_request_reaches_the_next() {
    let sql = Sql::start().await;
    for text in [
        "set application_name = 'left over'",
        "select set_config('application_name', 'left over', false)",
        "select set_config('my.secret', 'left over', false)",
        "select pg_advisory_lock(7)",
        "prepare left_over as select 1",
        "declare left_over cursor with hold for select 1",
        "set role tenantry_app",
        "create temporary table left_over (id int)",
        "listen left_over",
        "begin",
    ] {
        for body in [json!({ "query": text }), json!({ "queries": [{ "query": text }] })] {
            sql.ask("acme", body).await;
            let state = sql
                .query(
                    "select current_setting('application_name') as name, current_user::text as role,
                     current_setting('my.secret', true) as secret,
                     (select count(*)::int from pg_locks where locktype = 'advisory' and granted) as locks,
                     (select count(*)::int from pg_prepared_statements where name = 'left_over') as statements,
                     (select count(*)::int from pg_cursors where name = 'left_over') as cursors,
                     (select count(*)::int from pg_listening_channels()) as channels,
                     to_regclass('pg_temp.left_over') as tables",
                )
                .await
                .ok();

            let clean = json!({ "name": "tenantry", "role": "tenant_acme", "secret": null, "statements": 0,
                                "cursors": 0, "channels": 0, "tables": null });
            let mut found = state["rows"][0].clone();
            found.as_object_mut().unwrap().remove("locks");
            assert_eq!(found, clean, "{text}");
        }
    }
    eventually("the lock is gone", async || {
        sql.query("select 1 as n from pg_locks where locktype = 'advisory' and granted").await.ok()
            ["rowCount"]
            == 0
    })
    .await;
}

#[tokio::test]
async fn state_that_a_function_hides_does_not_reach_the_next_request() {
    let sql = Sql::start().await;
    let admin = sql.fleet.admin("tenant_acme").await;
    let hide = "create function hide() returns void language plpgsql as $$ begin
                  perform set_config('my.user', 'left over', false), pg_advisory_lock(7);
                  execute 'set statement_timeout = 0';
                  execute 'declare left_over cursor with hold for select 1';
                  execute 'listen left_over';
                end $$;
                grant execute on function hide() to public";
    admin.batch_execute(hide).await.unwrap();
    let pid = backend(&sql).await;

    sql.query("select hide()").await.ok();
    sql.query("insert into boards (title) values ('x')").await.ok();
    let last = sql.query("select lastval()").await;
    let state = sql
        .query(
            "select coalesce(current_setting('my.user', true), '') as user,
             current_setting('statement_timeout') as timeout,
             (select count(*)::int from pg_locks where locktype = 'advisory') as locks,
             (select count(*)::int from pg_cursors where name = 'left_over') as cursors,
             (select count(*)::int from pg_listening_channels()) as channels, pg_backend_pid() as pid",
        )
        .await
        .ok();

    let clean = json!({ "user": "", "timeout": "30s", "locks": 0, "cursors": 0, "channels": 0, "pid": pid });
    assert_eq!(state["rows"][0], clean);
    assert_eq!(last.code(), "55000", "{last:?}");
}

#[tokio::test]
async fn who_may_only_read_cannot_write_by_any_way() {
    let sql = Sql::start().await;
    let admin = sql.fleet.admin("tenant_acme").await;
    let writer = "create function sneak() returns int language sql as
                  $$ insert into boards (title) values ('sneaked'); select 1 $$;
                  grant execute on function sneak() to public";
    admin.batch_execute(writer).await.unwrap();
    let count = json!({ "query": "select count(*)::int as n from boards" });

    assert_eq!(read(&sql, count).await.ok()["rows"][0]["n"], 0);
    let insert = "insert into boards (title) values ('written')";
    for query in [
        insert,
        "select sneak()",
        "with x as (select set_config('transaction_read_only', 'off', false)) select sneak() from x",
        "do $$ begin set default_transaction_read_only = off; commit; insert into boards (title) values ('x'); end $$",
        "do $$ begin set transaction read write; insert into boards (title) values ('x'); end $$",
        "explain analyze insert into boards (title) values ('x')",
    ] {
        let heard = read(&sql, json!({ "query": query })).await;
        assert_eq!(heard.status, StatusCode::BAD_REQUEST, "{query}: {heard:?}");
    }
    for lift in [
        "set transaction read write",
        "set transaction_read_only = off",
        "set session characteristics as transaction read write",
        "set default_transaction_read_only = off",
        "select set_config('transaction_read_only', 'off', false)",
        "reset all",
        "discard all",
        "savepoint a",
        "set role none",
    ] {
        let queries = json!({ "queries": [{ "query": lift }, { "query": insert }] });
        for header in ["false", "true"] {
            let request = reader(&sql).header("Neon-Batch-Read-Only", header);
            let heard = hear(request.json(&queries)).await;
            assert_eq!(heard.status, StatusCode::BAD_REQUEST, "{lift}: {heard:?}");
        }
    }
    assert_eq!(sql.fleet.count("acme", "boards").await, 0);
    sql.query(insert).await.ok();
}

#[tokio::test]
async fn a_caller_who_leaves_takes_the_statement_along() {
    let sql = Sql::start().await;
    for body in [json!({ "query": FOREVER }), json!({ "queries": [{ "query": FOREVER }] })] {
        let leaving = sql.request("acme").json(&body).timeout(Duration::from_millis(400)).send();

        assert!(leaving.await.is_err());
        woken(&sql).await;
    }
    sql.query("select 1").await.ok();
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_stopped() {
    let sql = Sql::start_with(hasty(), router_settings()).await;

    let one = sql.query(FOREVER).await;
    let batch =
        json!({ "queries": [{ "query": "set statement_timeout = 0" }, { "query": FOREVER }] });
    let plain = sql.ask("acme", batch.clone()).await;
    let client = sql.ask_as_client("acme", batch).await;

    assert_eq!(one.code(), "57014");
    assert_eq!((plain.status, plain.code()), (StatusCode::GATEWAY_TIMEOUT, "statement_timeout"));
    assert_eq!((client.status, client.code()), (StatusCode::BAD_REQUEST, "57014"));
    woken(&sql).await;
}

#[tokio::test]
async fn an_answer_has_its_bounds_and_what_was_refused_has_changed_nothing() {
    let settings =
        SqlSettings { max_response_bytes: 100_000, max_rows: 100, ..SqlSettings::default() };
    let sql = Sql::start_with(settings, router_settings()).await;

    sql.query("select * from generate_series(1, 100)").await.ok();
    sql.query("select repeat('x', 90000)").await.ok();
    for query in [
        "select * from generate_series(1, 101)",
        "select generate_series(1, 1000000000) as n",
        "select repeat('x', 110000)",
        "select repeat('x', 100000000)",
        "insert into boards (title) select 'x' from generate_series(1, 101) returning id",
        "with new as (insert into boards (title) values (repeat('x', 110000)) returning title) select * from new",
    ] {
        let plain = sql.query(query).await;
        let client = sql.ask_as_client("acme", json!({ "query": query })).await;
        let batch = sql.ask("acme", json!({ "queries": [{ "query": query }] })).await;

        assert_eq!(
            (plain.status, plain.code()),
            (StatusCode::PAYLOAD_TOO_LARGE, "result_too_large"),
            "{query}"
        );
        assert_eq!((client.status, client.code()), (StatusCode::BAD_REQUEST, "54000"), "{query}");
        assert_eq!(batch.status, StatusCode::PAYLOAD_TOO_LARGE, "{query}");
    }
    eventually("no statement is left", async || {
        sql.count("usename = 'tenant_acme' and state = 'active'").await == 0
    })
    .await;
    assert_eq!(sql.fleet.count("acme", "boards").await, 0);
}

#[tokio::test]
async fn a_giant_result_takes_no_more_memory_than_an_answer_may_have() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let token = fleet.catalog().create_token("test", &Scope::ALL).await.unwrap();
    let mut serving = Serving::start(&fleet);
    let url = format!("{}/sql", serving.address("the data plane").await);
    let client = reqwest::Client::new();
    let ask = |query: &str| {
        let request = client.post(&url).bearer_auth(token.expose_secret());
        hear(request.header("X-Tenant", "acme").json(&json!({ "query": query })))
    };
    ask("select 1").await.ok();
    let before = serving.peak_memory();

    for query in [
        "select repeat('x', 200000000)",
        "select repeat('x', 1000) from generate_series(1, 200000)",
        "do $$ begin raise '%', repeat('x', 100000000); end $$",
        "do $$ begin raise notice '%', repeat('x', 100000000); end $$",
    ] {
        let heard = tokio::join!(ask(query), ask(query));
        assert_eq!([heard.0.code(), heard.1.code()], ["result_too_large"; 2], "{query}");
    }

    let grown = serving.peak_memory() - before;
    assert!(grown < 100 << 20, "{grown} bytes for two answers of 16 MiB");
}

#[tokio::test]
async fn a_backend_that_was_killed_is_not_used_again() {
    let sql = Sql::start().await;
    let first = backend(&sql).await;
    let admin = sql.fleet.admin("postgres").await;
    let kill =
        "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'tenant_acme'";

    admin.query(kill, &[]).await.unwrap();
    eventually("it is gone", async || sql.backends("acme").await == 0).await;
    assert_ne!(backend(&sql).await, first);

    let (heard, ()) = tokio::join!(sql.query(FOREVER), async {
        eventually("it sleeps", async || {
            sql.count("query like '%pg_sleep(600)%' and usename = 'tenant_acme'").await == 1
        })
        .await;
        admin.query(kill, &[]).await.unwrap();
    });
    assert_eq!(heard.code(), "57P01");
    backend(&sql).await;
}

#[tokio::test]
async fn a_database_with_another_stamp_is_refused() {
    let sql = Sql::start().await;
    let admin = sql.fleet.admin("postgres").await;
    for statement in [
        "alter database tenant_acme rename to swap",
        "alter database tenant_globex rename to tenant_acme",
        "grant connect on database tenant_acme to tenant_acme",
    ] {
        admin.batch_execute(statement).await.unwrap();
    }

    let heard = sql.query("select 1").await;

    assert_eq!(
        (heard.status, heard.code()),
        (StatusCode::INTERNAL_SERVER_ERROR, "isolation_refused")
    );
}

#[tokio::test]
async fn a_statement_that_a_migration_overtook_is_prepared_again() {
    let sql = Sql::start().await;
    let query = "select * from boards";
    let batch = json!({ "queries": [{ "query": "insert into boards (title) values ('x')" }, { "query": query }] });
    sql.query(query).await.ok();
    sql.ask("acme", batch.clone()).await.ok();
    let admin = sql.fleet.admin("tenant_acme").await;
    let pid = backend(&sql).await;

    admin.batch_execute("alter table boards add column one int").await.unwrap();
    assert_eq!(sql.query(query).await.ok()["fields"].as_array().unwrap().len(), 4);
    admin.batch_execute("alter table boards add column two int").await.unwrap();
    let again = sql.ask("acme", batch).await.ok();

    assert_eq!(again["results"][1]["fields"].as_array().unwrap().len(), 5);
    assert_eq!(again["results"][1]["rowCount"], 2, "the batch happened once");
    assert_eq!(backend(&sql).await, pid);
}

#[tokio::test]
async fn sessions_are_bounded_wait_in_line_and_are_closed_when_idle() {
    let router = RouterSettings {
        pool_max_size: 2,
        pool_wait_timeout: Duration::from_secs(2),
        pool_idle_timeout: Duration::from_secs(3),
        ..router_settings()
    };
    let sql = Sql::start_with(SqlSettings::default(), router).await;
    let nap = json!({ "query": "select pg_sleep(0.1)" });
    let naps = futures_util::future::join_all((0..8).map(|_| sql.ask("acme", nap.clone())));
    for heard in naps.await {
        heard.ok();
    }
    read(&sql, json!({ "query": "select 1" })).await.ok();
    assert!(sql.backends("acme").await <= 2);

    let slow = json!({ "query": "select pg_sleep(6)" });
    let (one, two, third) =
        tokio::join!(sql.ask("acme", slow.clone()), sql.ask("acme", slow), async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let quick = json!({ "query": "select 1" });
            tokio::join!(sql.ask_as_client("acme", quick.clone()), sql.ask("globex", quick))
        });
    one.ok();
    two.ok();
    assert_eq!(third.0.code(), "53300");
    third.1.ok();
    eventually("idle sessions are closed", async || sql.backends("acme").await == 0).await;
}

#[tokio::test]
async fn sessions_of_an_older_generation_are_closed() {
    let sql = Sql::start().await;
    sql.query("select 1").await.ok();
    let pid = backend(&sql).await;
    let limits = TenantSettings::parse(json!({ "limits": { "statement_timeout": "1s" } }));

    let acme = slug("acme");
    let change = sql.fleet.catalog().change_settings(&acme, "test", |_| limits);
    change.await.unwrap();

    eventually("the new limit is in force", async || {
        sql.query("show statement_timeout").await.ok()["rows"][0]["statement_timeout"] == "1s"
    })
    .await;
    assert_ne!(backend(&sql).await, pid);
    eventually("the old session is closed", async || sql.count(&format!("pid = {pid}")).await == 0)
        .await;
    assert_eq!(sql.query(FOREVER).await.code(), "57014");
}

#[tokio::test]
async fn sessions_that_come_back_keep_to_a_budget_that_has_shrunk() {
    let sql = Sql::start().await;
    let nap = json!({ "query": "select pg_sleep(2)" });
    let naps = futures_util::future::join_all((0..6).map(|_| sql.ask("acme", nap.clone())));
    let shrink = async {
        eventually("all are in use", async || sql.backends("acme").await == 6).await;
        sql.fleet.catalog().change_server("default", &budget(Some(2))).await.unwrap();
    };

    let (naps, ()) = tokio::join!(naps, shrink);

    for heard in naps {
        heard.ok();
    }
    // Not as late as when the replica next hears what its part is.
    let two = eventually("two are left", async || sql.backends("acme").await == 2);
    tokio::time::timeout(Duration::from_secs(4), two).await.expect("the others are closed at once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_wait_for_a_server_that_is_coming_back() {
    let patient = RouterSettings { pool_wait_timeout: Duration::from_mins(1), ..router_settings() };
    let mut sql = Sql::start_with(SqlSettings::default(), patient).await;
    let pid = backend(&sql).await;

    sql.fleet.postgres.kill();
    // A statement that the dying server still takes may have been carried out, and is not sent twice.
    eventually("the session has ended", async || !is_running(&pid)).await;
    let ask = || hear(sql.request("acme").json(&json!({ "query": "select 1" })));
    let asked: Vec<_> = (0..4).map(|_| tokio::spawn(ask())).collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    sql.fleet.postgres.restart().await.unwrap();

    for heard in futures_util::future::join_all(asked).await {
        heard.unwrap().ok();
    }
}

/// Whether the process runs; one that has ended and waits to be collected does not.
fn is_running(pid: &Value) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with(['Z', 'X']))
}
