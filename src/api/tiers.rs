//! Tiers: what the tenants of each may use, and how they are backed up.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::Admin;
use super::auth::Caller;
use super::document::TierDocument;
use super::error::ApiError;
use super::settings::merge;
use crate::catalog::CatalogError;
use crate::catalog::tokens::Scope;
use crate::problem::Problem;
use crate::tenant::Tier;
use crate::tenant::settings::{BackupPolicy, Limits};

/// Every tier.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Tiers {
    tiers: Vec<TierDocument>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Change {
    /// A merge patch: what it names is set, `null` takes away, everything else stays.
    #[serde(default)]
    #[schema(value_type = Limits)]
    limits: Map<String, Value>,
    /// A merge patch too.
    #[serde(default)]
    #[schema(value_type = BackupPolicy)]
    backup: Map<String, Value>,
}

/// Lists the tiers, with their limits.
#[utoipa::path(get, path = "/api/tiers", tag = "tiers",
    responses((status = OK, body = Tiers), (status = UNAUTHORIZED, body = Problem), (status = FORBIDDEN, body = Problem)))]
pub(super) async fn list(
    State(admin): State<Admin>,
    caller: Caller,
) -> Result<Json<Tiers>, ApiError> {
    caller.require(Scope::TenantsRead)?;
    let tiers = admin.environment.catalog.tiers().await?;
    Ok(Json(Tiers { tiers: tiers.into_iter().map(Into::into).collect() }))
}

/// Shows one tier.
#[utoipa::path(get, path = "/api/tiers/{tier}", tag = "tiers", params(("tier" = Tier, Path)),
    responses((status = OK, body = TierDocument), (status = NOT_FOUND, body = Problem)))]
pub(super) async fn get(
    State(admin): State<Admin>,
    caller: Caller,
    Path(tier): Path<String>,
) -> Result<Json<TierDocument>, ApiError> {
    caller.require(Scope::TenantsRead)?;
    Ok(Json(admin.environment.catalog.tier(named(tier)?).await?.into()))
}

/// Changes some of a tier's limits, and how its tenants are backed up.
///
/// Limits are in force at once for every tenant of the tier that has no such limit of its own.
#[utoipa::path(patch, path = "/api/tiers/{tier}", tag = "tiers", params(("tier" = Tier, Path)),
    request_body(content(
        (Change = "application/merge-patch+json", example = json!({"limits": {"connections": 5, "statement_timeout": null}})),
        (Change = "application/json")
    )),
    responses((status = OK, body = TierDocument), (status = NOT_FOUND, body = Problem),
        (status = UNPROCESSABLE_ENTITY, body = Problem)))]
pub(super) async fn change(
    State(admin): State<Admin>,
    caller: Caller,
    Path(tier): Path<String>,
    body: Result<Json<Change>, JsonRejection>,
) -> Result<Json<TierDocument>, ApiError> {
    caller.require(Scope::TenantsWrite)?;
    let (tier, Json(Change { limits, backup })) = (named(tier)?, body?);
    let by = caller.requester().name;
    let patch = |before: (&mut Value, &mut Value)| {
        merge(before.0, Value::Object(limits));
        merge(before.1, Value::Object(backup));
    };
    Ok(Json(admin.environment.catalog.change_tier(tier, by, patch).await?.into()))
}

fn named(name: String) -> Result<Tier, CatalogError> {
    Tier::parse(&name).ok_or(CatalogError::Missing { what: "tier", name })
}
