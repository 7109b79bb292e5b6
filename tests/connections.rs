//! A connection in use: its transactions, its large results, and what becomes of it when its tenant changes.

use std::time::Duration;

use futures_util::TryStreamExt as _;
use tenantry::operations::request::BackupChoice;
use tenantry::router::{IsolationLevel, TenantConnection, TenantRouter};
use tenantry::tenant::settings::SettingsRules;
use tokio::time::timeout;
use tokio_postgres::Client;

use crate::harness::{BY, Fleet, eventually, slug};

mod hostile;

/// More rows than a socket holds.
const MANY: &str = "select generate_series(1, 20000), repeat('x', 2000)";

async fn connect(router: &TenantRouter) -> TenantConnection {
    router.connection(&slug("acme")).await.unwrap()
}

async fn backend(connection: &TenantConnection) -> i32 {
    connection.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0)
}

async fn is_gone(admin: &Client, backend: i32) -> bool {
    let sql = "select 1 from pg_stat_activity where pid = $1";
    admin.query_opt(sql, &[&backend]).await.unwrap().is_none()
}

#[tokio::test]
async fn a_transaction_begins_as_it_was_built() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let router = fleet.router();
    let mut connection = connect(&router).await;
    let before = backend(&connection).await;

    let built = connection.build_transaction().isolation_level(IsolationLevel::Serializable);
    let transaction = built.read_only().deferrable().start().await.unwrap();
    for (setting, value) in [
        ("transaction_isolation", "serializable"),
        ("transaction_read_only", "on"),
        ("transaction_deferrable", "on"),
    ] {
        let row = transaction.query_one("select current_setting($1)", &[&setting]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), value, "{setting}");
    }
    let write = transaction.execute("insert into boards (title) values ('x')", &[]).await;
    assert_eq!(write.unwrap_err().code().unwrap().code(), "25006");
    drop(transaction);

    connection.execute("insert into boards (title) values ('x')", &[]).await.unwrap();
    drop(connection);
    assert_eq!(backend(&connect(&router).await).await, before, "nothing is left of it");
}

#[tokio::test]
async fn a_read_only_connection_begins_no_transaction_that_writes() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let mut connection = fleet.router().read_only(&slug("acme")).await.unwrap();

    let built = connection.build_transaction().isolation_level(IsolationLevel::RepeatableRead);
    let transaction = built.start().await.unwrap();
    let write = transaction.execute("insert into boards (title) values ('x')", &[]).await;

    assert_eq!(write.unwrap_err().code().unwrap().code(), "25006");
}

#[tokio::test]
async fn what_fails_after_a_savepoint_fails_alone() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let mut connection = connect(&fleet.router()).await;
    let insert = "insert into boards (title) values ($1)";
    let mut transaction = connection.transaction().await.unwrap();
    transaction.execute(insert, &[&"first"]).await.unwrap();

    let mut part = transaction.savepoint().await.unwrap();
    part.execute(insert, &[&"lost"]).await.unwrap();
    part.execute("insert into cards (board_id, title) values (0, 'x')", &[]).await.unwrap_err();
    assert!(part.savepoint().await.is_err(), "the part has failed");
    drop(part);
    let part = transaction.savepoint().await.unwrap();
    part.execute(insert, &[&"second"]).await.unwrap();
    part.commit().await.unwrap();
    let none = "select 1 from boards where title = 'lost'";
    assert!(transaction.query_opt(none, &[]).await.unwrap().is_none());
    transaction.commit().await.unwrap();

    let rows = connection.query("select title from boards order by id", &[]).await.unwrap();
    let titles: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(titles, ["first", "second"]);
}

#[tokio::test]
async fn rows_that_are_read_to_the_end_leave_the_connection_as_it_was() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let router = fleet.router();
    let mut connection = connect(&router).await;
    let before = backend(&connection).await;

    let mut rows = connection.query_stream(MANY, &[]).await.unwrap();
    let mut number = 0;
    while let Some(row) = rows.next().await {
        number += 1;
        assert_eq!(row.unwrap().get::<_, i32>(0), number);
    }
    assert_eq!(number, 20_000);
    assert!(rows.next().await.is_none());
    drop(rows);

    let mut transaction = connection.transaction().await.unwrap();
    let sql = "select n from generate_series(1, $1::int) n";
    let rows = transaction.query_stream(sql, &[&3]).await.unwrap();
    let rows: Vec<i32> = rows.map_ok(|row| row.get::<_, i32>(0)).try_collect().await.unwrap();
    assert_eq!(rows, [1, 2, 3]);
    transaction.commit().await.unwrap();
    let mut rows = connection
        .query_stream("select 1 / (n - 2) from generate_series(1, 3) n", &[])
        .await
        .unwrap();
    rows.next().await.unwrap().unwrap();
    assert_eq!(rows.next().await.unwrap().unwrap_err().code().unwrap().code(), "22012");
    assert!(rows.next().await.is_none(), "an error is the end");
    drop(rows);
    drop(connection);
    assert_eq!(backend(&connect(&router).await).await, before);
}

