//! Backups: taking, listing and restoring them.

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::Response;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::Admin;
use super::auth::Caller;
use super::document::protection::ProtectionDocument;
use super::document::prune::PruneDocument;
use super::document::{BackupDocument, OperationDocument};
use super::error::ApiError;
use super::operations::{accepted, page};
use crate::catalog::operations::OperationRecord;
use crate::catalog::tokens::Scope;
use crate::operations::request::{BackupChoice, PointInTime, Requester, RestoreAs};
use crate::problem::Problem;
use crate::tenant::TenantSlug;

/// What takes the place of the live database, or becomes another tenant: exactly one of `backup`, `latest`,
/// `before` and `at`. Or `undo` alone.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Restore {
    /// This one.
    backup: Option<Uuid>,
    /// The newest.
    #[serde(default)]
    latest: bool,
    /// The newest that was started before this moment.
    before: Option<Timestamp>,
    /// No backup: what the tenant had at this moment, out of the WAL archive of its server.
    at: Option<Timestamp>,
    /// With `at`, the server that the tenant was on then, if not the one that it is on.
    archive_of: Option<String>,
    /// Make this tenant of it, and leave the live database alone.
    #[serde(rename = "as")]
    #[schema(value_type = Option<String>)]
    into: Option<String>,
    /// On the server with this name, if not on the tenant's own.
    server: Option<String>,
    /// Restore this table alone, into a schema of its own, and leave everything else alone.
    table: Option<String>,
    /// Put back the database that the last restore replaced.
    #[serde(default)]
    undo: bool,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// At most so many, 1 to 500 [100].
    limit: Option<i64>,
}

/// Backups, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Backups {
    backups: Vec<BackupDocument>,
    /// How well the tenant is protected; only where one is named, and while it can be backed up.
    #[serde(skip_serializing_if = "Option::is_none")]
    protection: Option<ProtectionDocument>,
}

/// Backs a tenant up.
#[utoipa::path(post, path = "/api/setup/tenants/{slug}/backup", tag = "backups", params(("slug" = String, Path)),
    responses((status = ACCEPTED, body = OperationDocument), (status = CONFLICT, body = Problem)))]
pub(super) async fn back_up(
    State(admin): State<Admin>,
    caller: Caller,
    Path(slug): Path<String>,
) -> Result<Response, ApiError> {
    caller.require(Scope::Backup)?;
    let asked = admin.environment.back_up(&TenantSlug::parse(&slug)?, caller.requester()).await?;
    accepted(&admin, &asked).await
}

/// Puts a backup, or what there was at a moment, in the place of a tenant's live database, which is kept for a
/// while; or makes another tenant of it; or undoes the last restore.
#[utoipa::path(post, path = "/api/setup/tenants/{slug}/restore", tag = "backups", params(("slug" = String, Path)),
    request_body = Restore,
    responses((status = ACCEPTED, body = OperationDocument), (status = NOT_FOUND, body = Problem),
        (status = UNPROCESSABLE_ENTITY, body = Problem)))]
pub(super) async fn restore(
    State(admin): State<Admin>,
    caller: Caller,
    Path(slug): Path<String>,
    body: Result<Json<Restore>, JsonRejection>,
) -> Result<Response, ApiError> {
    caller.require(Scope::Restore)?;
    let (slug, body) = (TenantSlug::parse(&slug)?, body?.0);
    let (environment, by) = (&admin.environment, caller.requester());
    let asked = match body {
        Restore {
            backup: None,
            latest: false,
            before: None,
            at: None,
            archive_of: None,
            into: None,
            server: None,
            table: None,
            undo: true,
        } => environment.undo_restore(&slug, by).await?,
        Restore { undo: true, .. } => {
            return Err(ApiError::invalid("`undo` stands alone"));
        }
        Restore { at: Some(at), .. } => restore_at(&admin, &slug, at, &body, by).await?,
        Restore { archive_of: Some(_), .. } => {
            return Err(ApiError::invalid("`archive_of` goes with `at`"));
        }
        Restore { table: Some(ref table), into: None, server: None, .. } => {
            environment.restore_table(&slug, choice(&body)?, table, by).await?
        }
        Restore { table: Some(_), .. } => {
            return Err(ApiError::invalid("a `table` goes with neither `as` nor `server`"));
        }
        Restore { into: Some(ref into), ref server, .. } => {
            let to = RestoreAs { slug: TenantSlug::parse(into)?, server: server.clone() };
            environment.restore_as(&slug, choice(&body)?, to, by).await?
        }
        Restore { ref server, .. } => {
            environment.restore_on(&slug, choice(&body)?, server.as_deref(), by).await?
        }
    };
    accepted(&admin, &asked).await
}

/// What a tenant had at a moment, in its place or as another tenant.
async fn restore_at(
    admin: &Admin,
    slug: &TenantSlug,
    at: Timestamp,
    body: &Restore,
    by: Requester<'_>,
) -> Result<OperationRecord, ApiError> {
    let Restore { backup: None, latest: false, before: None, table: None, .. } = body else {
        return Err(ApiError::invalid("`at` goes with `as`, `server` and `archive_of` alone"));
    };
    let point = PointInTime { at, archive_of: body.archive_of.as_deref() };
    let asked = match &body.into {
        Some(into) => {
            let to = RestoreAs { slug: TenantSlug::parse(into)?, server: body.server.clone() };
            admin.environment.restore_at_as(slug, point, to, by).await?
        }
        None => admin.environment.restore_at(slug, point, body.server.as_deref(), by).await?,
    };
    Ok(asked)
}

