//! The same mishaps, and what a shell pipe makes of them: `pg_dump | gzip | rclone rcat`, and back by
//! `rclone cat | gunzip | psql`. It is silent where the program that knows is not the last one of the pipe.

use std::path::PathBuf;
use std::process::{Command, Output};

use tenantry::catalog::lock::Claim;
use tenantry::catalog::operations::{OperationRecord, OperationState};
use tenantry::operations::request::BackupChoice;
use tenantry::operations::{Environment, Runner};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::sync::CancellationToken;

use super::{digest, fill, store_at};
use crate::harness::faulty_s3::{Fault, FaultyS3, Trouble};
use crate::harness::{BY, Fleet, eventually, slug};

const PUT: &str = r#"pg_dump "$DATABASE" | gzip | rclone rcat "bucket:backups/$OBJECT""#;
const GET: &str = r#"rclone cat "bucket:backups/$OBJECT" | gunzip \
    | psql --quiet --set ON_ERROR_STOP=1 --single-transaction "$DATABASE""#;

/// More than anybody tries again.
const ALWAYS: u64 = 1000;

struct Habit {
    fleet: Fleet,
    faulty: FaultyS3,
    /// What we do, by the same way to the bucket.
    ours: Environment,
}

impl Habit {
    async fn new() -> Self {
        let fleet = Fleet::start().await;
        let faulty = FaultyS3::before(&fleet.s3.endpoint()).await;
        let mut ours = fleet.environment.clone();
        ours.store = Some(store_at(&fleet, faulty.endpoint()).await);
        Self { fleet, faulty, ours }
    }

    /// Runs a pipe as a crontab does.
    fn pipe(&self, line: &str, object: &str, database: &str) -> JoinHandle<Output> {
        let (id, secret) = self.fleet.s3.credentials();
        let mut command = Command::new("sh");
        command
            .args(["-c", line])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("DATABASE", database)
            .env("OBJECT", object)
            .env("RCLONE_CONFIG", "/dev/null")
            .env("RCLONE_CONFIG_BUCKET_TYPE", "s3")
            .env("RCLONE_CONFIG_BUCKET_PROVIDER", "Other")
            .env("RCLONE_CONFIG_BUCKET_ENDPOINT", self.faulty.endpoint())
            .env("RCLONE_CONFIG_BUCKET_REGION", "us-east-1")
            .env("RCLONE_CONFIG_BUCKET_ACCESS_KEY_ID", id)
            .env("RCLONE_CONFIG_BUCKET_SECRET_ACCESS_KEY", secret)
            .env("RCLONE_LOW_LEVEL_RETRIES", "2")
            .env("RCLONE_RETRIES", "1");
        spawn_blocking(move || command.output().unwrap())
    }

    async fn put(&self, name: &str, object: &str) -> bool {
        let database = self.fleet.postgres.database_url(&format!("tenant_{name}"));
        succeeded(&self.pipe(PUT, object, &database).await.unwrap())
    }

    /// What a restore into an empty database says, and what is in it then.
    async fn get(&self, object: &str) -> (bool, Option<String>) {
        let admin = self.fleet.admin("postgres").await;
        admin.batch_execute("drop database if exists tenant_again").await.unwrap();
        admin.batch_execute("create database tenant_again template template0").await.unwrap();
        let database = self.fleet.postgres.database_url("tenant_again");
        let output = self.pipe(GET, object, &database).await.unwrap();
        let again = self.fleet.admin("tenant_again").await;
        let sql = "select to_regclass('boards') is not null";
        let has_table: bool = again.query_one(sql, &[]).await.unwrap().get(0);
        drop(again);
        let rows = if has_table { Some(digest(&self.fleet, "again").await) } else { None };
        (succeeded(&output), rows)
    }

    /// Where the bucket's server keeps what the pipe stored.
    fn stored(&self, object: &str) -> PathBuf {
        self.fleet.s3.data_dir().join("backups").join(object)
    }

    async fn ours(&self, asked: &OperationRecord) -> OperationRecord {
        let runner = Runner::new(self.ours.clone(), CancellationToken::new());
        runner.run_one(Claim::Operation(asked.id)).await.unwrap();
        self.fleet.catalog().operation(asked.id).await.unwrap()
    }

    /// Has the dump of a tenant end in its middle, as a server that runs out of memory does.
    async fn kill_dump(&self, name: &str) {
        let admin = self.fleet.admin("postgres").await;
        let sql = format!(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity
             where query ilike 'copy public.boards%' and datname = 'tenant_{name}'"
        );
        eventually("a dump copies", async || {
            admin.query_one(&sql, &[]).await.unwrap().get::<_, i64>(0) > 0
        })
        .await;
    }
}

fn succeeded(output: &Output) -> bool {
    output.status.success()
}

