//! [`Registrar`]: users ask for a tenant of their own.
//!
//! Part of the data plane: it proves who asks, holds the request against the operator's rules and writes
//! it down. An operator or the settings approve it, and a worker makes the tenant
//! ([`crate::catalog::registrations`]).
//!
//! Must never: take a user's word for an address, or promise a slug that is somebody's.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use aws_lc_rs::digest;
use axum::http::{HeaderMap, StatusCode};
use thiserror::Error;
use uuid::Uuid;

use crate::catalog::members::User;
use crate::catalog::registrations::{NewRegistration, Registered, Registration};
use crate::catalog::{Catalog, CatalogError};
use crate::oidc::{TokenVerifier, Verified};
use crate::problem::Problem;
use crate::resolve::{IdentitySettings, ResolveError, prove_bearer, verified_email};
use crate::tenant::{DomainName, EmailAddress, TenantSlug};

/// The operator's rules.
#[derive(Clone, Debug)]
pub struct RegistrationRules {
    /// Whether an operator decides on each.
    pub requires_approval: bool,
    /// Where users' proven e-mail addresses must be; anywhere, when it is empty.
    pub allowed_domains: Vec<DomainName>,
    /// Most tenants that one user owns.
    pub max_tenants: usize,
    /// How often one user, and one address, may try.
    pub rate: Rate,
}

/// So many times within so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How often.
    pub limit: u32,
    /// Within which time.
    pub window: Duration,
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let times =
            if self.limit == 1 { "once".to_owned() } else { format!("{} times", self.limit) };
        let seconds = self.window.as_secs();
        match seconds {
            60 => write!(f, "{times} a minute"),
            3600 => write!(f, "{times} an hour"),
            86_400 => write!(f, "{times} a day"),
            _ => write!(f, "{times} in {seconds} s"),
        }
    }
}

/// What a user asks for.
#[derive(Clone, Debug)]
pub struct Application {
    /// The tenant's name.
    pub organization_name: String,
    /// Whom to write to.
    pub admin_email: EmailAddress,
    /// What it is for, in the user's words.
    pub use_case: Option<String>,
    /// How many people they are, in the user's words.
    pub organization_size: Option<String>,
    /// The same request finds the same registration again.
    pub idempotency_key: Option<String>,
}

/// Takes registrations. Cheap to clone.
#[derive(Clone)]
pub struct Registrar {
    catalog: Catalog,
    verifier: TokenVerifier,
    identity: IdentitySettings,
    rules: RegistrationRules,
}

