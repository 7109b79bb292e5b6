//! Freezing the fleet: the version beyond which nobody is migrated.

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;

use super::Admin;
use super::auth::Caller;
use super::error::ApiError;
use super::migrations::reload;
use crate::catalog::freeze::Freeze;
use crate::catalog::tokens::Scope;
use crate::problem::Problem;

/// Where to freeze the fleet.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct At {
    /// The version; a migration file must have it.
    version: i64,
}

/// Lets nobody be migrated beyond a version: no rollout goes further, and no tenant that is created, restored or
/// brought up to date by itself. `GET /api/migrations` tells it.
#[utoipa::path(put, path = "/api/migrations/freeze", tag = "migrations", request_body = At,
    responses((status = OK, body = Freeze), (status = CONFLICT, body = Problem)))]
pub(super) async fn set(
    State(admin): State<Admin>,
    caller: Caller,
    body: Result<Json<At>, JsonRejection>,
) -> Result<Json<Freeze>, ApiError> {
    caller.require(Scope::Migrate)?;
    let Json(At { version }) = body?;
    reload(&admin).await?;
    Ok(Json(admin.environment.freeze_at(version, caller.requester().name).await?))
}

/// Lets everybody be migrated again. Migrates nobody by itself.
#[utoipa::path(delete, path = "/api/migrations/freeze", tag = "migrations",
    responses((status = NO_CONTENT), (status = UNAUTHORIZED, body = Problem)))]
pub(super) async fn lift(
    State(admin): State<Admin>,
    caller: Caller,
) -> Result<StatusCode, ApiError> {
    caller.require(Scope::Migrate)?;
    admin.environment.catalog.unfreeze(caller.requester().name).await?;
    Ok(StatusCode::NO_CONTENT)
}
