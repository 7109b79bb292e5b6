//! Operations that change hands: left with notes that nobody can read.

use tenantry::catalog::operations::OperationState;

use crate::harness::{BY, Fleet, slug};

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
