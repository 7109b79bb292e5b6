//! How long what a restore replaced is kept.

use tenantry::catalog::operations::OperationState;
use tenantry::operations::request::BackupChoice;
use tenantry::operations::runner::Disturbance;
use tenantry::operations::upkeep;

use super::undo;
use crate::harness::{BY, Fleet, eventually, once, slug};

/// The upkeep lists what has expired and drops one after the other, which may take its time.
#[tokio::test]
async fn what_an_undo_has_asked_for_is_not_dropped_although_it_had_expired() {
    let fleet = Fleet::start().await;
    for name in ["acme", "globex"] {
        fleet.create_tenant_with(name, true).await;
        fleet.back_up(name).await;
        let restore = fleet.environment.restore(&slug(name), BackupChoice::Latest, BY).await;
        fleet.complete(&restore.unwrap()).await;
    }
    let acme = fleet.environment.undo_restore(&slug("acme"), BY).await.unwrap();
    let globex = fleet.environment.undo_restore(&slug("globex"), BY).await.unwrap();
    let catalog = fleet.admin("tenantry").await;
    let expire = "update retained_databases set drop_after = now() - interval '1 second'";
    catalog.batch_execute(expire).await.unwrap();
    let admin = fleet.admin("postgres").await;
    let hold = "select pg_advisory_lock(hashtextextended('tenantry ' || datname, 0))
                from pg_database where datname ~ '^tenantry_old'";
    admin.batch_execute(hold).await.unwrap();
    let environment = fleet.environment.clone();
    let tending = tokio::spawn(async move { upkeep::tend(&environment).await });
    let mut waiting = None;
    eventually("the first is being dropped", async || {
        let sql = "select d.datname::text from pg_locks l, pg_database d
                   where l.locktype = 'advisory' and not l.granted and d.datname ~ '^tenantry_old'
                     and ((l.classid::bigint << 32) | l.objid::bigint)
                         = hashtextextended('tenantry ' || d.datname, 0)";
        waiting = admin.query_opt(sql, &[]).await.unwrap().map(|row| row.get::<_, String>(0));
        waiting.is_some()
    })
    .await;
    let sql = "select t.slug from retained_databases r join tenants t on t.id = r.tenant_id
               where r.database_name <> $1";
    let other: String = catalog.query_one(sql, &[&waiting.unwrap()]).await.unwrap().get(0);
    let (asked, late) = if other == "acme" { (acme, globex) } else { (globex, acme) };
    let runner = fleet.disturbed_runner(once("migrate_beside", false, Disturbance::Fail));
    assert_eq!(runner.complete(asked.id).await.unwrap().state, OperationState::Failed);

    drop(admin);
    tending.await.unwrap().unwrap();

    let kept = catalog.query("select from retained_databases", &[]).await.unwrap();
    assert_eq!(kept.len(), 1, "the other one's time had come");
    fleet.catalog().retry(asked.id).await.unwrap();
    fleet.complete(&asked).await;
    assert_eq!(fleet.tenant(&other).await.epoch, 3);
    fleet.environment.cancel(late.id).await.unwrap();
    fleet.runner().complete(late.id).await.unwrap();
    fleet.assert_healthy().await;
}

/// What is kept of a tenant at which somebody is at work waits for the next round.
#[tokio::test]
async fn an_undo_brings_back_what_has_expired_and_is_still_there() {
    let fleet = super::fleet_with_backup().await;
    let restore = fleet.environment.restore(&slug("acme"), BackupChoice::Latest, BY).await.unwrap();
    fleet.complete(&restore).await;
    let catalog = fleet.admin("tenantry").await;
    let tenant = fleet.tenant("acme").await.id;
    let soon = "update retained_databases set drop_after = now() - interval '1 second'";
    let hold = fleet.catalog().try_hold(tenant).await.unwrap().unwrap();
    catalog.batch_execute(soon).await.unwrap();

    upkeep::tend(&fleet.environment).await.unwrap();
    hold.end().await;

    let later = "update retained_databases set drop_after = now() + interval '1 hour'";
    assert_eq!(catalog.execute(later, &[]).await.unwrap(), 1, "somebody held its tenant");
    undo(&fleet).await;
    assert_eq!(super::boards(&fleet).await, 2);
}
