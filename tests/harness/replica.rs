//! [`Replica`]: both listeners and a worker, over a [`Fleet`] of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use reqwest::{Client, Method, StatusCode};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tenantry::api::serving::Edge;
use tenantry::api::{Health, Monitoring, Plane, SelfService};
use tenantry::catalog::tokens::Scope;
use tenantry::domains::Domains;
use tenantry::extract::Tenancy;
use tenantry::oidc::TokenVerifier;
use tenantry::registration::{Rate, Registrar, RegistrationRules};
use tenantry::resolve::{AdminClaim, Administrators, IdentityResolver, IdentitySettings};
use tenantry::sql::SqlSettings;
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
    verifier: TokenVerifier,
    identity: IdentitySettings,
}

/// Whom a replica believes, and what it allows.
pub struct Setup {
    pub verifier: TokenVerifier,
    pub identity: IdentitySettings,
    pub dns_server: Option<SocketAddr>,
    pub rules: RegistrationRules,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            verifier: TokenVerifier::new(Vec::new()).unwrap(),
            identity: IdentitySettings::default(),
            dns_server: None,
            rules: RegistrationRules {
                requires_approval: true,
                allowed_domains: Vec::new(),
                max_tenants: 3,
                rate: Rate { limit: 3, window: Duration::from_hours(1) },
            },
        }
    }
}

impl Replica {
    pub async fn start() -> Self {
        Self::start_with(Setup::default()).await
    }

    pub async fn start_with(setup: Setup) -> Self {
        let Setup { verifier, identity, dns_server, rules } = setup;
        let fleet = Fleet::start().await;
        let catalog = || fleet.catalog().clone();
        let shutdown = CancellationToken::new();
        let worker = Worker::new(fleet.environment.clone(), fleet.changes.clone(), 2);
        tokio::spawn(worker.run(shutdown.clone()));
        let exporter = metrics::Exporter::install(metrics::Detail::default());
        let claim = AdminClaim::parse("groups=platform");
        let administrators = Administrators::new(catalog(), verifier.clone(), &identity, claim);
        let (environment, changes) = (fleet.environment.clone(), fleet.changes.clone());
        let domains = Domains::new(catalog(), dns_server, identity.base_domain.clone());
        let plane = Plane::Control(Box::new(environment.clone()));
        let health = Health::new(catalog(), plane, true);
        let monitoring = Monitoring { administrators, exporter, health };
        let control = api::control_plane(environment, changes, domains, monitoring);

        let data = data_plane(&fleet, &verifier, &identity, rules);
        let admin = serve(control, &shutdown).await;
        let public = serve(data, &shutdown).await;
        let token = fleet.catalog().create_token("test", &Scope::ALL).await.unwrap();
        let token = token.expose_secret().to_owned();
        let client = Client::new();
        Self { fleet, client, admin, public, token, shutdown, verifier, identity }
    }

    /// The address of another replica's data plane, over the same catalog.
    pub async fn another(&self, rules: RegistrationRules) -> String {
        let data = data_plane(&self.fleet, &self.verifier, &self.identity, rules);
        serve(data, &self.shutdown).await
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

fn data_plane(
    fleet: &Fleet,
    verifier: &TokenVerifier,
    identity: &IdentitySettings,
    rules: RegistrationRules,
) -> Router {
    let catalog = || fleet.catalog().clone();
    let (verifier, identity) = (|| verifier.clone(), || identity.clone());
    let registration = SelfService {
        registrar: Registrar::new(catalog(), verifier(), identity(), rules),
        frontend_base_url: Some("https://dashboard.example".to_owned()),
        base_domain: identity().base_domain,
    };
    let resolver = Arc::new(IdentityResolver::new(catalog(), verifier(), identity()));
    let tenancy = Tenancy { router: fleet.router(), resolver };
    api::data_plane(tenancy, catalog(), Some(registration), &[], SqlSettings::default())
}

pub async fn serve(routes: Router, shutdown: &CancellationToken) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(api::serving::serve(listener, routes, Edge::default(), shutdown.clone()));
    format!("http://{address}")
}
