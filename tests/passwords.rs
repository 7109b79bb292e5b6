//! Passwords of tenants' roles: changed while they are in use.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::{BY, Fleet, slug};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_is_changed_under_load_and_nobody_notices() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let router = fleet.router();
    let old = fleet.catalog().place(&slug("acme")).await.unwrap().unwrap().password;
    let running = Arc::new(AtomicBool::new(true));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (router, running) = (router.clone(), Arc::clone(&running));
        clients.spawn(async move {
            let mut served = 0;
            while running.load(Ordering::Relaxed) {
                let connection = router.connection(&slug("acme")).await.expect("it is served");
                // The next one logs in anew.
                connection.batch_execute("select 1").await.expect("it answers");
                served += 1;
            }
            served
        });
    }

    for _ in 0..5 {
        let rotation = fleet.environment.rotate_password(&slug("acme"), BY).await.unwrap();
        fleet.complete(&rotation).await;
    }

    running.store(false, Ordering::Relaxed);
    assert!(clients.join_all().await.into_iter().sum::<u32>() > 10);
    let url = fleet.catalog().place(&slug("acme")).await.unwrap().unwrap().server;
    let url = url.with_database("tenant_acme").with_user("tenant_acme", &old);
    assert!(url.connect().await.is_err(), "the old password is of no use");
}
