//! Rollouts: in which order tenants are migrated, and what stops it.

use std::time::Duration;

use serde_json::json;
use tenantry::catalog::CatalogError;
use tenantry::catalog::lock::Claim;
use tenantry::catalog::operations::OperationFilter;
use tenantry::catalog::rollouts::{ItemState, RolloutRecord, RolloutState};
use tenantry::operations::rollouts::{Bound, RolloutError, RolloutPlan, Selection};
use tenantry::operations::{Environment, Runner};
use tenantry::tenant::TenantSettings;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::harness::{BY, Fleet, limits, slug, store};

mod crash;
mod files;
mod history;
mod preview;
mod races;
mod watching;

/// Refused where a board is called Welcome, as in the sample data.
const PICKY: &str = "alter table boards add constraint none check (title <> 'Welcome');";

async fn start(fleet: &Fleet, plan: &RolloutPlan) -> RolloutRecord {
    fleet.environment.reload_migrations().await.unwrap();
    fleet.environment.start_rollout(plan, "test").await.unwrap().unwrap()
}

async fn complete(fleet: &Fleet, rollout: &RolloutRecord) -> RolloutRecord {
    fleet.runner().complete_rollout(rollout.id, 4).await.unwrap()
}

/// Does what is due and drives what that asked for, once.
async fn turn(fleet: &Fleet, id: Uuid) -> RolloutRecord {
    fleet.environment.advance(id).await.unwrap();
    while fleet.runner().run_one(Claim::Batch(id)).await.unwrap().is_some() {}
    fleet.catalog().rollout(id).await.unwrap()
}

async fn versions<const N: usize>(fleet: &Fleet, tenants: [&str; N]) -> [i64; N] {
    let mut versions = [0; N];
    for (version, name) in versions.iter_mut().zip(tenants) {
        *version = fleet.tenant(name).await.schema_version;
    }
    versions
}

async fn kinds(fleet: &Fleet, id: Uuid) -> Vec<String> {
    let events = fleet.catalog().rollout_events(id, 0).await.unwrap();
    events.into_iter().map(|event| event.kind).collect()
}

fn labels(fleet: &Fleet) {
    fleet.add_migration("V2__labels.sql", "create table labels (id bigint primary key);");
}

fn tenant(name: &str) -> Selection {
    Selection::Tenant(slug(name))
}

#[tokio::test]
async fn waves_come_in_order_and_bake() {
    let fleet = Fleet::start().await;
    for name in ["acme", "globex", "hooli", "initech"] {
        fleet.create_tenant(name).await;
    }
    labels(&fleet);
    let tagged = json!({ "fleet": { "tags": ["beta", "gold"] } });
    let tagged = TenantSettings::parse(tagged).unwrap();
    fleet.catalog().change_settings(&slug("hooli"), "test", |_| Ok(tagged)).await.unwrap();
    let plan = RolloutPlan {
        canary: vec![Selection::parse("tag=beta").unwrap()],
        waves: vec![Selection::Share(50)],
        bake_secs: 1,
        ..RolloutPlan::default()
    };

    let rollout = start(&fleet, &plan).await;
    let ended = complete(&fleet, &rollout).await;

    assert_eq!(ended.state, RolloutState::Succeeded, "{:?}", ended.reason);
    assert_eq!(ended.waves, ["canary", "50%", "rest"]);
    assert_eq!(versions(&fleet, ["acme", "globex", "hooli", "initech"]).await, [2; 4]);
    let tenants = fleet.catalog().rollout_tenants(rollout.id).await.unwrap();
    assert_eq!(tenants.iter().map(|tenant| tenant.wave).collect::<Vec<_>>(), [0, 1, 2, 2]);
    assert_eq!(tenants[0].slug, slug("hooli"));
    let mut last = None;
    for tenant in &tenants[..3] {
        let operation = fleet.catalog().operation(tenant.operation.unwrap()).await.unwrap();
        if let Some(last) = last {
            let waited = operation.created_at.duration_since(last);
            assert!(waited.as_millis() >= 1000, "wave {} waited {waited}", tenant.wave);
        }
        last = operation.finished_at;
    }
    let wave = ["wave_started", "wave_finished"];
    let expected = [&["started"][..], &wave, &wave, &wave, &["succeeded"]].concat();
    assert_eq!(kinds(&fleet, rollout.id).await, expected);
}

