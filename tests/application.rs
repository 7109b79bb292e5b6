//! An axum application on the library: its handlers get their tenant's connection, or are not reached.

use std::time::Duration;

use axum::extract::FromRef;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;
use tenantry::api;
use tenantry::extract::Tenancy;
use tenantry::resolve::SingleTenant;
use tenantry::router::TenantConnection;
use tenantry::tenant::TenantState;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::harness::replica::{Replica, serve};
use crate::harness::slug;

#[derive(Clone)]
struct Application {
    tenancy: Tenancy,
}

impl FromRef<Application> for Tenancy {
    fn from_ref(application: &Application) -> Self {
        application.tenancy.clone()
    }
}

async fn boards(tenant: TenantConnection) -> Json<Vec<String>> {
    let rows = tenant.query("select title from boards order by id", &[]).await.unwrap();
    Json(rows.iter().map(|row| row.get(0)).collect())
}

#[tokio::test]
async fn an_application_gets_its_tenants_connection() {
    let replica = Replica::start().await;
    replica.create("acme").await;
    let resolver = std::sync::Arc::new(SingleTenant::new(slug("acme")));
    let tenancy = Tenancy { router: replica.fleet.router(), resolver };
    let application =
        Router::new().route("/boards", get(boards)).with_state(Application { tenancy });
    let address = serve(application, &replica.shutdown).await;
    let ask = async || replica.client.get(format!("{address}/boards")).send().await.unwrap();

    let titles: Vec<String> = ask().await.json().await.unwrap();
    assert_eq!(titles, ["Welcome", "Roadmap", "Support"]);

    let (_, operation) = replica.post("/api/setup/tenants/acme/suspend", json!({})).await;
    replica.settle(&operation).await;
    crate::harness::eventually("the handler is not reached", async || ask().await.status() == 403)
        .await;
    assert_eq!(replica.fleet.tenant("acme").await.state, TenantState::Suspended);
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

    tokio::time::timeout(Duration::from_secs(5), serving).await.expect("it ends").unwrap();
}
