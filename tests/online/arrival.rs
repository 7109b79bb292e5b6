//! How the rows get to the other server: at a pace that leaves room for others, or as fast as it goes.

use std::process::Stdio;
use std::time::Duration;

use tenantry::catalog::operations::OperationState;
use tenantry::operations::Transfer;

use super::{Two, Writers};
use crate::harness::process::{KillOnDrop, serve_command};
use crate::harness::{eventually, slug};

/// Columns are known by their names, whatever their order; what is made from others is made anew.
#[tokio::test]
async fn tables_whose_columns_come_in_another_order_arrive() {
    let two = Two::start().await;
    two.fleet.create_tenant_with("acme", true).await;
    let odd = r#"create table parent (id int primary key, a text);
                 create table child (b int, primary key (id)) inherits (parent);
                 alter table parent add column c text;
                 insert into parent values (1, 'of the parent', null);
                 insert into child (id, a, b, c) values (2, 'a', 3, 'c');
                 create table "Odd, (name)" ("key 1" int generated always as identity primary key,
                     gone int, "a ""b""" jsonb, long int generated always as (length(kept)) stored, kept text);
                 alter table "Odd, (name)" drop column gone;
                 insert into "Odd, (name)" ("a ""b""", kept) values ('{"x": "\\n"}', e'tab\t\\.\n'), (null, '')"#;
    two.fleet.admin("tenant_acme").await.batch_execute(odd).await.unwrap();
    let seen = r#"select string_agg(r, '; ' order by r) from (
                      select to_jsonb(p)::text || p.tableoid::regclass from parent p
                      union all select to_jsonb(c)::text from child c
                      union all select to_jsonb(o)::text from "Odd, (name)" o) as s (r)"#;
    let before: String = two.at_home().await.query_one(seen, &[]).await.unwrap().get(0);

    two.relocate("eu-2").await;

    let home = two.at_home().await;
    let after: String = home.query_one(seen, &[]).await.unwrap().get(0);
    assert_eq!(after, before);
    let order = "select string_agg(attname, ' ' order by attnum) from pg_attribute
                 where attrelid = 'child'::regclass and attnum > 0";
    let order: String = home.query_one(order, &[]).await.unwrap().get(0);
    assert_eq!(order, "id a c b", "a dump made the columns of the parent first");
    two.assert_tidy("at the end").await;
}

/// While the rows of a large tenant are under way nobody waits. Who dies over them is followed by another one, who
/// begins anew.
#[tokio::test]
async fn a_copy_rests_and_survives_its_worker() {
    let two = Two::start().await;
    two.fleet.create_tenant_with("acme", true).await;
    let admin = two.fleet.admin("tenant_acme").await;
    Writers::prepare(&admin).await;
    let ballast = "create table ballast (id int primary key, t text);
                   insert into ballast select n, repeat(md5(n::text), 30) from generate_series(1, 50000) n";
    admin.batch_execute(ballast).await.unwrap();
    let writers = Writers::start(&two.router(), 2);
    let asked = two.ask("eu-2").await;
    // It works for a moment, and rests for as long as it may.
    let mut worker = serve_command(&two.fleet, "worker");
    worker.env("TENANTRY_RELOCATE_NICE_RATIO", "100").env("TENANTRY_LOG_LEVEL", "off");
    let worker = KillOnDrop(worker.stderr(Stdio::null()).spawn().unwrap());
    let catalog = two.fleet.catalog();

    eventually("some rows are there", async || {
        let now = catalog.operation(asked.id).await.unwrap();
        Transfer::of(&now).is_some_and(|moved| moved.bytes > 8 << 20)
    })
    .await;
    let now = catalog.operation(asked.id).await.unwrap();
    let moved = Transfer::of(&now).unwrap();
    assert!(now.memory["followed"].is_null() && moved.bytes < moved.total_bytes, "{moved:?}");
    drop(worker);

    let ended = two.fleet.runner().complete(asked.id).await.unwrap();
    assert_eq!(ended.state, OperationState::Succeeded, "{:?}", ended.error);
    let longest = writers.stop_and_check(&two.at_home().await).await;
    assert!(longest < Duration::from_secs(15), "somebody waited for {longest:?}");
    assert_eq!(two.fleet.tenant("acme").await.server_name, "eu-2");
    two.assert_tidy("at the end").await;
}

/// Where nothing is to be spared, the other server copies by itself.
#[tokio::test]
async fn at_full_speed_the_other_server_copies_by_itself() {
    let mut two = Two::start().await;
    two.fleet.environment.limits.nice_ratio = 0;
    two.fleet.create_tenant_with("acme", true).await;
    Writers::prepare(&two.fleet.admin("tenant_acme").await).await;
    let writers = Writers::start(&two.router(), 2);

    for to in ["eu-2", "default"] {
        two.relocate(to).await;
        two.fleet.environment.finish_relocation(&slug("acme")).await.unwrap();
    }

    writers.stop_and_check(&two.at_home().await).await;
    for server in [&two.fleet.postgres, &two.other] {
        let log = std::fs::read_to_string(server.log_path()).unwrap();
        assert!(log.contains("table synchronization worker"), "it copies by itself");
    }
    two.assert_tidy("at the end").await;
}
