//! [`IdentityResolver`]: the tenant of a request, from everything in it that names one.
//!
//! ```text
//! token ─► who ─┬─► claims ─┐
//!               │   header ─┼─► one tenant ─► may this issuer and this caller name it?
//!               │   host   ─┘   or none: what disagrees is refused
//! ```
//!
//! - A claim of a provider that the operator trusts is proof of belonging. A header or a host names a
//!   tenant only for its members, or for a token of ours with the scope `data`.
//! - An issuer that is bound to tenants can name no other, and they accept no other issuer.
//! - Whether a tenant does not exist or is somebody else's makes no difference, in the answer or in what
//!   is asked of the catalog.

use std::collections::HashMap;

use axum::http::request::Parts;
use futures_util::future::BoxFuture;

use super::bearer::{bearer, is_ours};
use super::claims::{ClaimPath, Named, tenant_of};
use super::host::BaseDomain;
use super::remembered::Remembered;
use super::{Access, ResolveError, Resolved, Source, TenantResolver, Tokens, named_in_header};
use crate::catalog::Catalog;
use crate::catalog::members::{MemberRole, User};
use crate::catalog::tokens::Scope;
use crate::metrics;
use crate::oidc::{TokenVerifier, Verified};
use crate::tenant::TenantSlug;

/// Whose word counts, and for which tenants.
#[derive(Clone, Debug, Default)]
pub struct IdentitySettings {
    /// What is held true of the tokens of each issuer.
    pub trusts: HashMap<String, Trust>,
    /// The domain under which every tenant has a name.
    pub base_domain: Option<BaseDomain>,
    /// The one tenant of a deployment that has no other: nobody needs to name it, and claims, which
    /// may speak of anything there, are not asked.
    pub only: Option<TenantSlug>,
}

/// How far an issuer is trusted.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// The only tenants that it can name; any, when it is empty.
    pub tenants: Vec<TenantSlug>,
    /// Where its tokens name the tenant, before the usual claims.
    pub tenant_claim: Option<ClaimPath>,
}

/// Resolves requests by token, header and host.
pub struct IdentityResolver {
    catalog: Catalog,
    tokens: Tokens,
    verifier: TokenVerifier,
    settings: IdentitySettings,
    /// Of no member, none: that is remembered too, since a claim needs no membership.
    roles: Remembered<(TenantSlug, String, String), Option<MemberRole>>,
    organisations: Remembered<String, TenantSlug>,
}

/// What a request names beside its token.
struct Wanted {
    header: Option<TenantSlug>,
    host: Option<TenantSlug>,
}

impl IdentityResolver {
    /// Believes the providers of `verifier`, as far as `settings` say, and this catalog's own tokens.
    #[must_use]
    pub fn new(catalog: Catalog, verifier: TokenVerifier, settings: IdentitySettings) -> Self {
        Self {
            tokens: Tokens::new(catalog.clone()),
            catalog,
            verifier,
            settings,
            roles: Remembered::new(),
            organisations: Remembered::new(),
        }
    }

    async fn find(&self, parts: &Parts) -> Result<Resolved, ResolveError> {
        let header = named_in_header(&parts.headers).transpose()?;
        let base_domain = self.settings.base_domain.as_ref();
        let host = base_domain.map(|base| base.tenant_of(parts)).transpose()?.flatten();
        let wanted = Wanted { header, host };
        let token = match bearer(&parts.headers) {
            Some(token) if !is_ours(token) => token,
            _ => return self.by_own_token(parts, wanted).await,
        };
        let verified = self.verifier.verify(token).await.map_err(|error| {
            tracing::debug!(error = &error as &dyn std::error::Error, "a token was refused");
            if error.is_transient() {
                ResolveError::KeysAway(error)
            } else {
                ResolveError::Unauthenticated
            }
        })?;
        self.by_claims(&verified, wanted).await
    }

