//! `make bench`: a thousand tenants on one server that allows a hundred connections, beside PgBouncer in
//! front of the same server. Prints rows of the same table as the other parts.

mod bouncer;
#[path = "../tests/harness/mod.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod harness;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bouncer::{Bouncer, BouncerAddress};
use harness::{Fleet, Options, slug};
use peak_alloc::PeakAlloc;
use tenantry::catalog::tenants::Place;
use tenantry::embedded::PostgresSettings;
use tenantry::router::{RouterSettings, TenantRouter};
use tenantry::tenant::TenantSlug;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, NoTls};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

const TENANTS: usize = 1000;
const CLIENTS: usize = 64;
/// What the server's hundred connections leave beside the catalog's.
const BUDGET: usize = 70;
const TIME: Duration = Duration::from_secs(10);
/// With what was found to be best for a server that allows a hundred connections: there is no bound over
/// all databases, so each gets one connection that is closed soon.
const MANY_DATABASES: &str =
    "pool_mode = transaction\ndefault_pool_size = 1\nserver_idle_timeout = 1\n";
const SQL: &str = "select title from boards where id = $1";

#[tokio::main]
async fn main() {
    let mut postgres = PostgresSettings::scratch();
    postgres.max_connections = 100;
    let fleet = Fleet::start_with(Options { postgres, ..Options::default() }).await;
    let tenants: Vec<_> = (0..TENANTS).map(|number| slug(&format!("t{number}"))).collect();
    for tenant in &tenants {
        fleet.create_tenant_with(tenant.as_str(), true).await;
    }
    println!("{:<70} {:>12} {:>12} {:>8}  bar", "what", "tenantry", "peer", "ratio");
    print_memory(&fleet, &tenants).await;
    let bouncer = Bouncer::start(&fleet, &tenants, MANY_DATABASES).await;
    let clients = BouncerClients { address: bouncer.address, idle: Arc::default() };
    let settings = RouterSettings {
        server_budget: BUDGET,
        pool_wait_timeout: Duration::from_secs(30),
        ..RouterSettings::default()
    };
    let router = TenantRouter::new(fleet.catalog().clone(), fleet.changes.clone(), settings);

    for (what, exponent, bar) in [
        ("1,000 tenants, Zipf 1.1, 64 clients / PgBouncer", 1.1, ">= 1.2 (rate)"),
        ("1,000 tenants, equally likely, 64 clients / PgBouncer", 0.0, "(rate)"),
    ] {
        let (own, other) = (router.clone(), clients.clone());
        let ours = measure(&fleet, &tenants, exponent, move |tenant| {
            let router = own.clone();
            async move {
                let connection = router.connection(&tenant).await.map_err(|_| ())?;
                connection.query_one(SQL, &[&1_i64]).await.map_err(|_| ()).map(drop)
            }
        })
        .await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let peer = measure(&fleet, &tenants, exponent, move |tenant| {
            let clients = other.clone();
            async move { clients.ask(&tenant).await }
        })
        .await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        println!(
            "{what:<70} {:>10.0}/s {:>10.0}/s {:>8.2}  {bar}",
            ours.rate,
            peer.rate,
            ours.rate / peer.rate
        );
        if exponent == 0.0 {
            let (known, turns) = (router.clone(), Arc::new(Semaphore::new(20)));
            let bare = measure(&fleet, &tenants, exponent, move |tenant| {
                let (known, turns) = (known.clone(), Arc::clone(&turns));
                async move {
                    let _turn = turns.acquire().await.map_err(|_| ())?;
                    let place = known.route(&tenant).await.map_err(|_| ())?;
                    connect_and_ask(&place).await
                }
            })
            .await;
            println!(
                "{:<70} {:>10.0}/s {:>10.0}/s {:>8.2}  (rate)",
                "  / connect, query and close, nothing else",
                ours.rate,
                bare.rate,
                ours.rate / bare.rate
            );
        }
        println!("  of these failed{:<53} {:>12} {:>12}", "", ours.failed, peer.failed);
        println!("  most connections on the server{:<38} {:>12} {:>12}", "", ours.most, peer.most);
    }
    restart(fleet, &router, &clients, &tenants[..100]).await;
}

/// What a request costs that opens a connection of its own and closes it.
async fn connect_and_ask(place: &Place) -> Result<(), ()> {
    let tenant = &place.tenant;
    let url = place
        .server
        .with_database(tenant.database.as_str())
        .with_user(tenant.role.as_str(), &place.password);
    let (client, driver) = url.config().connect(NoTls).await.map_err(|_| ())?;
    let closed = tokio::spawn(driver);
    let asked = client.query_typed(SQL, &[(&1_i64, Type::INT8)]).await;
    drop(client);
    _ = closed.await;
    asked.map_err(|_| ()).map(drop)
}

