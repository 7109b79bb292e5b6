//! [`Routes`]: where each tenant is, remembered.
//!
//! Invariants: however many ask for an unknown slug, the catalog is asked once at a time; an answer that
//! a change overtook is never kept; while the catalog is away, or gives no answer, the last known place
//! serves, and a tenant that has never been seen is an error other than "there is none".

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use moka::future::Cache;
use tokio::sync::{Notify, OnceCell};
use tokio::time::timeout_at;

use super::meter::{Meter, Meters};
use super::pool::TenantPool;
use super::rate::{Rates, Toll, Turns};
use super::{Mode, RouterError, RouterSettings};
use crate::catalog::Catalog;
use crate::catalog::changes::Changes;
use crate::catalog::tenants::Place;
use crate::metrics::RouteLookups;
use crate::tenant::{TenantSlug, TenantState};

mod catching_up;

/// Most tenants whose place is remembered.
const CAPACITY: u64 = 200_000;
/// Most slugs whose absence is remembered.
const UNKNOWN_CAPACITY: u64 = 10_000;
/// Longer than any look-up takes.
const CHANGE_MEMORY: Duration = Duration::from_mins(1);

/// A tenant's place, and the pools of connections to it once somebody has asked for one.
pub(super) struct Route {
    pub(super) place: Arc<Place>,
    /// Whether the catalog could not say if it still holds.
    pub(super) is_stale: bool,
    /// How often all tenants may have changed before the catalog was asked.
    changes: u64,
    /// Counts what the tenant uses.
    pub(super) meter: Arc<Meter>,
    /// Of those who run statements, if their rate is limited.
    turns: Option<Arc<Turns>>,
    /// Of a tenant that is to be migrated first; full once nobody waits for that any more.
    behind: Option<Box<OnceCell<()>>>,
    read_write: OnceLock<Arc<TenantPool>>,
    read_only: OnceLock<Arc<TenantPool>>,
}

pub(super) struct Routes {
    catalog: Catalog,
    changes: Changes,
    /// How long requests wait for a migration; none where tenants are not migrated when they are used.
    hold: Option<Duration>,
    known: Cache<TenantSlug, Arc<Route>>,
    /// The last place that the catalog gave for a tenant, by each of its slugs, for when the catalog is away.
    last_known: Cache<TenantSlug, Arc<Place>>,
    unknown: Cache<TenantSlug, ()>,
    /// When a tenant last changed, so that a look-up that a change overtook is repeated.
    changed_at: Cache<TenantSlug, Instant>,
    /// How often all of them may have.
    all_changed: AtomicU64,
    changed: Notify,
    rates: Rates,
    meters: Arc<Meters>,
    lookups: RouteLookups,
}

impl Routes {
    pub(super) fn new(
        catalog: Catalog,
        changes: Changes,
        (rates, meters): (Rates, Arc<Meters>),
        settings: &RouterSettings,
    ) -> Self {
        // A route in use touches its pool once in its life: often enough that the pool is not idle.
        let route_ttl = settings.route_ttl.min(settings.pool_idle_timeout / 2);
        Self {
            catalog,
            changes,
            hold: settings.migrates_on_demand.then(|| catching_up::hold(settings)),
            known: Cache::builder().max_capacity(CAPACITY).time_to_live(route_ttl).build(),
            last_known: Cache::builder().max_capacity(CAPACITY).build(),
            unknown: Cache::builder()
                .max_capacity(UNKNOWN_CAPACITY)
                .time_to_live(settings.unknown_ttl)
                .build(),
            changed_at: Cache::builder().time_to_live(CHANGE_MEMORY).build(),
            all_changed: AtomicU64::new(0),
            changed: Notify::new(),
            rates,
            meters,
            lookups: RouteLookups::default(),
        }
    }

