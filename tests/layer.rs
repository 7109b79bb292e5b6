//! The layer: a whole router for one tenant's callers, resolved once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Json, Router};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tenantry::resolve::{ResolveError, Resolved, SingleTenant, TenantResolver};
use tenantry::tenant::TenantScope;
use tenantry::{Tenancy, TenantConnection, TenantLayer};
use tower::ServiceExt as _;

use crate::harness::{BY, Fleet, eventually, slug};

/// Counts how often it is asked.
struct Counted {
    inner: SingleTenant,
    asked: AtomicUsize,
}

impl TenantResolver for Counted {
    fn resolve<'a>(&'a self, parts: &'a Parts) -> BoxFuture<'a, Result<Resolved, ResolveError>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.inner.resolve(parts)
    }
}

fn tenancy(fleet: &Fleet) -> (Tenancy, Arc<Counted>) {
    let inner = SingleTenant::new(slug("acme"));
    let resolver = Arc::new(Counted { inner, asked: AtomicUsize::new(0) });
    (Tenancy { router: fleet.router(), resolver: resolver.clone() }, resolver)
}

async fn everything(
    Extension(found): Extension<Resolved>,
    resolved: Resolved,
    scope: TenantScope,
    tenant: TenantConnection,
) -> Json<Value> {
    assert_eq!(found, resolved);
    assert_eq!(scope, tenant.scope());
    Json(json!({ "slug": resolved.slug, "id": tenant.tenant().id }))
}

async fn ask(application: &Router, path: &str, tenant: &str) -> Response {
    let request = Request::get(path).header("x-tenant", tenant).body(Body::empty()).unwrap();
    application.clone().oneshot(request).await.unwrap()
}

async fn json_of(response: Response) -> Value {
    let body = axum::body::to_bytes(response.into_body(), 64 * 1024).await.unwrap();
    serde_json::from_slice(&body).unwrap()
}

#[tokio::test]
async fn a_request_is_resolved_once_for_the_layer_and_every_extractor() {
    let fleet = Fleet::start().await;
    let acme = fleet.create_tenant("acme").await;
    let (tenancy, resolver) = tenancy(&fleet);
    let application = Router::new()
        .route("/", get(everything))
        .route_layer(TenantLayer::new(tenancy.clone()))
        .with_state(tenancy);

    let response = ask(&application, "/", "acme").await;

    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(json_of(response).await, json!({ "slug": "acme", "id": acme.id }));
    assert_eq!(resolver.asked.load(Ordering::Relaxed), 1);
    ask(&application, "/", "acme").await;
    assert_eq!(resolver.asked.load(Ordering::Relaxed), 2, "each request for itself");
}

#[tokio::test]
async fn two_extractors_need_one_resolution_without_a_layer_too() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let (tenancy, resolver) = tenancy(&fleet);
    let handler = async |_: Resolved, _: TenantConnection, _: TenantScope| "done";
    let application = Router::new().route("/", get(handler)).with_state(tenancy);

    assert_eq!(ask(&application, "/", "acme").await.status(), StatusCode::OK);

    assert_eq!(resolver.asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_refused_request_reaches_no_handler() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let (tenancy, _) = tenancy(&fleet);
    let reached = Arc::new(AtomicUsize::new(0));
    let handler = {
        let reached = Arc::clone(&reached);
        async move || reached.fetch_add(1, Ordering::Relaxed).to_string()
    };
    let application = Router::new().route("/", get(handler)).route_layer(TenantLayer::new(tenancy));

    for (tenant, status, code) in [
        ("globex", StatusCode::FORBIDDEN, "access_denied"),
        ("../acme", StatusCode::BAD_REQUEST, "tenant_malformed"),
    ] {
        let response = ask(&application, "/", tenant).await;
        assert_eq!(response.status(), status);
        assert_eq!(json_of(response).await["code"], code);
    }

    assert_eq!(reached.load(Ordering::Relaxed), 0);
    assert_eq!(ask(&application, "/nowhere", "globex").await.status(), StatusCode::NOT_FOUND);
    assert_eq!(ask(&application, "/", "acme").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn no_work_is_taken_for_a_suspended_tenant() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let (tenancy, _) = tenancy(&fleet);
    let handler = async |scope: TenantScope| scope.slug().to_string();
    let application = Router::new().route("/", get(handler)).with_state(tenancy);
    assert_eq!(ask(&application, "/", "acme").await.status(), StatusCode::OK);

    let suspend = fleet.environment.suspend(&slug("acme"), None, BY).await.unwrap();
    fleet.complete(&suspend).await;

    eventually("the handler is not reached", async || {
        let response = ask(&application, "/", "acme").await;
        response.status() == StatusCode::FORBIDDEN
            && json_of(response).await["code"] == "tenant_suspended"
    })
    .await;
}
