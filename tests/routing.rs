//! The router: the right database, or an error; on every replica, soon.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tenantry::catalog::tenants::NewTenant;
use tenantry::operations::Work;
use tenantry::operations::request::BackupChoice;
use tenantry::router::{RouterError, RouterSettings, TenantRouter};
use tenantry::tenant::TenantState;

use crate::harness::{BY, Fleet, eventually, new_tenant, slug};

#[tokio::test]
async fn each_tenant_reaches_its_own_database_as_its_own_role() {
    let fleet = Fleet::start().await;
    let router = fleet.router();
    for name in ["acme", "globex"] {
        fleet.create_tenant(name).await;
    }

    for name in ["acme", "globex"] {
        let connection = router.connection(&slug(name)).await.unwrap();
        let row =
            connection.query_one("select current_database(), current_user", &[]).await.unwrap();

        assert_eq!(row.get::<_, &str>(0), format!("tenant_{name}"));
        assert_eq!(row.get::<_, &str>(1), format!("tenant_{name}"));
    }
}

#[tokio::test]
async fn an_unknown_tenant_gets_no_connection_and_is_found_once_it_exists() {
    let fleet = Fleet::start().await;
    let router = fleet.router();

    let refused = router.connection(&slug("acme")).await;
    assert!(matches!(refused, Err(RouterError::UnknownTenant(_))));

    fleet.create_tenant("acme").await;
    eventually("the new tenant is routed", async || router.connection(&slug("acme")).await.is_ok())
        .await;
}

#[tokio::test]
async fn a_half_made_tenant_gets_no_connection() {
    let fleet = Fleet::start().await;
    fleet.environment.create_tenant(&new_tenant("acme"), false, BY).await.unwrap();

    let refused = fleet.router().connection(&slug("acme")).await;

    assert!(matches!(
        refused,
        Err(RouterError::NotServed { state: TenantState::Provisioning, .. })
    ));
}

#[tokio::test]
async fn a_suspended_tenant_gets_no_connection_on_any_replica_within_a_second() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let other_changes = fleet.catalog().changes();
    let replicas = [
        fleet.router(),
        TenantRouter::new(fleet.catalog().clone(), other_changes, RouterSettings::default()),
    ];
    for router in &replicas {
        router.connection(&slug("acme")).await.unwrap();
    }

    let suspend =
        fleet.environment.suspend(&slug("acme"), Some("unpaid".into()), BY).await.unwrap();
    fleet.complete(&suspend).await;
    let committed = Instant::now();

    for router in &replicas {
        eventually("the suspension is seen", async || {
            router.connection(&slug("acme")).await.is_err()
        })
        .await;
        assert!(committed.elapsed() < Duration::from_secs(10));
        let refused = router.connection(&slug("acme")).await;
        assert!(matches!(
            refused,
            Err(RouterError::NotServed { state: TenantState::Suspended, .. })
        ));
    }

    let resume = fleet.environment.resume(&slug("acme"), BY).await.unwrap();
    fleet.complete(&resume).await;
    for router in &replicas {
        eventually("the tenant is served again", async || {
            router.connection(&slug("acme")).await.is_ok()
        })
        .await;
    }
}

#[tokio::test]
async fn suspension_ends_sessions_that_never_heard_of_it() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let connection = fleet.router().connection(&slug("acme")).await.unwrap();
    connection.query("select 1", &[]).await.unwrap();

    let suspend = fleet.environment.suspend(&slug("acme"), None, BY).await.unwrap();
    fleet.complete(&suspend).await;

    eventually("the session ends", async || connection.query("select 1", &[]).await.is_err()).await;
}

#[tokio::test]
async fn a_deleted_tenant_gets_no_connection() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let router = fleet.router();
    router.connection(&slug("acme")).await.unwrap();

    let delete = fleet.environment.delete(&slug("acme"), false, BY).await.unwrap();
    fleet.complete(&delete).await;

    eventually("the deletion is seen", async || {
        matches!(router.connection(&slug("acme")).await, Err(RouterError::UnknownTenant(_)))
    })
    .await;
}

