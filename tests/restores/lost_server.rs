//! A server that is gone for good: its tenants come back on one that takes its place.

use tenantry::catalog::operations::OperationState;
use tenantry::catalog::tenants::NewTenant;
use tenantry::embedded::{EmbeddedPostgres, PostgresSettings};
use tenantry::operations::request::BackupChoice;
use tenantry::operations::{Environment, Runner};
use tokio_util::sync::CancellationToken;

use crate::harness::{BY, Fleet, limits, new_tenant, slug, store};

#[tokio::test]
async fn the_tenants_of_a_lost_server_come_back_on_one_that_takes_its_place() {
    let fleet = Fleet::start().await;
    let lost = EmbeddedPostgres::start_scratch(PostgresSettings::scratch()).await.unwrap();
    let place = fleet.catalog().add_server("eu-2", &lost.url().into()).await.unwrap();
    fleet.environment.server(place.id).await.unwrap().prepare().await.unwrap();
    let new = NewTenant { server: Some("eu-2".to_owned()), ..new_tenant("acme") };
    let made = fleet.environment.create_tenant(&new, true, BY).await.unwrap();
    fleet.complete(&made).await;
    fleet.back_up("acme").await;
    drop(lost);

    let next = EmbeddedPostgres::start_scratch(PostgresSettings::scratch()).await.unwrap();
    fleet.catalog().set_server_url("eu-2", &next.url().into()).await.unwrap();
    // A replica that has seen neither.
    let limits = limits(fleet.migrations.path().to_owned(), 0);
    let store = Some(store(&fleet.s3).await);
    let environment = Environment::new(fleet.catalog().clone(), store, limits).await.unwrap();
    environment.server(place.id).await.unwrap().prepare().await.unwrap();
    let acme = slug("acme");
    let restore = environment.restore(&acme, BackupChoice::Latest, BY).await.unwrap();
    let runner = Runner::new(environment.clone(), CancellationToken::new());
    let restored = runner.complete(restore.id).await.unwrap();

    assert_eq!(restored.state, OperationState::Succeeded, "{:?}", restored.error);
    let connection = fleet.router().connection(&acme).await.unwrap();
    let row = connection.query_one("select count(*) from cards", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 12);
    let findings = tenantry::doctor::examine(&environment).await.unwrap().findings;
    assert!(findings.is_empty(), "{findings:#?}");
}
