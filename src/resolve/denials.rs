//! [`Denials`]: what was refused, for the audit log.
//!
//! An attacker must not be able to fill the catalog, or to slow anything down: refusals are counted
//! here and written down by one task, alike ones together. The first of a kind is written within a second, those that
//! follow within [`FOLD`] as a number; so is the rest of one user's who is refused in too many ways, by name but without
//! saying which: nobody hides behind somebody else's. A replica that ends takes with it the number of those that came
//! after.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::mem;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::ResolveError;
use crate::catalog::audit_log::{Event, request_id, within};
use crate::catalog::{Catalog, CatalogError};
use crate::metrics;
use crate::tenant::TenantSlug;

/// How long refusals are gathered.
const PAUSE: Duration = Duration::from_secs(1);
/// How long to wait before trying again with a catalog that is away.
const RETRY: Duration = Duration::from_secs(10);
/// Most different refusals that are told apart at a time.
const MOST: usize = 100;
/// Of these, strangers get no more: nobody who is known hides behind them.
const MOST_OF_STRANGERS: usize = 50;
/// Of these, one user gets no more.
const MOST_OF_USER: usize = 10;
/// Most refusals that are told apart at a time with those of users who are told by name alone.
const MOST_WITH_NAMES: usize = 300;
/// What the rest of too many different ones is called.
const REST: &str = "too_many_to_tell_apart";

/// How long refusals of one kind are gathered once the first of them is written: however many there are, the catalog
/// gets a few hundred entries an hour.
const FOLD: Duration = Duration::from_mins(5);

/// Cheap to clone; clones gather together.
#[derive(Clone)]
pub(super) struct Denials {
    catalog: Catalog,
    gathered: Arc<Mutex<Gathered>>,
}

#[derive(Default)]
struct Gathered {
    seen: HashMap<Option<Denial>, Seen>,
    /// Somebody is at it; a second one would write the same again.
    is_being_written: bool,
}

/// A kind of refusal. Of what a stranger sends nothing is in it: he could make any number of kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Denial {
    /// What was wrong.
    pub violation: &'static str,
    /// Whose user asked; none of a program with a token of ours.
    pub issuer: Option<String>,
    /// Who asked; none where nobody knows.
    pub user: Option<String>,
    /// The tenant that was named.
    pub tenant: Option<TenantSlug>,
    /// What of the admin API was asked for: its method, and its address as the description has it.
    pub endpoint: Option<String>,
    /// The scope that was missing.
    pub scope: Option<&'static str>,
}

