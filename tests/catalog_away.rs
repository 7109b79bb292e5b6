//! A catalog that is away: known tenants are served all the same, and nobody is told that there is no such
//! tenant.

use std::time::Duration;

use tenantry::router::{RouterError, RouterSettings, TenantRouter};
use tokio::time::{sleep, timeout};

use crate::harness::{BY, Fleet, slug};

/// Routers hear of a change within this time.
const NEWS: Duration = Duration::from_secs(1);

async fn take_away_catalog(fleet: &Fleet) {
    let admin = fleet.admin("postgres").await;
    admin.batch_execute("alter database tenantry allow_connections false").await.unwrap();
    let end = "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'tenantry'";
    admin.query(end, &[]).await.unwrap();
}

#[tokio::test]
async fn known_tenants_are_served_while_the_catalog_is_away() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let settings =
        RouterSettings { route_ttl: Duration::from_millis(100), ..RouterSettings::default() };
    let router = TenantRouter::new(fleet.catalog().clone(), fleet.changes.clone(), settings);
    router.connection(&slug("acme")).await.unwrap();

    take_away_catalog(&fleet).await;
    sleep(Duration::from_millis(300)).await;

    for _ in 0..5 {
        let connection = router.connection(&slug("acme")).await.unwrap();
        connection.query("select 1", &[]).await.unwrap();
    }
    let unknown = router.connection(&slug("globex")).await;
    assert!(matches!(unknown, Err(RouterError::Catalog { .. })), "unknown is not absent");
}

/// The catalog may go in the moment after a tenant has changed, before anybody asks for it.
#[tokio::test]
async fn a_tenant_that_has_just_changed_is_known_all_the_same() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let router = fleet.router();
    router.connection(&slug("acme")).await.unwrap();
    let suspend = fleet.environment.suspend(&slug("acme"), None, BY).await.unwrap();
    fleet.complete(&suspend).await;
    let resume = fleet.environment.resume(&slug("acme"), BY).await.unwrap();
    fleet.complete(&resume).await;
    sleep(3 * NEWS).await;

    take_away_catalog(&fleet).await;

    router.connection(&slug("acme")).await.unwrap();
}

/// Whoever is let in by the old slug goes on by the new one, as SQL over HTTP does.
#[tokio::test]
async fn a_renamed_tenant_that_is_known_by_one_slug_is_known_by_all() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let rename = fleet.environment.rename(&slug("acme"), &slug("initech"), BY).await.unwrap();
    fleet.complete(&rename).await;
    let router = fleet.router();
    router.connection(&slug("acme")).await.unwrap();

    take_away_catalog(&fleet).await;

    for name in ["acme", "initech"] {
        router.connection(&slug(name)).await.unwrap();
    }
}

/// As while a new version changes the schema, or behind a network that loses every packet.
#[tokio::test]
async fn known_tenants_are_served_while_the_catalog_gives_no_answer() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let settings =
        RouterSettings { route_ttl: Duration::from_millis(100), ..RouterSettings::default() };
    let (acme, router) =
        (slug("acme"), TenantRouter::new(fleet.catalog().clone(), fleet.changes.clone(), settings));
    router.connection(&acme).await.unwrap();

    let mut session = fleet.catalog().url().connect().await.unwrap();
    let locked = session.transaction().await.unwrap();
    locked.batch_execute("lock table tenants").await.unwrap();
    sleep(Duration::from_millis(300)).await;

    let served = router.connection(&acme);
    let served = timeout(Duration::from_secs(5), served).await.expect("it is known");
    served.unwrap().query("select 1", &[]).await.unwrap();
}

/// A question that a restart of the catalog's server cuts off may be asked again.
#[tokio::test]
async fn a_catalog_that_is_shut_down_amid_a_question_is_away() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let (acme, admin) = (slug("acme"), fleet.admin("postgres").await);
    let mut session = fleet.catalog().url().connect().await.unwrap();
    let locked = session.transaction().await.unwrap();
    locked.batch_execute("lock table tenants").await.unwrap();

    let end = async {
        let sql = "select pg_terminate_backend(pid) from pg_locks
                   where relation is not null and not granted";
        while admin.query(sql, &[]).await.unwrap().is_empty() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let (answer, ()) = tokio::join!(fleet.catalog().tenant(&acme), end);

    let error = answer.unwrap_err();
    assert!(error.is_transient(), "{error}");
}
