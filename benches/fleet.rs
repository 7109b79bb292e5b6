//! `make bench`: what Tenantry costs beside the commands that people use today, in one run on one
//! cluster of its own. Prints a table of ratios; a ratio below 1 means that Tenantry is faster, but for
//! the rows that say "rate". `cargo bench --bench fleet -- migration burst` measures only those parts.

#[path = "../tests/harness/mod.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod harness;
#[expect(dead_code, reason = "other parts use the rest")]
mod table;

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use harness::{BY, Fleet, new_tenant, slug};
use table::{middle, row, shell};
use tenantry::operations::upkeep;

const FILES: usize = 30;

#[tokio::main]
async fn main() {
    let fleet = table::start().await;
    for number in 2..=FILES {
        let sql = format!(
            "create table t{number} (id bigint generated always as identity primary key, a text not null, b int);
             create index t{number}_a on t{number} (a);"
        );
        fleet.add_migration(&format!("V{number}__t{number}.sql"), &sql);
    }
    let bench = Bench { fleet };
    table::head();
    let wanted = table::wanted();
    bench.fleet.environment.reload_migrations().await.expect("the files are good");
    if wanted("provisioning") {
        bench.provisioning().await;
    }
    if wanted("burst") {
        bench.burst().await;
    }
    if wanted("migration") {
        bench.fleet_migration().await;
    }
}

struct Bench {
    fleet: Fleet,
}

impl Bench {
    /// Warm, clone and from zero, beside the two habits of the shell.
    async fn provisioning(&self) {
        const ROUNDS: usize = 15;
        let zero = self.timed_creates("zero", 5).await;
        upkeep::tend(&self.fleet.environment).await.expect("a template");
        shell(&self.fleet, "psql -qc 'create database bench_template'");
        self.run_files("bench_template");
        self.close("bench_template");

        let (mut clone, mut pair, mut files) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            clone.extend(self.timed_creates(&format!("clone{round}"), 1).await);
            pair.push(self.pair(&format!("pair{round}")));
            if round < 5 {
                let started = Instant::now();
                shell(&self.fleet, &format!("createdb files{round}"));
                self.run_files(&format!("files{round}"));
                files.push(started.elapsed());
                self.close(&format!("files{round}"));
            }
        }
        self.stock(ROUNDS).await;
        let mut warm = Vec::new();
        for round in 0..ROUNDS {
            warm.extend(self.timed_creates(&format!("warm{round}"), 1).await);
            pair.push(self.pair(&format!("again{round}")));
        }
        let (warm, clone, zero) = (middle(warm), middle(clone), middle(zero));
        let (pair, files) = (middle(pair), middle(files));
        row("provision warm / createdb -T + createuser", warm, pair, "<= 0.25");
        row("provision clone / createdb -T + createuser", clone, pair, "<= 1.0");
        row("provision warm / createdb + psql -f of 30 files", warm, files, "<= 0.033");
        row("provision from zero / createdb + psql -f of 30 files", zero, files, "");
    }

    /// The 99th percentile of a warm create while 250 come at once, beside idle.
    async fn burst(&self) {
        const CREATES: usize = 250;
        self.stock(CREATES + 20).await;
        // As a worker does when it starts.
        self.fleet.environment.warm(4).await.expect("the catalog answers");
        let mut idle = Vec::new();
        for round in 0..20 {
            idle.extend(self.timed_creates(&format!("idle{round}"), 1).await);
        }
        let next = Arc::new(AtomicUsize::new(0));
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let (next, environment) = (Arc::clone(&next), self.fleet.environment.clone());
            let runner = self.fleet.runner();
            clients.spawn(async move {
                let mut times = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= CREATES {
                        return times;
                    }
                    let started = Instant::now();
                    let new = new_tenant(&format!("burst{number}"));
                    let operation =
                        environment.create_tenant(&new, false, BY).await.expect("a new slug");
                    runner.complete(operation.id).await.expect("the catalog answers");
                    times.push(started.elapsed());
                }
            });
        }
        let mut times: Vec<Duration> = clients.join_all().await.into_iter().flatten().collect();
        times.sort();
        row(
            "warm create, p99 in a burst of 250 / median when idle",
            times[times.len() * 99 / 100],
            middle(idle),
            "<= 5",
        );
    }

    /// One added column on 200 databases.
    async fn fleet_migration(&self) {
        const TENANTS: usize = 200;
        self.stock(TENANTS).await;
        let mut slugs = Vec::new();
        for number in 0..TENANTS {
            self.fleet.create_tenant(&format!("m{number}")).await;
            slugs.push(slug(&format!("m{number}")));
        }
        std::fs::write("/tmp/tenantry-bench.sql", "alter table cards add column peer text;")
            .expect("a file");
        let names: String = slugs.iter().fold(String::new(), |mut text, slug| {
            _ = writeln!(text, "tenant_{slug}");
            text
        });
        std::fs::write("/tmp/tenantry-bench.names", names).expect("a file");

        let peer = shell(
            &self.fleet,
            "xargs -P 2 -I{} psql -qX -v ON_ERROR_STOP=1 -d {} -f /tmp/tenantry-bench.sql < /tmp/tenantry-bench.names",
        );
        self.fleet.add_migration(
            &format!("V{}__due.sql", FILES + 1),
            "alter table cards add column due date;",
        );
        self.fleet.environment.reload_migrations().await.expect("the files are good");
        let started = Instant::now();
        let batch = self
            .fleet
            .environment
            .migrate_fleet(&slugs, "bench")
            .await
            .expect("the catalog answers");
        self.fleet.runner().complete_batch(batch, 4).await.expect("the catalog answers");
        row("migrate 200 tenants / xargs -P 2 psql", started.elapsed(), peer, "<= 0.5");
    }

    async fn timed_creates(&self, prefix: &str, number: usize) -> Vec<Duration> {
        let mut times = Vec::new();
        for index in 0..number {
            let new = new_tenant(&format!("{prefix}x{index}"));
            let started = Instant::now();
            let operation =
                self.fleet.environment.create_tenant(&new, false, BY).await.expect("a new slug");
            self.fleet.complete(&operation).await;
            times.push(started.elapsed());
        }
        times
    }

    /// Fills the warm pool.
    async fn stock(&self, spares: usize) {
        let mut environment = self.fleet.environment.clone();
        environment.limits.spares = spares;
        upkeep::tend(&environment).await.expect("the server answers");
        self.fleet.admin("postgres").await.batch_execute("checkpoint").await.expect("a checkpoint");
    }

    /// What a shell does for a tenant: a clone and a role, with none of the locks.
    fn pair(&self, name: &str) -> Duration {
        let time =
            shell(&self.fleet, &format!("createdb -T bench_template {name} && createuser {name}"));
        self.close(name);
        time
    }

    /// Shuts a database of the peer's to everybody, or no tenant would be isolated beside it.
    fn close(&self, database: &str) {
        shell(&self.fleet, &format!("psql -qXc 'revoke all on database {database} from public'"));
    }

    fn run_files(&self, database: &str) {
        let folder = self.fleet.migrations.path().display();
        shell(
            &self.fleet,
            &format!(
                "for n in $(seq 1 {FILES}); do psql -qX -v ON_ERROR_STOP=1 -d {database} -f {folder}/V$n\\__*.sql; done"
            ),
        );
    }
}
