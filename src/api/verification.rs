//! Verifying schemas, and adopting the databases that have one already.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use tenantry_provisioning::Difference;
use utoipa::ToSchema;

use super::Admin;
use super::auth::Caller;
use super::document::OperationDocument;
use super::error::{ApiError, optional_json, plain_text};
use super::operations::accepted;
use crate::catalog::operations::Failure;
use crate::catalog::tokens::Scope;
use crate::operations::verify::{DriftState, Verified};
use crate::problem::Problem;
use crate::tenant::TenantSlug;

/// How many databases a request looks at at a time.
const CONCURRENCY: usize = 4;

/// What a look at one tenant's schema found.
#[derive(Debug, Serialize, ToSchema)]
pub struct VerifiedDocument {
    /// The tenant.
    #[schema(value_type = String)]
    pub tenant: TenantSlug,
    /// Its server.
    pub server: String,
    /// `clean`, `behind`, `drifted` or `unverified`.
    pub status: &'static str,
    /// The version of its database.
    pub version: i64,
    /// What its schema is; tenants with the same one have the same schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// What it has otherwise than the files of that version make it.
    pub differences: Vec<DifferenceDocument>,
    /// What keeps it from being compared, and what to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

/// One thing that a database has otherwise than the files make it.
#[derive(Debug, Serialize, ToSchema)]
pub struct DifferenceDocument {
    /// What it is about.
    pub object: String,
    /// The statement that the files amount to; none if the thing should not be there.
    pub expected: Option<String>,
    /// The statement that describes what is there; none if there is nothing.
    pub found: Option<String>,
}

/// Which tenants to look at.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Verify {
    /// These; all that are served or suspended when this is left out.
    tenants: Option<Vec<String>>,
    /// Only those on this server.
    server: Option<String>,
}

/// What a database is adopted as.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Baseline {
    /// The version that its schema is of; the newest when this is left out.
    version: Option<i64>,
    /// The fingerprint of its schema as it was seen, to adopt it although it differs.
    accept_fingerprint: Option<String>,
}

impl VerifiedDocument {
    /// The document of what was found.
    #[must_use]
    pub fn new(verified: Verified) -> Self {
        Self {
            tenant: verified.slug,
            server: verified.server,
            status: verified.state.as_str(),
            version: verified.version,
            fingerprint: Some(verified.fingerprint).filter(|text| !text.is_empty()),
            differences: DifferenceDocument::list(&verified.differences),
            error: verified.problem,
        }
    }

    /// Whether the schema is not what the files make.
    #[must_use]
    pub fn is(&self, state: DriftState) -> bool {
        self.status == state.as_str()
    }
}

impl DifferenceDocument {
    /// Documents of many.
    #[must_use]
    pub fn list(differences: &[Difference]) -> Vec<Self> {
        let document = |difference: &Difference| Self {
            object: difference.object.clone(),
            expected: difference.expected.clone(),
            found: difference.found.clone(),
        };
        differences.iter().map(document).collect()
    }
}

/// Compares databases with what the migration files make.
///
/// Answers with one JSON object a line, for each tenant as soon as it was looked at, in no order.
#[utoipa::path(post, path = "/api/migrations/verify", tag = "migrations", request_body = Option<Verify>,
    responses((status = OK, body = VerifiedDocument, content_type = "application/x-ndjson"),
        (status = NOT_FOUND, body = Problem)))]
pub(super) async fn verify(
    State(admin): State<Admin>,
    caller: Caller,
    body: Bytes,
) -> Result<Response, ApiError> {
    caller.require(Scope::Migrate)?;
    let Verify { tenants, server } = optional_json(&body)?;
    if tenants.as_ref().is_some_and(Vec::is_empty) {
        return Err(ApiError::invalid("`tenants` names none; leave it out to verify the fleet"));
    }
    let server = plain_text(server, "server")?;
    let tenants = tenants.unwrap_or_default();
    let slugs =
        tenants.iter().map(|slug| TenantSlug::parse(slug)).collect::<Result<Vec<_>, _>>()?;
    let tenants = admin.environment.to_verify(&slugs, server.as_deref()).await?;
    let lines = admin.environment.verify(tenants, CONCURRENCY).map(|verified| {
        let document = VerifiedDocument::new(verified);
        let mut line = serde_json::to_vec(&document).expect("documents are plain data");
        line.push(b'\n');
        Ok::<_, Infallible>(Bytes::from(line))
    });
    let kind = HeaderValue::from_static("application/x-ndjson");
    Ok(([(header::CONTENT_TYPE, kind)], Body::from_stream(lines)).into_response())
}

/// Adopts a database whose schema is there already: writes which files made it, and runs none.
#[utoipa::path(post, path = "/api/setup/tenants/{slug}/baseline", tag = "migrations",
    params(("slug" = String, Path)), request_body = Option<Baseline>,
    responses((status = ACCEPTED, body = OperationDocument), (status = CONFLICT, body = Problem)))]
pub(super) async fn baseline(
    State(admin): State<Admin>,
    caller: Caller,
    Path(slug): Path<String>,
    body: Bytes,
) -> Result<Response, ApiError> {
    caller.require(Scope::Migrate)?;
    let Baseline { version, accept_fingerprint } = optional_json(&body)?;
    let accepted_schema = plain_text(accept_fingerprint, "accept_fingerprint")?;
    let (slug, by) = (TenantSlug::parse(&slug)?, caller.requester());
    let asked = admin.environment.baseline(&slug, version, accepted_schema, by).await?;
    accepted(&admin, &asked).await
}
