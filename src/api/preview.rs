//! What a rollout would do, and whether its files run. Neither starts one.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::Deserialize;
use utoipa::IntoParams;

use super::Admin;
use super::auth::Caller;
use super::error::{ApiError, optional_json};
use super::migrations::reload;
use super::tracks;
use crate::catalog::tokens::Scope;
use crate::operations::rollouts::{PlanError, Preview, RolloutPlan, Selection, Trial};
use crate::problem::Problem;
use crate::tenant::TenantSlug;

/// Databases of each server that sizes are read from, where nobody says otherwise.
const SAMPLE: usize = 20;
/// The most of them.
const MAX_SAMPLE: usize = 1000;

/// What a rollout would be asked for, in a URL.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PlanQuery {
    /// These tenants, with commas between them; all that are behind when this is left out.
    tenants: Option<String>,
    /// Who comes first, with commas: slugs, `5%`, `tag=beta`, `tier=shared`, `track=gold`, `region=eu` or
    /// `server=eu-1`.
    canary: Option<String>,
    /// Who comes then, in order, with commas.
    waves: Option<String>,
    /// How many seconds a wave is watched before the next one begins.
    bake_secs: Option<u32>,
    /// At most so many tenants at a time.
    concurrency: Option<u32>,
    /// The version to stop at.
    to: Option<i64>,
    /// Only tenants of this track.
    track: Option<String>,
    /// Sizes are read from so many of the largest databases of each server; 20 when this is left out.
    sample: Option<usize>,
}

/// Shows what a rollout would do: files, waves, and statements that lock or rewrite tables that are in use.
#[utoipa::path(get, path = "/api/migrations/plan", tag = "migrations", params(PlanQuery),
    responses((status = OK, body = Preview), (status = CONFLICT, body = Problem),
        (status = UNPROCESSABLE_ENTITY, body = Problem)))]
pub(super) async fn plan(
    State(admin): State<Admin>,
    caller: Caller,
    query: Result<Query<PlanQuery>, QueryRejection>,
) -> Result<Json<Preview>, ApiError> {
    caller.require(Scope::Migrate)?;
    let Query(query) = query?;
    let sample = query.sample.unwrap_or(SAMPLE);
    if sample > MAX_SAMPLE {
        return Err(ApiError::invalid(format!("`sample` goes from 0 to {MAX_SAMPLE}")));
    }
    let plan = query.plan()?;
    reload(&admin).await?;
    Ok(Json(admin.environment.preview_rollout(&plan, sample).await?))
}

/// Tries the files of a rollout: on a template of every server, which stays, and in the databases of the canary,
/// or of the tenants that are named, in a transaction that is rolled back.
#[utoipa::path(post, path = "/api/rollouts/dry-run", tag = "migrations", request_body = Option<RolloutPlan>,
    responses((status = OK, body = Trial), (status = CONFLICT, body = Problem),
        (status = UNPROCESSABLE_ENTITY, body = Problem)))]
pub(super) async fn dry_run(
    State(admin): State<Admin>,
    caller: Caller,
    body: Bytes,
) -> Result<Json<Trial>, ApiError> {
    caller.require(Scope::Migrate)?;
    let plan: RolloutPlan = optional_json(&body)?;
    reload(&admin).await?;
    Ok(Json(admin.environment.try_rollout(&plan).await?))
}

impl PlanQuery {
    fn plan(self) -> Result<RolloutPlan, ApiError> {
        let tenants = listed(self.tenants.as_deref()).map(TenantSlug::parse);
        let selections = |text: Option<&str>| -> Result<Vec<Selection>, PlanError> {
            listed(text).map(Selection::parse).collect()
        };
        let wrong = |error: PlanError| ApiError::invalid(error.to_string());
        Ok(RolloutPlan {
            tenants: tenants.collect::<Result<_, _>>()?,
            canary: selections(self.canary.as_deref()).map_err(wrong)?,
            waves: selections(self.waves.as_deref()).map_err(wrong)?,
            bake_secs: self.bake_secs.unwrap_or(0),
            concurrency: self.concurrency,
            to: self.to,
            track: tracks::checked(self.track.as_deref())?,
            ..RolloutPlan::default()
        })
    }
}

fn listed(text: Option<&str>) -> impl Iterator<Item = &str> {
    text.unwrap_or_default().split(',').filter(|one| !one.is_empty())
}
