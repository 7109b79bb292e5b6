//! What gets around a bound of a session, and no strict tenant has.

use tempfile::TempDir;
use tenantry::catalog::operations::OperationState;
use tenantry::operations::request::BackupChoice;
use tenantry_provisioning::Hardening;
use tokio_postgres::error::SqlState;

use super::{findings, log_in, strict};
use crate::cli::Cli;
use crate::harness::{BY, new_tenant, slug};

/// Code of the owner's, in a language in which no tenant writes any.
const CODE: &str = "create function stamp() returns trigger language plpgsql
    as 'begin new.title := new.title || ''!''; return new; end';
    create trigger stamp before insert on boards for each row execute function stamp();
    create function two() returns int language plpgsql as 'begin return 2; end'";
/// It would go on after its time is over.
const BLOCK: &str =
    "do $$ begin perform pg_sleep(60); exception when query_canceled then null; end $$";

#[tokio::test]
async fn a_strict_tenant_runs_functions_and_no_block_of_its_own() {
    let fleet = strict().await;
    fleet.create_tenant("acme").await;
    fleet.add_migration("V2__code.sql", CODE);
    fleet.environment.reload_migrations().await.unwrap();
    let migrated = Cli::new(&fleet).with("TENANTRY_HARDENING", "strict").run("migrate up").await;
    assert!(migrated.status.success(), "{migrated:?}");
    fleet.back_up("acme").await;
    let restored = fleet.environment.restore(&slug("acme"), BackupChoice::Latest, BY).await;
    fleet.complete(&restored.unwrap()).await;
    let tenant = log_in(&fleet, "acme").await;

    tenant.batch_execute("insert into boards (title) values ('new'); select two()").await.unwrap();
    let refused = tenant.batch_execute(BLOCK).await.unwrap_err();

    assert_eq!(refused.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
    let title = tenant.query_one("select title from boards", &[]).await.unwrap();
    assert_eq!(title.get::<_, &str>(0), "new!");
    assert_eq!(findings(&fleet.environment).await, []);
    let acme = fleet.tenant("acme").await;
    fleet.environment.harden(&acme, Hardening::Standard).await.unwrap();
    tenant.batch_execute("do $$ begin null; end $$").await.unwrap();
    fleet.environment.harden(&acme, Hardening::Strict).await.unwrap();
    tenant.batch_execute("do $$ begin null; end $$").await.unwrap_err();
}

/// Before version 16 PostgreSQL lets a transaction that is read-only write large objects.
#[tokio::test]
async fn who_only_reads_cannot_write_large_objects_of_a_strict_tenant() {
    let fleet = strict().await;
    fleet.create_tenant("acme").await;
    let objects =
        "select lo_from_bytea(4711, 'large'); alter large object 4711 owner to tenant_acme;
                   select lo_from_bytea(4712, 'other');
                   grant select, update on large object 4712 to tenantry_app";
    fleet.admin("tenant_acme").await.batch_execute(objects).await.unwrap();
    let tenant = log_in(&fleet, "acme").await;
    tenant.batch_execute("set default_transaction_read_only = on").await.unwrap();

    for write in [
        "select lo_unlink(4711)",
        "select lo_put(4711, 0, 'x')",
        "select lo_put(4712, 0, 'x')",
        "select lowrite(lo_open(4711, x'60000'::int), 'x')",
        "select lo_truncate(lo_open(4711, x'60000'::int), 0)",
        "select lo_truncate64(lo_open(4711, x'60000'::int), 0)",
        "select lo_create(0)",
        "select lo_creat(-1)",
        "select lo_from_bytea(0, 'x')",
    ] {
        assert!(tenant.batch_execute(write).await.is_err(), "{write}");
    }
    let read = "select convert_from(lo_get(4711), 'utf8') || convert_from(lo_get(4712), 'utf8')";
    let kept = tenant.query_one(read, &[]).await.unwrap();
    assert_eq!(kept.get::<_, &str>(0), "largeother");
}

#[tokio::test]
async fn a_dump_with_code_and_large_objects_becomes_a_strict_tenant() {
    let fleet = strict().await;
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("old.sql");
    let script = format!(
        "create table boards (title text); {CODE}; select pg_catalog.lo_create('4711');
         begin; select pg_catalog.lo_open('4711', 131072); select pg_catalog.lowrite(0, 'large');
         select pg_catalog.lo_close(0); commit;
         do $$ begin insert into boards values ('old'); end $$;"
    );
    std::fs::write(&file, script).unwrap();
    let source = fleet.environment.open_dump(&file, None).await.unwrap();

    let asked = fleet.environment.import(&new_tenant("acme"), source, false, BY).await.unwrap();
    let done = fleet.complete(&asked).await;

    assert_eq!(done.state, OperationState::Succeeded, "{:?}", done.error);
    let tenant = log_in(&fleet, "acme").await;
    tenant.batch_execute("insert into boards values ('new'); select lo_get(4711)").await.unwrap();
    tenant.batch_execute("do $$ begin null; end $$").await.unwrap_err();
    assert_eq!(findings(&fleet.environment).await, []);
    fleet.assert_healthy().await;
}
