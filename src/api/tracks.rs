//! The track of a tenant.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use serde::Deserialize;
use utoipa::ToSchema;

use super::Admin;
use super::auth::Caller;
use super::document::TenantDocument;
use super::error::ApiError;
use crate::catalog::tokens::Scope;
use crate::problem::Problem;
use crate::tenant::{Label, TenantSlug};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Track {
    /// The track; null for none.
    track: Option<String>,
}

/// Puts a tenant into a track: the next migration runs the files that it lacks of it.
///
/// Nothing takes such files back: a tenant whose database has some stays in that track.
#[utoipa::path(put, path = "/api/setup/tenants/{slug}/track", tag = "tenants",
    params(("slug" = String, Path)), request_body = Track,
    responses((status = OK, body = TenantDocument), (status = CONFLICT, body = Problem),
        (status = NOT_FOUND, body = Problem), (status = UNPROCESSABLE_ENTITY, body = Problem)))]
pub(super) async fn set(
    State(admin): State<Admin>,
    caller: Caller,
    Path(slug): Path<String>,
    body: Result<Json<Track>, JsonRejection>,
) -> Result<Json<TenantDocument>, ApiError> {
    caller.require(Scope::TenantsWrite)?;
    let (slug, Json(body)) = (TenantSlug::parse(&slug)?, body?);
    let track = checked(body.track.as_deref())?;
    let by = caller.requester().name;
    Ok(Json(admin.environment.set_track(&slug, track.as_ref(), by).await?.into()))
}

/// A name that a track can have.
pub(super) fn checked(track: Option<&str>) -> Result<Option<Label>, ApiError> {
    let parsed = track.map(Label::parse).transpose();
    parsed.map_err(|error| ApiError::invalid(format!("`track`: {error}")))
}
