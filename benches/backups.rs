//! `make bench`: backups and restores beside the pipes that people use today, on one server and one object
//! store in one run. `cargo bench --bench backups -- many large` measures only those parts.
//!
//! - `few`: 50 tenants, where the peer only writes files.
//! - `many`: 200 small tenants into the same bucket.
//! - `large`: 1 GB of rows that look like rows; time, processor, size and memory.
//! - `swap`: how long a caller waits while its tenant is restored in place.

#[path = "../tests/harness/mod.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod harness;
mod table;

use std::fs;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use harness::{BY, Fleet, slug};
use table::{compare, figure, middle, row, shell, shell_with};
use tempfile::TempDir;
use tenantry::operations::request::BackupChoice;
use tenantry::operations::{Environment, Limits, Runner};
use tenantry::tenant::TenantSlug;
use tokio_util::sync::CancellationToken;

const FEW: usize = 50;
const MANY: usize = 200;
/// How many dumps at once the shell may try, to find its best.
const AT_ONCE: [usize; 3] = [2, 3, 4];
const ROUNDS: usize = 3;
const SWAPS: usize = 100;

#[tokio::main]
async fn main() {
    let fleet = table::start().await;
    table::head();
    let wanted = table::wanted();
    let slugs: Vec<_> = (0..MANY).map(|number| slug(&format!("t{number}"))).collect();
    if wanted("few") || wanted("many") {
        for tenant in &slugs {
            fleet.create_tenant_with(tenant.as_str(), true).await;
        }
    }
    if wanted("few") {
        few(&fleet, &slugs[..FEW]).await;
    }
    if wanted("many") {
        many(&fleet, &slugs).await;
    }
    if wanted("swap") {
        swap(&fleet).await;
    }
    if wanted("large") {
        large(&fleet).await;
    }
}

/// In a loop, where the time of each counts, and two at a time, where all the work of two cores does.
async fn few(fleet: &Fleet, slugs: &[TenantSlug]) {
    for rows in [0, 10_000] {
        for slug in slugs.iter().filter(|_| rows > 0) {
            fill(fleet, slug, rows).await;
        }
        let names = names(slugs);
        for at_once in [1, 2] {
            let (mut ours, mut peers) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                let folder = TempDir::new().expect("a folder");
                peers.push(shell(
                    fleet,
                    &format!(
                        "xargs -P {at_once} -I{{}} pg_dump -Fc -f {}/{{}}.dump {{}} < {}",
                        folder.path().display(),
                        names.path().join("names").display()
                    ),
                ));
                ours.push(back_up(fleet, slugs, at_once).await);
            }
            let what =
                format!("back up 50 of {rows} rows, {at_once} at a time / pg_dump -Fc to disk");
            row(&what, middle(ours), middle(peers), "<= 1.0");
        }
    }
}

/// Against the best that the shell can do.
async fn many(fleet: &Fleet, slugs: &[TenantSlug]) {
    let names = names(slugs);
    let (id, secret) = fleet.s3.credentials();
    let endpoint = fleet.s3.endpoint();
    let rclone = [
        ("RCLONE_CONFIG", "/dev/null"),
        ("RCLONE_CONFIG_S3_TYPE", "s3"),
        ("RCLONE_CONFIG_S3_PROVIDER", "Other"),
        ("RCLONE_CONFIG_S3_ENDPOINT", endpoint.as_str()),
        ("RCLONE_CONFIG_S3_REGION", "us-east-1"),
        ("RCLONE_CONFIG_S3_ACCESS_KEY_ID", id),
        ("RCLONE_CONFIG_S3_SECRET_ACCESS_KEY", secret),
        ("RCLONE_CONFIG_S3_NO_CHECK_BUCKET", "true"),
    ];
    let peer = |at_once: usize| {
        let line = format!(
            "xargs -P {at_once} -I{{}} bash -eo pipefail -c \
             'pg_dump -Fc {{}} | rclone rcat s3:backups/peer/{{}}.dump' < {}",
            names.path().join("names").display()
        );
        shell_with(fleet, &rclone, &line)
    };
    let (best, _) = AT_ONCE
        .map(|at_once| (at_once, peer(at_once)))
        .into_iter()
        .min_by_key(|(_, time)| *time)
        .expect("several were tried");
    let (mut ours, mut peers) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        peers.push(peer(best));
        ours.push(back_up(fleet, slugs, fleet.environment.limits.dumps).await);
    }
    let a_minute = |time: Duration| 200.0 * 60.0 / time.as_secs_f64();
    let what = format!("back up 200 small tenants / xargs -P {best}, pg_dump -Fc | rclone rcat");
    compare(&what, "/min", a_minute(middle(ours)), a_minute(middle(peers)), ">= 1.5 (rate)");
}

