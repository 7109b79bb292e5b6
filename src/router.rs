//! [`TenantRouter`]: from a slug to a connection to that tenant's database, and to no other.
//!
//! ```text
//! slug ─► route (moka) ──────────────────────────► pool ─► connection, stamp checked
//!            │ miss: one look at the catalog,      ▲
//!            │ however many wait                   │ one for each tenant, generation and mode (moka)
//!            └─────────────────────────────────────┘
//! ```
//!
//! - Routes are loaded once, dropped when the catalog says that the tenant changed, and reloaded after
//!   [`RouterSettings::route_ttl`] in any case. When the catalog is away, the last known route serves.
//! - A pool belongs to one tenant and one generation for life. A change, also one of the tenant's limits,
//!   makes a new pool; the old one is closed: work in progress ends, nobody gets a connection from it any
//!   more. A change of other settings is read with the next route, and closes nothing.
//! - Every new physical connection is checked against the stamp of its database. A stale route or a
//!   wrong restore ends in an error, never in another tenant's data.
//! - A tenant in a cutover is held: requests wait and then go to the new place.
//!
//! Must never: give out a connection without a slug, or to a tenant that is not active.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use ::metrics::Histogram;
use deadpool_postgres::{HookError, Object, Pool, PoolError};
use futures_util::poll;
use moka::future::Cache;
use thiserror::Error;
use tokio::time::error::Elapsed;
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
mod gate;
mod harmless;
mod pool;
mod routes;

pub use connection::{TenantConnection, TenantTransaction};
pub(crate) use harmless::is_harmless;
use routes::{Route, Routes};

/// How often idle pools and connections are looked for.
const TICK: Duration = Duration::from_secs(1);

/// Bounds of a router.
#[derive(Clone, Debug)]
pub struct RouterSettings {
    /// Most connections to one tenant's database; the tenant's own limit may be lower.
    pub pool_max_size: usize,
    /// A connection that was not used for this long is closed; a whole pool at the latest then.
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
    routes: Routes,
    /// Every open pool; a route holds the one that it uses, and looks here once in its life.
    pools: Cache<PoolKey, Pool>,
    settings: RouterSettings,
    waits: Histogram,
    /// The news end with its last handle.
    changes: Changes,
}

/// Tenant, generation, and what the connections may do.
type PoolKey = (Uuid, i64, Mode);

/// What a pool's connections may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Mode {
    ReadWrite,
    ReadOnly,
}

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
        let news = changes.subscribe();
        let shared = Arc::new(Shared {
            routes: Routes::new(catalog, &settings),
            pools: Cache::builder()
                .time_to_idle(settings.pool_idle_timeout)
                .eviction_listener(|_: Arc<PoolKey>, pool: Pool, _| pool.close())
                .build(),
            settings,
            waits: metrics::pool_waits(),
            changes,
        });
        let stop = CancellationToken::new();
        tokio::spawn(Arc::clone(&shared).tend(news, stop.clone()));
        Self { shared, _task: Arc::new(stop.drop_guard()) }
    }

    /// A connection to the tenant's database.
    ///
    /// # Errors
    ///
    /// See [`RouterError`]; there is never a default connection.
    pub async fn connection(&self, slug: &TenantSlug) -> Result<TenantConnection, RouterError> {
        self.connect(slug, Mode::ReadWrite).await
    }

    /// A connection to the tenant's database that can only read: PostgreSQL refuses to write, unless the
    /// application itself lifts that with `set`, which ends the connection with its use.
    ///
    /// # Errors
    ///
    /// As [`TenantRouter::connection`].
    pub async fn read_only(&self, slug: &TenantSlug) -> Result<TenantConnection, RouterError> {
        self.connect(slug, Mode::ReadOnly).await
    }

    async fn connect(
        &self,
        slug: &TenantSlug,
        mode: Mode,
    ) -> Result<TenantConnection, RouterError> {
        let shared = &self.shared;
        let deadline = Instant::now() + shared.settings.pool_wait_timeout;
        let mut tries = 0;
        loop {
            let route = shared.routes.active(slug, deadline).await?;
            tries += 1;
            match shared.checkout(&route, mode, deadline).await {
                Ok(Ok(client)) => {
                    return Ok(TenantConnection::new(route, client));
                }
                Err(_) => return Err(RouterError::Busy(slug.clone())),
                // The route may be a moment behind; look once more before saying no.
                Ok(Err(error)) if tries < 3 && may_be_stale(&error) => shared.evict(slug).await,
                Ok(Err(error)) => return Err(refusal(slug, error)),
            }
        }
    }

    /// Where a tenant is, and in which state: from the cache when it is known.
    pub async fn route(&self, slug: &TenantSlug) -> Result<Arc<Place>, RouterError> {
        Ok(Arc::clone(&self.shared.routes.get(slug).await?.place))
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
    /// A connection of the route's pool; the outer error is the deadline.
    async fn checkout(
        &self,
        route: &Route,
        mode: Mode,
        deadline: Instant,
    ) -> Result<Result<Object, PoolError>, Elapsed> {
        let slot = route.pool(mode);
        let pool = if let Some(pool) = slot.get() {
            pool
        } else {
            let build = async { pool::build(&route.place, mode, &self.settings) };
            let pool = self.pools.get_with(key(&route.place, mode), build).await;
            slot.get_or_init(|| pool)
        };
        let mut getting = pin!(pool.get());
        if let Poll::Ready(client) = poll!(getting.as_mut()) {
            return Ok(client);
        }
        let started = Instant::now();
        let got = timeout_at(deadline.into(), getting).await;
        self.waits.record(started.elapsed());
        got
    }

    /// Forgets a route that may be stale, and closes its pool.
    async fn evict(&self, slug: &TenantSlug) {
        if let Some(place) = self.routes.evict(slug).await {
            self.close(&place).await;
        }
    }

    async fn close(&self, place: &Place) {
        for mode in [Mode::ReadWrite, Mode::ReadOnly] {
            self.pools.invalidate(&key(place, mode)).await;
        }
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
                if let Some(place) = self.routes.changed(&slug).await {
                    self.close(&place).await;
                }
            }
            // Pools stay: their connections are as good as before.
            Change::Settings(slug) => self.routes.settings_changed(&slug).await,
            // Pools stay: the next request compares its tenant's generation.
            Change::Unknown => self.routes.all_may_have_changed(),
            Change::Operation(..) | Change::Registration => {}
        }
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

fn key(place: &Place, mode: Mode) -> PoolKey {
    (place.tenant.id, place.tenant.generation, mode)
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
        // Nobody has seen the stamp, so it is not known to be wrong.
        PoolError::PostCreateHook(HookError::Backend(error)) => {
            let source = Arc::new(PoolError::Backend(error));
            RouterError::Unreachable { slug: slug.clone(), source }
        }
        PoolError::PostCreateHook(_) => {
            metrics::isolation_violation("wrong_stamp");
            tracing::error!(tenant = %slug, "a database without the tenant's stamp was refused");
            RouterError::WrongDatabase(slug.clone())
        }
        PoolError::Timeout(_) => RouterError::Busy(slug.clone()),
        other => RouterError::Unreachable { slug: slug.clone(), source: Arc::new(other) },
    }
}
