//! [`IdentityResolver`]: the tenant of a request, from everything in it that names one.
//!
//! ```text
//! token ─► who ─┬─► claims ─┐
//!               │   header ─┼─► one tenant ─► may this issuer and this caller name it?
//!               │   host   ─┘   or none: what disagrees is refused
//! ```
//!
//! - A claim of a provider that the operator trusts is proof of belonging, and so is a proven e-mail
//!   address at a domain that the tenant has proven to hold. A header or a host names a tenant only for
//!   its members, or for a token of ours with the scope `data`. So does a claim where a user chose the slug,
//!   until an operator has looked at the tenant or given it a provider.
//! - Who has proven the password of a tenant's own role ([`super::password`]) belongs to that tenant.
//! - An issuer that is bound to tenants can name no other, and they accept no other issuer.
//! - Whether a tenant does not exist or is somebody else's makes no difference, in the answer or in what
//!   is asked of the catalog.

use std::collections::HashMap;
use std::time::Duration;

use axum::http::request::Parts;
use futures_util::future::BoxFuture;

use super::bearer::{bearer, is_ours, prove};
use super::bindings::{Bindings, CurrentBindings, Settled, Trust};
use super::claims::{Named, email_domains, tenant_of};
use super::denials::{Caller, Denials};
use super::host::{HostName, named_by_host};
use super::password::ProvenPassword;
use super::remembered::{Remembered, TTL};
use super::{Access, ResolveError, Resolved, Source, TenantResolver, Tokens, named_in_header};
use crate::catalog::Catalog;
use crate::catalog::members::{MemberRole, Standing, User};
use crate::catalog::tokens::Scope;
use crate::metrics;
use crate::oidc::{TokenVerifier, Verified};
use crate::tenant::{DomainName, TenantSlug};

/// Whose word counts, and for which tenants.
#[derive(Clone, Debug)]
pub struct IdentitySettings {
    /// What is held true of the tokens of each issuer.
    pub trusts: HashMap<String, Trust>,
    /// Whom tokens of a tenant's own issuer must be meant for, if the tenant does not say.
    pub audiences: Vec<String>,
    /// The domain under which every tenant has a name.
    pub base_domain: Option<DomainName>,
    /// The one tenant of a deployment that has no other: nobody needs to name it, and claims, which
    /// may speak of anything there, are not asked.
    pub only: Option<TenantSlug>,
    /// How long what the catalog said of a caller counts without asking again.
    pub ttl: Duration,
}

impl Default for IdentitySettings {
    fn default() -> Self {
        Self {
            trusts: HashMap::new(),
            audiences: Vec::new(),
            base_domain: None,
            only: None,
            ttl: TTL,
        }
    }
}

/// Resolves requests by token, header and host.
pub struct IdentityResolver {
    catalog: Catalog,
    tokens: Tokens,
    bindings: CurrentBindings,
    base_domain: Option<DomainName>,
    only: Option<TenantSlug>,
    denials: Denials,
    /// Of members, and of whom a claim makes one. Of others it is asked each time, as of tenants that there
    /// are not: how fast the answer comes tells nothing. So the two never share an answer.
    standings: Remembered<(bool, TenantSlug, String, String), Standing>,
    /// Which two slugs lead to one tenant.
    same: Remembered<(TenantSlug, TenantSlug), bool>,
    organisations: Remembered<String, TenantSlug>,
    /// Of most domains, none: that is remembered too.
    holders: Remembered<Vec<DomainName>, Option<TenantSlug>>,
}

/// What a request names beside its token.
struct Wanted {
    header: Option<TenantSlug>,
    host: Option<HostName>,
}

impl IdentitySettings {
    /// Whether users of this issuer are everybody's, not those of some tenants.
    #[must_use]
    pub fn is_unbound(&self, issuer: &str) -> bool {
        self.trusts.get(issuer).is_none_or(|trust| trust.tenants.is_empty())
    }
}

