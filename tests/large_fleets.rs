//! What must not grow with the fleet, nor with all that ever happened to it: rows that the catalog's PostgreSQL reads.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tenantry::catalog::Catalog;
use tenantry::catalog::operations::{OperationFilter, OperationState};
use tenantry::catalog::rollouts::Enqueue;
use tenantry::operations::rollouts::RolloutPlan;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::harness::{Fleet, catalog, eventually};

/// Rows of a history, or tenants.
const MANY: i64 = 10_000;

/// How many rows of a table, and of its indexes, the sessions of a catalog of its own read for this.
async fn read(fleet: &Fleet, table: &str, ask: impl AsyncFnOnce(&Catalog)) -> i64 {
    let admin = fleet.admin("tenantry").await;
    let read = async || -> i64 {
        let sql = format!(
            "select (select seq_tup_read + coalesce(idx_tup_fetch, 0) from pg_stat_user_tables
                     where relname = '{table}')::int8
                    + (select coalesce(sum(idx_tup_read), 0) from pg_stat_user_indexes
                       where relname = '{table}')::int8"
        );
        admin.query_one(&sql, &[]).await.unwrap().get(0)
    };
    end_sessions(&admin).await;
    let before = read().await;

    let own = catalog(&fleet.postgres, &fleet.master_key);
    ask(&own).await;
    drop(own);

    end_sessions(&admin).await;
    read().await - before
}