#[tokio::test]
async fn a_database_with_another_stamp_is_refused() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    fleet.create_tenant("globex").await;
    let admin = fleet.admin("postgres").await;
    for statement in [
        "alter database tenant_acme rename to swap",
        "alter database tenant_globex rename to tenant_acme",
        "grant connect on database tenant_acme to tenant_acme",
    ] {
        admin.batch_execute(statement).await.unwrap();
    }

    let refused = fleet.router().connection(&slug("acme")).await;

    assert!(matches!(refused, Err(RouterError::WrongDatabase(_))), "{:?}", refused.err());
}

#[tokio::test]
async fn waiting_callers_share_one_look_up() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let catalog = fleet.admin("tenantry").await;
    // Sessions tell at their end at the latest what they have read. Those that listen read nothing, and whoever
    // hears that one of them was interrupted looks everything up again.
    let all_told = async || {
        let sql = "select pg_terminate_backend(pid) from pg_stat_activity
             where datname = 'tenantry' and backend_type = 'client backend'
               and pid <> pg_backend_pid() and query <> '' and query not ilike 'listen%'";
        eventually("all have told", async || catalog.query(sql, &[]).await.unwrap().is_empty())
            .await;
    };
    let scans = async || -> i64 {
        let sql = "select coalesce(seq_scan, 0) + coalesce(idx_scan, 0) from pg_stat_user_tables where relname = 'tenants'";
        catalog.query_one(sql, &[]).await.unwrap().get(0)
    };
    let scans_of = async |callers: usize| {
        all_told().await;
        let (before, router) = (scans().await, fleet.router());
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..callers {
            let router = router.clone();
            waiting.spawn(async move { router.route(&slug("acme")).await.is_ok() });
        }
        assert!(waiting.join_all().await.into_iter().all(|found| found));
        all_told().await;
        scans().await - before
    };

    let of_one = scans_of(1).await;

    assert!(of_one > 0);
    assert_eq!(scans_of(50).await, of_one);
}

#[tokio::test]
async fn requests_in_a_cutover_are_held_and_go_to_the_new_place() {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    fleet.back_up("acme").await;
    fleet.admin("tenant_acme").await.batch_execute("delete from cards").await.unwrap();
    let router = fleet.router();
    router.connection(&slug("acme")).await.unwrap();

    let restore = fleet.environment.restore(&slug("acme"), BackupChoice::Latest, BY).await.unwrap();
    let clients = {
        let router = router.clone();
        tokio::spawn(async move {
            let mut served = 0;
            loop {
                let connection = router.connection(&slug("acme")).await.expect("held, not refused");
                served += 1;
                if let Ok(row) = connection.query_one("select count(*) from cards", &[]).await
                    && row.get::<_, i64>(0) == 12
                {
                    return served;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
    };
    fleet.complete(&restore).await;

    let served = tokio::time::timeout(Duration::from_secs(10), clients).await.unwrap().unwrap();
    assert!(served > 1);
    assert_eq!(fleet.tenant("acme").await.epoch, 2);
}

/// Its secrets go a moment before it does, and a worker may die in between.
#[tokio::test]
async fn a_tenant_without_its_secrets_is_no_tenant_any_more() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let session = fleet.catalog().url().connect().await.unwrap();
    let half = "update tenants set state = 'deleting', password_sealed = null";
    session.batch_execute(half).await.unwrap();

    let gone = fleet.router().connection(&slug("acme")).await.err();

    assert!(matches!(gone, Some(RouterError::UnknownTenant(_))), "{gone:?}");
}

#[tokio::test]
async fn state_of_one_user_never_reaches_the_next() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let router = fleet.router();
    for text in [
        "begin",
        "set application_name = 'left over'",
        "select set_config('application_name', 'left over', false)",
        "select pg_advisory_lock(7)",
        "listen news",
    ] {
        let connection = router.connection(&slug("acme")).await.unwrap();
        let before =
            connection.query_one("select pg_backend_pid()", &[]).await.unwrap().get::<_, i32>(0);
        _ = connection.execute(text, &[]).await;
        drop(connection);

        let next = router.connection(&slug("acme")).await.unwrap();
        let row = next
            .query_one("select pg_backend_pid(), current_setting('application_name')", &[])
            .await
            .unwrap();
        assert_ne!(row.get::<_, i32>(0), before, "{text}");
        assert_ne!(row.get::<_, &str>(1), "left over");
    }
}

#[tokio::test]
async fn a_query_that_is_dropped_half_way_is_cancelled_on_the_server() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let router = fleet.router();
    let connection = router.connection(&slug("acme")).await.unwrap();

    let slow = connection.query("select pg_sleep(600)", &[]);
    assert!(tokio::time::timeout(Duration::from_millis(200), slow).await.is_err());
    drop(connection);

    let admin = fleet.admin("postgres").await;
    eventually("the query is cancelled", async || {
        let row = admin
            .query_one("select count(*) from pg_stat_activity where query like '%pg_sleep(600)%' and pid <> pg_backend_pid()", &[])
            .await
            .unwrap();
        row.get::<_, i64>(0) == 0
    })
    .await;
    let next = tokio::time::timeout(Duration::from_secs(15), router.connection(&slug("acme")))
        .await
        .unwrap();
    next.unwrap().query("select 1", &[]).await.unwrap();
}

#[tokio::test]
async fn a_tenant_whose_connections_are_all_in_use_waits_and_then_hears_so() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let settings = RouterSettings {
        pool_max_size: 1,
        pool_wait_timeout: Duration::from_secs(3),
        ..RouterSettings::default()
    };
    let router = TenantRouter::new(fleet.catalog().clone(), fleet.changes.clone(), settings);
    let _held = router.connection(&slug("acme")).await.unwrap();

    assert!(matches!(router.connection(&slug("acme")).await, Err(RouterError::Busy(_))));
}

