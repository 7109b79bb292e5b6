//! Every step of every operation: stopped, failed and repeated. Whatever happens, catalog and server
//! end as an undisturbed run leaves them.

use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tenantry::catalog::operations::{OperationRecord, OperationState};
use tenantry::operations::runner::{Disturbance, StepPoint};

use crate::cli::Cli;
use crate::harness::{BY, Fleet, once, slug};

mod story;

use story::{Story, ask, fleet_for};

/// The kinds, each with the story that leads up to it.
const KINDS: [&str; 21] = [
    "provision",
    "provision_clone",
    "adopt",
    "migrate",
    "baseline",
    "backup",
    "restore",
    "restore_as",
    "undo_restore",
    "restore_table",
    "clone",
    "drill",
    "suspend",
    "resume",
    "rotate_password",
    "rotate_backup_key",
    "reseal_backups",
    "destroy_backup_keys",
    "erase",
    "rename",
    "delete",
];

/// Does something to one step, once.
async fn disturb_once(
    fleet: &Fleet,
    operation: &OperationRecord,
    step: &'static str,
    done: bool,
    disturbance: Disturbance,
) -> OperationRecord {
    let runner = fleet.disturbed_runner(once(step, done, disturbance));
    runner.complete(operation.id).await.unwrap()
}

async fn every_step(kind: &'static str, done: bool, disturbance: Disturbance) {
    let story = Story::of(kind).await;

    for step in story.plan.steps.iter().map(|step| step.name) {
        let (fleet, operation) = story.begin().await;

        let mut ended = disturb_once(&fleet, &operation, step, done, disturbance).await;
        if disturbance == Disturbance::Fail {
            assert_eq!(ended.state, OperationState::Failed, "{kind}: {step}");
            assert_eq!(ended.error.as_ref().unwrap().step, step);
            if kind.contains("restore") {
                fleet.router().connection(&slug("acme")).await.unwrap();
            }
            fleet.catalog().retry(operation.id).await.unwrap();
            ended = fleet.runner().complete(operation.id).await.unwrap();
        }

        assert_eq!(ended.state, OperationState::Succeeded, "{kind}: {step}: {:?}", ended.error);
        if kind == "clone" {
            crate::clones::assert_masked_once(&fleet, "globex").await;
        }
        assert_eq!(
            fleet.inventory().await,
            story.after,
            "{kind}: {disturbance:?} at {step}, done={done}"
        );
        fleet.assert_healthy().await;
    }
}

macro_rules! for_every_kind {
    ($($name:ident: $kind:literal,)*) => {$(
        mod $name {
            use super::*;

            #[tokio::test]
            async fn a_worker_that_vanishes_before_any_step_changes_nothing() {
                every_step($kind, false, Disturbance::Vanish).await;
            }

            #[tokio::test]
            async fn a_worker_that_vanishes_after_any_step_changes_nothing() {
                every_step($kind, true, Disturbance::Vanish).await;
            }

            #[tokio::test]
            async fn any_step_done_twice_equals_once() {
                every_step($kind, false, Disturbance::Repeat).await;
            }

            #[tokio::test]
            async fn any_step_that_fails_can_be_retried() {
                every_step($kind, false, Disturbance::Fail).await;
            }
        }
    )*};
}

for_every_kind! {
    provision_from_a_spare: "provision",
    provision_by_clone: "provision_clone",
    adopt: "adopt",
    migrate: "migrate",
    baseline: "baseline",
    backup: "backup",
    restore: "restore",
    restore_as: "restore_as",
    undo_restore: "undo_restore",
    restore_table: "restore_table",
    clone: "clone",
    drill: "drill",
    suspend: "suspend",
    resume: "resume",
    rotate_password: "rotate_password",
    rotate_backup_key: "rotate_backup_key",
    reseal_backups: "reseal_backups",
    destroy_backup_keys: "destroy_backup_keys",
    erase: "erase",
    rename: "rename",
    delete: "delete",
}