/// Ends every session in the catalog but those that listen: a session tells what it has read at its end.
async fn end_sessions(admin: &Client) {
    let end = "select count(pg_terminate_backend(pid)) from pg_stat_activity
               where datname = 'tenantry' and backend_type = 'client backend' and pid <> pg_backend_pid()
                 and query <> '' and query not like 'listen%'";
    eventually("all have ended", async || {
        admin.query_one(end, &[]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
}

#[tokio::test]
async fn what_is_asked_all_the_time_reads_no_history() {
    let fleet = Fleet::start().await;
    let acme = fleet.create_tenant("acme").await.id;
    let (admin, batch) = (fleet.admin("tenantry").await, Uuid::now_v7());
    let history = format!(
        "alter table operations disable trigger user;
         insert into operations (id, tenant_id, kind, input, state, requested_by, batch_id, created_at, finished_at)
         select gen_random_uuid(), '{acme}', 'backup', '{{}}', 'succeeded', 'schedule', '{batch}',
                now() - n * interval '1 minute', now() - n * interval '1 minute'
         from generate_series(1, {MANY}) n;
         alter table operations enable trigger user;
         analyze operations"
    );
    admin.batch_execute(&history).await.unwrap();

    let all = read(&fleet, "operations", async |catalog| {
        drop(catalog.count_operations(None).await.unwrap());
    })
    .await;
    assert!(all >= MANY, "it is not measured: {all}");
    let often = read(&fleet, "operations", async |catalog| {
        // The first five times with a plan of their own, then perhaps with one for all.
        for _ in 0..8 {
            assert!(!catalog.is_provisioning().await.unwrap());
            assert_eq!(catalog.protections("schedule", None).await.unwrap().len(), 1);
            assert!(catalog.open_backups_by_server().await.unwrap().is_empty());
            catalog.guard_rollout(batch).await.unwrap();
            for state in [OperationState::Failed, OperationState::Queued, OperationState::Running] {
                let filter = OperationFilter {
                    state: Some(state),
                    limit: 100,
                    ..OperationFilter::default()
                };
                assert!(catalog.operations(&filter).await.unwrap().is_empty());
            }
        }
    })
    .await;

    assert!(often < MANY / 10, "{often}");
}

#[tokio::test]
async fn a_slot_of_a_server_is_filled_without_a_look_at_the_fleet() {
    let fleet = Fleet::start().await;
    let admin = fleet.admin("tenantry").await;
    let servers: Vec<String> = (1..=20).map(|number| format!("eu-{number}")).collect();
    for name in &servers {
        fleet.catalog().add_server(name, &fleet.postgres.url().into()).await.unwrap();
    }
    let tenants = format!(
        "insert into tenants (id, slug, name, state, server_id, database_name, role_name, schema_version)
         select gen_random_uuid(), 't' || n, 't', 'active', s.id, 'tenant_t' || n, 'tenant_t' || n, 1
         from generate_series(1, {MANY}) n
         join (select id, row_number() over (order by name) as number from servers where name <> 'default') s
           on s.number = n % 20 + 1;
         analyze tenants"
    );
    admin.batch_execute(&tenants).await.unwrap();
    fleet.add_migration("V2__labels.sql", "create table labels (id bigint primary key);");
    fleet.environment.reload_migrations().await.unwrap();
    let plan = RolloutPlan { per_server: Some(2), ..RolloutPlan::default() };
    let rollout = fleet.environment.start_rollout(&plan, "test").await.unwrap().unwrap();
    fleet.catalog().begin_rollout(rollout.id).await.unwrap();
    let enqueue = Enqueue {
        migrate: json!({ "to": 2 }),
        backup: json!({}),
        migrations_digest: rollout.migrations_digest.clone(),
        overall: None,
        per_server: Some(2),
    };
    let (id, enqueue) = (rollout.id, &enqueue);
    assert_eq!(fleet.catalog().enqueue_wave(id, enqueue).await.unwrap(), 40);

    let filled = read(&fleet, "rollout_tenants", async |catalog| {
        let admin = fleet.admin("tenantry").await;
        for _ in 0..10 {
            let end = "update operations set state = 'succeeded', finished_at = now()
                       where id = (select id from operations where state = 'queued' limit 1)";
            admin.batch_execute(end).await.unwrap();
            assert_eq!(catalog.enqueue_wave(id, enqueue).await.unwrap(), 1);
        }
    })
    .await;

    assert!(filled < MANY / 10, "{filled}");
    // Who is moved meanwhile is asked for where it is then.
    let admin = fleet.admin("tenantry").await;
    let moved = "with moved as (
                     update tenants set server_id = (select id from servers where name = 'default')
                     where slug = 't1' returning id, server_id)
                 select id, server_id from moved";
    let moved = admin.query_one(moved, &[]).await.unwrap();
    let known = "select server_id from rollout_tenants where tenant_id = $1";
    let known = admin.query_one(known, &[&moved.get::<_, Uuid>(0)]).await.unwrap();
    assert_eq!(known.get::<_, Uuid>(0), moved.get::<_, Uuid>(1));
}

#[tokio::test]
async fn a_large_table_is_exported_whole() {
    let fleet = Fleet::start().await;
    let acme = fleet.create_tenant("acme").await.id;
    let admin = fleet.admin("tenantry").await;
    let members = format!(
        "insert into members (tenant_id, issuer, subject, role)
         select '{acme}', 'https://id.example', 'user-' || n, 'member' from generate_series(1, {MANY}) n"
    );
    admin.batch_execute(&members).await.unwrap();

    let export = fleet.catalog().export(&BTreeMap::new()).await.unwrap();

    assert_eq!(i64::try_from(export.rows("members").len()).unwrap(), MANY);
    for table in ["members", "tenants", "servers", "tiers"] {
        let sql = format!("select jsonb_agg(to_jsonb(t) - 'backup_key_sealed') from {table} t");
        let whole: Value = admin.query_one(&sql, &[]).await.unwrap().get(0);
        assert_eq!(Value::from(export.rows(table)), whole, "{table}");
    }
}

#[tokio::test]
async fn a_chore_of_every_so_often_is_begun_once_for_all_replicas() {
    let fleet = Fleet::start().await;
    let (one, other) = (fleet.catalog(), catalog(&fleet.postgres, &fleet.master_key));
    let hour = Duration::from_hours(1);

    let begun = tokio::join!(one.begin_chore("chore", hour), other.begin_chore("chore", hour));

    assert_ne!(begun.0.unwrap(), begun.1.unwrap());
    assert!(!one.begin_chore("chore", hour).await.unwrap());
    assert!(one.begin_chore("another", hour).await.unwrap());
    let earlier = "update chores set begun_at = begun_at - interval '2 hours'";
    fleet.admin("tenantry").await.batch_execute(earlier).await.unwrap();
    assert!(other.begin_chore("chore", hour).await.unwrap());
}
