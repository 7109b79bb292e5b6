//! `GET /api/tenant`: the caller's own tenant, as the router knows it.

use axum::Json;
use axum::extract::{Request, State};
use serde::Serialize;

use crate::extract::{Tenancy, check_tenant};
use crate::metrics;
use crate::problem::Problem;
use crate::router::RouterError;
use crate::tenant::settings::Branding;
use crate::tenant::{TenantSlug, TenantState};

/// The caller's tenant.
#[derive(Debug, Serialize)]
pub(super) struct Own {
    slug: TenantSlug,
    name: String,
    status: TenantState,
    /// The part of the settings that is public.
    branding: Option<Branding>,
    resolved_by: &'static str,
}

pub(super) async fn get(
    State(tenancy): State<Tenancy>,
    request: Request,
) -> Result<Json<Own>, Problem> {
    let (parts, _) = request.into_parts();
    let resolved = tenancy.resolve(&parts).await?;
    let tenant = &tenancy.router.route(&resolved.slug).await?.tenant;
    check_tenant(&resolved, tenant.id)?;
    if matches!(tenant.state, TenantState::Deleting | TenantState::Deleted) {
        return Err(RouterError::UnknownTenant(resolved.slug).into());
    }
    metrics::tenant_request(tenant.slug.as_str(), "/api/tenant");
    Ok(Json(Own {
        slug: tenant.slug.clone(),
        name: tenant.name.clone(),
        status: tenant.state,
        branding: tenant.settings.branding().cloned(),
        resolved_by: resolved.source.as_str(),
    }))
}
