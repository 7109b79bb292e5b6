//! The npm client `@neondatabase/serverless` itself, unmodified but for its address: each check is in
//! `tests/neon/client.mjs`, where node's own assertions speak.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::Sql;

const TYPES: &str = "
    create type mood as enum ('sad', 'happy');
    create type pair as (a int, b text);
    create table events (id int primary key, seen timestamptz, parent int
        references events deferrable initially deferred);
    grant all on events to tenantry_app";

#[tokio::test]
async fn the_npm_client_gets_what_it_expects() {
    let sql = Sql::start().await;
    sql.fleet.admin("tenant_acme").await.batch_execute(TYPES).await.unwrap();

    let client = Command::new("node")
        .args(["--test", "--test-reporter=spec", "tests/neon/client.mjs"])
        .env("SQL_URL", &sql.url)
        .env("SQL_TOKEN", &sql.token)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let client = timeout(Duration::from_mins(1), client).await.expect("it ends").unwrap();

    let said = String::from_utf8_lossy(&client.stdout);
    let complained = String::from_utf8_lossy(&client.stderr);
    assert!(client.status.success(), "`make test` installs it: {said}{complained}");
}