#[tokio::test]
async fn rows_that_nobody_reads_stop_the_server_and_close_the_connection() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let router = fleet.router();
    let admin = fleet.admin("postgres").await;
    for in_transaction in [false, true] {
        let mut connection = connect(&router).await;
        let before = backend(&connection).await;
        let endless = MANY.replace("20000", "2000000000");
        if in_transaction {
            let mut transaction = connection.transaction().await.unwrap();
            let mut rows = transaction.query_stream(&endless, &[]).await.unwrap();
            rows.next().await.unwrap().unwrap();
        } else {
            let mut rows = connection.query_stream(&endless, &[]).await.unwrap();
            rows.next().await.unwrap().unwrap();
        }
        drop(connection);

        eventually("the server has stopped", async || is_gone(&admin, before).await).await;
        let next = timeout(Duration::from_secs(15), connect(&router)).await.unwrap();
        assert_ne!(backend(&next).await, before);
    }
}

/// Whatever ends a tenant's service also ends what was held before: it answers nothing more, and nobody else
/// gets it.
#[tokio::test]
async fn a_held_connection_ends_with_its_tenants_service() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    fleet.back_up("acme").await;
    let router = fleet.router();
    let (acme, environment) = (slug("acme"), &fleet.environment);
    let admin = fleet.admin("postgres").await;
    for what in ["suspend", "restore", "delete"] {
        let mut plain = connect(&router).await;
        let mut within = connect(&router).await;
        let transaction = within.transaction().await.unwrap();
        transaction.execute("insert into boards (title) values ('late')", &[]).await.unwrap();
        let mut streaming = connect(&router).await;
        let unread = backend(&streaming).await;
        let mut rows = streaming.query_stream(MANY, &[]).await.unwrap();
        rows.next().await.unwrap().unwrap();
        eventually("the server waits for the client", async || {
            let sql =
                "select 1 from pg_stat_activity where pid = $1 and wait_event = 'ClientWrite'";
            admin.query_opt(sql, &[&unread]).await.unwrap().is_some()
        })
        .await;

        let operation = match what {
            "suspend" => environment.suspend(&acme, None, BY).await,
            "restore" => environment.restore(&acme, BackupChoice::Latest, BY).await,
            _ => environment.delete(&acme, false, BY).await,
        };
        fleet.complete(&operation.unwrap()).await;

        timeout(Duration::from_secs(30), async {
            assert!(plain.query("select 1", &[]).await.is_err(), "{what}");
            assert!(plain.build_transaction().start().await.is_err(), "{what}");
            assert!(transaction.commit().await.is_err(), "{what}");
            while let Some(row) = rows.next().await {
                if row.is_err() {
                    return;
                }
            }
            panic!("the rows of a tenant that is gone came to their end: {what}");
        })
        .await
        .expect("nothing hangs");
        drop(rows);
        drop((plain, streaming, within));
        if what == "suspend" {
            let resume = environment.resume(&acme, BY).await.unwrap();
            fleet.complete(&resume).await;
        }
        eventually("whoever comes next is served, or refused", async || {
            match router.connection(&acme).await {
                Ok(next) => next.query("select 1", &[]).await.is_ok(),
                Err(_) => what == "delete",
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_held_connection_of_an_older_generation_ends_with_its_work() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let (router, admin) = (fleet.router(), fleet.admin("postgres").await);
    let held = connect(&router).await;
    let before = backend(&held).await;

    let (acme, rules) = (slug("acme"), SettingsRules::default());
    let limits = serde_json::json!({ "limits": { "statement_timeout": "30s" } });
    let change = fleet.catalog().change_settings(&acme, "test", |before| {
        rules.change(before, |settings| {
            *settings = limits.clone();
            Ok(())
        })
    });
    change.await.unwrap();
    eventually("a new generation is routed", async || {
        let new = connect(&router).await;
        new.tenant().generation > held.tenant().generation
    })
    .await;

    assert_eq!(backend(&held).await, before, "its work goes on");
    drop(held);
    eventually("nobody gets it", async || is_gone(&admin, before).await).await;
}

#[tokio::test]
async fn a_changed_schema_fails_no_statement_of_a_transaction() {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    let (router, admin) = (fleet.router(), fleet.admin("tenant_acme").await);
    let (boards, cards) = ("select * from boards order by id", "select * from cards order by id");
    let insert = "insert into boards (title) values ('new') returning *";
    let setting = "select current_setting('transaction_isolation')";
    let mut connection = connect(&router).await;
    for sql in [boards, cards, insert] {
        connection.query(sql, &[]).await.unwrap();
    }
    let columns = connection.query(boards, &[]).await.unwrap()[0].len();

    for round in 1..=6 {
        for table in ["boards", "cards"] {
            let change = format!("alter table {table} add column added_{round} int");
            admin.batch_execute(&change).await.unwrap();
        }
        let built = connection.build_transaction().isolation_level(IsolationLevel::RepeatableRead);
        let mut transaction = built.start().await.unwrap();
        if round % 2 == 0 {
            // So it is not the first statement that is out of date.
            transaction.query_one(setting, &[]).await.unwrap();
        }

        let rows = transaction.query(boards, &[]).await.unwrap();
        let part = transaction.savepoint().await.unwrap();
        part.query(cards, &[]).await.unwrap();
        drop(part);
        transaction.query(cards, &[]).await.unwrap();
        let row = transaction.query_one(insert, &[]).await.unwrap();
        let isolation = transaction.query_one(setting, &[]).await.unwrap();
        transaction.commit().await.unwrap();

        assert_eq!((rows[0].len(), row.len()), (columns + round, columns + round));
        assert_eq!(isolation.get::<_, &str>(0), "repeatable read");
    }

    let change = "alter table boards alter column title type varchar(100)";
    admin.batch_execute(change).await.unwrap();
    let mut transaction = connection.transaction().await.unwrap();
    transaction.query(cards, &[]).await.unwrap();
    let mut rows = transaction.query_stream(boards, &[]).await.unwrap();
    while let Some(row) = rows.next().await {
        row.unwrap();
    }
    drop(rows);
    transaction.query_one(insert, &[]).await.unwrap();
    transaction.commit().await.unwrap();
    let before = fleet.count("acme", "boards").await;
    let transaction = connection.transaction().await.unwrap();
    transaction.query(cards, &[]).await.unwrap();
    transaction.query_one(insert, &[]).await.unwrap();
    transaction.rollback().await.unwrap();
    assert_eq!(fleet.count("acme", "boards").await, before, "nothing outlives its transaction");
}

#[tokio::test]
async fn a_transaction_may_change_the_schema_between_its_own_statements() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let grant = "grant temporary on database tenant_acme to tenant_acme";
    fleet.admin("tenant_acme").await.batch_execute(grant).await.unwrap();
    let mut connection = connect(&fleet.router()).await;
    let transaction = connection.transaction().await.unwrap();
    transaction.execute("create temporary table own (id int)", &[]).await.unwrap();
    for columns in 1..=3 {
        transaction.query("select * from boards", &[]).await.unwrap();
        transaction.execute("insert into own values (1)", &[]).await.unwrap();

        let rows = transaction.query("select * from own", &[]).await.unwrap();

        assert_eq!(rows[0].len(), columns);
        let change = format!("alter table own add column added_{columns} int");
        transaction.execute(&change, &[]).await.unwrap();
    }
}

#[tokio::test]
async fn a_statement_that_fails_in_a_transaction_still_ends_it() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let mut connection = connect(&fleet.router()).await;
    let insert = "insert into boards (title) values ($1)";
    let divide = "select 1 / $1::int";
    connection.execute(insert, &[&"before"]).await.unwrap();
    connection.query(divide, &[&1]).await.unwrap();

    let transaction = connection.transaction().await.unwrap();
    transaction.execute(insert, &[&"lost"]).await.unwrap();
    let failed = transaction.query_one(divide, &[&0]).await.unwrap_err();
    let after = transaction.execute(insert, &[&"lost too"]).await.unwrap_err();

    assert_eq!(failed.code().unwrap().code(), "22012");
    assert_eq!(after.code().unwrap().code(), "25P02");
    transaction.commit().await.unwrap();
    assert_eq!(fleet.count("acme", "boards").await, 1);
}

#[tokio::test]
async fn what_looks_like_an_update_and_changes_the_session_ends_with_its_use() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let router = fleet.router();
    let connection = connect(&router).await;
    let change = "update pg_settings set setting = 'left over' where name = 'application_name'";
    connection.query(change, &[]).await.unwrap();
    drop(connection);

    let connection = connect(&router).await;
    let row =
        connection.query_one("select current_setting('application_name')", &[]).await.unwrap();

    assert_ne!(row.get::<_, String>(0), "left over");
}
