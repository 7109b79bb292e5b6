//! `make bench`: moving a tenant to another server under eight writers, online, beside the offline way (`pg_dump` into
//! `pg_restore` while requests wait), and back again to what follows it. Prints rows of the same table as the other parts.

#[path = "../tests/harness/mod.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod harness;
#[expect(dead_code, reason = "other parts use the rest")]
mod table;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use harness::{BY, Fleet, Options, connect, slug};
use table::{compare, figure, middle, row};
use tenantry::embedded::{EmbeddedPostgres, PostgresSettings};
use tenantry::operations::Way;
use tenantry::router::{RouterSettings, TenantRouter};
use tokio::task::JoinSet;

/// How large the tenant is; a debug build only shows that it runs.
const MEGABYTES: i32 = if cfg!(debug_assertions) { 16 } else { 1024 };
const ROUNDS: usize = if cfg!(debug_assertions) { 2 } else { 10 };
const WRITERS: i32 = 8;
/// Eight writers with this pause write about five hundred times a second.
const PAUSE: Duration = Duration::from_millis(14);
/// How long the neighbours are measured without any move.
const BEFORE: Duration = Duration::from_secs(5);

/// What one move was like.
struct Round {
    /// The longest that any write took.
    pause: Duration,
    /// How many queries of the neighbours' were answered in a second.
    neighbours: f64,
    /// From its beginning to its end.
    took: Duration,
}

struct Bench {
    fleet: Fleet,
    other: EmbeddedPostgres,
    router: TenantRouter,
}

fn settings() -> PostgresSettings {
    let mut settings = PostgresSettings::scratch();
    settings.durable = true;
    settings.max_connections = 200;
    settings.extra = vec![("wal_level".to_owned(), "logical".to_owned())];
    settings
}

#[tokio::main]
async fn main() {
    let bench = Bench::start().await;
    table::head();
    let failed = Arc::new(AtomicU64::new(0));
    let before = bench.neighbours_before(&failed).await;
    let (mut online, mut back, mut offline) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        bench.fleet.environment.finish_relocation(&slug("acme")).await.expect("it has moved");
        online.push(bench.relocate(Way::Online, &failed).await);
        back.push(bench.relocate(Way::Online, &failed).await);
        // The other way takes its time, and differs little from one time to the next.
        if round < 3 {
            offline.push(bench.relocate(Way::Offline, &Arc::default()).await);
        }
    }
    let lost = bench.lost().await;
    let pauses = |rounds: &[Round]| middle(rounds.iter().map(|round| round.pause).collect());
    let what = format!("longest write in a move of {MEGABYTES} MB, 8 writers / offline");
    row(&what, pauses(&online), pauses(&offline), "< 1 s");
    row("longest write in the way back / in the move", pauses(&back), pauses(&online), "< 1 s");
    let times = |rounds: &[Round]| middle(rounds.iter().map(|round| round.took).collect());
    row("the way back, from end to end / the move", times(&back), times(&online), "");
    let during = middle(online.iter().map(|round| round.neighbours).collect());
    compare("neighbours' queries during the move / before", "/s", during, before, ">= 0.85 (rate)");
    figure(
        "  writes that failed, online and back",
        &failed.load(Ordering::Relaxed).to_string(),
        "0",
    );
    figure("  acknowledged writes that are missing, or there twice", &lost.to_string(), "0");
}

impl Bench {
    async fn start() -> Self {
        let options = Options { postgres: settings(), ..Options::default() };
        let fleet = Fleet::start_with(options).await;
        let other = EmbeddedPostgres::start_scratch(settings()).await.expect("another server");
        let record =
            fleet.catalog().add_server("eu-2", &other.url().into()).await.expect("it is new");
        fleet
            .environment
            .server(record.id)
            .await
            .expect("it is known")
            .prepare()
            .await
            .expect("ours");
        for tenant in ["acme", "globex"] {
            fleet.create_tenant_with(tenant, true).await;
        }
        let admin = fleet.admin("tenant_acme").await;
        let fill = format!(
            "create table numbers (writer int, n int, primary key (writer, n));
             create table acknowledged (writer int primary key, n int);
             grant select, insert, update on numbers, acknowledged to tenantry_app;
             create table ballast (id int primary key, t text);
             insert into ballast select n, repeat(md5(n::text), 31) from generate_series(1, {MEGABYTES} * 1024) n;
             checkpoint"
        );
        admin.batch_execute(&fill).await.expect("it is filled");
        let patient = RouterSettings {
            pool_wait_timeout: Duration::from_mins(10),
            ..RouterSettings::default()
        };
        let router = TenantRouter::new(fleet.catalog().clone(), fleet.changes.clone(), patient);
        Self { fleet, other, router }
    }

