//! What is being done to tenants: seeing it, waiting for it, retrying it and giving it up.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout_at};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::Admin;
use super::auth::Caller;
use super::document::OperationDocument;
use super::error::ApiError;
use crate::catalog::CatalogError;
use crate::catalog::changes::{Change, Subscription};
use crate::catalog::operations::{OperationFilter, OperationRecord, OperationState};
use crate::catalog::tokens::Scope;
use crate::operations::Work;
use crate::problem::Problem;
use crate::tenant::TenantSlug;

/// The longest page.
pub(super) const MAX_PAGE: i64 = 500;
/// How long `?wait=true` waits.
const WAIT: Duration = Duration::from_mins(1);
/// A notification may be lost with its connection: look again after this.
const LOOK: Duration = Duration::from_secs(1);

/// One page, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Operations {
    operations: Vec<OperationDocument>,
    /// Give this as `before` for the next page.
    next: Option<Uuid>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Of this tenant.
    tenant: Option<String>,
    /// In this state.
    status: Option<OperationState>,
    /// Of this fleet run.
    batch: Option<Uuid>,
    /// Older than this one.
    before: Option<Uuid>,
    /// At most so many, 1 to 500 [100].
    limit: Option<i64>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WaitQuery {
    /// Wait up to a minute for the end.
    #[serde(default)]
    pub wait: bool,
}

/// Lists operations.
#[utoipa::path(get, path = "/api/operations", tag = "operations", params(ListQuery),
    responses((status = OK, body = Operations), (status = UNAUTHORIZED, body = Problem)))]
pub(super) async fn list(
    State(admin): State<Admin>,
    caller: Caller,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Operations>, ApiError> {
    caller.require(Scope::TenantsRead)?;
    let Query(query) = query?;
    let limit = page(query.limit)?;
    let filter = OperationFilter {
        tenant: query.tenant.as_deref().map(TenantSlug::parse).transpose()?,
        state: query.status,
        batch: query.batch,
        before: query.before,
        limit: limit + 1,
    };
    let mut found = admin.environment.catalog.operations(&filter).await?;
    let more = cut_to(&mut found, limit);
    let next = found.last().filter(|_| more).map(|(operation, _)| operation.id);
    Ok(Json(Operations { operations: OperationDocument::list(&found), next }))
}

/// Shows one operation, at once or at its end.
#[utoipa::path(get, path = "/api/operations/{id}", tag = "operations", params(("id" = Uuid, Path), WaitQuery),
    responses((status = OK, body = OperationDocument), (status = NOT_FOUND, body = Problem)))]
pub(super) async fn get(
    State(admin): State<Admin>,
    caller: Caller,
    id: Result<Path<Uuid>, PathRejection>,
    query: Result<Query<WaitQuery>, QueryRejection>,
) -> Result<Json<OperationDocument>, ApiError> {
    let (Path(id), Query(query)) = (id?, query?);
    let mut record = admin.environment.catalog.operation(id).await?;
    // Who may ask for it may see how it goes.
    if !caller.may(scope_of(&record)?) {
        caller.require(Scope::TenantsRead)?;
    }
    if query.wait {
        record = settled(&admin, id).await?;
    }
    Ok(Json(document(&admin, &record).await?))
}

/// Goes on with a failed operation, at the step that failed.
#[utoipa::path(post, path = "/api/operations/{id}/retry", tag = "operations", params(("id" = Uuid, Path)),
    responses((status = ACCEPTED, body = OperationDocument), (status = CONFLICT, body = Problem)))]
pub(super) async fn retry(
    State(admin): State<Admin>,
    caller: Caller,
    id: Result<Path<Uuid>, PathRejection>,
) -> Result<Response, ApiError> {
    let record = admin.environment.catalog.operation(id?.0).await?;
    caller.require(scope_of(&record)?)?;
    let catalog = admin.environment.catalog.asked_by(caller.requester().name);
    let record = catalog.retry(record.id).await?;
    accepted(&admin, &record).await
}

