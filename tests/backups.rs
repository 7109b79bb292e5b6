//! Backups: complete or absent; restores: verified, beside first, and never at a neighbour's cost.

use std::path::PathBuf;

use tenantry::catalog::operations::{OperationRecord, OperationState};
use tenantry::operations::request::BackupChoice;
use tenantry::operations::{Environment, Runner};
use tenantry_backup::{BackupStore, ObjectKey, S3Settings};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::harness::{BY, Fleet, s3_settings, slug};

async fn restore(fleet: &Fleet, name: &str) -> OperationRecord {
    let operation = fleet.environment.restore(&slug(name), BackupChoice::Latest, BY).await.unwrap();
    fleet.runner().complete(operation.id).await.unwrap()
}

/// Replaces an object of a tenant's newest backup, as somebody with access to the bucket can.
async fn replace(fleet: &Fleet, name: &str, key: fn(Uuid, Uuid) -> ObjectKey, bytes: Vec<u8>) {
    let tenant = fleet.tenant(name).await.id;
    let backup = fleet.backups_of(name).await[0].id;
    let store = fleet.environment.store.as_ref().unwrap();
    store.put(&key(tenant, backup), bytes.into()).await.unwrap();
}

/// The stored files of the only backup.
fn stored(fleet: &Fleet, name: &str) -> PathBuf {
    let mut folders = vec![fleet.s3.data_dir().join("backups")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().unwrap().to_string_lossy() == name {
                return path;
            }
        }
    }
    panic!("no {name} is stored");
}

