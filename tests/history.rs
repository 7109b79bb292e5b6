//! What ended long ago is removed: what goes, what stays because something leans on it, and how it goes.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{Timestamp, ToSpan as _};
use serde_json::{Value, json};
use tenantry::catalog::CatalogError;
use tenantry::catalog::operations::{OperationFilter, OperationState};
use tenantry::catalog::rollouts::{ItemState, RolloutRecord};
use tenantry::operations::Environment;
use tenantry::operations::history::{HistoryRules, Removed};
use tenantry::operations::rollouts::RolloutPlan;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::harness::{BY, Fleet, eventually, slug};

const DAY: Duration = Duration::from_hours(24);

/// A replica that keeps what has ended for ninety days.
fn forgetful(fleet: &Fleet) -> Environment {
    let mut environment = fleet.environment.clone();
    environment.limits.history =
        HistoryRules { operations: Some(90 * DAY), usage: Some(800 * DAY) };
    environment
}

/// Has all that there is have happened a hundred days ago.
async fn age(admin: &Client) {
    let sql = "update operations set created_at = created_at - interval '100 days',
                   finished_at = finished_at - interval '100 days';
               update rollouts set created_at = created_at - interval '100 days',
                   finished_at = finished_at - interval '100 days'";
    admin.batch_execute(sql).await.unwrap();
}

/// Puts an operation down as if it had been: a hundred days old, if nothing else is said.
async fn put(admin: &Client, tenant: Uuid, kind: &str, state: &str, other: Value) -> Uuid {
    let id = Uuid::now_v7();
    let sql = "insert into operations
                   (id, tenant_id, kind, input, memory, state, requested_by, batch_id, created_at, finished_at)
               select $1, $2, $3, '{}', coalesce($5::jsonb -> 'memory', '{}'), $4, 'schedule',
                      ($5 ->> 'batch')::uuid, now() - coalesce(($5 ->> 'age')::int, 100) * interval '1 day',
                      case when $4 not in ('queued', 'running')
                           then now() - coalesce(($5 ->> 'ended')::int, ($5 ->> 'age')::int, 100) * interval '1 day'
                      end";
    admin.execute(sql, &[&id, &tenant, &kind, &state, &other]).await.unwrap();
    id
}