/// How often, and where the first came from.
#[derive(Clone, Default)]
struct Seen {
    count: u64,
    request: Option<Arc<str>>,
    client: Option<IpAddr>,
    /// When some of it was last written.
    written: Option<Instant>,
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
        let denial = Denial {
            violation,
            issuer: issuer.map(str::to_owned),
            user: Some(name.to_owned()),
            tenant: Some(slug.clone()),
            ..Denial::default()
        };
        self.gather(denial, None);
        ResolveError::Denied
    }

    /// Counts a refusal of the request that is being answered.
    pub(super) fn gather(&self, denial: Denial, client: Option<IpAddr>) {
        let mut gathered = self.gathered();
        let kind = gathered.kind(denial);
        let seen = gathered.seen.entry(kind).or_default();
        if seen.count == 0 {
            (seen.request, seen.client) = (request_id(), client);
        }
        seen.count += 1;
        let is_being_written = mem::replace(&mut gathered.is_being_written, true);
        drop(gathered);
        if !is_being_written {
            tokio::spawn(self.clone().write());
        }
    }

    fn gathered(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down what is gathered, however long that takes.
    async fn write(self) {
        let mut pause = PAUSE;
        loop {
            sleep(pause).await;
            let Some(due) = self.due() else { return };
            pause = PAUSE;
            for (denial, seen) in due {
                let Err(error) = self.write_one(denial.as_ref(), &seen).await else {
                    self.forget(denial, seen.count);
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

    /// What is to be written now. Without anything to wait for, the next refusal finds another writer.
    fn due(&self) -> Option<Vec<(Option<Denial>, Seen)>> {
        let mut gathered = self.gathered();
        gathered.seen.retain(|_, seen| seen.count > 0 || !seen.has_rested());
        gathered.is_being_written = !gathered.seen.is_empty();
        let is_due = |seen: &Seen| seen.count > 0 && seen.has_rested();
        gathered.is_being_written.then(|| {
            let due = gathered.seen.iter().filter(|(_, seen)| is_due(seen));
            due.map(|(denial, seen)| (denial.clone(), seen.clone())).collect()
        })
    }

    async fn write_one(&self, denial: Option<&Denial>, seen: &Seen) -> Result<(), CatalogError> {
        let (actor, tenant, detail) = if let Some(denial) = denial {
            let actor = denial.user.as_deref().unwrap_or("unknown");
            (actor, denial.tenant.as_ref(), denial.detail(seen))
        } else {
            ("several", None, json!({ "violation": REST, "count": seen.count }))
        };
        let event = Event { actor, action: "request.denied", tenant, detail };
        match &seen.request {
            Some(request) => within(request, self.catalog.record(&event)).await,
            None => self.catalog.record(&event).await,
        }
    }

    /// What came in the meantime stays.
    fn forget(&self, denial: Option<Denial>, count: u64) {
        if let Entry::Occupied(mut entry) = self.gathered().seen.entry(denial) {
            let seen = entry.get_mut();
            seen.count -= count;
            seen.written = Some(Instant::now());
        }
    }
}

impl Gathered {
    /// As what a refusal is counted: what it is, or the rest of its user's, or the rest of everybody's.
    fn kind(&self, denial: Denial) -> Option<Denial> {
        let (known, all) = (&self.seen, self.seen.len());
        let denial = Some(denial);
        if known.contains_key(&denial) {
            return denial;
        }
        let Denial { issuer, user, .. } = denial.as_ref()?;
        if user.is_none() {
            return denial.filter(|_| all < MOST_OF_STRANGERS);
        }
        let is_of_user = |other: &&Denial| (&other.issuer, &other.user) == (issuer, user);
        if all < MOST && known.keys().flatten().filter(is_of_user).count() < MOST_OF_USER {
            return denial;
        }
        let (issuer, user) = (issuer.clone(), user.clone());
        let rest = Some(Denial { violation: REST, issuer, user, ..Denial::default() });
        let fits = all < MOST_WITH_NAMES || known.contains_key(&rest);
        rest.filter(|_| fits)
    }
}

impl Denial {
    fn detail(&self, seen: &Seen) -> Value {
        let mut detail = json!({
            "violation": self.violation, "issuer": self.issuer, "count": seen.count,
        });
        let client = seen.client.map(|address| address.to_string());
        let more = [
            ("endpoint", self.endpoint.as_deref()),
            ("scope", self.scope),
            ("client", client.as_deref()),
        ];
        for (name, value) in more {
            if let Some(value) = value {
                detail[name] = value.into();
            }
        }
        detail
    }
}

impl Seen {
    /// Whether it is time to write the next ones.
    fn has_rested(&self) -> bool {
        self.written.is_none_or(|written| written.elapsed() >= FOLD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As what so many different refusals of somebody are counted.
    fn gather(gathered: &mut Gathered, user: &str, number: usize) -> Vec<Option<Denial>> {
        let slug = |number| TenantSlug::parse(&format!("guess-{number}")).ok();
        let kinds = (0..number).map(|number| {
            let user = (!user.is_empty()).then(|| user.to_owned());
            let denial = Denial { user, tenant: slug(number), ..Denial::default() };
            let kind = gathered.kind(denial);
            gathered.seen.entry(kind.clone()).or_default().count += 1;
            kind
        });
        kinds.collect()
    }

    #[test]
    fn nobody_hides_behind_somebody_who_is_refused_in_many_ways() {
        let mut gathered = Gathered::default();

        gather(&mut gathered, "", 1000);
        gather(&mut gathered, "mallory", 1000);
        let others = gather(&mut gathered, "eve", 1);

        assert_eq!(gathered.seen.len(), MOST_OF_STRANGERS + 1 + MOST_OF_USER + 1 + 1);
        assert!(others[0].as_ref().is_some_and(|eve| eve.tenant.is_some()));
    }

    #[test]
    fn of_very_many_who_are_refused_it_is_told_who_and_then_how_many() {
        let mut gathered = Gathered::default();

        for number in 0..1000 {
            gather(&mut gathered, &format!("user-{number}"), 20);
        }

        assert_eq!(gathered.seen.len(), MOST_WITH_NAMES + 1);
        let by_name = gathered.seen.keys().flatten().filter(|kind| kind.violation == REST);
        assert!(by_name.count() >= MOST_WITH_NAMES - MOST);
    }
}
