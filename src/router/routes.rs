//! [`Routes`]: where each tenant is, remembered.
//!
//! Invariants: however many ask for an unknown slug, the catalog is asked once at a time; an answer that
//! a change overtook is never kept; while the catalog is away, or gives no answer, the last known place
//! serves, and a tenant that has never been seen is an error other than "there is none".

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use moka::future::Cache;
use tokio::sync::Notify;
use tokio::time::timeout_at;

use super::pool::TenantPool;
use super::{Mode, RouterError, RouterSettings};
use crate::catalog::Catalog;
use crate::catalog::tenants::Place;
use crate::metrics::RouteLookups;
use crate::tenant::{TenantSlug, TenantState};

/// Most tenants whose place is remembered.
const CAPACITY: u64 = 200_000;
/// Most slugs whose absence is remembered.
const UNKNOWN_CAPACITY: u64 = 10_000;
/// Longer than any look-up takes.
const CHANGE_MEMORY: Duration = Duration::from_mins(1);

/// A tenant's place, and the pools of connections to it once somebody has asked for one.
pub(super) struct Route {
    pub(super) place: Arc<Place>,
    read_write: OnceLock<Arc<TenantPool>>,
    read_only: OnceLock<Arc<TenantPool>>,
}

pub(super) struct Routes {
    catalog: Catalog,
    known: Cache<TenantSlug, Arc<Route>>,
    /// The last place that the catalog gave for a tenant, for when the catalog is away.
    last_known: Cache<TenantSlug, Arc<Place>>,
    unknown: Cache<TenantSlug, ()>,
    /// When a tenant last changed, so that a look-up that a change overtook is repeated.
    changed_at: Cache<TenantSlug, Instant>,
    changed: Notify,
    lookups: RouteLookups,
}

impl Routes {
    pub(super) fn new(catalog: Catalog, settings: &RouterSettings) -> Self {
        // A route in use touches its pool once in its life: often enough that the pool is not idle.
        let route_ttl = settings.route_ttl.min(settings.pool_idle_timeout / 2);
        Self {
            catalog,
            known: Cache::builder().max_capacity(CAPACITY).time_to_live(route_ttl).build(),
            last_known: Cache::builder().max_capacity(CAPACITY).build(),
            unknown: Cache::builder()
                .max_capacity(UNKNOWN_CAPACITY)
                .time_to_live(settings.unknown_ttl)
                .build(),
            changed_at: Cache::builder().time_to_live(CHANGE_MEMORY).build(),
            changed: Notify::new(),
            lookups: RouteLookups::default(),
        }
    }

    /// Whom to ask for what no route says.
    pub(super) fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The route of an active tenant; waits out a cutover.
    pub(super) async fn active(
        &self,
        slug: &TenantSlug,
        deadline: Instant,
    ) -> Result<Arc<Route>, RouterError> {
        loop {
            let changed = self.changed.notified();
            let route = self.get(slug).await?;
            match route.place.tenant.state {
                TenantState::Active => return Ok(route),
                state if state.is_cutover() => {
                    if timeout_at(deadline.into(), changed).await.is_err() {
                        return Err(RouterError::Held(slug.clone()));
                    }
                }
                state => return Err(RouterError::NotServed { slug: slug.clone(), state }),
            }
        }
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
        self.known.invalidate_all();
        self.changed.notify_waiters();
    }

    pub(super) async fn run_pending_tasks(&self) {
        self.known.run_pending_tasks().await;
    }

    /// Asks the catalog, once for all who wait; again when a change was announced meanwhile.
    async fn load(&self, slug: &TenantSlug) -> Result<Arc<Route>, RouterError> {
        loop {
            let started = Instant::now();
            let loaded = self.known.try_get_with_by_ref(slug, self.look_up(slug)).await;
            let answer = match loaded {
                Ok(route) => {
                    self.lookups.miss.increment(1);
                    self.last_known.insert(slug.clone(), Arc::clone(&route.place)).await;
                    Ok(route)
                }
                Err(error) => self.without_place(slug, &error).await,
            };
            if self.changed_at.get(slug).await.is_none_or(|changed| changed < started) {
                return answer;
            }
            self.forget(slug).await;
        }
    }

    /// A task of its own, so that a caller that gives up leaves the others with a look-up under way.
    async fn look_up(&self, slug: &TenantSlug) -> Result<Arc<Route>, RouterError> {
        let (catalog, wanted) = (self.catalog.clone(), slug.clone());
        let is_known = self.last_known.contains_key(slug);
        let look = async move {
            let asked = catalog.place(&wanted);
            if is_known { catalog.in_time(asked).await } else { asked.await }
        };
        let found = tokio::spawn(look).await.expect("a look-up does not panic");
        match found {
            Ok(Some(place)) => Ok(Route::new(Arc::new(place))),
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
                    let route = Route::new(place);
                    self.known.insert(slug.clone(), Arc::clone(&route)).await;
                    return Ok(route);
                }
            }
            _ => {}
        }
        Err(error.as_ref().clone())
    }

    async fn forget(&self, slug: &TenantSlug) -> Option<Arc<Place>> {
        let place = self.evict(slug).await;
        self.last_known.invalidate(slug).await;
        place
    }
}

impl Route {
    fn new(place: Arc<Place>) -> Arc<Self> {
        Arc::new(Self { place, read_write: OnceLock::new(), read_only: OnceLock::new() })
    }

    pub(super) fn pool(&self, mode: Mode) -> &OnceLock<Arc<TenantPool>> {
        match mode {
            Mode::ReadWrite => &self.read_write,
            Mode::ReadOnly => &self.read_only,
        }
    }
}