async fn left(admin: &Client) -> Vec<Uuid> {
    let rows = admin.query("select id from operations", &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn what_nothing_leans_on_goes_and_the_rest_stays_however_old() {
    let fleet = Fleet::start().await;
    let mut ids = BTreeMap::new();
    for name in ["acme", "stuck", "gone"] {
        ids.insert(name, fleet.create_tenant(name).await.id);
    }
    let deleted = fleet.environment.delete(&slug("gone"), true, BY).await.unwrap();
    fleet.complete(&deleted).await;
    let (acme, admin) = (ids["acme"], fleet.admin("tenantry").await);
    age(&admin).await;
    let no = || json!({});
    // The newest of its kind, before which the others of it may go.
    let batch = Uuid::now_v7();
    for kind in ["backup", "migrate", "restore", "relocate", "suspend", "rename", "clone", "drill"]
    {
        for tenant in [acme, ids["stuck"]] {
            put(&admin, tenant, kind, "succeeded", json!({ "age": 1 })).await;
        }
    }
    let word = |turn: i64| json!({ "memory": { "word": { "turn": turn } } });

    let mut goes = BTreeMap::new();
    goes.insert("succeeded", put(&admin, acme, "backup", "succeeded", no()).await);
    goes.insert("cancelled", put(&admin, acme, "restore", "cancelled", no()).await);
    goes.insert("comes again", put(&admin, acme, "backup", "failed", no()).await);
    goes.insert("catching up", put(&admin, acme, "migrate", "failed", no()).await);
    let batched = json!({ "batch": batch });
    goes.insert("traced", put(&admin, acme, "drill", "succeeded", batched.clone()).await);
    goes.insert("not the last word", put(&admin, acme, "suspend", "succeeded", word(1)).await);
    goes.insert("of a deleted one", put(&admin, ids["gone"], "restore", "failed", no()).await);
    let mut stays = BTreeMap::new();
    stays.insert("young", put(&admin, acme, "backup", "succeeded", json!({ "age": 80 })).await);
    let ended = json!({ "ended": 80 });
    stays.insert("ended young", put(&admin, acme, "backup", "succeeded", ended).await);
    stays.insert("queued", put(&admin, acme, "backup", "queued", no()).await);
    stays.insert("running", put(&admin, acme, "backup", "running", no()).await);
    stays.insert("may be retried", put(&admin, acme, "restore", "failed", no()).await);
    stays.insert("untraced", put(&admin, acme, "relocate", "succeeded", batched).await);
    stays.insert("last word", put(&admin, acme, "suspend", "succeeded", word(2)).await);
    stays.insert("newest", put(&admin, acme, "prune", "succeeded", no()).await);
    stays.insert("stuck", put(&admin, ids["stuck"], "backup", "succeeded", no()).await);
    let mut referred = |what: &'static str, id: Uuid| {
        stays.insert(what, id);
        id
    };
    let kept = referred("kept", put(&admin, acme, "restore", "succeeded", no()).await);
    let slug = referred("slug", put(&admin, acme, "rename", "cancelled", no()).await);
    let spare = referred("spare", put(&admin, acme, "restore", "cancelled", no()).await);
    let mask = referred("mask", put(&admin, acme, "clone", "cancelled", no()).await);
    let caught = referred("caught up", put(&admin, acme, "migrate", "failed", no()).await);
    let refer = format!(
        "insert into retained_databases (database_name, server_id, tenant_id, operation_id, drop_after)
             select 'kept', server_id, id, '{kept}', now() from tenants where id = '{acme}';
         insert into tenant_slugs (slug, tenant_id, leads, reserved_for)
             values ('asked-for', '{acme}', false, '{slug}');
         insert into spares (id, server_id, digest, version, claimed_by)
             select gen_random_uuid(), server_id, '', 1, '{spare}' from tenants where id = '{acme}';
         insert into clone_masks values ('{mask}', 'select 1');
         insert into catch_ups (tenant_id, operation_id, digest) values ('{acme}', '{caught}', '');
         update tenants set state = 'restoring' where id = '{}'",
        ids["stuck"]
    );
    admin.batch_execute(&refer).await.unwrap();

    assert_eq!(
        fleet.environment.prune_history(Timestamp::now()).await.unwrap(),
        Removed::default()
    );
    let removed = forgetful(&fleet).prune_history(Timestamp::now()).await.unwrap();

    let left = left(&admin).await;
    for (what, id) in goes {
        assert!(!left.contains(&id), "{what}");
    }
    for (what, id) in stays {
        assert!(left.contains(&id), "{what}");
    }
    // And that the tenant that is deleted was made, and deleted.
    assert_eq!(removed, Removed { operations: 7 + 2, ..Removed::default() });
    let told = "select count(*) from audit_log where action = 'history.pruned'
                and (detail ->> 'operations')::int = 9 and detail ->> 'usage' = '0'";
    assert_eq!(admin.query_one(told, &[]).await.unwrap().get::<_, i64>(0), 1);
    let again = forgetful(&fleet).prune_history(Timestamp::now()).await.unwrap();
    assert_eq!(again, Removed::default());
}

#[tokio::test]
async fn the_audit_log_still_says_who_asked_and_a_tenant_is_worked_on_as_before() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let admin = fleet.admin("tenantry").await;
    let (acme, mut asked) = (slug("acme"), Vec::new());
    for _ in 0..2 {
        for operation in [
            fleet.environment.suspend(&acme, None, BY).await.unwrap(),
            fleet.environment.resume(&acme, BY).await.unwrap(),
        ] {
            fleet.complete(&operation).await;
            asked.push(operation.id);
        }
        asked.push(fleet.back_up("acme").await.id);
    }
    age(&admin).await;

    let removed = forgetful(&fleet).prune_history(Timestamp::now()).await.unwrap();

    assert_eq!(removed.operations, 3, "the first of each kind");
    let gone = fleet.catalog().operation(asked[0]).await;
    assert!(matches!(gone, Err(CatalogError::Missing { .. })), "{gone:?}");
    for id in asked {
        let sql = "select array_agg(action order by id) from audit_log where detail ->> 'operation' = $1::text
                   and actor = 'test'";
        let told: Vec<String> = admin.query_one(sql, &[&id.to_string()]).await.unwrap().get(0);
        assert_eq!(told, ["operation.asked", "operation.succeeded"]);
    }
    let suspended = fleet.environment.suspend(&acme, None, BY).await.unwrap();
    assert_eq!(fleet.complete(&suspended).await.state, OperationState::Succeeded);
    let deleted = fleet.environment.delete(&acme, false, BY).await.unwrap();
    assert_eq!(fleet.complete(&deleted).await.state, OperationState::Succeeded);
    fleet.assert_healthy().await;
}

