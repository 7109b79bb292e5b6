//! HTTP: the public endpoints of the data plane, and the admin API.
//!
//! The two route tables below are the tables of contents. Every endpoint of the admin API describes
//! itself for OpenAPI where it is defined, so the document lists exactly what is served. A handler
//! parses, makes one call and shapes the answer; errors have one shape ([`crate::problem::Problem`]).

use std::sync::Arc;

use axum::extract::FromRef;
use axum::http::HeaderValue;
use axum::response::Html;
use axum::routing::{get, post};
use axum::{Json, Router};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::catalog::Catalog;
use crate::catalog::changes::Changes;
use crate::domains::Domains;
use crate::extract::Tenancy;
use crate::operations::Environment;
use crate::resolve::{Administrators, Passwords};
use crate::sql::{Gateway, SqlSettings};

mod adoptions;
mod aliases;
mod audit_log;
mod audits;
mod auth;
mod backups;
mod clones;
mod cors;
pub mod document;
mod domains;
mod erasures;
mod error;
mod freeze;
mod health;
mod layers;
mod members;
mod migrations;
mod monitoring;
mod moves;
mod operations;
mod preview;
mod registrations;
mod rollouts;
mod servers;
pub mod serving;
mod settings;
mod sql;
mod tenant;
mod tenants;
mod tiers;
mod tracks;
mod usage;
pub mod verification;

pub use health::{Health, Plane};
pub use monitoring::Monitoring;
pub use registrations::SelfService;

/// What the admin API works with.
#[derive(Clone)]
struct Admin {
    environment: Arc<Environment>,
    changes: Changes,
    administrators: Administrators,
    domains: Domains,
}

/// What the public endpoints work with.
#[derive(Clone)]
struct Public {
    tenancy: Tenancy,
    health: Health,
}

/// The admin API.
#[derive(OpenApi)]
#[openapi(
    info(title = "Tenantry admin API", description = "Tenants, operations, backups, migrations, servers."),
    security(("token" = [])),
    modifiers(&Security)
)]
struct Description;

/// The public listener: SQL for the caller's tenant, that tenant, registration where it is offered, and
/// health. With one tenant there is nothing to register. Web pages of `cors_origins` may call it.
pub fn data_plane(
    tenancy: Tenancy,
    catalog: Catalog,
    registration: Option<SelfService>,
    cors_origins: &[HeaderValue],
    sql: SqlSettings,
) -> Router {
    let plane = Plane::Data(tenancy.router.clone());
    let passwords = sql.password_auth.then(|| Arc::new(Passwords::new(catalog.clone())));
    let health = Health::new(catalog, plane, registration.is_some());
    let own = registration.map_or_else(Router::new, |service| {
        Router::new()
            .route("/api/tenants/register", post(registrations::register))
            .route("/api/tenants/register/{id}", get(registrations::state))
            .with_state(service)
    });
    let gateway = Gateway::new(tenancy.router.clone(), sql);
    let endpoint = sql::Endpoint { tenancy: tenancy.clone(), gateway, passwords };
    let sql = Router::new().route("/sql", post(sql::run)).with_state(endpoint);
    let routes = Router::new()
        .route("/api/tenant", get(tenant::get))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/health", get(health::health))
        .with_state(Public { tenancy, health });
    layers::wrap(routes.merge(sql).merge(own), cors::allow(cors_origins))
}

/// The admin listener of a replica that works: what can be done to tenants, beside what is to be watched.
pub fn control_plane(
    environment: Environment,
    changes: Changes,
    domains: Domains,
    monitoring: Monitoring,
) -> Router {
    let (routes, description) = admin_routes().split_for_parts();
    let description = Arc::new(description);
    let routes = routes
        .route("/openapi.json", get(async move || Json(description.as_ref().clone())))
        .route("/docs", get(async || Html(include_str!("api/docs.html"))))
        .with_state(Admin {
            administrators: monitoring.administrators.clone(),
            domains,
            environment: Arc::new(environment),
            changes,
        });
    layers::wrap(routes.merge(monitoring.routes()), None)
}

