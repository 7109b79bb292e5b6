//! Tenants: making, finding, changing, suspending and deleting them.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::Admin;
use super::auth::Caller;
use super::document::{OperationDocument, TenantDocument};
use super::error::{ApiError, NoBody, optional_json, plain_text};
use super::operations::{WaitQuery, accepted, cut_to, page, settled};
use super::tracks;
use crate::catalog::operations::{OperationRecord, OperationState};
use crate::catalog::tenants::{NewTenant, TenantFilter};
use crate::catalog::tokens::Scope;
use crate::operations::Way;
use crate::problem::Problem;
use crate::tenant::{TenantSettings, TenantSlug, TenantState, Tier};

/// The longest name for people, in bytes.
const MAX_NAME_LEN: usize = 200;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Create {
    /// The name for people; the slug when there is none.
    name: Option<String>,
    /// The name in URLs, headers and database names.
    slug: String,
    /// What is kept about it from the beginning.
    #[schema(value_type = Option<TenantSettings>)]
    settings: Option<Value>,
    /// Whether to load the sample rows.
    #[serde(default)]
    include_sample_data: bool,
    /// The server to host it; by the rules of placement when none is named.
    server: Option<String>,
    /// How it is hosted.
    #[serde(default)]
    tier: Tier,
    /// The track whose migration files it gets beyond those of every tenant.
    track: Option<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Update {
    /// Another name for people.
    name: Option<String>,
    /// Other settings, as a whole.
    #[schema(value_type = Option<TenantSettings>)]
    settings: Option<Value>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Rename {
    /// The new slug.
    to: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Relocate {
    /// The server to move it to.
    to: String,
    /// Online where that is possible, unless this says otherwise.
    #[serde(default)]
    way: Way,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Suspend {
    /// Why, for people.
    reason: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// In this state; deleted ones are listed only when asked for.
    status: Option<TenantState>,
    /// On this server.
    server: Option<String>,
    /// After this slug, for the next page.
    after: Option<String>,
    /// At most so many, 1 to 500 [100].
    limit: Option<i64>,
    /// `slug`, the only order there is.
    sort: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DeleteQuery {
    /// Leave the backups, and the key to read them, where they are.
    #[serde(default)]
    keep_backups: bool,
    /// Certify that what was in backups is gone: `/api/erasures/{id}`, by the operation's id.
    #[serde(default)]
    erase: bool,
}

/// One page, by slug.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Tenants {
    tenants: Vec<TenantDocument>,
    /// Give this as `after` for the next page.
    #[schema(value_type = Option<String>)]
    next: Option<TenantSlug>,
}

/// Creates a tenant.
///
/// `202` with the operation that provisions it, or, with `?wait=true`, `201` with the tenant.
#[utoipa::path(post, path = "/api/setup/tenant", tag = "tenants", params(WaitQuery), request_body = Create,
    responses((status = CREATED, body = TenantDocument), (status = ACCEPTED, body = OperationDocument),
        (status = CONFLICT, body = Problem), (status = UNPROCESSABLE_ENTITY, body = Problem)))]
pub(super) async fn create(
    State(admin): State<Admin>,
    caller: Caller,
    query: Result<Query<WaitQuery>, QueryRejection>,
    body: Result<Json<Create>, JsonRejection>,
) -> Result<Response, ApiError> {
    caller.require(Scope::TenantsWrite)?;
    let (Query(query), Json(body)) = (query?, body?);
    let slug = TenantSlug::parse(&body.slug)?;
    let new = NewTenant {
        name: checked_name(body.name)?.unwrap_or_else(|| slug.to_string()),
        slug: slug.clone(),
        tier: body.tier,
        settings: checked_settings(&admin, body.settings)?.unwrap_or_default(),
        server: plain_text(body.server, "server")?,
        track: tracks::checked(body.track.as_deref())?,
    };
    let asked =
        admin.environment.create_tenant(&new, body.include_sample_data, caller.requester()).await?;
    let catalog = &admin.environment.catalog;
    if catalog.tenant_by_id(asked.tenant_id).await?.slug != slug {
        let detail = "this Idempotency-Key was used for another tenant; choose a new key";
        return Err(Problem::new(StatusCode::CONFLICT, "key_reused", "Conflict", detail).into());
    }
    if query.wait && settled(&admin, asked.id).await?.state == OperationState::Succeeded {
        let tenant: TenantDocument = admin.environment.catalog.tenant(&slug).await?.into();
        return Ok((StatusCode::CREATED, Json(tenant)).into_response());
    }
    let record = admin.environment.catalog.operation(asked.id).await?;
    accepted(&admin, &record).await
}

/// Lists tenants.
#[utoipa::path(get, path = "/api/setup/tenants", tag = "tenants", params(ListQuery),
    responses((status = OK, body = Tenants), (status = UNPROCESSABLE_ENTITY, body = Problem)))]
