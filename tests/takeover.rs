//! Operations that change hands: given back on shutdown, or left with notes that nobody can read.

use tenantry::catalog::lock::Claim;
use tenantry::catalog::operations::OperationState;
use tenantry::operations::Runner;
use tokio_util::sync::CancellationToken;

use crate::harness::{BY, Fleet, slug};

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