async fn roll_out(fleet: &Fleet, file: &str, table: &str) -> RolloutRecord {
    fleet.add_migration(file, &format!("create table {table} (id bigint primary key);"));
    fleet.environment.reload_migrations().await.unwrap();
    fleet.environment.start_rollout(&RolloutPlan::default(), "test").await.unwrap().unwrap()
}

#[tokio::test]
async fn a_rollout_goes_as_a_whole_but_not_the_newest_that_reached_anybody() {
    let fleet = Fleet::start().await;
    for name in ["acme", "globex"] {
        fleet.create_tenant(name).await;
    }
    let admin = fleet.admin("tenantry").await;
    let mut rollouts = Vec::new();
    for (file, table) in [("V2__labels.sql", "labels"), ("V3__colours.sql", "colours")] {
        let rollout = roll_out(&fleet, file, table).await;
        fleet.runner().complete_rollout(rollout.id, 2).await.unwrap();
        rollouts.push(rollout.id);
    }
    for (file, table) in [("V4__sizes.sql", "sizes"), ("V5__shapes.sql", "shapes")] {
        let rollout = roll_out(&fleet, file, table).await;
        fleet.catalog().abort_rollout(rollout.id, "test").await.unwrap();
        rollouts.push(rollout.id);
    }
    age(&admin).await;

    let removed = forgetful(&fleet).prune_history(Timestamp::now()).await.unwrap();

    let expected = Removed { rollouts: 2, operations: 2, usage: 0 };
    assert_eq!(removed, expected, "the first and an aborted one, with the migrations of the first");
    let [first, reached, aborted, newest] = rollouts[..] else { panic!("{rollouts:?}") };
    for gone in [first, aborted] {
        let found = fleet.catalog().rollout(gone).await;
        assert!(matches!(found, Err(CatalogError::Missing { .. })), "{found:?}");
        for table in ["rollout_tenants", "rollout_events"] {
            let sql = format!("select count(*) from {table} where rollout_id = $1");
            assert_eq!(admin.query_one(&sql, &[&gone]).await.unwrap().get::<_, i64>(0), 0);
        }
    }
    let tenants = fleet.catalog().rollout_tenants(reached).await.unwrap();
    assert!(tenants.iter().all(|tenant| tenant.state == ItemState::Succeeded), "{tenants:?}");
    assert_eq!(fleet.catalog().rollout(newest).await.unwrap().id, newest);
    let last = fleet.catalog().last_rollout_that_reached().await.unwrap().unwrap();
    assert_eq!(last.id, reached);
}

#[tokio::test]
async fn an_open_rollout_stays_however_old() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let admin = fleet.admin("tenantry").await;
    let open = roll_out(&fleet, "V2__labels.sql", "labels").await;
    age(&admin).await;

    let removed = forgetful(&fleet).prune_history(Timestamp::now()).await.unwrap();

    assert_eq!(removed, Removed::default());
    assert_eq!(fleet.catalog().open_rollout().await.unwrap().map(|it| it.id), Some(open.id));
}

