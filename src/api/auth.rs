//! Who calls the admin API, and what they may do there. Whoever is refused stands in the audit log.

use std::net::IpAddr;

use axum::extract::{FromRef, FromRequestParts, MatchedPath, RawPathParams};
use axum::http::HeaderMap;
use axum::http::request::Parts;

use super::error::ApiError;
use crate::catalog::tokens::Scope;
use crate::operations::request::Requester;
use crate::problem::Problem;
use crate::resolve::{Administrator, Administrators, ClientAddress, Denial, Sender};
use crate::tenant::TenantSlug;

/// The longest `Idempotency-Key`.
const MAX_KEY_LEN: usize = 200;

/// An administrator. Whether a token is unknown, revoked, malformed or without the claim makes no
/// difference to the answer.
pub(super) struct Caller {
    administrator: Administrator,
    idempotency_key: Option<String>,
    request: Asked,
}

/// What is asked for, for the record.
struct Asked {
    administrators: Administrators,
    endpoint: String,
    tenant: Option<TenantSlug>,
    client: Option<IpAddr>,
}

impl Caller {
    /// Whether the caller's token has a scope. Only a question: nobody is refused by it, and nothing recorded.
    pub fn may(&self, scope: Scope) -> bool {
        self.administrator.scopes.contains(&scope)
    }

    /// Refuses a caller whose token lacks a scope.
    pub fn require(&self, scope: Scope) -> Result<(), ApiError> {
        if self.may(scope) {
            Ok(())
        } else {
            let denial = Denial {
                violation: "missing_scope",
                user: Some(self.administrator.name.clone()),
                tenant: self.request.tenant.clone(),
                scope: Some(scope.as_str()),
                ..Denial::default()
            };
            self.request.refuse(denial);
            Err(ApiError::forbidden(scope.as_str()))
        }
    }

    /// The caller, for the record.
    pub fn requester(&self) -> Requester<'_> {
        let name = &self.administrator.name;
        Requester { name, idempotency_key: self.idempotency_key.as_deref() }
    }
}

impl Asked {
    async fn read(parts: &mut Parts, administrators: Administrators) -> Self {
        let path = parts.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
        let endpoint = format!("{} {path}", parts.method);
        let client = parts.extensions.get().map(|ClientAddress(address)| *address);
        let params = RawPathParams::from_request_parts(parts, &()).await;
        let slug = |params: RawPathParams| {
            let found = params.iter().find(|(name, _)| *name == "slug")?.1;
            TenantSlug::parse(found).ok()
        };
        Self { administrators, endpoint, tenant: params.ok().and_then(slug), client }
    }

    fn refuse(&self, denial: Denial) {
        let endpoint = Some(self.endpoint.clone());
        self.administrators.refused(Denial { endpoint, ..denial }, self.client);
    }
}

impl<S> FromRequestParts<S> for Caller
where
    Administrators: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let administrators = Administrators::from_ref(state);
        let sender = administrators.of(&parts.headers).await.map_err(Problem::from)?;
        let request = Asked::read(parts, administrators).await;
        let administrator = match sender {
            Sender::Administrator(administrator) => administrator,
            Sender::Stranger(stranger) => {
                request.refuse(Denial {
                    violation: stranger.violation,
                    issuer: stranger.issuer,
                    user: stranger.name,
                    ..Denial::default()
                });
                return Err(Problem::unauthenticated().into());
            }
        };
        tracing::Span::current().record("user", &administrator.name);
        // Keys of different administrators, or for different addresses, never meet.
        let scoped = |key| format!("{} {} {key}", administrator.id, parts.uri.path());
        let idempotency_key = idempotency_key(&parts.headers)?.map(scoped);
        Ok(Self { administrator, idempotency_key, request })
    }
}

/// What a request is known by when it comes again.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let fits = |text: &&str| !text.is_empty() && text.len() <= MAX_KEY_LEN;
    match value.to_str().ok().filter(fits) {
        Some(text) => Ok(Some(text.to_owned())),
        None => Err(ApiError::invalid("an Idempotency-Key has 1 to 200 visible ASCII characters")),
    }
}