#[tokio::test]
async fn idle_connections_are_closed() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let settings = RouterSettings {
        pool_idle_timeout: Duration::from_millis(300),
        ..RouterSettings::default()
    };
    let router = TenantRouter::new(fleet.catalog().clone(), fleet.changes.clone(), settings);
    drop(router.connection(&slug("acme")).await.unwrap());
    assert_eq!(router.pool_status().connections, 1);

    eventually("the idle connection is closed", async || router.pool_status().connections == 0)
        .await;
}

#[tokio::test]
async fn a_transaction_that_is_dropped_is_rolled_back() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let router = Arc::new(fleet.router());
    let mut connection = router.connection(&slug("acme")).await.unwrap();
    let transaction = connection.transaction().await.unwrap();
    transaction.execute("insert into boards (title) values ('lost')", &[]).await.unwrap();
    drop(transaction);
    let transaction = connection.transaction().await.unwrap();
    transaction.execute("insert into boards (title) values ('kept')", &[]).await.unwrap();
    transaction.commit().await.unwrap();

    let rows = connection.query("select title from boards", &[]).await.unwrap();

    assert_eq!(rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>(), ["kept"]);
}

#[tokio::test]
async fn a_role_can_run_no_ddl() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let connection = fleet.router().connection(&slug("acme")).await.unwrap();

    for ddl in [
        "create table mine (id int)",
        "create temporary table mine (id int)",
        "drop table boards",
        "alter table boards add column x int",
        "create schema mine",
        "create role other",
        "create database other",
        "delete from tenantry.schema_history",
    ] {
        let refused = connection.batch_execute(ddl).await.expect_err(ddl);
        let code = refused.code().expect("PostgreSQL refuses it").code().to_owned();
        assert_eq!(code, "42501", "{ddl}");
    }
}

/// A new tenant with the name of a deleted one gets nothing of it.
#[tokio::test]
async fn a_name_that_is_used_again_is_another_tenant() {
    let fleet = Fleet::start().await;
    let first = fleet.create_tenant_with("acme", true).await;
    let router = fleet.router();
    router.connection(&slug("acme")).await.unwrap();
    let delete = fleet.environment.delete(&slug("acme"), false, BY).await.unwrap();
    fleet.complete(&delete).await;

    let again: NewTenant = new_tenant("acme");
    let operation = fleet.environment.create_tenant(&again, false, BY).await.unwrap();
    assert!(matches!(Work::of(&operation).unwrap(), Work::Provision { .. }));
    fleet.complete(&operation).await;

    assert_ne!(fleet.tenant("acme").await.id, first.id);
    eventually("the new tenant is routed", async || match router.connection(&slug("acme")).await {
        Ok(connection) => {
            let row = connection.query_one("select count(*) from boards", &[]).await.unwrap();
            row.get::<_, i64>(0) == 0
        }
        Err(_) => false,
    })
    .await;
}
