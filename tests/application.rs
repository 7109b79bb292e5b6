//! An axum application on the library: its handlers get their tenant's connection, or are not reached.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::FromRef;
use axum::http::request::Parts;
use axum::http::{Method, Request, StatusCode};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tenantry::api;
use tenantry::catalog::tokens::Scope;
use tenantry::extract::Tenancy;
use tenantry::oidc::TokenVerifier;
use tenantry::resolve::{
    Access, IdentityResolver, IdentitySettings, ResolveError, Resolved, SingleTenant,
    TenantResolver,
};
use tenantry::router::{RouterError, TenantConnection};
use tenantry::tenant::TenantState;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::harness::replica::{Replica, serve};
use crate::harness::{BY, Fleet, eventually, slug};

#[path = "../examples/boards.rs"]
#[expect(dead_code, reason = "the example's `main` is not called here")]
mod boards;

#[derive(Clone)]
struct Application {
    tenancy: Tenancy,
}

impl FromRef<Application> for Tenancy {
    fn from_ref(application: &Application) -> Self {
        application.tenancy.clone()
    }
}

async fn titles(tenant: TenantConnection) -> Json<Vec<String>> {
    let rows = tenant.query("select title from boards order by id", &[]).await.unwrap();
    Json(rows.iter().map(|row| row.get(0)).collect())
}

#[tokio::test]
async fn an_application_gets_its_tenants_connection() {
    let replica = Replica::start().await;
    replica.create("acme").await;
    let resolver = Arc::new(SingleTenant::new(slug("acme")));
    let tenancy = Tenancy { router: replica.fleet.router(), resolver };
    let application =
        Router::new().route("/boards", get(titles)).with_state(Application { tenancy });
    let address = serve(application, &replica.shutdown).await;
    let ask = async || replica.client.get(format!("{address}/boards")).send().await.unwrap();

    let titles: Vec<String> = ask().await.json().await.unwrap();
    assert_eq!(titles, ["Welcome", "Roadmap", "Support"]);

    let (_, operation) = replica.post("/api/setup/tenants/acme/suspend", json!({})).await;
    replica.settle(&operation).await;
    eventually("the handler is not reached", async || ask().await.status() == 403).await;
    assert_eq!(replica.fleet.tenant("acme").await.state, TenantState::Suspended);
}

/// The example, over a fleet with two tenants.
struct Boards {
    fleet: Fleet,
    routes: Router,
    token: String,
}

impl Boards {
    async fn start() -> Self {
        let fleet = Fleet::start().await;
        for name in ["acme", "globex"] {
            fleet.create_tenant(name).await;
        }
        let token = fleet.catalog().create_token("test", &Scope::ALL).await.unwrap();
        let nobody = TokenVerifier::new(Vec::new()).unwrap();
        let catalog = fleet.catalog().clone();
        let resolver = IdentityResolver::new(catalog, nobody, IdentitySettings::default());
        let tenancy = Tenancy { router: fleet.router(), resolver: Arc::new(resolver) };
        let routes = boards::application(tenancy);
        Self { fleet, routes, token: token.expose_secret().to_owned() }
    }

    async fn call(&self, tenant: &str, method: Method, path: &str, body: Value) -> (u16, Value) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {}", self.token))
            .header("x-tenant", tenant)
            .header("content-type", "application/json");
        let request = request.body(Body::from(body.to_string())).unwrap();
        answer(&self.routes, request).await
    }

    async fn get(&self, tenant: &str, path: &str) -> (u16, Value) {
        self.call(tenant, Method::GET, path, Value::Null).await
    }

    async fn post(&self, tenant: &str, path: &str, body: Value) -> (u16, Value) {
        self.call(tenant, Method::POST, path, body).await
    }
}

