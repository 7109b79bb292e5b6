//! Resolution: from a request to the slug of the tenant that it is for, and the right to name it.
//!
//! A [`TenantResolver`] looks at a request's head and at who sends it; it never looks for the tenant
//! itself. So whoever may not name a tenant learns nothing about which tenants there are: a tenant that
//! does not exist and one that belongs to others are refused in the same words.
//!
//! Must never: fall back to a tenant that nobody named, or pick one when a request names two.

use std::fmt;
use std::sync::Arc;

use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use futures_util::future::BoxFuture;
use thiserror::Error;
use uuid::Uuid;

use crate::catalog::CatalogError;
use crate::oidc::TokenError;
use crate::problem::Problem;
use crate::tenant::TenantSlug;

mod administrator;
mod attempts;
mod bearer;
mod bindings;
mod claims;
pub(crate) mod connection_string;
mod denials;
mod forwarded;
mod host;
mod identity;
mod password;
mod remembered;
mod single;

pub use administrator::{AdminClaim, Administrator, Administrators, Sender, Stranger};
pub use bearer::{Tokens, prove_bearer};
pub use bindings::Trust;
pub use claims::{ClaimPath, verified_email};
pub use denials::Denial;
pub use forwarded::{ClientAddress, TrustedProxies};
pub use identity::{IdentityResolver, IdentitySettings};
pub(crate) use password::{Claim, Passwords};
pub use single::SingleTenant;

/// The header that names a tenant.
pub const TENANT_HEADER: &str = "x-tenant";

/// Finds out which tenant a request is for.
///
/// An application may bring its own. Whatever it returns is trusted: the caller gets a connection to
/// that tenant's database.
pub trait TenantResolver: Send + Sync {
    /// The tenant that the request names and whose caller may name it.
    fn resolve<'a>(&'a self, parts: &'a Parts) -> BoxFuture<'a, Result<Resolved, ResolveError>>;
}

/// The tenant of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Its slug; nobody has looked yet whether the tenant exists.
    pub slug: TenantSlug,
    /// Its id, where the caller's right was looked up with it: the slug counts for no other tenant then.
    pub tenant: Option<Uuid>,
    /// What named it first.
    pub source: Source,
    /// Who sends the request, for the log: a subject, or one of our tokens.
    pub user: String,
    /// What they may do there.
    pub access: Access,
}

/// What a caller may do with a tenant's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Read and write.
    ReadWrite,
    /// Read; PostgreSQL refuses to write.
    ReadOnly,
}

/// What can name a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The claims of a proven token.
    Claims,
    /// The proven e-mail address of the token's owner.
    Email,
    /// The `X-Tenant` header.
    Header,
    /// The host, under the base domain.
    Host,
    /// The host, which is the tenant's own domain.
    Domain,
    /// The user of a connection string, whose password it has.
    Password,
    /// The settings: there is only one tenant.
    SingleTenant,
}

/// Why a request is for no tenant.
#[derive(Debug, Error)]
pub enum ResolveError {
    /// The request names none.
    #[error("the request names no tenant")]
    Missing,
    /// The header cannot be a tenant, or names more than one.
    #[error("the request names its tenant in a form that is no slug")]
    Malformed,
    /// The host cannot be a tenant's, or can be read in two ways.
    #[error("the request's host is no tenant's")]
    MalformedHost,
    /// Nobody knows who sends it.
    #[error("the caller has not said who they are")]
    Unauthenticated,
    /// The caller may not name this tenant.
    #[error("the caller may not name this tenant")]
    Denied,
    /// The catalog cannot say who the caller is.
    #[error("the caller cannot be looked up")]
    Catalog(#[source] Arc<CatalogError>),
    /// The caller's identity provider cannot be reached, and its keys are not known.
    #[error("the caller's token cannot be checked")]
    KeysAway(#[source] TokenError),
}

impl From<CatalogError> for ResolveError {
    fn from(error: CatalogError) -> Self {
        Self::Catalog(Arc::new(error))
    }
}

impl Source {
    /// The source's name in JSON and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Claims => "claims",
            Self::Email => "email",
            Self::Header => "header",
            Self::Host => "host",
            Self::Domain => "domain",
            Self::Password => "password",
            Self::SingleTenant => "single_tenant",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl ResolveError {
    fn outcome(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed | Self::MalformedHost => "malformed",
            Self::Unauthenticated => "unauthenticated",
            Self::Denied => "denied",
            Self::Catalog(_) | Self::KeysAway(_) => "error",
        }
    }
}

impl From<ResolveError> for Problem {
    fn from(error: ResolveError) -> Self {
        match error {
            ResolveError::Missing => Self::new(
                StatusCode::BAD_REQUEST,
                "tenant_missing",
                "Missing X-Tenant header",
                "X-Tenant header is required in multi-tenant mode for this endpoint",
            ),
            ResolveError::Malformed => Self::new(
                StatusCode::BAD_REQUEST,
                "tenant_malformed",
                "Invalid X-Tenant header format",
                "Tenant slug must contain only lowercase letters, numbers, and hyphens",
            ),
            ResolveError::MalformedHost => Self::new(
                StatusCode::BAD_REQUEST,
                "host_malformed",
                "Invalid host",
                "the host must be one tenant's slug before the base domain, and be named once",
            ),
            ResolveError::Denied => denied(),
            ResolveError::Unauthenticated => Self::unauthenticated(),
            ResolveError::Catalog(_) | ResolveError::KeysAway(_) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a caller cannot be identified"
                );
                match error {
                    // What the catalog cannot read now it cannot read in a moment.
                    ResolveError::Catalog(error) if !error.is_transient() => Self::internal(),
                    _ => Self::unavailable(),
                }
            }
        }
    }
}

/// What a caller is told of a tenant that is not its own, whether there is such a tenant or not.
#[must_use]
pub fn denied() -> Problem {
    Problem::new(
        StatusCode::FORBIDDEN,
        "access_denied",
        "Access denied",
        "User does not belong to tenant",
    )
}

/// What the `X-Tenant` header says; `None` without one. Two headers are one malformed list, as they are
/// to any proxy that joins them.
fn named_in_header(headers: &HeaderMap) -> Option<Result<TenantSlug, ResolveError>> {
    let mut values = headers.get_all(TENANT_HEADER).iter();
    let first = values.next()?;
    if values.next().is_some() {
        return Some(Err(ResolveError::Malformed));
    }
    let slug = first.to_str().ok().and_then(|text| TenantSlug::parse(text).ok());
    Some(slug.ok_or(ResolveError::Malformed))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn header(values: &[&[u8]]) -> Option<Result<TenantSlug, ResolveError>> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(TENANT_HEADER, HeaderValue::from_bytes(value).unwrap());
        }
        named_in_header(&headers)
    }

    #[test]
    fn a_header_names_one_tenant() {
        assert_eq!(header(&[b"acme"]).unwrap().unwrap().as_str(), "acme");
        assert!(header(&[]).is_none());
    }

    #[test]
    fn bad_and_repeated_headers_are_malformed() {
        let bad: [&[&[u8]]; 7] = [
            &[b""],
            &[b"Acme"],
            &[b"a, b"],
            &[b"acme", b"acme"],
            &[b"acme", b"globex"],
            &[b"postgres"],
            &["аcme".as_bytes()],
        ];
        for values in bad {
            assert!(matches!(header(values), Some(Err(ResolveError::Malformed))), "{values:?}");
        }
    }
}
