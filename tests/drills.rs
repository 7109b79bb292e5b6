//! Verifying and drilling backups: what cannot be restored is found, and named.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::{Timestamp, ToSpan as _};
use tenantry::catalog::lock::Claim;
use tenantry::catalog::operations::{OperationFilter, OperationRecord, OperationState};
use tenantry::operations::Runner;
use tenantry::operations::drills::{DrillChoice, DrillSchedule, drill_if_due};
use tenantry::operations::request::BackupChoice;
use tenantry::operations::runner::{Disturbance, StepPoint};
use tenantry_backup::{BackupStore, ObjectKey, S3Settings};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::harness::{BY, Fleet, s3_settings, slug};

/// Drives a batch to its end; returns its operations by slug.
async fn settle(fleet: &Fleet, batch: Uuid) -> BTreeMap<String, OperationRecord> {
    fleet.runner().complete_batch(batch, 2).await.unwrap();
    let filter = OperationFilter { batch: Some(batch), limit: 100, ..Default::default() };
    let operations = fleet.catalog().operations(&filter).await.unwrap();
    operations.into_iter().map(|(operation, slug)| (slug.to_string(), operation)).collect()
}

async fn drill_all(fleet: &Fleet) -> BTreeMap<String, OperationRecord> {
    let batch = fleet.environment.drill(DrillChoice::Sample(100), "test").await.unwrap();
    settle(fleet, batch).await
}

/// A stored object of a tenant's newest backup.
async fn object(fleet: &Fleet, name: &str, file: &str) -> PathBuf {
    let backup = fleet.backups_of(name).await.remove(0);
    let folder = fleet.s3.data_dir().join("backups/tenantry").join(backup.tenant_id.to_string());
    let path = folder.join(backup.id.to_string()).join(file);
    assert!(path.exists(), "{}", path.display());
    path
}

/// Replaces an object of a tenant's newest backup, as somebody with access to the bucket can.
async fn put(fleet: &Fleet, name: &str, key: fn(Uuid, Uuid) -> ObjectKey, bytes: Vec<u8>) {
    let backup = fleet.backups_of(name).await.remove(0);
    let store = fleet.environment.store.as_ref().unwrap();
    store.put(&key(backup.tenant_id, backup.id), bytes.into()).await.unwrap();
}

/// Has an object rot where it lies.
fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

