//! What the settings make of requests: who may reach a tenant's data, who may administer, who may ask
//! for a tenant.

use std::sync::Arc;

use super::auth::Identity;
use super::error::{ConfigError, Problem};
use super::{AuthProvider, Deployment, Settings};
use crate::api::SelfService;
use crate::catalog::Catalog;
use crate::domains::Domains;
use crate::registration::RegistrationRules;
use crate::resolve::{Administrators, IdentityResolver, SingleTenant, TenantResolver};
use crate::tenant::TenantSlug;

impl Settings {
    /// Refuses a data plane that would trust strangers: without a provider that vouches for users, it
    /// starts only in development and on loopback.
    pub fn refuse_open_data_plane(&self) -> Result<(), ConfigError> {
        let by_oneself =
            self.environment == Deployment::Development && self.listen.ip().is_loopback();
        if self.has_identity_provider() || by_oneself {
            return Ok(());
        }
        Err(ConfigError::one(Problem::Contradiction {
            message: "with the auth_provider `none` the data plane starts only in development and on loopback"
                .to_owned(),
            remedy: "set TENANTRY_AUTH_PROVIDER to jwt or oidc, or run `tenantry serve --role worker` \
                     (admin API and workers), or set TENANTRY_ENVIRONMENT=development and a loopback \
                     TENANTRY_LISTEN"
                .to_owned(),
        }))
    }

    /// Who may reach which tenant's data.
    #[must_use]
    pub fn identity(&self, catalog: &Catalog) -> IdentityResolver {
        let Identity { verifier, mut settings, .. } = self.identity.clone();
        settings.only = self.only_tenant();
        IdentityResolver::new(catalog.clone(), verifier, settings)
    }

    /// How requests are resolved: by who sends them, or without a question when there is one tenant and
    /// nobody to vouch for users.
    #[must_use]
    pub fn resolver(&self, catalog: &Catalog) -> Arc<dyn TenantResolver> {
        match self.only_tenant() {
            Some(slug) if !self.has_identity_provider() => Arc::new(SingleTenant::new(slug)),
            _ => Arc::new(self.identity(catalog)),
        }
    }

    /// The one tenant of a deployment that has no other.
    #[must_use]
    pub fn only_tenant(&self) -> Option<TenantSlug> {
        self.tenant_slug.clone().filter(|_| !self.multi_tenant_mode)
    }

    /// Whether users have to prove who they are.
    #[must_use]
    pub fn has_identity_provider(&self) -> bool {
        self.identity.provider != AuthProvider::None
    }

    /// Who may use the admin API.
    #[must_use]
    pub fn administrators(&self, catalog: &Catalog) -> Administrators {
        let Identity { verifier, settings, admin_claim, .. } = self.identity.clone();
        Administrators::new(catalog.clone(), verifier, &settings, admin_claim)
    }

    /// Self-service registration; none in a deployment with one tenant.
    #[must_use]
    pub fn registration(&self, catalog: &Catalog) -> Option<SelfService> {
        let Identity { verifier, settings, .. } = self.identity.clone();
        let service = || self.registration.service(catalog.clone(), verifier, settings);
        self.multi_tenant_mode.then(service)
    }

    /// Domains of tenants.
    #[must_use]
    pub fn domains(&self, catalog: &Catalog) -> Domains {
        let base_domain = self.identity.settings.base_domain.clone();
        Domains::new(catalog.clone(), self.dns_server, base_domain)
    }

    /// What a request needs to reach a tenant's data; ends the sentence "a request …".
    #[must_use]
    pub fn identity_needed(&self) -> String {
        let identity = &self.identity.settings;
        let mut issuers: Vec<&str> = identity.trusts.keys().map(String::as_str).collect();
        issuers.sort_unstable();
        let who = match (&issuers[..], self.only_tenant()) {
            ([], Some(_)) => "needs no token".to_owned(),
            ([], None) => "needs a token of ours with the scope `data`".to_owned(),
            (issuers, _) => format!("needs a token of {}, or one of ours", issuers.join(" or ")),
        };
        let who = if self.sql.password_auth {
            format!("{who}, or for /sql the password of the tenant's role")
        } else {
            who
        };
        let under = |base| format!(", by a host under {base}");
        let hosts = identity.base_domain.as_ref().map_or_else(String::new, under);
        let which = match self.only_tenant() {
            Some(slug) => format!("is for `{slug}`"),
            None if issuers.is_empty() => {
                format!("names its tenant by X-Tenant{hosts} or by a domain of the tenant's")
            }
            None => format!(
                "names its tenant by a claim, by a confirmed e-mail address, by X-Tenant{hosts} or by a \
                 domain of the tenant's"
            ),
        };
        format!("{who}, and {which}")
    }

    /// Who may ask for a tenant of their own.
    #[must_use]
    pub fn registration_needed(&self) -> String {
        if !self.has_identity_provider() {
            return "nobody: there is no identity provider".to_owned();
        }
        let RegistrationRules { requires_approval, allowed_domains, rate, .. } =
            &self.registration.rules;
        let domains: Vec<_> = allowed_domains.iter().map(ToString::to_string).collect();
        let who = match &domains[..] {
            [] => "every user of an identity provider".to_owned(),
            domains => format!("users with a confirmed address at {}", domains.join(" or ")),
        };
        let decides =
            if *requires_approval { "an operator decides" } else { "nobody needs to decide" };
        format!("{who}, {rate}; {decides}")
    }

    /// The issuer of the identity provider, if there is just one.
    #[must_use]
    pub fn only_issuer(&self) -> Option<String> {
        let mut issuers = self.identity.settings.trusts.keys();
        issuers.next().filter(|_| issuers.next().is_none()).cloned()
    }
}