#[tokio::test]
async fn a_canary_that_fails_keeps_everybody_else_as_they_are() {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    fleet.create_tenant("globex").await;
    fleet.add_migration("V2__picky.sql", PICKY);
    let plan = RolloutPlan { canary: vec![tenant("acme")], ..RolloutPlan::default() };

    let rollout = start(&fleet, &plan).await;
    let ended = complete(&fleet, &rollout).await;

    assert_eq!(ended.state, RolloutState::Paused);
    assert!(ended.reason.unwrap().message.contains("canary"));
    assert_eq!(versions(&fleet, ["acme", "globex"]).await, [1, 1]);
    let tenants = fleet.catalog().rollout_tenants(rollout.id).await.unwrap();
    let error = tenants[0].error.as_ref().unwrap();
    assert!(
        error.message.contains("V2__picky.sql") && error.message.contains("23514"),
        "{error:?}"
    );
    assert_eq!((tenants[0].state, tenants[1].state), (ItemState::Failed, ItemState::Waiting));

    fleet.admin("tenant_acme").await.batch_execute("update boards set title = 'x'").await.unwrap();
    fleet.environment.resume_rollout(rollout.id, "test").await.unwrap();
    assert_eq!(complete(&fleet, &rollout).await.state, RolloutState::Succeeded);
    assert_eq!(versions(&fleet, ["acme", "globex"]).await, [2, 2]);
}

#[tokio::test]
async fn more_failures_than_may_be_stop_the_rest_and_resume_takes_just_the_failed() {
    let fleet = Fleet::start().await;
    let names = ["acme", "globex", "hooli", "initech"];
    for name in names {
        fleet.create_tenant_with(name, true).await;
    }
    fleet.add_migration("V2__picky.sql", PICKY);
    let plan = RolloutPlan { max_failures: Some(Bound::Count(1)), ..RolloutPlan::default() };

    let rollout = start(&fleet, &plan).await;
    let ended = fleet.runner().complete_rollout(rollout.id, 1).await.unwrap();

    assert_eq!(ended.state, RolloutState::Paused);
    let counts = fleet.catalog().count_rollout(rollout.id).await.unwrap();
    let of = |state| counts.iter().find(|count| count.state == state).map_or(0, |c| c.tenants);
    assert_eq!((of(ItemState::Failed), of(ItemState::Queued)), (2, 2), "{counts:?}");
    let claimed = fleet.runner().run_one(Claim::Any).await.unwrap();
    assert!(claimed.is_none(), "nobody takes what is held");

    for name in names {
        let admin = fleet.admin(&format!("tenant_{name}")).await;
        admin.batch_execute("update boards set title = 'x'").await.unwrap();
    }
    fleet.environment.resume_rollout(rollout.id, "test").await.unwrap();
    assert_eq!(complete(&fleet, &rollout).await.state, RolloutState::Succeeded);
    let filter =
        OperationFilter { batch: Some(rollout.id), limit: 100, ..OperationFilter::default() };
    assert_eq!(fleet.catalog().operations(&filter).await.unwrap().len(), 4, "one a tenant");
    assert_eq!(kinds(&fleet, rollout.id).await.iter().filter(|k| *k == "tenant_failed").count(), 2);
}

#[tokio::test]
async fn failures_that_may_be_do_not_stop_the_waves() {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    fleet.create_tenant("globex").await;
    fleet.add_migration("V2__picky.sql", PICKY);
    let plan = RolloutPlan {
        canary: vec![tenant("acme")],
        max_failures: Some(Bound::Share(50)),
        ..RolloutPlan::default()
    };

    let rollout = start(&fleet, &plan).await;
    let ended = complete(&fleet, &rollout).await;

    assert_eq!(ended.state, RolloutState::Failed, "somebody did fail");
    assert_eq!(versions(&fleet, ["acme", "globex"]).await, [1, 2]);
}

