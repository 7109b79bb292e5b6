//! Emptying servers, evening them out, and removing them.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::Admin;
use super::auth::Caller;
use super::error::{ApiError, optional_json};
use crate::catalog::tokens::Scope;
use crate::operations::moves::{Failed, Moves};
use crate::operations::removal::{Removed, Stock};
use crate::problem::Problem;
use crate::tenant::moves::Destination;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DrainQuery {
    /// Where tenants may go, separated by commas: servers, `region=R`, `tier=T`, `KEY=VALUE` or `tag=KEY`. Without it, wherever they may be.
    to: Option<String>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Drain {
    /// Where tenants may go: servers, `region=R`, `tier=T`, `KEY=VALUE` or `tag=KEY`. Without any, wherever they may be.
    to: Vec<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RemoveQuery {
    /// What becomes of templates, spares and group roles of ours: without it, a server that has some stays.
    stock: Option<StockParameter>,
    /// Drop the databases that tenants have left there; nothing can be undone to it then.
    #[serde(default)]
    drop_kept: bool,
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum StockParameter {
    /// They are dropped.
    Drop,
    /// They stay on a server that is gone.
    Leave,
}

/// Shows who would go where if a server were drained, and who cannot.
#[utoipa::path(get, path = "/api/servers/{name}/drain", tag = "servers", params(("name" = String, Path), DrainQuery),
    responses((status = OK, body = Moves), (status = NOT_FOUND, body = Problem)))]
pub(super) async fn drain_plan(
    State(admin): State<Admin>,
    caller: Caller,
    Path(name): Path<String>,
    query: Result<Query<DrainQuery>, QueryRejection>,
) -> Result<Json<Moves>, ApiError> {
    caller.require(Scope::Servers)?;
    let Query(query) = query?;
    let to = destinations(query.to.iter().flat_map(|to| to.split(',')))?;
    Ok(Json(admin.environment.drain_plan(&name, &to).await?))
}

/// Lets nobody come to a server any more, and relocates all of its tenants by the rules of placement. Asked again, it
/// goes on: what failed is tried again. Ends with `"cordoned": null` on the server.
#[utoipa::path(post, path = "/api/servers/{name}/drain", tag = "servers", params(("name" = String, Path)),
    request_body = Option<Drain>,
    responses((status = ACCEPTED, body = Moves), (status = NOT_FOUND, body = Problem),
        (status = CONFLICT, body = Problem)))]
pub(super) async fn drain(
    State(admin): State<Admin>,
    caller: Caller,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<Response, ApiError> {
    caller.require(Scope::Servers)?;
    let body: Drain = optional_json(&body)?;
    let to = destinations(body.to.iter().map(String::as_str))?;
    let environment = admin.environment.asked_by(caller.requester().name);
    let moves = environment.drain(&name, &to, Failed::Retry).await?;
    Ok((StatusCode::ACCEPTED, Json(moves)).into_response())
}

/// Removes a server that nothing of ours is on any more.
#[utoipa::path(delete, path = "/api/servers/{name}", tag = "servers", params(("name" = String, Path), RemoveQuery),
    responses((status = OK, body = Removed), (status = NOT_FOUND, body = Problem), (status = CONFLICT, body = Problem)))]
pub(super) async fn remove(
    State(admin): State<Admin>,
    caller: Caller,
    Path(name): Path<String>,
    query: Result<Query<RemoveQuery>, QueryRejection>,
) -> Result<Json<Removed>, ApiError> {
    caller.require(Scope::Servers)?;
    let Query(query) = query?;
    let stock = match query.stock {
        None => Stock::Refuse,
        Some(StockParameter::Drop) => Stock::Drop,
        Some(StockParameter::Leave) => Stock::Leave,
    };
    let environment = admin.environment.asked_by(caller.requester().name);
    Ok(Json(environment.remove_server(&name, stock, query.drop_kept).await?))
}

/// Shows the moves that would bring tenants from where they must not be, and even out how many servers have.
#[utoipa::path(get, path = "/api/rebalance", tag = "servers", responses((status = OK, body = Moves)))]
pub(super) async fn rebalance_plan(
    State(admin): State<Admin>,
    caller: Caller,
) -> Result<Json<Moves>, ApiError> {
    caller.require(Scope::Servers)?;
    Ok(Json(admin.environment.rebalance_plan().await?))
}

/// Asks for these moves, as one batch of operations.
#[utoipa::path(post, path = "/api/rebalance", tag = "servers",
    responses((status = ACCEPTED, body = Moves), (status = CONFLICT, body = Problem)))]
pub(super) async fn rebalance(
    State(admin): State<Admin>,
    caller: Caller,
) -> Result<Response, ApiError> {
    caller.require(Scope::Servers)?;
    let environment = admin.environment.asked_by(caller.requester().name);
    let moves = environment.rebalance().await?;
    Ok((StatusCode::ACCEPTED, Json(moves)).into_response())
}

fn destinations<'a>(to: impl Iterator<Item = &'a str>) -> Result<Vec<Destination>, ApiError> {
    let parsed: Result<Vec<_>, _> = to.map(Destination::parse).collect();
    parsed.map_err(|error| ApiError::invalid(format!("`to`: {error}")))
}
