//! Migrations beside traffic: nobody waits for long, nothing fails, and a blocker is named.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tenantry_provisioning::{MigrationTimeouts, SchemaError, Server, apply};
use tokio::task::JoinSet;

use super::ground::Ground;
use super::subject::{FILES, Subject, migrations};

/// Clients that run a statement all the time, until they are stopped.
struct Traffic {
    clients: JoinSet<(u64, Duration)>,
    is_over: Arc<AtomicBool>,
    begun: Arc<AtomicU64>,
}

impl Traffic {
    async fn start(server: &Server, acme: &Subject, statement: &'static str) -> Self {
        let (is_over, begun) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut clients = JoinSet::new();
        for _ in 0..4 {
            let client = acme.connect(server).await.unwrap();
            let (is_over, begun) = (Arc::clone(&is_over), Arc::clone(&begun));
            clients.spawn(async move {
                let (mut number, mut slowest) = (0, Duration::ZERO);
                while !is_over.load(Ordering::Relaxed) {
                    let started = Instant::now();
                    client.execute(statement, &[]).await.unwrap();
                    slowest = slowest.max(started.elapsed());
                    number += 1;
                    begun.fetch_add(1, Ordering::Relaxed);
                }
                (number, slowest)
            });
        }
        Self { clients, is_over, begun }
    }

    /// Until a good number of statements more have been run.
    async fn flows(&self) {
        let so_far = self.begun.load(Ordering::Relaxed);
        while self.begun.load(Ordering::Relaxed) < so_far + 100 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// How many statements were run, all of them with success, and how long the slowest took.
    async fn stop(self) -> (u64, Duration) {
        self.is_over.store(true, Ordering::Relaxed);
        let ended = self.clients.join_all().await;
        let slowest = ended.iter().map(|(_, slowest)| *slowest).max().unwrap();
        (ended.iter().map(|(number, _)| number).sum(), slowest)
    }
}

#[tokio::test]
async fn a_migration_that_is_blocked_lets_traffic_pass_and_names_who_blocks_it() {
    let ground = Ground::new().await;
    let server = ground.server().await;
    let acme = Subject::made("acme", &server).await;
    let mut reader = acme.connect(&server).await.unwrap();
    reader.batch_execute("set application_name = 'monthly report'").await.unwrap();
    let reading = reader.transaction().await.unwrap();
    reading.query("select title as \"T\" from boards where title <> 'secret'", &[]).await.unwrap();
    let mut files = FILES.to_vec();
    files.push(("V3__column.sql", "-- on top\nalter table boards add done boolean"));
    let timeouts =
        MigrationTimeouts { lock: Duration::from_secs(2), ..MigrationTimeouts::default() };
    let traffic = Traffic::start(&server, &acme, "select count(*) from boards").await;

    let blocked = apply(&server, &acme.database, &migrations(&files), timeouts).await.unwrap_err();
    drop(reading);
    let (_, slowest) = traffic.stop().await;
    let applied = apply(&server, &acme.database, &migrations(&files), timeouts).await.unwrap();

    let text = blocked.to_string();
    assert!(matches!(blocked, SchemaError::Blocked { tries: 3, .. }), "{text}");
    assert!(blocked.is_transient() && blocked.remedy().is_some());
    for part in ["V3__column.sql", "55P03", "tenant_acme", "monthly report", "idle in transaction"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(text.contains("from boards where title <> '…'") && !text.contains("secret"), "{text}");
    assert!(slowest < Duration::from_millis(5900), "three tries, and one wait took {slowest:?}");
    assert_eq!(applied.to, 3);
}

#[tokio::test]
async fn a_lock_that_is_given_back_soon_is_waited_for() {
    let ground = Ground::new().await;
    let server = ground.server().await;
    let acme = Subject::made("acme", &server).await;
    let mut session = acme.connect(&server).await.unwrap();
    let reading = session.transaction().await.unwrap();
    reading.query("select * from boards", &[]).await.unwrap();
    let mut files = FILES.to_vec();
    files.push((
        "V3__column.sql",
        "create table ledger (n int); alter table boards add done boolean",
    ));
    let timeouts =
        MigrationTimeouts { lock: Duration::from_millis(200), ..MigrationTimeouts::default() };

    let set = migrations(&files);
    let (applied, ()) = tokio::join!(apply(&server, &acme.database, &set, timeouts), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        reading.commit().await.unwrap();
    });

    assert_eq!(applied.unwrap().to, 3, "the second try found the table free");
}

#[tokio::test]
async fn a_column_and_an_index_under_load_fail_no_statement() {
    let ground = Ground::new().await;
    let server = ground.server().await;
    let acme = Subject::made("acme", &server).await;
    let mut files = FILES.to_vec();
    files.extend([
        ("V3__column.sql", "alter table boards add done boolean not null default false"),
        (
            "V4__index.sql",
            "-- tenantry: no-transaction\ncreate index concurrently boards_title on boards (title)",
        ),
    ]);
    let write = "insert into boards (title) select md5(random()::text) from generate_series(1, 5)";
    let traffic = Traffic::start(&server, &acme, write).await;
    traffic.flows().await;

    let applied =
        apply(&server, &acme.database, &migrations(&files), MigrationTimeouts::default()).await;
    traffic.flows().await;
    let (written, _) = traffic.stop().await;

    assert_eq!(applied.unwrap().to, 4);
    let admin = server.connect(&acme.database).await.unwrap();
    let row = admin
        .query_one(
            "select (select count(*) from boards where not done),
                    (select indisvalid from pg_index where indexrelid = 'boards_title'::regclass)",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(
        (row.get::<_, i64>(0), row.get::<_, bool>(1)),
        (i64::try_from(written * 5).unwrap(), true)
    );
}