/// No drill leaves anything on the server.
async fn assert_no_scratch(fleet: &Fleet) {
    let admin = fleet.admin("postgres").await;
    let sql = "select count(*) from pg_database where datname like 'tenantry_build%'";
    assert_eq!(admin.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn a_drill_proves_a_backup_and_says_how_long_a_restore_takes() {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    fleet
        .admin("tenant_acme")
        .await
        .batch_execute(
            r"create schema odd; create table odd.things (id int generated always as identity, at timestamptz,
                  span interval, raw bytea, text text, twice int generated always as (1 + 1) stored, nothing int);
              insert into odd.things (at, span, raw, text)
              select now(), '1 day 2 hours', '\\x00ff', E'tab\\t new\\nline \\\\.' from generate_series(1, 500);
              insert into odd.things (text) values (repeat('x', 200000)), (null), ('');
              create table odd.empty (id int); create table odd.no_columns ();
              alter database tenant_acme set timezone = 'Asia/Kolkata';
              alter database tenant_acme set datestyle = 'German'",
        )
        .await
        .unwrap();
    fleet.back_up("acme").await;

    let drilled = drill_all(&fleet).await;

    let acme = &drilled["acme"];
    assert_eq!(acme.state, OperationState::Succeeded, "{:?}", acme.error);
    let backup = fleet.catalog().backups(None, 1).await.unwrap().remove(0);
    assert!(backup.proof.proven_at.is_some() && backup.proof.verified_at.is_some());
    let took = backup.proof.proven_seconds.unwrap();
    assert!(took > 0.0 && took < 60.0, "{took}");
    assert_no_scratch(&fleet).await;
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn a_drill_of_twenty_tenants_names_what_is_wrong_with_each() {
    let fleet = Fleet::start().await;
    let names: Vec<String> = (1..=20).map(|number| format!("tenant-{number:02}")).collect();
    for name in &names {
        fleet.create_tenant_with(name, true).await;
        fleet.back_up(name).await;
    }
    change(&object(&fleet, "tenant-03", "dump").await, |dump| {
        let middle = dump.len() / 2;
        dump[middle] ^= 1;
    });
    std::fs::remove_file(object(&fleet, "tenant-07", "dump").await).unwrap();
    let foreign = std::fs::read(object(&fleet, "tenant-02", "manifest.json").await).unwrap();
    put(&fleet, "tenant-11", ObjectKey::manifest, foreign).await;
    let whole = std::fs::read(object(&fleet, "tenant-15", "dump").await).unwrap();
    put(&fleet, "tenant-15", ObjectKey::dump, whole[..whole.len() - 100].to_vec()).await;
    fleet
        .admin("tenantry")
        .await
        .batch_execute("update tenants set backup_key_sealed = null where slug = 'tenant-19'")
        .await
        .unwrap();

    let drilled = drill_all(&fleet).await;

    assert_eq!(drilled.len(), 20);
    let flawed = [
        ("tenant-03", "altered"),
        ("tenant-07", "no object"),
        ("tenant-11", "belongs to tenant"),
        ("tenant-15", "cut"),
        ("tenant-19", "secret of tenant"),
    ];
    for (name, operation) in &drilled {
        let backup = fleet.backups_of(name).await.remove(0);
        match flawed.iter().find(|(flawed, _)| flawed == name) {
            None => {
                assert_eq!(
                    operation.state,
                    OperationState::Succeeded,
                    "{name}: {:?}",
                    operation.error
                );
                assert!(backup.proof.proven_at.is_some(), "{name}");
            }
            Some((_, words)) => {
                assert_eq!(operation.state, OperationState::Failed, "{name}");
                let error = operation.error.as_ref().unwrap();
                assert!(error.message.contains(words), "{name}: {error:?}");
                assert_eq!(backup.proof.problem.as_ref(), Some(&error.message), "{name}");
                let latest =
                    fleet.environment.choose_backup(&slug(name), BackupChoice::Latest).await;
                assert!(latest.is_err(), "{name}: a bad backup is not the newest good one");
            }
        }
    }
    assert_no_scratch(&fleet).await;

    for (name, words) in flawed {
        let backup = fleet.backups_of(name).await.remove(0);
        let refused = fleet.environment.verify_backup(&backup).await.unwrap_err();
        assert!(refused.to_string().contains(words), "{name}: {refused}");
    }
}

#[tokio::test]
async fn verifying_reads_every_byte_and_restores_nothing() {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    fleet.back_up("acme").await;
    let backup = fleet.catalog().backups(None, 1).await.unwrap().remove(0);

    let verified = fleet.environment.verify_backup(&backup).await.unwrap();
    let good = fleet.catalog().backup(backup.id).await.unwrap().proof;
    change(&object(&fleet, "acme", "dump").await, |dump| *dump.last_mut().unwrap() ^= 1);
    let refused = fleet.environment.verify_backup(&backup).await.unwrap_err();
    let bad = fleet.catalog().backup(backup.id).await.unwrap().proof;

    assert_eq!(i64::try_from(verified.plain_bytes), Ok(backup.plain_bytes));
    assert!(good.verified_at.is_some() && good.proven_at.is_none() && good.problem.is_none());
    assert!(refused.to_string().contains("altered"), "{refused}");
    assert_eq!(bad.problem, Some(refused.to_string()));
}

#[tokio::test]
async fn a_restore_takes_the_newest_backup_that_is_good() {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    let first = fleet.back_up("acme").await;
    fleet.back_up("acme").await;
    change(&object(&fleet, "acme", "dump").await, |dump| dump[100] ^= 1);

    drill_all(&fleet).await;
    let restore = fleet.environment.restore(&slug("acme"), BackupChoice::Latest, BY).await.unwrap();

    assert_eq!(restore.input["backup"], first.id.to_string());
}

#[tokio::test]
async fn what_keeps_us_from_a_backup_says_nothing_of_it() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let id = fleet.back_up("acme").await.id;
    let mut broken = fleet.environment.clone();
    let credentials = Some(("somebody".to_owned(), "else".to_owned().into()));
    let wrong = S3Settings { credentials, ..s3_settings(&fleet.s3) };
    broken.store = Some(BackupStore::s3(wrong).await.unwrap());
    let backup = fleet.catalog().backup(id).await.unwrap();

    let refused = broken.verify_backup(&backup).await.unwrap_err();
    let asked = fleet.environment.drill_tenant(&slug("acme"), BY).await.unwrap();
    let drilled = Runner::new(broken, CancellationToken::new()).complete(asked.id).await.unwrap();

    assert!(refused.to_string().contains("denied"), "{refused}");
    assert_eq!(drilled.state, OperationState::Failed);
    assert_eq!(fleet.catalog().backup(id).await.unwrap().proof.problem, None);
    let latest = fleet.environment.choose_backup(&slug("acme"), BackupChoice::Latest).await;
    assert_eq!(latest.unwrap().id, id);
    assert_no_scratch(&fleet).await;
}

#[tokio::test]
async fn a_drill_that_fails_keeps_nobody_from_its_turn() {
    let fleet = Fleet::start().await;
    for name in ["acme", "globex"] {
        fleet.create_tenant(name).await;
        fleet.back_up(name).await;
    }
    let first = fleet.catalog().drill_candidates(1).await.unwrap().remove(0);
    fleet.environment.drill(DrillChoice::Sample(1), "test").await.unwrap();
    let fail = "update operations set state = 'failed' where kind = 'drill'";
    fleet.admin("tenantry").await.batch_execute(fail).await.unwrap();

    let second = fleet.catalog().drill_candidates(1).await.unwrap().remove(0);

    assert_ne!(first.slug, second.slug);
}

/// Drills `acme`, and changes the scratch database before it is compared; returns what the drill says.
async fn drill_and_change(fleet: &Fleet, sql: &str) -> String {
    let batch = fleet.environment.drill(DrillChoice::Of(&[slug("acme")]), "test").await.unwrap();
    let runner = fleet.disturbed_runner(Arc::new(|point: &StepPoint<'_>| {
        if point.step == "compare" { Disturbance::Vanish } else { Disturbance::None }
    }));
    runner.run_one(Claim::Batch(batch)).await.unwrap();
    let scratch = "select datname from pg_database where datname like 'tenantry_build%'";
    let admin = fleet.admin("postgres").await;
    let scratch: String = admin.query_one(scratch, &[]).await.unwrap().get(0);
    fleet.admin(&scratch).await.batch_execute(sql).await.unwrap();

    let drilled = settle(fleet, batch).await;

    assert_no_scratch(fleet).await;
    drilled["acme"].error.as_ref().unwrap().message.clone()
}

