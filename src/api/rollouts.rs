//! Rollouts: a migration of the fleet in waves. Starting one, watching it, holding it and going on.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, stream};
use serde::Serialize;
use serde_json::Value;
use tokio::time::timeout;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Admin;
use super::auth::Caller;
use super::document::rollout::{RolloutDetail, RolloutDocument};
use super::error::{ApiError, optional_json};
use super::migrations::reload;
use crate::catalog::changes::{Change, Subscription};
use crate::catalog::rollouts::{RolloutEvent, RolloutRecord};
use crate::catalog::tokens::Scope;
use crate::operations::rollouts::{RolloutPlan, changes};
use crate::problem::Problem;

/// The newest ones that are listed.
const LISTED: i64 = 50;
/// A notification may be lost with its connection: look again after this.
const LOOK: Duration = Duration::from_secs(1);
/// The header with which a reader that was cut off says what it has seen.
const LAST_EVENT_ID: &str = "last-event-id";

/// The newest rollouts, the newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Rollouts {
    rollouts: Vec<RolloutDocument>,
}

/// Lists the newest rollouts.
#[utoipa::path(get, path = "/api/rollouts", tag = "migrations",
    responses((status = OK, body = Rollouts), (status = UNAUTHORIZED, body = Problem)))]
pub(super) async fn list(
    State(admin): State<Admin>,
    caller: Caller,
) -> Result<Json<Rollouts>, ApiError> {
    caller.require(Scope::Migrate)?;
    let found = admin.environment.catalog.rollouts(LISTED).await?;
    let rollouts = found.iter().map(|(record, counts)| RolloutDocument::new(record, counts));
    Ok(Json(Rollouts { rollouts: rollouts.collect() }))
}

/// Starts a rollout; a worker leads it. Without a body, everybody at once. 204 when there is nothing to do.
#[utoipa::path(post, path = "/api/rollouts", tag = "migrations", request_body = Option<RolloutPlan>,
    responses((status = ACCEPTED, body = RolloutDocument), (status = NO_CONTENT),
        (status = CONFLICT, body = Problem), (status = UNPROCESSABLE_ENTITY, body = Problem)))]
pub(super) async fn start(
    State(admin): State<Admin>,
    caller: Caller,
    body: Bytes,
) -> Result<Response, ApiError> {
    caller.require(Scope::Migrate)?;
    let plan: RolloutPlan = optional_json(&body)?;
    let asked: Value = optional_json(&body)?;
    if asked["tenants"].as_array().is_some_and(Vec::is_empty) {
        return Err(ApiError::invalid("`tenants` names none; leave it out to migrate the fleet"));
    }
    reload(&admin).await?;
    let started = admin.environment.start_rollout(&plan, caller.requester().name).await?;
    match started {
        None => Ok(StatusCode::NO_CONTENT.into_response()),
        Some(record) => accepted(&admin, &record).await,
    }
}

/// Shows how a rollout goes, with the result of each tenant.
#[utoipa::path(get, path = "/api/rollouts/{id}", tag = "migrations", params(("id" = Uuid, Path)),
    responses((status = OK, body = RolloutDetail), (status = NOT_FOUND, body = Problem)))]
pub(super) async fn get(
    State(admin): State<Admin>,
    caller: Caller,
    id: Result<Path<Uuid>, PathRejection>,
) -> Result<Json<RolloutDetail>, ApiError> {
    caller.require(Scope::Migrate)?;
    let catalog = &admin.environment.catalog;
    let record = catalog.rollout(id?.0).await?;
    let counts = catalog.count_rollout(record.id).await?;
    let tenants = catalog.rollout_tenants(record.id).await?;
    let changes = changes(&record, &admin.environment.migrations());
    Ok(Json(RolloutDetail::new(&record, &counts, tenants, changes)))
}

/// Holds a rollout: what is under way ends, nothing else begins.
#[utoipa::path(post, path = "/api/rollouts/{id}/pause", tag = "migrations", params(("id" = Uuid, Path)),
    responses((status = ACCEPTED, body = RolloutDocument), (status = CONFLICT, body = Problem)))]
pub(super) async fn pause(
    State(admin): State<Admin>,
    caller: Caller,
    id: Result<Path<Uuid>, PathRejection>,
) -> Result<Response, ApiError> {
    caller.require(Scope::Migrate)?;
    let record = admin.environment.pause_rollout(id?.0, caller.requester().name).await?;
    accepted(&admin, &record).await
}

