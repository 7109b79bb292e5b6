//! Operations that change hands: given back on shutdown, taken over from a worker that has lost its lock, or left with
//! notes that nobody can read.

use std::time::{Duration, Instant};

use tenantry::catalog::lock::Claim;
use tenantry::catalog::operations::OperationState;
use tenantry::operations::Runner;
use tenantry::operations::request::CloneAs;
use tokio_util::sync::CancellationToken;

use crate::harness::{BY, Fleet, clone_as, eventually, slug};

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