#[tokio::test]
async fn files_that_do_not_run_fail_the_rollout_before_any_tenant() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    fleet.add_migration("V2__typo.sql", "create tabel oops (id bigint);");

    let rollout = start(&fleet, &RolloutPlan::default()).await;
    let ended = complete(&fleet, &rollout).await;

    assert_eq!(ended.state, RolloutState::Failed);
    let reason = ended.reason.unwrap();
    assert!(reason.message.contains("V2__typo.sql"), "{reason:?}");
    let tenants = fleet.catalog().rollout_tenants(rollout.id).await.unwrap();
    assert_eq!(tenants[0].state, ItemState::Waiting, "nothing was asked of it");
    assert_eq!(kinds(&fleet, rollout.id).await, ["started", "failed"]);
}

#[tokio::test]
async fn a_server_never_has_more_than_its_share_in_the_queue() {
    let fleet = Fleet::start().await;
    for number in 0..5 {
        fleet.create_tenant(&format!("tenant-{number}")).await;
    }
    labels(&fleet);
    let plan = RolloutPlan { per_server: Some(2), ..RolloutPlan::default() };
    let rollout = start(&fleet, &plan).await;
    let open = async || {
        let counts = fleet.catalog().count_operations(Some(rollout.id)).await.unwrap();
        counts.iter().filter(|(state, _)| !state.is_settled()).map(|(_, n)| *n).sum::<i64>()
    };

    fleet.environment.advance(rollout.id).await.unwrap();
    for _ in 0..3 {
        fleet.environment.advance(rollout.id).await.unwrap();
        assert_eq!(open().await, 2);
    }
    fleet.runner().run_one(Claim::Batch(rollout.id)).await.unwrap();

    assert_eq!(open().await, 2, "one has ended, one comes");
    assert_eq!(complete(&fleet, &rollout).await.state, RolloutState::Succeeded);
}

#[tokio::test]
async fn a_wave_that_is_not_well_afterwards_is_the_last() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    fleet.create_tenant("globex").await;
    labels(&fleet);
    let plan = RolloutPlan { canary: vec![tenant("acme")], ..RolloutPlan::default() };
    let rollout = start(&fleet, &plan).await;
    turn(&fleet, rollout.id).await;
    let admin = fleet.admin("postgres").await;
    admin.batch_execute("alter database tenant_acme allow_connections false").await.unwrap();

    let held = turn(&fleet, rollout.id).await;

    assert_eq!(held.state, RolloutState::Paused);
    assert!(held.reason.unwrap().message.contains("tenant acme is unwell"));
    admin.batch_execute("alter database tenant_acme allow_connections true").await.unwrap();
    fleet.environment.resume_rollout(rollout.id, "test").await.unwrap();
    assert_eq!(complete(&fleet, &rollout).await.state, RolloutState::Succeeded);
}

#[tokio::test]
async fn whoever_is_made_or_restored_on_the_way_ends_at_the_version() {
    let fleet = Fleet::start().await;
    for name in ["acme", "globex"] {
        fleet.create_tenant(name).await;
        fleet.back_up(name).await;
    }
    let old_files = tempfile::TempDir::new().unwrap();
    let first = fleet.migrations.path().join("V1__boards.sql");
    std::fs::copy(first, old_files.path().join("V1__boards.sql")).unwrap();
    let outdated = Environment::new(
        fleet.catalog().clone(),
        Some(store(&fleet.s3).await),
        limits(old_files.path().to_owned(), 0),
    );
    let outdated = Runner::new(outdated.await.unwrap(), CancellationToken::new());
    labels(&fleet);
    let plan = RolloutPlan { canary: vec![tenant("globex")], ..RolloutPlan::default() };
    let rollout = start(&fleet, &plan).await;
    turn(&fleet, rollout.id).await;
    assert_eq!(versions(&fleet, ["acme", "globex"]).await, [1, 2]);

    let latest = tenantry::operations::request::BackupChoice::Latest;
    let new = crate::harness::new_tenant("hooli");
    let made = fleet.environment.create_tenant(&new, false, BY).await.unwrap();
    outdated.complete(made.id).await.unwrap();
    for name in ["acme", "globex"] {
        let restored = fleet.environment.restore(&slug(name), latest, BY).await.unwrap();
        outdated.complete(restored.id).await.unwrap();
    }
    assert_eq!(versions(&fleet, ["acme", "globex", "hooli"]).await, [1, 1, 1]);
    let ended = complete(&fleet, &rollout).await;

    assert_eq!(ended.state, RolloutState::Succeeded, "{:?}", ended.reason);
    assert_eq!(versions(&fleet, ["acme", "globex", "hooli"]).await, [2, 2, 2]);
    assert_eq!(ended.waves, ["canary", "rest", "stragglers"]);
    for name in ["acme", "globex", "hooli"] {
        assert_eq!(fleet.count(name, "labels").await, 0);
    }
}

