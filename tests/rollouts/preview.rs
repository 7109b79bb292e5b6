//! What a rollout would do, and trying it: nobody is migrated by either.

use std::process::Output;

use reqwest::StatusCode;
use serde_json::{Value, json};
use tenantry::operations::rollouts::{Preview, RolloutPlan, Selection};
use tenantry::operations::upkeep::ensure_template;

use super::{PICKY, labels, tenant, versions};
use crate::harness::process::command;
use crate::harness::replica::Replica;
use crate::harness::{Fleet, slug};

const INDEX: &str = "create index boards_title on boards (title);\n\
    -- tenantry: allow rename\nalter table boards rename created_at to made_at;";

async fn cli(fleet: &Fleet, line: &str) -> Output {
    let mut command = command(fleet);
    command.args(line.split(' '));
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

async fn preview(fleet: &Fleet, plan: &RolloutPlan) -> Preview {
    fleet.environment.reload_migrations().await.unwrap();
    fleet.environment.preview_rollout(plan, 2).await.unwrap()
}

async fn nobody_was_migrated(fleet: &Fleet) {
    assert!(fleet.catalog().open_rollout().await.unwrap().is_none());
    assert_eq!(versions(fleet, ["acme"]).await, [1]);
}

#[tokio::test]
async fn a_plan_tells_files_waves_sizes_and_risks() {
    let fleet = Fleet::start().await;
    for name in ["acme", "globex", "hooli"] {
        fleet.create_tenant(name).await;
    }
    let rows =
        "insert into boards (title) select 'x' from generate_series(1, 20000); analyze boards";
    fleet.admin("tenant_globex").await.batch_execute(rows).await.unwrap();
    labels(&fleet);
    fleet.add_migration("V3__index.sql", "create index boards_title on boards (title);");
    fleet.add_migration("V4__fill.sql", "update boards set title = 'y';");
    let plan = RolloutPlan { canary: vec![tenant("hooli")], ..RolloutPlan::default() };

    let before = preview(&fleet, &plan).await;
    let server = fleet.tenant("acme").await.server_id;
    let set = fleet.environment.migrations();
    ensure_template(&fleet.environment, server, &set).await.unwrap();
    let found = preview(&fleet, &plan).await;

    assert!(before.forecast.is_none(), "no template has been made of these files");
    assert_eq!((found.target_version, found.tenants, found.sampled), (4, 3, 2));
    let waves: Vec<_> =
        found.waves.iter().map(|wave| (wave.name.as_str(), wave.tenants.len())).collect();
    assert_eq!(waves, [("canary", 1), ("rest", 2)]);
    let files: Vec<_> = found.files.iter().map(|file| (file.file.as_str(), file.tenants)).collect();
    assert_eq!(files, [("V2__labels.sql", 3), ("V3__index.sql", 3), ("V4__fill.sql", 3)]);
    assert!(found.files[0].effects.is_empty() && found.files[0].template_ms.is_some());
    let index = &found.files[1].effects[0];
    assert_eq!((index.lock, index.labour), (Some("SHARE"), "scan"));
    assert_eq!(index.risks[0].rule, "create-index");
    let size = index.size.clone().unwrap();
    assert_eq!((size.largest_tenant, size.largest_rows), (slug("globex"), Some(20_000)));
    assert!(size.largest_bytes > 1_000_000 && size.total_bytes > size.largest_bytes);
    assert_eq!(found.files[2].effects[0].risks[0].rule, "backfill");
    assert!(found.forecast.unwrap().seconds > 0.0);
    nobody_was_migrated(&fleet).await;
}

#[tokio::test]
async fn an_update_of_few_rows_is_no_risk() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    fleet.admin("tenant_acme").await.batch_execute("analyze boards").await.unwrap();
    fleet.add_migration("V2__fill.sql", "update boards set title = 'y';");

    let found = preview(&fleet, &RolloutPlan::default()).await;
    let one = RolloutPlan { to: Some(1), ..RolloutPlan::default() };
    let nothing = preview(&fleet, &one).await;

    assert_eq!(found.files[0].effects[0].labour, "update");
    assert!(!found.is_risky(), "{found:?}");
    assert_eq!((nothing.tenants, nothing.files.len()), (0, 0));
}

