//! `make bench`: what the way through the router costs on one server, beside raw clients and PgBouncer,
//! and what tenants cost that nobody asks for. Prints rows of the same table as the other parts.
//! `cargo bench --bench router -- queries` measures only that part.

mod bouncer;
#[path = "../tests/harness/mod.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod harness;

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bouncer::Bouncer;
use futures_util::future::BoxFuture;
use harness::process::memory;
use harness::{Fleet, Options, new_tenant, slug};
use tenantry::embedded::PostgresSettings;
use tenantry::operations::Work;
use tenantry::router::TenantRouter;
use tenantry::tenant::{TenantSettings, TenantSlug};
use tenantry_provisioning::ServerUrl;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_postgres::{Client, NoTls};

/// Where prepared statements live: a server's session for each of the client's.
const SESSIONS: &str = "pool_mode = session\ndefault_pool_size = 20\n";
const SQL: &str = "select title from boards where id = $1";
const TASKS: usize = 8;
const WARM_UP: Duration = Duration::from_millis(300);

#[tokio::main]
async fn main() {
    let mut postgres = PostgresSettings::scratch();
    postgres.max_connections = 200;
    let fleet = Fleet::start_with(Options { postgres, ..Options::default() }).await;
    let bench = Bench { fleet };
    println!("{:<70} {:>12} {:>12} {:>8}  bar", "what", "tenantry", "peer", "ratio");
    let parts: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|wanted| wanted == part);
    if wanted("queries") {
        bench.queries().await;
    }
    if wanted("neighbours") {
        bench.neighbours().await;
    }
    if wanted("known") {
        bench.known().await;
    }
}

struct Bench {
    fleet: Fleet,
}

impl Bench {
    /// Prepared point queries at eight tasks: through the router, raw clients, and PgBouncer.
    async fn queries(&self) {
        const ROUNDS: usize = 15;
        const CHECKOUTS: u32 = 200_000;
        self.fleet.create_tenant_with("routed", true).await;
        let tenant = slug("routed");
        let place = self.fleet.router().route(&tenant).await.expect("it is served");
        let url = ServerUrl::parse(&self.fleet.postgres.url())
            .expect("our own URL")
            .with_database("tenant_routed")
            .with_user("tenant_routed", &place.password);
        let bouncer = Bouncer::start(&self.fleet, std::slice::from_ref(&tenant), SESSIONS).await;
        let (mut ours, mut raw, mut through_bouncer) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            // All begin with new connections: where those happen to run weighs more than anything else.
            let router = self.fleet.router();
            let through = async || {
                let own = Arc::new((router.clone(), tenant.clone()));
                move || {
                    let own = Arc::clone(&own);
                    async move {
                        let connection = own.0.connection(&own.1).await.expect("it is served");
                        connection.query_one(SQL, &[&1_i64]).await.expect("a row");
                    }
                }
            };
            ours.push(rate(through).await);
            let bare = async || prepared(connect(&url).await).await;
            raw.push(rate(bare).await);
            let hop = async || {
                prepared(bouncer.address.connect(&tenant).await.expect("a connection")).await
            };
            through_bouncer.push(rate(hop).await);
        }
        row(
            "point query, prepared, 8 tasks, router.connection() / raw clients",
            &ours,
            &raw,
            ">= 0.97",
        );
        row("  / the same through PgBouncer, a session each", &ours, &through_bouncer, ">= 1.8");
        let router = self.fleet.router();
        for _ in 0..2 {
            let started = Instant::now();
            for _ in 0..CHECKOUTS {
                black_box(router.connection(&tenant).await.expect("it is served"));
            }
            figure("a connection from the pool and back", started.elapsed() / CHECKOUTS, "");
        }
    }

    /// Ten tenants with ten requests a second each, and then one more with a hundred times as many.
    async fn neighbours(&self) {
        let quiet: Vec<_> = (0..10).map(|number| slug(&format!("quiet{number}"))).collect();
        for tenant in quiet.iter().chain([&slug("noisy")]) {
            self.fleet.create_tenant_with(tenant.as_str(), true).await;
        }
        let router = self.fleet.router();
        let (mut alone, mut beside) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            alone.push(tail(&router, &quiet).await);
            let noise = Arc::new(AtomicBool::new(true));
            let crowd = tokio::spawn(make_noise(router.clone(), Arc::clone(&noise)));
            beside.push(tail(&router, &quiet).await);
            noise.store(false, Ordering::Relaxed);
            crowd.await.expect("it makes noise");
        }
        alone.sort();
        beside.sort();
        let ms = |time: Duration| format!("{:.2} ms", time.as_secs_f64() * 1000.0);
        let ratio = beside[1].as_secs_f64() / alone[1].as_secs_f64();
        println!(
            "{:<70} {:>12} {:>12} {ratio:>8.2}  <= 2",
            "p99 of ten tenants beside one with 100 times the load / without it",
            ms(beside[1]),
            ms(alone[1])
        );
    }

    /// Ten thousand tenants that nobody asks for: a look-up of one, and the memory of each.
    async fn known(&self) {
        const TENANTS: usize = 10_000;
        const LOOKUPS: u32 = 1_000_000;
        let mut creating = JoinSet::new();
        for part in 0..8 {
            let catalog = self.fleet.catalog().clone();
            creating.spawn(async move {
                for number in (part..TENANTS).step_by(8) {
                    let id = uuid::Uuid::now_v7();
                    let mut new = new_tenant(&format!("known{number}"));
                    let settings = serde_json::json!({
                        "branding": { "display_name": "Acme", "primary_color": "#1a2b3c" },
                        "limits": { "connections": 5, "statement_timeout": "30s" },
                    });
                    new.settings = TenantSettings::parse(settings).expect("they are good");
                    let operation = Work::Provision { sample_data: false };
                    let operation = operation.new_operation(id, "bench");
                    catalog.create_tenant(id, &new, &operation).await.expect("a new slug");
                }
            });
        }
        creating.join_all().await;
        let slugs: Vec<_> = (0..TENANTS).map(|number| slug(&format!("known{number}"))).collect();
        let router = self.fleet.router();
        let before = held();
        for slug in &slugs {
            router.route(slug).await.expect("it exists");
        }
        let each = (held() - before) / TENANTS;
        println!(
            "{:<70} {each:>10} B {:>12} {:>8}  <= 3000 B",
            "memory of a tenant without connections, among 10,000", "", ""
        );
        let started = Instant::now();
        for lookup in 0..LOOKUPS {
            let slug = &slugs[lookup as usize * 7919 % TENANTS];
            black_box(router.route(slug).await.expect("it exists"));
        }
        figure("hot route among 10,000 tenants", started.elapsed() / LOOKUPS, "< 1 µs");
    }
}