/// Gives an operation up that is queued or has failed; what it did is undone.
#[utoipa::path(post, path = "/api/operations/{id}/cancel", tag = "operations", params(("id" = Uuid, Path)),
    responses((status = ACCEPTED, body = OperationDocument), (status = CONFLICT, body = Problem)))]
pub(super) async fn cancel(
    State(admin): State<Admin>,
    caller: Caller,
    id: Result<Path<Uuid>, PathRejection>,
) -> Result<Response, ApiError> {
    let record = admin.environment.catalog.operation(id?.0).await?;
    caller.require(scope_of(&record)?)?;
    let environment = admin.environment.asked_by(caller.requester().name);
    let record = environment.cancel(record.id).await?;
    accepted(&admin, &record).await
}

/// What a caller must be allowed in order to ask for this operation, and so to retry or cancel it.
fn scope_of(record: &OperationRecord) -> Result<Scope, CatalogError> {
    Ok(match Work::of(record)? {
        Work::Provision { .. }
        | Work::Import { .. }
        | Work::Adopt(_)
        | Work::Clone { .. }
        | Work::Suspend { .. }
        | Work::Resume {}
        | Work::RotatePassword {}
        | Work::DestroyBackupKeys {}
        | Work::Relocate { .. }
        | Work::Rename { .. }
        | Work::Prune {}
        | Work::Delete { .. } => Scope::TenantsWrite,
        Work::Migrate { .. } | Work::Baseline { .. } => Scope::Migrate,
        Work::Backup { .. }
        | Work::Drill { .. }
        | Work::RotateBackupKey {}
        | Work::ResealBackups {} => Scope::Backup,
        Work::Restore { .. }
        | Work::RestoreAs { .. }
        | Work::RestoreAt { .. }
        | Work::RestoreAtAs { .. }
        | Work::RestoreTable { .. }
        | Work::UndoRestore { .. } => Scope::Restore,
    })
}

/// `202`, with where to look.
pub(super) async fn accepted(
    admin: &Admin,
    record: &OperationRecord,
) -> Result<Response, ApiError> {
    let document = document(admin, record).await?;
    let location = HeaderValue::from_str(&format!("/api/operations/{}", record.id))
        .expect("an id is plain ASCII");
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(document)).into_response())
}

/// The operation at its end, or as it is after a minute.
pub(super) async fn settled(admin: &Admin, id: Uuid) -> Result<OperationRecord, CatalogError> {
    let mut news = admin.changes.subscribe();
    let deadline = Instant::now() + WAIT;
    loop {
        let record = admin.environment.catalog.operation(id).await?;
        if record.state.is_settled() || timeout_at(deadline, changed(&mut news, id)).await.is_err()
        {
            return Ok(record);
        }
    }
}

async fn changed(news: &mut Subscription, id: Uuid) {
    let told = async {
        loop {
            match news.next().await {
                Change::Operation(changed, state) if changed == id && state.is_settled() => return,
                Change::Unknown => return,
                _ => {}
            }
        }
    };
    tokio::select! {
        () = told => {}
        () = sleep(LOOK) => {}
    }
}

async fn document(
    admin: &Admin,
    record: &OperationRecord,
) -> Result<OperationDocument, CatalogError> {
    let slug = admin.environment.catalog.tenant_by_id(record.tenant_id).await?.slug;
    Ok(OperationDocument::new(record, &slug))
}

/// Takes the one row off that was asked for beyond the page; says whether there was one.
pub(super) fn cut_to<T>(found: &mut Vec<T>, limit: i64) -> bool {
    let limit = usize::try_from(limit).expect("`page` has checked it");
    let more = found.len() > limit;
    found.truncate(limit);
    more
}

/// The size of a page that was asked for.
pub(super) fn page(limit: Option<i64>) -> Result<i64, ApiError> {
    match limit.unwrap_or(100) {
        limit @ 1..=MAX_PAGE => Ok(limit),
        _ => Err(ApiError::invalid(format!("`limit` goes from 1 to {MAX_PAGE}"))),
    }
}
