//! A newer major version of PostgreSQL than the distribution's: a fleet on it, and a fleet on its way to it.

use tenantry::audit::{Audit, AuditOptions};
use tenantry::catalog::operations::{OperationRecord, OperationState};
use tenantry::embedded::{EmbeddedPostgres, PostgresSettings};
use tenantry::operations::request::{BackupChoice, RestoreAs};

use crate::harness::postgres18::Postgres18;
use crate::harness::{BY, Fleet, Options, connect, process, slug};

/// What the two write down differently: a list of partitions, generated columns, a constraint without a name.
const RICH: &str = "
    create table money (id bigint generated always as identity primary key, amount numeric(12, 4) not null,
        twice numeric generated always as (amount * 2) stored, check (amount > 0));
    insert into money (amount) select n / 7.0 from generate_series(1, 500) n;
    create table ledger (day date not null, note text) partition by range (day);
    create table ledger_1 partition of ledger for values from ('2026-01-01') to ('2027-01-01');
    insert into ledger values ('2026-05-01', 'rent');
    create sequence tickets start 1000; select nextval('tickets');
    select lo_from_bytea(4711, 'large')";

fn on(postgres: &Postgres18) -> PostgresSettings {
    PostgresSettings { bin_dir: Some(postgres.bin_dir()), ..PostgresSettings::scratch() }
}

async fn rows(server: &EmbeddedPostgres, database: &str) -> (i64, i64, i64) {
    let session = connect(&server.database_url(database)).await.unwrap();
    let facts =
        "select (select count(*) from money), (select count(*) from ledger), nextval('tickets')";
    let row = session.query_one(facts, &[]).await.unwrap();
    (row.get(0), row.get(1), row.get(2))
}

async fn why_refused(fleet: &Fleet, asked: &OperationRecord) -> String {
    let ended = fleet.runner().complete(asked.id).await.unwrap();
    assert_eq!(ended.state, OperationState::Failed);
    let failure = ended.error.unwrap();
    format!("{}; {}", failure.message, failure.remedy.unwrap_or_default())
}

#[tokio::test]
async fn a_whole_life_on_the_newest_major() {
    let Some(newest) = Postgres18::installed() else { return };
    let options = Options { spares: 1, postgres: on(&newest), ..Options::default() };
    let mut fleet = Fleet::start_with(options).await;
    fleet.environment.limits.pg_bin_dirs = vec![newest.bin_dir()];
    for name in ["acme", "globex"] {
        fleet.create_tenant_with(name, true).await;
    }
    fleet.add_migration(
        "V2__labels.sql",
        "create table labels (id bigint primary key, name text not null);",
    );
    fleet.environment.reload_migrations().await.unwrap();
    let batch = fleet.environment.migrate_fleet(&[], "test").await.unwrap();
    fleet.runner().complete_batch(batch, 2).await.unwrap();
    let migrated = process::command(&fleet).args(["migrate", "verify"]).output().unwrap();
    assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stdout));
    fleet.admin("tenant_acme").await.batch_execute(RICH).await.unwrap();

    fleet.back_up("acme").await;
    let acme = slug("acme");
    let to = RestoreAs { slug: slug("hooli"), server: None };
    for asked in [
        fleet.environment.drill_tenant(&acme, BY).await,
        fleet.environment.restore(&acme, BackupChoice::Latest, BY).await,
        fleet.environment.restore_as(&acme, BackupChoice::Latest, to, BY).await,
        fleet.environment.rename(&slug("globex"), &slug("initech"), BY).await,
        fleet.environment.rotate_password(&acme, BY).await,
    ] {
        fleet.complete(&asked.unwrap()).await;
    }

    assert_eq!(rows(&fleet.postgres, "tenant_acme").await, (500, 1, 1001));
    assert_eq!(rows(&fleet.postgres, "tenant_hooli").await, (500, 1, 1001));
    assert!(fleet.router().connection(&slug("initech")).await.is_ok());
    let audit = Audit::begin(&fleet.environment, AuditOptions::default(), "test").await.unwrap();
    let report = audit.unwrap().run().await.unwrap().report;
    assert!(report.findings.is_empty() && report.complete, "{report:#?}");
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn a_tenant_moves_to_the_newest_major_and_back_only_to_what_it_left() {
    let Some(newest) = Postgres18::installed() else { return };
    let mut fleet = Fleet::start().await;
    let other = EmbeddedPostgres::start_scratch(on(&newest)).await.unwrap();
    let record = fleet.catalog().add_server("new", &other.url().into()).await.unwrap();
    fleet.environment.server(record.id).await.unwrap().prepare().await.unwrap();
    let acme = fleet.create_tenant_with("acme", true).await.slug;
    fleet.admin("tenant_acme").await.batch_execute(RICH).await.unwrap();
    fleet.back_up("acme").await;

    let without_programs = fleet.environment.relocate(&acme, "new", BY).await.unwrap();
    let why = why_refused(&fleet, &without_programs).await;
    assert!(why.contains("postgresql-client-18"), "{why}");
    fleet.environment.cancel(without_programs.id).await.unwrap();
    fleet.runner().complete(without_programs.id).await.unwrap();
    let own = fleet.postgres.bin_dir().to_owned();
    fleet.environment.limits.pg_bin_dirs = vec![own, newest.bin_dir()];

    fleet.complete(&fleet.environment.relocate(&acme, "new", BY).await.unwrap()).await;
    assert_eq!(rows(&other, "tenant_acme").await, (500, 1, 1001));
    fleet.back_up("acme").await;
    let back = fleet.environment.relocate(&acme, "default", BY).await.unwrap();
    let why = why_refused(&fleet, &back).await;
    assert!(why.contains("choose a server of the same or a newer major version"), "{why}");
    fleet.environment.cancel(back.id).await.unwrap();
    fleet.runner().complete(back.id).await.unwrap();
    let down = fleet.environment.restore_on(&acme, BackupChoice::Latest, Some("default"), BY);
    let down = down.await.unwrap();
    let why = why_refused(&fleet, &down).await;
    assert!(why.contains("newer"), "{why}");
    fleet.environment.cancel(down.id).await.unwrap();
    fleet.runner().complete(down.id).await.unwrap();
    assert_eq!(fleet.tenant("acme").await.server_name, "new");

    fleet.complete(&fleet.environment.undo_restore(&acme, BY).await.unwrap()).await;

    assert_eq!(fleet.tenant("acme").await.server_name, "default");
    assert_eq!(rows(&fleet.postgres, "tenant_acme").await, (500, 1, 1001));
}
