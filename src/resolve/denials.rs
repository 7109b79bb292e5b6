//! [`Denials`]: what was refused, for the audit log.
//!
//! An attacker must not be able to fill the catalog, or to slow anything down: refusals are counted
//! here and written down once a second by one task, alike ones together, the rest of too many different
//! ones as a number.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    gathered: Arc<Mutex<Gathered>>,
}

#[derive(Default)]
struct Gathered {
    counts: Counts,
    /// Somebody is at it; a second one would write the same again.
    is_being_written: bool,
}

type Counts = HashMap<Option<Denial>, u64>;

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
        let mut gathered = self.gathered();
        let counts = &mut gathered.counts;
        let fits = counts.len() < MOST || counts.contains_key(&Some(denial.clone()));
        *counts.entry(fits.then_some(denial)).or_default() += 1;
        let is_being_written = mem::replace(&mut gathered.is_being_written, true);
        drop(gathered);
        if !is_being_written {
            tokio::spawn(self.clone().write());
        }
        ResolveError::Denied
    }

    fn gathered(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down what is gathered, however long that takes.
    async fn write(self) {
        let mut pause = PAUSE;
        loop {
            sleep(pause).await;
            let Some(seen) = self.seen() else { return };
            pause = PAUSE;
            for (denial, count) in seen {
                let Err(error) = self.write_one(denial.as_ref(), count).await else {
                    self.forget(denial, count);
                    continue;
                };
                tracing::warn!(%error, "refusals cannot be written into the audit log yet");
                pause = RETRY;
                // One that the catalog does not take must not keep the others waiting.
                if error.is_transient() {
                    break;
                }
            }
        }
    }

    /// What there is to write; without any, the next refusal finds another writer.
    fn seen(&self) -> Option<Counts> {
        let mut gathered = self.gathered();
        gathered.is_being_written = !gathered.counts.is_empty();
        gathered.is_being_written.then(|| gathered.counts.clone())
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
        if let Entry::Occupied(mut entry) = self.gathered().counts.entry(denial) {
            *entry.get_mut() -= count;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}
