//! Tenants that users ask for themselves: on the public listener by the user, on the admin listener by
//! who decides.

use std::net::{IpAddr, Ipv4Addr};

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::Admin;
use super::auth::{Caller, idempotency_key};
use super::document::RegistrationDocument;
use super::error::{ApiError, plain_text};
use super::operations::{cut_to, page};
use crate::catalog::registrations::{Registration, RegistrationState};
use crate::catalog::tokens::Scope;
use crate::problem::Problem;
use crate::registration::{Application, Registrar};
use crate::resolve::{ClientAddress, TENANT_HEADER};
use crate::tenant::{DomainName, EmailAddress, TenantSlug};

/// The longest name of an organisation, in characters.
const MAX_NAME_CHARS: usize = 200;

/// Self-service registration, and where its tenants are found.
#[derive(Clone)]
pub struct SelfService {
    /// Takes registrations.
    pub registrar: Registrar,
    /// Where people go; the slug stands at `{slug}`, or at its end.
    pub frontend_base_url: Option<String>,
    /// The domain under which every tenant has a name.
    pub base_domain: Option<DomainName>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Register {
    organization_name: String,
    admin_email: String,
    use_case: Option<String>,
    organization_size: Option<String>,
}

/// A registration as its user sees it.
#[derive(Debug, Serialize)]
pub(super) struct Receipt {
    id: Uuid,
    tenant_id: Uuid,
    tenant_slug: TenantSlug,
    status: &'static str,
    /// Why it was rejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    dashboard_url: Option<String>,
    api_access: Access,
}

/// How a program names the tenant, beside its token.
#[derive(Debug, Serialize)]
struct Access {
    header: &'static str,
    value: TenantSlug,
    /// Instead of the header.
    host: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// `pending`, `approved` or `rejected`.
    state: Option<String>,
    /// Before this registration, for the next page.
    before: Option<Uuid>,
    /// At most so many, 1 to 500 [100].
    limit: Option<i64>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Reject {
    /// Why; the user sees it.
    reason: String,
}

/// One page, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Registrations {
    registrations: Vec<RegistrationDocument>,
    /// Give this as `before` for the next page.
    next: Option<Uuid>,
}

/// `POST /api/tenants/register`: asks for a tenant of one's own.
pub(super) async fn register(
    State(service): State<SelfService>,
    client: Option<Extension<ClientAddress>>,
    headers: HeaderMap,
    body: Result<Json<Register>, JsonRejection>,
) -> Result<Response, ApiError> {
    let Json(body) = body?;
    let email = EmailAddress::parse(&body.admin_email);
    let application = Application {
        organization_name: name(body.organization_name)?,
        admin_email: email.map_err(|error| ApiError::invalid(format!("`admin_email`: {error}")))?,
        use_case: plain_text(body.use_case, "use_case")?,
        organization_size: plain_text(body.organization_size, "organization_size")?,
        idempotency_key: idempotency_key(&headers)?,
    };
    // Unknown where the application is served by other means; then it is one address for all.
    let from = client.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |Extension(client)| client.0);
    let made = service.registrar.register(&headers, from, &application).await;
    let made = made.map_err(Problem::from)?;
    let location = format!("/api/tenants/register/{}", made.id);
    let receipt = service.receipt(made);
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(receipt)).into_response())
}

/// `GET /api/tenants/register/{id}`: how far the caller's registration is.
pub(super) async fn state(
    State(service): State<SelfService>,
    headers: HeaderMap,
    id: Result<Path<Uuid>, PathRejection>,
) -> Result<Json<Receipt>, ApiError> {
    let Path(id) = id?;
    let found = service.registrar.find(&headers, id).await.map_err(Problem::from)?;
    Ok(Json(service.receipt(found)))
}

/// Lists registrations.
#[utoipa::path(get, path = "/api/registrations", tag = "registrations", params(ListQuery),
    responses((status = OK, body = Registrations), (status = UNPROCESSABLE_ENTITY, body = Problem)))]
