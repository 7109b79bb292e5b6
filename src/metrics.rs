//! Every metric, its name and its labels; rendered for Prometheus at `GET /metrics`.
//!
//! Labels never hold an unbounded set: no id, no path as it was sent, and slugs only where the operator asked for them.

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{
    Counter, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use metrics_util::MetricKindMask;

mod exemplars;

/// The upper bounds of histograms, in seconds.
const BUCKETS: [f64; 11] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0];
/// What nobody has measured for so long is there no more: a server that was removed, or what another replica does now.
const GAUGE_LIFE: Duration = Duration::from_mins(5);

/// How much is recorded in this process, since its recorder was installed.
static DETAIL: OnceLock<Detail> = OnceLock::new();

/// What is recorded beyond the counts and the state of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Detail {
    /// How long requests, waits and operations take, in histograms.
    pub times: bool,
    /// The requests of each tenant.
    pub tenants: bool,
}

impl Default for Detail {
    fn default() -> Self {
        Self { times: true, tenants: false }
    }
}

/// Renders what has been measured in this process.
#[derive(Clone)]
pub struct Exporter(PrometheusHandle);

impl Exporter {
    /// Starts recording. `None` when the process records already, as a library inside another
    /// application may find.
    #[must_use]
    pub fn install(detail: Detail) -> Option<Self> {
        let recorder = PrometheusBuilder::new()
            .set_buckets(&BUCKETS)
            .expect("the buckets are not empty")
            .idle_timeout(MetricKindMask::GAUGE, Some(GAUGE_LIFE))
            .build_recorder();
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).ok()?;
        DETAIL.get_or_init(|| detail);
        describe();
        Some(Self(handle))
    }

    /// Everything in Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// The same in the OpenMetrics format, with traces beside the buckets of histograms.
    #[must_use]
    pub fn render_open(&self) -> String {
        exemplars::open_metrics(&self.0.render())
    }

    /// Frees what histograms have gathered; to be called every few seconds, scraped or not.
    pub fn upkeep(&self) {
        self.0.run_upkeep();
    }
}

fn describe() {
    describe_counter!("tenantry_requests_total", "Requests by endpoint and HTTP status.");
    describe_counter!("tenantry_tenant_requests_total", "Requests by tenant and endpoint.");
    describe_histogram!(
        "tenantry_request_seconds",
        "Time until a request was answered, by endpoint."
    );
    describe_counter!(
        "tenantry_resolution_total",
        "Tenants named by requests, by source and outcome."
    );
    describe_counter!(
        "tenantry_isolation_violations_total",
        "Attempts that isolation stopped, by type."
    );
    describe_counter!("tenantry_catalog_queries_total", "Statements sent to the catalog, by name.");
    describe_counter!("tenantry_route_cache_total", "Route look-ups by outcome.");
    describe_gauge!(
        "tenantry_pool_connections",
        "Connections to tenant databases by server and state."
    );
    describe_histogram!(
        "tenantry_pool_wait_seconds",
        "Time that requests waited for a connection; those that found one ready are not counted."
    );
    describe_counter!(
        "tenantry_rate_limited_total",
        "Statements that a tenant's rate let wait or refused, by outcome."
    );
    describe_counter!("tenantry_operations_total", "Turns with operations by kind and outcome.");
    describe_histogram!(
        "tenantry_operation_seconds",
        "Duration of a turn with an operation by kind."
    );
    describe_gauge!("tenantry_tenants", "Tenants by state.");
    describe_gauge!("tenantry_schema_version_tenants", "Tenants by schema version.");
    describe_counter!(
        "tenantry_backups_total",
        "Backups that were taken, were not needed as nothing had changed, or failed, by outcome."
    );
    describe_gauge!(
        "tenantry_backup_age_seconds",
        "How old the data of tenants' newest backups is, by quantile; 1 is the oldest."
    );
    describe_gauge!(
        "tenantry_backup_goals_missed",
        "Tenants whose newest backup is older than its goal allows."
    );
    describe_gauge!(
        "tenantry_catalog_backup_age_seconds",
        "How old the newest backup of the catalog is."
    );
    describe_gauge!(
        "tenantry_audit_findings",
        "Findings of the last isolation audit that nobody has accepted, by severity."
    );
    describe_gauge!("tenantry_server_up", "Whether a tenant server answers.");
    describe_gauge!("tenantry_replica_up", "Whether a read replica answers and is a standby.");
    describe_gauge!(
        "tenantry_replica_lag_seconds",
        "How old what a read replica shows may be, as of the last look at it."
    );
}

/// A request was answered; to be called in its span.
pub fn request(endpoint: &str, status: u16, elapsed: Duration) {
    counter!("tenantry_requests_total", "endpoint" => endpoint.to_owned(), "status" => status.to_string())
        .increment(1);
    observe("tenantry_request_seconds", Some(("endpoint", endpoint)), elapsed);
}

/// A request was let through to its tenant.
pub fn tenant_request(slug: &str, endpoint: &'static str) {
    if detail().tenants {
        counter!("tenantry_tenant_requests_total", "tenant_slug" => slug.to_owned(), "endpoint" => endpoint)
            .increment(1);
    }
}

/// A request named a tenant, or failed to.
pub fn resolution(source: &'static str, outcome: &'static str) {
    counter!("tenantry_resolution_total", "source" => source, "outcome" => outcome).increment(1);
}

