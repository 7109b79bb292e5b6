//! What tenants used, day by day.

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::Admin;
use super::auth::Caller;
use super::error::ApiError;
use super::operations::{MAX_PAGE, cut_to, page};
use crate::catalog::tokens::Scope;
use crate::catalog::usage::{Usage, UsageFilter};
use crate::problem::Problem;
use crate::tenant::TenantSlug;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// From this day on (UTC).
    #[param(value_type = Option<String>)]
    from: Option<Date>,
    /// To this day, and with it.
    #[param(value_type = Option<String>)]
    to: Option<Date>,
    /// What the page before gave as `next`.
    after: Option<String>,
    /// At most so many, 1 to 500 [100].
    limit: Option<i64>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DaysQuery {
    /// From this day on (UTC).
    #[param(value_type = Option<String>)]
    from: Option<Date>,
    /// To this day, and with it.
    #[param(value_type = Option<String>)]
    to: Option<Date>,
}

/// One page, the newest day first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct UsageList {
    usage: Vec<Usage>,
    /// Give this as `after` for the next page.
    next: Option<String>,
}

/// Lists what every tenant used, by day. A day's numbers rise until it is over (UTC).
#[utoipa::path(get, path = "/api/usage", tag = "usage", params(ListQuery),
    responses((status = OK, body = UsageList), (status = UNPROCESSABLE_ENTITY, body = Problem)))]
pub(super) async fn list(
    State(admin): State<Admin>,
    caller: Caller,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<UsageList>, ApiError> {
    caller.require(Scope::TenantsRead)?;
    let Query(ListQuery { from, to, after, limit }) = query?;
    let limit = page(limit)?;
    let after = after.as_deref().map(read_place).transpose()?;
    let filter = UsageFilter { tenant: None, from, to, after, limit: limit + 1 };
    let mut usage = admin.environment.catalog.usage(&filter).await?;
    let more = cut_to(&mut usage, limit);
    let next = usage.last().filter(|_| more).map(|last| format!("{}.{}", last.day, last.tenant_id));
    Ok(Json(UsageList { usage, next }))
}

/// Lists what one tenant used, by day: the newest 500 days of those that were asked for.
#[utoipa::path(get, path = "/api/setup/tenants/{slug}/usage", tag = "usage",
    params(("slug" = String, Path), DaysQuery),
    responses((status = OK, body = UsageList), (status = NOT_FOUND, body = Problem)))]
pub(super) async fn of_tenant(
    State(admin): State<Admin>,
    caller: Caller,
    slug: Result<Path<String>, PathRejection>,
    query: Result<Query<DaysQuery>, QueryRejection>,
) -> Result<Json<UsageList>, ApiError> {
    caller.require(Scope::TenantsRead)?;
    let (slug, Query(DaysQuery { from, to })) = (TenantSlug::parse(&slug?.0)?, query?);
    let catalog = &admin.environment.catalog;
    let tenant = Some(catalog.tenant(&slug).await?.slug);
    let filter = UsageFilter { tenant, from, to, after: None, limit: MAX_PAGE };
    Ok(Json(UsageList { usage: catalog.usage(&filter).await?, next: None }))
}

/// Reads what a page gave as `next`.
fn read_place(text: &str) -> Result<(Date, Uuid), ApiError> {
    let read = || {
        let (day, tenant) = text.split_once('.')?;
        Some((day.parse().ok()?, tenant.parse().ok()?))
    };
    read().ok_or_else(|| ApiError::invalid("`after` is what the page before gave as `next`"))
}
