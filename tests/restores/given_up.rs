//! A restore or a move that has failed and been undone, and that is given up after others were at the tenant.

use tenantry::catalog::operations::{OperationRecord, OperationState};
use tenantry::embedded::EmbeddedPostgres;
use tenantry::operations::removal::Stock;
use tenantry::operations::request::BackupChoice;
use tenantry::tenant::TenantState;

use super::{boards, fail_in_the_cutover, fleet_with_backup, left_on, second_server};
use crate::harness::{BY, Fleet, connect, slug};

async fn give_up(fleet: &Fleet, failed: &OperationRecord) {
    fleet.environment.cancel(failed.id).await.unwrap();
    let ended = fleet.runner().complete(failed.id).await.unwrap();
    assert_eq!(ended.state, OperationState::Cancelled, "{:?}", ended.error);
}

async fn restore(fleet: &Fleet, server: Option<&str>) {
    let latest = BackupChoice::Latest;
    let asked = fleet.environment.restore_on(&slug("acme"), latest, server, BY).await.unwrap();
    fleet.complete(&asked).await;
}

async fn dismiss_intruder(fleet: &Fleet) {
    fleet.admin("postgres").await.batch_execute("drop role intruder").await.unwrap();
}

/// Asks for a relocation that fails in its cutover, since the tenant's role is somebody else's over there.
async fn fail_to_move(fleet: &Fleet, second: &EmbeddedPostgres) -> OperationRecord {
    let there = connect(&second.database_url("postgres")).await.unwrap();
    there.batch_execute("create role tenant_acme").await.unwrap();
    let asked = fleet.environment.relocate(&slug("acme"), "second", BY).await.unwrap();
    let failed = fleet.runner().complete(asked.id).await.unwrap();
    there.batch_execute("drop role tenant_acme").await.unwrap();
    assert_eq!(failed.error.as_ref().map(|error| &*error.step), Some("move"), "{failed:?}");
    assert!(failed.memory.get("before").is_some(), "its cutover had begun");
    failed
}

#[tokio::test]
async fn a_tenant_that_was_suspended_since_stays_suspended() {
    let fleet = fleet_with_backup().await;
    let second = second_server(&fleet).await;
    let restored = fail_in_the_cutover(&fleet, None).await;
    dismiss_intruder(&fleet).await;
    let moved = fail_to_move(&fleet, &second).await;
    let reason = Some("unpaid".to_owned());
    let suspend = fleet.environment.suspend(&slug("acme"), reason, BY).await.unwrap();
    fleet.complete(&suspend).await;

    for failed in [restored, moved] {
        give_up(&fleet, &failed).await;

        let acme = fleet.tenant("acme").await;
        let found = (acme.state, acme.suspended_reason.as_deref());
        assert_eq!(found, (TenantState::Suspended, Some("unpaid")), "{}", failed.kind);
        let sql = "select rolcanlogin from pg_roles where rolname = 'tenant_acme'";
        let login = fleet.admin("postgres").await.query_one(sql, &[]).await.unwrap();
        assert!(!login.get::<_, bool>(0), "{}", failed.kind);
    }
    assert_eq!(left_on(&fleet.postgres).await, ["database tenant_acme", "role tenant_acme"]);
    assert_eq!(left_on(&second).await, [] as [&str; 0]);
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn a_tenant_that_was_restored_since_keeps_what_it_has_and_no_server_is_held() {
    let fleet = fleet_with_backup().await;
    let second = second_server(&fleet).await;
    let restored = fail_in_the_cutover(&fleet, None).await;
    dismiss_intruder(&fleet).await;
    let moved = fail_to_move(&fleet, &second).await;
    restore(&fleet, None).await;
    let held = fleet.environment.remove_server("second", Stock::Drop, false).await;
    assert!(held.is_err(), "the move that failed names it");

    give_up(&fleet, &restored).await;
    give_up(&fleet, &moved).await;

    assert_eq!((boards(&fleet).await, fleet.tenant("acme").await.epoch), (3, 2));
    let left = left_on(&fleet.postgres).await;
    assert_eq!(left, ["database tenant_acme", "database tenantry_old_<id>", "role tenant_acme"]);
    fleet.assert_healthy().await;
    fleet.environment.remove_server("second", Stock::Drop, false).await.unwrap();
}

#[tokio::test]
async fn a_tenant_that_has_come_there_since_stays_there() {
    let fleet = fleet_with_backup().await;
    let second = second_server(&fleet).await;
    let moved = fail_to_move(&fleet, &second).await;
    restore(&fleet, Some("second")).await;

    give_up(&fleet, &moved).await;

    assert_eq!(fleet.tenant("acme").await.server_name, "second");
    assert_eq!(left_on(&second).await, ["database tenant_acme", "role tenant_acme"]);
    assert_eq!(boards(&fleet).await, 3);
    fleet.assert_healthy().await;
}

/// One that is stuck in its cutover is not another's to undo, nor to go on with.
#[tokio::test]
async fn a_cutover_that_is_stuck_is_nobody_elses() {
    let fleet = fleet_with_backup().await;
    let first = fail_in_the_cutover(&fleet, None).await;
    dismiss_intruder(&fleet).await;
    let asked = fleet.environment.restore(&slug("acme"), BackupChoice::Latest, BY).await.unwrap();
    fleet.complete(&asked).await;
    let catalog = fleet.admin("tenantry").await;
    let stuck = "update operations set state = 'failed', completed_steps = 3 where id = $1";
    catalog.execute(stuck, &[&asked.id]).await.unwrap();
    catalog.batch_execute("update tenants set state = 'restoring', epoch = 1").await.unwrap();

    for is_given_up in [false, true] {
        if is_given_up {
            fleet.environment.cancel(first.id).await.unwrap();
        } else {
            fleet.catalog().retry(first.id).await.unwrap();
        }
        let ended = fleet.runner().complete(first.id).await.unwrap();

        let error = ended.error.unwrap();
        assert!(error.message.contains("the tenant is restoring"), "{error:?}");
        assert_eq!(fleet.tenant("acme").await.state, TenantState::Restoring);
    }
    fleet.catalog().retry(asked.id).await.unwrap();
    fleet.complete(&asked).await;
    assert_eq!(boards(&fleet).await, 3);
}