    /// What the neighbours do while the tenant is written to, and stays where it is.
    async fn neighbours_before(&self, failed: &Arc<AtomicU64>) -> f64 {
        let (running, answered) = (Arc::new(AtomicBool::new(true)), Arc::default());
        let writers = self.writers(&running, failed);
        let tasks = self.neighbours(&running, &answered);
        tokio::time::sleep(BEFORE).await;
        running.store(false, Ordering::Relaxed);
        tasks.join_all().await;
        writers.join_all().await;
        rate(&answered, BEFORE)
    }

    /// Clients that write to the tenant, and say in the end how long their longest write took.
    fn writers(&self, running: &Arc<AtomicBool>, failed: &Arc<AtomicU64>) -> JoinSet<Duration> {
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let (router, running, failed) =
                (self.router.clone(), Arc::clone(running), Arc::clone(failed));
            writers.spawn(async move {
                let mut longest = Duration::ZERO;
                while running.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    if write(&router, writer).await.is_err() {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                    longest = longest.max(begun.elapsed());
                    tokio::time::sleep(PAUSE).await;
                }
                longest
            });
        }
        writers
    }

    fn neighbours(&self, running: &Arc<AtomicBool>, answered: &Arc<AtomicU64>) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for _ in 0..2 {
            let (router, running, answered) =
                (self.router.clone(), Arc::clone(running), Arc::clone(answered));
            tasks.spawn(async move {
                while running.load(Ordering::Relaxed) {
                    let globex = router.connection(&slug("globex")).await.expect("it is served");
                    let sql = "update boards set title = title where id = 1";
                    globex.execute(sql, &[]).await.expect("it is served");
                    answered.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            });
        }
        tasks
    }

    /// Moves the tenant to the server that it is not on.
    async fn relocate(&self, way: Way, failed: &Arc<AtomicU64>) -> Round {
        let running = Arc::new(AtomicBool::new(true));
        let writers = self.writers(&running, failed);
        let answered = Arc::default();
        let neighbours = self.neighbours(&running, &answered);
        let to = match self.fleet.tenant("acme").await.server_name.as_str() {
            "default" => "eu-2",
            _ => "default",
        };
        let begun = Instant::now();
        let asked = self.fleet.environment.relocate_by(&slug("acme"), to, way, BY).await;
        self.fleet.complete(&asked.expect("it can go there")).await;
        let took = begun.elapsed();
        running.store(false, Ordering::Relaxed);
        neighbours.join_all().await;
        let pause = writers.join_all().await.into_iter().max().unwrap_or_default();
        Round { pause, neighbours: rate(&answered, took), took }
    }

    /// Numbers that were acknowledged and are not there, and those that are there without having been written once.
    async fn lost(&self) -> i64 {
        let home = self.fleet.tenant("acme").await.server_name;
        let server = if home == "default" { &self.fleet.postgres } else { &self.other };
        let client = connect(&server.database_url("tenant_acme")).await.expect("it is there");
        let sql = "select coalesce(sum(abs(a.n - (select count(*) from numbers n where n.writer = a.writer))), 0)::int8
                   from acknowledged a";
        client.query_one(sql, &[]).await.expect("it is there").get(0)
    }
}

/// The next number of a writer, and how many it has written, in one transaction.
async fn write(router: &TenantRouter, writer: i32) -> Result<(), ()> {
    let acme = router.connection(&slug("acme")).await.map_err(drop)?;
    let sql = "with next as (insert into acknowledged values ($1, 1)
                             on conflict (writer) do update set n = acknowledged.n + 1 returning n)
               insert into numbers select $1, n from next";
    acme.execute(sql, &[&writer]).await.map_err(drop).map(drop)
}

fn rate(answered: &AtomicU64, time: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "there are few")]
    let answered = answered.load(Ordering::Relaxed) as f64;
    answered / time.as_secs_f64()
}
