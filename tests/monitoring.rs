//! What `compose/` has for Prometheus and Grafana, in a real Prometheus that scrapes a real replica.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reqwest::{Client, StatusCode, Url};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use tenantry::catalog::tokens::Scope;
use tenantry::embedded::free_port;
use tenantry::embedded::{EmbeddedPostgres, PostgresSettings};
use tenantry::tenant::placement::Unfit;

use crate::harness::process::{self, Serving};
use crate::harness::{BY, Fleet, eventually, new_tenant, slug};

const RULES: &str = "compose/prometheus/alerts.yaml";
const SETTINGS: &str = "compose/prometheus/prometheus.yaml";
/// What a caller's trace is called.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const DASHBOARD: &str = "compose/grafana/dashboard.json";
/// What both replicas of `compose/` are set to.
const REPLICAS: &str = "compose/dev.env";

/// A running Prometheus; ends with its value.
struct Prometheus {
    process: Child,
    address: String,
    client: Client,
    _files: TempDir,
}

impl Prometheus {
    /// One that scrapes and alerts as `compose/` has it, only sooner.
    async fn start(router: &str, worker: &str, token: &str) -> Self {
        let files = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(files.path().join(name), text).unwrap();
        let rules = std::fs::read_to_string(RULES).unwrap();
        let rules = rules.lines().map(|line| match line.trim_start().strip_prefix("for: ") {
            Some(_) => "        for: 0s",
            None => line,
        });
        write("alerts.yaml", &rules.collect::<Vec<_>>().join("\n"));
        let settings = std::fs::read_to_string(SETTINGS).unwrap();
        let settings = settings.replace("router:8081", router).replace("worker:8081", worker);
        write("prometheus.yaml", &settings.replace("15s", "1s"));
        write("token", token);
        let port = free_port().unwrap();
        let process = Command::new("setpriv")
            // It must not outlive the test, however that ends.
            .args(["--pdeathsig", "KILL", "prometheus", "--config.file=prometheus.yaml"])
            .arg("--enable-feature=exemplar-storage")
            .args(["--storage.tsdb.path=data", &format!("--web.listen-address=127.0.0.1:{port}")])
            .current_dir(files.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let address = format!("http://127.0.0.1:{port}/api/v1");
        let prometheus = Self { process, address, client: Client::new(), _files: files };
        prometheus.becomes("count(up{job=\"tenantry\"} == 1) == 2").await;
        prometheus
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Option<Value> {
        let address = format!("{}/{path}", self.address);
        let address = Url::parse_with_params(&address, query).unwrap();
        self.client.get(address).send().await.ok()?.json().await.ok()
    }

    /// The series that a query gives.
    async fn query(&self, query: &str) -> Vec<Value> {
        let Some(answer) = self.get("query", &[("query", query)]).await else { return Vec::new() };
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"]["result"].as_array().unwrap().clone()
    }

    /// Waits until a query's series have an exemplar of our trace.
    async fn has_exemplar(&self, query: &str) {
        eventually("there is an exemplar", async || {
            let range = [("query", query), ("start", "0"), ("end", "99999999999")];
            let found = self.get("query_exemplars", &range).await.unwrap_or_default();
            found["data"][0]["exemplars"][0]["labels"]["trace_id"] == TRACE
        })
        .await;
    }

    /// Waits until a query gives something. A replica looks at its gauges every 15 seconds.
    async fn becomes(&self, query: &str) {
        let waiting = async {
            while self.query(query).await.is_empty() {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(90), waiting).await;
        waited.unwrap_or_else(|_| panic!("never: {query}"));
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

fn is_installed() -> bool {
    let found = Command::new("promtool").arg("--version").output().is_ok();
    if !found {
        eprintln!("Prometheus is not installed: `.ci/bootstrap tests` brings it");
    }
    found
}

/// Every query of the dashboard.
fn queries() -> Vec<String> {
    let text = std::fs::read_to_string(DASHBOARD).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    panels
        .filter_map(|panel| panel["targets"].as_array())
        .flatten()
        .map(|target| target["expr"].as_str().unwrap().replace("$__rate_interval", "1m"))
        .collect()
}

#[test]
fn the_rules_are_good() {
    if !is_installed() {
        return;
    }
    let checked = Command::new("promtool").args(["check", "rules", RULES]).output().unwrap();

    assert!(checked.status.success(), "{checked:?}");
}

/// Takes the 15 seconds twice in which a replica looks at its servers.
#[tokio::test]
async fn the_dashboard_has_data_and_an_alert_fires_when_a_server_stops() {
    if !is_installed() {
        return;
    }
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    fleet.back_up("acme").await;
    let other = EmbeddedPostgres::start_scratch(PostgresSettings::scratch()).await.unwrap();
    fleet.catalog().add_server("eu-2", &other.url().into()).await.unwrap();
    let token = fleet.catalog().create_token("prometheus", &[Scope::Metrics]).await.unwrap();
    // A collector that is away keeps nobody from being traced.
    let collector = [("TENANTRY_OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")];
    let mut worker = Serving::start_as(&fleet, "worker", &collector);
    let admin = worker.address("the admin API").await;
    let mode = [("TENANTRY_MULTI_TENANT_MODE", "false"), ("TENANTRY_TENANT_SLUG", "acme")];
    let own = [mode[0], mode[1], ("TENANTRY_METRICS_PER_TENANT", "true")];
    let mut router = Serving::start_as(&fleet, "router", &own);
    let public = router.address("the data plane").await;
    let watched = router.address("monitoring").await;
    let caller = format!("00-{TRACE}-b7ad6b7169203331-01");
    let asked = Client::new().get(format!("{admin}/health")).header("traceparent", caller);
    assert!(asked.send().await.unwrap().status().is_success());
    let query = json!({ "query": "select 1", "params": [] });
    let asked = Client::new().post(format!("{public}/sql")).json(&query);
    assert!(asked.send().await.unwrap().status().is_success());
    let [router_at, worker_at] = [&watched, &admin].map(|url| url.strip_prefix("http://").unwrap());
    let prometheus = Prometheus::start(router_at, worker_at, token.expose_secret()).await;

    prometheus.becomes("tenantry_server_up{server=\"eu-2\"} == 1").await;
    for query in queries() {
        // Of what has not happened yet there is nothing to show; but what is asked must make sense.
        prometheus.query(&query).await;
    }
    for query in [
        "max by (status) (tenantry_tenants) > 0",
        "min by (server) (tenantry_server_up)",
        "max by (version) (tenantry_schema_version_tenants)",
        "sum by (status) (rate(tenantry_requests_total[1m]))",
        "max by (quantile) (tenantry_backup_age_seconds)",
        "max(tenantry_backup_goals_missed)",
        "sum by (state) (tenantry_pool_connections)",
    ] {
        assert!(queries().contains(&query.trim_end_matches(" > 0").to_owned()), "{query}");
        prometheus.becomes(query).await;
    }
    prometheus.becomes("tenantry_pool_connections{server=\"default\", state=\"idle\"} == 1").await;
    let of_acme = "tenantry_tenant_requests_total{tenant_slug=\"acme\", endpoint=\"/sql\"} == 1";
    prometheus.becomes(of_acme).await;
    prometheus.has_exemplar("tenantry_request_seconds_bucket{endpoint=\"/health\"}").await;
    let firing = "ALERTS{alertstate=\"firing\"}";
    eventually("nothing is wrong", async || prometheus.query(firing).await.is_empty()).await;

    drop(other);

    prometheus
        .becomes("ALERTS{alertname=\"TenantryServerDown\", alertstate=\"firing\", server=\"eu-2\"}")
        .await;
    let judged = fleet.catalog().placement(&new_tenant("globex")).await.unwrap();
    let away = judged.iter().find(|judged| judged.host.name == "eu-2").unwrap();
    assert_eq!(away.unfit, [Unfit::Away], "nobody is placed there");
}

/// A replica of each role starts with what `compose/` says, on other ports and servers.
#[tokio::test]
async fn the_replicas_of_compose_start_and_tell_how_they_are() {
    let fleet = Fleet::start().await;
    let text = std::fs::read_to_string(REPLICAS).unwrap();
    let here =
        |name: &str| !name.ends_with("_URL") && !name.contains("S3_") && !name.starts_with("AWS_");
    let given = text.lines().filter_map(|line| line.split_once('=')).filter(|(name, _)| here(name));
    let given =
        given.map(|(name, value)| (name, value.replace(":8080", ":0").replace(":8081", ":0")));
    let given: Vec<_> = given.chain([("TENANTRY_JWT_SECRET", "5ec2e7".repeat(11))]).collect();
    let given: Vec<_> = given.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let token = fleet.catalog().create_token("prometheus", &[Scope::Metrics]).await.unwrap();
    let get = async |url: String| {
        let request = Client::new().get(url).bearer_auth(token.expose_secret());
        request.send().await.unwrap().status()
    };
    for (role, listener) in [("router", "monitoring"), ("worker", "the admin API")] {
        let mut replica = Serving::start_as(&fleet, role, &given);
        let admin = replica.address(listener).await.replace("0.0.0.0", "127.0.0.1");

        assert_eq!(get(format!("{admin}/metrics")).await, StatusCode::OK, "{role}");
        assert_eq!(get(format!("{admin}/readyz")).await, StatusCode::OK, "{role}");
        let verbs = get(format!("{admin}/api/setup/tenants")).await;
        let refused = if role == "router" { StatusCode::NOT_FOUND } else { StatusCode::FORBIDDEN };
        assert_eq!(verbs, refused, "{role}");
    }
}

#[tokio::test]
async fn top_shows_who_is_busy_who_waits_and_what_is_being_done() {
    let fleet = Fleet::start().await;
    for name in ["acme", "globex"] {
        fleet.create_tenant_with(name, true).await;
    }
    let gone = "postgres://admin@127.0.0.1:1/postgres";
    fleet.catalog().add_server("gone", &gone.to_owned().into()).await.unwrap();
    let [mut holds, waits] = [fleet.admin("tenant_acme").await, fleet.admin("tenant_acme").await];
    let lock = holds.transaction().await.unwrap();
    lock.batch_execute("lock table boards").await.unwrap();
    let waiting = tokio::spawn(async move { waits.batch_execute("select from boards").await });
    let router = fleet.router();
    let busy = tokio::spawn(async move {
        let globex = router.connection(&slug("globex")).await.unwrap();
        loop {
            globex.query_one("select 1", &[]).await.unwrap();
        }
    });
    let backup = fleet.environment.back_up(&slug("globex"), BY).await.unwrap();

    let top = |format: &'static str| {
        let mut command = process::command(&fleet);
        command.args(["top", "--once", "--interval", "3s", "--output-format", format]);
        tokio::task::spawn_blocking(move || command.output().unwrap())
    };
    let (json, table) = (top("json").await.unwrap(), top("table").await.unwrap());
    busy.abort();
    lock.rollback().await.unwrap();
    waiting.await.unwrap().unwrap();

    assert!(json.status.success(), "{}", String::from_utf8_lossy(&json.stderr));
    let view: Value = serde_json::from_slice(&json.stdout).unwrap();
    let named = |list: &str, key: &str, name: &str| {
        let all = view[list].as_array().unwrap();
        all.iter().find(|line| line[key] == name).unwrap_or_else(|| panic!("{view:#}")).clone()
    };
    assert_eq!(view["tenants"][0]["tenant"], "globex", "it is the busiest: {view:#}");
    assert!(view["tenants"][0]["transactions_per_second"].as_f64().unwrap() > 10.0, "{view:#}");
    let acme = named("tenants", "tenant", "acme");
    assert_eq!((&acme["waiting_for_locks"], &acme["connections"]), (&json!(1), &json!(2)));
    assert!(acme["longest_transaction_seconds"].as_f64().unwrap() > 0.5);
    assert_eq!(named("servers", "server", "gone")["load"], Value::Null);
    assert_eq!(named("servers", "server", "default")["tenants"], 2);
    assert_eq!(named("operations", "id", &backup.id.to_string())["kind"], "backup");
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("no answer") && table.contains("globex"), "{table}");
}