impl IdentityResolver {
    /// Believes the providers of `verifier`, as far as `settings` say, those that tenants have for
    /// themselves, and this catalog's own tokens.
    #[must_use]
    pub fn new(catalog: Catalog, verifier: TokenVerifier, settings: IdentitySettings) -> Self {
        let IdentitySettings { trusts, audiences, base_domain, only, ttl } = settings;
        let settled = Settled { verifier, trusts, audiences };
        Self {
            tokens: Tokens::new(catalog.clone()),
            bindings: CurrentBindings::new(catalog.clone(), settled, ttl),
            denials: Denials::new(catalog.clone()),
            standings: Remembered::new(&catalog, ttl),
            same: Remembered::new(&catalog, ttl),
            organisations: Remembered::new(&catalog, ttl),
            holders: Remembered::new(&catalog, ttl),
            catalog,
            base_domain,
            only,
        }
    }

    async fn find(&self, parts: &Parts) -> Result<Resolved, ResolveError> {
        let header = named_in_header(&parts.headers).transpose()?;
        let host = named_by_host(parts, self.base_domain.as_ref())?;
        let wanted = Wanted { header, host };
        if let Some(proven) = parts.extensions.get() {
            return self.by_password(proven, wanted).await;
        }
        let token = match bearer(&parts.headers) {
            Some(token) if !is_ours(token) => token,
            _ => return self.by_own_token(parts, wanted).await,
        };
        let bindings = self.bindings.get().await?;
        let verified = prove(&bindings.verifier, token).await?;
        self.by_claims(&bindings, &verified, wanted).await
    }

    /// For a program of the operator's: it acts as an application, for any tenant.
    async fn by_own_token(&self, parts: &Parts, wanted: Wanted) -> Result<Resolved, ResolveError> {
        let token = self.tokens.of(&parts.headers).await?;
        let Some(token) = token else {
            // A request that names nobody is told so first: that is no secret. Whether a domain is
            // somebody's is one.
            let names = wanted.header.is_some()
                || matches!(wanted.host, Some(HostName::Tenant(_)))
                || self.only.is_some();
            return Err(if names { ResolveError::Unauthenticated } else { ResolveError::Missing });
        };
        let user = format!("token:{}", token.name);
        let caller = Caller { issuer: None, name: &user };
        let (source, slug) = self.agreed(None, wanted, caller).await?;
        if !token.scopes.contains(&Scope::Data) {
            return Err(self.denials.note("not_a_member", &slug, caller));
        }
        // Whose the slug is now is for the router, which hears at once when it changes hands.
        Ok(Resolved { slug, tenant: None, source, user, access: Access::ReadWrite })
    }

    /// For an application of the tenant's, which needs nothing but its connection string.
    async fn by_password(
        &self,
        proven: &ProvenPassword,
        wanted: Wanted,
    ) -> Result<Resolved, ResolveError> {
        let user = format!("role:{}", proven.role);
        let caller = Caller { issuer: None, name: &user };
        let claimed = Some((Source::Password, proven.slug.clone()));
        let (source, slug) = self.agreed(claimed, wanted, caller).await?;
        let tenant = Some(proven.tenant);
        Ok(Resolved { slug, tenant, source, user, access: Access::ReadWrite })
    }

    async fn by_claims(
        &self,
        bindings: &Bindings,
        token: &Verified,
        wanted: Wanted,
    ) -> Result<Resolved, ResolveError> {
        let (issuer, user) = (&token.issuer, &token.subject);
        let caller = Caller { issuer: Some(issuer), name: user };
        let claimed = match self.only {
            Some(_) => None,
            None => self.claimed(bindings, token).await?,
        };
        let (source, slug) = self.agreed(claimed, wanted, caller).await?;
        let may_be_proof = matches!(source, Source::Claims | Source::Email | Source::SingleTenant);
        let standing = self.standing(slug, may_be_proof, User { issuer, subject: user }).await?;
        // From here on the tenant has the name that it has now.
        let slug = standing.slug;
        if !bindings.may_name(token, &standing.slugs) {
            return Err(self.denials.note("foreign_issuer", &slug, caller));
        }
        // What a user chose as a slug may be what another organisation's provider calls that organisation.
        let is_squat = source == Source::Claims
            && standing.is_unseen
            && !bindings.has_provider(&standing.slugs);
        let role = match standing.role {
            Some(role) => role,
            None if may_be_proof && !is_squat => MemberRole::Member,
            None => return Err(self.denials.note("not_a_member", &slug, caller)),
        };
        let access = match role {
            MemberRole::ReadOnly => Access::ReadOnly,
            MemberRole::Owner | MemberRole::Admin | MemberRole::Member => Access::ReadWrite,
        };
        Ok(Resolved { slug, tenant: standing.tenant, source, user: user.clone(), access })
    }

