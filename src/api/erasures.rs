//! The keys of backups: another one, none, and the certificates of those that are gone.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::Response;
use serde_json::Value;
use uuid::Uuid;

use super::Admin;
use super::auth::Caller;
use super::document::OperationDocument;
use super::error::ApiError;
use super::operations::accepted;
use crate::catalog::tokens::Scope;
use crate::problem::Problem;
use crate::tenant::TenantSlug;

/// Encrypts a tenant's backups to another key, from the next one on.
#[utoipa::path(post, path = "/api/setup/tenants/{slug}/backup-key/rotate", tag = "backups",
    params(("slug" = String, Path)),
    responses((status = ACCEPTED, body = OperationDocument), (status = CONFLICT, body = Problem)))]
pub(super) async fn rotate(
    State(admin): State<Admin>,
    caller: Caller,
    Path(slug): Path<String>,
) -> Result<Response, ApiError> {
    caller.require(Scope::Backup)?;
    let slug = TenantSlug::parse(&slug)?;
    let asked = admin.environment.rotate_backup_key(&slug, caller.requester()).await?;
    accepted(&admin, &asked).await
}

/// Destroys every key of a tenant's backups: nobody can read those that are there again.
#[utoipa::path(post, path = "/api/setup/tenants/{slug}/backup-key/destroy", tag = "backups",
    params(("slug" = String, Path)),
    responses((status = ACCEPTED, body = OperationDocument), (status = CONFLICT, body = Problem)))]
pub(super) async fn destroy(
    State(admin): State<Admin>,
    caller: Caller,
    Path(slug): Path<String>,
) -> Result<Response, ApiError> {
    caller.require(Scope::TenantsWrite)?;
    let slug = TenantSlug::parse(&slug)?;
    let asked = admin.environment.destroy_backup_keys(&slug, caller.requester()).await?;
    accepted(&admin, &asked).await
}

/// Shows the certificate of an erasure, which has the id of its operation.
#[utoipa::path(get, path = "/api/erasures/{id}", tag = "backups", params(("id" = Uuid, Path)),
    responses((status = OK, body = Object), (status = NOT_FOUND, body = Problem)))]
pub(super) async fn get(
    State(admin): State<Admin>,
    caller: Caller,
    id: Result<Path<Uuid>, PathRejection>,
) -> Result<Json<Value>, ApiError> {
    caller.require(Scope::Backup)?;
    let certificate = admin.environment.catalog.erasure(id?.0).await?;
    Ok(Json(serde_json::to_value(&certificate).expect("a certificate is plain data")))
}
