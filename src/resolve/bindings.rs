//! [`Bindings`]: which issuer may speak of which tenant.
//!
//! What the settings say is joined with what the catalog says: a tenant may have a provider of its own
//! (`sso.issuer` in its settings). Bindings hold in both directions: an issuer that is bound to tenants
//! can name no other, and a tenant with an issuer of its own accepts no other. An issuer of the settings
//! that is bound to nobody stays everybody's, whoever names it as their own; but tokens that are meant
//! for an audience which only one tenant names are for that tenant alone.
//!
//! The list is read whole, every few seconds: so a token of no issuer at all costs the catalog nothing,
//! and tenants stay bound while the catalog is away.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::{ClaimPath, ResolveError};
use crate::catalog::Catalog;
use crate::catalog::members::OwnIssuer;
use crate::oidc::{TokenVerifier, Verified};
use crate::tenant::TenantSlug;

/// How far an issuer of the settings is trusted.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// The only tenants that it can name; any, when it is empty.
    pub tenants: Vec<TenantSlug>,
    /// Where its tokens name the tenant, before the usual claims.
    pub tenant_claim: Option<ClaimPath>,
}

/// Of an issuer that the settings say no more of.
static ANY: Trust = Trust { tenants: Vec::new(), tenant_claim: None };

/// What the settings say.
#[derive(Clone)]
pub(super) struct Settled {
    pub verifier: TokenVerifier,
    pub trusts: HashMap<String, Trust>,
    /// Whom tokens of a tenant's own issuer are meant for, if the tenant does not say.
    pub audiences: Vec<String>,
}

/// Who may name whom, at one moment.
pub(super) struct Bindings {
    /// Proves tokens of all issuers.
    pub verifier: TokenVerifier,
    settled: Arc<Settled>,
    own: HashMap<TenantSlug, Arc<OwnIssuer>>,
}

/// The bindings as they are now.
pub(super) struct CurrentBindings {
    catalog: Catalog,
    settled: Arc<Settled>,
    /// How long a list counts.
    ttl: Duration,
    /// The last list, and when it was read.
    last: RwLock<Option<(Arc<Bindings>, Instant)>>,
    reading: tokio::sync::Mutex<()>,
}

impl CurrentBindings {
    pub(super) fn new(catalog: Catalog, settled: Settled, ttl: Duration) -> Self {
        let (settled, last) = (Arc::new(settled), RwLock::new(None));
        Self { catalog, settled, ttl, last, reading: tokio::sync::Mutex::new(()) }
    }

    /// One caller reads an old list anew while the others go on with it.
    pub(super) async fn get(&self) -> Result<Arc<Bindings>, ResolveError> {
        let _reading = match self.last() {
            Some((bindings, at)) if at.elapsed() < self.ttl => return Ok(bindings),
            Some((bindings, _)) => match self.reading.try_lock() {
                Ok(reading) => reading,
                Err(_) => return Ok(bindings),
            },
            None => self.reading.lock().await,
        };
        let last = self.last();
        if let Some((bindings, at)) = &last
            && at.elapsed() < self.ttl
        {
            return Ok(Arc::clone(bindings));
        }
        let earlier = last.map(|(bindings, _)| bindings);
        let asked = self.catalog.own_issuers();
        let answer =
            if earlier.is_some() { self.catalog.in_time(asked).await } else { asked.await };
        let bindings = match (answer, earlier) {
            (Ok(own), earlier) => Arc::new(Bindings::new(&self.settled, own, earlier.as_deref())),
            (Err(error), Some(earlier)) if error.is_transient() => earlier,
            (Err(error), _) => return Err(error.into()),
        };
        *self.last.write().unwrap_or_else(PoisonError::into_inner) =
            Some((Arc::clone(&bindings), Instant::now()));
        Ok(bindings)
    }

