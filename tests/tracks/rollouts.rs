//! Rollouts of a fleet with tracks.

use tenantry::catalog::lock::Claim;
use tenantry::catalog::operations::OperationFilter;
use tenantry::catalog::rollouts::{ItemState, RolloutRecord, RolloutState};
use tenantry::operations::rollouts::{RolloutPlan, Selection};

use super::*;

/// Refused where a board is called Welcome, as in the sample data.
const PICKY: &str = "alter table boards add constraint none check (title <> 'Welcome');";

async fn start(fleet: &Fleet, plan: &RolloutPlan) -> Option<RolloutRecord> {
    fleet.environment.reload_migrations().await.unwrap();
    fleet.environment.start_rollout(plan, "test").await.unwrap()
}

async fn up(fleet: &Fleet, plan: &RolloutPlan) -> RolloutRecord {
    let rollout = start(fleet, plan).await.unwrap();
    fleet.runner().complete_rollout(rollout.id, 4).await.unwrap()
}

/// `acme` and `initech` of gold, `globex` of silver, and `hooli` of none.
async fn four() -> Fleet {
    let fleet = fleet().await;
    create(&fleet, "acme", "gold").await;
    create(&fleet, "initech", "gold").await;
    create(&fleet, "globex", "silver").await;
    fleet.create_tenant_with("hooli", true).await;
    fleet
}

fn labels(fleet: &Fleet) {
    fleet.add_migration("V2__labels.sql", "create table labels (id bigint primary key);");
}

#[tokio::test]
async fn a_file_of_a_track_that_fails_keeps_the_others_from_nothing_and_resume_takes_just_those() {
    let fleet = four().await;
    labels(&fleet);
    add(&fleet, "gold", "V2__picky.sql", PICKY);
    fleet.admin("tenant_initech").await.batch_execute("delete from boards").await.unwrap();

    let ended = up(&fleet, &RolloutPlan::default()).await;

    assert_eq!(ended.state, RolloutState::Failed);
    assert_eq!(standing(&fleet, "acme").await, in_gold(2, 1), "only its own file is missing");
    assert_eq!(standing(&fleet, "initech").await, in_gold(2, 2));
    assert_eq!(standing(&fleet, "globex").await, (2, Some("silver".to_owned()), 0));
    assert_eq!(standing(&fleet, "hooli").await, (2, None, 0));
    let tenants = fleet.catalog().rollout_tenants(ended.id).await.unwrap();
    let failed: Vec<_> = tenants.iter().filter(|t| t.state == ItemState::Failed).collect();
    assert_eq!((failed.len(), failed[0].slug.as_str()), (1, "acme"));
    let error = failed[0].error.as_ref().unwrap();
    assert!(error.message.contains("tracks/gold/V2__picky.sql"), "{error:?}");
    fleet.router().connection(&slug("acme")).await.unwrap();
    let status = fleet.environment.fleet_status().await.unwrap();
    assert_eq!((status.behind(), status.current()), (1, 3));

    fleet.admin("tenant_acme").await.batch_execute("delete from boards").await.unwrap();
    fleet.environment.resume_rollout(ended.id, "test").await.unwrap();
    let ended = fleet.runner().complete_rollout(ended.id, 4).await.unwrap();
    assert_eq!(ended.state, RolloutState::Succeeded, "{:?}", ended.reason);
    assert_eq!(standing(&fleet, "acme").await, in_gold(2, 2));
    let filter = OperationFilter { batch: Some(ended.id), limit: 100, ..Default::default() };
    assert_eq!(fleet.catalog().operations(&filter).await.unwrap().len(), 4, "one a tenant");
    for name in ["acme", "globex", "hooli", "initech"] {
        assert_clean(&fleet, name).await;
    }
    assert!(start(&fleet, &RolloutPlan::default()).await.is_none());
}