async fn connect(url: &ServerUrl) -> Client {
    let (client, driver) = url.config().connect(NoTls).await.expect("a connection");
    tokio::spawn(driver);
    client
}

/// A raw client's call of its prepared statement.
async fn prepared(client: Client) -> impl Fn() -> BoxFuture<'static, ()> + Send + 'static {
    let client = Arc::new(client);
    let statement = client.prepare(SQL).await.expect("a statement");
    move || {
        let (client, statement) = (Arc::clone(&client), statement.clone());
        Box::pin(async move {
            client.query_one(&statement, &[&1_i64]).await.expect("a row");
        })
    }
}

/// The 99th percentile of ten requests a second of each tenant, over five seconds.
async fn tail(router: &TenantRouter, tenants: &[TenantSlug]) -> Duration {
    let mut asking = JoinSet::new();
    for (number, tenant) in tenants.iter().enumerate() {
        let (router, tenant) = (router.clone(), tenant.clone());
        asking.spawn(async move {
            tokio::time::sleep(Duration::from_millis(number as u64 * 10)).await;
            let mut tick = interval(Duration::from_millis(100));
            let mut times = Vec::new();
            for _ in 0..50 {
                tick.tick().await;
                let started = Instant::now();
                ask(&router, &tenant).await;
                times.push(started.elapsed());
            }
            times
        });
    }
    let mut times: Vec<_> = asking.join_all().await.into_iter().flatten().collect();
    times.sort();
    times[times.len() * 99 / 100]
}

/// A thousand requests a second of one tenant, whether or not the others have ended.
async fn make_noise(router: TenantRouter, noise: Arc<AtomicBool>) {
    let mut tick = interval(Duration::from_millis(10));
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut asking = JoinSet::new();
    while noise.load(Ordering::Relaxed) {
        tick.tick().await;
        for _ in 0..10 {
            let router = router.clone();
            asking.spawn(async move { ask(&router, &slug("noisy")).await });
        }
        while asking.try_join_next().is_some() {}
    }
    asking.join_all().await;
}

async fn ask(router: &TenantRouter, tenant: &TenantSlug) {
    let connection = router.connection(tenant).await.expect("it is served");
    connection.query_one(SQL, &[&1_i64]).await.expect("a row");
}

/// Calls a second of all tasks over one second; each makes its own call from `prepare`. What they need is
/// open and prepared before that second begins, as a pool opens its connections when it is first asked.
async fn rate<C, F>(prepare: impl AsyncFn() -> C) -> f64
where
    C: Fn() -> F + Send + 'static,
    F: Future<Output = ()> + Send,
{
    let mut calls = Vec::new();
    for _ in 0..TASKS {
        calls.push(prepare().await);
    }
    let started = Instant::now() + WARM_UP;
    let mut running = JoinSet::new();
    for call in calls {
        running.spawn(async move {
            while Instant::now() < started {
                call().await;
            }
            let mut count = 0_u32;
            while started.elapsed() < Duration::from_secs(1) {
                call().await;
                count += 1;
            }
            count
        });
    }
    let total: u32 = running.join_all().await.into_iter().sum();
    f64::from(total) / started.elapsed().as_secs_f64()
}

fn middle(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// What this process holds, in bytes.
fn held() -> usize {
    memory(std::process::id(), "VmRSS:")
}

/// The ratio is the middle one of those that were measured side by side.
fn row(what: &str, ours: &[f64], peer: &[f64], bar: &str) {
    let ratio = middle(ours.iter().zip(peer).map(|(ours, peer)| ours / peer).collect());
    let (ours, peer) = (middle(ours.to_vec()), middle(peer.to_vec()));
    println!("{what:<70} {ours:>10.0}/s {peer:>10.0}/s {ratio:>8.2}  {bar} (rate)");
}

fn figure(what: &str, time: Duration, bar: &str) {
    println!("{what:<70} {:>12} {:>12} {:>8}  {bar}", format!("{time:?}"), "", "");
}
