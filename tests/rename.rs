//! Renaming: no request fails, no write is lost, and whatever carries the old slug means the same tenant.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tenantry::catalog::CatalogError;
use tenantry::catalog::operations::{OperationRecord, OperationState};
use tenantry::operations::request::BackupChoice;
use tenantry::operations::runner::{Disturbance, StepPoint};
use tenantry::router::{RouterError, TenantRouter};
use tenantry::tenant::{TenantSlug, TenantState};
use tokio::task::JoinSet;

use crate::harness::replica::Replica;
use crate::harness::{BY, Fleet, connect, eventually, new_tenant, router_settings, slug};
use crate::sql::Sql;

const INSERT: &str = "insert into boards (title) values ('x')";

async fn rename(fleet: &Fleet, from: &str, to: &str) {
    let asked = fleet.environment.rename(&slug(from), &slug(to), BY).await.unwrap();
    fleet.complete(&asked).await;
}

async fn refused(fleet: &Fleet, from: &str, to: &str) -> String {
    let refused = fleet.environment.rename(&slug(from), &slug(to), BY).await.unwrap_err();
    assert!(matches!(refused, CatalogError::Conflict(_)), "{refused:?}");
    refused.to_string()
}

/// Drives an operation until a step, which fails.
async fn fail_at(
    fleet: &Fleet,
    operation: &OperationRecord,
    step: &'static str,
) -> OperationRecord {
    let runner = fleet.disturbed_runner(Arc::new(move |point: &StepPoint<'_>| {
        if point.step == step && !point.done { Disturbance::Fail } else { Disturbance::None }
    }));
    runner.complete(operation.id).await.unwrap()
}

/// Clients that write without a pause until they are told to stop.
#[derive(Default)]
struct Load {
    clients: JoinSet<()>,
    done: Arc<AtomicBool>,
    written: Arc<AtomicI64>,
}