/// What the router keeps of tenants that were asked for, and whose connections others took: of the second
/// half of them, as the first leaves behind what a process needs once.
async fn print_memory(fleet: &Fleet, tenants: &[TenantSlug]) {
    let settings = RouterSettings { server_budget: 4, ..RouterSettings::default() };
    let router = TenantRouter::new(fleet.catalog().clone(), fleet.changes.clone(), settings);
    let ask = async |tenants: &[TenantSlug]| {
        for tenant in tenants {
            drop(router.connection(tenant).await.expect("it is served"));
        }
    };
    let (first, second) = tenants.split_at(tenants.len() / 2);
    ask(first).await;
    let before = HEAP.current_usage();
    ask(second).await;
    println!(
        "{:<70} {:>10} B {:>12} {:>8}  <= 3000 B",
        "memory of a tenant whose connections are closed, among 1,000",
        HEAP.current_usage().saturating_sub(before) / second.len(),
        "",
        ""
    );
    router.close().await;
}

struct Measured {
    rate: f64,
    failed: u32,
    most: i64,
}

/// Asks tenants at random for a while, and watches the server.
async fn measure<F>(
    fleet: &Fleet,
    tenants: &[TenantSlug],
    exponent: f64,
    ask: impl Fn(TenantSlug) -> F + Clone + Send + 'static,
) -> Measured
where
    F: Future<Output = Result<(), ()>> + Send,
{
    let (running, failed) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU32::new(0)));
    let watcher = fleet.admin("postgres").await;
    let counting = tokio::spawn({
        let running = Arc::clone(&running);
        async move {
            let mut most = 0;
            while running.load(Ordering::Relaxed) {
                let sql = "select count(*) from pg_stat_activity where usename like 'tenant\\_t%'";
                let row = watcher.query_one(sql, &[]).await.expect("the server answers");
                most = most.max(row.get::<_, i64>(0));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            most
        }
    });
    let weights = Arc::new(cumulated(tenants.len(), exponent));
    let started = Instant::now();
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (tenants, weights) = (tenants.to_vec(), Arc::clone(&weights));
        let (ask, failed) = (ask.clone(), Arc::clone(&failed));
        clients.spawn(async move {
            let mut random = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(client as u64 + 1);
            let mut done = 0_u32;
            while started.elapsed() < TIME {
                let tenant = &tenants[pick(&weights, &mut random)];
                match ask(tenant.clone()).await {
                    Ok(()) => done += 1,
                    Err(()) => _ = failed.fetch_add(1, Ordering::Relaxed),
                }
            }
            done
        });
    }
    let done: u32 = clients.join_all().await.into_iter().sum();
    let rate = f64::from(done) / started.elapsed().as_secs_f64();
    running.store(false, Ordering::Relaxed);
    let most = counting.await.expect("it watches");
    Measured { rate, failed: failed.load(Ordering::Relaxed), most }
}

/// The first request to each of a hundred tenants after the server was restarted.
async fn restart(
    mut fleet: Fleet,
    router: &TenantRouter,
    bouncer: &BouncerClients,
    tenants: &[TenantSlug],
) {
    for tenant in tenants {
        _ = router.connection(tenant).await;
        _ = bouncer.ask(tenant).await;
    }
    fleet.postgres.restart().await.expect("it starts again");
    let (mut ours, mut peers) = (0, 0);
    for tenant in tenants {
        let asked = async {
            let connection = router.connection(tenant).await.map_err(|_| ())?;
            connection.query_one(SQL, &[&1_i64]).await.map_err(|_| ()).map(drop)
        };
        ours += u32::from(asked.await.is_err());
        peers += u32::from(bouncer.ask(tenant).await.is_err());
    }
    println!(
        "{:<70} {ours:>12} {peers:>12} {:>8}  0",
        "failed first requests of 100 tenants after a restart", ""
    );
}

/// Sums of `1 / rank^exponent`, for [`pick`].
#[expect(clippy::cast_precision_loss, reason = "there are few tenants")]
fn cumulated(count: usize, exponent: f64) -> Vec<f64> {
    let weight = |rank: usize| 1.0 / ((rank + 1) as f64).powf(exponent);
    (0..count)
        .scan(0.0, |sum, rank| {
            *sum += weight(rank);
            Some(*sum)
        })
        .collect()
}

/// One of them at random, by an xorshift generator.
#[expect(clippy::cast_precision_loss, reason = "53 bits are enough")]
fn pick(weights: &[f64], random: &mut u64) -> usize {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    let point = (*random >> 11) as f64 / (1_u64 << 53) as f64 * weights[weights.len() - 1];
    weights.partition_point(|sum| *sum < point).min(weights.len() - 1)
}

/// As an application with a pool of client connections for each tenant has them.
#[derive(Clone)]
struct BouncerClients {
    address: BouncerAddress,
    idle: Arc<Mutex<HashMap<TenantSlug, Vec<Client>>>>,
}

impl BouncerClients {
    /// Prepared statements do not live in transaction mode.
    async fn ask(&self, tenant: &TenantSlug) -> Result<(), ()> {
        let idle = || self.idle.lock().expect("nobody panics");
        let pooled = idle().get_mut(tenant).and_then(Vec::pop).filter(|client| !client.is_closed());
        let client = match pooled {
            Some(client) => client,
            None => self.address.connect(tenant).await.map_err(|_| ())?,
        };
        client.query_typed(SQL, &[(&1_i64, Type::INT8)]).await.map_err(|_| ())?;
        idle().entry(tenant.clone()).or_default().push(client);
        Ok(())
    }
}
