//! A fleet that is frozen at a version: nobody is migrated beyond it, by whichever way.

use reqwest::{Method, StatusCode};
use serde_json::json;
use tenantry::catalog::audit_log::AuditFilter;
use tenantry::catalog::lock::Claim;
use tenantry::catalog::operations::OperationState;
use tenantry::catalog::rollouts::RolloutState;
use tenantry::operations::request::BackupChoice;
use tenantry::operations::rollouts::RolloutPlan;
use tenantry::operations::upkeep;

use crate::harness::process::command;
use crate::harness::replica::Replica;
use crate::harness::{BY, Fleet, Options, slug};

/// Files up to V3, and a view of what the newest makes.
fn files(fleet: &Fleet) {
    fleet.add_migration("V2__labels.sql", "create table labels (id bigint primary key);");
    fleet.add_migration("V3__notes.sql", "create table notes (id bigint primary key);");
    fleet.add_migration("R__newest.sql", "create or replace view newest as select * from notes");
}

async fn version(fleet: &Fleet, name: &str) -> i64 {
    fleet.tenant(name).await.schema_version
}

async fn up(fleet: &Fleet) -> RolloutState {
    let plan = RolloutPlan::default();
    let rollout = fleet.environment.start_rollout(&plan, "test").await.unwrap().unwrap();
    fleet.runner().complete_rollout(rollout.id, 2).await.unwrap().state
}

#[tokio::test]
async fn nobody_is_migrated_beyond_the_version_by_whichever_way() {
    let fleet = Fleet::start_with(Options { spares: 1, ..Options::default() }).await;
    for name in ["behind", "restored", "alone"] {
        fleet.create_tenant(name).await;
    }
    fleet.back_up("restored").await;
    files(&fleet);
    fleet.environment.reload_migrations().await.unwrap();
    fleet.environment.freeze_at(2, "test").await.unwrap();

    let named = [slug("alone")];
    let batch = fleet.environment.migrate_fleet(&named, "test").await.unwrap();
    fleet.runner().complete_batch(batch, 1).await.unwrap();
    fleet.create_tenant("from-files").await;
    upkeep::tend(&fleet.environment).await.unwrap();
    fleet.create_tenant("from-spare").await;
    let restored = slug("restored");
    let restore = fleet.environment.restore(&restored, BackupChoice::Latest, BY).await.unwrap();
    fleet.complete(&restore).await;
    assert_eq!(up(&fleet).await, RolloutState::Succeeded);

    for name in ["behind", "restored", "alone", "from-files", "from-spare"] {
        assert_eq!(version(&fleet, name).await, 2, "{name}");
        assert_eq!(fleet.count(name, "labels").await, 0);
    }
    let beyond = RolloutPlan { to: Some(3), ..RolloutPlan::default() };
    let refused = fleet.environment.start_rollout(&beyond, "test").await.unwrap_err();
    assert!(refused.to_string().contains("frozen at version 2"), "{refused}");
    let nothing = fleet.environment.start_rollout(&RolloutPlan::default(), "test").await.unwrap();
    assert!(nothing.is_none(), "repeatable files speak of what is held back");
    let status = fleet.environment.fleet_status().await.unwrap();
    assert_eq!((status.target, status.current(), status.outdated()), (2, 5, 0));
    fleet.assert_healthy().await;

    fleet.catalog().unfreeze("test").await.unwrap();
    assert_eq!(up(&fleet).await, RolloutState::Succeeded);
    for name in ["behind", "restored", "alone", "from-files", "from-spare"] {
        assert_eq!(version(&fleet, name).await, 3, "{name}");
        assert_eq!(fleet.count(name, "newest").await, 0);
    }
}

/// What a broken newest file must not keep back.
#[tokio::test]
async fn a_frozen_fleet_needs_nothing_of_the_files_beyond() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    files(&fleet);
    fleet.add_migration("V4__typo.sql", "create tabel oops (id bigint)");
    fleet.environment.reload_migrations().await.unwrap();
    fleet.environment.freeze_at(3, "test").await.unwrap();

    assert_eq!(up(&fleet).await, RolloutState::Succeeded);
    upkeep::tend(&fleet.environment).await.unwrap();
    fleet.create_tenant("globex").await;

    assert_eq!((version(&fleet, "acme").await, version(&fleet, "globex").await), (3, 3));
}

