//! The servers that host tenants.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::Admin;
use super::auth::Caller;
use super::document::ServerDocument;
use super::error::ApiError;
use crate::catalog::tokens::Scope;
use crate::problem::Problem;

/// Every server.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Servers {
    servers: Vec<ServerDocument>,
}

/// Lists the servers, without their secrets.
#[utoipa::path(get, path = "/api/servers", tag = "servers",
    responses((status = OK, body = Servers), (status = UNAUTHORIZED, body = Problem), (status = FORBIDDEN, body = Problem)))]
pub(super) async fn list(
    State(admin): State<Admin>,
    caller: Caller,
) -> Result<Json<Servers>, ApiError> {
    caller.require(Scope::Servers)?;
    let servers = admin.environment.catalog.servers().await?;
    Ok(Json(Servers { servers: servers.into_iter().map(Into::into).collect() }))
}
