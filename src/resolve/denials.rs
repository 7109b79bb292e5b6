//! [`Denials`]: what was refused, for the audit log.
//!
//! An attacker must not be able to fill the catalog, or to slow anything down: refusals are counted
//! here and written down once a second, alike ones together, the rest of too many different ones as
//! a number.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use super::ResolveError;
use crate::catalog::audit_log::Event;
use crate::catalog::{Catalog, CatalogError};
use crate::metrics;
use crate::tenant::TenantSlug;

/// How long refusals are gathered.
const PAUSE: Duration = Duration::from_secs(1);
/// How long to wait before trying again with a catalog that is away.
const RETRY: Duration = Duration::from_secs(10);
/// Most different refusals that are told apart between two writings.
const MOST: usize = 100;

/// Cheap to clone; clones gather together.
#[derive(Clone)]
pub(super) struct Denials {
    catalog: Catalog,
    gathered: Arc<Mutex<HashMap<Option<Denial>, u64>>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Denial {
    violation: &'static str,
    issuer: Option<String>,
    user: String,
    slug: TenantSlug,
}

/// Who is refused.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller<'a> {
    /// Whose user; none of a program with a token of ours.
    pub issuer: Option<&'a str>,
    /// The subject, or our token.
    pub name: &'a str,
}

impl Denials {
    pub(super) fn new(catalog: Catalog) -> Self {
        Self { catalog, gathered: Arc::default() }
    }

    /// Tells the operator what the caller is not told; gives what the caller is told.
    pub(super) fn note(
        &self,
        violation: &'static str,
        slug: &TenantSlug,
        caller: Caller<'_>,
    ) -> ResolveError {
        let Caller { issuer, name } = caller;
        metrics::isolation_violation(violation);
        tracing::warn!(tenant = %slug, user = name, violation, "a caller may not name this tenant");
        let (issuer, user) = (issuer.map(str::to_owned), name.to_owned());
        let denial = Denial { violation, issuer, user, slug: slug.clone() };
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = gathered.is_empty();
        let fits = gathered.len() < MOST || gathered.contains_key(&Some(denial.clone()));
        *gathered.entry(fits.then_some(denial)).or_default() += 1;
        drop(gathered);
        if is_first {
            tokio::spawn(self.clone().write());
        }
        ResolveError::Denied
    }

    /// Writes down what is gathered, however long that takes.
    async fn write(self) {
        sleep(PAUSE).await;
        loop {
            let seen = self.gathered.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let Some((denial, count)) = seen.into_iter().next() else { return };
            match self.write_one(denial.as_ref(), count).await {
                Ok(()) => self.forget(denial, count),
                Err(error) => {
                    tracing::warn!(%error, "refusals cannot be written into the audit log yet");
                    sleep(RETRY).await;
                }
            }
        }
    }

    async fn write_one(&self, denial: Option<&Denial>, count: u64) -> Result<(), CatalogError> {
        let action = "request.denied";
        let event = match denial {
            Some(Denial { violation, issuer, user, slug }) => Event {
                actor: user,
                action,
                tenant: Some(slug),
                detail: json!({ "violation": violation, "issuer": issuer, "count": count }),
            },
            None => Event {
                actor: "several",
                action,
                tenant: None,
                detail: json!({ "violation": "too_many_to_tell_apart", "count": count }),
            },
        };
        self.catalog.record(&event).await
    }

    /// What came in the meantime stays.
    fn forget(&self, denial: Option<Denial>, count: u64) {
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut entry) = gathered.entry(denial) {
            *entry.get_mut() -= count;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}
