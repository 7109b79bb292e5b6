//! `make bench`: an isolation audit of a hundred tenants on one server, every one at every other's database, while
//! the fleet is in use. Prints rows of the same table as the other parts.

#[path = "../tests/harness/mod.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod harness;
#[expect(dead_code, reason = "other parts use the rest")]
mod table;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use harness::{Fleet, slug};
use table::figure;
use tenantry::audit::{Audit, AuditOptions, AuditReport};
use tenantry::router::TenantRouter;
use tenantry::tenant::TenantSlug;
use tokio::task::JoinSet;
use tokio::time::sleep;

const TENANTS: usize = 100;
/// Who use the fleet meanwhile, and how many of the tenants: fewer than the router may hold connections to.
const CLIENTS: usize = 4;
const IN_USE: usize = 40;
/// The sessions that the audit may have at a time.
const SESSIONS: usize = 4;

#[tokio::main]
async fn main() {
    table::head();
    let fleet = Fleet::start().await;
    let mut slugs = Vec::with_capacity(TENANTS);
    for number in 0..TENANTS {
        let name = format!("tenant-{number:03}");
        fleet.create_tenant(&name).await;
        slugs.push(slug(&name));
    }
    let (running, failed) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU32::new(0)));
    let clients = load(&fleet.router(), &slugs, &running, &failed);
    let most = Arc::new(AtomicI64::new(0));
    let watcher = tokio::spawn(watch(fleet.admin("postgres").await, Arc::clone(&most)));

    let (report, time) = audit(&fleet).await;

    running.store(false, Ordering::Relaxed);
    let answered = clients.join_all().await.into_iter().sum::<u32>();
    watcher.abort();
    assert_eq!(report.findings, [], "an untouched fleet has no findings");
    assert!(report.complete, "{:?}", report.untried);
    let tried = report.tried;
    assert!(tried.pairs_tried == tried.pairs && tried.pairs_refused == tried.pairs, "{tried:?}");
    figure(
        "audit of 100 tenants on one server, each at every other's",
        &format!("{time:.1?}"),
        "< 60 s",
    );
    figure("  attempts at other databases", &tried.pairs_tried.to_string(), ">= 9,900");
    figure(
        "  the most sessions of it at a time",
        &most.load(Ordering::Relaxed).to_string(),
        "<= 4",
    );
    let failed = failed.load(Ordering::Relaxed);
    figure(&format!("  requests that failed meanwhile, of {answered}"), &failed.to_string(), "0");
}

async fn audit(fleet: &Fleet) -> (AuditReport, Duration) {
    let started = Instant::now();
    let options = AuditOptions { sessions: SESSIONS, ..AuditOptions::default() };
    let begun = Audit::begin(&fleet.environment, options, "bench").await.expect("the catalog");
    let audited = begun.expect("no other runs").run().await.expect("it can look");
    (audited.report, started.elapsed())
}

/// Clients that read from one tenant after the other; each returns how many answers it got.
fn load(
    router: &TenantRouter,
    slugs: &[TenantSlug],
    running: &Arc<AtomicBool>,
    failed: &Arc<AtomicU32>,
) -> JoinSet<u32> {
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (router, running, failed) = (router.clone(), Arc::clone(running), Arc::clone(failed));
        let slugs: Vec<_> = slugs[..IN_USE].iter().skip(client).step_by(CLIENTS).cloned().collect();
        clients.spawn(async move {
            let mut answered = 0;
            for slug in slugs.iter().cycle() {
                if !running.load(Ordering::Relaxed) {
                    break;
                }
                let asked = async {
                    let tenant = router.connection(slug).await.ok()?;
                    tenant.query_one("select count(*) from boards", &[]).await.ok()
                };
                match asked.await {
                    Some(_) => answered += 1,
                    None => _ = failed.fetch_add(1, Ordering::Relaxed),
                }
                sleep(Duration::from_millis(5)).await;
            }
            answered
        });
    }
    clients
}

/// Keeps the most sessions that the audit has as tenants.
async fn watch(client: tokio_postgres::Client, most: Arc<AtomicI64>) {
    let sql = "select count(*) from pg_stat_activity
               where application_name = 'tenantry audit'";
    while let Ok(row) = client.query_one(sql, &[]).await {
        most.fetch_max(row.get(0), Ordering::Relaxed);
        sleep(Duration::from_millis(20)).await;
    }
}