#[tokio::test]
async fn a_change_of_a_track_alone_is_a_rollout_of_its_tenants() {
    let fleet = four().await;
    assert!(start(&fleet, &RolloutPlan::default()).await.is_none());
    add(&fleet, "gold", "V2__notes.sql", "create table notes (id bigint primary key)");
    add(&fleet, "silver", "R__silver.sql", "create or replace view silver as select 2 as one");
    fleet.environment.reload_migrations().await.unwrap();

    let before = fleet.environment.fleet_status().await.unwrap();
    let canary = vec![Selection::parse("track=silver").unwrap()];
    let ended = up(&fleet, &RolloutPlan { canary, ..RolloutPlan::default() }).await;

    assert_eq!((before.behind(), before.outdated(), before.current()), (2, 1, 1));
    assert_eq!(
        (ended.state, ended.waves),
        (RolloutState::Succeeded, vec!["canary".into(), "rest".into()])
    );
    let tenants = fleet.catalog().rollout_tenants(ended.id).await.unwrap();
    let slugs: Vec<_> = tenants.iter().map(|tenant| tenant.slug.as_str()).collect();
    assert_eq!(slugs, ["globex", "acme", "initech"]);
    assert_eq!(standing(&fleet, "acme").await, in_gold(1, 2));
    let view = fleet.admin("tenant_globex").await;
    assert_eq!(view.query_one("select one from silver", &[]).await.unwrap().get::<_, i32>(0), 2);
}

#[tokio::test]
async fn a_rollout_of_one_track_leaves_everybody_else_alone() {
    let fleet = four().await;
    labels(&fleet);
    add(&fleet, "gold", "V2__notes.sql", "create table notes (id bigint primary key)");

    let plan = RolloutPlan { track: Some(label("gold")), ..RolloutPlan::default() };
    let ended = up(&fleet, &plan).await;
    let unknown = RolloutPlan { track: Some(label("iron")), ..RolloutPlan::default() };
    let refused = fleet.environment.start_rollout(&unknown, "test").await.unwrap_err().to_string();

    assert_eq!(ended.state, RolloutState::Succeeded, "{:?}", ended.reason);
    assert_eq!(standing(&fleet, "acme").await, in_gold(2, 2));
    assert_eq!(standing(&fleet, "hooli").await, (1, None, 0));
    assert_eq!(standing(&fleet, "globex").await.0, 1);
    assert!(refused.contains("no track iron"), "{refused}");
}

#[tokio::test]
async fn who_comes_into_a_track_while_a_rollout_runs_comes_with_the_stragglers() {
    let fleet = fleet().await;
    for name in ["acme", "hooli"] {
        fleet.create_tenant(name).await;
    }
    labels(&fleet);
    let rollout = start(&fleet, &RolloutPlan::default()).await.unwrap();
    for _ in 0..2 {
        fleet.environment.advance(rollout.id).await.unwrap();
    }
    while fleet.runner().run_one(Claim::Batch(rollout.id)).await.unwrap().is_some() {}

    fleet.environment.set_track(&slug("acme"), Some(&label("gold")), "test").await.unwrap();
    let ended = fleet.runner().complete_rollout(rollout.id, 2).await.unwrap();

    assert_eq!(ended.state, RolloutState::Succeeded, "{:?}", ended.reason);
    assert_eq!(ended.waves, ["all", "stragglers"]);
    assert_eq!(standing(&fleet, "acme").await, in_gold(2, 1));
}

#[tokio::test]
async fn a_rollout_goes_on_only_with_the_files_of_tracks_that_it_began_with() {
    let fleet = four().await;
    add(&fleet, "gold", "V2__picky.sql", PICKY);
    let ended = up(&fleet, &RolloutPlan::default()).await;

    add(&fleet, "gold", "V2__picky.sql", "select 1");
    fleet.environment.reload_migrations().await.unwrap();
    let refused = fleet.environment.resume_rollout(ended.id, "test").await.unwrap_err();

    assert!(refused.to_string().contains("tracks/gold/V2__picky.sql has been edited"), "{refused}");
}

