//! Making a tenant of another one.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::response::Response;
use serde::Deserialize;
use utoipa::ToSchema;

use super::Admin;
use super::auth::Caller;
use super::document::OperationDocument;
use super::error::{ApiError, plain_text};
use super::operations::accepted;
use super::tenants::checked_name;
use crate::catalog::tokens::Scope;
use crate::operations::request::CloneAs;
use crate::problem::Problem;
use crate::tenant::{Label, TenantSlug};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Clone {
    /// The slug of the tenant to make.
    #[serde(rename = "as")]
    into: String,
    /// Its name for people; the slug when there is none.
    name: Option<String>,
    /// The server to host it; by the rules of placement when none is named.
    server: Option<String>,
    /// Its tags; those of the original when there are none.
    #[schema(value_type = Option<Vec<String>>)]
    tags: Option<BTreeSet<Label>>,
    /// SQL that masks the data before it opens, in one transaction and with the rights of the tenant's application.
    mask: Option<String>,
}

/// Makes another tenant with the data that one has now. The one is served meanwhile, as ever; the other has an id, a
/// password and keys of its own, and nobody is a member of it.
#[utoipa::path(post, path = "/api/setup/tenants/{slug}/clone", tag = "tenants",
    params(("slug" = String, Path)), request_body = Clone,
    responses((status = ACCEPTED, body = OperationDocument), (status = CONFLICT, body = Problem),
        (status = NOT_FOUND, body = Problem), (status = UNPROCESSABLE_ENTITY, body = Problem)))]
pub(super) async fn clone(
    State(admin): State<Admin>,
    caller: Caller,
    Path(slug): Path<String>,
    body: Result<Json<Clone>, JsonRejection>,
) -> Result<Response, ApiError> {
    caller.require(Scope::TenantsWrite)?;
    let (slug, Json(body)) = (TenantSlug::parse(&slug)?, body?);
    let to = CloneAs {
        slug: TenantSlug::parse(&body.into)?,
        name: checked_name(body.name)?,
        server: plain_text(body.server, "server")?,
        tags: body.tags,
        mask: body.mask,
    };
    let asked = admin.environment.clone_tenant(&slug, to, caller.requester()).await?;
    accepted(&admin, &asked).await
}