/// Goes on with a rollout that is paused or has failed: tenants that failed are tried again.
#[utoipa::path(post, path = "/api/rollouts/{id}/resume", tag = "migrations", params(("id" = Uuid, Path)),
    responses((status = ACCEPTED, body = RolloutDocument), (status = CONFLICT, body = Problem)))]
pub(super) async fn resume(
    State(admin): State<Admin>,
    caller: Caller,
    id: Result<Path<Uuid>, PathRejection>,
) -> Result<Response, ApiError> {
    caller.require(Scope::Migrate)?;
    let Path(id) = id?;
    reload(&admin).await?;
    let record = admin.environment.resume_rollout(id, caller.requester().name).await?;
    accepted(&admin, &record).await
}

/// Gives a rollout up: what is under way ends, everything else is cancelled.
#[utoipa::path(post, path = "/api/rollouts/{id}/abort", tag = "migrations", params(("id" = Uuid, Path)),
    responses((status = ACCEPTED, body = RolloutDocument), (status = CONFLICT, body = Problem)))]
pub(super) async fn abort(
    State(admin): State<Admin>,
    caller: Caller,
    id: Result<Path<Uuid>, PathRejection>,
) -> Result<Response, ApiError> {
    caller.require(Scope::Migrate)?;
    let catalog = &admin.environment.catalog;
    let record = catalog.abort_rollout(id?.0, caller.requester().name).await?;
    accepted(&admin, &record).await
}

/// Streams what happens in a rollout as server-sent events, from its start or from after `Last-Event-ID`. Ends
/// with the rollout.
#[utoipa::path(get, path = "/api/rollouts/{id}/events", tag = "migrations", params(("id" = Uuid, Path)),
    responses((status = OK, body = RolloutEvent, content_type = "text/event-stream"),
        (status = NOT_FOUND, body = Problem)))]
pub(super) async fn events(
    State(admin): State<Admin>,
    caller: Caller,
    id: Result<Path<Uuid>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    caller.require(Scope::Migrate)?;
    let record = admin.environment.catalog.rollout(id?.0).await?;
    let seen = headers.get(LAST_EVENT_ID).and_then(|seen| seen.to_str().ok()?.parse().ok());
    let watch = Watch {
        news: admin.changes.subscribe(),
        admin,
        id: record.id,
        seen: seen.unwrap_or(0),
        ready: VecDeque::new(),
    };
    Ok(Sse::new(watch.into_stream()).keep_alive(KeepAlive::default()).into_response())
}

/// One reader of a rollout's events.
struct Watch {
    admin: Admin,
    news: Subscription,
    id: Uuid,
    seen: i64,
    ready: VecDeque<RolloutEvent>,
}

impl Watch {
    fn into_stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, async |mut watch| {
            let event = watch.next().await?;
            let data = serde_json::to_string(&event).expect("events are plain data");
            let event = Event::default().id(event.seq.to_string()).event(event.kind).data(data);
            Some((Ok(event), watch))
        })
    }

    /// The next event; none when no more can come, or when the catalog is away: the reader asks again then.
    async fn next(&mut self) -> Option<RolloutEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.seen = event.seq;
                return Some(event);
            }
            let catalog = &self.admin.environment.catalog;
            // In this order: an end that is seen has had its event written before.
            let open = catalog.rollout(self.id).await.ok()?.finished_at.is_none();
            self.ready.extend(catalog.rollout_events(self.id, self.seen).await.ok()?);
            if self.ready.is_empty() {
                if !open {
                    return None;
                }
                let (news, id) = (&mut self.news, self.id);
                let heard = async {
                    while !matches!(news.next().await, Change::Rollout(of) if of == id) {}
                };
                _ = timeout(LOOK, heard).await;
            }
        }
    }
}

/// `202`, with where to look.
async fn accepted(admin: &Admin, record: &RolloutRecord) -> Result<Response, ApiError> {
    let counts = admin.environment.catalog.count_rollout(record.id).await?;
    let location = HeaderValue::from_str(&format!("/api/rollouts/{}", record.id))
        .expect("an id is plain ASCII");
    let document = RolloutDocument::new(record, &counts);
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(document)).into_response())
}
