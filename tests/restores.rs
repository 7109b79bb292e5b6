//! Restores beyond the usual one: as another tenant, to another server, and undone. Whatever fails in a
//! cutover, the database that served goes on doing so.

use tenantry::catalog::operations::{OperationRecord, OperationState};
use tenantry::embedded::{EmbeddedPostgres, PostgresSettings};
use tenantry::operations::Transfer;
use tenantry::operations::request::{BackupChoice, RestoreAs};
use tenantry::tenant::TenantState;
use tenantry_provisioning::{Server, ServerUrl};

use crate::harness::{BY, Fleet, Options, connect, slug};

mod given_up;
mod kept;
mod lost_server;
mod moved;
mod roles;

/// A tenant `acme` with sample rows and a backup of them, and one board less since then.
async fn fleet_with_backup() -> Fleet {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    fleet.back_up("acme").await;
    execute(&fleet, "delete from boards where title = 'Roadmap'").await;
    fleet
}

async fn execute(fleet: &Fleet, sql: &str) {
    fleet.admin("tenant_acme").await.batch_execute(sql).await.unwrap();
}

async fn undo(fleet: &Fleet) -> OperationRecord {
    let operation = fleet.environment.undo_restore(&slug("acme"), BY).await.unwrap();
    fleet.complete(&operation).await
}

/// Boards of `acme` as its application sees them, wherever it is.
async fn boards(fleet: &Fleet) -> i64 {
    let connection = fleet.router().connection(&slug("acme")).await.unwrap();
    connection.query_one("select count(*) from boards", &[]).await.unwrap().get(0)
}

/// A second server, known to the catalog.
async fn second_server(fleet: &Fleet) -> EmbeddedPostgres {
    let postgres = EmbeddedPostgres::start_scratch(PostgresSettings::scratch()).await.unwrap();
    let url = postgres.url();
    Server::new(ServerUrl::parse(&url).unwrap(), 2).prepare().await.unwrap();
    fleet.catalog().add_server("second", &url.into()).await.unwrap();
    postgres
}