#[tokio::test]
async fn a_ceiling_that_holds_a_common_file_back_holds_every_track_back() {
    let fleet = four().await;
    labels(&fleet);
    fleet.add_migration("V3__more.sql", "create table more (id bigint primary key);");
    let uses =
        "create table uses (label_id bigint references labels, more_id bigint references more)";
    add(&fleet, "gold", "V2__uses.sql", uses);

    let ended = up(&fleet, &RolloutPlan { to: Some(2), ..RolloutPlan::default() }).await;
    assert_eq!(ended.state, RolloutState::Succeeded, "{:?}", ended.reason);
    assert_eq!(standing(&fleet, "acme").await, in_gold(2, 1));

    fleet.environment.freeze_at(2, "test").await.unwrap();
    let frozen = fleet.environment.fleet_status().await.unwrap();
    assert_eq!((frozen.target, frozen.current(), frozen.behind()), (2, 4, 0));
    assert!(start(&fleet, &RolloutPlan::default()).await.is_none());
    create(&fleet, "late", "gold").await;
    assert_eq!(standing(&fleet, "late").await, in_gold(2, 0), "it waits too");
    fleet.back_up("acme").await;
    let latest = tenantry::operations::request::BackupChoice::Latest;
    let restore = fleet.environment.restore(&slug("acme"), latest, BY).await.unwrap();
    fleet.complete(&restore).await;
    assert_eq!(standing(&fleet, "acme").await, in_gold(2, 1));

    fleet.catalog().unfreeze("test").await.unwrap();
    assert_eq!(up(&fleet, &RolloutPlan::default()).await.state, RolloutState::Succeeded);
    for name in ["acme", "late"] {
        assert_eq!(standing(&fleet, name).await, in_gold(3, 2), "{name}");
        assert_clean(&fleet, name).await;
    }
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn a_plan_and_a_dry_run_tell_the_files_of_tracks() {
    let fleet = four().await;
    labels(&fleet);
    let index = "create index audits_again on audits (board_id);\n\
         create table both_ways (label_id bigint references labels);";
    add(&fleet, "gold", "V2__index.sql", index);
    fleet.environment.reload_migrations().await.unwrap();
    let acme = Selection::parse("acme").unwrap();
    let plan = RolloutPlan { canary: vec![acme], ..RolloutPlan::default() };

    let preview = fleet.environment.preview_rollout(&plan, 2).await.unwrap();
    let trial = fleet.environment.try_rollout(&plan).await.unwrap();

    let files: Vec<_> =
        preview.files.iter().map(|file| (file.file.as_str(), file.tenants)).collect();
    assert_eq!(files, [("V2__labels.sql", 4), ("tracks/gold/V2__index.sql", 2)]);
    let of_track = &preview.files[1];
    assert_eq!(of_track.track, Some(label("gold")));
    let risks: Vec<_> =
        of_track.effects.iter().flat_map(|effect| &effect.risks).map(|risk| risk.rule).collect();
    assert!(risks.contains(&"create-index"), "{risks:?}");
    let tried = trial.outcomes.last().unwrap();
    assert_eq!(tried.tenant, Some(slug("acme")));
    assert_eq!(tried.tried, ["V2__labels.sql", "tracks/gold/V2__index.sql"]);
    assert!(trial.is_well(), "{trial:#?}");
    assert_eq!(standing(&fleet, "acme").await, in_gold(1, 1));

    add(&fleet, "gold", "V2__index.sql", "create index on nothing (id)");
    fleet.environment.reload_migrations().await.unwrap();
    let trial = fleet.environment.try_rollout(&plan).await.unwrap();
    let error = trial.outcomes.last().unwrap().error.as_ref().unwrap();
    assert!(error.message.contains("tracks/gold/V2__index.sql failed"), "{error:?}");
}

#[tokio::test]
async fn in_the_background_a_track_that_fails_stops_its_own_tenants_alone() {
    use tenantry::catalog::catching_up::CatchUpMode;
    use tenantry::operations::catching_up::CatchingUpWorker;

    let fleet = fleet().await;
    for number in 0..4 {
        create(&fleet, &format!("gold-{number}"), "gold").await;
    }
    fleet.create_tenant("hooli").await;
    fleet.create_tenant("initech").await;
    add(&fleet, "gold", "V2__picky.sql", PICKY);
    let mut environment = fleet.environment.clone();
    environment.limits.catch_up = Some(CatchUpMode::Background);
    environment.reload_migrations().await.unwrap();
    let mut worker = CatchingUpWorker::new(environment.clone()).unwrap();

    for _ in 0..8 {
        worker.look().await.unwrap();
        while fleet.runner().run_one(Claim::Any).await.unwrap().is_some() {}
    }
    let failed = "select count(*) from operations where kind = 'migrate' and state = 'failed'";
    let failed: i64 = fleet.admin("tenantry").await.query_one(failed, &[]).await.unwrap().get(0);
    assert_eq!(failed, 3, "the fourth is left alone");

    labels(&fleet);
    environment.reload_migrations().await.unwrap();
    upkeep::tend(&environment).await.unwrap();
    for _ in 0..12 {
        worker.look().await.unwrap();
        while fleet.runner().run_one(Claim::Any).await.unwrap().is_some() {}
    }
    for name in ["hooli", "initech"] {
        assert_eq!(standing(&fleet, name).await, (2, None, 0), "{name}");
    }
    assert_eq!(standing(&fleet, "gold-0").await.2, 1);
}