    /// Whom to ask for what no route says.
    pub(super) fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The route of an active tenant; waits out a cutover, and a migration that is to come first.
    pub(super) async fn active(
        &self,
        slug: &TenantSlug,
        deadline: Instant,
    ) -> Result<Arc<Route>, RouterError> {
        loop {
            let changed = self.changed.notified();
            let route = self.get(slug).await?;
            match route.place.tenant.state {
                TenantState::Active => match route.awaited() {
                    // Boxed: it is large, and most tenants are up to date.
                    Some(behind) => {
                        Box::pin(behind.get_or_init(|| self.catch_up(&route))).await;
                    }
                    None => return Ok(route),
                },
                state if state.is_cutover() => {
                    if timeout_at(deadline.into(), changed).await.is_err() {
                        return Err(RouterError::Held(slug.clone()));
                    }
                }
                state => return Err(RouterError::NotServed { slug: slug.clone(), state }),
            }
        }
    }

    /// [`Routes::active`] as soon as a statement of the tenant may run, with the toll for what follows; none
    /// where no rate is set.
    pub(super) async fn enter(
        &self,
        slug: &TenantSlug,
        deadline: Instant,
    ) -> Result<(Arc<Route>, Option<Toll>), RouterError> {
        let route = self.active(slug, deadline).await?;
        let Some(turns) = &route.turns else { return Ok((route, None)) };
        // Boxed: most tenants have no rate, and their requests wait for nothing here.
        let entered = Box::pin(turns.enter(deadline)).await;
        let toll = entered
            .map_err(|retry_after| RouterError::RateLimited { slug: slug.clone(), retry_after })?;
        // The tenant may have changed while the request waited.
        Ok((self.active(slug, deadline).await?, Some(toll)))
    }

    pub(super) async fn get(&self, slug: &TenantSlug) -> Result<Arc<Route>, RouterError> {
        if let Some(route) = self.known.get(slug).await {
            self.lookups.hit.increment(1);
            return Ok(route);
        }
        if self.unknown.contains_key(slug) {
            self.lookups.unknown.increment(1);
            return Err(RouterError::UnknownTenant(slug.clone()));
        }
        self.load(slug).await
    }

    /// Forgets what may be stale, but not the last known place; returns that.
    pub(super) async fn evict(&self, slug: &TenantSlug) -> Option<Arc<Place>> {
        self.unknown.invalidate(slug).await;
        self.known.invalidate(slug).await;
        self.last_known.get(slug).await
    }

    /// Forgets a tenant that has changed; returns where it was.
    pub(super) async fn changed(&self, slug: &TenantSlug) -> Option<Arc<Place>> {
        self.changed_at.insert(slug.clone(), Instant::now()).await;
        let place = self.forget(slug).await;
        self.changed.notify_waiters();
        place
    }

    /// Forgets the route of a tenant whose settings have changed. The last known place is still right.
    pub(super) async fn settings_changed(&self, slug: &TenantSlug) {
        self.changed_at.insert(slug.clone(), Instant::now()).await;
        self.evict(slug).await;
    }

    /// News may have been missed: every route is read again.
    pub(super) fn all_may_have_changed(&self) {
        self.unknown.invalidate_all();
        self.limits_changed();
        self.changed.notify_waiters();
    }

    /// A tier has other limits: the routes of its tenants are read again when they are next used. Where they
    /// lead is still right.
    pub(super) fn limits_changed(&self) {
        self.all_changed.fetch_add(1, Ordering::AcqRel);
        self.known.invalidate_all();
    }

    /// Forgets a route whose pool is closed, unless there is a newer one.
    pub(super) async fn forget_closed(&self, slug: &TenantSlug, route: &Arc<Route>) {
        let newest = self.known.get(slug).await;
        if newest.is_some_and(|newest| Arc::ptr_eq(&newest, route)) {
            self.known.invalidate(slug).await;
        }
    }

    pub(super) async fn run_pending_tasks(&self) {
        self.known.run_pending_tasks().await;
        self.rates.forget_unused();
    }

    /// Asks the catalog, once for all who wait; again when a change was announced meanwhile.
    async fn load(&self, slug: &TenantSlug) -> Result<Arc<Route>, RouterError> {
        loop {
            let started = Instant::now();
            let loaded = self.known.try_get_with_by_ref(slug, self.look_up(slug)).await;
            let answer = match loaded {
                Ok(route) => {
                    self.lookups.miss.increment(1);
                    self.remember(&route.place, started).await;
                    Ok(route)
                }
                Err(error) => self.without_place(slug, &error).await,
            };
            if self.has_changed(slug, started).await {
                self.forget(slug).await;
            } else if answer.as_ref().is_ok_and(|route| route.changes != self.changes_of_all()) {
                self.evict(slug).await;
            } else {
                return answer;
            }
        }
    }

