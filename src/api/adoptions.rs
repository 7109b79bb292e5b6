//! Making a tenant of a database that is there already.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::Admin;
use super::auth::Caller;
use super::document::OperationDocument;
use super::document::adoption::AdoptionDocument;
use super::error::{ApiError, plain_text};
use super::operations::accepted;
use super::tenants::checked_name;
use crate::catalog::tenants::NewTenant;
use crate::catalog::tokens::Scope;
use crate::operations::AdoptFrom;
use crate::problem::Problem;
use crate::tenant::{TenantSettings, TenantSlug, Tier};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Adopt {
    /// The server that has the database.
    server: String,
    /// The database, by its present name.
    database: String,
    /// The tenant's name for people; the slug when there is none.
    name: Option<String>,
    /// How it is hosted.
    #[serde(default)]
    tier: Tier,
    /// The newest migration file that its schema has, to write its history with.
    baseline: Option<i64>,
    /// Whether its functions are known to do no harm.
    #[serde(default)]
    trust_functions: bool,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AdoptQuery {
    /// Only say what would be done, and what keeps it from that.
    #[serde(default)]
    dry_run: bool,
}

/// Makes a tenant of a database that is on a server already: it is renamed, everything in it goes to the owner of
/// everything, and whoever had a right to it has none any more. Nobody may be in it. Needs the scope `servers`, too.
#[utoipa::path(post, path = "/api/setup/tenants/{slug}/adopt", tag = "tenants",
    params(("slug" = String, Path), AdoptQuery), request_body = Adopt,
    responses((status = ACCEPTED, body = OperationDocument), (status = OK, body = AdoptionDocument),
        (status = CONFLICT, body = Problem), (status = NOT_FOUND, body = Problem),
        (status = UNPROCESSABLE_ENTITY, body = Problem)))]
pub(super) async fn adopt(
    State(admin): State<Admin>,
    caller: Caller,
    Path(slug): Path<String>,
    query: Result<Query<AdoptQuery>, QueryRejection>,
    body: Result<Json<Adopt>, JsonRejection>,
) -> Result<Response, ApiError> {
    caller.require(Scope::TenantsWrite)?;
    // It could be any database of the server.
    caller.require(Scope::Servers)?;
    let (slug, Query(query), Json(body)) = (TenantSlug::parse(&slug)?, query?, body?);
    let new = NewTenant {
        name: checked_name(body.name)?.unwrap_or_else(|| slug.to_string()),
        slug,
        tier: body.tier,
        settings: TenantSettings::default(),
        server: plain_text(Some(body.server), "server")?,
        track: None,
    };
    let database = plain_text(Some(body.database), "database")?.unwrap_or_default();
    let (baseline, trust_functions) = (body.baseline, body.trust_functions);
    let from = AdoptFrom { database, baseline, trust_functions };
    if query.dry_run {
        let plan = admin.environment.plan_adoption(&new, &from).await?;
        let server = new.server.as_deref().unwrap_or_default();
        let document = AdoptionDocument::new(new.slug.as_str(), server, &from.database, plan);
        return Ok(Json(document).into_response());
    }
    let asked = admin.environment.adopt(&new, from, caller.requester()).await?;
    accepted(&admin, &asked).await
}