#[tokio::test]
async fn a_backup_comes_first_where_one_is_wanted() {
    let fleet = Fleet::start().await;
    for name in ["acme", "globex"] {
        fleet.create_tenant(name).await;
    }
    labels(&fleet);
    let plan = RolloutPlan { backup_first: true, ..RolloutPlan::default() };

    let rollout = start(&fleet, &plan).await;
    let ended = complete(&fleet, &rollout).await;

    assert_eq!(ended.state, RolloutState::Succeeded, "{:?}", ended.reason);
    let backups = fleet.catalog().backups(None, 10).await.unwrap();
    assert_eq!(backups.len(), 2);
    assert!(backups.iter().all(|backup| backup.schema_version == 1), "of before");
    assert_eq!(versions(&fleet, ["acme", "globex"]).await, [2, 2]);
}

#[tokio::test]
async fn a_rollout_stops_at_the_version_that_was_asked_for() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    labels(&fleet);
    fleet.add_migration("V3__notes.sql", "create table notes (id bigint primary key);");
    let to = |to| RolloutPlan { to, ..RolloutPlan::default() };

    let rollout = start(&fleet, &to(Some(2))).await;
    assert_eq!(complete(&fleet, &rollout).await.state, RolloutState::Succeeded);
    assert_eq!(versions(&fleet, ["acme"]).await, [2]);
    let again = fleet.environment.start_rollout(&to(Some(2)), "test").await.unwrap();
    assert!(again.is_none(), "it is there");
    let wrong = fleet.environment.start_rollout(&to(Some(9)), "test").await.unwrap_err();
    assert!(wrong.to_string().contains("version 9"), "{wrong}");

    let rollout = start(&fleet, &to(None)).await;
    assert_eq!(complete(&fleet, &rollout).await.state, RolloutState::Succeeded);
    assert_eq!(versions(&fleet, ["acme"]).await, [3]);
}

#[tokio::test]
async fn one_rollout_is_open_at_a_time() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    labels(&fleet);
    let first = start(&fleet, &RolloutPlan::default()).await;

    let second = fleet.environment.start_rollout(&RolloutPlan::default(), "test").await;

    let Err(RolloutError::Catalog(CatalogError::Conflict(why))) = second else {
        panic!("{second:?}")
    };
    assert!(why.contains(&first.id.to_string()), "{why}");
    fleet.catalog().abort_rollout(first.id, "test").await.unwrap();
    let third = start(&fleet, &RolloutPlan::default()).await;
    assert!(fleet.environment.resume_rollout(first.id, "test").await.is_err(), "it is given up");
    assert_eq!(complete(&fleet, &third).await.state, RolloutState::Succeeded);
}

/// Their databases do not exist: whoever connected to one of them would fail.
#[tokio::test]
async fn nothing_to_do_for_a_thousand_tenants_is_one_look() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let catalog = fleet.admin("tenantry").await;
    catalog
        .batch_execute(
            "insert into tenants (id, slug, name, state, server_id, database_name, role_name, schema_version)
             select gen_random_uuid(), 't-' || n, 't', 'active', s.id, 'tenant_t-' || n, 'tenant_t-' || n, 1
             from generate_series(1, 1000) n, servers s",
        )
        .await
        .unwrap();

    let began = std::time::Instant::now();
    let started = fleet.environment.start_rollout(&RolloutPlan::default(), "test").await.unwrap();

    assert!(started.is_none());
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let status = fleet.environment.fleet_status().await.unwrap();
    assert_eq!((status.versions.len(), status.current(), status.unchecked()), (1, 1001, 1001));
    assert!(status.rollout.is_none());
}