/// Isolation stopped something.
pub fn isolation_violation(violation_type: &'static str) {
    counter!("tenantry_isolation_violations_total", "violation_type" => violation_type)
        .increment(1);
}

/// A statement went to the catalog; its name is one of the few that stand in the code.
pub fn catalog_query(name: &str) {
    counter!("tenantry_catalog_queries_total", "query" => name.to_owned()).increment(1);
}

/// Route look-ups by outcome. Handles that are made once, since every request counts one; they count
/// only if recording had started before.
pub struct RouteLookups {
    /// The route was known.
    pub hit: Counter,
    /// The catalog was asked.
    pub miss: Counter,
    /// There is no such tenant.
    pub unknown: Counter,
    /// The catalog was away, and the last known route was used.
    pub stale: Counter,
}

impl Default for RouteLookups {
    fn default() -> Self {
        let outcome = |outcome| counter!("tenantry_route_cache_total", "outcome" => outcome);
        let (hit, miss) = (outcome("hit"), outcome("miss"));
        Self { hit, miss, unknown: outcome("unknown"), stale: outcome("stale") }
    }
}

/// A request that found no connection ready waited for one.
pub fn pool_wait(elapsed: Duration) {
    observe("tenantry_pool_wait_seconds", None, elapsed);
}

/// A tenant's rate let a statement wait, or refused it.
pub fn rate_limited(outcome: &'static str) {
    counter!("tenantry_rate_limited_total", "outcome" => outcome).increment(1);
}

/// What the pools hold open on a server now.
pub fn pool_connections(server: &str, total: usize, idle: usize) {
    for (state, number) in [("idle", idle), ("used", total.saturating_sub(idle))] {
        let number = f64::from(u32::try_from(number).unwrap_or(u32::MAX));
        gauge!("tenantry_pool_connections", "server" => server.to_owned(), "state" => state)
            .set(number);
    }
}

/// A worker's turn with an operation ended; to be called in its span.
pub fn operation(kind: &'static str, outcome: &'static str, elapsed: Duration) {
    counter!("tenantry_operations_total", "kind" => kind, "outcome" => outcome).increment(1);
    observe("tenantry_operation_seconds", Some(("kind", kind)), elapsed);
}

/// How many tenants are in a state.
#[expect(clippy::cast_precision_loss, reason = "nobody has 2^52 tenants")]
pub fn tenants(state: &'static str, number: i64) {
    gauge!("tenantry_tenants", "status" => state).set(number as f64);
}

/// How many tenants are at a schema version.
#[expect(clippy::cast_precision_loss, reason = "nobody has 2^52 tenants")]
pub fn schema_version(version: i64, number: i64) {
    gauge!("tenantry_schema_version_tenants", "version" => version.to_string()).set(number as f64);
}

/// A backup was taken, was not needed, or failed.
pub fn backup(outcome: &'static str) {
    counter!("tenantry_backups_total", "outcome" => outcome).increment(1);
}

/// How old the newest backups are, in seconds, the youngest first.
#[expect(clippy::cast_precision_loss, reason = "nobody waits 2^52 seconds for a backup")]
pub fn backup_ages(sorted: &[u64]) {
    for (quantile, percent) in [("0.5", 50), ("0.95", 95), ("1", 100)] {
        let place = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
        let age = sorted.get(place).copied().unwrap_or(0);
        gauge!("tenantry_backup_age_seconds", "quantile" => quantile).set(age as f64);
    }
}

/// How many tenants have a backup that is older than it may be.
#[expect(clippy::cast_precision_loss, reason = "nobody has 2^52 tenants")]
pub fn backup_goals_missed(number: usize) {
    gauge!("tenantry_backup_goals_missed").set(number as f64);
}

/// How old the newest backup of the catalog is.
pub fn catalog_backup_age(age: Duration) {
    gauge!("tenantry_catalog_backup_age_seconds").set(age.as_secs_f64());
}

/// How many findings of a severity the last audit of the fleet has that nobody has accepted.
pub fn audit_findings(severity: &'static str, number: i32) {
    gauge!("tenantry_audit_findings", "severity" => severity).set(f64::from(number));
}

/// Whether a server answers.
pub fn server_up(server: &str, up: bool) {
    gauge!("tenantry_server_up", "server" => server.to_owned()).set(f64::from(u8::from(up)));
}

/// Whether a read replica answers and is a standby of its server.
pub fn replica_up(server: &str, replica: &str, up: bool) {
    gauge!("tenantry_replica_up", "server" => server.to_owned(), "replica" => replica.to_owned())
        .set(f64::from(u8::from(up)));
}

/// How old what a read replica shows may be.
pub fn replica_lag(server: &str, replica: &str, lag: Duration) {
    gauge!("tenantry_replica_lag_seconds", "server" => server.to_owned(), "replica" => replica.to_owned())
        .set(lag.as_secs_f64());
}

fn detail() -> Detail {
    DETAIL.get().copied().unwrap_or_default()
}

fn observe(histogram: &'static str, label: Option<(&'static str, &str)>, elapsed: Duration) {
    if !detail().times {
        return;
    }
    match label {
        Some((name, value)) => histogram!(histogram, name => value.to_owned()).record(elapsed),
        None => histogram!(histogram).record(elapsed),
    }
    exemplars::note(histogram, label, elapsed.as_secs_f64());
}