fn choice(body: &Restore) -> Result<BackupChoice, ApiError> {
    match *body {
        Restore { backup: Some(id), latest: false, before: None, .. } => Ok(BackupChoice::Id(id)),
        Restore { backup: None, latest: true, before: None, .. } => Ok(BackupChoice::Latest),
        Restore { backup: None, latest: false, before: Some(moment), .. } => {
            Ok(BackupChoice::Before(moment))
        }
        _ => Err(ApiError::invalid("give exactly one of `backup`, `latest`, `before` and `at`")),
    }
}

/// Restores a tenant's newest good backup to a scratch database, compares what comes of it, and drops it.
#[utoipa::path(post, path = "/api/setup/tenants/{slug}/drill", tag = "backups", params(("slug" = String, Path)),
    responses((status = ACCEPTED, body = OperationDocument), (status = NOT_FOUND, body = Problem)))]
pub(super) async fn drill(
    State(admin): State<Admin>,
    caller: Caller,
    Path(slug): Path<String>,
) -> Result<Response, ApiError> {
    caller.require(Scope::Backup)?;
    let slug = TenantSlug::parse(&slug)?;
    let asked = admin.environment.drill_tenant(&slug, caller.requester()).await?;
    accepted(&admin, &asked).await
}

/// Shows what pruning would do to a tenant's backups: which go, and why the others stay.
#[utoipa::path(get, path = "/api/setup/tenants/{slug}/prune", tag = "backups", params(("slug" = String, Path)),
    responses((status = OK, body = PruneDocument), (status = NOT_FOUND, body = Problem)))]
pub(super) async fn prune_plan(
    State(admin): State<Admin>,
    caller: Caller,
    Path(slug): Path<String>,
) -> Result<Json<PruneDocument>, ApiError> {
    caller.require(Scope::Backup)?;
    let tenant = admin.environment.catalog.tenant(&TenantSlug::parse(&slug)?).await?;
    let plan = admin.environment.prune_plan(&tenant, Timestamp::now()).await?;
    Ok(Json(PruneDocument::new(&tenant.slug, plan)))
}

/// Removes the backups that a tenant's retention does not keep.
#[utoipa::path(post, path = "/api/setup/tenants/{slug}/prune", tag = "backups", params(("slug" = String, Path)),
    responses((status = ACCEPTED, body = OperationDocument), (status = CONFLICT, body = Problem)))]
pub(super) async fn prune(
    State(admin): State<Admin>,
    caller: Caller,
    Path(slug): Path<String>,
) -> Result<Response, ApiError> {
    caller.require(Scope::TenantsWrite)?;
    let asked = admin.environment.prune(&TenantSlug::parse(&slug)?, caller.requester()).await?;
    accepted(&admin, &asked).await
}

/// Lists a tenant's backups.
#[utoipa::path(get, path = "/api/setup/tenants/{slug}/backups", tag = "backups",
    params(("slug" = String, Path), ListQuery),
    responses((status = OK, body = Backups), (status = NOT_FOUND, body = Problem)))]
pub(super) async fn list_of_tenant(
    State(admin): State<Admin>,
    caller: Caller,
    Path(slug): Path<String>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Backups>, ApiError> {
    caller.require(Scope::Backup)?;
    let slug = TenantSlug::parse(&slug)?;
    let tenant = admin.environment.owner_of_backups(&slug).await?;
    let mut listed = backups(&admin, Some(tenant.id), query?.0.limit).await?;
    let achieved = admin.environment.achieved(tenant.id, Timestamp::now()).await?;
    listed.protection = achieved.map(ProtectionDocument::from);
    Ok(listed)
}

/// Lists every tenant's backups.
#[utoipa::path(get, path = "/api/backups", tag = "backups", params(ListQuery),
    responses((status = OK, body = Backups), (status = UNAUTHORIZED, body = Problem)))]
pub(super) async fn list(
    State(admin): State<Admin>,
    caller: Caller,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Backups>, ApiError> {
    caller.require(Scope::Backup)?;
    backups(&admin, None, query?.0.limit).await
}

/// Shows one backup.
#[utoipa::path(get, path = "/api/backups/{id}", tag = "backups", params(("id" = Uuid, Path)),
    responses((status = OK, body = BackupDocument), (status = NOT_FOUND, body = Problem)))]
pub(super) async fn get(
    State(admin): State<Admin>,
    caller: Caller,
    id: Result<Path<Uuid>, PathRejection>,
) -> Result<Json<BackupDocument>, ApiError> {
    caller.require(Scope::Backup)?;
    Ok(Json(admin.environment.catalog.backup(id?.0).await?.into()))
}

async fn backups(
    admin: &Admin,
    tenant: Option<Uuid>,
    limit: Option<i64>,
) -> Result<Json<Backups>, ApiError> {
    let found = admin.environment.catalog.backups(tenant, page(limit)?).await?;
    Ok(Json(Backups { backups: found.into_iter().map(Into::into).collect(), protection: None }))
}