    /// The last known place of a tenant, under every slug that leads to it: whoever is let in by one goes on
    /// by another.
    async fn remember(&self, place: &Arc<Place>, started: Instant) {
        for slug in &place.slugs {
            self.last_known.insert(slug.clone(), Arc::clone(place)).await;
            if self.has_changed(slug, started).await {
                self.last_known.invalidate(slug).await;
            }
        }
    }

    async fn has_changed(&self, slug: &TenantSlug, since: Instant) -> bool {
        self.changed_at.get(slug).await.is_some_and(|changed| changed >= since)
    }

    /// Asks once more, for all who wait, when all tenants may have changed meanwhile.
    async fn look_up(&self, slug: &TenantSlug) -> Result<Arc<Route>, RouterError> {
        loop {
            let changes = self.changes_of_all();
            let place = self.ask(slug).await?;
            if changes == self.changes_of_all() {
                return Ok(self.route(Arc::new(place), changes, false));
            }
        }
    }

    /// A task of its own, so that a caller that gives up leaves the others with a look-up under way.
    async fn ask(&self, slug: &TenantSlug) -> Result<Place, RouterError> {
        let (catalog, wanted) = (self.catalog.clone(), slug.clone());
        let is_known = self.last_known.contains_key(slug);
        let look = async move {
            let asked = catalog.place(&wanted);
            if is_known { catalog.in_time(asked).await } else { asked.await }
        };
        match tokio::spawn(look).await.expect("a look-up does not panic") {
            Ok(Some(place)) => Ok(place),
            Ok(None) => Err(RouterError::UnknownTenant(slug.clone())),
            Err(error) => Err(RouterError::Catalog { slug: slug.clone(), source: Arc::new(error) }),
        }
    }

    async fn without_place(
        &self,
        slug: &TenantSlug,
        error: &Arc<RouterError>,
    ) -> Result<Arc<Route>, RouterError> {
        match error.as_ref() {
            RouterError::UnknownTenant(_) => {
                self.lookups.unknown.increment(1);
                self.last_known.invalidate(slug).await;
                self.unknown.insert(slug.clone(), ()).await;
            }
            RouterError::Catalog { source, .. } if source.is_transient() => {
                if let Some(place) = self.last_known.get(slug).await {
                    self.lookups.stale.increment(1);
                    let route = self.route(place, self.changes_of_all(), true);
                    self.known.insert(slug.clone(), Arc::clone(&route)).await;
                    return Ok(route);
                }
            }
            _ => {}
        }
        Err(error.as_ref().clone())
    }

    fn route(&self, place: Arc<Place>, changes: u64, is_stale: bool) -> Arc<Route> {
        let (meter, turns) = (self.meters.of(place.tenant.id), self.rates.of(&place.tenant));
        let waits = self.hold.is_some() && place.is_behind && !is_stale;
        let behind = waits.then(Box::default);
        let (read_write, read_only) = (OnceLock::new(), OnceLock::new());
        Arc::new(Route { place, is_stale, changes, meter, turns, behind, read_write, read_only })
    }

    fn changes_of_all(&self) -> u64 {
        self.all_changed.load(Ordering::Acquire)
    }

    async fn forget(&self, slug: &TenantSlug) -> Option<Arc<Place>> {
        let place = self.evict(slug).await;
        self.last_known.invalidate(slug).await;
        place
    }
}

impl Route {
    /// What to wait for first.
    fn awaited(&self) -> Option<&OnceCell<()>> {
        self.behind.as_deref().filter(|behind| !behind.initialized())
    }

    /// The pool on the tenant's server.
    pub(super) fn pool(&self, mode: Mode) -> &OnceLock<Arc<TenantPool>> {
        match mode {
            Mode::ReadWrite => &self.read_write,
            Mode::ReadOnly | Mode::Elsewhere(_) => &self.read_only,
        }
    }
}