#[tokio::test]
async fn many_go_a_few_at_a_time_and_replicas_do_not_collide() {
    const MANY: i64 = 2_500;
    let fleet = Fleet::start().await;
    let acme = fleet.create_tenant("acme").await.id;
    let admin = fleet.admin("tenantry").await;
    // All of one moment: what was looked at is told from what was not by the id.
    let history = format!(
        "alter table operations disable trigger user;
         insert into operations (id, tenant_id, kind, input, state, requested_by, created_at, finished_at)
         select gen_random_uuid(), '{acme}', 'backup', '{{}}', 'succeeded', 'schedule',
                now() - interval '100 days', now() - interval '99 days'
         from generate_series(1, {MANY}) n;
         alter table operations enable trigger user"
    );
    admin.batch_execute(&history).await.unwrap();
    let (before, mut after) = (Timestamp::now() - 90 * DAY, None);
    let first = fleet.catalog().prune_operations(before, after, 500).await.unwrap().unwrap();
    assert_eq!(first.removed, 500);

    let (one, other) = (forgetful(&fleet), forgetful(&fleet));
    let now = Timestamp::now();
    let (one, other) = tokio::join!(one.prune_history(now), other.prune_history(now));

    let removed = one.unwrap().operations + other.unwrap().operations;
    assert_eq!(removed, MANY - 500 - 1, "the newest stays");
    let mut looks = 0;
    while let Some(pruned) = fleet.catalog().prune_operations(before, after, 500).await.unwrap() {
        assert_eq!(pruned.removed, 0);
        after = Some(pruned.last);
        looks += 1;
    }
    assert_eq!(looks, 1);
}

#[tokio::test]
async fn what_is_tried_again_at_that_moment_stays() {
    let fleet = Fleet::start().await;
    let acme = fleet.create_tenant("acme").await.id;
    let (mut admin, watch) = (fleet.admin("tenantry").await, fleet.admin("tenantry").await);
    let failed = put(&admin, acme, "backup", "failed", json!({})).await;
    let newest = put(&admin, acme, "backup", "succeeded", json!({ "age": 1 })).await;
    let environment = forgetful(&fleet);
    let retry = admin.transaction().await.unwrap();
    let sql = "update operations set state = 'queued', finished_at = null where id = $1";
    retry.execute(sql, &[&failed]).await.unwrap();

    let pruning = tokio::spawn(async move { environment.prune_history(Timestamp::now()).await });
    let waits = "select exists (select from pg_stat_activity where wait_event_type = 'Lock'
                                and query like '%history::prune_operations%' and pid <> pg_backend_pid())";
    eventually("it waits for the retry", async || {
        watch.query_one(waits, &[]).await.unwrap().get(0)
    })
    .await;
    retry.commit().await.unwrap();

    assert_eq!(pruning.await.unwrap().unwrap().operations, 0);
    let filter = OperationFilter { limit: 10, ..OperationFilter::default() };
    let left = fleet.catalog().operations(&filter).await.unwrap();
    let left: Vec<_> = left.iter().map(|(operation, _)| operation.id).collect();
    assert!(left.contains(&failed) && left.contains(&newest), "{left:?}");
}

#[tokio::test]
async fn days_of_usage_go_only_where_somebody_says_so() {
    let fleet = Fleet::start().await;
    let acme = fleet.create_tenant("acme").await.id;
    let admin = fleet.admin("tenantry").await;
    let days = format!(
        "insert into tenant_usage (tenant_id, day, queries)
         select '{acme}', (now() at time zone 'utc')::date - n, 1 from generate_series(700, 2900) n"
    );
    admin.batch_execute(&days).await.unwrap();
    let mut environment = forgetful(&fleet);
    environment.limits.history.usage = None;
    let now = Timestamp::now();
    assert_eq!(environment.prune_history(now).await.unwrap(), Removed::default());

    let removed = forgetful(&fleet).prune_history(now).await.unwrap();

    let of_800_days = now.to_zoned(jiff::tz::TimeZone::UTC).date() - 800.days();
    assert_eq!(removed, Removed { usage: 2900 - 800, ..Removed::default() });
    let left = admin.query_one("select min(day), count(*) from tenant_usage", &[]).await.unwrap();
    assert_eq!(left.get::<_, jiff::civil::Date>(0), of_800_days);
    assert_eq!(left.get::<_, i64>(1), 101);
}
