//! Migrations over the fleet, and the files that are refused.

use tenantry::catalog::operations::{OperationFilter, OperationRecord, OperationState};
use tenantry::operations::{Work, upkeep};
use tenantry_provisioning::{DatabaseName, MigrationSet, MigrationTimeouts, apply};
use uuid::Uuid;

use crate::harness::{Fleet, slug};

async fn migrate(fleet: &Fleet) -> Vec<OperationRecord> {
    fleet.environment.reload_migrations().await.unwrap();
    let batch = fleet.environment.migrate_fleet(&[], "test").await.unwrap();
    fleet.runner().complete_batch(batch, 4).await.unwrap();
    results(fleet, batch).await
}

async fn results(fleet: &Fleet, batch: Uuid) -> Vec<OperationRecord> {
    let filter = OperationFilter { batch: Some(batch), limit: 1000, ..OperationFilter::default() };
    let found = fleet.catalog().operations(&filter).await.unwrap();
    found.into_iter().map(|(operation, _)| operation).collect()
}

#[tokio::test]
async fn every_tenant_gets_a_new_file_once() {
    let fleet = Fleet::start().await;
    for name in ["acme", "globex", "initech"] {
        fleet.create_tenant(name).await;
    }
    fleet.add_migration("V2__labels.sql", "create table labels (id bigint primary key);");

    let first = migrate(&fleet).await;
    let second = migrate(&fleet).await;

    assert_eq!(first.len(), 3);
    assert!(
        first.iter().all(|operation| operation.state == OperationState::Succeeded),
        "{first:?}"
    );
    assert!(second.is_empty(), "nothing is left to do");
    for name in ["acme", "globex", "initech"] {
        assert_eq!(fleet.tenant(name).await.schema_version, 2);
        assert_eq!(fleet.count(name, "labels").await, 0);
        assert_eq!(fleet.count(name, "tenantry.schema_history").await, 2);
    }
}

#[tokio::test]
async fn a_tenant_that_fails_keeps_its_version_and_the_others_go_on() {
    let fleet = Fleet::start().await;
    for name in ["acme", "globex"] {
        fleet.create_tenant(name).await;
    }
    let admin = fleet.admin("tenant_acme").await;
    admin.batch_execute("insert into boards (title) values ('twice'), ('twice')").await.unwrap();
    fleet.add_migration(
        "V2__unique_titles.sql",
        "-- titles are unique from now on\n\nalter table boards\n    add constraint boards_title unique (title);",
    );

    let results = migrate(&fleet).await;

    let acme = fleet.tenant("acme").await;
    let failed = results.iter().find(|operation| operation.tenant_id == acme.id).unwrap();
    let error = failed.error.as_ref().unwrap();
    assert_eq!(failed.state, OperationState::Failed);
    assert!(error.message.contains("V2__unique_titles.sql"), "{error:?}");
    assert!(error.message.contains("23505"), "{error:?}");
    assert_eq!(acme.schema_version, 1);
    assert_eq!(fleet.tenant("globex").await.schema_version, 2);

    admin.batch_execute("delete from boards").await.unwrap();
    fleet.catalog().retry(failed.id).await.unwrap();
    assert_eq!(fleet.runner().complete(failed.id).await.unwrap().state, OperationState::Succeeded);
    assert_eq!(fleet.tenant("acme").await.schema_version, 2);
}

#[tokio::test]
async fn files_that_do_not_run_stop_before_any_tenant() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    fleet.add_migration(
        "V2__typo.sql",
        "create table labels (id bigint);\n\ncreate tabel oops (id bigint);\n",
    );
    fleet.environment.reload_migrations().await.unwrap();
    let server = fleet.catalog().server_by_name("default").await.unwrap();

    let error =
        upkeep::ensure_template(&fleet.environment, server.id, &fleet.environment.migrations())
            .await
            .unwrap_err()
            .to_string();

    assert!(error.contains("V2__typo.sql"), "{error}");
    assert!(error.contains("line 3") || error.contains(":3"), "{error}");
    assert!(error.contains("42601"), "{error}");
    assert_eq!(fleet.tenant("acme").await.schema_version, 1);
}

