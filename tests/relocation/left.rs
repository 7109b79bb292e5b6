//! What a tenant has left on a server, where that server was away or is gone.

use tenantry::catalog::operations::OperationState;
use tenantry::operations::removal::{RemovalError, Stock};
use tenantry::operations::runner::Disturbance;

use super::Two;
use crate::harness::{BY, once, slug};

#[tokio::test]
async fn a_role_that_was_not_dropped_there_goes_with_the_tenant() {
    let two = Two::start().await;
    two.fleet.create_tenant("acme").await;
    let asked = two.ask("acme", "eu-2").await;
    let runner = two.fleet.disturbed_runner(once("leave_server", false, Disturbance::Fail));
    assert_eq!(runner.complete(asked.id).await.unwrap().state, OperationState::Failed);
    assert!(two.found("default").await.contains(&"tenant_acme may log in".to_owned()));

    let delete = two.fleet.environment.delete(&slug("acme"), false, BY).await.unwrap();
    two.fleet.complete(&delete).await;

    assert_eq!(two.found("default").await, [] as [&str; 0]);
    assert_eq!(two.found("eu-2").await, [] as [&str; 0]);
    two.fleet.create_tenant("acme").await;
    two.fleet.assert_healthy().await;
}

/// Whoever deletes the tenant is told what to do, and so is whoever removes the server.
#[tokio::test]
async fn a_server_that_is_gone_keeps_neither_its_name_nor_the_tenant_that_left_it() {
    let two = Two::start().await;
    two.fleet.create_tenant_with("acme", true).await;
    two.relocate("acme", "eu-2").await;
    two.relocate("acme", "default").await;
    let Two { fleet, other } = two;
    other.stop().await.unwrap();
    let delete = fleet.environment.delete(&slug("acme"), true, BY).await.unwrap();
    let claim = tenantry::catalog::lock::Claim::Operation(delete.id);
    fleet.runner().run_one(claim).await.unwrap();
    let way_out = "`tenantry server remove eu-2 --leave --drop-kept`";

    let error = fleet.catalog().operation(delete.id).await.unwrap().error.unwrap();
    assert_eq!(error.step, "drop_databases");
    assert!(error.remedy.as_ref().unwrap().contains(way_out), "{error:?}");
    let refused = fleet.environment.remove_server("eu-2", Stock::Drop, true).await.unwrap_err();
    let RemovalError::Step(refused) = refused else { panic!("{refused}") };
    let remedy = refused.to_failure("").remedy.unwrap();
    assert!(remedy.contains(way_out) && remedy.contains("server add eu-2 --replace"), "{remedy}");
    let removed = fleet.environment.remove_server("eu-2", Stock::Leave, true).await.unwrap();

    assert!(removed.dropped.is_empty(), "{removed:?}");
    fleet.complete(&delete).await;
    fleet.assert_healthy().await;
}
