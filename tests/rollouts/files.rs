//! Files that change while a rollout is open: it goes on with those that it began with, or not at all.

use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use tenantry::catalog::CatalogError;
use tenantry::catalog::lock::Claim;
use tenantry::catalog::rollouts::RolloutState;
use tenantry::operations::rollouts::RolloutPlan;
use tenantry::operations::runner::Disturbance;
use tenantry::operations::{Environment, Runner};
use tokio_util::sync::CancellationToken;

use super::{complete, labels, start, tenant, turn, versions};
use crate::harness::{Fleet, limits};
use crate::rollouts::watching::{cli, text};

const EDITED: &str = "create table labels (id bigint primary key, colour text);";

/// A rollout whose canary is done.
async fn half_done(fleet: &Fleet) -> tenantry::catalog::rollouts::RolloutRecord {
    for name in ["acme", "globex"] {
        fleet.create_tenant(name).await;
    }
    labels(fleet);
    fleet.add_migration("V3__notes.sql", "create table notes (id bigint primary key);");
    let plan = RolloutPlan { canary: vec![tenant("acme")], ..RolloutPlan::default() };
    let rollout = start(fleet, &plan).await;
    turn(fleet, rollout.id).await;
    turn(fleet, rollout.id).await
}

#[tokio::test]
async fn an_edited_a_removed_and_a_new_file_stop_a_rollout_and_are_named() {
    let fleet = Fleet::start().await;
    let open = half_done(&fleet).await;
    let before = std::fs::read_to_string(fleet.migrations.path().join("V2__labels.sql")).unwrap();
    fleet.add_migration("V2__labels.sql", EDITED);
    std::fs::remove_file(fleet.migrations.path().join("V3__notes.sql")).unwrap();
    fleet.add_migration("R__more.sql", "select 1");
    fleet.environment.reload_migrations().await.unwrap();

    for _ in 0..3 {
        assert_eq!(turn(&fleet, open.id).await.state, RolloutState::Running, "it is others'");
    }
    assert_eq!(versions(&fleet, ["acme", "globex"]).await, [3, 1]);
    let shown = text(&cli(&fleet, "migrate show").await.stdout);
    fleet.environment.hold_for_its_files(&open).await.unwrap();
    let held = cli(&fleet, "migrate show --output-format json").await;
    let held: serde_json::Value = serde_json::from_slice(&held.stdout).unwrap();
    let refused = fleet.environment.resume_rollout(open.id, "test").await.unwrap_err();

    let changes = "V2__labels.sql has been edited, R__more.sql is new, V3__notes.sql is missing";
    assert!(shown.contains(changes) && shown.contains("whoever has those files"), "{shown}");
    assert!(matches!(refused, CatalogError::Conflict(_)), "{refused}");
    assert!(refused.to_string().contains(changes), "{refused}");
    assert!(refused.to_string().contains(&format!("migrate abort {}", open.id)), "{refused}");
    assert_eq!((&held["status"], &held["reason"]["step"]), (&"paused".into(), &"files".into()));
    assert_eq!(held["file_changes"][0]["change"], "edited", "{held:#}");

    fleet.add_migration("V2__labels.sql", &before);
    fleet.add_migration("V3__notes.sql", "create table notes (id bigint primary key);");
    std::fs::remove_file(fleet.migrations.path().join("R__more.sql")).unwrap();
    fleet.environment.reload_migrations().await.unwrap();
    fleet.environment.resume_rollout(open.id, "test").await.unwrap();
    assert_eq!(complete(&fleet, &open).await.state, RolloutState::Succeeded);
    assert_eq!(versions(&fleet, ["acme", "globex"]).await, [3, 3]);
}