    fn last(&self) -> Option<(Arc<Bindings>, Instant)> {
        self.last.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Bindings {
    fn new(settled: &Arc<Settled>, own: Vec<OwnIssuer>, earlier: Option<&Self>) -> Self {
        let mut issuers: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for one in &own {
            let audiences = match &one.audiences[..] {
                // Of an issuer of the settings, the settings say whom it is meant for.
                [] if settled.verifier.knows(&one.issuer) => &[],
                [] => &settled.audiences[..],
                audiences => audiences,
            };
            issuers.entry(one.issuer.clone()).or_default().extend_from_slice(audiences);
        }
        let verifier =
            settled.verifier.with(&issuers, earlier.map_or(&settled.verifier, |e| &e.verifier));
        let own = own.into_iter().flat_map(|one| {
            let one = Arc::new(one);
            one.slugs.clone().into_iter().map(move |slug| (slug, Arc::clone(&one)))
        });
        Self { verifier, settled: Arc::clone(settled), own: own.collect() }
    }

    /// Where an issuer's tokens name the tenant, before the usual claims.
    pub(super) fn tenant_claim(&self, issuer: &str) -> Option<&ClaimPath> {
        self.settled.trusts.get(issuer)?.tenant_claim.as_ref()
    }

    /// Whether an operator has said whose tokens speak of the tenant that all these slugs lead to.
    pub(super) fn has_provider(&self, slugs: &[TenantSlug]) -> bool {
        let mut trusts = self.settled.trusts.values();
        slugs.iter().any(|slug| self.own.contains_key(slug))
            || trusts.any(|trust| slugs.iter().any(|slug| trust.tenants.contains(slug)))
    }

    /// Whether a token may name the tenant that all these slugs lead to. Who is bound to one of them is
    /// bound to the tenant: the settings may still have the slug that it had before.
    pub(super) fn may_name(&self, token: &Verified, slugs: &[TenantSlug]) -> bool {
        let trusts = &self.settled.trusts;
        let binds = |trust: &Trust| slugs.iter().any(|slug| trust.tenants.contains(slug));
        let own = slugs.iter().find_map(|slug| self.own.get(slug));
        let usual = self.settled.verifier.knows(&token.issuer).then_some(&ANY);
        let trust = trusts.get(&token.issuer).or(usual);
        // What was proven for one tenant's audience proves nothing to those who trust the settings.
        let is_for_all = self.settled.verifier.expects(token);
        if let Some(own) = own
            && own.issuer == token.issuer
        {
            let meant_for = match (&own.audiences[..], trust) {
                ([], Some(_)) => return is_for_all,
                ([], None) => &self.settled.audiences,
                _ => &own.audiences,
            };
            return token.is_meant_for(meant_for);
        }
        match trust.filter(|_| is_for_all) {
            // It is bound, and to whom is all that counts.
            Some(trust) if !trust.tenants.is_empty() => binds(trust),
            // It is everybody's, but for those who have another.
            Some(_) => own.is_none() && !trusts.values().any(binds),
            // It is the own one of other tenants, or meant for one of them.
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::oidc::{KeySource, ProviderSettings, Timing};

    const SHARED: &str = "https://id.example";
    const BOUND: &str = "https://id.initech.example";
    const OWN: &str = "https://id.acme.example";

    fn slug(text: &str) -> TenantSlug {
        TenantSlug::parse(text).unwrap()
    }

    fn bindings(own: &[(&str, &str, &[&str])]) -> Bindings {
        let trust = |tenants: &[&str]| Trust {
            tenants: tenants.iter().map(|name| slug(name)).collect(),
            tenant_claim: None,
        };
        let provider = |issuer: &str| ProviderSettings {
            issuer: issuer.to_owned(),
            audiences: vec!["application".to_owned()],
            algorithms: Vec::new(),
            keys: KeySource::Discovery,
            timing: Timing::default(),
        };
        let settled = Settled {
            verifier: TokenVerifier::new(vec![provider(SHARED), provider(BOUND)]).unwrap(),
            trusts: HashMap::from([
                (SHARED.to_owned(), trust(&[])),
                (BOUND.to_owned(), trust(&["initech"])),
            ]),
            audiences: vec!["application".to_owned()],
        };
        let own = own.iter().map(|(name, issuer, audiences)| OwnIssuer {
            slugs: vec![slug(name)],
            issuer: (*issuer).to_owned(),
            audiences: audiences.iter().map(|text| (*text).to_owned()).collect(),
        });
        Bindings::new(&Arc::new(settled), own.collect(), None)
    }

    fn may(bindings: &Bindings, issuer: &str, audience: &str, name: &str) -> bool {
        may_all(bindings, issuer, audience, &[name])
    }

    fn may_all(bindings: &Bindings, issuer: &str, audience: &str, names: &[&str]) -> bool {
        let claims = json!({ "aud": [audience, "x"] });
        let (issuer, subject) = (issuer.to_owned(), "user-1".to_owned());
        let slugs: Vec<_> = names.iter().map(|name| slug(name)).collect();
        bindings.may_name(&Verified { issuer, subject, claims }, &slugs)
    }

    #[test]
    fn a_renamed_tenant_is_bound_by_each_of_its_slugs() {
        let bindings = bindings(&[("acme", OWN, &[])]);
        for names in [["initech", "initech-2"], ["initech-2", "initech"]] {
            assert!(may_all(&bindings, BOUND, "application", &names));
            assert!(!may_all(&bindings, SHARED, "application", &names));
        }
        for names in [["acme", "acme-2"], ["acme-2", "acme"]] {
            assert!(may_all(&bindings, OWN, "application", &names));
            assert!(!may_all(&bindings, SHARED, "application", &names));
        }
    }

    #[test]
    fn bindings_hold_in_both_directions() {
        let bindings = bindings(&[("acme", OWN, &[])]);
        for (issuer, name, allowed) in [
            (SHARED, "globex", true),
            (SHARED, "initech", false),
            (SHARED, "acme", false),
            (BOUND, "initech", true),
            (BOUND, "globex", false),
            (BOUND, "acme", false),
            (OWN, "acme", true),
            (OWN, "globex", false),
            (OWN, "initech", false),
            (OWN, "nobody", false),
        ] {
            assert_eq!(may(&bindings, issuer, "application", name), allowed, "{issuer} {name}");
        }
    }

    #[test]
    fn two_tenants_of_one_issuer_are_told_apart_by_audience() {
        let bindings = bindings(&[("acme", OWN, &["acme-app"]), ("globex", OWN, &["globex-app"])]);

        assert!(may(&bindings, OWN, "acme-app", "acme"));
        assert!(may(&bindings, OWN, "globex-app", "globex"));
        assert!(!may(&bindings, OWN, "acme-app", "globex"));
        assert!(!may(&bindings, OWN, "application", "acme"));
    }

    #[test]
    fn a_tenant_that_insists_on_the_shared_issuer_takes_it_from_nobody() {
        let bindings = bindings(&[("acme", SHARED, &[]), ("initech", BOUND, &["special"])]);

        assert!(may(&bindings, SHARED, "application", "acme"));
        assert!(may(&bindings, SHARED, "application", "globex"));
        assert!(!may(&bindings, BOUND, "application", "acme"));
        assert!(may(&bindings, BOUND, "special", "initech"));
        assert!(!may(&bindings, BOUND, "application", "initech"));
    }

    #[test]
    fn an_audience_of_one_tenant_opens_no_other() {
        let bindings = bindings(&[("acme", SHARED, &["acme-app"]), ("hooli", SHARED, &[])]);

        assert!(may(&bindings, SHARED, "acme-app", "acme"));
        assert!(!may(&bindings, SHARED, "acme-app", "globex"));
        assert!(!may(&bindings, SHARED, "acme-app", "hooli"));
        assert!(may(&bindings, SHARED, "application", "hooli"));
    }
}