pub(super) async fn list(
    State(admin): State<Admin>,
    caller: Caller,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Tenants>, ApiError> {
    caller.require(Scope::TenantsRead)?;
    let Query(query) = query?;
    if query.sort.is_some_and(|sort| sort != "slug") {
        return Err(ApiError::invalid("`sort` can be `slug`"));
    }
    let limit = page(query.limit)?;
    let filter = TenantFilter {
        state: query.status,
        server: plain_text(query.server, "server")?,
        after: query.after.as_deref().map(TenantSlug::parse).transpose()?,
        limit: limit + 1,
    };
    let mut found = admin.environment.catalog.tenants(&filter).await?;
    let more = cut_to(&mut found, limit);
    let next = found.last().filter(|_| more).map(|tenant| tenant.slug.clone());
    Ok(Json(Tenants { tenants: found.into_iter().map(Into::into).collect(), next }))
}

/// Shows one tenant.
#[utoipa::path(get, path = "/api/setup/tenants/{slug}", tag = "tenants", params(("slug" = String, Path)),
    responses((status = OK, body = TenantDocument), (status = NOT_FOUND, body = Problem)))]
pub(super) async fn get(
    State(admin): State<Admin>,
    caller: Caller,
    Path(slug): Path<String>,
) -> Result<Json<TenantDocument>, ApiError> {
    caller.require(Scope::TenantsRead)?;
    let tenant = admin.environment.catalog.tenant(&TenantSlug::parse(&slug)?).await?;
    Ok(Json(tenant.into()))
}

/// Changes a tenant's name or settings.
#[utoipa::path(patch, path = "/api/setup/tenants/{slug}", tag = "tenants", params(("slug" = String, Path)),
    request_body = Update,
    responses((status = OK, body = TenantDocument), (status = NOT_FOUND, body = Problem)))]
pub(super) async fn update(
    State(admin): State<Admin>,
    caller: Caller,
    Path(slug): Path<String>,
    body: Result<Json<Update>, JsonRejection>,
) -> Result<Json<TenantDocument>, ApiError> {
    caller.require(Scope::TenantsWrite)?;
    let Json(body) = body?;
    let slug = TenantSlug::parse(&slug)?;
    let (name, settings) = (checked_name(body.name)?, checked_settings(&admin, body.settings)?);
    let (catalog, by) = (&admin.environment.catalog, caller.requester().name);
    Ok(Json(catalog.update_tenant(&slug, name.as_deref(), settings.as_ref(), by).await?.into()))
}

/// Deletes a tenant, its database, its role, and its backups unless they are to be kept.
#[utoipa::path(delete, path = "/api/setup/tenants/{slug}", tag = "tenants",
    params(("slug" = String, Path), DeleteQuery),
    responses((status = ACCEPTED, body = OperationDocument), (status = NOT_FOUND, body = Problem)))]
pub(super) async fn delete(
    State(admin): State<Admin>,
    caller: Caller,
    Path(slug): Path<String>,
    query: Result<Query<DeleteQuery>, QueryRejection>,
    _: NoBody,
) -> Result<Response, ApiError> {
    caller.require(Scope::TenantsWrite)?;
    let Query(query) = query?;
    let slug = TenantSlug::parse(&slug)?;
    let by = caller.requester();
    let asked: OperationRecord = match (query.erase, query.keep_backups) {
        (true, true) => return Err(ApiError::invalid("give `erase` or `keep_backups`, not both")),
        (true, false) => admin.environment.erase(&slug, by).await?,
        (false, keep_backups) => admin.environment.delete(&slug, keep_backups, by).await?,
    };
    accepted(&admin, &asked).await
}

/// Stops serving a tenant; its data stays.
#[utoipa::path(post, path = "/api/setup/tenants/{slug}/suspend", tag = "tenants",
    params(("slug" = String, Path)), request_body = Option<Suspend>,
    responses((status = ACCEPTED, body = OperationDocument), (status = CONFLICT, body = Problem)))]
