//! Suspensions and resumptions that fail, and are retried or given up when others have had their say since.

use tenantry::catalog::operations::{OperationRecord, OperationState};
use tenantry::operations::runner::Disturbance;
use tenantry::tenant::TenantState;

use crate::harness::{BY, Fleet, once, slug};

async fn fleet_with_tenant() -> Fleet {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    fleet
}

async fn suspend(fleet: &Fleet, reason: &str) -> OperationRecord {
    fleet.environment.suspend(&slug("acme"), Some(reason.to_owned()), BY).await.unwrap()
}

async fn resume(fleet: &Fleet) -> OperationRecord {
    fleet.environment.resume(&slug("acme"), BY).await.unwrap()
}

async fn fail_at(fleet: &Fleet, asked: &OperationRecord, step: &'static str) {
    let runner = fleet.disturbed_runner(once(step, false, Disturbance::Fail));
    assert_eq!(runner.complete(asked.id).await.unwrap().state, OperationState::Failed);
}

async fn retry(fleet: &Fleet, asked: &OperationRecord) -> OperationRecord {
    fleet.catalog().retry(asked.id).await.unwrap();
    fleet.runner().complete(asked.id).await.unwrap()
}

async fn give_up(fleet: &Fleet, asked: &OperationRecord) {
    fleet.environment.cancel(asked.id).await.unwrap();
    let ended = fleet.runner().complete(asked.id).await.unwrap();
    assert_eq!(ended.state, OperationState::Cancelled, "{:?}", ended.error);
}

async fn assert_served(fleet: &Fleet) {
    let acme = fleet.tenant("acme").await;
    assert_eq!((acme.state, acme.suspended_reason.as_deref()), (TenantState::Active, None));
    assert!(may_log_in(fleet).await);
}

async fn assert_suspended(fleet: &Fleet, reason: &str) {
    let acme = fleet.tenant("acme").await;
    let expected = (TenantState::Suspended, Some(reason));
    assert_eq!((acme.state, acme.suspended_reason.as_deref()), expected);
    assert!(!may_log_in(fleet).await);
}

async fn may_log_in(fleet: &Fleet) -> bool {
    let sql = "select rolcanlogin from pg_roles where rolname = 'tenant_acme'";
    fleet.admin("postgres").await.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_suspension_that_is_given_up_late_leaves_a_later_one_in_force() {
    let fleet = fleet_with_tenant().await;
    let first = suspend(&fleet, "unpaid").await;
    fail_at(&fleet, &first, "disable_login").await;
    let second = suspend(&fleet, "fraud").await;
    fleet.complete(&second).await;

    give_up(&fleet, &first).await;

    assert_suspended(&fleet, "fraud").await;
}

#[tokio::test]
async fn a_second_suspension_that_is_given_up_leaves_the_first_with_its_reason() {
    let fleet = fleet_with_tenant().await;
    let first = suspend(&fleet, "unpaid").await;
    fleet.complete(&first).await;

    let queued = suspend(&fleet, "fraud").await;
    give_up(&fleet, &queued).await;
    assert_suspended(&fleet, "unpaid").await;

    let failed = suspend(&fleet, "fraud").await;
    fail_at(&fleet, &failed, "disable_login").await;
    give_up(&fleet, &failed).await;
    assert_suspended(&fleet, "unpaid").await;

    let silent = fleet.environment.suspend(&slug("acme"), None, BY).await.unwrap();
    fleet.complete(&silent).await;
    assert_suspended(&fleet, "unpaid").await;
}

#[tokio::test]
async fn suspensions_that_are_all_given_up_the_last_one_first_leave_the_tenant_served() {
    let fleet = fleet_with_tenant().await;
    let first = suspend(&fleet, "unpaid").await;
    fail_at(&fleet, &first, "disable_login").await;
    let second = suspend(&fleet, "fraud").await;
    fail_at(&fleet, &second, "disable_login").await;
    let resumed = resume(&fleet).await;
    fail_at(&fleet, &resumed, "route_again").await;

    give_up(&fleet, &resumed).await;
    give_up(&fleet, &second).await;
    assert_suspended(&fleet, "unpaid").await;
    give_up(&fleet, &first).await;

    assert_served(&fleet).await;
}

#[tokio::test]
async fn a_suspension_does_not_go_on_once_the_tenant_was_resumed() {
    let fleet = fleet_with_tenant().await;
    let suspended = suspend(&fleet, "unpaid").await;
    fail_at(&fleet, &suspended, "disable_login").await;
    let resumed = resume(&fleet).await;
    fleet.complete(&resumed).await;

    let retried = retry(&fleet, &suspended).await;

    assert!(retried.error.unwrap().message.contains("was resumed since"));
    assert_served(&fleet).await;
    give_up(&fleet, &suspended).await;
    assert_served(&fleet).await;
}

#[tokio::test]
async fn a_resumption_does_not_go_on_once_the_tenant_was_suspended_again() {
    let fleet = fleet_with_tenant().await;
    let first = suspend(&fleet, "unpaid").await;
    fleet.complete(&first).await;
    let resumed = resume(&fleet).await;
    fail_at(&fleet, &resumed, "route_again").await;
    let second = suspend(&fleet, "fraud").await;
    fleet.complete(&second).await;

    let retried = retry(&fleet, &resumed).await;

    assert!(retried.error.unwrap().message.contains("was suspended since"));
    assert_suspended(&fleet, "fraud").await;
}

#[tokio::test]
async fn a_resumption_that_is_given_up_lets_nobody_in() {
    let fleet = fleet_with_tenant().await;
    let suspended = suspend(&fleet, "unpaid").await;
    fleet.complete(&suspended).await;
    let resumed = resume(&fleet).await;
    fail_at(&fleet, &resumed, "route_again").await;
    assert!(may_log_in(&fleet).await);

    give_up(&fleet, &resumed).await;

    assert_suspended(&fleet, "unpaid").await;
    fleet.assert_healthy().await;
}
