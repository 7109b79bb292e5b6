//! What every replica's admin listener tells, whatever its role: what it has measured, and how it is.

use axum::Router;
use axum::extract::{FromRef, State};
use axum::http::{HeaderMap, header};
use axum::response::IntoResponse;
use axum::routing::get;

use super::auth::Caller;
use super::error::ApiError;
use super::health::{self, Health};
use super::layers;
use crate::catalog::tokens::Scope;
use crate::metrics::Exporter;
use crate::resolve::Administrators;

/// The format in which Prometheus takes exemplars.
const OPEN_METRICS: &str = "application/openmetrics-text";

/// What a replica tells those who watch it. Cheap to clone.
#[derive(Clone)]
pub struct Monitoring {
    /// Who may read the metrics.
    pub administrators: Administrators,
    /// What is rendered; none where the process records for somebody else.
    pub exporter: Option<Exporter>,
    /// What is told of its health.
    pub health: Health,
}

impl Monitoring {
    /// The admin listener of a replica that only routes: the verbs are with those that work.
    pub fn alone(self) -> Router {
        layers::wrap(self.routes(), None)
    }

    pub(super) fn routes(self) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .route("/livez", get(health::livez))
            .route("/readyz", get(health::readyz))
            .route("/health", get(health::health))
            .with_state(self)
    }
}

/// `GET /metrics`: what this process has measured, for Prometheus.
async fn metrics(
    State(monitoring): State<Monitoring>,
    caller: Caller,
    headers: HeaderMap,
) -> Result<impl IntoResponse, ApiError> {
    caller.require(Scope::Metrics)?;
    let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let (kind, text) = match monitoring.exporter {
        Some(exporter) if accepted.is_some_and(|kinds| kinds.contains(OPEN_METRICS)) => {
            ("application/openmetrics-text; version=1.0.0; charset=utf-8", exporter.render_open())
        }
        exporter => {
            ("text/plain; version=0.0.4", exporter.map(|it| it.render()).unwrap_or_default())
        }
    };
    Ok(([(header::CONTENT_TYPE, kind)], text))
}

impl FromRef<Monitoring> for Administrators {
    fn from_ref(monitoring: &Monitoring) -> Self {
        monitoring.administrators.clone()
    }
}

impl FromRef<Monitoring> for Health {
    fn from_ref(monitoring: &Monitoring) -> Self {
        monitoring.health.clone()
    }
}
