//! To a newer major version of PostgreSQL, while the tenant is served.

use std::time::Duration;

use tenantry::embedded::{EmbeddedPostgres, PostgresSettings};

use super::{Two, Writers, logical};
use crate::harness::connect;
use crate::harness::postgres18::Postgres18;

#[tokio::test]
async fn a_tenant_moves_to_the_newest_major_while_it_is_served() {
    let Some(newest) = Postgres18::installed() else { return };
    let mut two = Two::start().await;
    let settings = PostgresSettings { bin_dir: Some(newest.bin_dir()), ..logical() };
    let new = EmbeddedPostgres::start_scratch(settings).await.unwrap();
    let record = two.fleet.catalog().add_server("new", &new.url().into()).await.unwrap();
    two.fleet.environment.server(record.id).await.unwrap().prepare().await.unwrap();
    let own = two.fleet.postgres.bin_dir().to_owned();
    two.fleet.environment.limits.pg_bin_dirs = vec![own, newest.bin_dir()];
    two.fleet.create_tenant_with("acme", true).await;
    Writers::prepare(&two.fleet.admin("tenant_acme").await).await;
    let writers = Writers::start(&two.router(), 2);
    tokio::time::sleep(Duration::from_millis(100)).await;

    two.relocate("new").await;

    let home = connect(&new.database_url("tenant_acme")).await.unwrap();
    let version = home.query_one("select current_setting('server_version_num')::int4", &[]).await;
    assert!(version.unwrap().get::<_, i32>(0) >= 180_000);
    two.fleet.assert_healthy().await;
    tokio::time::sleep(Duration::from_millis(100)).await;

    // What was left on the older one follows: an upgrade can be taken back.
    let returned = two.relocate("default").await;

    assert!(!returned.memory["return"].is_null(), "nothing is copied");
    tokio::time::sleep(Duration::from_millis(100)).await;
    writers.stop_and_check(&two.at_home().await).await;
    two.fleet.assert_healthy().await;
}
