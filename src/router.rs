//! [`TenantRouter`]: from a slug to a connection to that tenant's database, and to no other.
//!
//! ```text
//! slug ─► route (moka) ─► pool of (tenant, generation) (moka) ─► connection, stamp checked
//!            │ miss: one look at the catalog, however many wait
//! ```
//!
//! - Routes are loaded once, dropped when the catalog says that the tenant changed, and reloaded after
//!   [`RouterSettings::route_ttl`] in any case. When the catalog is away, the last known route serves.
//! - A pool belongs to one tenant and one generation for life. A change makes a new pool; the old one is
//!   closed: work in progress ends, nobody gets a connection from it any more.
//! - Every new physical connection is checked against the stamp of its database. A stale route or a
//!   wrong restore ends in an error, never in another tenant's data.
//! - A tenant in a cutover is held: requests wait and then go to the new place.
//!
//! Must never: give out a connection without a slug, or to a tenant that is not active.

use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool_postgres::{Pool, PoolError};
use moka::future::Cache;
use thiserror::Error;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout_at};
use tokio_postgres::error::SqlState;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use crate::catalog::changes::{Change, Changes, Subscription};
use crate::catalog::tenants::Place;
use crate::catalog::{Catalog, CatalogError};
use crate::metrics;
use crate::tenant::{TenantSlug, TenantState};

mod connection;
mod pool;

pub use connection::{TenantConnection, TenantTransaction};

/// How often idle pools and connections are looked for.
const TICK: Duration = Duration::from_secs(1);
/// Most tenants whose place is remembered.
const ROUTE_CAPACITY: u64 = 200_000;
/// Longer than any look-up takes.
const CHANGE_MEMORY: Duration = Duration::from_mins(1);
/// Most slugs whose absence is remembered.
const UNKNOWN_CAPACITY: u64 = 10_000;

/// Bounds of a router.
#[derive(Clone, Debug)]
pub struct RouterSettings {
    /// Most connections to one tenant's database.
    pub pool_max_size: usize,
    /// A pool or a connection that was not used for this long is closed.
    pub pool_idle_timeout: Duration,
    /// How long a request waits for a connection, or for the end of a cutover.
    pub pool_wait_timeout: Duration,
    /// A route is read again after this time even if no change was announced.
    pub route_ttl: Duration,
    /// How long the absence of a tenant is remembered.
    pub unknown_ttl: Duration,
}

impl Default for RouterSettings {
    fn default() -> Self {
        Self {
            pool_max_size: 10,
            pool_idle_timeout: Duration::from_mins(5),
            pool_wait_timeout: Duration::from_secs(10),
            route_ttl: Duration::from_secs(30),
            unknown_ttl: Duration::from_secs(5),
        }
    }
}

/// Routes tenants to their databases. Cheap to clone; clones share routes and pools.
#[derive(Clone)]
pub struct TenantRouter {
    shared: Arc<Shared>,
    /// Ends the background task with the last handle.
    _task: Arc<DropGuard>,
}

struct Shared {
    catalog: Catalog,
    changes: Changes,
    settings: RouterSettings,
    routes: Cache<TenantSlug, Arc<Place>>,
    /// The last route that the catalog gave for a tenant, for when the catalog is away.
    last_known: Cache<TenantSlug, Arc<Place>>,
    unknown: Cache<TenantSlug, ()>,
    pools: Cache<PoolKey, Pool>,
    /// When a tenant last changed, so that a look-up that a change overtook is repeated.
    changed_at: Cache<TenantSlug, Instant>,
    changed: Notify,
}

type PoolKey = (Uuid, i64);

/// Why there is no connection.
#[derive(Clone, Debug, Error)]
pub enum RouterError {
    /// No living tenant has this slug.
    #[error("there is no tenant `{0}`")]
    UnknownTenant(TenantSlug),
    /// The tenant exists but is not served.
    #[error("tenant `{slug}` is {state}")]
    NotServed {
        /// The tenant.
        slug: TenantSlug,
        /// Its state.
        state: TenantState,
    },
    /// A cutover took longer than the request could wait.
    #[error("tenant `{0}` is being moved to another database; try again in a moment")]
    Held(TenantSlug),
    /// Every connection of the tenant stayed in use for the whole wait.
    #[error("all connections of tenant `{0}` are in use")]
    Busy(TenantSlug),
    /// The database says that it belongs to another tenant or to another time.
    #[error("the database that was reached is not the live database of tenant `{0}`")]
    WrongDatabase(TenantSlug),
    /// The tenant's server refused or could not be reached.
    #[error("the database of tenant `{slug}` cannot be reached")]
    Unreachable {
        /// The tenant.
        slug: TenantSlug,
        /// What the driver said.
        #[source]
        source: Arc<PoolError>,
    },
    /// The catalog did not answer and the tenant is not known yet.
    #[error("the catalog cannot tell where tenant `{slug}` is")]
    Catalog {
        /// The tenant.
        slug: TenantSlug,
        /// What the catalog said.
        #[source]
        source: Arc<CatalogError>,
    },
}

