//! [`Replica`]: both listeners and a worker, over a [`Fleet`] of its own.

use axum::Router;
use reqwest::{Client, Method, StatusCode};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tenantry::api::serving::Edge;
use tenantry::catalog::tokens::Scope;
use tenantry::extract::Tenancy;
use tenantry::oidc::TokenVerifier;
use tenantry::resolve::{AdminClaim, Administrators, IdentityResolver, IdentitySettings};
use tenantry::worker::Worker;
use tenantry::{api, metrics};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::Fleet;

/// A replica of one's own, with a token for everything.
pub struct Replica {
    pub fleet: Fleet,
    pub client: Client,
    pub admin: String,
    pub public: String,
    pub token: String,
    pub shutdown: CancellationToken,
}

impl Replica {
    pub async fn start() -> Self {
        let nobody = TokenVerifier::new(Vec::new()).unwrap();
        Self::start_with(nobody, IdentitySettings::default()).await
    }

    /// One that believes identity providers.
    pub async fn start_with(verifier: TokenVerifier, identity: IdentitySettings) -> Self {
        let fleet = Fleet::start().await;
        let shutdown = CancellationToken::new();
        let worker = Worker::new(fleet.environment.clone(), fleet.changes.clone(), 2);
        tokio::spawn(worker.run(shutdown.clone()));
        let exporter = metrics::Exporter::install();
        let claim = AdminClaim::parse("groups=platform");
        let administrators = Administrators::new(fleet.catalog().clone(), verifier.clone(), claim);
        let (environment, changes) = (fleet.environment.clone(), fleet.changes.clone());
        let control = api::control_plane(environment, changes, administrators, exporter);
        let resolver = IdentityResolver::new(fleet.catalog().clone(), verifier, identity);
        let resolver = std::sync::Arc::new(resolver);
        let tenancy = Tenancy { router: fleet.router(), resolver };
        let data = api::data_plane(tenancy, fleet.catalog().clone(), true, &[]);
        let admin = serve(control, &shutdown).await;
        let public = serve(data, &shutdown).await;
        let token = fleet.catalog().create_token("test", &Scope::ALL).await.unwrap();
        let token = token.expose_secret().to_owned();
        Self { fleet, client: Client::new(), admin, public, token, shutdown }
    }

    pub async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        let request =
            self.client.request(method, format!("{}{path}", self.admin)).bearer_auth(&self.token);
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        let response = request.send().await.unwrap();
        let status = response.status();
        (status, response.json().await.unwrap_or(Value::Null))
    }

    pub async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        self.call(Method::POST, path, Some(body)).await
    }

    pub async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.call(Method::GET, path, None).await
    }

    /// Waits for the operation that an answer names.
    pub async fn settle(&self, operation: &Value) -> Value {
        let id = operation["id"].as_str().unwrap();
        let (_, ended) = self.get(&format!("/api/operations/{id}?wait=true")).await;
        assert_eq!(ended["status"], "succeeded", "{ended}");
        ended
    }

    pub async fn create(&self, slug: &str) -> Value {
        let body = json!({ "slug": slug, "include_sample_data": true });
        let (status, tenant) = self.post("/api/setup/tenant?wait=true", body).await;
        assert_eq!(status, StatusCode::CREATED, "{tenant}");
        tenant
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

pub async fn serve(routes: Router, shutdown: &CancellationToken) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(api::serving::serve(listener, routes, Edge::default(), shutdown.clone()));
    format!("http://{address}")
}
