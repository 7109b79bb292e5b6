//! The servers that host tenants.

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::Admin;
use super::auth::Caller;
use super::document::{ReadReplicaDocument, ServerDocument};
use super::error::ApiError;
use crate::catalog::tokens::Scope;
use crate::problem::Problem;

/// Every server.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Servers {
    servers: Vec<ServerDocument>,
}

/// The read replicas of a server.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ReadReplicas {
    replicas: Vec<ReadReplicaDocument>,
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

/// Lists the read replicas of a server, without their secrets.
#[utoipa::path(get, path = "/api/servers/{name}/replicas", tag = "servers", params(("name" = String, Path)),
    responses((status = OK, body = ReadReplicas), (status = NOT_FOUND, body = Problem)))]
pub(super) async fn replicas(
    State(admin): State<Admin>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<ReadReplicas>, ApiError> {
    caller.require(Scope::Servers)?;
    let catalog = &admin.environment.catalog;
    let server = catalog.server_by_name(&name).await?;
    let replicas = catalog.read_replicas(Some(&server.name)).await?;
    Ok(Json(ReadReplicas { replicas: replicas.into_iter().map(Into::into).collect() }))
}
