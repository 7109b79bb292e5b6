//! A restore, a drill or the restore of a table that does not come to its end, of a tenant that moves meanwhile: what
//! was made on the server that it has left does not stay there.

use tenantry::catalog::operations::{OperationFilter, OperationRecord, OperationState};
use tenantry::embedded::EmbeddedPostgres;
use tenantry::operations::drills::DrillChoice;
use tenantry::operations::request::BackupChoice;
use tenantry::operations::runner::Disturbance;

use super::{boards, fleet_with_backup, left_on, second_server};
use crate::harness::{BY, Fleet, once, slug};

/// The kinds, each with the step before which it fails, when its build is full.
const KINDS: [(&str, &str); 5] = [
    ("restore", "verify"),
    ("restore", "migrate_beside"),
    ("restore", "cut_over"),
    ("restore_table", "copy_table"),
    ("drill", "compare"),
];

async fn ask(fleet: &Fleet, kind: &str) -> OperationRecord {
    let (environment, acme, latest) = (&fleet.environment, slug("acme"), BackupChoice::Latest);
    match kind {
        "restore" => environment.restore(&acme, latest, BY).await.unwrap(),
        "restore_table" => environment.restore_table(&acme, latest, "boards", BY).await.unwrap(),
        _ => {
            let batch = environment.drill(DrillChoice::Of(&[acme]), "test").await.unwrap();
            let filter = OperationFilter { batch: Some(batch), limit: 1, ..Default::default() };
            fleet.catalog().operations(&filter).await.unwrap().remove(0).0
        }
    }
}

/// A tenant on the second server, and what has failed while it was on the first.
async fn fail_and_move(
    kind: &str,
    step: &'static str,
) -> (Fleet, EmbeddedPostgres, OperationRecord) {
    let fleet = fleet_with_backup().await;
    let second = second_server(&fleet).await;
    let asked = ask(&fleet, kind).await;
    let runner = fleet.disturbed_runner(once(step, false, Disturbance::Fail));
    assert_eq!(runner.complete(asked.id).await.unwrap().state, OperationState::Failed);
    assert!(left_on(&fleet.postgres).await.contains(&"database tenantry_build_<id>".to_owned()));
    let moved = fleet.environment.relocate(&slug("acme"), "second", BY).await.unwrap();
    fleet.complete(&moved).await;
    (fleet, second, asked)
}

#[tokio::test]
async fn it_is_retried_where_the_tenant_is() {
    for (kind, step) in KINDS {
        let (fleet, second, asked) = fail_and_move(kind, step).await;

        fleet.catalog().retry(asked.id).await.unwrap();
        fleet.complete(&asked).await;

        let expected = if kind == "restore" { 3 } else { 2 };
        assert_eq!(boards(&fleet).await, expected, "{kind} at {step}");
        assert_eq!(fleet.tenant("acme").await.server_name, "second");
        assert_eq!(
            left_on(&fleet.postgres).await,
            ["database tenantry_old_<id>"],
            "{kind} at {step}"
        );
        let there = left_on(&second).await;
        assert!(!there.iter().any(|name| name.contains("build")), "{kind} at {step}: {there:?}");
        fleet.assert_healthy().await;
    }
}

#[tokio::test]
async fn it_is_given_up_where_it_began() {
    for (kind, step) in KINDS {
        let (fleet, _second, asked) = fail_and_move(kind, step).await;

        fleet.environment.cancel(asked.id).await.unwrap();
        let ended = fleet.runner().complete(asked.id).await.unwrap();

        assert_eq!(ended.state, OperationState::Cancelled, "{kind} at {step}: {:?}", ended.error);
        assert_eq!(
            left_on(&fleet.postgres).await,
            ["database tenantry_old_<id>"],
            "{kind} at {step}"
        );
        fleet.assert_healthy().await;
    }
}

/// Also what was made before operations noted where.
#[tokio::test]
async fn a_tenant_that_is_deleted_leaves_nothing_of_it() {
    for has_note in [true, false] {
        let (fleet, second, asked) = fail_and_move("restore", "verify").await;
        if !has_note {
            let catalog = fleet.admin("tenantry").await;
            let forget = "update operations set memory = memory - 'place' where id = $1";
            catalog.execute(forget, &[&asked.id]).await.unwrap();
        }

        let delete = fleet.environment.delete(&slug("acme"), false, BY).await.unwrap();
        fleet.complete(&delete).await;

        assert_eq!(left_on(&fleet.postgres).await, [] as [&str; 0], "noted: {has_note}");
        assert_eq!(left_on(&second).await, [] as [&str; 0], "noted: {has_note}");
    }
}

/// A worker that died over the last step of a restore may be followed by a move first: what was written since the
/// cutover stays.
#[tokio::test]
async fn a_restore_that_was_done_is_not_done_again() {
    let fleet = fleet_with_backup().await;
    let _second = second_server(&fleet).await;
    let asked = ask(&fleet, "restore").await;
    let runner = fleet.disturbed_runner(once("cut_over", true, Disturbance::Vanish));
    runner.run_one(tenantry::catalog::lock::Claim::Operation(asked.id)).await.unwrap();
    super::execute(&fleet, "insert into boards (title) values ('written since')").await;
    fleet.catalog().release_all_abandoned().await.unwrap();
    let moved = fleet.environment.relocate(&slug("acme"), "second", BY).await.unwrap();
    fleet.complete(&moved).await;

    fleet.complete(&asked).await;

    assert_eq!(boards(&fleet).await, 4);
    assert_eq!(fleet.tenant("acme").await.server_name, "second");
    fleet.assert_healthy().await;
}
