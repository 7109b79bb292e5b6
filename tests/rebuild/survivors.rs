//! Databases that outlived the catalog: they are newer than any backup, and nobody drops them by mistake.

use tenantry::catalog::operations::{OperationFilter, OperationState};
use tenantry::embedded::{EmbeddedPostgres, PostgresSettings};
use tenantry::operations::runner::Disturbance;
use tenantry::operations::{Environment, Runner};
use tokio_util::sync::CancellationToken;

use super::Ruins;
use crate::harness::{self, Fleet};

/// Another catalog for the fleet's own server, as after the loss of nothing but the catalog.
async fn without_catalog(fleet: &Fleet) -> Ruins {
    let postgres = EmbeddedPostgres::start_scratch(PostgresSettings::scratch()).await.unwrap();
    let catalog = harness::catalog(&postgres, &fleet.master_key);
    catalog.init().await.unwrap();
    catalog.add_server("default", &fleet.postgres.url().into()).await.unwrap();
    let limits = fleet.environment.limits.clone();
    let store = fleet.environment.store.clone();
    let environment = Environment::new(catalog, store, limits).await.unwrap();
    Ruins { environment, postgres }
}

#[tokio::test]
async fn a_rebuild_that_is_given_up_leaves_what_survived_and_shuts_it() {
    // Before the database is looked at, and after its role got another password.
    for step in [None, Some("restore_beside"), Some("activate")] {
        let fleet = Fleet::start().await;
        fleet.create_tenant_with("acme", true).await;
        fleet.back_up("acme").await;
        fleet.environment.back_up_catalog().await.unwrap();
        let live = fleet.admin("tenant_acme").await;
        live.batch_execute("insert into boards (title) values ('since the backup')").await.unwrap();
        drop(live);
        let ruins = without_catalog(&fleet).await;
        let found = ruins.ask().await;
        assert_eq!(found.tenants, 1, "{found:?}");
        let filter = OperationFilter { batch: Some(found.batch), limit: 1, ..Default::default() };
        let asked = ruins.catalog().operations(&filter).await.unwrap().remove(0).0;
        if let Some(step) = step {
            let runner = Runner::new(ruins.environment.clone(), CancellationToken::new());
            let disturb = harness::once(step, false, Disturbance::Fail);
            let failed = runner.disturbed(disturb).complete(asked.id).await.unwrap();
            assert_eq!(failed.state, OperationState::Failed);
        }

        ruins.environment.cancel(asked.id).await.unwrap();
        let done = ruins.complete(&found).await;

        assert_eq!(done["acme"].state, OperationState::Cancelled, "{:?}", done["acme"].error);
        let admin = fleet.admin("postgres").await;
        let sql = "select datallowconn, rolcanlogin from pg_database, pg_roles
                   where datname = 'tenant_acme' and rolname = 'tenant_acme'";
        let left = admin.query_one(sql, &[]).await.unwrap();
        assert_eq!((left.get(0), left.get(1)), (false, false), "{step:?}");
        let open = "alter database tenant_acme allow_connections true";
        admin.batch_execute(open).await.unwrap();
        assert_eq!(fleet.count("acme", "boards").await, 4, "{step:?}");
    }
}