    /// For a program of the operator's: it acts as an application, for any tenant.
    async fn by_own_token(&self, parts: &Parts, wanted: Wanted) -> Result<Resolved, ResolveError> {
        // A request that names nobody is told so first: that is no secret.
        if wanted.header.is_none() && wanted.host.is_none() && self.settings.only.is_none() {
            return Err(ResolveError::Missing);
        }
        let token = self.tokens.of(&parts.headers).await.map_err(ResolveError::Catalog)?;
        let token = token.ok_or(ResolveError::Unauthenticated)?;
        let user = format!("token:{}", token.name);
        let (source, slug) = self.agreed(None, wanted, &user)?;
        if !token.scopes.contains(&Scope::Data) {
            return Err(refuse("not_a_member", &slug, &user));
        }
        Ok(Resolved { slug, source, user, access: Access::ReadWrite })
    }

    async fn by_claims(&self, token: &Verified, wanted: Wanted) -> Result<Resolved, ResolveError> {
        let (issuer, user) = (&token.issuer, &token.subject);
        let trust = self.settings.trusts.get(issuer);
        let path = trust.and_then(|trust| trust.tenant_claim.as_ref());
        let named = match self.settings.only {
            Some(_) => None,
            None => tenant_of(&token.claims, path)?,
        };
        let claimed = match named {
            Some(Named::Slug(slug)) => Some(slug),
            Some(Named::Organisation(name)) => Some(self.known_as(name).await?),
            None => None,
        };
        let (source, slug) = self.agreed(claimed, wanted, user)?;
        if !self.may_name(issuer, &slug) {
            return Err(refuse("foreign_issuer", &slug, user));
        }
        let role = match (self.role(&slug, issuer, user).await?, source) {
            (Some(role), _) => role,
            (None, Source::Claims | Source::SingleTenant) => MemberRole::Member,
            (None, _) => return Err(refuse("not_a_member", &slug, user)),
        };
        let access = match role {
            MemberRole::ReadOnly => Access::ReadOnly,
            MemberRole::Owner | MemberRole::Admin | MemberRole::Member => Access::ReadWrite,
        };
        Ok(Resolved { slug, source, user: user.clone(), access })
    }

    /// The one tenant that every source names, and the first source that does.
    fn agreed(
        &self,
        claimed: Option<TenantSlug>,
        wanted: Wanted,
        user: &str,
    ) -> Result<(Source, TenantSlug), ResolveError> {
        let sources = [
            (Source::SingleTenant, self.settings.only.clone()),
            (Source::Claims, claimed),
            (Source::Header, wanted.header),
            (Source::Host, wanted.host),
        ];
        let mut named = sources.into_iter().filter_map(|(source, slug)| Some((source, slug?)));
        let (source, slug) = named.next().ok_or(ResolveError::Missing)?;
        if named.any(|(_, other)| other != slug) {
            return Err(refuse("sources_disagree", &slug, user));
        }
        Ok((source, slug))
    }

    /// Whether an issuer's word counts for a tenant: bindings hold in both directions.
    fn may_name(&self, issuer: &str, slug: &TenantSlug) -> bool {
        let binds = |trust: &Trust| trust.tenants.contains(slug);
        match self.settings.trusts.get(issuer) {
            Some(trust) if !trust.tenants.is_empty() => binds(trust),
            _ => !self.settings.trusts.values().any(binds),
        }
    }

    async fn role(
        &self,
        slug: &TenantSlug,
        issuer: &str,
        subject: &str,
    ) -> Result<Option<MemberRole>, ResolveError> {
        let key = (slug.clone(), issuer.to_owned(), subject.to_owned());
        let user = User { issuer, subject };
        let asked = async { self.catalog.member_role(slug, user).await.map(Some) };
        let role = self.roles.get(key, asked).await.map_err(ResolveError::Catalog)?;
        Ok(role.flatten())
    }

    async fn known_as(&self, name: String) -> Result<TenantSlug, ResolveError> {
        let asked = self.catalog.tenant_known_as(&name);
        let slug = self.organisations.get(name.clone(), asked).await;
        slug.map_err(ResolveError::Catalog)?.ok_or(ResolveError::Denied)
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

/// Refuses, and tells the operator what the caller is not told.
fn refuse(violation: &'static str, slug: &TenantSlug, user: &str) -> ResolveError {
    metrics::isolation_violation(violation);
    tracing::warn!(tenant = %slug, user, violation, "a caller may not name this tenant");
    ResolveError::Denied
}
