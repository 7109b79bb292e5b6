//! The domains of a tenant.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Admin;
use super::auth::Caller;
use super::document::DomainDocument;
use super::error::ApiError;
use crate::catalog::tokens::Scope;
use crate::domains::{DomainsError, record_name, record_text};
use crate::problem::Problem;
use crate::tenant::{DomainName, TenantSlug};

/// A tenant's domains.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct List {
    domains: Vec<DomainDocument>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Add {
    /// The domain, such as `app.acme.com`.
    domain: String,
}

/// Lists the domains of a tenant.
#[utoipa::path(get, path = "/api/setup/tenants/{slug}/domains", tag = "tenants", params(("slug" = String, Path)),
    responses((status = OK, body = List), (status = NOT_FOUND, body = Problem)))]
pub(super) async fn list(
    State(admin): State<Admin>,
    caller: Caller,
    Path(slug): Path<String>,
) -> Result<Json<List>, ApiError> {
    caller.require(Scope::TenantsRead)?;
    let domains = admin.environment.catalog.domains(&TenantSlug::parse(&slug)?).await?;
    Ok(Json(List { domains: domains.into_iter().map(Into::into).collect() }))
}

/// Asks for a domain; the answer says what its DNS must say.
#[utoipa::path(post, path = "/api/setup/tenants/{slug}/domains", tag = "tenants", params(("slug" = String, Path)),
    request_body = Add,
    responses((status = OK, body = DomainDocument), (status = NOT_FOUND, body = Problem),
        (status = UNPROCESSABLE_ENTITY, body = Problem)))]
pub(super) async fn add(
    State(Admin { domains, .. }): State<Admin>,
    caller: Caller,
    Path(slug): Path<String>,
    body: Result<Json<Add>, JsonRejection>,
) -> Result<Json<DomainDocument>, ApiError> {
    caller.require(Scope::TenantsWrite)?;
    let (slug, Json(body)) = (TenantSlug::parse(&slug)?, body?);
    let domain = parse(&body.domain)?;
    Ok(Json(domains.add(&slug, &domain, caller.requester().name).await?.into()))
}

/// Looks for the proof in the DNS; from then on the domain names this tenant.
#[utoipa::path(post, path = "/api/setup/tenants/{slug}/domains/{domain}/verify", tag = "tenants",
    params(("slug" = String, Path), ("domain" = String, Path)),
    responses((status = OK, body = DomainDocument), (status = NOT_FOUND, body = Problem),
        (status = CONFLICT, body = Problem), (status = UNPROCESSABLE_ENTITY, body = Problem)))]
pub(super) async fn verify(
    State(Admin { domains, .. }): State<Admin>,
    caller: Caller,
    Path((slug, domain)): Path<(String, String)>,
) -> Result<Json<DomainDocument>, ApiError> {
    caller.require(Scope::TenantsWrite)?;
    let (slug, domain) = (TenantSlug::parse(&slug)?, parse(&domain)?);
    Ok(Json(domains.verify(&slug, &domain, caller.requester().name).await?.into()))
}

/// Takes a domain away from a tenant.
#[utoipa::path(delete, path = "/api/setup/tenants/{slug}/domains/{domain}", tag = "tenants",
    params(("slug" = String, Path), ("domain" = String, Path)),
    responses((status = NO_CONTENT), (status = NOT_FOUND, body = Problem)))]
pub(super) async fn remove(
    State(admin): State<Admin>,
    caller: Caller,
    Path((slug, domain)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    caller.require(Scope::TenantsWrite)?;
    let (slug, domain) = (TenantSlug::parse(&slug)?, parse(&domain)?);
    admin.environment.catalog.remove_domain(&slug, &domain, caller.requester().name).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn parse(text: &str) -> Result<DomainName, ApiError> {
    DomainName::parse(text).map_err(|error| ApiError::invalid(error.to_string()))
}

impl From<DomainsError> for ApiError {
    fn from(error: DomainsError) -> Self {
        match error {
            DomainsError::Catalog(error) => error.into(),
            DomainsError::Unsuitable { .. } => Self::invalid(error.to_string()),
            DomainsError::Unproven { ref domain, .. } => {
                let (name, text) = (record_name(&domain.domain), record_text(domain));
                let detail = format!("publish the TXT record `{name}` with the text `{text}`");
                let status = StatusCode::UNPROCESSABLE_ENTITY;
                Problem::new(status, "domain_unproven", &error.to_string(), detail).into()
            }
            DomainsError::Unanswered { .. } => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a domain is not proven");
                let detail = "the name servers do not answer; try again in a moment";
                let status = StatusCode::SERVICE_UNAVAILABLE;
                Problem::new(status, "dns_unavailable", "DNS unavailable", detail).into()
            }
        }
    }
}