/// A failed operation that is cancelled leaves what was there before it.
#[tokio::test]
async fn an_operation_given_up_at_any_step_leaves_no_trace() {
    for kind in KINDS {
        let story = Story::of(kind).await;
        let Story { plan, before, .. } = story;
        if plan.abandon.is_empty() {
            continue;
        }

        for step in plan.steps.iter().take(plan.no_return).map(|step| step.name) {
            let (fleet, operation) = story.begin().await;
            disturb_once(&fleet, &operation, step, false, Disturbance::Fail).await;
            fleet.environment.cancel(operation.id).await.unwrap();

            let ended = fleet.runner().complete(operation.id).await.unwrap();

            assert_eq!(ended.state, OperationState::Cancelled, "{kind}: {step}: {:?}", ended.error);
            let mut after = fleet.inventory().await;
            let mut before = before.clone();
            // What was kept for a rename is free again, and so is the slug of a tenant that never was.
            before.remove("slugs");
            let makes = kind.starts_with("provision") || kind == "adopt";
            let own: &[&str] = if makes { &[] } else { &["acme leads=true kept=false"] };
            if ["restore_as", "clone"].contains(&kind) {
                // The row of the tenant that never came to be stays for the record.
                after.get_mut("tenants").unwrap().retain(|tenant| tenant.starts_with("acme"));
                before.get_mut("tenants").unwrap().retain(|tenant| tenant.starts_with("acme"));
            }
            assert_eq!(after.remove("slugs").unwrap(), own, "{kind}: {step}");
            if makes {
                // The tenant's row stays for the record, and a spare may have been used up.
                assert_eq!(after.remove("tenants").unwrap(), ["acme deleted epoch=1 v0"]);
                before.remove("tenants");
                before.get_mut("databases").unwrap().retain(|name| !name.contains("spare"));
                after.get_mut("databases").unwrap().retain(|name| !name.contains("spare"));
            }
            assert_eq!(after, before, "{kind}: given up at {step}");
            fleet.assert_healthy().await;
        }
    }
}

#[tokio::test]
async fn a_failed_tenant_can_always_be_deleted() {
    for step in ["build_database", "take_possession", "load_sample_data", "activate"] {
        let (fleet, operation) = Story::of("provision").await.begin().await;
        disturb_once(&fleet, &operation, step, false, Disturbance::Fail).await;

        let delete = fleet.environment.delete(&slug("acme"), false, BY).await.unwrap();
        fleet.complete(&delete).await;

        assert_eq!(fleet.inventory().await["tenants"], ["acme deleted epoch=1 v0"]);
        assert_eq!(
            fleet.inventory().await["roles"],
            ["tenantry_app login=false", "tenantry_owner login=false"]
        );
        fleet.assert_healthy().await;
        fleet.create_tenant("acme").await;
    }
}

#[tokio::test]
async fn one_tenant_has_one_running_operation() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let mut operations = Vec::new();
    for _ in 0..6 {
        operations.push(fleet.environment.back_up(&slug("acme"), BY).await.unwrap());
    }

    let busy = Arc::new(AtomicBool::new(false));
    let mut runs = tokio::task::JoinSet::new();
    for operation in operations {
        let busy = Arc::clone(&busy);
        let runner = fleet.disturbed_runner(Arc::new(move |point: &StepPoint<'_>| {
            if point.step == "upload_dump" {
                assert_eq!(busy.swap(!point.done, Ordering::SeqCst), point.done, "two at a time");
            }
            Disturbance::None
        }));
        runs.spawn(async move { runner.complete(operation.id).await.unwrap().state });
    }

    while let Some(state) = runs.join_next().await {
        assert_eq!(state.unwrap(), OperationState::Succeeded);
    }
}

#[tokio::test]
async fn an_operation_for_other_migration_files_is_left_to_others() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    fleet.add_migration("V2__labels.sql", "create table labels (id bigint primary key);");
    let other = tenantry::operations::Environment::new(
        fleet.catalog().clone(),
        None,
        fleet.environment.limits.clone(),
    )
    .await
    .unwrap();
    let batch = other.migrate_fleet(&[], "test").await.unwrap();

    let taken = fleet.runner().run_one(tenantry::catalog::lock::Claim::Batch(batch)).await.unwrap();

    assert_eq!(taken, None, "this worker has not read V2");
    fleet.environment.reload_migrations().await.unwrap();
    let taken = fleet.runner().run_one(tenantry::catalog::lock::Claim::Batch(batch)).await.unwrap();
    assert!(taken.is_some());
    assert_eq!(fleet.tenant("acme").await.schema_version, 2);
}