/// What did not succeed says so, and there is no backup of it.
async fn assert_told(habit: &Habit, ended: &OperationRecord) {
    assert_ne!(ended.state, OperationState::Succeeded);
    assert!(ended.error.as_ref().unwrap().remedy.is_some(), "{:?}", ended.error);
    assert!(habit.fleet.catalog().backup(ended.id).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipe_is_silent_where_we_are_not() {
    if Command::new("rclone").arg("version").output().is_err() {
        eprintln!("`rclone` is not installed: there is no pipe to compare with");
        return;
    }
    let habit = Habit::new().await;
    for name in ["acme", "globex"] {
        habit.fleet.create_tenant_with(name, true).await;
    }
    fill(&habit.fleet, "globex").await;
    let admin = habit.fleet.admin("tenant_acme").await;
    let sql = "insert into boards (title) select sha512(n::text::bytea)::text from generate_series(1, 4000) n";
    admin.batch_execute(sql).await.unwrap();
    drop(admin);

    // In good weather the pipe is good.
    let rows = digest(&habit.fleet, "acme").await;
    assert!(habit.put("acme", "good").await);
    assert_eq!(habit.get("good").await, (true, Some(rows.clone())));

    pg_dump_has_no_access(&habit).await;
    pg_dump_dies_half_way(&habit).await;
    the_object_is_another_tenants(&habit).await;
    a_bit_flips_in_the_bucket(&habit, &rows).await;
    the_upload_breaks(&habit).await;
}

/// An object that is no dump at all, and exit status 0.
async fn pg_dump_has_no_access(habit: &Habit) {
    let admin = habit.fleet.admin("postgres").await;
    let allow = async |yes: bool| {
        let sql = format!("alter database tenant_acme allow_connections {yes}");
        admin.batch_execute(&sql).await.unwrap();
    };
    let asked = habit.ours.back_up(&slug("acme"), BY).await.unwrap();
    allow(false).await;

    let is_good = habit.put("acme", "nothing").await;
    let ended = habit.ours(&asked).await;

    allow(true).await;
    assert!(is_good, "the pipe is silent");
    assert_eq!(habit.get("nothing").await, (true, None), "and so is the way back");
    assert_told(habit, &ended).await;
    habit.fleet.environment.cancel(asked.id).await.unwrap();
    habit.fleet.runner().complete(asked.id).await.unwrap();
}

/// Half a dump under the name of a whole one, and exit status 0.
async fn pg_dump_dies_half_way(habit: &Habit) {
    let rows = digest(&habit.fleet, "globex").await;

    let (is_good, ()) = tokio::join!(habit.put("globex", "half"), habit.kill_dump("globex"));

    assert!(is_good, "the pipe is silent");
    assert_ne!(habit.get("half").await.1, Some(rows));

    let asked = habit.ours.back_up(&slug("globex"), BY).await.unwrap();
    let (ended, ()) = tokio::join!(habit.ours(&asked), habit.kill_dump("globex"));
    assert_told(habit, &ended).await;
    assert!(!habit.fleet.objects().contains(&"dump".to_owned()), "{:?}", habit.fleet.objects());
    habit.fleet.environment.cancel(asked.id).await.unwrap();
    habit.fleet.runner().complete(asked.id).await.unwrap();
}

/// A customer gets the rows of another.
async fn the_object_is_another_tenants(habit: &Habit) {
    let rows = digest(&habit.fleet, "globex").await;
    assert!(habit.put("globex", "theirs").await);

    std::fs::copy(habit.stored("theirs"), habit.stored("good")).unwrap();

    assert_eq!(habit.get("good").await, (true, Some(rows)), "the pipe is silent");

    let [acme, globex] = [habit.fleet.back_up("acme").await, habit.fleet.back_up("globex").await];
    let [acme, globex] = [acme, globex].map(|backup| {
        let folder = habit.stored("tenantry").join(backup.tenant_id.to_string());
        (backup.id, folder.join(backup.id.to_string()))
    });
    for file in ["dump", "manifest.json"] {
        std::fs::copy(globex.1.join(file), acme.1.join(file)).unwrap();
    }
    let choice = BackupChoice::Id(acme.0);
    let asked = habit.ours.restore(&slug("acme"), choice, BY).await.unwrap();
    let ended = habit.ours(&asked).await;
    assert_eq!(ended.state, OperationState::Failed, "{ended:?}");
    habit.fleet.environment.cancel(asked.id).await.unwrap();
    habit.fleet.runner().complete(asked.id).await.unwrap();
}

/// `gunzip` sees it when `psql` has its rows already. Which bit it is decides whether `psql` chokes on them.
async fn a_bit_flips_in_the_bucket(habit: &Habit, rows: &str) {
    let mut silent = 0;
    for flipped in 1..8 {
        assert!(habit.put("acme", "rotten").await);
        let path = habit.stored("rotten");
        let mut bytes = std::fs::read(&path).unwrap();
        let index = bytes.len() * flipped / 8;
        bytes[index] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let (is_good, found) = habit.get("rotten").await;
        silent += u32::from(is_good && found.as_deref() != Some(rows));
    }
    assert!(silent > 0, "the pipe is silent");

    let backup = habit.fleet.back_up("acme").await;
    let folder = habit.stored("tenantry").join(backup.tenant_id.to_string());
    let path = folder.join(backup.id.to_string()).join("dump");
    let whole = std::fs::read(&path).unwrap();
    let record = habit.fleet.catalog().backup(backup.id).await.unwrap();
    for flipped in 1..8 {
        let mut bytes = whole.clone();
        let index = bytes.len() * flipped / 8;
        bytes[index] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        habit.ours.verify_backup(&record).await.unwrap_err();
    }
}

/// Here both tell: who uploads is the last one of the pipe.
async fn the_upload_breaks(habit: &Habit) {
    for fault in [Fault::CutUp, Fault::FlipUp, Fault::Error] {
        habit.faulty.arm(Trouble { fault, skip: 0, times: ALWAYS, at: 500 });
        let is_good = habit.put("acme", "broken").await;
        let asked = habit.ours.back_up(&slug("acme"), BY).await.unwrap();
        let ended = habit.ours(&asked).await;
        habit.faulty.calm();

        assert!(!is_good, "{fault:?}");
        assert_told(habit, &ended).await;
        habit.fleet.environment.cancel(asked.id).await.unwrap();
        habit.fleet.runner().complete(asked.id).await.unwrap();
    }
}