#[tokio::test]
async fn a_file_that_was_edited_after_it_ran_is_refused() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    fleet.add_migration("V1__boards.sql", "create table something_else (id bigint);");
    let set = MigrationSet::load(fleet.migrations.path()).unwrap();

    let database = DatabaseName::tenant("acme").unwrap();
    let error =
        apply(&fleet.server(), &database, &set, MigrationTimeouts::default()).await.unwrap_err();

    assert!(error.to_string().contains("V1__boards.sql"), "{error}");
    assert_eq!(fleet.count("acme", "boards").await, 0, "the old table is still there");
}

#[tokio::test]
async fn a_file_that_went_missing_is_refused() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    fleet.add_migration("V2__labels.sql", "create table labels (id bigint primary key);");
    migrate(&fleet).await;
    std::fs::remove_file(fleet.migrations.path().join("V2__labels.sql")).unwrap();
    let set = MigrationSet::load(fleet.migrations.path()).unwrap();

    let database = DatabaseName::tenant("acme").unwrap();
    let error =
        apply(&fleet.server(), &database, &set, MigrationTimeouts::default()).await.unwrap_err();

    assert!(error.to_string().contains('2'), "{error}");
}

#[tokio::test]
async fn a_lock_that_is_held_postpones_the_migration_and_does_not_queue_behind_it() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let mut environment = fleet.environment.clone();
    environment.limits.migration_timeouts.lock = std::time::Duration::from_millis(300);
    fleet.add_migration("V2__wider.sql", "alter table boards add column colour text;");
    environment.reload_migrations().await.unwrap();
    let reader = fleet.admin("tenant_acme").await;
    reader.batch_execute("begin; select * from boards").await.unwrap();
    let batch = environment.migrate_fleet(&[slug("acme")], "test").await.unwrap();
    let runner =
        tenantry::operations::Runner::new(environment, tokio_util::sync::CancellationToken::new());

    runner.run_one(tenantry::catalog::lock::Claim::Batch(batch)).await.unwrap();

    let postponed = results(&fleet, batch).await.remove(0);
    assert_eq!(postponed.state, OperationState::Queued);
    assert!(postponed.error.unwrap().message.contains("55P03"), "the error says what it waits for");
    reader.batch_execute("rollback").await.unwrap();
    runner.complete_batch(batch, 1).await.unwrap();
    assert_eq!(fleet.tenant("acme").await.schema_version, 2);
}

#[tokio::test]
async fn two_runs_at_once_run_every_file_once() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    for version in 2..12 {
        fleet.add_migration(
            &format!("V{version}__step.sql"),
            &format!("create table step_{version} (id bigint);"),
        );
    }
    let set = MigrationSet::load(fleet.migrations.path()).unwrap();
    let database = DatabaseName::tenant("acme").unwrap();

    let mut runs = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (server, set, database) = (fleet.server(), set.clone(), database.clone());
        runs.spawn(async move {
            apply(&server, &database, &set, MigrationTimeouts::default()).await.unwrap()
        });
    }

    let mut files = 0;
    while let Some(applied) = runs.join_next().await {
        files += applied.unwrap().files.len();
    }
    assert_eq!(files, 10);
    assert_eq!(fleet.count("acme", "tenantry.schema_history").await, 11);
}