/// Why nobody was registered.
#[derive(Debug, Error)]
pub enum RegistrationError {
    /// Nobody knows who asks.
    #[error(transparent)]
    Caller(#[from] ResolveError),
    /// The caller comes from a provider that is bound to other tenants.
    #[error("users of this identity provider belong to its tenants")]
    BoundUser,
    /// The address is not one that the operator allows.
    #[error("the e-mail address is not at an allowed domain, or not proven")]
    AddressNotAllowed,
    /// Too often.
    #[error("too many registrations; the next is possible in {} s", .0.as_secs())]
    TooOften(Duration),
    /// The user has enough.
    #[error("the user has as many tenants as one may have")]
    TooMany,
    /// Too many are called like that.
    #[error("no slug is free for this name")]
    NoSlug,
    /// There is no such registration, or not for this caller.
    #[error("there is no such registration")]
    Unknown,
    /// The catalog.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

impl Registrar {
    /// Takes registrations of users of these providers.
    #[must_use]
    pub fn new(
        catalog: Catalog,
        verifier: TokenVerifier,
        identity: IdentitySettings,
        rules: RegistrationRules,
    ) -> Self {
        Self { catalog, verifier, identity, rules }
    }

    /// Writes an application down.
    pub async fn register(
        &self,
        headers: &HeaderMap,
        from: IpAddr,
        application: &Application,
    ) -> Result<Registration, RegistrationError> {
        let caller = prove_bearer(&self.verifier, headers).await?;
        if !self.identity.is_unbound(&caller.issuer) {
            return Err(RegistrationError::BoundUser);
        }
        self.check_addresses(&caller, &application.admin_email)?;
        let user = User { issuer: &caller.issuer, subject: &caller.subject };
        // The same request again is no new attempt: its answer may have been lost.
        if let Some(key) = &application.idempotency_key
            && let Some(earlier) = self.catalog.earlier_registration(user, key).await?
        {
            return Ok(earlier);
        }
        let Rate { limit, window } = self.rules.rate;
        let keys = [user_key(&caller), address_key(from)];
        if let Some(wait) = self.catalog.count_attempt(&keys, limit.into(), window).await? {
            return Err(RegistrationError::TooOften(wait));
        }
        let new = NewRegistration {
            slugs: &TenantSlug::suggestions(&application.organization_name),
            organization_name: &application.organization_name,
            admin_email: &application.admin_email.to_string(),
            use_case: application.use_case.as_deref(),
            organization_size: application.organization_size.as_deref(),
            user,
            requires_approval: self.rules.requires_approval,
            max_tenants: i64::try_from(self.rules.max_tenants).unwrap_or(i64::MAX),
            idempotency_key: application.idempotency_key.as_deref(),
        };
        match self.catalog.register(&new).await? {
            Registered::Done(registration) => Ok(*registration),
            Registered::TooMany => Err(RegistrationError::TooMany),
            Registered::NoSlug => Err(RegistrationError::NoSlug),
        }
    }

    /// The caller's own registration. That of somebody else is none.
    pub async fn find(
        &self,
        headers: &HeaderMap,
        id: Uuid,
    ) -> Result<Registration, RegistrationError> {
        let caller = prove_bearer(&self.verifier, headers).await?;
        let found = match self.catalog.registration(id).await {
            Ok(found) => found,
            Err(CatalogError::Missing { .. }) => return Err(RegistrationError::Unknown),
            Err(error) => return Err(error.into()),
        };
        if (&found.issuer, &found.subject) == (&caller.issuer, &caller.subject) {
            Ok(found)
        } else {
            Err(RegistrationError::Unknown)
        }
    }

    /// An address that anybody may write down proves nothing, so the token's counts too.
    fn check_addresses(
        &self,
        caller: &Verified,
        given: &EmailAddress,
    ) -> Result<(), RegistrationError> {
        let allowed = &self.rules.allowed_domains;
        let is_allowed = |address: &EmailAddress| {
            allowed.iter().any(|domain| address.domain().is_within(domain))
        };
        let proven = verified_email(&caller.claims);
        if allowed.is_empty() || is_allowed(given) && proven.as_ref().is_some_and(is_allowed) {
            Ok(())
        } else {
            Err(RegistrationError::AddressNotAllowed)
        }
    }
}

fn user_key(caller: &Verified) -> Vec<u8> {
    hash(&format!("user {} {}", caller.issuer, caller.subject))
}

/// Whoever has one IPv6 address has a network of them.
fn address_key(address: IpAddr) -> Vec<u8> {
    hash(&match address {
        IpAddr::V4(address) => format!("address {address}"),
        IpAddr::V6(address) => format!("network {:?}", &address.segments()[..4]),
    })
}

fn hash(text: &str) -> Vec<u8> {
    digest::digest(&digest::SHA256, text.as_bytes()).as_ref().to_vec()
}

impl From<RegistrationError> for Problem {
    fn from(error: RegistrationError) -> Self {
        let detail = error.to_string();
        match error {
            RegistrationError::Caller(error) => error.into(),
            RegistrationError::BoundUser => Self::new(
                StatusCode::FORBIDDEN,
                "registration_bound_user",
                "Registration refused",
                detail,
            ),
            RegistrationError::AddressNotAllowed => Self::new(
                StatusCode::FORBIDDEN,
                "registration_domain",
                "Registration refused",
                "use an e-mail address of your organisation, confirmed at your identity provider",
            ),
            RegistrationError::TooOften(wait) => Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "registration_rate",
                "Too many registrations",
                detail,
            )
            .retry_after(wait),
            RegistrationError::TooMany => Self::new(
                StatusCode::CONFLICT,
                "registration_too_many",
                "Too many tenants",
                "you own as many tenants as one may have; delete one, or ask the operator",
            ),
            RegistrationError::NoSlug => Self::new(
                StatusCode::CONFLICT,
                "registration_name",
                "Name taken",
                "too many organisations have this name; choose another",
            ),
            RegistrationError::Unknown => Self::new(
                StatusCode::NOT_FOUND,
                "not_found",
                "Not found",
                "you have made no such registration",
            ),
            RegistrationError::Catalog(error) => ResolveError::from(error).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_counts_as_one_address() {
        let key = |text: &str| address_key(text.parse().unwrap());

        assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::9"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    }
}
