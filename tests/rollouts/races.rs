//! Who comes at the wrong moment: an abort beside a worker, a resume beside an abort, two who count failures.

use tenantry::catalog::lock::Claim;
use tenantry::catalog::operations::{OperationFilter, OperationState};
use tenantry::catalog::rollouts::RolloutState;
use tenantry::catalog::tenants::NewTenant;
use tenantry::embedded::{EmbeddedPostgres, PostgresSettings};
use tenantry::operations::request::{BackupChoice, RestoreAs};
use tenantry::operations::rollouts::RolloutPlan;
use tokio_postgres::Client;
use uuid::Uuid;

use super::{PICKY, complete, kinds, labels, start, turn, versions};
use crate::harness::{BY, Fleet, eventually, new_tenant, slug};

/// One tenant whose migration is in the queue, in a rollout that nobody leads.
async fn queued(fleet: &Fleet) -> Uuid {
    let rollout = start(fleet, &RolloutPlan::default()).await;
    fleet.environment.advance(rollout.id).await.unwrap();
    fleet.environment.advance(rollout.id).await.unwrap();
    rollout.id
}

async fn operation_states(fleet: &Fleet, batch: Uuid) -> Vec<OperationState> {
    let filter = OperationFilter { batch: Some(batch), limit: 10, ..OperationFilter::default() };
    let found = fleet.catalog().operations(&filter).await.unwrap();
    found.into_iter().map(|(operation, _)| operation.state).collect()
}

/// Waits until a session of this database waits for a lock.
async fn somebody_waits(admin: &Client) {
    let waiting = "select count(*) from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock'";
    let waits = async || admin.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) > 0;
    eventually("somebody waits for a lock", waits).await;
}

#[tokio::test]
async fn what_is_under_way_at_an_abort_is_not_tried_again() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    fleet.add_migration("V2__done.sql", "alter table boards add done boolean;");
    let id = queued(&fleet).await;
    let (holder, admin) = (fleet.admin("tenant_acme").await, fleet.admin("tenant_acme").await);
    holder.batch_execute("begin; lock table boards").await.unwrap();
    let runner = fleet.runner();
    let turn = tokio::spawn(async move { runner.run_one(Claim::Batch(id)).await.unwrap() });
    somebody_waits(&admin).await;

    fleet.catalog().abort_rollout(id, "test").await.unwrap();
    let end = "select pg_terminate_backend(pid) from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock'";
    admin.execute(end, &[]).await.unwrap();
    turn.await.unwrap().expect("it was taken");
    holder.batch_execute("rollback").await.unwrap();

    assert_eq!(operation_states(&fleet, id).await, [OperationState::Cancelled]);
    assert_eq!(versions(&fleet, ["acme"]).await, [1]);
}

#[tokio::test]
async fn a_resume_beside_an_abort_begins_nothing_again() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    labels(&fleet);
    let id = queued(&fleet).await;
    fleet.environment.pause_rollout(id, "test").await.unwrap();
    let (aborting, admin) = (fleet.admin("tenantry").await, fleet.admin("tenantry").await);
    aborting.batch_execute("begin; select from rollouts for update").await.unwrap();
    let environment = fleet.environment.clone();
    let resuming = tokio::spawn(async move { environment.resume_rollout(id, "test").await });
    somebody_waits(&admin).await;

    aborting
        .batch_execute(
            "update rollouts set state = 'aborted', finished_at = now();
             update operations set state = 'cancelled', finished_at = now() where state = 'queued';
             commit",
        )
        .await
        .unwrap();
    let resumed = resuming.await.unwrap();

    assert!(resumed.unwrap_err().to_string().contains("aborted"));
    assert_eq!(operation_states(&fleet, id).await, [OperationState::Cancelled]);
}

#[tokio::test]
async fn a_failure_is_told_once_however_many_look() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    fleet.create_tenant("globex").await;
    labels(&fleet);
    let id = queued(&fleet).await;
    let (failing, admin) = (fleet.admin("tenantry").await, fleet.admin("tenantry").await);
    // Where nobody has failed yet, nobody looks twice.
    failing
        .batch_execute(
            "update operations set state = 'failed', finished_at = clock_timestamp()
             where id = (select id from operations where state = 'queued' limit 1)",
        )
        .await
        .unwrap();
    failing.batch_execute("begin; select from rollouts for update").await.unwrap();
    let catalog = fleet.catalog().clone();
    let looking = tokio::spawn(async move { catalog.guard_rollout(id).await });
    somebody_waits(&admin).await;

    failing
        .batch_execute(
            "update operations set state = 'failed', finished_at = clock_timestamp()
             where state = 'queued';
             commit",
        )
        .await
        .unwrap();
    looking.await.unwrap().unwrap();
    fleet.catalog().guard_rollout(id).await.unwrap();

    let told = kinds(&fleet, id).await;
    assert_eq!(told.iter().filter(|kind| *kind == "tenant_failed").count(), 2, "{told:?}");
}

