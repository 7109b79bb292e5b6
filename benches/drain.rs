//! `make bench`: emptying a server of small tenants while all of them are asked, beside a loop of `pg_dump | psql` one
//! by one over as many databases that nobody asks, while the tenants are asked as much. `cargo bench --bench drain -- 10` does it with ten instead of a hundred.

#[path = "../tests/harness/mod.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod harness;
#[expect(dead_code, reason = "other parts use the rest")]
mod table;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use harness::{Fleet, slug};
use table::{figure, row, shell};
use tenantry::catalog::servers::ServerState;
use tenantry::embedded::{EmbeddedPostgres, PostgresSettings};
use tenantry::operations::moves::Failed;
use tenantry::operations::upkeep;
use tenantry::router::{RouterSettings, TenantRouter};
use tokio::task::JoinSet;

const TENANTS: usize = 100;
/// Relocations at a time: each waits for two servers most of its time.
const AT_ONCE: usize = 8;
/// Clients that ask all the time, each of another tenant.
const CLIENTS: usize = 8;

#[tokio::main]
async fn main() {
    let number = std::env::args().skip(1).find_map(|argument| argument.parse().ok());
    let number = number.unwrap_or(TENANTS);
    let fleet = table::start().await;
    let mut settings = PostgresSettings::scratch();
    settings.durable = true;
    settings.max_connections = 200;
    let other = EmbeddedPostgres::start_scratch(settings).await.expect("a second server");
    for tenant in 0..number {
        create(&fleet, tenant).await;
    }
    let record = fleet.catalog().add_server("eu-2", &other.url().into()).await.expect("it is new");
    let target = fleet.environment.server(record.id).await.expect("it is there");
    target.prepare().await.expect("an administrator");
    // As a worker does within seconds of `server add`.
    upkeep::tend(&fleet.environment).await.expect("a template");
    table::head();

    let load = Load::start(&fleet, number);
    let peer = peer(&fleet, &other, number);
    load.stop().await;
    // No tenant is served beside a database that everybody may enter.
    let admin = harness::connect(&other.url()).await.expect("an administrator");
    for tenant in 0..number {
        let close = format!("revoke connect on database peer_t{tenant} from public");
        admin.batch_execute(&close).await.expect("it is ours");
    }
    let load = Load::start(&fleet, number);
    let started = Instant::now();
    let moves = fleet.environment.drain("default", &[], Failed::Retry).await.expect("a plan");
    let batch = moves.batch_id.expect("a batch");
    fleet.runner().complete_batch(batch, AT_ONCE).await.expect("a catalog");
    let ours = started.elapsed();
    let (asked, failed, longest) = load.stop().await;

    let emptied = fleet.catalog().server_by_name("default").await.expect("it is there");
    assert_eq!(emptied.state(), ServerState::Retired);
    row(&format!("drain {number} tenants / pg_dump | psql, one by one"), ours, peer, "<= 0.33");
    figure("  requests meanwhile", &asked.to_string(), "");
    figure("  of these failed", &failed.to_string(), "0");
    figure("  the longest waited", &format!("{longest:.1?}"), "");
}

/// A tenant with a few hundred rows, and the same again for the peer.
async fn create(fleet: &Fleet, number: usize) {
    let name = format!("t{number}");
    fleet.create_tenant_with(&name, true).await;
    let rows =
        "insert into boards (title) select repeat(md5(n::text), 4) from generate_series(1, 500) n";
    fleet.admin(&format!("tenant_{name}")).await.batch_execute(rows).await.expect("room");
    let close = format!("psql -qc 'revoke connect on database \"peer_{name}\" from public'");
    shell(
        fleet,
        &format!("createdb peer_{name}; {close}; pg_dump tenant_{name} | psql -qd peer_{name}"),
    );
}

/// What people do today.
fn peer(fleet: &Fleet, other: &EmbeddedPostgres, number: usize) -> Duration {
    let url = other.url();
    let base = url.rsplit_once('/').expect("a URL with a database").0;
    let line = format!(
        "for n in $(seq 0 {}); do
             createdb --maintenance-db='{url}' peer_t$n
             pg_dump peer_t$n | psql -qd '{base}/peer_t'$n
         done",
        number - 1
    );
    shell(fleet, &line)
}

/// Clients that ask every tenant in turn, without a pause.
struct Load {
    running: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    clients: JoinSet<(u64, Duration)>,
}

impl Load {
    fn start(fleet: &Fleet, number: usize) -> Self {
        let settings = RouterSettings {
            pool_wait_timeout: Duration::from_mins(1),
            ..RouterSettings::default()
        };
        let router = TenantRouter::new(fleet.catalog().clone(), fleet.changes.clone(), settings);
        let (running, asked) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(0)));
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            let (router, running, asked) =
                (router.clone(), Arc::clone(&running), Arc::clone(&asked));
            clients.spawn(async move {
                let (mut failed, mut longest, mut turn) = (0, Duration::ZERO, client);
                while running.load(Ordering::Relaxed) {
                    let (begun, name) = (Instant::now(), slug(&format!("t{}", turn % number)));
                    let answered = match router.connection(&name).await {
                        Ok(tenant) => {
                            tenant.query_one("select count(*) from boards", &[]).await.is_ok()
                        }
                        Err(_) => false,
                    };
                    failed += u64::from(!answered);
                    asked.fetch_add(1, Ordering::Relaxed);
                    longest = longest.max(begun.elapsed());
                    turn += CLIENTS;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                (failed, longest)
            });
        }
        Self { running, asked, clients }
    }

    /// How many requests there were, how many failed, and how long the longest took.
    async fn stop(self) -> (u64, u64, Duration) {
        self.running.store(false, Ordering::Relaxed);
        let ended = self.clients.join_all().await;
        let failed = ended.iter().map(|(failed, _)| failed).sum();
        let longest = ended.iter().map(|(_, longest)| *longest).max().unwrap_or_default();
        (self.asked.load(Ordering::Relaxed), failed, longest)
    }
}