impl Load {
    fn client<W: Future<Output = ()> + Send>(
        &mut self,
        write: impl Fn() -> W + Send + Sync + 'static,
    ) {
        let (done, written) = (Arc::clone(&self.done), Arc::clone(&self.written));
        self.clients.spawn(async move {
            while !done.load(Ordering::Relaxed) {
                write().await;
                written.fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    fn written(&self) -> i64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Waits until so many more have been written.
    async fn go_on(&self, more: i64) {
        let enough = self.written() + more;
        eventually("the clients go on", async || self.written() >= enough).await;
    }

    async fn stop(mut self) -> i64 {
        self.done.store(true, Ordering::Relaxed);
        while let Some(client) = self.clients.join_next().await {
            client.unwrap();
        }
        self.written()
    }
}

/// Over the library, on two replicas, in statements and in transactions, and over HTTP.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_and_no_write_is_lost_while_a_busy_tenant_is_renamed() {
    let sql = Arc::new(Sql::start().await);
    let fleet = &sql.fleet;
    let other = fleet.catalog().changes();
    let replicas =
        [fleet.router(), TenantRouter::new(fleet.catalog().clone(), other, router_settings())];
    let mut load = Load::default();
    for router in &replicas {
        let router = router.clone();
        load.client({
            let router = router.clone();
            move || {
                let router = router.clone();
                async move {
                    let connection = router.connection(&slug("acme")).await.unwrap();
                    assert_eq!(connection.execute(INSERT, &[]).await.unwrap(), 1);
                }
            }
        });
        load.client(move || {
            let router = router.clone();
            async move {
                let mut connection = router.connection(&slug("acme")).await.unwrap();
                let transaction = connection.transaction().await.unwrap();
                transaction.execute(INSERT, &[]).await.unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
                transaction.commit().await.unwrap();
            }
        });
    }
    for _ in 0..2 {
        let sql = Arc::clone(&sql);
        load.client(move || {
            let sql = Arc::clone(&sql);
            async move {
                let heard = sql.ask_as_client("acme", json!({ "query": INSERT })).await;
                assert_eq!(heard.status, StatusCode::OK, "{}", heard.body);
            }
        });
    }
    load.go_on(50).await;

    for (from, to) in [("acme", "initech"), ("initech", "hooli"), ("hooli", "acme")] {
        rename(fleet, from, to).await;
        load.go_on(50).await;
    }

    let written = load.stop().await;
    assert_eq!(fleet.count("acme", "boards").await, written);
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn every_replica_hears_of_it_within_a_second_and_both_slugs_lead_to_the_tenant() {
    let fleet = Fleet::start().await;
    let before = fleet.create_tenant("acme").await;
    let other = fleet.catalog().changes();
    let replicas =
        [fleet.router(), TenantRouter::new(fleet.catalog().clone(), other, router_settings())];
    for router in &replicas {
        router.connection(&slug("acme")).await.unwrap();
        let unknown = router.connection(&slug("initech")).await;
        assert!(matches!(unknown, Err(RouterError::UnknownTenant(_))));
    }

    rename(&fleet, "acme", "initech").await;
    let committed = Instant::now();

    for router in &replicas {
        eventually("the new slug is known", async || {
            router.connection(&slug("initech")).await.is_ok()
        })
        .await;
        assert!(committed.elapsed() < Duration::from_secs(10));
        for name in ["acme", "initech"] {
            let connection = router.connection(&slug(name)).await.unwrap();
            assert_eq!(connection.tenant().slug, slug("initech"));
            let row =
                connection.query_one("select current_database(), current_user", &[]).await.unwrap();
            assert_eq!(row.get::<_, &str>(0), "tenant_initech");
            assert_eq!(row.get::<_, &str>(1), "tenant_initech");
        }
    }
    let after = fleet.tenant("acme").await;
    assert_eq!((after.id, after.epoch), (before.id, before.epoch));
    assert!(after.generation > before.generation);
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn a_scope_from_before_is_good_even_without_the_alias() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let router = fleet.router();
    let scope = router.scope(&slug("acme")).await.unwrap();

    rename(&fleet, "acme", "initech").await;
    router.connection_in(&scope).await.unwrap();
    fleet.catalog().remove_alias(&slug("initech"), &slug("acme"), "test").await.unwrap();
    eventually("the alias is gone", async || {
        matches!(router.connection(&slug("acme")).await, Err(RouterError::UnknownTenant(_)))
    })
    .await;
    let connection = router.connection_in(&scope).await.unwrap();
    assert_eq!(connection.tenant().slug, slug("initech"));

    let next = fleet.create_tenant("acme").await;
    eventually("the slug is another's", async || {
        router.connection(&slug("acme")).await.is_ok_and(|found| found.tenant().id == next.id)
    })
    .await;
    let connection = router.connection_in(&scope).await.unwrap();
    assert_eq!(connection.tenant().slug, slug("initech"), "work is for whom it was meant");
}

#[tokio::test]
async fn a_slug_that_is_taken_promised_or_unfit_is_refused() {
    let fleet = Fleet::start().await;
    for name in ["acme", "globex", "hooli"] {
        fleet.create_tenant(name).await;
    }
    rename(&fleet, "hooli", "hooli-2").await;

    for taken in ["globex", "hooli", "hooli-2"] {
        let message = refused(&fleet, "acme", taken).await;
        assert!(message.contains("choose another"), "{message}");
    }
    assert!(refused(&fleet, "acme", "acme").await.contains("already"));
    for unfit in ["postgres", "Acme", "a b", ""] {
        assert!(TenantSlug::parse(unfit).is_err(), "{unfit}");
    }

    let asked = fleet.environment.rename(&slug("acme"), &slug("initech"), BY).await.unwrap();
    refused(&fleet, "globex", "initech").await;
    refused(&fleet, "acme", "initech").await;
    for taken in ["initech", "hooli"] {
        let create = fleet.environment.create_tenant(&new_tenant(taken), false, BY).await;
        assert!(matches!(create, Err(CatalogError::Conflict(_))), "{create:?}");
    }
    fleet.environment.cancel(asked.id).await.unwrap();
    fleet.runner().complete(asked.id).await.unwrap();
    rename(&fleet, "globex", "initech").await;
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn names_that_somebody_else_has_on_the_server_are_refused_before_anybody_waits() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let admin = fleet.admin("postgres").await;
    for (make, drop, what) in [
        ("create database tenant_initech", "drop database tenant_initech", "database"),
        ("create role tenant_initech", "drop role tenant_initech", "role"),
    ] {
        admin.batch_execute(make).await.unwrap();
        let asked = fleet.environment.rename(&slug("acme"), &slug("initech"), BY).await.unwrap();

        let failed = fleet.runner().complete(asked.id).await.unwrap();

        let error = failed.error.unwrap();
        assert_eq!(error.step, "check_names");
        assert!(error.message.contains(&format!("a {what} `tenant_initech`")), "{}", error.message);
        assert_eq!(fleet.tenant("acme").await.generation, 2);
        fleet.environment.cancel(asked.id).await.unwrap();
        fleet.runner().complete(asked.id).await.unwrap();
        admin.batch_execute(drop).await.unwrap();
    }
    rename(&fleet, "acme", "initech").await;
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn a_cutover_that_fails_leaves_the_tenant_served_under_its_old_name() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let router = fleet.router();
    let asked = fleet.environment.rename(&slug("acme"), &slug("initech"), BY).await.unwrap();
    fail_at(&fleet, &asked, "cut_over").await;
    let admin = fleet.admin("postgres").await;
    admin.batch_execute("create role tenant_initech").await.unwrap();

    fleet.catalog().retry(asked.id).await.unwrap();
    let failed = fleet.runner().complete(asked.id).await.unwrap();

    assert_eq!(failed.state, OperationState::Failed);
    assert_eq!(failed.error.unwrap().step, "cut_over");
    assert_eq!(fleet.tenant("acme").await.state, TenantState::Active);
    let connection = router.connection(&slug("acme")).await.unwrap();
    connection.execute(INSERT, &[]).await.unwrap();
    drop(connection);
    admin.batch_execute("drop role tenant_initech").await.unwrap();
    fleet.catalog().retry(asked.id).await.unwrap();
    fleet.complete(&asked).await;
    assert_eq!(fleet.count("initech", "boards").await, 1);
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn a_suspended_tenant_stays_suspended_under_its_new_name() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let reason = Some("unpaid".to_owned());
    let suspend = fleet.environment.suspend(&slug("acme"), reason.clone(), BY).await.unwrap();
    fleet.complete(&suspend).await;

    rename(&fleet, "acme", "initech").await;

    let tenant = fleet.tenant("initech").await;
    assert_eq!((tenant.state, tenant.suspended_reason), (TenantState::Suspended, reason));
    let router = fleet.router();
    for name in ["acme", "initech"] {
        let refused = router.connection(&slug(name)).await;
        assert!(matches!(refused, Err(RouterError::NotServed { .. })), "{name}");
    }
    let resume = fleet.environment.resume(&slug("acme"), BY).await.unwrap();
    fleet.complete(&resume).await;
    eventually("it is served again", async || router.connection(&slug("acme")).await.is_ok()).await;
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn the_role_logs_in_under_its_new_name_only_and_with_the_same_password() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let url = async || {
        let place = fleet.catalog().place(&slug("acme")).await.unwrap().unwrap();
        let (database, role) = (place.tenant.database, place.tenant.role);
        place.server.with_database(database.as_str()).with_user(role.as_str(), &place.password)
    };
    let old = url().await;
    old.connect().await.unwrap();

    rename(&fleet, "acme", "initech").await;

    assert!(old.connect().await.is_err());
    let place = fleet.catalog().place(&slug("initech")).await.unwrap().unwrap();
    let old_role = place.server.with_database("tenant_initech");
    assert!(old_role.with_user("tenant_acme", &place.password).connect().await.is_err());
    let session = url().await.connect().await.unwrap();
    session.execute(INSERT, &[]).await.unwrap();
    assert!(connect(&fleet.postgres.database_url("tenant_acme")).await.is_err());
}

#[tokio::test]
async fn backups_and_what_a_restore_replaced_are_found_under_the_new_name() {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    fleet.back_up("acme").await;
    rename(&fleet, "acme", "initech").await;
    fleet.admin("tenant_initech").await.batch_execute("delete from cards").await.unwrap();

    let restore = fleet.environment.restore(&slug("acme"), BackupChoice::Latest, BY).await.unwrap();
    fleet.complete(&restore).await;
    assert_eq!(fleet.count("initech", "cards").await, 12);
    rename(&fleet, "initech", "hooli").await;
    fleet.back_up("hooli").await;
    assert_eq!(fleet.backups_of("acme").await.len(), 2);
    fleet.assert_healthy().await;

    let delete = fleet.environment.delete(&slug("hooli"), false, BY).await.unwrap();
    fleet.complete(&delete).await;
    assert_nothing_is_left(&fleet).await;
}

#[tokio::test]
async fn a_tenant_that_is_deleted_in_the_middle_of_a_rename_leaves_nothing() {
    for step in ["check_names", "cut_over", "serve"] {
        let fleet = Fleet::start().await;
        fleet.create_tenant("acme").await;
        let asked = fleet.environment.rename(&slug("acme"), &slug("initech"), BY).await.unwrap();
        fail_at(&fleet, &asked, step).await;

        let delete = fleet.environment.delete(&slug("acme"), false, BY).await.unwrap();
        fleet.complete(&delete).await;

        assert_nothing_is_left(&fleet).await;
        for name in ["acme", "initech"] {
            fleet.create_tenant(name).await;
        }
    }
}

async fn assert_nothing_is_left(fleet: &Fleet) {
    let inventory = fleet.inventory().await;
    assert_eq!(inventory["slugs"], [""; 0]);
    assert_eq!(inventory["roles"], ["tenantry_app login=false", "tenantry_owner login=false"]);
    let of_tenants = inventory["databases"].iter().filter(|name| !name.contains("template"));
    assert_eq!(of_tenants.collect::<Vec<_>>(), ["tenantry open=true"]);
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn an_alias_is_kept_until_somebody_removes_it() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let (acme, initech, catalog) = (slug("acme"), slug("initech"), fleet.catalog());
    rename(&fleet, "acme", "initech").await;
    rename(&fleet, "initech", "acme").await;
    rename(&fleet, "acme", "initech").await;

    let aliases = catalog.aliases(&acme).await.unwrap();
    assert_eq!(aliases.iter().map(|alias| &alias.slug).collect::<Vec<_>>(), [&acme]);
    let own = catalog.remove_alias(&acme, &initech, "test").await.unwrap_err();
    assert!(own.to_string().contains("rename the tenant first"), "{own}");
    let back = fleet.environment.rename(&initech, &acme, BY).await.unwrap();
    let kept = catalog.remove_alias(&initech, &acme, "test").await.unwrap_err();
    assert!(matches!(kept, CatalogError::Missing { what: "alias", .. }), "{kept}");
    fleet.environment.cancel(back.id).await.unwrap();
    fleet.runner().complete(back.id).await.unwrap();
    assert_eq!(fleet.tenant("acme").await.slug, initech, "it still leads there");

    catalog.remove_alias(&initech, &acme, "test").await.unwrap();
    let other = fleet.create_tenant("acme").await;
    assert_ne!(other.id, fleet.tenant("initech").await.id);
}

#[tokio::test]
async fn a_tenant_is_renamed_over_http() {
    let replica = Replica::start().await;
    replica.create("acme").await;
    let path = "/api/setup/tenants/acme/rename";
    let (status, problem) = replica.post(path, json!({ "to": "Initech" })).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
    let (status, problem) = replica.post(path, json!({ "to": "acme" })).await;
    assert_eq!(status, StatusCode::CONFLICT, "{problem}");

    let asked = async || {
        let request = replica.client.post(format!("{}{path}", replica.admin));
        let request = request.bearer_auth(&replica.token).header("Idempotency-Key", "once");
        request.json(&json!({ "to": "initech" })).send().await.unwrap()
    };
    let (first, second) = (asked().await, asked().await);
    assert_eq!(first.status(), StatusCode::ACCEPTED);
    let location = first.headers()["location"].to_str().unwrap().to_owned();
    assert_eq!(second.headers()["location"].to_str().unwrap(), location);
    let ended = replica.settle(&first.json::<Value>().await.unwrap()).await;

    assert_eq!((&ended["kind"], &ended["tenant_slug"]), (&json!("rename"), &json!("initech")));
    let (_, tenant) = replica.get("/api/setup/tenants/acme").await;
    assert_eq!(tenant["slug"], "initech");
    let by_alias = replica.call(Method::DELETE, "/api/setup/tenants/acme", None).await;
    assert_eq!(by_alias.0, StatusCode::CONFLICT, "nobody is deleted by an earlier name");
    let (_, found) = replica.get("/api/setup/tenants/initech/aliases").await;
    assert_eq!(found["aliases"][0]["slug"], "acme");
    let alias = "/api/setup/tenants/initech/aliases/acme";
    assert_eq!(replica.call(Method::DELETE, alias, None).await.0, StatusCode::NO_CONTENT);
    assert_eq!(replica.call(Method::DELETE, alias, None).await.0, StatusCode::NOT_FOUND);
    assert_eq!(replica.get("/api/setup/tenants/acme").await.0, StatusCode::NOT_FOUND);
    let (_, log) = replica.get("/api/audit-log?tenant=initech").await;
    assert_eq!(log["events"][0]["action"], "alias.removed", "{log}");
    replica.fleet.assert_healthy().await;
}
