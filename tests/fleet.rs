//! Jobs over the fleet: every active tenant once, whatever becomes of some of them.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tenantry::router::{Ended, Pace, RouterError, WorkError};
use tenantry::tenant::TenantSlug;
use tokio::sync::{Barrier, Notify};
use tokio_util::sync::CancellationToken;

use crate::harness::{BY, Fleet, eventually, new_tenant, slug};

const TENANTS: [&str; 5] = ["acme", "globex", "hooli", "initech", "umbrella"];

async fn fleet() -> Fleet {
    let fleet = Fleet::start().await;
    for name in TENANTS {
        fleet.create_tenant(name).await;
    }
    fleet
}

async fn suspend(fleet: &Fleet, name: &str) {
    let operation = fleet.environment.suspend(&slug(name), None, BY).await.unwrap();
    fleet.complete(&operation).await;
}

async fn delete(fleet: &Fleet, name: &str) {
    let operation = fleet.environment.delete(&slug(name), false, BY).await.unwrap();
    fleet.complete(&operation).await;
}

#[tokio::test]
async fn every_active_tenant_is_met_once_and_no_more_than_so_many_at_a_time() {
    let fleet = fleet().await;
    suspend(&fleet, "hooli").await;
    fleet.environment.create_tenant(&new_tenant("half-made"), false, BY).await.unwrap();
    let router = fleet.router();
    drop(router.connection(&slug("acme")).await.unwrap());
    let (met, pair) = (Mutex::new(Vec::new()), Barrier::new(2));
    let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));

    let report = router
        .for_each_tenant(2, async |tenant| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let row = tenant.query_one("select current_database()", &[]).await?;
            pair.wait().await;
            met.lock().unwrap().push(row.get::<_, String>(0));
            now.fetch_sub(1, Ordering::SeqCst);
            Ok::<_, tokio_postgres::Error>(())
        })
        .await;

    assert!(report.is_complete());
    assert_eq!((report.done, report.failed, report.skipped), (4, 0, 2));
    let mut met = met.into_inner().unwrap();
    met.sort();
    assert_eq!(met, ["tenant_acme", "tenant_globex", "tenant_initech", "tenant_umbrella"]);
    assert_eq!(most.into_inner(), 2);
    assert_eq!(router.pool_status().connections, 1, "only what was there before stays");
}

#[tokio::test]
async fn a_failing_tenant_stops_no_other() {
    let fleet = fleet().await;
    let admin = fleet.admin("postgres").await;
    admin.batch_execute("alter role \"tenant_initech\" nologin").await.unwrap();

    let report = fleet
        .router()
        .for_each_tenant(3, async |tenant| match tenant.tenant().slug.as_str() {
            "globex" => Err("no disk".to_owned()),
            _ => Ok(()),
        })
        .await;

    assert_eq!((report.done, report.failed, report.skipped), (3, 2, 0));
    assert!(matches!(report.ended, Ended::All) && !report.is_complete());
    for failure in &report.failures {
        match failure.scope.slug().as_str() {
            "globex" => assert_eq!(failure.error.to_string(), "no disk"),
            "initech" => assert!(matches!(
                failure.error,
                WorkError::Connection(RouterError::Unreachable { .. })
            )),
            other => panic!("{other} has failed"),
        }
    }
}

#[tokio::test]
async fn enough_failures_or_a_token_begin_no_further_tenant() {
    let fleet = fleet().await;
    let router = fleet.router();

    let fails = async |_| Err::<(), _>("no");
    let report = router.for_each_tenant(Pace::at_once(1).max_failures(2), fails).await;
    assert_eq!((report.done, report.failed), (0, 2));
    assert!(matches!(report.ended, Ended::TooManyFailures));

    let stop = CancellationToken::new();
    let works = async |_| {
        stop.cancel();
        Ok::<_, String>(())
    };
    let report = router.for_each_tenant(Pace::at_once(1).stop(stop.clone()), works).await;
    assert_eq!((report.done, report.failed), (1, 0), "what is under way ends");
    assert!(matches!(report.ended, Ended::Stopped));
}

