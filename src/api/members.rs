//! Who belongs to a tenant.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Admin;
use super::auth::Caller;
use super::error::ApiError;
use crate::catalog::members::{Member, MemberRole, User};
use crate::catalog::tokens::Scope;
use crate::problem::Problem;
use crate::tenant::TenantSlug;

/// A tenant's members.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Members {
    members: Vec<Member>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Add {
    /// The `iss` of the user's tokens.
    issuer: String,
    /// Their `sub`.
    subject: String,
    /// What they may do.
    role: MemberRole,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Who {
    /// The `iss` of the user's tokens.
    issuer: String,
    /// Their `sub`.
    subject: String,
}

/// Lists the members of a tenant.
#[utoipa::path(get, path = "/api/setup/tenants/{slug}/members", tag = "tenants", params(("slug" = String, Path)),
    responses((status = OK, body = Members), (status = NOT_FOUND, body = Problem)))]
pub(super) async fn list(
    State(admin): State<Admin>,
    caller: Caller,
    Path(slug): Path<String>,
) -> Result<Json<Members>, ApiError> {
    caller.require(Scope::TenantsRead)?;
    let slug = TenantSlug::parse(&slug)?;
    Ok(Json(Members { members: admin.environment.catalog.members(&slug).await? }))
}

/// Makes a user a member, or gives a member another role.
#[utoipa::path(post, path = "/api/setup/tenants/{slug}/members", tag = "tenants", params(("slug" = String, Path)),
    request_body = Add,
    responses((status = OK, body = Members), (status = NOT_FOUND, body = Problem),
        (status = UNPROCESSABLE_ENTITY, body = Problem)))]
pub(super) async fn add(
    State(admin): State<Admin>,
    caller: Caller,
    Path(slug): Path<String>,
    body: Result<Json<Add>, JsonRejection>,
) -> Result<Json<Members>, ApiError> {
    caller.require(Scope::TenantsWrite)?;
    let (slug, Json(body)) = (TenantSlug::parse(&slug)?, body?);
    let issuer = bounded(body.issuer, "issuer", 2000)?;
    let subject = bounded(body.subject, "subject", 255)?;
    let user = User { issuer: &issuer, subject: &subject };
    let catalog = &admin.environment.catalog;
    catalog.add_member(&slug, user, body.role, caller.requester().name).await?;
    Ok(Json(Members { members: catalog.members(&slug).await? }))
}

/// Ends a membership.
#[utoipa::path(delete, path = "/api/setup/tenants/{slug}/members", tag = "tenants",
    params(("slug" = String, Path), Who),
    responses((status = NO_CONTENT), (status = NOT_FOUND, body = Problem)))]
pub(super) async fn remove(
    State(admin): State<Admin>,
    caller: Caller,
    Path(slug): Path<String>,
    who: Result<Query<Who>, QueryRejection>,
) -> Result<StatusCode, ApiError> {
    caller.require(Scope::TenantsWrite)?;
    let (slug, Query(who)) = (TenantSlug::parse(&slug)?, who?);
    let issuer = bounded(who.issuer, "issuer", 2000)?;
    let subject = bounded(who.subject, "subject", 255)?;
    let user = User { issuer: &issuer, subject: &subject };
    admin.environment.catalog.remove_member(&slug, user, caller.requester().name).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn bounded(text: String, field: &'static str, most: usize) -> Result<String, ApiError> {
    if (1..=most).contains(&text.chars().count()) && !text.contains(char::is_control) {
        Ok(text)
    } else {
        Err(ApiError::invalid(format!("`{field}` has 1 to {most} characters in a line")))
    }
}
