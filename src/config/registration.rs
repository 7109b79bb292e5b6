//! Settings about tenants that users ask for themselves.

use super::reader::Reader;
use super::value::{Domains, FrontendUrl, Positive};
use crate::api::SelfService;
use crate::catalog::Catalog;
use crate::oidc::TokenVerifier;
use crate::registration::{Rate, Registrar, RegistrationRules};
use crate::resolve::IdentitySettings;

/// Three an hour.
const USUAL_RATE: Rate = Rate { limit: 3, window: std::time::Duration::from_hours(1) };

#[derive(Clone, Debug)]
pub(super) struct Registration {
    pub rules: RegistrationRules,
    frontend_base_url: Option<String>,
}

pub(super) fn read(r: &mut Reader) -> Registration {
    let allowed = r.get("tenant_registration_allowed_domains");
    Registration {
        rules: RegistrationRules {
            requires_approval: r.get("tenant_registration_requires_approval").unwrap_or(true),
            allowed_domains: allowed.map_or_else(Vec::new, |Domains(domains)| domains),
            max_tenants: r.get("max_tenants_per_user").map_or(3, |Positive(number)| number),
            rate: r.get("tenant_registration_rate").unwrap_or(USUAL_RATE),
        },
        frontend_base_url: r.get("frontend_base_url").map(|FrontendUrl(url)| url),
    }
}

impl Registration {
    pub fn service(
        &self,
        catalog: Catalog,
        verifier: TokenVerifier,
        identity: IdentitySettings,
    ) -> SelfService {
        let base_domain = identity.base_domain.clone();
        let registrar = Registrar::new(catalog, verifier, identity, self.rules.clone());
        SelfService { registrar, frontend_base_url: self.frontend_base_url.clone(), base_domain }
    }
}