impl TenantRouter {
    /// A router over a catalog. Needs a running tokio runtime for its background task.
    #[must_use]
    pub fn new(catalog: Catalog, changes: Changes, settings: RouterSettings) -> Self {
        let shared = Arc::new(Shared {
            routes: Cache::builder()
                .max_capacity(ROUTE_CAPACITY)
                .time_to_live(settings.route_ttl)
                .build(),
            last_known: Cache::builder().max_capacity(ROUTE_CAPACITY).build(),
            unknown: Cache::builder()
                .max_capacity(UNKNOWN_CAPACITY)
                .time_to_live(settings.unknown_ttl)
                .build(),
            pools: Cache::builder()
                .time_to_idle(settings.pool_idle_timeout)
                .eviction_listener(|_: Arc<PoolKey>, pool: Pool, _| pool.close())
                .build(),
            changed_at: Cache::builder().time_to_live(CHANGE_MEMORY).build(),
            changed: Notify::new(),
            catalog,
            changes,
            settings,
        });
        let stop = CancellationToken::new();
        let news = shared.changes.subscribe();
        tokio::spawn(Arc::clone(&shared).tend(news, stop.clone()));
        Self { shared, _task: Arc::new(stop.drop_guard()) }
    }

    /// A connection to the tenant's database.
    ///
    /// # Errors
    ///
    /// See [`RouterError`]; there is never a default connection.
    pub async fn connection(&self, slug: &TenantSlug) -> Result<TenantConnection, RouterError> {
        let shared = &self.shared;
        let deadline = Instant::now() + shared.settings.pool_wait_timeout;
        let mut tries = 0;
        loop {
            let place = shared.active_place(slug, deadline).await?;
            let key = (place.tenant.id, place.tenant.generation);
            let pool = match shared.pools.get(&key).await {
                Some(pool) => pool,
                None => shared.new_pool(key, &place).await,
            };
            tries += 1;
            match timeout_at(deadline.into(), pool.get()).await {
                Ok(Ok(client)) => return Ok(TenantConnection::new(place, client)),
                Err(_) => return Err(RouterError::Busy(slug.clone())),
                // The route may be a moment behind; look once more before saying no.
                Ok(Err(error)) if tries < 3 && may_be_stale(&error) => shared.evict(slug).await,
                Ok(Err(error)) => return Err(refusal(slug, error)),
            }
        }
    }

    /// Where a tenant is, and in which state: from the cache when it is known.
    pub async fn route(&self, slug: &TenantSlug) -> Result<Arc<Place>, RouterError> {
        self.shared.place(slug).await
    }

    /// How many tenants this router has a pool for, and how many connections those hold.
    #[must_use]
    pub fn pool_status(&self) -> PoolStatus {
        let mut status = PoolStatus::default();
        for (_, pool) in &self.shared.pools {
            let pool = pool.status();
            status.pools += 1;
            status.connections += pool.size;
            status.idle += pool.available;
        }
        status
    }

    /// Closes every pool; connections in use end with their work.
    pub async fn close(&self) {
        for (_, pool) in &self.shared.pools {
            pool.close();
        }
        self.shared.pools.invalidate_all();
        self.shared.pools.run_pending_tasks().await;
    }
}

/// What a router's pools hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStatus {
    /// Tenants with a pool.
    pub pools: usize,
    /// Physical connections, idle or in use.
    pub connections: usize,
    /// Those of them that are idle.
    pub idle: usize,
}

impl Shared {
    /// The place of an active tenant; waits out a cutover.
    async fn active_place(
        &self,
        slug: &TenantSlug,
        deadline: Instant,
    ) -> Result<Arc<Place>, RouterError> {
        loop {
            let changed = self.changed.notified();
            let place = self.place(slug).await?;
            match place.tenant.state {
                TenantState::Active => return Ok(place),
                TenantState::Restoring => {
                    if timeout_at(deadline.into(), changed).await.is_err() {
                        return Err(RouterError::Held(slug.clone()));
                    }
                }
                state => return Err(RouterError::NotServed { slug: slug.clone(), state }),
            }
        }
    }

    async fn place(&self, slug: &TenantSlug) -> Result<Arc<Place>, RouterError> {
        if let Some(place) = self.routes.get(slug).await {
            metrics::route_lookup("hit");
            return Ok(place);
        }
        if self.unknown.contains_key(slug) {
            metrics::route_lookup("unknown");
            return Err(RouterError::UnknownTenant(slug.clone()));
        }
        self.load(slug).await
    }

