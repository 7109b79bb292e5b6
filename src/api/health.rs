//! `/livez`, `/readyz` and `/health`: whether the process lives, whether it can route, and what it knows
//! of the rest. Answers are cached, so that a prober costs nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures_util::future::{join, join_all};
use jiff::Timestamp;
use moka::future::Cache;
use serde::Serialize;
use tokio::time::timeout;

use crate::catalog::audits::AuditSummary;
use crate::catalog::{Catalog, CatalogError};
use crate::operations::Environment;
use crate::problem::Problem;
use crate::router::TenantRouter;
use crate::tenant::TenantState;

/// How long an answer is given again.
const TTL: Duration = Duration::from_secs(2);
/// How long the catalog or a server may take to answer before it counts as away.
const PATIENCE: Duration = Duration::from_secs(2);

const UP: &str = "up";
const DOWN: &str = "down";

/// What a replica knows of its own health. Cheap to clone.
#[derive(Clone)]
pub struct Health {
    catalog: Catalog,
    plane: Plane,
    multi_tenant: bool,
    cache: Cache<(), Arc<Report>>,
}

/// What a listener can tell beyond the catalog.
#[derive(Clone)]
pub enum Plane {
    /// What is routed.
    Data(TenantRouter),
    /// Whether each server answers.
    Control(Box<Environment>),
}

/// The answer of `/health`.
#[derive(Clone, Debug, Serialize)]
struct Report {
    /// `healthy`, or `degraded` when the catalog or a server is away.
    status: &'static str,
    version: &'static str,
    multi_tenant_mode: bool,
    /// Living tenants; unknown while the catalog is away.
    tenant_count: Option<i64>,
    /// What the last isolation audit of the fleet said: `isolated`, `findings`, `incomplete`; `not_audited` if there
    /// was none, and `unknown` while the catalog is away.
    isolation_status: &'static str,
    /// When that audit ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_audit: Option<Timestamp>,
    /// `up` or `down`.
    catalog: &'static str,
    /// Tenants with open pools on this replica.
    #[serde(skip_serializing_if = "Option::is_none")]
    pools: Option<usize>,
    /// Connections in those pools.
    #[serde(skip_serializing_if = "Option::is_none")]
    connections: Option<usize>,
    /// `up` or `down`, by the server's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    servers: Option<BTreeMap<String, &'static str>>,
}

impl Health {
    /// The health of a listener's replica.
    #[must_use]
    pub fn new(catalog: Catalog, plane: Plane, multi_tenant: bool) -> Self {
        let cache = Cache::builder().time_to_live(TTL).max_capacity(1).build();
        Self { catalog, plane, multi_tenant, cache }
    }

    async fn report(&self) -> Arc<Report> {
        self.cache.get_with((), async { Arc::new(self.look().await) }).await
    }

    async fn look(&self) -> Report {
        let (tenant_count, audit) = join(self.count_tenants(), self.last_audit()).await;
        let (pools, servers) = match &self.plane {
            Plane::Data(router) => (Some(router.pool_status()), None),
            Plane::Control(environment) => (None, self.ask_servers(environment).await),
        };
        let up = tenant_count.is_some();
        let all_up = servers.iter().flat_map(BTreeMap::values).all(|state| *state == UP);
        Report {
            status: if up && all_up { "healthy" } else { "degraded" },
            version: env!("CARGO_PKG_VERSION"),
            multi_tenant_mode: self.multi_tenant,
            tenant_count,
            isolation_status: audit.status(),
            last_audit: audit.ended(),
            catalog: if up { UP } else { DOWN },
            pools: pools.map(|status| status.pools),
            connections: pools.map(|status| status.connections),
            servers,
        }
    }

    async fn ask_servers(
        &self,
        environment: &Environment,
    ) -> Option<BTreeMap<String, &'static str>> {
        let servers = timeout(PATIENCE, self.catalog.servers()).await.ok()?.ok()?;
        let states = servers.into_iter().map(|record| async move {
            let up = environment.server_answers(record.id, PATIENCE).await;
            (record.name, if up { UP } else { DOWN })
        });
        Some(join_all(states).await.into_iter().collect())
    }

    async fn last_audit(&self) -> LastAudit {
        match timeout(PATIENCE, self.catalog.last_audit()).await {
            Ok(Ok(Some(last))) => LastAudit::Known(last),
            Ok(Ok(None)) => LastAudit::Never,
            Ok(Err(_)) | Err(_) => LastAudit::Unknown,
        }
    }

    async fn count_tenants(&self) -> Option<i64> {
        let counted: Result<_, CatalogError> =
            timeout(PATIENCE, self.catalog.count_tenants()).await.ok()?;
        let living = |(state, _): &(TenantState, i64)| *state != TenantState::Deleted;
        Some(counted.ok()?.into_iter().filter(living).map(|(_, number)| number).sum())
    }
}

/// What the catalog says of the last audit of the fleet.
enum LastAudit {
    Known(AuditSummary),
    Never,
    /// The catalog is away.
    Unknown,
}

impl LastAudit {
    fn status(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Never => "not_audited",
            Self::Known(last) if last.findings.total() > 0 => "findings",
            Self::Known(last) if !last.complete => "incomplete",
            Self::Known(_) => "isolated",
        }
    }

    fn ended(&self) -> Option<Timestamp> {
        match self {
            Self::Known(last) => Some(last.finished_at),
            Self::Never | Self::Unknown => None,
        }
    }
}

/// The process answers.
pub(super) async fn livez() -> &'static str {
    "ok"
}

/// The replica can route: the catalog answers, or tenants are known from before.
pub(super) async fn readyz(State(health): State<Health>) -> Response {
    let report = health.report().await;
    let knows_tenants = report.pools.is_some_and(|pools| pools > 0);
    if report.tenant_count.is_some() || knows_tenants {
        return (StatusCode::OK, "ok").into_response();
    }
    Problem::unavailable().into_response()
}

/// The detailed state.
pub(super) async fn health(State(health): State<Health>) -> Response {
    let report = health.report().await;
    Json(report.as_ref().clone()).into_response()
}
