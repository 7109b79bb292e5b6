//! The queue before a table: a dump reads it, DDL waits behind the dump, readers wait behind the DDL.
//!
//! Postgres serves a queue in order, so DDL that waits without an end makes everybody wait. A migration of ours
//! waits for two seconds, lets the readers pass, and comes again later.

use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tenantry::catalog::lock::Claim;
use tenantry::catalog::operations::{OperationFilter, OperationRecord, OperationState};
use tenantry_provisioning::MigrationTimeouts;
use tokio_postgres::Client;

use crate::harness::{BY, Fleet, eventually, slug};

/// A dump that has read-locked every table and goes no further, since nobody reads what it writes.
struct StuckDump(Child);

impl StuckDump {
    async fn of(fleet: &Fleet, name: &str) -> Self {
        let url = fleet.postgres.database_url(&format!("tenant_{name}"));
        let dump = Command::new("pg_dump").arg(url).stdout(Stdio::piped()).spawn().unwrap();
        let dump = Self(dump);
        let admin = fleet.admin("postgres").await;
        eventually("the dump stands still", async || {
            let sql = "select count(*) from pg_stat_activity
                       where application_name = 'pg_dump' and wait_event = 'ClientWrite'";
            admin.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 1
        })
        .await;
        dump
    }

    /// Reads it to its end.
    fn finish(mut self) {
        let mut text = Vec::new();
        self.0.stdout.take().unwrap().read_to_end(&mut text).unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for StuckDump {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Acme with more rows than fit between a server and a program that does not read.
async fn fleet() -> Fleet {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    let sql = "insert into boards (title) select repeat(md5(n::text), 100) from generate_series(1, 5000) n";
    fleet.admin("tenant_acme").await.batch_execute(sql).await.unwrap();
    fleet
}

/// Who waits for a lock on `boards`, and for which.
async fn waiting(looking: &Client) -> Vec<String> {
    let sql = "select mode from pg_locks
               where relation = 'boards'::regclass and not granted order by waitstart";
    let rows = looking.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn ask_for_a_migration(fleet: &Fleet) -> OperationRecord {
    fleet.add_migration("V2__wider.sql", "alter table boards add column colour text;");
    fleet.environment.reload_migrations().await.unwrap();
    let batch = fleet.environment.migrate_fleet(&[slug("acme")], "test").await.unwrap();
    let filter = OperationFilter { batch: Some(batch), limit: 1, ..Default::default() };
    fleet.catalog().operations(&filter).await.unwrap().remove(0).0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_wait_behind_a_migration_that_waits_behind_a_dump_for_two_seconds_at_most() {
    let fleet = fleet().await;
    let lock_timeout = fleet.environment.limits.migration_timeouts.lock;
    assert_eq!(lock_timeout, MigrationTimeouts::default().lock);
    assert_eq!(lock_timeout, Duration::from_secs(2));
    let dump = StuckDump::of(&fleet, "acme").await;
    let asked = ask_for_a_migration(&fleet).await;
    let connection = fleet.router().connection(&slug("acme")).await.unwrap();
    let looking = fleet.admin("tenant_acme").await;
    let runner = fleet.runner();
    let claim = Claim::Operation(asked.id);
    let migration = tokio::spawn(async move { runner.run_one(claim).await.unwrap() });
    eventually("the migration waits", async || waiting(&looking).await == ["AccessExclusiveLock"])
        .await;

    let was_seen = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&was_seen);
    let reader = tokio::spawn(async move {
        let mut longest = Duration::ZERO;
        while !seen.load(Ordering::Relaxed) {
            let began = Instant::now();
            connection.query_one("select count(*) from boards", &[]).await.unwrap();
            longest = longest.max(began.elapsed());
        }
        longest
    });
    eventually("a reader waits behind it", async || {
        waiting(&looking).await == ["AccessExclusiveLock", "AccessShareLock"]
    })
    .await;
    was_seen.store(true, Ordering::Relaxed);
    let waited = reader.await.unwrap();

    assert!(waited < lock_timeout * 10, "{waited:?}");
    migration.await.unwrap();
    let postponed = fleet.catalog().operation(asked.id).await.unwrap();
    assert_eq!(postponed.state, OperationState::Queued, "it comes again by itself");
    assert!(postponed.error.unwrap().remedy.is_some());
    dump.finish();
    fleet.complete(&asked).await;
    assert_eq!(fleet.tenant("acme").await.schema_version, 2);
}

/// The same from the other side: a backup that waits behind DDL gives up too, and nobody behind it waits long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_meets_ddl_gives_up_and_comes_again() {
    let fleet = fleet().await;
    let lock_timeout = fleet.environment.limits.migration_timeouts.lock;
    let ddl = fleet.admin("tenant_acme").await;
    ddl.batch_execute("begin; alter table boards add column colour text").await.unwrap();
    let asked = fleet.environment.back_up(&slug("acme"), BY).await.unwrap();
    let began = Instant::now();

    fleet.runner().run_one(Claim::Operation(asked.id)).await.unwrap();

    assert!(began.elapsed() < lock_timeout * 15, "{:?}", began.elapsed());
    let postponed = fleet.catalog().operation(asked.id).await.unwrap();
    assert_eq!(postponed.state, OperationState::Queued);
    assert!(fleet.objects().is_empty(), "{:?}", fleet.objects());
    ddl.batch_execute("commit").await.unwrap();
    fleet.complete(&asked).await;
}