pub(super) async fn suspend(
    State(admin): State<Admin>,
    caller: Caller,
    Path(slug): Path<String>,
    body: Bytes,
) -> Result<Response, ApiError> {
    caller.require(Scope::TenantsWrite)?;
    let reason = plain_text(optional_json::<Suspend>(&body)?.reason, "reason")?;
    let asked =
        admin.environment.suspend(&TenantSlug::parse(&slug)?, reason, caller.requester()).await?;
    accepted(&admin, &asked).await
}

/// Serves a suspended tenant again.
#[utoipa::path(post, path = "/api/setup/tenants/{slug}/resume", tag = "tenants", params(("slug" = String, Path)),
    responses((status = ACCEPTED, body = OperationDocument), (status = CONFLICT, body = Problem)))]
pub(super) async fn resume(
    State(admin): State<Admin>,
    caller: Caller,
    Path(slug): Path<String>,
) -> Result<Response, ApiError> {
    caller.require(Scope::TenantsWrite)?;
    let asked = admin.environment.resume(&TenantSlug::parse(&slug)?, caller.requester()).await?;
    accepted(&admin, &asked).await
}

/// Gives a tenant another slug; the one that it had goes on leading to it.
///
/// Database and role get the names that go with it. Requests that come meanwhile wait a moment.
#[utoipa::path(post, path = "/api/setup/tenants/{slug}/rename", tag = "tenants",
    params(("slug" = String, Path)), request_body = Rename,
    responses((status = ACCEPTED, body = OperationDocument), (status = CONFLICT, body = Problem),
        (status = UNPROCESSABLE_ENTITY, body = Problem)))]
pub(super) async fn rename(
    State(admin): State<Admin>,
    caller: Caller,
    Path(slug): Path<String>,
    body: Result<Json<Rename>, JsonRejection>,
) -> Result<Response, ApiError> {
    caller.require(Scope::TenantsWrite)?;
    let (slug, Json(body)) = (TenantSlug::parse(&slug)?, body?);
    let to = TenantSlug::parse(&body.to)?;
    let asked = admin.environment.rename(&slug, &to, caller.requester()).await?;
    accepted(&admin, &asked).await
}

/// Moves a tenant to another server: online where that is possible, so that its requests wait for a moment only, and
/// otherwise while they wait.
#[utoipa::path(post, path = "/api/setup/tenants/{slug}/relocate", tag = "tenants",
    params(("slug" = String, Path)), request_body = Relocate,
    responses((status = ACCEPTED, body = OperationDocument), (status = CONFLICT, body = Problem),
        (status = NOT_FOUND, body = Problem)))]
pub(super) async fn relocate(
    State(admin): State<Admin>,
    caller: Caller,
    Path(slug): Path<String>,
    body: Result<Json<Relocate>, JsonRejection>,
) -> Result<Response, ApiError> {
    caller.require(Scope::TenantsWrite)?;
    let (slug, Json(body)) = (TenantSlug::parse(&slug)?, body?);
    let to = plain_text(Some(body.to), "to")?.unwrap_or_default();
    let asked = admin.environment.relocate_by(&slug, &to, body.way, caller.requester()).await?;
    accepted(&admin, &asked).await
}

/// Gives a tenant's login role another password; open sessions stay open.
#[utoipa::path(post, path = "/api/setup/tenants/{slug}/rotate-password", tag = "tenants",
    params(("slug" = String, Path)),
    responses((status = ACCEPTED, body = OperationDocument), (status = CONFLICT, body = Problem)))]
pub(super) async fn rotate_password(
    State(admin): State<Admin>,
    caller: Caller,
    Path(slug): Path<String>,
) -> Result<Response, ApiError> {
    caller.require(Scope::TenantsWrite)?;
    let (slug, by) = (TenantSlug::parse(&slug)?, caller.requester());
    let asked = admin.environment.rotate_password(&slug, by).await?;
    accepted(&admin, &asked).await
}

pub(super) fn checked_name(name: Option<String>) -> Result<Option<String>, ApiError> {
    match name {
        Some(name)
            if name.trim().is_empty() || name.len() > MAX_NAME_LEN || name.contains('\0') =>
        {
            Err(ApiError::invalid(format!("`name` has 1 to {MAX_NAME_LEN} bytes")))
        }
        name => Ok(name),
    }
}

fn checked_settings(
    admin: &Admin,
    settings: Option<Value>,
) -> Result<Option<TenantSettings>, ApiError> {
    let rules = &admin.environment.limits.settings;
    Ok(settings.map(|settings| rules.parse(settings)).transpose()?)
}