#[tokio::test]
async fn a_drill_finds_rows_that_do_not_come_back_as_they_were() {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    fleet.back_up("acme").await;
    let change = "update boards set title = title || '!' where title = 'Roadmap'";

    let found = drill_and_change(&fleet, change).await;

    assert!(found.contains("public.boards") && found.contains("otherwise"), "{found}");
}

#[tokio::test]
async fn a_drill_of_a_large_tenant_finds_another_schema() {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    fleet
        .admin("tenant_acme")
        .await
        .batch_execute(
            "create table large (text text); alter table large alter text set storage external;
             insert into large select repeat('x', 8000) from generate_series(1, 8000)",
        )
        .await
        .unwrap();
    fleet.back_up("acme").await;

    let found = drill_and_change(&fleet, "alter table boards alter title set default 'x'").await;

    assert!(found.contains("schema differs"), "{found}");
}

#[tokio::test]
async fn drills_are_asked_for_by_the_clock_once_and_go_round() {
    let fleet = Fleet::start().await;
    for name in ["acme", "globex"] {
        fleet.create_tenant(name).await;
        fleet.back_up(name).await;
    }
    let schedule = DrillSchedule { moments: "0 0 1 1 *".parse().unwrap(), sample: 1 };
    let long_ago = Timestamp::now() - (4 * 366 * 24).hours();
    let ask = async || drill_if_due(&fleet.environment, &schedule, long_ago).await.unwrap();

    let first = ask().await;
    let again = ask().await;
    let catalog = fleet.admin("tenantry").await;
    for _ in 0..2 {
        let batch: Uuid =
            catalog.query_one("select batch_id from operations where kind = 'drill' order by created_at desc limit 1", &[]).await.unwrap().get(0);
        settle(&fleet, batch).await;
        catalog
            .batch_execute("update operations set created_at = created_at - interval '1 year' where kind = 'drill'")
            .await
            .unwrap();
        ask().await;
    }

    assert_eq!((first, again), (true, false));
    let proven = fleet.catalog().backups(None, 9).await.unwrap();
    assert!(proven.iter().all(|backup| backup.proof.proven_at.is_some()), "{proven:?}");
    let open = "select id from operations where state = 'queued'";
    let open: Uuid = catalog.query_one(open, &[]).await.unwrap().get(0);
    fleet.runner().complete(open).await.unwrap();
}

