//! A tenant that turns its own role against the service, met by an application that uses the library.

use std::time::Duration;

use tenantry::router::{ConnectError, RouterError, RouterSettings, TenantRouter};
use tokio::time::timeout;

use super::{backend, connect, is_gone};
use crate::harness::{Fleet, eventually, router_settings, slug};
use crate::sql::hostile::STUBBORN;

#[tokio::test]
async fn a_statement_that_cannot_be_cancelled_keeps_its_place_until_it_is_ended() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let one = RouterSettings { pool_max_size: 1, ..router_settings() };
    let router = TenantRouter::new(fleet.catalog().clone(), fleet.changes.clone(), one);
    let admin = fleet.admin("postgres").await;
    let connection = connect(&router).await;
    let stubborn = backend(&connection).await;

    _ = timeout(Duration::from_millis(200), connection.batch_execute(STUBBORN)).await;
    drop(connection);
    let next = backend(&connect(&router).await).await;

    assert!(is_gone(&admin, stubborn).await, "it had the only place");
    assert_ne!(next, stubborn);
}

#[tokio::test]
async fn a_role_that_cannot_write_makes_no_server_away() {
    let fleet = Fleet::start().await;
    let url = format!("{}?target_session_attrs=read-write", fleet.postgres.url());
    fleet.catalog().set_server_url("default", &url.into()).await.unwrap();
    for name in ["acme", "globex"] {
        fleet.create_tenant(name).await;
    }
    let hasty =
        RouterSettings { pool_wait_timeout: Duration::from_millis(300), ..router_settings() };
    let router = TenantRouter::new(fleet.catalog().clone(), fleet.changes.clone(), hasty);
    let own = "alter role current_user set default_transaction_read_only = on";
    connect(&router).await.batch_execute(own).await.unwrap();

    for _ in 0..10 {
        let (acme, globex) = (slug("acme"), slug("globex"));
        let (refused, neighbour) =
            tokio::join!(router.connection(&acme), router.connection(&globex));

        let Err(RouterError::Unreachable { source, .. }) = refused else {
            panic!("it cannot write")
        };
        assert!(matches!(*source, ConnectError::Alone(_)), "{source:?}");
        // Ends with its use, so that the next needs a new one.
        neighbour.unwrap().batch_execute("select 1").await.unwrap();
    }
}

#[tokio::test]
async fn a_role_that_changes_its_password_is_told_apart_from_a_server_that_is_away() {
    let fleet = Fleet::start().await;
    for name in ["acme", "globex"] {
        fleet.create_tenant(name).await;
    }
    let router = fleet.router();
    connect(&router).await.batch_execute("alter role current_user password 'mine'").await.unwrap();
    eventually("nothing is idle", async || router.pool_status().connections == 0).await;

    let refused = router.connection(&slug("acme")).await;

    let Err(RouterError::Unreachable { source, .. }) = refused else {
        panic!("it has no password")
    };
    assert!(matches!(*source, ConnectError::Password(_)), "{source:?}");
    assert!(source.to_string().contains("rotate-password"));
    router.connection(&slug("globex")).await.unwrap();
}
