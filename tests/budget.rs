//! Many tenants on few connections: the budget of a server, fairness within it, and servers that go away
//! and come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tenantry::embedded::{EmbeddedPostgres, PostgresSettings};
use tenantry::router::{RouterError, RouterSettings, TenantRouter};
use tenantry::tenant::TenantSlug;
use tokio::task::JoinSet;

use crate::harness::{BY, Fleet, budget, eventually, new_tenant, router_settings, slug};

fn names(count: usize) -> Vec<TenantSlug> {
    (0..count).map(|number| slug(&format!("t{number}"))).collect()
}

async fn fleet_of(tenants: &[TenantSlug]) -> Fleet {
    let fleet = Fleet::start().await;
    for tenant in tenants {
        fleet.create_tenant(tenant.as_str()).await;
    }
    fleet
}

/// With time to wait for, however busy the machine is.
fn patient() -> RouterSettings {
    RouterSettings { pool_wait_timeout: Duration::from_mins(1), ..router_settings() }
}

fn router(fleet: &Fleet, settings: RouterSettings) -> TenantRouter {
    TenantRouter::new(fleet.catalog().clone(), fleet.changes.clone(), settings)
}

/// Asks a tenant's database whose it is.
async fn ask(router: &TenantRouter, tenant: &TenantSlug) -> Result<(), RouterError> {
    let connection = router.connection(tenant).await?;
    let row = connection.query_one("select current_database()", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), format!("tenant_{tenant}"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tenants_share_few_connections_and_nobody_is_refused() {
    const BUDGET: usize = 6;
    let tenants = names(24);
    let fleet = fleet_of(&tenants).await;
    let router = router(&fleet, RouterSettings { server_budget: BUDGET, ..patient() });
    let watching = Arc::new(AtomicBool::new(true));
    let watcher = fleet.admin("postgres").await;
    let most = tokio::spawn({
        let watching = Arc::clone(&watching);
        async move {
            let mut most = 0;
            while watching.load(Ordering::Relaxed) {
                let counted = watcher.query_one(
                    "select count(*) from pg_stat_activity where usename like 'tenant\\_t%'",
                    &[],
                );
                most = most.max(counted.await.unwrap().get::<_, i64>(0));
            }
            most
        }
    });

    let mut clients = JoinSet::new();
    for client in 0..24 {
        let (router, tenants) = (router.clone(), tenants.clone());
        clients.spawn(async move {
            for turn in 0..20 {
                ask(&router, &tenants[(client * 7 + turn * 5) % tenants.len()]).await.unwrap();
            }
        });
    }
    clients.join_all().await;

    watching.store(false, Ordering::Relaxed);
    let most = usize::try_from(most.await.unwrap()).unwrap();
    // One that says goodbye is counted until the server has heard it.
    assert!(most <= 3 * BUDGET, "{most} connections of 24 clients");
    assert!(router.pool_status().connections <= BUDGET);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_with_hundreds_waiting_does_not_starve_its_neighbour() {
    let tenants = names(2);
    let fleet = fleet_of(&tenants).await;
    let settings = RouterSettings { server_budget: 4, pool_max_size: 4, ..patient() };
    let router = router(&fleet, settings);
    let waiting = Arc::new(AtomicUsize::new(300));
    let mut crowd = JoinSet::new();
    for _ in 0..300 {
        let (router, tenant, waiting) = (router.clone(), tenants[0].clone(), Arc::clone(&waiting));
        crowd.spawn(async move {
            let connection = router.connection(&tenant).await.unwrap();
            connection.query("select pg_sleep(0.1)", &[]).await.unwrap();
            drop(connection);
            waiting.fetch_sub(1, Ordering::Relaxed);
        });
    }
    eventually("the crowd is served", async || waiting.load(Ordering::Relaxed) < 290).await;

    for _ in 0..5 {
        ask(&router, &tenants[1]).await.unwrap();
    }

    let left = waiting.load(Ordering::Relaxed);
    assert!(left > 20, "the neighbour waited for most of the crowd: {left} are left");
    crowd.join_all().await;
}

#[tokio::test]
async fn whoever_waits_too_long_hears_so_and_leaves_nothing_behind() {
    let tenants = names(2);
    let fleet = fleet_of(&tenants).await;
    let settings = RouterSettings {
        server_budget: 1,
        pool_wait_timeout: Duration::from_secs(3),
        ..router_settings()
    };
    let router = router(&fleet, settings);
    let held = router.connection(&tenants[0]).await.unwrap();

    for tenant in &tenants {
        assert!(matches!(router.connection(tenant).await, Err(RouterError::Busy(_))));
    }
    drop(held);

    // The idle connection of the one makes room for the other, and back.
    for tenant in [&tenants[1], &tenants[0], &tenants[1]] {
        ask(&router, tenant).await.unwrap();
    }
    eventually("one is open", async || router.pool_status().connections == 1).await;
}

#[tokio::test]
async fn after_a_restart_every_first_request_is_served() {
    let tenants = names(20);
    let mut fleet = fleet_of(&tenants).await;
    let router = router(&fleet, patient());
    for tenant in &tenants {
        ask(&router, tenant).await.unwrap();
    }

    fleet.postgres.restart().await.unwrap();

    for tenant in &tenants {
        ask(&router, tenant).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_wait_for_a_server_that_is_coming_back() {
    let tenants = names(8);
    let mut fleet = fleet_of(&tenants).await;
    let router = router(&fleet, patient());
    for tenant in &tenants {
        ask(&router, tenant).await.unwrap();
    }

    fleet.postgres.kill();
    let mut clients = JoinSet::new();
    for tenant in tenants.iter().cycle().take(24) {
        let (router, tenant) = (router.clone(), tenant.clone());
        clients.spawn(async move { router.connection(&tenant).await.map(drop) });
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    fleet.postgres.restart().await.unwrap();

    let served = clients.join_all().await;
    assert!(served.iter().all(Result::is_ok), "{served:?}");
}

#[tokio::test]
async fn a_server_that_stays_away_costs_others_nothing() {
    let fleet = fleet_of(&names(1)).await;
    let other = EmbeddedPostgres::start_scratch(PostgresSettings::scratch()).await.unwrap();
    fleet.catalog().add_server("eu-2", &other.url().into()).await.unwrap();
    let id = fleet.catalog().server_by_name("eu-2").await.unwrap().id;
    fleet.environment.server(id).await.unwrap().prepare().await.unwrap();
    let mut far = new_tenant("far");
    far.server = Some("eu-2".to_owned());
    let operation = fleet.environment.create_tenant(&far, false, BY).await.unwrap();
    fleet.complete(&operation).await;
    let settings =
        RouterSettings { pool_wait_timeout: Duration::from_secs(5), ..router_settings() };
    let router = router(&fleet, settings);
    ask(&router, &slug("far")).await.unwrap();

    other.stop().await.unwrap();
    let waited = router.connection(&slug("far")).await;
    assert!(matches!(waited, Err(RouterError::Unreachable { .. })), "{:?}", waited.err());
    for _ in 0..20 {
        ask(&router, &slug("t0")).await.unwrap();
    }
    // By now it is known, and nobody else waits for it.
    let far = slug("far");
    let asked = router.connection(&far);
    let at_once = tokio::time::timeout(Duration::from_secs(3), asked).await;
    let at_once = at_once.expect("it is known to be away");
    assert!(matches!(at_once, Err(RouterError::Unreachable { .. })));
}

#[tokio::test]
async fn a_statement_is_prepared_anew_when_a_migration_changed_its_result() {
    let fleet = fleet_of(&names(1)).await;
    let router = router(&fleet, RouterSettings { pool_max_size: 1, ..router_settings() });
    let columns = async || {
        let connection = router.connection(&slug("t0")).await.unwrap();
        let rows = connection.query("select * from boards limit 0", &[]).await;
        let row = connection.query_opt("select * from boards limit 1", &[]).await.unwrap();
        assert!(row.is_none());
        let statement = connection.query(
            "select count(*) from information_schema.columns where table_name = 'boards'",
            &[],
        );
        rows.unwrap();
        statement.await.unwrap()[0].get::<_, i64>(0)
    };
    let before = columns().await;

    let admin = fleet.admin("tenant_t0").await;
    admin.batch_execute("alter table boards add column colour text").await.unwrap();

    assert_eq!(columns().await, before + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_share_a_budget_and_get_it_back_from_those_that_end() {
    let tenants = names(12);
    let fleet = fleet_of(&tenants).await;
    fleet.catalog().change_server("default", &budget(Some(8))).await.unwrap();
    let first = router(&fleet, router_settings());
    // Everything that it may hold is held at once.
    let fill = async |router: &TenantRouter| {
        let held = tenants.iter().map(|tenant| router.connection(tenant));
        let held = futures_util::future::join_all(
            held.map(|asked| tokio::time::timeout(Duration::from_secs(1), asked)),
        );
        held.await.into_iter().filter(|held| matches!(held, Ok(Ok(_)))).count()
    };
    eventually("it has all of it", async || fill(&first).await == 8).await;

    let second = router(&fleet, router_settings());
    eventually("each has its half", async || {
        first.pool_status().connections <= 4 && fill(&first).await == 4 && fill(&second).await == 4
    })
    .await;

    second.close().await;
    eventually("the half comes back", async || fill(&first).await == 8).await;

    fleet.catalog().change_server("default", &budget(Some(3))).await.unwrap();
    eventually("less is in force", async || {
        fill(&first).await == 3 && first.pool_status().connections <= 3
    })
    .await;
    fleet.catalog().change_server("default", &budget(None)).await.unwrap();
    eventually("the settings count again", async || fill(&first).await == 12).await;
}

#[tokio::test]
async fn readers_reach_a_server_that_is_asked_to_be_writable() {
    let fleet = fleet_of(&names(1)).await;
    let url = format!("{}?target_session_attrs=read-write", fleet.postgres.url());
    fleet.catalog().set_server_url("default", &url.into()).await.unwrap();
    let router = router(&fleet, router_settings());

    let reading = router.read_only(&slug("t0")).await.unwrap();

    let refused = reading.execute("insert into boards (title) values ('new')", &[]).await;
    assert_eq!(refused.unwrap_err().code().unwrap().code(), "25006");
    ask(&router, &slug("t0")).await.unwrap();
}

/// Who gives up while waiting for the server takes nothing of the tenant's along.
#[tokio::test]
async fn requests_that_were_given_up_in_the_line_leave_the_tenant_whole() {
    let fleet = fleet_of(&names(2)).await;
    let settings = RouterSettings { server_budget: 1, pool_max_size: 2, ..router_settings() };
    let router = router(&fleet, settings);
    let held = router.connection(&slug("t0")).await.unwrap();

    for _ in 0..3 {
        let waiting = slug("t1");
        let acquiring = router.connection(&waiting);
        let given_up = tokio::time::timeout(Duration::from_millis(100), acquiring).await;
        assert!(given_up.is_err(), "the only connection is in use");
    }

    drop(held);
    ask(&router, &slug("t1")).await.unwrap();
}
