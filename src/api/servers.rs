//! The servers that host tenants.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Admin;
use super::auth::Caller;
use super::document::{ReadReplicaDocument, ServerDocument};
use super::error::{ApiError, plain_text};
use crate::catalog::servers::{Edit, ServerChange};
use crate::catalog::tokens::Scope;
use crate::problem::Problem;
use crate::tenant::{Label, Tag, Tier};

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

/// What it names is set, `null` takes away, everything else stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Change {
    /// Where the server stands.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    region: Edit<Label>,
    /// Its tags by their keys, such as `{"disk": "nvme"}`; `null` takes one away, the others stay.
    #[serde(default)]
    #[schema(value_type = std::collections::BTreeMap<String, Option<String>>)]
    tags: BTreeMap<Label, Option<Label>>,
    /// The only tier that it takes.
    #[serde(default)]
    #[schema(value_type = Option<Tier>)]
    tier: Edit<Tier>,
    /// How many tenants it takes, 1 to 1,000,000.
    #[serde(default)]
    #[schema(value_type = Option<i32>)]
    max_tenants: Edit<i32>,
    /// How many connections all replicas together may hold there, 1 to 100,000.
    #[serde(default)]
    #[schema(value_type = Option<i32>)]
    connection_budget: Edit<i32>,
    /// Why nobody is placed there any more; `null` lets tenants come.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    cordoned: Edit<String>,
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

/// Changes where a server stands, and whom it takes. Tenants that are there stay; `"cordoned": null` ends a drain.
#[utoipa::path(patch, path = "/api/servers/{name}", tag = "servers", params(("name" = String, Path)),
    request_body(content((Change = "application/merge-patch+json"), (Change = "application/json"))),
    responses((status = OK, body = ServerDocument), (status = NOT_FOUND, body = Problem),
        (status = UNPROCESSABLE_ENTITY, body = Problem)))]
pub(super) async fn change(
    State(admin): State<Admin>,
    caller: Caller,
    Path(name): Path<String>,
    body: Result<Json<Change>, JsonRejection>,
) -> Result<Json<ServerDocument>, ApiError> {
    caller.require(Scope::Servers)?;
    let Json(Change { region, tags, tier, max_tenants, connection_budget, cordoned }) = body?;
    for key in tags.keys() {
        Tag::parse_key(key.as_str())
            .map_err(|error| ApiError::invalid(format!("`tags`: {error}")))?;
    }
    let cordoned = match cordoned {
        Edit::Set(why) => plain_text(Some(why), "cordoned")?.into(),
        other => other,
    };
    let max_tenants = within("max_tenants", max_tenants, 1_000_000)?;
    let connection_budget = within("connection_budget", connection_budget, 100_000)?;
    let change = ServerChange { connection_budget, region, tags, tier, max_tenants, cordoned };
    if change.is_empty() {
        return Err(ApiError::invalid("nothing is to be changed"));
    }
    let environment = admin.environment.asked_by(caller.requester().name);
    let (record, _) = environment.change_server(&name, &change).await?;
    Ok(Json(record.into()))
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

fn within(name: &str, bound: Edit<i32>, most: i32) -> Result<Edit<i32>, ApiError> {
    match bound {
        Edit::Set(number) if !(1..=most).contains(&number) => {
            Err(ApiError::invalid(format!("`{name}` goes from 1 to {most}")))
        }
        bound => Ok(bound),
    }
}