/// Names of the databases and login roles of tenants on a server.
async fn left_on(postgres: &EmbeddedPostgres) -> Vec<String> {
    let client = connect(&postgres.database_url("postgres")).await.unwrap();
    let sql = "select 'database ' || regexp_replace(datname, '[0-9a-f]{32}', '<id>') from pg_database
               where datname like 'tenant%' and datname not like 'tenantry_template%' and datname <> 'tenantry'
               union all select 'role ' || rolname from pg_roles where rolname like 'tenant\\_%' order by 1";
    client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn a_prepared_transaction_is_named_before_anybody_waits_for_it() {
    let extra = vec![("max_prepared_transactions".to_owned(), "2".to_owned())];
    let postgres = PostgresSettings { extra, ..PostgresSettings::scratch() };
    let fleet = Fleet::start_with(Options { postgres, ..Options::default() }).await;
    fleet.create_tenant_with("acme", true).await;
    fleet.back_up("acme").await;
    execute(&fleet, "begin; delete from boards; prepare transaction 'left over'").await;
    let (acme, to) = (slug("acme"), slug("acme-corp"));
    let restore = fleet.environment.restore(&acme, BackupChoice::Latest, BY).await.unwrap();

    let restored = fleet.runner().complete(restore.id).await.unwrap();

    assert_eq!(restored.state, OperationState::Failed);
    assert_eq!(restored.attempts, 1, "nobody waited for what cannot work");
    assert!(restored.error.unwrap().message.contains("\"left over\" is prepared"));
    assert_eq!(boards(&fleet).await, 3, "it is served as before");
    fleet.environment.cancel(restore.id).await.unwrap();
    fleet.runner().complete(restore.id).await.unwrap();
    let rename = fleet.environment.rename(&acme, &to, BY).await.unwrap();
    let renamed = fleet.runner().complete(rename.id).await.unwrap();
    assert!(renamed.error.unwrap().message.contains("\"left over\" is prepared"));

    execute(&fleet, "rollback prepared 'left over'").await;
    fleet.catalog().retry(rename.id).await.unwrap();
    let renamed = fleet.runner().complete(rename.id).await.unwrap();
    assert_eq!(renamed.state, OperationState::Succeeded, "{:?}", renamed.error);
}

#[tokio::test]
async fn a_backup_becomes_a_tenant_of_its_own() {
    let fleet = fleet_with_backup().await;
    let to = RestoreAs { slug: slug("acme-check"), server: None };

    let asked =
        fleet.environment.restore_as(&slug("acme"), BackupChoice::Latest, to, BY).await.unwrap();
    let done = fleet.complete(&asked).await;

    let (acme, check) = (fleet.tenant("acme").await, fleet.tenant("acme-check").await);
    assert_ne!((acme.id, &acme.role), (check.id, &check.role));
    let (one, other) = (
        fleet.catalog().tenant_password(acme.id).await.unwrap(),
        fleet.catalog().tenant_password(check.id).await.unwrap(),
    );
    assert_ne!(format!("{:?}", secret(&one)), format!("{:?}", secret(&other)));
    assert_eq!(check.schema_version, acme.schema_version);
    assert_eq!(
        (fleet.count("acme", "boards").await, fleet.count("acme-check", "boards").await),
        (2, 3)
    );
    fleet.router().connection(&slug("acme-check")).await.unwrap();
    let transfer = Transfer::of(&done).unwrap();
    assert_eq!(transfer.bytes, transfer.total_bytes);
    assert!(transfer.bytes_per_second > 0);
    fleet.back_up("acme-check").await;
    fleet.assert_healthy().await;
}

fn secret(text: &secrecy::SecretString) -> &str {
    use secrecy::ExposeSecret as _;
    text.expose_secret()
}

#[tokio::test]
async fn an_undone_restore_leaves_what_was_there_and_can_be_undone_too() {
    let fleet = fleet_with_backup().await;
    let restore = fleet.environment.restore(&slug("acme"), BackupChoice::Latest, BY).await.unwrap();
    fleet.complete(&restore).await;
    execute(&fleet, "insert into boards (title) values ('after'), ('the restore')").await;

    let before = boards(&fleet).await;
    undo(&fleet).await;
    let undone = boards(&fleet).await;
    undo(&fleet).await;
    let again = boards(&fleet).await;

    assert_eq!((before, undone, again), (5, 2, 5));
    assert_eq!(fleet.tenant("acme").await.epoch, 4);
    assert_eq!(
        left_on(&fleet.postgres).await,
        ["database tenant_acme", "database tenantry_old_<id>", "role tenant_acme"]
    );
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn an_undo_brings_the_old_database_to_the_schema_of_today() {
    let fleet = fleet_with_backup().await;
    let restore = fleet.environment.restore(&slug("acme"), BackupChoice::Latest, BY).await.unwrap();
    fleet.complete(&restore).await;
    fleet.add_migration("V2__labels.sql", "create table labels (id bigint primary key);");
    fleet.environment.reload_migrations().await.unwrap();

    undo(&fleet).await;

    assert_eq!(fleet.tenant("acme").await.schema_version, 2);
    assert_eq!(fleet.count("acme", "labels").await, 0);
}

#[tokio::test]
async fn there_is_nothing_to_undo_without_a_restore() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;

    let refused = fleet.environment.undo_restore(&slug("acme"), BY).await.unwrap_err();

    assert!(refused.to_string().contains("no replaced database"), "{refused}");
}

#[tokio::test]
async fn a_restore_can_move_the_tenant_and_its_undo_moves_it_back() {
    let fleet = fleet_with_backup().await;
    let second = second_server(&fleet).await;
    let (acme, latest) = (slug("acme"), BackupChoice::Latest);

    let restore = fleet.environment.restore_on(&acme, latest, Some("second"), BY).await.unwrap();
    fleet.complete(&restore).await;

    assert_eq!(fleet.tenant("acme").await.server_name, "second");
    assert_eq!(boards(&fleet).await, 3);
    assert_eq!(left_on(&fleet.postgres).await, ["database tenantry_old_<id>"]);
    assert_eq!(left_on(&second).await, ["database tenant_acme", "role tenant_acme"]);
    fleet.assert_healthy().await;

    undo(&fleet).await;

    assert_eq!(fleet.tenant("acme").await.server_name, "default");
    assert_eq!(boards(&fleet).await, 2);
    assert_eq!(left_on(&fleet.postgres).await, ["database tenant_acme", "role tenant_acme"]);
    assert_eq!(left_on(&second).await, ["database tenantry_old_<id>"]);
    fleet.assert_healthy().await;

    let delete = fleet.environment.delete(&acme, false, BY).await.unwrap();
    fleet.complete(&delete).await;
    assert_eq!(left_on(&second).await, Vec::<String>::new());
}

/// What only the proof of isolation sees, at the end of a cutover.
async fn fail_in_the_cutover(fleet: &Fleet, server: Option<&str>) -> OperationRecord {
    let admin = fleet.admin("postgres").await;
    admin.batch_execute("create role intruder; grant tenant_acme to intruder").await.unwrap();
    let asked = fleet.environment.restore_on(&slug("acme"), BackupChoice::Latest, server, BY).await;

    let failed = fleet.runner().complete(asked.unwrap().id).await.unwrap();

    assert_eq!(failed.state, OperationState::Failed);
    let error = failed.error.as_ref().unwrap();
    assert_eq!(error.step, "cut_over", "{error:?}");
    let tenant = fleet.tenant("acme").await;
    assert_eq!((tenant.state, tenant.epoch), (TenantState::Active, 1));
    assert_eq!(boards(fleet).await, 2, "the database of before is served");
    failed
}

#[tokio::test]
async fn a_cutover_that_fails_at_its_end_is_undone_and_a_retry_finishes() {
    let fleet = fleet_with_backup().await;
    let failed = fail_in_the_cutover(&fleet, None).await;

    fleet.admin("postgres").await.batch_execute("drop role intruder").await.unwrap();
    fleet.catalog().retry(failed.id).await.unwrap();
    fleet.complete(&failed).await;

    assert_eq!(boards(&fleet).await, 3);
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn a_cutover_that_is_retried_later_comes_at_the_schema_of_then() {
    let fleet = fleet_with_backup().await;
    let failed = fail_in_the_cutover(&fleet, None).await;
    fleet.admin("postgres").await.batch_execute("drop role intruder").await.unwrap();
    fleet.add_migration("V2__labels.sql", "create table labels (id bigint primary key);");
    fleet.environment.reload_migrations().await.unwrap();
    let batch = fleet.environment.migrate_fleet(&[], "test").await.unwrap();
    fleet.runner().complete_batch(batch, 1).await.unwrap();
    assert_eq!(fleet.tenant("acme").await.schema_version, 2);

    fleet.catalog().retry(failed.id).await.unwrap();
    fleet.complete(&failed).await;

    assert_eq!(boards(&fleet).await, 3);
    assert_eq!(fleet.tenant("acme").await.schema_version, 2);
    assert_eq!(fleet.count("acme", "labels").await, 0);
}

#[tokio::test]
async fn what_an_unfinished_cutover_may_have_to_bring_back_outlives_its_time() {
    let fleet = fleet_with_backup().await;
    let restore = fleet.environment.restore(&slug("acme"), BackupChoice::Latest, BY).await.unwrap();
    fleet.complete(&restore).await;
    let catalog = fleet.admin("tenantry").await;
    let expire = "update retained_databases set drop_after = now() - interval '1 second'";
    catalog.batch_execute(expire).await.unwrap();
    let state = async |state: &str| {
        let sql = "update operations set state = $2 where id = $1";
        catalog.execute(sql, &[&restore.id, &state]).await.unwrap();
        tenantry::operations::upkeep::tend(&fleet.environment).await.unwrap();
        left_on(&fleet.postgres).await.contains(&"database tenantry_old_<id>".to_owned())
    };

    assert!(state("failed").await, "it is the only one that the tenant has");
    assert!(!state("succeeded").await);
}

#[tokio::test]
async fn a_cutover_that_fails_at_its_end_can_be_given_up() {
    let fleet = fleet_with_backup().await;
    let failed = fail_in_the_cutover(&fleet, None).await;

    fleet.admin("postgres").await.batch_execute("drop role intruder").await.unwrap();
    fleet.environment.cancel(failed.id).await.unwrap();
    let ended = fleet.runner().complete(failed.id).await.unwrap();

    assert_eq!(ended.state, OperationState::Cancelled, "{:?}", ended.error);
    assert_eq!(boards(&fleet).await, 2);
    assert_eq!(left_on(&fleet.postgres).await, ["database tenant_acme", "role tenant_acme"]);
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn a_move_that_fails_leaves_nothing_on_the_other_server() {
    let fleet = fleet_with_backup().await;
    let second = second_server(&fleet).await;
    let there = connect(&second.database_url("postgres")).await.unwrap();
    there.batch_execute("create role tenant_acme").await.unwrap();
    let acme = slug("acme");
    let asked = fleet.environment.restore_on(&acme, BackupChoice::Latest, Some("second"), BY).await;

    let failed = fleet.runner().complete(asked.unwrap().id).await.unwrap();

    assert_eq!(failed.state, OperationState::Failed);
    assert_eq!(boards(&fleet).await, 2);
    fleet.environment.cancel(failed.id).await.unwrap();
    let ended = fleet.runner().complete(failed.id).await.unwrap();
    assert_eq!(ended.state, OperationState::Cancelled, "{:?}", ended.error);
    assert_eq!(left_on(&second).await, ["role tenant_acme"]);
    there.batch_execute("drop role tenant_acme").await.unwrap();
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn a_tenant_that_is_deleted_leaves_nothing_where_a_move_has_failed() {
    let fleet = fleet_with_backup().await;
    let second = second_server(&fleet).await;
    let there = connect(&second.database_url("postgres")).await.unwrap();
    there.batch_execute("create role tenant_acme").await.unwrap();
    let acme = slug("acme");
    let asked = fleet.environment.restore_on(&acme, BackupChoice::Latest, Some("second"), BY).await;
    let failed = fleet.runner().complete(asked.unwrap().id).await.unwrap();
    assert_eq!(failed.state, OperationState::Failed);

    let delete = fleet.environment.delete(&acme, false, BY).await.unwrap();
    fleet.complete(&delete).await;

    assert_eq!(left_on(&second).await, ["role tenant_acme"], "somebody else's");
    there.batch_execute("drop role tenant_acme").await.unwrap();
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn an_undo_brings_back_what_was_replaced_last_whatever_was_asked_for_last() {
    let fleet = fleet_with_backup().await;
    let failed = fail_in_the_cutover(&fleet, None).await;
    fleet.admin("postgres").await.batch_execute("drop role intruder").await.unwrap();
    fleet.back_up("acme").await;
    let latest = fleet.environment.restore(&slug("acme"), BackupChoice::Latest, BY).await.unwrap();
    fleet.complete(&latest).await;
    execute(&fleet, "insert into boards (title) values ('of the'), ('second restore')").await;
    fleet.catalog().retry(failed.id).await.unwrap();
    fleet.complete(&failed).await;

    let before = boards(&fleet).await;
    undo(&fleet).await;

    assert_eq!((before, boards(&fleet).await), (3, 4));
}

#[tokio::test]
async fn before_a_moment_means_the_newest_backup_of_before() {
    let fleet = fleet_with_backup().await;
    let first = fleet.backups_of("acme").await.remove(0);
    let later = fleet.back_up("acme").await;
    let at = fleet.catalog().backup(later.id).await.unwrap().started_at;

    let chosen =
        fleet.environment.choose_backup(&slug("acme"), BackupChoice::Before(at)).await.unwrap();
    let none = BackupChoice::Before(first.started_at);
    let refused = fleet.environment.choose_backup(&slug("acme"), none).await.unwrap_err();

    assert_eq!(chosen.id, first.id);
    assert!(refused.to_string().contains("suitable backup"), "{refused}");
}

#[tokio::test]
async fn a_backup_of_an_earlier_tenant_of_that_slug_never_comes_into_place() {
    let fleet = fleet_with_backup().await;
    let backup = fleet.backups_of("acme").await[0].id;
    let delete = fleet.environment.delete(&slug("acme"), true, BY).await.unwrap();
    fleet.complete(&delete).await;
    let to = RestoreAs { slug: slug("acme-again"), server: None };
    let asked =
        fleet.environment.restore_as(&slug("acme"), BackupChoice::Latest, to, BY).await.unwrap();
    fleet.complete(&asked).await;
    assert_eq!(fleet.count("acme-again", "boards").await, 3, "its backups are found by its slug");
    fleet.create_tenant("acme").await;
    let (acme, choice) = (slug("acme"), BackupChoice::Id(backup));

    let refused = fleet.environment.restore(&acme, choice, BY).await.unwrap_err();
    let to = RestoreAs { slug: slug("acme-of-old"), server: None };
    let asked = fleet.environment.restore_as(&acme, choice, to, BY).await.unwrap();
    fleet.complete(&asked).await;

    assert!(refused.to_string().contains("belongs to another tenant"), "{refused}");
    assert_eq!(fleet.count("acme-of-old", "boards").await, 3);
}

#[tokio::test]
async fn one_table_comes_back_beside_and_nothing_else_is_touched() {
    let fleet = fleet_with_backup().await;
    let (acme, latest) = (slug("acme"), BackupChoice::Latest);

    let asked = fleet.environment.restore_table(&acme, latest, "boards", BY).await.unwrap();
    fleet.complete(&asked).await;

    let schema = asked.input["schema"].as_str().unwrap();
    assert!(schema.starts_with("restored_2"), "{schema}");
    assert_eq!(boards(&fleet).await, 2, "the live table is as it was");
    let connection = fleet.router().connection(&acme).await.unwrap();
    // As its application may, which is how the rows come back.
    let sql = format!(
        "insert into boards (title) select title from {schema}.boards where title = 'Roadmap'"
    );
    assert_eq!(connection.execute(&sql, &[]).await.unwrap(), 1);
    assert_eq!(boards(&fleet).await, 3);
    assert_eq!(left_on(&fleet.postgres).await, ["database tenant_acme", "role tenant_acme"]);
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn a_table_that_the_backup_has_not_is_named() {
    let fleet = fleet_with_backup().await;
    let (acme, latest) = (slug("acme"), BackupChoice::Latest);

    let asked = fleet.environment.restore_table(&acme, latest, "nothing", BY).await.unwrap();
    let failed = fleet.runner().complete(asked.id).await.unwrap();

    assert!(failed.error.unwrap().message.contains("no table nothing"));
    fleet.environment.cancel(asked.id).await.unwrap();
    fleet.runner().complete(asked.id).await.unwrap();
    assert_eq!(left_on(&fleet.postgres).await, ["database tenant_acme", "role tenant_acme"]);
}

#[tokio::test]
async fn a_partition_or_a_child_comes_back_without_its_parent() {
    let fleet = fleet_with_backup().await;
    execute(
        &fleet,
        "set role tenantry_owner;
         create table visits (id bigint primary key, at int) partition by range (id);
         create table visits_1 partition of visits for values from (0) to (10);
         create table clicks (visit bigint references visits);
         insert into visits values (1, 1); insert into clicks values (1);
         create table parents (id int); create table children (age int) inherits (parents);
         insert into children values (1, 1)",
    )
    .await;
    fleet.back_up("acme").await;
    execute(&fleet, "drop table clicks; drop table visits_1; truncate parents").await;

    for table in ["visits_1", "children"] {
        let choice = BackupChoice::Latest;
        let asked = fleet.environment.restore_table(&slug("acme"), choice, table, BY).await;
        let asked = fleet.complete(&asked.unwrap()).await;

        let restored = format!("{}.{table}", asked.input["schema"].as_str().unwrap());
        assert_eq!(fleet.count("acme", &restored).await, 1);
    }
    let live = (fleet.count("acme", "visits").await, fleet.count("acme", "parents").await);
    assert_eq!(live, (0, 0), "what is live is as it was");
}
