//! Writers who number what they write, each for itself, and remember what was acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tenantry::router::TenantRouter;
use tokio::task::JoinSet;
use tokio_postgres::Client;

use crate::harness::slug;

/// Between two numbers: long beside a write, and short beside a move, which the processors are for.
const PAUSE: Duration = Duration::from_millis(20);

/// Writers at work, until they are stopped.
pub struct Writers {
    running: Arc<AtomicBool>,
    tasks: JoinSet<(i32, Vec<i32>, Duration)>,
}

impl Writers {
    pub async fn prepare(admin: &Client) {
        let table = "create table numbers (id bigint generated always as identity primary key, writer int, n int,
                         unique (writer, n));
                     create table totals (writer int primary key, n int);
                     grant select, insert, update on numbers, totals to tenantry_app";
        admin.batch_execute(table).await.unwrap();
    }

    /// Each writes one number after another, in a transaction that also changes a row; an error ends the test.
    pub fn start(router: &TenantRouter, writers: i32) -> Self {
        let running = Arc::new(AtomicBool::new(true));
        let mut tasks = JoinSet::new();
        for writer in 0..writers {
            let (router, running) = (router.clone(), Arc::clone(&running));
            tasks.spawn(async move {
                let (mut acknowledged, mut longest) = (Vec::new(), Duration::ZERO);
                for n in 0.. {
                    if !running.load(Ordering::Relaxed) {
                        break;
                    }
                    let begun = Instant::now();
                    write(&router, writer, n).await;
                    acknowledged.push(n);
                    longest = longest.max(begun.elapsed());
                    tokio::time::sleep(PAUSE).await;
                }
                (writer, acknowledged, longest)
            });
        }
        Self { running, tasks }
    }

    /// Sees that everything that was acknowledged is there, once, and nothing else; says how long the longest write
    /// took.
    pub async fn stop_and_check(self, home: &Client) -> Duration {
        self.running.store(false, Ordering::Relaxed);
        let mut longest = Duration::ZERO;
        for (writer, acknowledged, waited) in self.tasks.join_all().await {
            let rows = home
                .query("select n from numbers where writer = $1 order by n", &[&writer])
                .await
                .unwrap();
            let found: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
            assert_eq!(found, acknowledged, "writer {writer}");
            let total = home.query_one("select n from totals where writer = $1", &[&writer]).await;
            assert_eq!(total.unwrap().get::<_, i32>(0), *acknowledged.last().unwrap());
            longest = longest.max(waited);
        }
        longest
    }
}

async fn write(router: &TenantRouter, writer: i32, n: i32) {
    let mut tenant = router.connection(&slug("acme")).await.expect("requests wait");
    let transaction = tenant.transaction().await.expect("a transaction begins");
    let insert = "insert into numbers (writer, n) values ($1, $2)";
    transaction.execute(insert, &[&writer, &n]).await.expect("it is written");
    let sum =
        "insert into totals values ($1, $2) on conflict (writer) do update set n = excluded.n";
    transaction.execute(sum, &[&writer, &n]).await.expect("it is written");
    transaction.commit().await.expect("it is acknowledged");
}