#[tokio::test]
async fn whoever_fails_is_known_to_have_the_files_before() {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    labels(&fleet);
    fleet.add_migration("V3__picky.sql", PICKY);

    let rollout = start(&fleet, &RolloutPlan::default()).await;
    let ended = complete(&fleet, &rollout).await;

    assert_eq!(ended.state, RolloutState::Failed);
    assert_eq!(versions(&fleet, ["acme"]).await, [2]);
}

#[tokio::test]
async fn a_catalog_that_is_away_for_a_moment_ends_no_rollout() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    labels(&fleet);
    let rollout = start(&fleet, &RolloutPlan::default()).await;
    let _leader = fleet.catalog().try_chore("rollout").await.unwrap().unwrap();
    let (runner, id) = (fleet.runner(), rollout.id);
    let running = tokio::spawn(async move { runner.complete_rollout(id, 1).await });
    let admin = fleet.admin("postgres").await;
    let looks = "select count(*) from pg_stat_activity where query like '-- rollouts::by_id%'";
    let looked = async || admin.query_one(looks, &[]).await.unwrap().get::<_, i64>(0) > 0;
    eventually("it looks whether somebody leads", looked).await;

    admin.batch_execute("alter database tenantry allow_connections false").await.unwrap();
    let end = "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'tenantry'";
    admin.query(end, &[]).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    admin.batch_execute("alter database tenantry allow_connections true").await.unwrap();

    let ended = running.await.unwrap().unwrap();
    assert_eq!(ended.state, RolloutState::Succeeded);
    assert_eq!(versions(&fleet, ["acme"]).await, [2]);
}

#[tokio::test]
async fn a_copy_that_was_begun_before_with_older_files_is_waited_for() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    fleet.back_up("acme").await;
    // Nobody can make this database now.
    let admin = fleet.admin("postgres").await;
    let lock = "select pg_advisory_lock(hashtextextended('tenantry tenant_copy', 0))";
    admin.batch_execute(lock).await.unwrap();
    let to = RestoreAs { slug: slug("copy"), server: None };
    let latest = BackupChoice::Latest;
    let copy = fleet.environment.restore_as(&slug("acme"), latest, to, BY).await.unwrap();
    let runner = fleet.runner();
    let copying = tokio::spawn(async move { runner.complete(copy.id).await.unwrap() });
    somebody_waits(&admin).await;
    labels(&fleet);
    let rollout = start(&fleet, &RolloutPlan::default()).await;
    for _ in 0..5 {
        turn(&fleet, rollout.id).await;
    }

    assert_eq!(versions(&fleet, ["acme"]).await, [2]);
    assert_eq!(fleet.catalog().rollout(rollout.id).await.unwrap().state, RolloutState::Running);
    admin.batch_execute("select pg_advisory_unlock_all()").await.unwrap();
    assert_eq!(copying.await.unwrap().state, OperationState::Succeeded);
    assert_eq!(versions(&fleet, ["copy"]).await, [1]);
    assert_eq!(complete(&fleet, &rollout).await.state, RolloutState::Succeeded);
    assert_eq!(versions(&fleet, ["copy"]).await, [2]);
}

#[tokio::test]
async fn a_server_that_stays_away_holds_a_rollout_before_it_begins() {
    let fleet = Fleet::start().await;
    let other = EmbeddedPostgres::start_scratch(PostgresSettings::scratch()).await.unwrap();
    let record = fleet.catalog().add_server("eu-2", &other.url().into()).await.unwrap();
    fleet.environment.server(record.id).await.unwrap().prepare().await.unwrap();
    for (name, server) in [("acme", "default"), ("globex", "eu-2")] {
        let new = NewTenant { server: Some(server.to_owned()), ..new_tenant(name) };
        let made = fleet.environment.create_tenant(&new, false, BY).await.unwrap();
        fleet.complete(&made).await;
    }
    drop(other);
    labels(&fleet);
    let rollout = start(&fleet, &RolloutPlan::default()).await;
    fleet.environment.advance(rollout.id).await.unwrap_err();
    let catalog = fleet.admin("tenantry").await;
    let later = "update rollouts set created_at = created_at - interval '1 minute'";
    catalog.execute(later, &[]).await.unwrap();

    let held = fleet.environment.advance(rollout.id).await.unwrap();

    assert_eq!(held.state, RolloutState::Paused);
    let reason = held.reason.unwrap();
    assert!(reason.message.contains("cannot be reached"), "{reason:?}");
    assert!(reason.remedy.unwrap().contains("migrate resume"));
    assert_eq!(versions(&fleet, ["acme", "globex"]).await, [1, 1]);
}
