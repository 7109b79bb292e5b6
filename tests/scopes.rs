//! Scopes: work that waited gets its own tenant's connection, or none.

use tenantry::router::RouterError;
use tenantry::tenant::{TenantScope, TenantState};

use crate::harness::{BY, Fleet, slug};

#[tokio::test]
async fn work_that_waited_reaches_its_tenant() {
    let fleet = Fleet::start().await;
    let tenant = fleet.create_tenant("acme").await;
    let router = fleet.router();
    let scope = router.connection(&slug("acme")).await.unwrap().scope();
    assert_eq!((scope.id(), scope.slug()), (tenant.id, &slug("acme")));
    assert_eq!(router.scope(&slug("acme")).await.unwrap(), scope);

    let queued = serde_json::to_string(&scope).unwrap();
    let scope: TenantScope = serde_json::from_str(&queued).unwrap();
    let connection = fleet.router().connection_in(&scope).await.unwrap();

    let row = connection.query_one("select current_database()", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "tenant_acme");
    drop(connection);
    let connection = router.read_only_in(&scope).await.unwrap();
    let refused = connection.execute("insert into boards (title) values ('x')", &[]).await;
    assert_eq!(refused.unwrap_err().code().unwrap().code(), "25006");
}

#[tokio::test]
async fn work_for_a_deleted_tenant_never_reaches_the_next_one_of_that_name() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let router = fleet.router();
    let old = router.scope(&slug("acme")).await.unwrap();

    let delete = fleet.environment.delete(&slug("acme"), false, BY).await.unwrap();
    fleet.complete(&delete).await;
    crate::harness::eventually("the tenant is gone", async || {
        matches!(router.connection_in(&old).await, Err(RouterError::UnknownTenant(_)))
    })
    .await;
    fleet.create_tenant("acme").await;

    crate::harness::eventually("the new tenant is known", async || {
        router.connection(&slug("acme")).await.is_ok()
    })
    .await;
    for replica in [router.clone(), fleet.router()] {
        let refused = replica.connection_in(&old).await.err().unwrap();
        assert!(matches!(refused, RouterError::AnotherTenant(_)), "{refused}");
        assert!(replica.read_only_in(&old).await.is_err());
        assert!(refused.to_string().contains("drop the work"), "{refused}");
        let new = replica.scope(&slug("acme")).await.unwrap();
        replica.connection_in(&new).await.unwrap();
    }
}

/// The catalog is away: what the router still knows of the old tenant is no reason to drop the work of the
/// new one.
#[tokio::test]
async fn a_scope_that_cannot_be_checked_is_not_refused_for_good() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let router = fleet.router();
    let known = router.scope(&slug("acme")).await.unwrap();
    let newer: TenantScope = serde_json::from_value(serde_json::json!({
        "slug": "acme", "id": "00000000-0000-0000-0000-000000000007",
    }))
    .unwrap();

    let admin = fleet.admin("postgres").await;
    admin.batch_execute("alter database tenantry allow_connections false").await.unwrap();
    let sessions =
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'tenantry'";
    admin.query(sessions, &[]).await.unwrap();

    let refused = router.connection_in(&newer).await.err().unwrap();
    assert!(matches!(refused, RouterError::Catalog { .. }), "{refused}");
    router.connection_in(&known).await.unwrap();
}

#[tokio::test]
async fn a_suspended_tenants_work_waits() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let scope = fleet.router().scope(&slug("acme")).await.unwrap();
    let suspend = fleet.environment.suspend(&slug("acme"), None, BY).await.unwrap();
    fleet.complete(&suspend).await;

    let refused = fleet.router().connection_in(&scope).await.err().unwrap();

    assert!(matches!(refused, RouterError::NotServed { state: TenantState::Suspended, .. }));
    let resume = fleet.environment.resume(&slug("acme"), BY).await.unwrap();
    fleet.complete(&resume).await;
    fleet.router().connection_in(&scope).await.unwrap();
}
