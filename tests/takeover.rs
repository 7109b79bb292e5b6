//! Operations that change hands: given back on shutdown, taken over from a worker that has lost its lock, left with
//! notes that nobody can read, or gone on with after another has moved or replaced what they were at.

use std::time::{Duration, Instant};

use tenantry::catalog::lock::Claim;
use tenantry::catalog::operations::{OperationRecord, OperationState};
use tenantry::embedded::{EmbeddedPostgres, PostgresSettings};
use tenantry::operations::Runner;
use tenantry::operations::request::{BackupChoice, CloneAs};
use tenantry::operations::runner::Disturbance;
use tenantry::tenant::TenantState;
use tenantry_backup::{KeyScope, ObjectKey};
use tokio_util::sync::CancellationToken;

use crate::harness::{BY, Fleet, clone_as, eventually, once, slug};

#[tokio::test]
async fn what_is_handed_back_on_shutdown_was_no_attempt() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let asked = fleet.environment.back_up(&slug("acme"), BY).await.unwrap();
    let catalog = fleet.admin("tenantry").await;
    let failure = r#"{"step": "upload_dump", "message": "the store was away", "remedy": null}"#;
    let sql = format!("update operations set error = '{failure}', attempts = 1 where id = $1");
    catalog.execute(&sql, &[&asked.id]).await.unwrap();
    let stopped = CancellationToken::new();
    stopped.cancel();
    let runner = Runner::new(fleet.environment.clone(), stopped);

    for _ in 0..9 {
        let taken = runner.run_one(Claim::Operation(asked.id)).await.unwrap();
        assert_eq!(taken, Some(asked.id));
    }

    let record = fleet.catalog().operation(asked.id).await.unwrap();
    assert_eq!((record.state, record.attempts), (OperationState::Queued, 1));
    assert_eq!(record.error.unwrap().message, "the store was away", "it is not forgotten");
    let done = fleet.complete(&asked).await;
    assert_eq!((done.attempts, done.error), (2, None));
}

#[tokio::test]
async fn a_worker_that_loses_its_lock_stops_before_another_may_go_on() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let mask = Some("select pg_sleep(4)".to_owned());
    let to = CloneAs { mask, ..clone_as("globex") };
    let asked = fleet.environment.clone_tenant(&slug("acme"), to, BY).await.unwrap();
    let (runner, id) = (fleet.runner(), asked.id);
    let working = tokio::spawn(async move { runner.run_one(Claim::Operation(id)).await });
    let admin = fleet.admin("tenantry").await;
    eventually("the mask is under way", async || {
        let sql = "select from pg_stat_activity
                   where state = 'active' and query like '%pg_sleep(4)%' and pid <> pg_backend_pid()";
        !admin.query(sql, &[]).await.unwrap().is_empty()
    })
    .await;

    let ended = Instant::now();
    let end = "select pg_terminate_backend(l.pid) from pg_locks l, operations o
               where o.id = $1 and l.locktype = 'advisory' and l.objsubid = 1
                 and ((l.classid::bigint << 32) | l.objid::bigint) = hashtextextended(o.tenant_id::text, 0)";
    assert_eq!(admin.query(end, &[&id]).await.unwrap().len(), 1);
    let released = fleet.catalog().release_abandoned().await.unwrap();
    let noticed = async {
        working.await.unwrap().unwrap();
        ended.elapsed()
    };
    let free = async {
        fleet.catalog().release_all_abandoned().await.unwrap();
        ended.elapsed()
    };
    let (noticed, free) = tokio::join!(noticed, free);

    assert_eq!(released, 0, "its worker may live");
    assert!(noticed < free && noticed < Duration::from_secs(4), "{noticed:?} {free:?}");
    let record = fleet.catalog().operation(id).await.unwrap();
    assert_eq!(record.state, OperationState::Queued);
    fleet.complete(&asked).await;
}

#[tokio::test]
async fn a_note_that_cannot_be_read_is_not_taken_for_none() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let asked = fleet.environment.rotate_password(&slug("acme"), BY).await.unwrap();
    let catalog = fleet.admin("tenantry").await;
    let sql = r#"update operations set memory = '{"sealed": 7}' where id = $1"#;
    catalog.execute(sql, &[&asked.id]).await.unwrap();

    let failed = fleet.runner().complete(asked.id).await.unwrap();

    assert_eq!(failed.state, OperationState::Failed);
    let message = failed.error.unwrap().message;
    assert!(message.contains("note `sealed` cannot be read"), "{message}");
}

