//! Prepared statements: what is kept of them never shows, whatever becomes of the schema between two uses.

use serde_json::{Value, json};

use super::Sql;
use crate::harness::eventually;

async fn one(sql: &Sql, query: &str, params: Value) -> Value {
    sql.ask("acme", json!({ "query": query, "params": params })).await.ok()["rows"][0].clone()
}

#[tokio::test]
async fn a_column_may_change_its_type_between_two_requests() {
    let sql = Sql::start().await;
    let admin = sql.fleet.admin("tenant_acme").await;
    let table = "create table codes (id int, note text); grant all on codes to tenantry_app";
    admin.batch_execute(table).await.unwrap();
    let (insert, find) =
        ("insert into codes (id) values ($1)", "select id from codes where id = $1");
    sql.ask("acme", json!({ "query": insert, "params": ["7"] })).await.ok();
    assert_eq!(one(&sql, find, json!(["7"])).await["id"], 7);

    admin.batch_execute("alter table codes alter column id type text").await.unwrap();

    assert_eq!(one(&sql, find, json!(["7"])).await["id"], "7");
    sql.ask("acme", json!({ "query": insert, "params": ["x"] })).await.ok();
    assert_eq!(one(&sql, find, json!(["x"])).await["id"], "x");
    let refused = sql.ask("acme", json!({ "query": "select $1::int", "params": ["x"] })).await;
    assert_eq!(refused.code(), "22P02");
}

#[tokio::test]
async fn a_batch_goes_through_whatever_of_it_is_out_of_date() {
    let sql = Sql::start().await;
    let admin = sql.fleet.admin("tenant_acme").await;
    let queries = json!({ "queries": [
        { "query": "insert into boards (title) values ('one') returning *" },
        { "query": "select * from boards" },
        { "query": "select count(*)::int as n from boards" },
    ] });
    for round in 1..=4 {
        let done = sql.ask("acme", queries.clone()).await.ok();

        assert_eq!(done["results"][2]["rows"][0]["n"], round, "a batch happens once");
        let change = format!("alter table boards add column added_{round} int");
        admin.batch_execute(&change).await.unwrap();
    }
}

#[tokio::test]
async fn a_batch_may_change_the_schema_between_its_own_statements() {
    let sql = Sql::start().await;
    let grant = "grant temporary on database tenant_acme to tenant_acme";
    sql.fleet.admin("tenant_acme").await.batch_execute(grant).await.unwrap();
    let all = json!({ "query": "select * from own" });
    let queries = json!({ "queries": [
        { "query": "create temporary table own as select 1 as a" },
        all,
        { "query": "alter table own add column b int" },
        all,
        { "query": "drop table own" },
        { "query": "create temporary table own as select 'x' as a" },
        all,
    ] });

    for _ in 0..2 {
        let done = sql.ask("acme", queries.clone()).await.ok();

        let rows = |number: usize| done["results"][number]["rows"][0].clone();
        assert_eq!((rows(1), rows(3)), (json!({ "a": 1 }), json!({ "a": 1, "b": null })));
        assert_eq!(rows(6), json!({ "a": "x" }));
    }
}

#[tokio::test]
async fn a_migration_makes_every_statement_be_prepared_anew() {
    let sql = Sql::start().await;
    migrate(&sql, "V2__codes.sql", "create table codes (id int);").await;
    let insert = "insert into codes (id) values ($1) returning id";
    assert_eq!(one(&sql, insert, json!(["007"])).await["id"], 7);

    migrate(&sql, "V3__text.sql", "alter table codes alter column id type text;").await;

    // The statement as it was would take the number, and PostgreSQL turn it into text.
    eventually("it is prepared anew", async || {
        one(&sql, insert, json!(["007"])).await["id"] == "007"
    })
    .await;
}

async fn migrate(sql: &Sql, file: &str, text: &str) {
    sql.fleet.add_migration(file, text);
    sql.fleet.environment.reload_migrations().await.unwrap();
    let batch = sql.fleet.environment.migrate_fleet(&[], "test").await.unwrap();
    sql.fleet.runner().complete_batch(batch, 2).await.unwrap();
}
