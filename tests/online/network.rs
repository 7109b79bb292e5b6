//! The way between the servers, and the servers themselves, while a tenant is on it.

use std::time::Duration;

use tenantry::catalog::lock::Claim;
use tenantry::catalog::operations::OperationState;
use tenantry::catalog::tenants::NewTenant;
use tenantry::tenant::TenantState;
use tokio_postgres::Client;

use super::{BY, Two, Writers, connect, eventually, logical};
use crate::harness::new_tenant;
use crate::harness::wire::Wire;
use tenantry::embedded::EmbeddedPostgres;

const BALLAST: &str = "create table ballast (n int primary key, t text);
     insert into ballast select n, repeat(md5(n::text), 40) from generate_series(1, 60000) n";

/// Whether rows of the ballast are on their way.
async fn is_carried(home: &Client) -> bool {
    let sql = "select exists (select from pg_stat_progress_copy where relid = 'ballast'::regclass and tuples_processed > 0)";
    home.query_one(sql, &[]).await.unwrap().get(0)
}

/// The tenant's server cannot be reached in the middle of the copy, by nobody: afterwards it begins anew, and is whole.
#[tokio::test]
async fn a_wire_that_is_cut_in_the_copy_costs_nothing() {
    let two = Two::start().await;
    let source = EmbeddedPostgres::start_scratch(logical()).await.unwrap();
    let wire = Wire::to(source.port().unwrap()).await;
    let url = source.url().replace(&source.port().unwrap().to_string(), &wire.port().to_string());
    let record = two.fleet.catalog().add_server("far", &url.into()).await.unwrap();
    two.fleet.environment.server(record.id).await.unwrap().prepare().await.unwrap();
    let new = NewTenant { server: Some("far".to_owned()), ..new_tenant("acme") };
    let made = two.fleet.environment.create_tenant(&new, true, BY).await.unwrap();
    two.fleet.complete(&made).await;
    let home = connect(&source.database_url("tenant_acme")).await.unwrap();
    home.batch_execute(BALLAST).await.unwrap();
    let asked = two.ask("eu-2").await;
    let (runner, id) = (two.fleet.runner(), asked.id);
    let moving = tokio::spawn(async move { runner.run_one(Claim::Operation(id)).await });
    eventually("the copy has begun", async || is_carried(&home).await).await;

    wire.cut();
    moving.await.unwrap().unwrap();

    let acme = two.fleet.tenant("acme").await;
    assert_eq!((&*acme.server_name, acme.state), ("far", TenantState::Active));
    let waiting = two.fleet.catalog().operation(id).await.unwrap();
    assert_eq!(waiting.state, OperationState::Queued, "it is tried again: {:?}", waiting.error);
    home.execute("insert into ballast values (0, 'meanwhile')", &[]).await.unwrap();
    wire.mend();
    two.fleet.complete(&asked).await;
    let sql = "select count(*), count(distinct n) from ballast";
    let row = two.at_home().await.query_one(sql, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (60_001, 60_001));
    let left = home.query_one("select count(*) from pg_replication_slots", &[]).await;
    // The administrator's own session ended with the tenant's stay here.
    assert!(left.is_err(), "the tenant's database is shut");
    let host = connect(&source.url()).await.unwrap();
    let left = host.query_one("select count(*) from pg_replication_slots", &[]).await.unwrap();
    assert_eq!(left.get::<_, i64>(0), 0);
    two.assert_tidy("after the cut").await;
}

/// The server that it is going to dies in the middle of the copy: nothing keeps the log of the other one.
#[tokio::test]
async fn a_target_that_dies_leaves_no_slot() {
    let two = Two::start().await;
    two.fleet.create_tenant_with("acme", true).await;
    let admin = two.fleet.admin("tenant_acme").await;
    Writers::prepare(&admin).await;
    admin.batch_execute(BALLAST).await.unwrap();
    let writers = Writers::start(&two.router(), 2);
    let asked = two.ask("eu-2").await;
    let (runner, id) = (two.fleet.runner(), asked.id);
    let moving = tokio::spawn(async move { runner.run_one(Claim::Operation(id)).await });
    let slots = "select count(*) from pg_replication_slots";
    eventually("the copy has begun", async || is_carried(&admin).await).await;

    two.other.kill();
    moving.await.unwrap().unwrap();

    let acme = two.fleet.tenant("acme").await;
    assert_eq!((&*acme.server_name, acme.state), ("default", TenantState::Active));
    let waiting = two.fleet.catalog().operation(id).await.unwrap();
    assert_eq!(waiting.state, OperationState::Queued, "it is tried again: {:?}", waiting.error);
    assert_eq!(admin.query_one(slots, &[]).await.unwrap().get::<_, i64>(0), 0);
    tokio::time::sleep(Duration::from_millis(100)).await;
    writers.stop_and_check(&admin).await;
}