#[tokio::test]
async fn what_a_dead_worker_still_sends_replaces_no_backup() {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    let asked = fleet.environment.back_up(&slug("acme"), BY).await.unwrap();
    let runner = fleet.disturbed_runner(once("upload_dump", true, Disturbance::Vanish));
    runner.run_one(Claim::Operation(asked.id)).await.unwrap();
    let store = fleet.environment.store.as_ref().unwrap();
    let tenant = fleet.tenant("acme").await.id;
    let object = ObjectKey::dump(tenant, asked.id);
    let sent = store.get(&object).await.unwrap();
    fleet.catalog().release_all_abandoned().await.unwrap();
    fleet.complete(&asked).await;

    store.put(&object, sent).await.unwrap();

    let backup = fleet.backups_of("acme").await.remove(0);
    fleet.environment.verify_backup(&backup).await.unwrap();
    let choice = BackupChoice::Latest;
    let restored = fleet.environment.restore(&slug("acme"), choice, BY).await.unwrap();
    fleet.complete(&restored).await;
    assert_eq!(fleet.count("acme", "cards").await, 12);
    store.remove_backup(tenant, asked.id).await.unwrap();
    let left = store.list(KeyScope::Backup { tenant, backup: asked.id }).await.unwrap();
    assert_eq!(left, [], "the late dump goes with its backup");
}

/// Has a worker die before the last step, and others at the tenant before another one goes on.
async fn die_before(fleet: &Fleet, asked: &OperationRecord, step: &'static str) {
    let runner = fleet.disturbed_runner(once(step, false, Disturbance::Vanish));
    assert_eq!(runner.run_one(Claim::Operation(asked.id)).await.unwrap(), Some(asked.id));
    fleet.catalog().release_all_abandoned().await.unwrap();
}

async fn move_to_another(fleet: &Fleet) -> EmbeddedPostgres {
    let other = EmbeddedPostgres::start_scratch(PostgresSettings::scratch()).await.unwrap();
    let record = fleet.catalog().add_server("eu-2", &other.url().into()).await.unwrap();
    fleet.environment.server(record.id).await.unwrap().prepare().await.unwrap();
    let moved = fleet.environment.relocate(&slug("acme"), "eu-2", BY).await.unwrap();
    fleet.complete(&moved).await;
    other
}

#[tokio::test]
async fn who_is_resumed_is_let_in_where_the_tenant_is_by_then() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let suspend = fleet.environment.suspend(&slug("acme"), None, BY).await.unwrap();
    fleet.complete(&suspend).await;
    let asked = fleet.environment.resume(&slug("acme"), BY).await.unwrap();
    die_before(&fleet, &asked, "route_again").await;
    let _other = move_to_another(&fleet).await;

    fleet.complete(&asked).await;

    assert_eq!(fleet.tenant("acme").await.state, TenantState::Active);
    fleet.router().connection(&slug("acme")).await.unwrap();
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn a_suspension_that_is_given_up_lets_in_where_the_tenant_is_by_then() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let asked = fleet.environment.suspend(&slug("acme"), None, BY).await.unwrap();
    let runner = fleet.disturbed_runner(once("disable_login", true, Disturbance::Vanish));
    runner.run_one(Claim::Operation(asked.id)).await.unwrap();
    fleet.catalog().release_all_abandoned().await.unwrap();
    fleet.environment.cancel(asked.id).await.unwrap();
    die_before(&fleet, &asked, "route_again").await;
    let _other = move_to_another(&fleet).await;

    let ended = fleet.runner().complete(asked.id).await.unwrap();

    assert_eq!(ended.state, OperationState::Cancelled, "{:?}", ended.error);
    fleet.router().connection(&slug("acme")).await.unwrap();
}

#[tokio::test]
async fn a_new_password_is_that_of_the_server_where_the_tenant_is_by_then() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let asked = fleet.environment.rotate_password(&slug("acme"), BY).await.unwrap();
    die_before(&fleet, &asked, "tell_routers").await;
    let _other = move_to_another(&fleet).await;

    fleet.complete(&asked).await;

    fleet.router().connection(&slug("acme")).await.unwrap();
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn a_baseline_claims_no_history_that_a_restore_has_taken_away() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    fleet.admin("tenant_acme").await.batch_execute("drop schema tenantry cascade").await.unwrap();
    let catalog = fleet.admin("tenantry").await;
    catalog.batch_execute("update tenants set schema_version = 0").await.unwrap();
    fleet.back_up("acme").await;
    let asked = fleet.environment.baseline(&slug("acme"), None, None, BY).await.unwrap();
    die_before(&fleet, &asked, "record_version").await;
    let restore = fleet.environment.restore(&slug("acme"), BackupChoice::Latest, BY).await.unwrap();
    fleet.complete(&restore).await;

    fleet.complete(&asked).await;

    assert_eq!(fleet.tenant("acme").await.schema_version, 0);
}