/// How long the slowest request of somebody who asks all the time takes, for each of many restores.
async fn swap(fleet: &Fleet) {
    let tenant = slug("swapped");
    fleet.create_tenant_with("swapped", true).await;
    fleet.back_up("swapped").await;
    let router = fleet.router();
    let (mut waits, mut failed) = (Vec::new(), 0);
    for _ in 0..SWAPS {
        let running = Arc::new(AtomicBool::new(true));
        let asking = tokio::spawn({
            let (router, tenant, running) = (router.clone(), tenant.clone(), Arc::clone(&running));
            async move {
                let (mut longest, mut failed) = (Duration::ZERO, 0);
                while running.load(Ordering::Relaxed) {
                    let started = Instant::now();
                    let asked = async {
                        let connection = router.connection(&tenant).await.map_err(|_| ())?;
                        connection
                            .query_one("select count(*) from boards", &[])
                            .await
                            .map_err(|_| ())
                    };
                    failed += u32::from(asked.await.is_err());
                    longest = longest.max(started.elapsed());
                }
                (longest, failed)
            }
        });
        let restore = fleet.environment.restore(&tenant, BackupChoice::Latest, BY).await;
        fleet.complete(&restore.expect("there is a backup")).await;
        running.store(false, Ordering::Relaxed);
        let (longest, failures) = asking.await.expect("it does not panic");
        waits.push(longest);
        failed += failures;
    }
    waits.sort();
    let waited = format!("{:.1?}", waits[SWAPS * 99 / 100 - 1]);
    figure(
        "longest request during a restore in place, 99th percentile of 100",
        &waited,
        "<= 250 ms",
    );
    figure("  statements that the swap ended", &failed.to_string(), "");
}

async fn large(fleet: &Fleet) {
    fleet.create_tenant("large").await;
    fleet.admin("tenant_large").await.batch_execute(GIGABYTE).await.expect("a gigabyte of rows");
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("large.dump");
    let (mut ours, mut peers) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (before, line) =
            (processor(), format!("pg_dump -Fc -f {} tenant_large", file.display()));
        let time = shell(fleet, &line);
        peers.push((time, processor() - before));
        ours.push(run(fleet, &["backup", "run", "large"]));
    }
    let peak = ours.iter().map(|run| run.peak).max().expect("several rounds");
    let wall = |runs: &[Run]| middle(runs.iter().map(|run| run.time).collect());
    row(
        "back up 1 GB / pg_dump -Fc to disk",
        wall(&ours),
        middle(peers.iter().map(|peer| peer.0).collect()),
        "<= 0.45",
    );
    compare(
        "  processor, clients' side",
        "s",
        middle(ours.iter().map(|run| run.processor).collect()),
        middle(peers.iter().map(|peer| peer.1).collect()),
        "<= 0.5",
    );
    let stored = fleet.backups_of("large").await;
    let size = u64::try_from(stored[0].dump_bytes).expect("a size");
    let dump = fs::metadata(&file).expect("the peer's dump").len();
    compare("  size", "MB", megabytes(size), megabytes(dump), "<= 0.95");
    figure("  peak memory", &format!("{:.0} MB", megabytes(peak)), "<= 64 MB");

    let (mut ours, mut peers) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let line = format!(
            "createdb peer{round} && pg_restore --exit-on-error -d peer{round} {} && dropdb peer{round}",
            file.display()
        );
        peers.push(shell(fleet, &line));
        ours.push(run(fleet, &["restore", "large", "--latest", "--in-place", "--yes"]));
    }
    let peak = ours.iter().map(|run| run.peak).max().expect("several rounds");
    row("restore 1 GB / pg_restore of a local file", wall(&ours), middle(peers), "<= 1.15");
    figure("  peak memory", &format!("{:.0} MB", megabytes(peak)), "<= 64 MB");
}