#[tokio::test]
async fn another_rollout_begins_with_no_file_that_tenants_have_otherwise() {
    let fleet = Fleet::start().await;
    let open = half_done(&fleet).await;
    fleet.catalog().abort_rollout(open.id, "test").await.unwrap();
    let before = std::fs::read_to_string(fleet.migrations.path().join("V2__labels.sql")).unwrap();
    fleet.add_migration("V2__labels.sql", EDITED);
    fleet.environment.reload_migrations().await.unwrap();
    let plan = RolloutPlan::default();

    let refused = fleet.environment.start_rollout(&plan, "test").await.unwrap_err().to_string();

    assert!(refused.starts_with("V2__labels.sql is not what rollout"), "{refused}");
    fleet.add_migration("V2__labels.sql", &before);
    let rollout = start(&fleet, &plan).await;
    assert_eq!(complete(&fleet, &rollout).await.state, RolloutState::Succeeded);
    assert_eq!(versions(&fleet, ["acme", "globex"]).await, [3, 3]);

    // Also where nobody is behind, and for tenants to come.
    fleet.add_migration("V2__labels.sql", EDITED);
    for line in ["migrate up", "migrate plan", "migrate up --dry-run", "tenant create --slug new"] {
        let refused = cli(&fleet, line).await;
        assert_eq!(refused.status.code(), Some(4), "{line}");
        assert!(text(&refused.stderr).contains("V2__labels.sql is not what rollout"), "{line}");
    }
}

#[tokio::test]
async fn a_rollout_that_failed_over_a_file_that_was_withdrawn_can_be_given_up() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    fleet.add_migration("V2__broken.sql", "select nonsense");
    fleet.environment.reload_migrations().await.unwrap();
    let rollout = start(&fleet, &RolloutPlan::default()).await;
    let failed = complete(&fleet, &rollout).await;
    assert_eq!(failed.state, RolloutState::Failed);
    std::fs::remove_file(fleet.migrations.path().join("V2__broken.sql")).unwrap();

    let refused = cli(&fleet, "migrate resume").await;
    let aborted = cli(&fleet, "migrate abort").await;

    assert!(text(&refused.stderr).contains(&format!("migrate abort {}", rollout.id)));
    assert_eq!(aborted.status.code(), Some(0), "{}", text(&aborted.stderr));
    let ended = fleet.catalog().rollout(rollout.id).await.unwrap();
    assert_eq!((ended.state, ended.finished_at), (RolloutState::Aborted, failed.finished_at));
}

#[tokio::test]
async fn a_worker_with_other_files_leaves_a_rollout_to_those_who_have_them() {
    let fleet = Fleet::start().await;
    let open = half_done(&fleet).await;
    for _ in 0..3 {
        fleet.environment.advance(open.id).await.unwrap();
    }
    let dir = TempDir::new().unwrap();
    for entry in std::fs::read_dir(fleet.migrations.path()).unwrap() {
        let file = entry.unwrap();
        std::fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
    }
    std::fs::write(dir.path().join("V4__newer.sql"), "create table newer (id int)").unwrap();
    let newer = limits(dir.path().to_owned(), 0);
    let newer = Environment::new(fleet.catalog().clone(), None, newer).await.unwrap();
    let stranger = Runner::new(newer.clone(), CancellationToken::new());

    newer.lead(open.id).await;
    let taken = stranger.run_one(Claim::Any).await.unwrap();

    assert!(taken.is_none(), "its operations need the files that it began with");
    assert_eq!(complete(&fleet, &open).await.state, RolloutState::Succeeded);
    assert_eq!(versions(&fleet, ["acme", "globex"]).await, [3, 3]);
}

/// The worker has taken the tenant, and reads its files again before it runs them.
#[tokio::test]
async fn a_tenant_gets_the_files_that_its_worker_had_when_it_took_it() {
    let fleet = Fleet::start().await;
    let open = half_done(&fleet).await;
    for _ in 0..3 {
        fleet.environment.advance(open.id).await.unwrap();
    }
    fleet.add_migration("V4__newer.sql", "create table newer (id int)");
    let (environment, told) = (fleet.environment.clone(), Arc::new(Mutex::new(0)));
    let count = told.clone();
    let runner = fleet.disturbed_runner(Arc::new(move |point| {
        if !point.done {
            *count.lock().unwrap() += 1;
            let handle = tokio::runtime::Handle::current();
            let environment = environment.clone();
            let reload = async move { environment.reload_migrations().await.unwrap() };
            std::thread::scope(|scope| scope.spawn(|| handle.block_on(reload)).join().unwrap());
        }
        Disturbance::None
    }));

    runner.run_one(Claim::Batch(open.id)).await.unwrap().unwrap();

    assert_eq!(*told.lock().unwrap(), 1);
    assert_eq!(fleet.environment.migrations().target_version(), 4, "they were read again");
    assert_eq!(versions(&fleet, ["acme", "globex"]).await, [3, 3]);
}
