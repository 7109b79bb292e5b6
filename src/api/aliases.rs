//! The aliases of a tenant: the slugs that it had before, and that still lead to it.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::Admin;
use super::auth::Caller;
use super::error::ApiError;
use crate::catalog::slugs::Alias;
use crate::catalog::tokens::Scope;
use crate::problem::Problem;
use crate::tenant::TenantSlug;

/// A tenant's aliases.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Aliases {
    aliases: Vec<Alias>,
}

/// Lists the slugs that a tenant had before, and that still lead to it.
#[utoipa::path(get, path = "/api/setup/tenants/{slug}/aliases", tag = "tenants", params(("slug" = String, Path)),
    responses((status = OK, body = Aliases), (status = NOT_FOUND, body = Problem)))]
pub(super) async fn list(
    State(admin): State<Admin>,
    caller: Caller,
    Path(slug): Path<String>,
) -> Result<Json<Aliases>, ApiError> {
    caller.require(Scope::TenantsRead)?;
    let aliases = admin.environment.catalog.aliases(&TenantSlug::parse(&slug)?).await?;
    Ok(Json(Aliases { aliases }))
}

/// Lets a slug that a tenant had before lead to it no more; another tenant can take it then.
#[utoipa::path(delete, path = "/api/setup/tenants/{slug}/aliases/{alias}", tag = "tenants",
    params(("slug" = String, Path), ("alias" = String, Path)),
    responses((status = NO_CONTENT), (status = NOT_FOUND, body = Problem), (status = CONFLICT, body = Problem)))]
pub(super) async fn remove(
    State(admin): State<Admin>,
    caller: Caller,
    Path((slug, alias)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    caller.require(Scope::TenantsWrite)?;
    let (slug, alias) = (TenantSlug::parse(&slug)?, TenantSlug::parse(&alias)?);
    admin.environment.catalog.remove_alias(&slug, &alias, caller.requester().name).await?;
    Ok(StatusCode::NO_CONTENT)
}
