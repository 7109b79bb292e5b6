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
//! - [`worker`]: the loops of a replica.
//! - [`api`]: the admin API and the public endpoints.
//! - [`config`], [`duration`], [`telemetry`], [`metrics`]: settings, lengths of time, logs, numbers.
//! - [`embedded`]: a PostgreSQL and an S3 for development and tests.
//! - [`cli`]: the commands; wires everything.

pub mod api;
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

pub use extract::Tenancy;
pub use resolve::TenantResolver;
pub use router::{RouterError, TenantConnection, TenantRouter};
pub use tenant::{SlugError, Tenant, TenantSettings, TenantSlug};
