//! [`Passwords`]: who sends a request, by the user and password of its connection string.
//!
//! The one pair that counts for a tenant is its own login role with its password, as the catalog has it
//! now: no open connection ever vouches for anybody. A token is worth more: a request with an
//! `Authorization` header, whatever is in it, is judged by that alone.
//!
//! Must never: show a password, or whether a user exists. Whoever is refused hears the same after the same
//! time; how often one may be wrong is bounded ([`Attempts`]).

use std::net::IpAddr;
use std::time::{Duration, Instant};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use axum::http::StatusCode;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::sleep_until;
use uuid::Uuid;

use super::attempts::Attempts;
use super::connection_string::{ConnectionString, Malformed};
use super::denials::{Denial, Denials};
use super::forwarded::ClientAddress;
use crate::catalog::Catalog;
use crate::catalog::tenants::Place;
use crate::metrics;
use crate::problem::Problem;
use crate::tenant::TenantSlug;

/// The time after which a wrong password is refused: longer than any look-up that goes before usually takes.
const REFUSAL: Duration = Duration::from_millis(250);

/// Checks the passwords of requests.
pub(crate) struct Passwords {
    attempts: Attempts,
    denials: Denials,
}

/// Somebody says to be a user, and has a password to show for it.
pub(crate) struct Claim {
    user: String,
    password: SecretString,
    address: Option<IpAddr>,
    since: Instant,
}

/// A request extension: its caller has the password of this tenant's role.
#[derive(Clone, Debug)]
pub(crate) struct ProvenPassword {
    /// The tenant.
    pub slug: TenantSlug,
    /// Its id.
    pub tenant: Uuid,
    /// Its role.
    pub role: String,
}

impl Passwords {
    /// Whoever is refused stands in this catalog's audit log.
    pub fn new(catalog: Catalog) -> Self {
        Self { attempts: Attempts::new(), denials: Denials::new(catalog) }
    }

    /// The slug in the name of the role that the user says to be, of now or of before a rename; nothing is
    /// proven yet.
    pub fn slug_of(&self, claim: &Claim) -> Result<Option<TenantSlug>, Problem> {
        let Claim { user, address, .. } = claim;
        if let Some(wait) = self.attempts.wait(user, *address) {
            return Err(self.too_often(wait, *address));
        }
        Ok(user.strip_prefix("tenant_").and_then(|slug| TenantSlug::parse(slug).ok()))
    }

    /// Holds a claim against the place of the tenant to which [`Passwords::slug_of`] leads, if there is one.
    pub async fn prove(
        &self,
        claim: Claim,
        place: Option<&Place>,
    ) -> Result<ProvenPassword, Problem> {
        let Claim { user, password, address, since } = claim;
        // Where there is nothing to compare with, the same work is done.
        let own = place.map_or("", |place| place.password.expose_secret());
        let is_right = || is_equal(own, password.expose_secret()) && !own.is_empty();
        match (self.attempts.judge(&user, address, is_right), place) {
            (Ok(true), Some(place)) => {
                let tenant = &place.tenant;
                Ok(ProvenPassword {
                    slug: tenant.slug.clone(),
                    tenant: tenant.id,
                    role: tenant.role.as_str().to_owned(),
                })
            }
            (Ok(_), _) => {
                metrics::resolution("none", "unauthenticated");
                let tenant = place.map(|place| place.tenant.slug.clone());
                let denial = Denial { violation: "wrong_password", tenant, ..Denial::default() };
                self.denials.gather(denial, address);
                sleep_until((since + REFUSAL).into()).await;
                Err(refused())
            }
            (Err(wait), _) => Err(self.too_often(wait, address)),
        }
    }

    fn too_often(&self, wait: Duration, address: Option<IpAddr>) -> Problem {
        metrics::resolution("none", "too_many_attempts");
        let denial = Denial { violation: "too_many_attempts", ..Denial::default() };
        self.denials.gather(denial, address);
        Problem::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too_many_attempts",
            "Too many attempts",
            "too many wrong passwords; try again later, or send a token as `Authorization: Bearer …`",
        )
        .retry_after(wait)
    }
}

impl Claim {
    /// What a request claims by its connection string. One with a token, or without a password, claims
    /// nothing that way.
    pub fn of(parts: &Parts) -> Result<Option<Self>, Malformed> {
        let since = Instant::now();
        if parts.headers.contains_key(AUTHORIZATION) {
            return Ok(None);
        }
        let Some(string) = ConnectionString::of(&parts.headers)? else { return Ok(None) };
        let address = parts.extensions.get().map(|ClientAddress(address)| *address);
        let claim = string.user.zip(string.password);
        Ok(claim.map(|(user, password)| Self { user, password, address, since }))
    }
}

/// Compares in a time that depends on neither text.
fn is_equal(one: &str, other: &str) -> bool {
    let hash = |text: &str| digest(&SHA256, text.as_bytes());
    verify_slices_are_equal(hash(one).as_ref(), hash(other).as_ref()).is_ok()
}

fn refused() -> Problem {
    Problem::new(
        StatusCode::UNAUTHORIZED,
        "password_refused",
        "Password refused",
        "the user and password of the connection string are no tenant's own; an operator can show them \
         with `tenantry tenant url`",
    )
}