/// About a gigabyte in the database, which compresses as sentences, names and numbers do.
const GIGABYTE: &str = "
    create temporary table sentences as
    select n, (select string_agg(substr(md5((n * 31 + word % 7)::text), 1 + word % 3, 2 + word % 9), ' ')
               from generate_series(1, 14) word) as sentence
    from generate_series(0, 199999) n;
    create index on sentences (n);
    create table orders (
        id bigint primary key, customer uuid not null, status text not null, at timestamptz not null,
        amount numeric(10, 2) not null, note text not null
    );
    select setseed(0.5);
    insert into orders
    select id, gen_random_uuid(), (array['new', 'paid', 'sent', 'returned'])[1 + id % 4],
           timestamptz '2026-01-01' + id * interval '7 seconds', round((random() * 1000)::numeric, 2),
           one.sentence || '. ' || other.sentence
    from generate_series(1, 3600000) id
    join sentences one on one.n = (id * 7919::bigint) % 200000
    join sentences other on other.n = (id * 104729::bigint) % 199999;
    create index orders_at on orders (at);
    analyze orders";

/// What a command of the program took.
struct Run {
    time: Duration,
    /// With what it waited for, in seconds.
    processor: f64,
    /// In bytes.
    peak: u64,
}

fn run(fleet: &Fleet, arguments: &[&str]) -> Run {
    let (before, started) = (processor(), Instant::now());
    let mut command = harness::process::command(fleet);
    let command = command.env("TENANTRY_WARM_SPARES", "0").args(arguments);
    let mut child =
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program");
    let mut peak = 0;
    let status = loop {
        if let Some(status) = child.try_wait().expect("our child") {
            break status;
        }
        peak = peak.max(most_held(child.id()));
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success(), "{arguments:?}");
    Run { time: started.elapsed(), processor: processor() - before, peak }
}

/// The most memory that a process has held, in bytes; zero once it has ended.
fn most_held(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.map_or(0, |line| line.trim().trim_end_matches(" kB").parse::<u64>().expect("kB") * 1024)
}

fn megabytes(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes / 1000).expect("less than 4 TB")) / 1e3
}

/// What ended children of this process took of the processor, in seconds.
fn processor() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<&str> =
        stat.rsplit_once(')').expect("a name in brackets").1.split_whitespace().collect();
    let ticks = |field: usize| fields[field].parse::<u32>().expect("a number");
    f64::from(ticks(13) + ticks(14)) / 100.0
}

async fn back_up(fleet: &Fleet, slugs: &[TenantSlug], at_once: usize) -> Duration {
    let limits = Limits { dumps: at_once, ..fleet.environment.limits.clone() };
    let (catalog, store) = (fleet.catalog().clone(), fleet.environment.store.clone());
    let environment = Environment::new(catalog, store, limits).await.expect("good files");
    let runner = Runner::new(environment.clone(), CancellationToken::new());
    let started = Instant::now();
    let batch = environment.back_up_fleet(slugs, "bench").await.expect("a batch");
    runner.complete_batch(batch, at_once + 2).await.expect("the catalog answers");
    started.elapsed()
}

async fn fill(fleet: &Fleet, slug: &TenantSlug, rows: u32) {
    let sql = format!(
        "insert into boards (title) select 'Board ' || n from generate_series(1, 100) n;
         insert into cards (board_id, title, done)
         select 1 + n % 100, 'Call ' || md5(n::text) || ' about the invoice', n % 3 = 0
         from generate_series(1, {rows}) n"
    );
    fleet.admin(&format!("tenant_{slug}")).await.batch_execute(&sql).await.expect("rows");
}

/// A file `names` with a database a line.
fn names(slugs: &[TenantSlug]) -> TempDir {
    let folder = TempDir::new().expect("a folder");
    let lines: Vec<_> = slugs.iter().map(|slug| format!("tenant_{slug}\n")).collect();
    fs::write(folder.path().join("names"), lines.concat()).expect("a file");
    folder
}
