//! What other programs rely on without asking: answers' headers, the names of metrics, keys that are fetched from an
//! address. Of the program itself, as it is started.

use reqwest::{Client, Method, RequestBuilder, StatusCode};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tenantry::catalog::tokens::Scope;

use crate::harness::process::Serving;
use crate::harness::provider::{AUDIENCE, Provider};
use crate::harness::{Fleet, eventually};

/// The metrics of CONTRACT that anybody can bring about, with a label of each.
const METRICS: [&str; 15] = [
    "tenantry_requests_total{endpoint=\"/api/tenant\",status=\"200\"}",
    "tenantry_resolution_total{source=",
    "tenantry_isolation_violations_total{violation_type=",
    "tenantry_pool_connections{server=\"default\",state=",
    "tenantry_pool_wait_seconds_count",
    "tenantry_route_cache_total{outcome=\"miss\"}",
    "tenantry_operations_total{kind=\"backup\",outcome=\"succeeded\"}",
    "tenantry_operation_seconds_count{kind=\"backup\"}",
    "tenantry_tenants{status=\"active\"} 1",
    "tenantry_schema_version_tenants{version=\"1\"} 1",
    "tenantry_backup_age_seconds{quantile=",
    "tenantry_backups_total{outcome=\"taken\"}",
    "tenantry_audit_findings{severity=\"critical\"}",
    "tenantry_server_up{server=\"default\"} 1",
    "tenantry_tenant_requests_total{tenant_slug=\"acme\",endpoint=\"/api/tenant\"}",
];

/// A running program, somebody's token for it and an operator's.
struct Contract {
    fleet: Fleet,
    provider: Provider,
    client: Client,
    public: String,
    admin: String,
    operator: String,
    _serving: Serving,
}

impl Contract {
    /// Serves tenant `acme` to whom a key from an address vouches for.
    async fn start(settings: &[(&str, &str)]) -> Self {
        let fleet = Fleet::start().await;
        fleet.create_tenant_with("acme", true).await;
        let provider = Provider::start().await;
        let keys = format!("{}/keys", provider.issuer);
        let mut all = vec![
            ("TENANTRY_AUTH_PROVIDER", "jwt"),
            ("TENANTRY_JWT_PUBLIC_KEY_URL", keys.as_str()),
            ("TENANTRY_JWT_ISSUER", provider.issuer.as_str()),
            ("TENANTRY_JWT_AUDIENCE", AUDIENCE),
        ];
        all.extend_from_slice(settings);
        let mut serving = Serving::start_with(&fleet, &all);
        let public = serving.address("the data plane").await;
        let admin = serving.address("the admin API").await;
        let operator = fleet.catalog().create_token("operator", &Scope::ALL).await.unwrap();
        let operator = operator.expose_secret().to_owned();
        let client = Client::new();
        Self { fleet, provider, client, public, admin, operator, _serving: serving }
    }

    fn control(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.admin)).bearer_auth(&self.operator)
    }

    /// As a user of this tenant.
    fn data(&self, method: Method, path: &str, tenant: &str) -> RequestBuilder {
        let token = self.provider.token(&json!({ "tenant": tenant }));
        self.client.request(method, format!("{}{path}", self.public)).bearer_auth(token)
    }
}

#[tokio::test]
async fn who_finds_every_connection_in_use_is_told_when_to_come_again() {
    let settings = [("TENANTRY_POOL_MAX_SIZE", "1"), ("TENANTRY_POOL_WAIT_TIMEOUT", "200ms")];
    let contract = Contract::start(&settings).await;
    let sql = |query: &str| {
        let body = json!({ "query": query, "params": [] });
        contract.data(Method::POST, "/sql", "acme").json(&body)
    };
    let busy = tokio::spawn(sql("select pg_sleep(4)").send());
    let session = contract.fleet.admin("tenant_acme").await;
    eventually("the only connection is in use", async || {
        let sleeping = "select from pg_stat_activity where query like '%pg_sleep(4)%' and pid <> pg_backend_pid()";
        !session.query(sleeping, &[]).await.unwrap().is_empty()
    })
    .await;

    let refused = sql("select 1").send().await.unwrap();

    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    let wait: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..60).contains(&wait), "{wait}");
    assert_eq!(refused.json::<Value>().await.unwrap()["code"], "tenant_busy");
    assert_eq!(busy.await.unwrap().unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn long_work_says_where_to_ask_for_it_and_the_metrics_tell_of_it() {
    let contract = Contract::start(&[
        ("TENANTRY_ENABLE_ADVANCED_METRICS", "true"),
        ("TENANTRY_METRICS_PER_TENANT", "true"),
        ("TENANTRY_BACKUP_SCHEDULE", "@daily"),
        ("TENANTRY_POOL_MAX_SIZE", "1"),
    ])
    .await;

    let accepted =
        contract.control(Method::POST, "/api/setup/tenants/acme/backup").send().await.unwrap();
    assert_eq!(accepted.status(), StatusCode::ACCEPTED);
    let location = accepted.headers()["location"].to_str().unwrap().to_owned();
    let id = accepted.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned();
    assert_eq!(location, format!("/api/operations/{id}"));
    let ended = contract.control(Method::GET, &format!("{location}?wait=true")).send();
    assert_eq!(ended.await.unwrap().json::<Value>().await.unwrap()["status"], "succeeded");
    let audited = contract.control(Method::POST, "/api/audit?wait=true").send().await.unwrap();
    assert!(audited.status().is_success(), "{}", audited.text().await.unwrap());
    let own = contract.data(Method::GET, "/api/tenant", "acme").send().await.unwrap();
    assert_eq!(own.json::<Value>().await.unwrap()["slug"], "acme");
    let other = contract.data(Method::GET, "/api/tenant", "acme").header("X-Tenant", "globex");
    assert_eq!(other.send().await.unwrap().status(), StatusCode::FORBIDDEN);
    let sql = || {
        let body = json!({ "query": "select pg_sleep(0.3)", "params": [] });
        contract.data(Method::POST, "/sql", "acme").json(&body).send()
    };
    let (one, waits) = tokio::join!(sql(), sql());
    assert_eq!([one.unwrap().status(), waits.unwrap().status()], [StatusCode::OK; 2]);

    let scrape = async || {
        let answer = contract.control(Method::GET, "/metrics").send().await.unwrap();
        answer.text().await.unwrap()
    };
    for name in METRICS {
        eventually(name, async || scrape().await.contains(name)).await;
    }
}

#[tokio::test]
async fn the_api_documents_itself() {
    let contract = Contract::start(&[]).await;

    let page = contract.control(Method::GET, "/docs").send().await.unwrap();
    let document = contract.control(Method::GET, "/openapi.json").send().await.unwrap();

    assert_eq!(page.status(), StatusCode::OK);
    assert!(page.headers()["content-type"].to_str().unwrap().starts_with("text/html"));
    assert!(page.text().await.unwrap().contains("openapi.json"));
    let paths = document.json::<Value>().await.unwrap()["paths"].clone();
    for path in ["/api/setup/tenant", "/api/operations/{id}", "/api/backups"] {
        assert!(paths.get(path).is_some(), "{path}: {paths}");
    }
}