#[tokio::test]
async fn a_new_tenant_has_the_newest_schema_whichever_way_it_was_made() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("by-clone").await;
    fleet.add_migration("V2__labels.sql", "create table labels (id bigint primary key);");
    fleet.environment.reload_migrations().await.unwrap();
    fleet.create_tenant("from-zero").await;
    upkeep::tend(&fleet.environment).await.unwrap();
    fleet.create_tenant("by-new-clone").await;
    migrate(&fleet).await;

    let dump = async |name: &str| {
        let client = fleet.admin(&format!("tenant_{name}")).await;
        let rows = client
            .query(
                "select format('%s %s %s %s %s', n.nspname, c.relname, c.relkind, pg_get_userbyid(c.relowner), c.relacl)
                 from pg_class c join pg_namespace n on n.oid = c.relnamespace
                 where n.nspname in ('public', 'tenantry') order by 1",
                &[],
            )
            .await
            .unwrap();
        rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>()
    };

    let expected = dump("by-clone").await;
    assert!(expected.iter().any(|line| line.contains("labels")));
    assert_eq!(dump("from-zero").await, expected);
    assert_eq!(dump("by-new-clone").await, expected);
}

#[tokio::test]
async fn a_suspended_tenant_is_migrated_too() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let suspend = fleet.environment.suspend(&slug("acme"), None, crate::harness::BY).await.unwrap();
    fleet.complete(&suspend).await;
    fleet.add_migration("V2__labels.sql", "create table labels (id bigint primary key);");

    let results = migrate(&fleet).await;

    assert_eq!(results[0].state, OperationState::Succeeded, "{:?}", results[0].error);
    assert_eq!(fleet.tenant("acme").await.schema_version, 2);
}

#[tokio::test]
async fn a_changed_repeatable_file_makes_tenants_due_and_new_ones_have_it() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let view = "create or replace view titles as select title from boards";
    fleet.add_migration("R__titles.sql", view);

    let first = migrate(&fleet).await;
    let outdated = fleet.environment.fleet_status().await.unwrap().outdated();
    upkeep::tend(&fleet.environment).await.unwrap();
    fleet.create_tenant("by-clone").await;
    let second = migrate(&fleet).await;
    fleet.add_migration("R__titles.sql", &format!("{view} where title <> ''"));
    fleet.environment.reload_migrations().await.unwrap();
    let behind = fleet.environment.fleet_status().await.unwrap().outdated();
    let third = migrate(&fleet).await;

    assert_eq!((first.len(), outdated), (1, 0));
    assert!(second.is_empty(), "the clone was made from a template that has the view");
    assert_eq!((behind, third.len()), (2, 2));
    assert!(third.iter().all(|operation| operation.state == OperationState::Succeeded));
    for name in ["acme", "by-clone"] {
        assert_eq!(fleet.count(name, "titles").await, 0);
        assert_eq!(fleet.count(name, "tenantry.schema_repeatables").await, 1);
        assert_eq!(fleet.tenant(name).await.schema_version, 1);
    }
    assert_eq!(fleet.environment.fleet_status().await.unwrap().outdated(), 0);
}

#[tokio::test]
async fn a_tenant_is_brought_to_a_ceiling_and_tells_which_migrations_it_has() {
    let fleet = Fleet::start().await;
    let acme = fleet.create_tenant("acme").await;
    fleet.add_migration("V2__labels.sql", "create table labels (id bigint primary key);");
    fleet.add_migration("V3__notes.sql", "create table notes (id bigint primary key);");
    fleet.environment.reload_migrations().await.unwrap();
    let run = async |to| {
        let operation = Work::Migrate { to }.new_operation(acme.id, "test");
        let asked = fleet.catalog().enqueue(&operation).await.unwrap();
        fleet.complete(&asked).await;
        fleet.tenant("acme").await.schema_version
    };
    let has = async |version| {
        let router = fleet.router();
        let connection = router.connection(&slug("acme")).await.unwrap();
        connection.has_migration(version)
    };

    let held = run(Some(2)).await;
    let (has_two, has_three) = (has(2).await, has(3).await);
    let whole = run(None).await;
    let below = run(Some(1)).await;

    assert_eq!((held, whole, below), (2, 3, 3));
    assert_eq!((has_two, has_three, has(3).await), (true, false, true));
}