#[tokio::test]
async fn a_rollout_that_goes_beyond_is_held_until_the_fleet_is_free() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    files(&fleet);
    fleet.environment.reload_migrations().await.unwrap();
    let plan = RolloutPlan::default();
    let rollout = fleet.environment.start_rollout(&plan, "test").await.unwrap().unwrap();
    for _ in 0..2 {
        fleet.environment.advance(rollout.id).await.unwrap();
    }
    fleet.environment.freeze_at(2, "test").await.unwrap();

    // It was in the queue already.
    let taken = fleet.runner().run_one(Claim::Batch(rollout.id)).await.unwrap().unwrap();
    let failed = fleet.catalog().operation(taken).await.unwrap();
    let held = fleet.environment.advance(rollout.id).await.unwrap();
    let refused = fleet.environment.resume_rollout(rollout.id, "test").await.unwrap_err();

    assert_eq!(failed.state, OperationState::Failed);
    assert!(failed.error.unwrap().message.contains("frozen at version 2"));
    assert_eq!((held.state, version(&fleet, "acme").await), (RolloutState::Paused, 1));
    assert!(held.reason.unwrap().remedy.unwrap().contains("migrate unfreeze"));
    assert!(refused.to_string().contains("frozen at version 2"), "{refused}");
    fleet.catalog().unfreeze("test").await.unwrap();
    fleet.environment.resume_rollout(rollout.id, "test").await.unwrap();
    let ended = fleet.runner().complete_rollout(rollout.id, 1).await.unwrap();
    assert_eq!((ended.state, version(&fleet, "acme").await), (RolloutState::Succeeded, 3));
}

#[tokio::test]
async fn the_fleet_is_frozen_from_the_command_line_and_over_http() {
    let replica = Replica::start().await;
    let fleet = &replica.fleet;
    fleet.create_tenant("acme").await;
    files(fleet);
    let cli = async |line: &str| {
        let mut command = command(fleet);
        command.args(line.split(' '));
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let said = [output.stdout, output.stderr].map(|s| String::from_utf8_lossy(&s).into_owned());
        (output.status.code().unwrap(), said.concat())
    };

    let (status, said) = cli("migrate freeze --at V1").await;
    assert_eq!(status, 0, "{said}");
    let (_, shown) = cli("migrate status").await;
    assert!(shown.contains("version 3") && shown.contains("Frozen at version 1 by"), "{shown}");
    let (status, said) = cli("migrate up").await;
    assert_eq!((status, said.contains("no tenant is behind version 1")), (0, true), "{said}");
    let (status, said) = cli("migrate freeze --at V9").await;
    assert_eq!((status, said.contains("no migration file has version 9")), (4, true), "{said}");
    assert_eq!(cli("migrate unfreeze").await.0, 0);
    assert!(cli("migrate unfreeze").await.1.contains("was not frozen"));

    let freeze = async |version: i64| {
        let body = json!({ "version": version });
        replica.call(Method::PUT, "/api/migrations/freeze", Some(body)).await
    };
    let (status, frozen) = freeze(2).await;
    assert_eq!((status, &frozen["frozen_by"]), (StatusCode::OK, &json!("token:test")), "{frozen}");
    assert_eq!(freeze(9).await.0, StatusCode::CONFLICT);
    let (_, shown) = replica.get("/api/migrations").await;
    assert_eq!((&shown["target"], &shown["freeze"]["version"]), (&json!(2), &json!(2)), "{shown}");
    let (status, _) = replica.call(Method::DELETE, "/api/migrations/freeze", None).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let (_, shown) = replica.get("/api/migrations").await;
    assert_eq!((&shown["target"], &shown["freeze"]), (&json!(3), &json!(null)));
    let action = Some("migrations".to_owned());
    let filter = AuditFilter { action, limit: 10, ..AuditFilter::default() };
    let events = fleet.catalog().audit_log(&filter).await.unwrap();
    let actions: Vec<&str> = events.iter().rev().map(|event| event.action.as_str()).collect();
    let (on, off) = ("migrations.frozen", "migrations.unfrozen");
    assert_eq!(actions, [on, off, on, off]);
}
