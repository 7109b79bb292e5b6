//! Tenantry: a PostgreSQL database for every customer, run as easily as one.
//!
//! ```text
//!   any app                                platform engineer, CI, on-call
//!   axum extractor · library                      CLI · admin API
//!            │                                          │
//!   ┌────────▼─────────┐                     ┌──────────▼─────────┐
//!   │ DATA PLANE       │                     │ CONTROL PLANE      │
//!   │ resolve → route  │                     │ operations, upkeep │
//!   └────────┬─────────┘                     └──────────┬─────────┘
//!            │          NOTIFY + generation             │
//!            ├──────────► CATALOG (PostgreSQL) ◄────────┤
//!            ▼                                          ▼
//!      tenant servers                         tenant servers, S3
//! ```
//!
//! Every replica runs the same binary and keeps no state of its own; PostgreSQL is the only coordinator.
//! The two planes never name each other: they meet in the catalog, where a commit that changes a tenant
//! notifies, and the router evicts.
//!
//! # In an application
//!
//! An application stands in the data plane, with the settings of `tenantry serve`. From the catalog and its
//! news it makes a [`TenantRouter`], and with a [`TenantResolver`] that is a [`Tenancy`], from which handlers
//! get their [`TenantConnection`]:
//!
//! ```no_run
//! use axum::{Router, routing::get};
//! use tenantry::config::Settings;
//! use tenantry::tokio_postgres::Error;
//! use tenantry::{Tenancy, TenantConnection, TenantLayer, TenantRouter};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let settings = Settings::load(None, &[])?; // TENANTRY_…, and the file that TENANTRY_CONFIG names
//! let catalog = settings.catalog()?;
//! catalog.verify().await?;
//! let router = TenantRouter::new(catalog.clone(), catalog.changes(), settings.router());
//! let tenancy = Tenancy { router, resolver: settings.resolver(&catalog) };
//!
//! async fn count(tenant: TenantConnection) -> String {
//!     let row = tenant.query_one("select count(*) from boards", &[]).await; // only this tenant's
//!     row.map_or_else(|_: Error| "?".to_owned(), |row| row.get::<_, i64>(0).to_string())
//! }
//! let routes: Router = Router::new()
//!     .route("/boards/count", get(count))
//!     .route_layer(TenantLayer::new(tenancy.clone()))
//!     .with_state(tenancy);
//! # Ok(())
//! # }
//! ```
//!
//! A process has one of rustls' providers, and its `main` chooses it:
//! `rustls::crypto::aws_lc_rs::default_provider().install_default()`.
//!
//! - A job that runs later carries a [`TenantScope`], which is checked when the job begins:
//!   [`TenantRouter::connection_in`].
//! - A job for everybody goes through the fleet: [`TenantRouter::for_each_tenant`].
//! - `examples/boards.rs` is a whole application.
//!
//! # The modules
//!
//! In reading order:
//!
//! - [`tenant`]: slugs, tenants, their states and settings. Pure.
//! - [`sealing`]: secrets at rest.
//! - [`catalog`]: the control database.
//! - [`oidc`]: who a bearer token is of, proven.
//! - [`router`], [`resolve`], [`extract`]: a request in, a connection to one tenant's database out.
//! - [`sql`]: SQL over HTTP, on sessions of its own.
//! - [`registration`]: a tenant for whoever asks for one.
//! - [`problem`]: an error over HTTP.
//! - [`operations`]: every change to a tenant, as durable steps.
//! - [`domains`]: whose a domain is, by the DNS.
//! - [`doctor`]: the catalog against the servers, both ways.
//! - [`audit`]: the proof of isolation: attacks on ourselves, and a signed report.
//! - [`worker`]: the loops of a replica.
//! - [`api`]: the admin API and the public endpoints.
//! - [`config`], [`duration`], [`telemetry`], [`metrics`]: settings, lengths of time, logs, numbers.
//! - [`embedded`]: a PostgreSQL and an S3 for development and tests.
//! - [`cli`]: the commands; wires everything.

pub mod api;
pub mod audit;
pub mod catalog;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod domains;
pub mod duration;
pub mod embedded;
pub mod extract;
pub mod metrics;
pub mod oidc;
pub mod operations;
pub mod problem;
pub mod registration;
pub mod resolve;
pub mod router;
pub mod sealing;
pub mod sql;
pub mod telemetry;
pub mod tenant;
pub mod worker;

pub use extract::{Tenancy, TenantLayer};
pub use resolve::TenantResolver;
pub use router::{RouterError, TenantConnection, TenantRouter};
pub use tenant::{SlugError, Tenant, TenantScope, TenantSettings, TenantSlug};
/// The driver: rows, errors and parameters of our connections are its own.
pub use tokio_postgres;