async fn answer(routes: &Router, request: Request<Body>) -> (u16, Value) {
    let response = routes.clone().oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let body = axum::body::to_bytes(response.into_body(), 64 * 1024).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

#[tokio::test]
async fn the_example_keeps_its_tenants_apart() {
    let boards = Boards::start().await;

    let (status, board) = boards.post("acme", "/boards", json!({ "title": "Roadmap" })).await;
    assert_eq!((status, &board["title"]), (201, &json!("Roadmap")));
    let cards = format!("/boards/{}/cards", board["id"]);
    let (status, card) = boards.post("acme", &cards, json!({ "title": "Ship it" })).await;
    assert_eq!((status, &card["done"]), (201, &json!(false)));

    assert_eq!(boards.get("acme", "/boards").await, (200, json!([board])));
    assert_eq!(boards.get("acme", &cards).await, (200, json!([card])));
    for path in ["/boards", &cards] {
        assert_eq!(boards.get("globex", path).await, (200, json!([])), "{path}");
    }
    let (status, problem) = boards.post("globex", &cards, json!({ "title": "Mine" })).await;
    assert_eq!((status, &problem["code"]), (404, &json!("no_such_board")));
}

#[tokio::test]
async fn the_example_refuses_who_may_not_name_a_tenant() {
    let boards = Boards::start().await;

    for (tenant, status, code) in
        [("initech", 403, "access_denied"), ("../acme", 400, "tenant_malformed")]
    {
        let (found, problem) = boards.get(tenant, "/boards").await;
        assert_eq!((found, &problem["code"]), (status, &json!(code)), "{tenant}");
    }
    let stranger = Request::get("/boards").header("x-tenant", "acme").body(Body::empty()).unwrap();
    assert_eq!(answer(&boards.routes, stranger).await.0, 401);
}

#[tokio::test]
async fn the_examples_job_works_for_its_own_tenant() {
    let boards = Boards::start().await;
    for tenant in ["acme", "globex"] {
        boards.post(tenant, "/boards", json!({ "title": "Roadmap" })).await;
        boards.post(tenant, "/boards/1/cards", json!({ "title": "Ship it" })).await;
    }

    assert_eq!(boards.post("acme", "/boards/1/finish", Value::Null).await.0, 202);

    eventually("the card is done", async || {
        boards.get("acme", "/boards/1/cards").await.1[0]["done"] == true
    })
    .await;
    assert_eq!(boards.get("globex", "/boards/1/cards").await.1[0]["done"], false);
}

#[tokio::test]
async fn the_examples_job_is_not_done_for_the_next_tenant_of_that_name() {
    let boards = Boards::start().await;
    let (fleet, router) = (&boards.fleet, boards.fleet.router());
    let scope = router.scope(&slug("acme")).await.unwrap();
    let job = boards::FinishBoard { scope, board: 1 };
    assert_eq!(job.run(&router).await.unwrap(), 0);

    let delete = fleet.environment.delete(&slug("acme"), false, BY).await.unwrap();
    fleet.complete(&delete).await;
    fleet.create_tenant("acme").await;

    eventually("the job is refused", async || {
        let refused = job.run(&router).await.unwrap_err();
        matches!(refused.downcast_ref(), Some(RouterError::AnotherTenant(_)))
    })
    .await;
}

/// A caller who may only read, and whose work would be done by a connection that may write.
struct Reader(SingleTenant);

impl TenantResolver for Reader {
    fn resolve<'a>(&'a self, parts: &'a Parts) -> BoxFuture<'a, Result<Resolved, ResolveError>> {
        let read = |resolved| Resolved { access: Access::ReadOnly, ..resolved };
        self.0.resolve(parts).map(move |resolved| resolved.map(read)).boxed()
    }
}

#[tokio::test]
async fn the_example_lets_readers_read() {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    let resolver = Arc::new(Reader(SingleTenant::new(slug("acme"))));
    let routes = boards::application(Tenancy { router: fleet.router(), resolver });
    let request = |method, path, body: &str| {
        let request = Request::builder().method(method).uri(path);
        let request = request.header("content-type", "application/json");
        request.body(Body::from(body.to_owned())).unwrap()
    };

    assert_eq!(answer(&routes, request(Method::GET, "/boards", "")).await.0, 200);
    for (path, body) in [("/boards", r#"{"title":"x"}"#), ("/boards/1/finish", "")] {
        let (status, problem) = answer(&routes, request(Method::POST, path, body)).await;
        let refused = (StatusCode::FORBIDDEN.as_u16(), &json!("read_only"));
        assert_eq!((status, &problem["code"]), refused, "{path}");
    }
}

#[tokio::test]
async fn half_a_request_is_cut_off_and_shutdown_does_not_wait_for_idle_clients() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let shutdown = CancellationToken::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes = Router::new().route("/", get(async || "hello"));
    let edge = api::serving::Edge::default();
    let serving = tokio::spawn(api::serving::serve(listener, routes, edge, shutdown.clone()));
    let mut idle = tokio::net::TcpStream::connect(address).await.unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    idle.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");

    shutdown.cancel();

    tokio::time::timeout(Duration::from_secs(9), serving).await.expect("it ends").unwrap();
}
