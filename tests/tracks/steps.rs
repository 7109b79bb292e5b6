//! Every step of making and of migrating a tenant of a track: cut off before and after it, failed and done twice.

use tenantry::catalog::operations::OperationFilter;
use tenantry::operations::Work;
use tenantry::operations::runner::Disturbance;

use super::*;
use crate::harness::once;
use crate::harness::prepared::Prepared;

const NOTES: &str = "-- tenantry: no-transaction
create table notes (id bigint primary key, text text);
create index concurrently notes_text on notes (text);";

/// Asks for the operation, with all that leads up to it.
async fn prepare(kind: &str) -> (Fleet, OperationRecord) {
    let spares = usize::from(kind == "provision");
    let fleet = fleet_with(Options { spares, ..Options::default() }).await;
    upkeep::tend(&fleet.environment).await.unwrap();
    let operation = ask(&fleet, "acme", "gold").await;
    if kind == "provision" {
        return (fleet, operation);
    }
    fleet.complete(&operation).await;
    fleet.add_migration("V2__labels.sql", "create table labels (id bigint primary key);");
    add(&fleet, "gold", "V2__notes.sql", NOTES);
    fleet.environment.reload_migrations().await.unwrap();
    let batch = fleet.environment.migrate_fleet(&[], "test").await.unwrap();
    let filter = OperationFilter { batch: Some(batch), limit: 2, ..Default::default() };
    let operation = fleet.catalog().operations(&filter).await.unwrap().remove(0).0;
    (fleet, operation)
}

async fn every_step(kind: &str, expected: (i64, Option<String>, i64)) {
    let (fleet, operation) = prepare(kind).await;
    let prepared = Prepared::of(fleet).await;
    let disturbances = [
        (false, Disturbance::Vanish),
        (true, Disturbance::Vanish),
        (false, Disturbance::Repeat),
        (false, Disturbance::Fail),
    ];
    for step in Work::of(&operation).unwrap().plan().steps.iter().map(|step| step.name) {
        for (done, disturbance) in disturbances {
            let fleet = prepared.fleet().await;
            let runner = fleet.disturbed_runner(once(step, done, disturbance));
            let mut ended = runner.complete(operation.id).await.unwrap();
            if disturbance == Disturbance::Fail {
                assert_eq!(ended.state, OperationState::Failed, "{step}");
                fleet.catalog().retry(operation.id).await.unwrap();
                ended = fleet.runner().complete(operation.id).await.unwrap();
            }

            let what = format!("{disturbance:?} at {step}, done={done}: {:?}", ended.error);
            assert_eq!(ended.state, OperationState::Succeeded, "{what}");
            assert_eq!(standing(&fleet, "acme").await, expected, "{what}");
            assert_eq!(fleet.count("acme", "boards").await, 3, "{what}");
            assert_clean(&fleet, "acme").await;
            fleet.assert_healthy().await;
        }
    }
}

#[tokio::test]
async fn a_tenant_of_a_track_is_made_whatever_happens_at_any_step() {
    Box::pin(every_step("provision", in_gold(1, 1))).await;
}

#[tokio::test]
async fn a_tenant_of_a_track_is_migrated_whatever_happens_at_any_step() {
    Box::pin(every_step("migrate", in_gold(2, 2))).await;
}

/// The session ends with the index of the track's file half built; the next try finishes it.
#[tokio::test]
async fn a_file_of_a_track_that_is_cut_in_its_middle_is_gone_on_with() {
    let (fleet, operation) = prepare("migrate").await;
    let admin = fleet.admin("tenant_acme").await;
    // An index that is built concurrently waits for every snapshot that is older.
    let holds = "begin isolation level repeatable read; select 1";
    admin.batch_execute(holds).await.unwrap();
    let runner = fleet.runner();
    let run = tokio::spawn(async move { runner.complete(operation.id).await.unwrap() });
    let server = fleet.admin("postgres").await;
    let cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity
               where query like 'create index concurrently notes_text%' and state = 'active'";
    crate::harness::eventually("it is cut", async || {
        server.query_one(cut, &[]).await.unwrap().get::<_, i64>(0) == 1
    })
    .await;
    admin.batch_execute("rollback").await.unwrap();

    let mut ended = run.await.unwrap();
    if ended.state == OperationState::Failed {
        fleet.catalog().retry(operation.id).await.unwrap();
        ended = fleet.runner().complete(operation.id).await.unwrap();
    }

    assert_eq!(ended.state, OperationState::Succeeded, "{:?}", ended.error);
    assert_eq!(standing(&fleet, "acme").await, in_gold(2, 2));
    assert_clean(&fleet, "acme").await;
}