    /// Asks the catalog, once for all who wait; again when a change was announced meanwhile.
    async fn load(&self, slug: &TenantSlug) -> Result<Arc<Place>, RouterError> {
        loop {
            let started = Instant::now();
            let loaded = self.routes.try_get_with_by_ref(slug, self.look_up(slug)).await;
            let answer = match loaded {
                Ok(place) => {
                    metrics::route_lookup("miss");
                    self.last_known.insert(slug.clone(), Arc::clone(&place)).await;
                    Ok(place)
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
    async fn look_up(&self, slug: &TenantSlug) -> Result<Arc<Place>, RouterError> {
        let (catalog, wanted) = (self.catalog.clone(), slug.clone());
        let found = tokio::spawn(async move { catalog.place(&wanted).await })
            .await
            .expect("a look-up does not panic");
        match found {
            Ok(Some(place)) => Ok(Arc::new(place)),
            Ok(None) => Err(RouterError::UnknownTenant(slug.clone())),
            Err(error) => Err(RouterError::Catalog { slug: slug.clone(), source: Arc::new(error) }),
        }
    }

    async fn without_place(
        &self,
        slug: &TenantSlug,
        error: &Arc<RouterError>,
    ) -> Result<Arc<Place>, RouterError> {
        match error.as_ref() {
            RouterError::UnknownTenant(_) => {
                metrics::route_lookup("unknown");
                self.last_known.invalidate(slug).await;
                self.unknown.insert(slug.clone(), ()).await;
            }
            RouterError::Catalog { source, .. } if source.is_transient() => {
                if let Some(place) = self.last_known.get(slug).await {
                    metrics::route_lookup("stale");
                    self.routes.insert(slug.clone(), Arc::clone(&place)).await;
                    return Ok(place);
                }
            }
            _ => {}
        }
        Err(error.as_ref().clone())
    }

    async fn new_pool(&self, key: PoolKey, place: &Place) -> Pool {
        self.pools.get_with(key, async { pool::build(place, &self.settings) }).await
    }

    /// Forgets what is known of a tenant and closes its pool.
    async fn evict(&self, slug: &TenantSlug) {
        self.unknown.invalidate(slug).await;
        self.routes.invalidate(slug).await;
        if let Some(place) = self.last_known.get(slug).await {
            self.pools.invalidate(&(place.tenant.id, place.tenant.generation)).await;
        }
    }

    /// As [`Shared::evict`], for a tenant that has certainly changed.
    async fn forget(&self, slug: &TenantSlug) {
        self.evict(slug).await;
        self.last_known.invalidate(slug).await;
    }

    /// Follows the catalog and closes what is idle.
    async fn tend(self: Arc<Self>, mut news: Subscription, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                change = news.next() => self.follow(change).await,
                () = sleep(TICK) => {
                    self.close_idle().await;
                }
            }
        }
    }

    async fn follow(&self, change: Change) {
        match change {
            Change::Tenant(slug) => {
                self.changed_at.insert(slug.clone(), Instant::now()).await;
                self.forget(&slug).await;
            }
            // Pools stay: the next request compares its tenant's generation.
            Change::Unknown => {
                self.unknown.invalidate_all();
                self.routes.invalidate_all();
            }
            Change::Operation(..) => return,
        }
        self.changed.notify_waiters();
    }

    async fn close_idle(&self) {
        for (_, pool) in &self.pools {
            pool.retain(|_, usage| usage.last_used() < self.settings.pool_idle_timeout);
        }
        self.pools.run_pending_tasks().await;
        self.routes.run_pending_tasks().await;
        let (mut connections, mut idle) = (0, 0);
        for (_, pool) in &self.pools {
            connections += pool.status().size;
            idle += pool.status().available;
        }
        metrics::pool_connections(connections, idle);
    }
}

/// Whether the error can come from a route that is a moment behind the catalog.
fn may_be_stale(error: &PoolError) -> bool {
    match error {
        PoolError::Closed | PoolError::PostCreateHook(_) => true,
        PoolError::Backend(error) => matches!(
            error.code(),
            Some(
                &(SqlState::INVALID_CATALOG_NAME
                    | SqlState::INVALID_AUTHORIZATION_SPECIFICATION
                    | SqlState::INVALID_PASSWORD
                    | SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE
                    | SqlState::ADMIN_SHUTDOWN)
            )
        ),
        _ => false,
    }
}

fn refusal(slug: &TenantSlug, error: PoolError) -> RouterError {
    match error {
        PoolError::PostCreateHook(_) => {
            metrics::isolation_violation("wrong_stamp");
            tracing::error!(tenant = %slug, "a database without the tenant's stamp was refused");
            RouterError::WrongDatabase(slug.clone())
        }
        PoolError::Timeout(_) => RouterError::Busy(slug.clone()),
        other => RouterError::Unreachable { slug: slug.clone(), source: Arc::new(other) },
    }
}
