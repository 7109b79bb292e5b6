//! Audits of isolation: running one, and reading what was found.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Admin;
use super::auth::Caller;
use super::error::{ApiError, optional_json};
use crate::audit::{Audit, AuditOptions};
use crate::catalog::CatalogError;
use crate::catalog::audits::{Acceptance, AuditSummary};
use crate::catalog::tokens::Scope;
use crate::problem::Problem;
use crate::tenant::TenantSlug;

/// How many audits are listed.
const LISTED: i64 = 100;

/// What to audit.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RunAudit {
    /// These tenants; all when this is left out.
    tenants: Option<Vec<String>>,
}

/// An audit that has begun.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Begun {
    /// Its id.
    id: Uuid,
}

/// What was audited, newest first, and what is accepted now.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Audits {
    audits: Vec<AuditSummary>,
    accepted: Vec<Acceptance>,
}

/// Audits isolation: attacks every tenant of the fleet, or some. It takes a while: the report is at `Location` when
/// it has ended, and 404 until then. 409 while another audit is under way.
#[utoipa::path(post, path = "/api/audit", tag = "audit", request_body = Option<RunAudit>,
    responses((status = ACCEPTED, body = Begun), (status = CONFLICT, body = Problem),
        (status = NOT_FOUND, body = Problem)))]
pub(super) async fn run(
    State(admin): State<Admin>,
    caller: Caller,
    body: Bytes,
) -> Result<Response, ApiError> {
    caller.require(Scope::Audit)?;
    let RunAudit { tenants } = optional_json(&body)?;
    if tenants.as_ref().is_some_and(Vec::is_empty) {
        return Err(ApiError::invalid("`tenants` names none; leave it out to audit the fleet"));
    }
    let slugs = tenants.unwrap_or_default();
    let tenants = slugs.iter().map(|slug| TenantSlug::parse(slug)).collect::<Result<_, _>>()?;
    let options = AuditOptions { tenants, ..AuditOptions::default() };
    let begun = Audit::begin(&admin.environment, options, caller.requester().name).await?;
    let begun = begun.ok_or_else(|| {
        CatalogError::Conflict("an audit is under way; wait for it to end".to_owned())
    })?;
    let id = begun.id();
    tokio::spawn(async move {
        if let Err(error) = begun.run().await {
            tracing::error!(audit = %id, %error, "the audit could not be made");
        }
    });
    let location =
        HeaderValue::from_str(&format!("/api/audit/{id}")).expect("an id is plain ASCII");
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(Begun { id })).into_response())
}

/// Shows the signed report of the newest audit of the whole fleet.
#[utoipa::path(get, path = "/api/audit", tag = "audit",
    responses((status = OK, body = Object), (status = NOT_FOUND, body = Problem)))]
pub(super) async fn newest(
    State(admin): State<Admin>,
    caller: Caller,
) -> Result<Json<Value>, ApiError> {
    caller.require(Scope::Audit)?;
    Ok(Json(admin.environment.catalog.last_audit_report().await?))
}

/// Lists audits.
#[utoipa::path(get, path = "/api/audits", tag = "audit", responses((status = OK, body = Audits)))]
pub(super) async fn list(
    State(admin): State<Admin>,
    caller: Caller,
) -> Result<Json<Audits>, ApiError> {
    caller.require(Scope::Audit)?;
    let catalog = &admin.environment.catalog;
    Ok(Json(Audits {
        audits: catalog.audits(LISTED).await?,
        accepted: catalog.acceptances().await?,
    }))
}

/// Shows the signed report of one audit.
#[utoipa::path(get, path = "/api/audit/{id}", tag = "audit", params(("id" = Uuid, Path)),
    responses((status = OK, body = Object), (status = NOT_FOUND, body = Problem)))]
pub(super) async fn get(
    State(admin): State<Admin>,
    caller: Caller,
    id: Result<Path<Uuid>, PathRejection>,
) -> Result<Json<Value>, ApiError> {
    caller.require(Scope::Audit)?;
    Ok(Json(admin.environment.catalog.audit_report(id?.0).await?))
}