/// A failed restore that names the reason and leaves the live tenant as it was.
async fn assert_refused(fleet: &Fleet, words: &[&str]) {
    let before = fleet.tenant("acme").await;

    let failed = restore(fleet, "acme").await;

    assert_eq!(failed.state, OperationState::Failed);
    let message = failed.error.unwrap().message;
    assert!(words.iter().any(|word| message.contains(word)), "{message}");
    let after = fleet.tenant("acme").await;
    assert_eq!((after.state, after.epoch), (before.state, before.epoch));
    assert_eq!(fleet.count("acme", "boards").await, 3);
    fleet.router().connection(&slug("acme")).await.unwrap();
    fleet.environment.cancel(failed.id).await.unwrap();
    fleet.runner().complete(failed.id).await.unwrap();
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn a_restore_brings_rows_back_and_leaves_neighbours_alone() {
    let fleet = Fleet::start().await;
    for name in ["acme", "globex"] {
        fleet.create_tenant_with(name, true).await;
        fleet.back_up(name).await;
    }
    for name in ["acme", "globex"] {
        fleet
            .admin(&format!("tenant_{name}"))
            .await
            .batch_execute("delete from boards where title = 'Roadmap'")
            .await
            .unwrap();
    }

    let restored = restore(&fleet, "acme").await;

    assert_eq!(restored.state, OperationState::Succeeded, "{:?}", restored.error);
    assert_eq!(fleet.count("acme", "boards").await, 3);
    assert_eq!(fleet.count("acme", "cards").await, 12);
    assert_eq!(fleet.count("globex", "boards").await, 2);
    let connection = fleet.router().connection(&slug("acme")).await.unwrap();
    connection.execute("insert into boards (title) values ('after')", &[]).await.unwrap();
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn what_a_database_rarely_has_comes_back_too() {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    let told = "select coalesce(obj_description('boards'::regclass), '')
                    || coalesce(obj_description('public'::regnamespace), '')
                    || (select coalesce(string_agg(convert_from(lo_get(oid), 'utf8'), ''), '')
                        from pg_largeobject_metadata)
                    || (select count(*) from pg_publication)
                    || (select count(*) from pg_constraint where not convalidated)";
    let ask = async || -> String {
        fleet.admin("tenant_acme").await.query_one(told, &[]).await.unwrap().get(0)
    };
    let plain = ask().await;
    fleet
        .admin("tenant_acme")
        .await
        .batch_execute(
            "comment on table boards is 'kept'; comment on schema public is 'too';
             select lo_from_bytea(0, 'large'); create publication feed for table boards;
             alter table boards add constraint later check (title <> 'x') not valid",
        )
        .await
        .unwrap();
    let rich = ask().await;

    fleet.back_up("acme").await;
    let restored = restore(&fleet, "acme").await;

    assert_eq!(restored.state, OperationState::Succeeded, "{:?}", restored.error);
    assert_ne!(plain, rich);
    assert_eq!(ask().await, rich);
}

#[tokio::test]
async fn the_replaced_database_is_kept_fenced_and_dropped_after_its_time() {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    fleet.back_up("acme").await;
    let restored = restore(&fleet, "acme").await;
    let old = format!("tenantry_old_{}", restored.id.simple());
    let admin = fleet.admin("postgres").await;
    let open = async || {
        admin
            .query_opt("select datallowconn from pg_database where datname = $1", &[&old])
            .await
            .unwrap()
            .map(|row| row.get::<_, bool>(0))
    };

    assert_eq!(open().await, Some(false));
    let catalog = fleet.admin("tenantry").await;
    catalog
        .batch_execute("update retained_databases set drop_after = now() - interval '1 second'")
        .await
        .unwrap();
    tenantry::operations::upkeep::tend(&fleet.environment).await.unwrap();
    assert_eq!(open().await, None);
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn a_restore_ends_at_the_schema_version_of_the_fleet() {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    fleet.back_up("acme").await;
    fleet.add_migration("V2__labels.sql", "create table labels (id bigint primary key);");
    fleet.environment.reload_migrations().await.unwrap();

    restore(&fleet, "acme").await;

    assert_eq!(fleet.tenant("acme").await.schema_version, 2);
    assert_eq!(fleet.count("acme", "labels").await, 0);
}

#[tokio::test]
async fn a_truncated_dump_is_refused() {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    fleet.back_up("acme").await;
    let dump = stored(&fleet, "dump");
    let bytes = std::fs::read(&dump).unwrap();
    replace(&fleet, "acme", ObjectKey::dump, bytes[..bytes.len() / 2].to_vec()).await;

    assert_refused(&fleet, &["shorter", "truncated", "bytes", "length", "cut", "damaged"]).await;
}

#[tokio::test]
async fn an_altered_dump_is_refused() {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    fleet.back_up("acme").await;
    let dump = stored(&fleet, "dump");
    let mut bytes = std::fs::read(&dump).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    replace(&fleet, "acme", ObjectKey::dump, bytes).await;

    assert_refused(&fleet, &["altered", "damaged", "decrypt", "checksum", "sha256"]).await;
}

#[tokio::test]
async fn a_dump_that_rots_in_the_store_is_refused() {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    fleet.back_up("acme").await;
    let dump = stored(&fleet, "dump");
    let mut bytes = std::fs::read(&dump).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&dump, bytes).unwrap();

    assert_refused(&fleet, &["damaged", "altered"]).await;
}

#[tokio::test]
async fn an_altered_manifest_is_refused() {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    fleet.back_up("acme").await;
    let manifest = stored(&fleet, "manifest.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    let altered = text.replacen("\"rows\":12", "\"rows\":13", 1);
    assert_ne!(altered, text);
    replace(&fleet, "acme", ObjectKey::manifest, altered.into_bytes()).await;

    assert_refused(&fleet, &["manifest"]).await;
}

#[tokio::test]
async fn a_missing_dump_is_refused() {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    fleet.back_up("acme").await;
    std::fs::remove_file(stored(&fleet, "dump")).unwrap();

    assert_refused(&fleet, &["dump", "missing", "no object"]).await;
}

#[tokio::test]
async fn another_tenants_backup_is_refused() {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    fleet.create_tenant_with("globex", true).await;
    let backup = fleet.back_up("globex").await;

    let refused = fleet.environment.restore(&slug("acme"), BackupChoice::Id(backup.id), BY).await;

    assert!(refused.unwrap_err().to_string().contains("belongs to another tenant"));
}

#[tokio::test]
async fn another_tenants_files_in_the_right_folder_are_refused() {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("globex", true).await;
    fleet.back_up("globex").await;
    let foreign = [stored(&fleet, "dump"), stored(&fleet, "manifest.json")]
        .map(|path| std::fs::read(path).unwrap());
    let globex = fleet.tenant("globex").await.id.to_string();
    fleet.create_tenant_with("acme", true).await;
    fleet.back_up("acme").await;
    let acme = fleet.tenant("acme").await.id.to_string();
    let bucket = fleet.s3.data_dir().join("backups/tenantry");
    std::fs::remove_dir_all(bucket.join(globex)).unwrap();
    assert!(bucket.join(acme).exists());
    let [dump, manifest] = foreign;
    replace(&fleet, "acme", ObjectKey::dump, dump).await;
    replace(&fleet, "acme", ObjectKey::manifest, manifest).await;
    fleet
        .admin("tenantry")
        .await
        .batch_execute(
            "delete from backups where tenant_id = (select id from tenants where slug = 'globex')",
        )
        .await
        .unwrap();

    assert_refused(&fleet, &["manifest", "another"]).await;
}

#[tokio::test]
async fn a_backup_of_a_deleted_tenant_cannot_be_read_by_anyone() {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    fleet.back_up("acme").await;
    let id = fleet.tenant("acme").await.id;
    let delete = fleet.environment.delete(&slug("acme"), false, BY).await.unwrap();

    fleet.complete(&delete).await;

    assert!(fleet.objects().is_empty(), "{:?}", fleet.objects());
    assert!(fleet.catalog().backup_key(id).await.is_err());
}

#[tokio::test]
async fn a_missing_bucket_and_wrong_credentials_are_named() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let missing = S3Settings { bucket: "nowhere".to_owned(), ..s3_settings(&fleet.s3) };
    let missing = BackupStore::s3(missing).await.unwrap().check().await.unwrap_err();
    assert!(missing.to_string().contains("nowhere does not exist"), "{missing}");

    let credentials = Some(("somebody".to_owned(), "else".to_owned().into()));
    let wrong = S3Settings { credentials, ..s3_settings(&fleet.s3) };
    let mut environment: Environment = fleet.environment.clone();
    environment.store = Some(BackupStore::s3(wrong).await.unwrap());
    let operation = environment.back_up(&slug("acme"), BY).await.unwrap();
    let runner = Runner::new(environment, CancellationToken::new());
    let refused = runner.complete(operation.id).await.unwrap();

    let error = refused.error.expect("it cannot work");
    assert!(error.message.contains("denied"), "{error:?}");
    assert!(error.remedy.unwrap().contains("s3:PutObject"));
    assert!(fleet.catalog().backups(None, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_dump_that_dies_half_way_is_no_backup() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let admin = fleet.admin("tenant_acme").await;
    admin
        .batch_execute(
            "insert into boards (title) select md5(n::text) || md5((n * 7)::text) || md5((n * 13)::text)
             from generate_series(1, 300000) n",
        )
        .await
        .unwrap();
    let operation = fleet.environment.back_up(&slug("acme"), BY).await.unwrap();
    let runner = fleet.runner();
    let run = tokio::spawn(async move {
        runner.run_one(tenantry::catalog::lock::Claim::Operation(operation.id)).await.unwrap();
    });
    crate::harness::eventually("pg_dump copies", async || {
        admin
            .query_one(
                "select count(pg_terminate_backend(pid)) from pg_stat_activity
                 where query ilike 'copy public.boards%'",
                &[],
            )
            .await
            .unwrap()
            .get::<_, i64>(0)
            > 0
    })
    .await;
    run.await.unwrap();

    let stopped = fleet.catalog().operation(operation.id).await.unwrap();
    assert_ne!(stopped.state, OperationState::Succeeded);
    assert!(fleet.objects().is_empty(), "{:?}", fleet.objects());

    fleet.catalog().retry(operation.id).await.unwrap();
    let done = fleet.runner().complete(operation.id).await.unwrap();
    assert_eq!(done.state, OperationState::Succeeded, "{:?}", done.error);
    assert_eq!(fleet.objects(), ["dump", "manifest.json"]);
}

#[tokio::test]
async fn a_suspended_tenant_can_be_backed_up_and_restored() {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    let suspend = fleet.environment.suspend(&slug("acme"), None, BY).await.unwrap();
    fleet.complete(&suspend).await;
    fleet.back_up("acme").await;

    let restored = restore(&fleet, "acme").await;

    assert_eq!(restored.state, OperationState::Succeeded, "{:?}", restored.error);
    assert_eq!(fleet.tenant("acme").await.state, tenantry::tenant::TenantState::Suspended);
    assert!(fleet.router().connection(&slug("acme")).await.is_err());
}

#[tokio::test]
async fn a_small_database_costs_the_server_one_session_and_a_large_one_two() {
    let fleet = Fleet::start().await;
    for (name, filled, sessions) in [
        ("small", "select 1", 1),
        (
            "large",
            "alter table boards alter column title set storage external;
             insert into boards (title) select repeat(md5(n::text), 250) from generate_series(1, 9000) n",
            2,
        ),
    ] {
        fleet.create_tenant_with(name, true).await;
        let database = format!("tenant_{name}");
        fleet.admin(&database).await.batch_execute(filled).await.unwrap();
        let admin = fleet.admin("postgres").await;
        let seen = async || -> i64 {
            let idle = "select count(*) from pg_stat_activity where datname = $1";
            crate::harness::eventually("everybody has left", async || {
                admin.query_one(idle, &[&database]).await.unwrap().get::<_, i64>(0) == 0
            })
            .await;
            let seen = "select sessions from pg_stat_database where datname = $1";
            admin.query_one(seen, &[&database]).await.unwrap().get(0)
        };
        let before = seen().await;

        fleet.back_up(name).await;

        assert_eq!(seen().await - before, sessions, "{name}");
        let restored = restore(&fleet, name).await;
        assert_eq!(restored.state, OperationState::Succeeded, "{:?}", restored.error);
    }
}
