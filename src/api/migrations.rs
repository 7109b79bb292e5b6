//! Migrations over the fleet: where it stands, starting a run, and how a run goes.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::Admin;
use super::auth::Caller;
use super::document::BatchDocument;
use super::document::fleet::FleetDocument;
use super::error::{ApiError, optional_json};
use crate::catalog::CatalogError;
use crate::catalog::operations::OperationFilter;
use crate::catalog::tokens::Scope;
use crate::operations::chain;
use crate::problem::Problem;
use crate::tenant::TenantSlug;

/// Where the fleet stands.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Status {
    /// The same as `target_version`.
    target: i64,
    #[serde(flatten)]
    fleet: FleetDocument,
}

/// What to tell.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Whether to list every tenant too.
    #[serde(default)]
    detail: bool,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Start {
    /// These tenants; all that are behind when this is left out.
    tenants: Option<Vec<String>>,
}

/// A run that has been asked for.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Started {
    batch_id: Uuid,
}

/// Shows where the fleet stands, as the catalog knows it.
#[utoipa::path(get, path = "/api/migrations", tag = "migrations", params(Wanted),
    responses((status = OK, body = Status), (status = UNAUTHORIZED, body = Problem)))]
pub(super) async fn status(
    State(admin): State<Admin>,
    caller: Caller,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Json<Status>, ApiError> {
    caller.require(Scope::Migrate)?;
    let Query(Wanted { detail }) = wanted?;
    let status = admin.environment.fleet_status().await?;
    let mut tenants = None;
    if detail {
        tenants = Some(admin.environment.tenant_standings(&status).await?);
    }
    let fleet = FleetDocument::new(&status, tenants);
    Ok(Json(Status { target: status.target, fleet }))
}

/// Brings tenants to the newest migration.
#[utoipa::path(post, path = "/api/migrations", tag = "migrations", request_body = Option<Start>,
    responses((status = ACCEPTED, body = Started), (status = CONFLICT, body = Problem)))]
pub(super) async fn start(
    State(admin): State<Admin>,
    caller: Caller,
    body: Bytes,
) -> Result<Response, ApiError> {
    caller.require(Scope::Migrate)?;
    let Start { tenants } = optional_json(&body)?;
    if tenants.as_ref().is_some_and(Vec::is_empty) {
        return Err(ApiError::invalid("`tenants` names none; leave it out to migrate the fleet"));
    }
    let tenants = tenants.unwrap_or_default();
    let slugs =
        tenants.iter().map(|slug| TenantSlug::parse(slug)).collect::<Result<Vec<_>, _>>()?;
    reload(&admin).await?;
    let batch_id = admin.environment.migrate_fleet(&slugs, caller.requester().name).await?;
    let location = HeaderValue::from_str(&format!("/api/migrations/{batch_id}"))
        .expect("an id is plain ASCII");
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(Started { batch_id }))
        .into_response())
}

/// Shows how a run goes, with the result of each tenant.
#[utoipa::path(get, path = "/api/migrations/{batch}", tag = "migrations", params(("batch" = Uuid, Path)),
    responses((status = OK, body = BatchDocument), (status = NOT_FOUND, body = Problem)))]
pub(super) async fn show(
    State(admin): State<Admin>,
    caller: Caller,
    batch: Result<Path<Uuid>, PathRejection>,
) -> Result<Json<BatchDocument>, ApiError> {
    caller.require(Scope::Migrate)?;
    let Path(batch) = batch?;
    let filter =
        OperationFilter { batch: Some(batch), limit: i64::MAX, ..OperationFilter::default() };
    let found = admin.environment.catalog.operations(&filter).await?;
    if found.is_empty() {
        return Err(CatalogError::Missing { what: "run", name: batch.to_string() }.into());
    }
    Ok(Json(BatchDocument::new(batch, &found)))
}

/// The files as they are now: a deploy may have added some a moment ago.
pub(super) async fn reload(admin: &Admin) -> Result<(), ApiError> {
    admin.environment.reload_migrations().await.map_err(|error| {
        tracing::error!(error = %chain(&error), "the migration files cannot be used");
        let detail = "the server's migration files cannot be used; its log says which and why";
        Problem::new(StatusCode::CONFLICT, "migration_files", "Conflict", detail).into()
    })
}