#[tokio::test]
async fn tenants_come_and_go_meanwhile() {
    let fleet = fleet().await;
    let router = fleet.router();
    for name in ["initech", "umbrella"] {
        router.connection(&slug(name)).await.unwrap();
    }
    let met: Mutex<BTreeSet<TenantSlug>> = Mutex::default();

    let report = router
        .for_each_tenant(1, async |tenant| {
            let name = tenant.tenant().slug.clone();
            if name.as_str() == "acme" {
                suspend(&fleet, "globex").await;
                delete(&fleet, "initech").await;
                delete(&fleet, "umbrella").await;
                fleet.create_tenant("umbrella").await;
            }
            met.lock().unwrap().insert(name);
            Ok::<_, String>(())
        })
        .await;

    assert_eq!((report.failed, report.skipped), (0, 2), "{report:?}");
    let met = met.into_inner().unwrap();
    assert_eq!(met, ["acme", "hooli", "umbrella"].into_iter().map(slug).collect());
}

#[tokio::test]
async fn a_job_that_is_dropped_stops_on_the_servers_too() {
    let fleet = fleet().await;
    let router = fleet.router();
    let begun = Arc::new(Notify::new());
    let job = {
        let (router, begun) = (router.clone(), Arc::clone(&begun));
        tokio::spawn(async move {
            let begun = &begun;
            let work = |tenant: tenantry::TenantConnection| async move {
                begun.notify_one();
                tenant.query("select pg_sleep(600)", &[]).await.map(drop)
            };
            router.for_each_tenant(3, work).await
        })
    };
    begun.notified().await;

    job.abort();

    assert!(job.await.unwrap_err().is_cancelled());
    let admin = fleet.admin("postgres").await;
    let sql = "select count(*) from pg_stat_activity where query like 'select pg_sleep(600)%'";
    eventually("nothing runs", async || {
        admin.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
    let again = router.for_each_tenant(3, async |_| Ok::<_, String>(()));
    let report = tokio::time::timeout(Duration::from_secs(10), again).await.unwrap();
    assert_eq!(report.done, 5);
}

/// A page has a hundred tenants. These have neither database nor password: what is tested is the list.
#[tokio::test]
async fn a_fleet_of_several_pages_is_listed_to_its_end_and_a_long_list_of_failures_is_cut() {
    let fleet = Fleet::start().await;
    let catalog = fleet.admin("tenantry").await;
    catalog
        .batch_execute(
            "insert into tenants (id, slug, name, state, server_id, database_name, role_name,
                                  password_sealed)
             select gen_random_uuid(), 'tenant-' || n, n, case when n % 10 = 0 then 'suspended' else 'active' end,
                    s.id, 'tenant_none', 'tenant_none', ''
             from servers s, generate_series(1, 250) n",
        )
        .await
        .unwrap();

    let report =
        fleet.router().for_each_tenant(8, async |_| Err::<(), _>("is never reached")).await;

    assert_eq!((report.done, report.failed, report.skipped), (0, 225, 25));
    assert_eq!(report.failures.len(), 100);
    assert!(matches!(report.ended, Ended::All));
}

#[tokio::test]
async fn without_the_catalog_there_is_no_list() {
    let fleet = fleet().await;
    let router = fleet.router();
    router.connection(&slug("acme")).await.unwrap();
    let admin = fleet.admin("postgres").await;
    admin.batch_execute("alter database tenantry allow_connections false").await.unwrap();
    let sessions =
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'tenantry'";
    admin.query(sessions, &[]).await.unwrap();

    let report = router.for_each_tenant(2, async |_| Ok::<_, String>(())).await;

    assert_eq!(report.done, 0);
    assert!(matches!(report.ended, Ended::Catalog(_)));
}

#[tokio::test]
async fn a_tenant_that_is_renamed_meanwhile_is_met_once() {
    let fleet = fleet().await;
    let met: Mutex<Vec<String>> = Mutex::default();

    let report = fleet
        .router()
        .for_each_tenant(1, async |tenant| {
            let name = tenant.tenant().slug.to_string();
            let next = match name.as_str() {
                "acme" => Some(("umbrella", "aaa")),
                "globex" => Some(("acme", "zzz")),
                _ => None,
            };
            drop(tenant);
            if let Some((from, to)) = next {
                let asked = fleet.environment.rename(&slug(from), &slug(to), BY).await.unwrap();
                fleet.complete(&asked).await;
            }
            met.lock().unwrap().push(name);
            Ok::<_, String>(())
        })
        .await;

    assert_eq!((report.done, report.failed, report.skipped), (5, 0, 0), "{report:?}");
    assert_eq!(met.into_inner().unwrap(), ["acme", "globex", "hooli", "initech", "aaa"]);
}