fn admin_routes() -> OpenApiRouter<Admin> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(tenants::create))
        .routes(routes!(tenants::list))
        .routes(routes!(tenants::get, tenants::update, tenants::delete))
        .routes(routes!(settings::get, settings::change))
        .routes(routes!(tenants::suspend))
        .routes(routes!(tenants::resume))
        .routes(routes!(tenants::rotate_password))
        .routes(routes!(erasures::rotate))
        .routes(routes!(erasures::destroy))
        .routes(routes!(erasures::get))
        .routes(routes!(tenants::rename))
        .routes(routes!(tenants::relocate))
        .routes(routes!(tracks::set))
        .routes(routes!(clones::clone))
        .routes(routes!(adoptions::adopt))
        .routes(routes!(aliases::list))
        .routes(routes!(aliases::remove))
        .routes(routes!(members::list, members::add, members::remove))
        .routes(routes!(domains::list, domains::add))
        .routes(routes!(domains::verify))
        .routes(routes!(domains::remove))
        .routes(routes!(registrations::list))
        .routes(routes!(registrations::get))
        .routes(routes!(registrations::approve))
        .routes(routes!(registrations::reject))
        .routes(routes!(audit_log::list))
        .routes(routes!(audits::newest, audits::run))
        .routes(routes!(audits::list))
        .routes(routes!(audits::get))
        .routes(routes!(backups::back_up))
        .routes(routes!(backups::restore))
        .routes(routes!(backups::drill))
        .routes(routes!(backups::list_of_tenant))
        .routes(routes!(backups::prune_plan, backups::prune))
        .routes(routes!(backups::list))
        .routes(routes!(backups::get))
        .routes(routes!(operations::list))
        .routes(routes!(operations::get))
        .routes(routes!(operations::retry))
        .routes(routes!(operations::cancel))
        .routes(routes!(migrations::status, migrations::start))
        .routes(routes!(preview::plan))
        .routes(routes!(freeze::set, freeze::lift))
        .routes(routes!(migrations::show))
        .routes(routes!(verification::verify))
        .routes(routes!(verification::baseline))
        .routes(routes!(rollouts::list, rollouts::start))
        .routes(routes!(preview::dry_run))
        .routes(routes!(rollouts::get))
        .routes(routes!(rollouts::pause))
        .routes(routes!(rollouts::resume))
        .routes(routes!(rollouts::abort))
        .routes(routes!(rollouts::events))
        .routes(routes!(servers::list))
        .routes(routes!(servers::change, moves::remove))
        .routes(routes!(moves::drain_plan, moves::drain))
        .routes(routes!(moves::rebalance_plan, moves::rebalance))
        .routes(routes!(servers::replicas))
        .routes(routes!(usage::list))
        .routes(routes!(usage::of_tenant))
        .routes(routes!(tiers::list))
        .routes(routes!(tiers::get, tiers::change))
}

impl FromRef<Admin> for Administrators {
    fn from_ref(admin: &Admin) -> Self {
        admin.administrators.clone()
    }
}

impl FromRef<Public> for Health {
    fn from_ref(public: &Public) -> Self {
        public.health.clone()
    }
}

impl FromRef<Public> for Tenancy {
    fn from_ref(public: &Public) -> Self {
        public.tenancy.clone()
    }
}

/// Admin tokens, as OpenAPI describes them.
struct Security;

impl Modify for Security {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let components = openapi.components.get_or_insert_with(Default::default);
        components.add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_covers_the_contract() {
        let description = admin_routes().into_openapi();

        for path in [
            "/api/setup/tenant",
            "/api/setup/tenants",
            "/api/setup/tenants/{slug}",
            "/api/setup/tenants/{slug}/suspend",
            "/api/setup/tenants/{slug}/resume",
            "/api/setup/tenants/{slug}/rotate-password",
            "/api/setup/tenants/{slug}/rename",
            "/api/setup/tenants/{slug}/relocate",
            "/api/setup/tenants/{slug}/clone",
            "/api/setup/tenants/{slug}/adopt",
            "/api/setup/tenants/{slug}/aliases",
            "/api/setup/tenants/{slug}/track",
            "/api/setup/tenants/{slug}/backup",
            "/api/setup/tenants/{slug}/restore",
            "/api/setup/tenants/{slug}/drill",
            "/api/setup/tenants/{slug}/backups",
            "/api/setup/tenants/{slug}/members",
            "/api/setup/tenants/{slug}/domains",
            "/api/registrations",
            "/api/registrations/{id}/approve",
            "/api/registrations/{id}/reject",
            "/api/audit-log",
            "/api/audit",
            "/api/audit/{id}",
            "/api/audits",
            "/api/setup/tenants/{slug}/settings",
            "/api/backups",
            "/api/backups/{id}",
            "/api/operations",
            "/api/operations/{id}",
            "/api/operations/{id}/retry",
            "/api/operations/{id}/cancel",
            "/api/migrations",
            "/api/migrations/{batch}",
            "/api/migrations/plan",
            "/api/migrations/freeze",
            "/api/migrations/verify",
            "/api/setup/tenants/{slug}/baseline",
            "/api/rollouts",
            "/api/rollouts/{id}",
            "/api/rollouts/dry-run",
            "/api/rollouts/{id}/pause",
            "/api/rollouts/{id}/resume",
            "/api/rollouts/{id}/abort",
            "/api/rollouts/{id}/events",
            "/api/servers",
            "/api/servers/{name}",
            "/api/servers/{name}/replicas",
            "/api/servers/{name}/drain",
            "/api/rebalance",
            "/api/tiers",
            "/api/tiers/{tier}",
            "/api/usage",
            "/api/setup/tenants/{slug}/usage",
        ] {
            assert!(description.paths.paths.contains_key(path), "{path}");
        }
        assert!(description.components.unwrap().security_schemes.contains_key("token"));
    }
}