pub(super) async fn list(
    State(admin): State<Admin>,
    caller: Caller,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Registrations>, ApiError> {
    caller.require(Scope::TenantsRead)?;
    let Query(query) = query?;
    let limit = page(query.limit)?;
    let parse = |text: &str| {
        let unknown = || ApiError::invalid("`state` is pending, approved or rejected");
        RegistrationState::parse(text).ok_or_else(unknown)
    };
    let state = query.state.as_deref().map(parse).transpose()?;
    let catalog = &admin.environment.catalog;
    let mut found = catalog.registrations(state, query.before, limit + 1).await?;
    let more = cut_to(&mut found, limit);
    let next = found.last().filter(|_| more).map(|registration| registration.id);
    Ok(Json(Registrations { registrations: found.into_iter().map(Into::into).collect(), next }))
}

/// Shows one registration.
#[utoipa::path(get, path = "/api/registrations/{id}", tag = "registrations", params(("id" = Uuid, Path)),
    responses((status = OK, body = RegistrationDocument), (status = NOT_FOUND, body = Problem)))]
pub(super) async fn get(
    State(admin): State<Admin>,
    caller: Caller,
    id: Result<Path<Uuid>, PathRejection>,
) -> Result<Json<RegistrationDocument>, ApiError> {
    caller.require(Scope::TenantsRead)?;
    let Path(id) = id?;
    Ok(Json(admin.environment.catalog.registration(id).await?.into()))
}

/// Approves a registration: a worker makes the tenant, and its user the owner.
#[utoipa::path(post, path = "/api/registrations/{id}/approve", tag = "registrations", params(("id" = Uuid, Path)),
    responses((status = OK, body = RegistrationDocument), (status = NOT_FOUND, body = Problem),
        (status = CONFLICT, body = Problem)))]
pub(super) async fn approve(
    State(admin): State<Admin>,
    caller: Caller,
    id: Result<Path<Uuid>, PathRejection>,
) -> Result<Json<RegistrationDocument>, ApiError> {
    caller.require(Scope::TenantsWrite)?;
    let (Path(id), by) = (id?, caller.requester().name);
    let decision = RegistrationState::Approved;
    let catalog = &admin.environment.catalog;
    Ok(Json(catalog.decide_registration(id, decision, None, by).await?.into()))
}

/// Rejects a registration, with a reason that its user sees.
#[utoipa::path(post, path = "/api/registrations/{id}/reject", tag = "registrations", params(("id" = Uuid, Path)),
    request_body = Reject,
    responses((status = OK, body = RegistrationDocument), (status = NOT_FOUND, body = Problem),
        (status = CONFLICT, body = Problem), (status = UNPROCESSABLE_ENTITY, body = Problem)))]
pub(super) async fn reject(
    State(admin): State<Admin>,
    caller: Caller,
    id: Result<Path<Uuid>, PathRejection>,
    body: Result<Json<Reject>, JsonRejection>,
) -> Result<Json<RegistrationDocument>, ApiError> {
    caller.require(Scope::TenantsWrite)?;
    let (Path(id), Json(body), by) = (id?, body?, caller.requester().name);
    let reason = plain_text(Some(body.reason), "reason")?.filter(|text| !text.trim().is_empty());
    let reason = reason.ok_or_else(|| ApiError::invalid("`reason` says why, for the user"))?;
    let decision = RegistrationState::Rejected;
    let catalog = &admin.environment.catalog;
    Ok(Json(catalog.decide_registration(id, decision, Some(&reason), by).await?.into()))
}

impl SelfService {
    fn receipt(&self, registration: Registration) -> Receipt {
        let slug = registration.slug.clone();
        let dashboard_url = self.frontend_base_url.as_ref().map(|url| {
            if url.contains("{slug}") {
                url.replace("{slug}", slug.as_str())
            } else {
                format!("{}/{slug}", url.trim_end_matches('/'))
            }
        });
        let host = self.base_domain.as_ref().map(|base| format!("{slug}.{base}"));
        Receipt {
            id: registration.id,
            tenant_id: registration.tenant_id,
            tenant_slug: slug.clone(),
            status: registration.status(),
            reason: registration.reason,
            dashboard_url,
            api_access: Access { header: TENANT_HEADER, value: slug, host },
        }
    }
}

fn name(text: String) -> Result<String, ApiError> {
    let good = !text.trim().is_empty()
        && text.chars().count() <= MAX_NAME_CHARS
        && !text.contains(char::is_control);
    if good {
        Ok(text)
    } else {
        let detail = format!("`organization_name` has 1 to {MAX_NAME_CHARS} characters in a line");
        Err(ApiError::invalid(detail))
    }
}