    /// The tenant that a token names, by its claims or else by its owner's e-mail address.
    async fn claimed(
        &self,
        bindings: &Bindings,
        token: &Verified,
    ) -> Result<Option<(Source, TenantSlug)>, ResolveError> {
        let slug = match tenant_of(&token.claims, bindings.tenant_claim(&token.issuer))? {
            Some(Named::Slug(slug)) => slug,
            Some(Named::Organisation(name)) => self.known_as(name).await?,
            None => {
                let domains = email_domains(&token.claims);
                return Ok(self.holder(domains).await?.map(|slug| (Source::Email, slug)));
            }
        };
        Ok(Some((Source::Claims, slug)))
    }

    /// The one tenant that every source names, and the first source that does.
    async fn agreed(
        &self,
        claimed: Option<(Source, TenantSlug)>,
        wanted: Wanted,
        caller: Caller<'_>,
    ) -> Result<(Source, TenantSlug), ResolveError> {
        let by_host = match wanted.host {
            Some(HostName::Tenant(slug)) => Some((Source::Host, slug)),
            Some(HostName::Domain(domain)) => {
                self.holder(vec![domain]).await?.map(|slug| (Source::Domain, slug))
            }
            None => None,
        };
        let sources = [
            self.only.clone().map(|slug| (Source::SingleTenant, slug)),
            claimed,
            wanted.header.map(|slug| (Source::Header, slug)),
            by_host,
        ];
        let mut named = sources.into_iter().flatten();
        let (source, slug) = named.next().ok_or(ResolveError::Missing)?;
        for (_, other) in named {
            if other != slug && !self.is_same(&slug, &other).await? {
                return Err(self.denials.note("sources_disagree", &slug, caller));
            }
        }
        Ok((source, slug))
    }

    /// Whether both lead to one tenant, which was renamed.
    async fn is_same(&self, slug: &TenantSlug, other: &TenantSlug) -> Result<bool, ResolveError> {
        let key = (slug.clone(), other.clone());
        let asked = async { self.catalog.is_same_tenant(slug, other).await.map(Some) };
        let same = self.same.get(key, asked).await?;
        Ok(same.unwrap_or(false))
    }

    /// Where a user stands with a tenant that may not exist. What a slug leads to is never remembered as
    /// nothing: who is bound to a tenant is bound to it under a new slug from the first request on.
    async fn standing(
        &self,
        slug: TenantSlug,
        is_proof: bool,
        user: User<'_>,
    ) -> Result<Standing, ResolveError> {
        let (issuer, subject) = (user.issuer.to_owned(), user.subject.to_owned());
        let key = (is_proof, slug.clone(), issuer, subject);
        let asked = async {
            let standing = self.catalog.standing(&slug, user).await?;
            Ok(standing.filter(|standing| is_proof || standing.role.is_some()))
        };
        let standing = self.standings.get(key, asked).await?;
        Ok(standing.unwrap_or_else(|| Standing {
            tenant: None,
            slugs: vec![slug.clone()],
            slug,
            role: None,
            is_unseen: false,
        }))
    }

    async fn known_as(&self, name: String) -> Result<TenantSlug, ResolveError> {
        let asked = self.catalog.tenant_known_as(&name);
        self.organisations.get(name.clone(), asked).await?.ok_or(ResolveError::Denied)
    }

    /// The tenant that has proven to hold one of these domains.
    async fn holder(&self, domains: Vec<DomainName>) -> Result<Option<TenantSlug>, ResolveError> {
        if domains.is_empty() {
            return Ok(None);
        }
        let asked = async { self.catalog.tenant_of_domain(&domains).await.map(Some) };
        Ok(self.holders.get(domains.clone(), asked).await?.flatten())
    }
}

impl TenantResolver for IdentityResolver {
    fn resolve<'a>(&'a self, parts: &'a Parts) -> BoxFuture<'a, Result<Resolved, ResolveError>> {
        Box::pin(async {
            let found = self.find(parts).await;
            match &found {
                Ok(resolved) => metrics::resolution(resolved.source.as_str(), "resolved"),
                Err(error) => metrics::resolution("none", error.outcome()),
            }
            found
        })
    }
}
