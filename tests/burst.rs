//! A thousand tenants asked for at once: none is lost, and the server is never asked for more
//! connections than it has.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tenantry::catalog::operations::OperationState;
use tenantry::tenant::TenantState;
use tenantry::worker::Worker;
use tokio_util::sync::CancellationToken;

use crate::harness::{BY, Fleet, new_tenant};

const TENANTS: usize = 1000;
/// What `PostgresSettings::scratch` allows, less what PostgreSQL keeps for superusers.
const CONNECTIONS: i64 = 97;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_creates_at_once_all_succeed_within_the_servers_connections() {
    let fleet = Fleet::start().await;
    let shutdown = CancellationToken::new();
    let worker = Worker::new(fleet.environment.clone(), fleet.changes.clone(), 8);
    let working = tokio::spawn(worker.run(shutdown.clone()));
    let most = Arc::new(AtomicI64::new(0));
    let watching =
        tokio::spawn(watch_connections(fleet.admin("postgres").await, Arc::clone(&most)));

    let mut callers = tokio::task::JoinSet::new();
    for number in 0..TENANTS {
        let environment = fleet.environment.clone();
        callers.spawn(async move {
            environment.create_tenant(&new_tenant(&format!("t{number}")), false, BY).await
        });
    }
    for asked in callers.join_all().await {
        asked.unwrap();
    }
    let done = async |state: OperationState| {
        let counted = fleet.catalog().count_operations(None).await.unwrap();
        counted.iter().find(|(counted, _)| *counted == state).map_or(0, |(_, number)| *number)
    };
    for _ in 0..300 {
        if done(OperationState::Succeeded).await == 1000 {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    assert_eq!(done(OperationState::Failed).await, 0);
    let tenants = fleet.catalog().count_tenants().await.unwrap();
    assert_eq!(tenants, [(TenantState::Active, 1000)]);
    let most = most.load(Ordering::Relaxed);
    assert!((1..CONNECTIONS).contains(&most), "{most} connections");
    watching.abort();
    shutdown.cancel();
    working.await.unwrap();
}

async fn watch_connections(client: tokio_postgres::Client, most: Arc<AtomicI64>) {
    loop {
        let sql = "select count(*) from pg_stat_activity where backend_type = 'client backend'";
        if let Ok(row) = client.query_one(sql, &[]).await {
            most.fetch_max(row.get(0), Ordering::Relaxed);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
