//! What was asked for, what was changed and what was refused.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Admin;
use super::auth::Caller;
use super::error::ApiError;
use super::operations::{cut_to, page};
use crate::catalog::audit_log::{AuditFilter, Recorded};
use crate::catalog::tokens::Scope;
use crate::problem::Problem;
use crate::tenant::TenantSlug;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// About the tenant of this slug.
    tenant: Option<String>,
    /// Not before this moment (RFC 3339).
    #[param(value_type = Option<String>)]
    since: Option<Timestamp>,
    /// Before this moment (RFC 3339).
    #[param(value_type = Option<String>)]
    until: Option<Timestamp>,
    /// By this actor.
    actor: Option<String>,
    /// This action, such as `member.added`, or all of a noun, such as `member`.
    action: Option<String>,
    /// Before this event, for the next page.
    before: Option<i64>,
    /// At most so many, 1 to 500 [100].
    limit: Option<i64>,
}

/// One page, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Events {
    events: Vec<Recorded>,
    /// Give this as `before` for the next page.
    next: Option<i64>,
}

/// Lists what was asked for, what was changed and what was refused.
#[utoipa::path(get, path = "/api/audit-log", tag = "audit", params(ListQuery),
    responses((status = OK, body = Events), (status = UNPROCESSABLE_ENTITY, body = Problem)))]
pub(super) async fn list(
    State(admin): State<Admin>,
    caller: Caller,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Events>, ApiError> {
    caller.require(Scope::Audit)?;
    let Query(ListQuery { tenant, since, until, actor, action, before, limit }) = query?;
    let limit = page(limit)?;
    let tenant = tenant.as_deref().map(TenantSlug::parse).transpose()?;
    let filter = AuditFilter { tenant, since, until, actor, action, before, limit: limit + 1 };
    let mut events = admin.environment.catalog.audit_log(&filter).await?;
    let more = cut_to(&mut events, limit);
    let next = events.last().filter(|_| more).map(|event| event.id);
    Ok(Json(Events { events, next }))
}