#[tokio::test]
async fn a_spare_that_somebody_drops_is_replaced_on_retry() {
    let fleet = fleet_for("provision").await;
    let operation = ask(&fleet, "provision").await;
    disturb_once(&fleet, &operation, "take_possession", false, Disturbance::Fail).await;
    let admin = fleet.admin("postgres").await;
    let spare = "select datname from pg_database where datname like '%spare%'";
    let spare: String = admin.query_one(spare, &[]).await.unwrap().get(0);
    admin.batch_execute(&format!("drop database \"{spare}\"")).await.unwrap();

    fleet.catalog().retry(operation.id).await.unwrap();
    let ended = fleet.runner().complete(operation.id).await.unwrap();

    assert_eq!(ended.state, OperationState::Succeeded, "{:?}", ended.error);
    assert_eq!(fleet.count("acme", "boards").await, 3);
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn a_cancel_that_comes_after_the_point_of_no_return_is_refused() {
    let fleet = fleet_for("rename").await;
    let operation = ask(&fleet, "rename").await;
    disturb_once(&fleet, &operation, "serve", false, Disturbance::Fail).await;

    let refused = fleet.environment.cancel(operation.id).await.unwrap_err();

    assert!(refused.to_string().contains("point of no return"), "{refused}");
    let record = fleet.catalog().operation(operation.id).await.unwrap();
    assert_eq!((record.state, record.abandoning), (OperationState::Failed, false));
    fleet.catalog().retry(operation.id).await.unwrap();
    fleet.complete(&operation).await;
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn the_command_that_cancels_asks_first() {
    let fleet = fleet_for("suspend").await;
    let operation = ask(&fleet, "suspend").await;
    let line = format!("operation cancel {}", operation.id);

    Cli::new(&fleet).refused(&line, 4, "cancelling suspend of `acme`").await;

    let record = fleet.catalog().operation(operation.id).await.unwrap();
    assert_eq!((record.state, record.abandoning), (OperationState::Queued, false));
    let cancelled = Cli::new(&fleet).json(&format!("{line} --yes")).await;
    assert_eq!(cancelled["status"], "cancelled", "{cancelled}");
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn a_full_disk_is_named_and_a_retry_finishes() {
    let fleet = Fleet::start().await;
    let rows = "create table big as select repeat('x', 1000) as x from generate_series(1, 24000)";
    fleet.add_migration("V2__big.sql", rows);
    fleet.environment.reload_migrations().await.unwrap();
    let operation = ask(&fleet, "provision_clone").await;

    // A write that the system cuts short is how PostgreSQL finds out that a disk is full.
    limit_file_size(&fleet, "20000100");
    let failed = fleet.runner().complete(operation.id).await.unwrap();
    limit_file_size(&fleet, "unlimited");

    assert_eq!(failed.state, OperationState::Failed);
    let error = failed.error.unwrap();
    assert!(error.message.contains("V2__big.sql"), "{}", error.message);
    assert!(error.remedy.unwrap().starts_with("free disk space"));
    fleet.catalog().retry(operation.id).await.unwrap();
    fleet.complete(&operation).await;
    assert_eq!(fleet.count("acme", "big").await, 24_000);
    fleet.assert_healthy().await;
}

/// Of every process that the postmaster starts from now on; asked for as its own user, since not every
/// root may change the limits of others.
fn limit_file_size(fleet: &Fleet, bytes: &str) {
    for pid in fleet.postgres.processes() {
        // One may have ended by now.
        let Ok(process) = std::fs::metadata(format!("/proc/{pid}")) else { continue };
        let (user, group) =
            (format!("--reuid={}", process.uid()), format!("--regid={}", process.gid()));
        let (limit, pid) = (format!("--fsize={bytes}:"), pid.to_string());
        let arguments = [&user, &group, "--keep-groups", "prlimit", &limit, "--pid", &pid];
        std::process::Command::new("setpriv").args(arguments).output().unwrap();
    }
}