/// What a fleet sees that looks under another prefix of the bucket.
async fn looking_elsewhere(fleet: &Fleet) -> tenantry::operations::Environment {
    let mut environment = fleet.environment.clone();
    let settings = S3Settings { prefix: "elsewhere".to_owned(), ..s3_settings(&fleet.s3) };
    environment.store = Some(BackupStore::s3(settings).await.unwrap());
    environment
}

#[tokio::test]
async fn a_bucket_with_nothing_of_ours_marks_no_backup() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    fleet.back_up("acme").await;
    let elsewhere = looking_elsewhere(&fleet).await;
    let backup = fleet.catalog().backups(None, 1).await.unwrap().remove(0);

    let refused = elsewhere.verify_backup(&backup).await.unwrap_err();

    assert!(refused.to_string().contains("no backup of any tenant"), "{refused}");
    let drill = fleet.environment.drill_tenant(&slug("acme"), BY).await.unwrap();
    let failed = Runner::new(elsewhere, CancellationToken::new()).complete(drill.id).await.unwrap();
    assert!(failed.error.unwrap().message.contains("no backup of any tenant"));
    let cli = crate::cli::Cli::new(&fleet).with("TENANTRY_S3_PREFIX", "elsewhere");
    cli.refused("backup verify --all", 1, "TENANTRY_S3_PREFIX").await;
    let backup = fleet.catalog().backups(None, 1).await.unwrap().remove(0);
    assert_eq!((backup.proof.problem, backup.proof.verified_at), (None, None));
    assert_no_scratch(&fleet).await;
}

#[tokio::test]
async fn a_backup_that_is_found_again_is_good_again() {
    let fleet = Fleet::start().await;
    for name in ["acme", "globex"] {
        fleet.create_tenant(name).await;
        fleet.back_up(name).await;
    }
    let verify = async || {
        let backup = fleet.backups_of("acme").await.remove(0);
        let verified = fleet.environment.verify_backup(&backup).await.is_ok();
        let backup = fleet.backups_of("acme").await.remove(0);
        (verified, backup.proof.problem)
    };
    for file in ["manifest.json", "dump"] {
        let path = object(&fleet, "acme", file).await;
        let away = path.with_extension("away");
        std::fs::rename(&path, &away).unwrap();
        let (verified, problem) = verify().await;
        assert!(!verified && problem.is_some(), "{file}");

        std::fs::rename(&away, &path).unwrap();

        assert_eq!(verify().await, (true, None), "{file}");
    }
    // What a drill has found is not taken back by reading.
    let catalog = fleet.admin("tenantry").await;
    catalog.batch_execute("update backups set problem = 'its rows are others'").await.unwrap();
    let path = object(&fleet, "acme", "dump").await;
    let away = path.with_extension("away");
    std::fs::rename(&path, &away).unwrap();
    verify().await;
    std::fs::rename(&away, &path).unwrap();
    assert_eq!(verify().await, (true, Some("its rows are others".to_owned())));
}