#[tokio::test]
async fn the_command_line_plans_and_refuses_what_is_risky() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    fleet.add_migration("V2__index.sql", INDEX);

    let plan = cli(&fleet, "migrate plan --wave 100%").await;
    let strict = cli(&fleet, "migrate plan --strict --output-format json").await;

    let said = text(&plan.stdout);
    assert_eq!(plan.status.code(), Some(0), "{}", text(&plan.stderr));
    assert!(said.contains("V2__index.sql:1  create index boards_title on boards"), "{said}");
    assert!(said.contains("SHARE on boards, scan"), "{said}");
    assert!(said.contains("safer: `create index concurrently`"), "{said}");
    assert!(said.contains("rename (allowed)"), "{said}");
    assert_eq!(strict.status.code(), Some(4), "{}", text(&strict.stderr));
    let document: Value = serde_json::from_slice(&strict.stdout).unwrap();
    assert_eq!(document["files"][0]["effects"][0]["risks"][0]["rule"], "create-index");
    nobody_was_migrated(&fleet).await;
}

#[tokio::test]
async fn a_dry_run_fails_where_the_rollout_would() {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    fleet.create_tenant("globex").await;
    fleet.add_migration("V2__picky.sql", PICKY);

    let without_rows = cli(&fleet, "migrate up --dry-run --canary globex").await;
    let canary = cli(&fleet, "migrate up --dry-run --canary acme --output-format json").await;

    assert_eq!(without_rows.status.code(), Some(0), "{}", text(&without_rows.stderr));
    let said = text(&without_rows.stdout);
    assert!(said.contains("template") && said.contains("globex"), "{said}");
    assert_eq!(canary.status.code(), Some(3), "{}", text(&canary.stderr));
    let document: Value = serde_json::from_slice(&canary.stdout).unwrap();
    assert_eq!(document["outcomes"][0]["error"], Value::Null);
    let error = document["outcomes"][1]["error"]["message"].as_str().unwrap();
    assert!(error.contains("V2__picky.sql"), "{error}");
    nobody_was_migrated(&fleet).await;
}

#[tokio::test]
async fn what_does_not_run_at_all_is_tried_on_no_tenant() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    fleet.add_migration("V2__wrong.sql", "alter table nowhere add column a int;");
    fleet.environment.reload_migrations().await.unwrap();
    let plan =
        RolloutPlan { canary: vec![Selection::Tenant(slug("acme"))], ..RolloutPlan::default() };

    let trial = fleet.environment.try_rollout(&plan).await.unwrap();

    assert_eq!(trial.outcomes.len(), 1, "the template alone");
    let error = trial.outcomes[0].error.clone().unwrap();
    assert!(error.message.contains("V2__wrong.sql"), "{}", error.message);
    nobody_was_migrated(&fleet).await;
}

#[tokio::test]
async fn what_cannot_be_undone_is_tried_on_the_template_alone() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let index =
        "-- tenantry: no-transaction\ncreate index concurrently boards_title on boards (title)";
    fleet.add_migration("V2__index.sql", index);
    fleet.environment.reload_migrations().await.unwrap();
    let plan = RolloutPlan { tenants: vec![slug("acme")], ..RolloutPlan::default() };

    let trial = fleet.environment.try_rollout(&plan).await.unwrap();

    assert!(trial.is_well());
    assert!(trial.outcomes[0].tried.contains(&"V2__index.sql".to_owned()));
    assert_eq!(trial.outcomes[1].skipped[0].file, "V2__index.sql");
    nobody_was_migrated(&fleet).await;
}

#[tokio::test]
async fn the_admin_api_plans_and_tries() {
    let replica = Replica::start().await;
    replica.create("acme").await;
    replica.fleet.add_migration("V2__index.sql", INDEX);

    let (status, plan) = replica.get("/api/migrations/plan?canary=acme&waves=5%25,100%25").await;
    let (wrong, _) = replica.get("/api/migrations/plan?canary=Acme").await;
    let (tried, trial) = replica.post("/api/rollouts/dry-run", json!({ "canary": ["acme"] })).await;

    assert_eq!((status, &plan["tenants"]), (StatusCode::OK, &json!(1)), "{plan}");
    assert_eq!(plan["files"][0]["effects"][0]["risks"][0]["rule"], "create-index");
    assert_eq!(wrong, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(
        (tried, &trial["outcomes"][1]["tenant"]),
        (StatusCode::OK, &json!("acme")),
        "{trial}"
    );
    assert_eq!(replica.get("/api/rollouts").await.1["rollouts"], json!([]));
}
