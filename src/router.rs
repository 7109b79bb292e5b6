//! [`TenantRouter`]: from a slug to a connection to that tenant's database, and to no other.
//!
//! ```text
//! slug ─► route (moka) ──────────────────────────► pool ─► connection, stamp checked
//!            │ miss: one look at the catalog,      ▲  │
//!            │ however many wait                   │  └─► the server's budget, over all pools
//!            └─────────────────────────────────────┘
//!                       one for each tenant, generation and mode (moka)
//! ```
//!
//! - Routes are loaded once, dropped when the catalog says that the tenant changed, and reloaded after
//!   [`RouterSettings::route_ttl`] in any case. When the catalog is away, the last known route serves.
//! - A pool belongs to one tenant and one generation for life. A change, also one of the tenant's limits,
//!   makes a new pool; the old one is closed: work in progress ends, nobody gets a connection from it any
//!   more. A change of other settings is read with the next route, and closes nothing.
//! - Every new physical connection is checked against the stamp of its database. A stale route or a
//!   wrong restore ends in an error, never in another tenant's data.
//! - What this replica holds open on one server, for all its tenants together, stays within a budget:
//!   what lies idle longest is closed for who needs a connection.
//! - Who only reads may be led to a read replica that lags little; the primary stands in for it.
//! - A tenant in a cutover is held: requests wait and then go to the new place. So is one that is behind, where
//!   tenants are migrated when they are used.
//! - A tenant with a rate waits for its turn before it holds anything that others could use.
//! - A caller who leaves in the middle of a statement leaves none running (`router/leaving.rs`).
//! - What tenants use is counted in memory, and told to the catalog now and then.
//!
//! Must never: give out a connection without a slug, or to a tenant that is not active.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::poll;
use moka::future::Cache;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use crate::catalog::Catalog;
use crate::catalog::changes::{Change, Changes, Subscription};
use crate::catalog::tenants::Place;
use crate::metrics;
use crate::tenant::TenantSlug;

mod connection;
mod error;
mod fleet;
mod gate;
mod harmless;
mod leaving;
mod meter;
mod pool;
mod rate;
pub(crate) mod read_replicas;
mod routes;
mod scope;
pub(crate) mod server;
mod servers;
mod session;

pub use connection::{TenantConnection, TenantRows, TenantTransaction, TenantTransactionBuilder};
pub use error::RouterError;
pub use fleet::{Ended, FleetReport, Pace, TenantFailure, WorkError};
pub(crate) use harmless::is_harmless;
pub(crate) use leaving::Backend;
pub(crate) use meter::Meter;
use meter::Meters;
use pool::{Admission, CheckoutError, TenantPool};
use rate::Rates;
pub(crate) use rate::Toll;
use read_replicas::ReadReplicas;
use routes::{Route, Routes};
use servers::Servers;
pub use session::ConnectError;
use session::Session;
pub(crate) use session::{KEPT, STALE_CODES};
pub use tokio_postgres::IsolationLevel;

/// How often idle pools and connections are looked for.
const TICK: Duration = Duration::from_secs(1);

/// How often a route is looked up anew that may be a moment behind, and the pause after the second time.
pub(crate) const TRIES: u32 = 6;
pub(crate) const PAUSE: Duration = Duration::from_millis(100);

/// Bounds of a router.
#[derive(Clone, Debug)]
pub struct RouterSettings {
    /// Most connections to one tenant's database; the tenant's own limit may be lower.
    pub pool_max_size: usize,
    /// Most connections to one server, over all its tenants.
    pub server_budget: usize,
    /// A connection that was not used for this long is closed; a whole pool at the latest then.
    pub pool_idle_timeout: Duration,
    /// How long a request waits for a connection, or for the end of a cutover.
    pub pool_wait_timeout: Duration,
    /// A route is read again after this time even if no change was announced.
    pub route_ttl: Duration,
    /// How long the absence of a tenant is remembered.
    pub unknown_ttl: Duration,
    /// A read replica may be this far behind its primary and still be read from.
    pub replica_max_lag: Duration,
    /// Whether a tenant that is behind is migrated when it is used.
    pub migrates_on_demand: bool,
    /// How often the catalog hears what tenants use.
    pub meter_interval: Duration,
}

impl Default for RouterSettings {
    fn default() -> Self {
        Self {
            pool_max_size: 10,
            server_budget: 80,
            pool_idle_timeout: Duration::from_mins(5),
            pool_wait_timeout: Duration::from_secs(10),
            route_ttl: Duration::from_secs(30),
            unknown_ttl: Duration::from_secs(5),
            replica_max_lag: Duration::from_secs(10),
            migrates_on_demand: false,
            meter_interval: Duration::from_mins(1),
        }
    }
}

/// Routes tenants to their databases. Cheap to clone; clones share routes and pools.
#[derive(Clone)]
pub struct TenantRouter {
    shared: Arc<Shared>,
    /// Ends the background tasks with the last handle.
    _tasks: Arc<DropGuard>,
}

struct Shared {
    routes: Routes,
    /// Every open pool; a route holds the one that it uses, and looks here once in its life.
    pools: Cache<PoolKey, Arc<TenantPool>>,
    servers: Arc<Servers>,
    replicas: ReadReplicas,
    meters: Arc<Meters>,
    settings: RouterSettings,
    /// The news end with its last handle.
    changes: Changes,
    /// Ends the background tasks.
    stop: CancellationToken,
}

/// Tenant, generation, and what the connections may do.
type PoolKey = (Uuid, i64, Mode);

/// What a pool's connections may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Mode {
    ReadWrite,
    ReadOnly,
    /// Reading only, from the read replica with this id.
    Elsewhere(Uuid),
}

impl TenantRouter {
    /// A router over a catalog. Needs a running tokio runtime for its background task.
    #[must_use]
    pub fn new(catalog: Catalog, changes: Changes, settings: RouterSettings) -> Self {
        let news = changes.subscribe();
        let servers = Arc::new(Servers::new(catalog.clone(), settings.server_budget));
        let rates = Rates::new(servers.routers());
        let meters = Arc::new(Meters::new(catalog.clone()));
        let shared = Arc::new(Shared {
            routes: Routes::new(
                catalog.clone(),
                changes.clone(),
                (rates, Arc::clone(&meters)),
                &settings,
            ),
            pools: Cache::builder()
                .time_to_idle(settings.pool_idle_timeout)
                .eviction_listener(|_: Arc<PoolKey>, pool: Arc<TenantPool>, _| pool.close())
                .build(),
            replicas: ReadReplicas::new(catalog, settings.replica_max_lag),
            servers,
            meters,
            settings,
            changes,
            stop: CancellationToken::new(),
        });
        let stop = shared.stop.clone();
        let servers = Arc::clone(&shared.servers);
        tokio::spawn(servers.share(shared.changes.subscribe(), stop.clone()));
        let meters = Arc::clone(&shared.meters);
        tokio::spawn(meters.run(shared.settings.meter_interval, stop.clone()));
        let replica_news = shared.changes.subscribe();
        tokio::spawn(Arc::clone(&shared).follow_replicas(replica_news, stop.clone()));
        tokio::spawn(Arc::clone(&shared).tend(news, stop.clone()));
        Self { shared, _tasks: Arc::new(stop.drop_guard()) }
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
    /// When the tenant's server has a read replica that is less than [`RouterSettings::replica_max_lag`]
    /// behind, it leads there, and to the server otherwise. So it may not see yet what has just been
    /// written: who must see that reads on a [`TenantRouter::connection`]. A read replica knows no
    /// serializable transactions, and ends a long query that is in the way of its replication.
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
        let (mut route, toll) = shared.routes.enter(slug, deadline).await?;
        let mut tries = 0;
        loop {
            tries += 1;
            if mode == Mode::ReadOnly
                && let Some((admission, session)) =
                    shared.checkout_elsewhere(&route, deadline).await
            {
                return Ok(TenantConnection::new(route, admission, session, toll));
            }
            match shared.checkout(&route, mode, deadline).await {
                Ok((admission, session)) => {
                    return Ok(TenantConnection::new(route, admission, session, toll));
                }
                Err(CheckoutError::Busy) => return Err(RouterError::Busy(slug.clone())),
                // It was closed for a newer one, which stays.
                Err(CheckoutError::Closed) if tries < TRIES => {
                    shared.routes.forget_closed(slug, &route).await;
                }
                // The route may be a moment behind; look once more before saying no.
                Err(error) if tries < TRIES && error.may_be_stale() => {
                    // Twice at once: the catalog may know better. Then the catalog may be the one that
                    // is a moment behind, as when a password is changed.
                    if tries > 2 {
                        sleep(PAUSE).await;
                    }
                    shared.evict(slug).await;
                }
                Err(error) => return Err(RouterError::refused(slug, error)),
            }
            route = shared.routes.active(slug, deadline).await?;
        }
    }

    /// Where a tenant is, and in which state: from the cache when it is known.
    pub async fn route(&self, slug: &TenantSlug) -> Result<Arc<Place>, RouterError> {
        Ok(Arc::clone(&self.shared.routes.get(slug).await?.place))
    }

    /// How many connections this router holds.
    #[must_use]
    pub fn pool_status(&self) -> PoolStatus {
        let mut status = PoolStatus::default();
        for (_, server) in self.shared.servers.all() {
            for pool in server.pools() {
                status.pools += 1;
                status.connections += pool.opened().number();
                status.idle += pool.idle();
            }
        }
        status
    }

    /// Closes every pool, and gives this replica's part of the budgets back; connections in use end with
    /// their work.
    pub async fn close(&self) {
        for (_, pool) in &self.shared.pools {
            pool.close();
        }
        self.shared.pools.invalidate_all();
        self.shared.pools.run_pending_tasks().await;
        self.shared.stop.cancel();
        self.shared.meters.tell_last().await;
        self.shared.servers.give_up_share().await;
    }
}

/// What a router's pools hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStatus {
    /// Pools that hold a connection.
    pub pools: usize,
    /// Physical connections, idle or in use.
    pub connections: usize,
    /// Those of them that are idle.
    pub idle: usize,
}

impl Shared {
    async fn checkout(
        &self,
        route: &Route,
        mode: Mode,
        deadline: Instant,
    ) -> Result<(Admission, Box<Session>), CheckoutError> {
        let slot = route.pool(mode);
        let pool = if let Some(pool) = slot.get() {
            pool
        } else {
            let place = Arc::clone(&route.place);
            let server = self.servers.get(place.tenant.server_id);
            let build = || TenantPool::new(place, mode, server, &self.settings);
            let pool = self.pool(&route.place, mode, build).await;
            slot.get_or_init(|| pool)
        };
        let mut getting = pin!(pool.checkout(deadline, self.settings.pool_wait_timeout));
        if let Poll::Ready(got) = poll!(getting.as_mut()) {
            return got;
        }
        let started = Instant::now();
        let got = getting.await;
        metrics::pool_wait(started.elapsed());
        got
    }

    /// The pool of a tenant under its present limits; a tier's change without another generation.
    async fn pool(
        &self,
        place: &Place,
        mode: Mode,
        build: impl FnOnce() -> TenantPool,
    ) -> Arc<TenantPool> {
        let outdated = |pool: &Arc<TenantPool>| !pool.suits(&place.tenant.limits);
        let entry = self.pools.entry(key(place, mode));
        entry.or_insert_with_if(async { Arc::new(build()) }, outdated).await.into_value()
    }

    /// Forgets a route that may be stale, and closes its pool.
    async fn evict(&self, slug: &TenantSlug) {
        if let Some(place) = self.routes.evict(slug).await {
            self.close(&place).await;
        }
    }

    async fn close(&self, place: &Place) {
        let replicas = self.replicas.of(place.tenant.server_id);
        let elsewhere = replicas.iter().map(|replica| Mode::Elsewhere(replica.id()));
        for mode in [Mode::ReadWrite, Mode::ReadOnly].into_iter().chain(elsewhere) {
            self.pools.invalidate(&key(place, mode)).await;
        }
    }

    /// Follows the catalog and closes what is idle.
    async fn tend(self: Arc<Self>, mut news: Subscription, stop: CancellationToken) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                change = news.next() => self.follow(change).await,
                _ = tick.tick() => self.close_idle().await,
            }
        }
    }

    async fn follow(self: &Arc<Self>, change: Change) {
        match change {
            Change::Tenant(slug) => {
                if let Some(place) = self.routes.changed(&slug).await {
                    self.close(&place).await;
                    // Who was known stays known, should the catalog go before the next request comes.
                    let shared = Arc::clone(self);
                    tokio::spawn(async move { shared.routes.get(&slug).await.map(drop) });
                }
            }
            // Pools stay: their connections are as good as before.
            Change::Settings(slug) => self.routes.settings_changed(&slug).await,
            // Pools stay: the next request compares its tenant's generation.
            Change::Unknown => self.routes.all_may_have_changed(),
            // Pools stay: the next request compares its tenant's limits, and whether it is behind.
            Change::Tiers | Change::Migrations => self.routes.limits_changed(),
            Change::Operation(..)
            | Change::Registration
            | Change::Rollout(_)
            | Change::Routers
            | Change::ReadReplicas => {}
        }
    }

    async fn close_idle(&self) {
        let lap = self.meters.lap();
        for (name, server) in self.servers.all() {
            let (mut connections, mut unused) = (0, 0);
            for pool in server.pools() {
                self.meters.of(pool.tenant()).connected(pool.opened().number(), lap);
                pool.close_idle(self.settings.pool_idle_timeout);
                connections += pool.opened().number();
                unused += pool.idle();
            }
            metrics::pool_connections(&name, connections, unused);
        }
        self.pools.run_pending_tasks().await;
        self.routes.run_pending_tasks().await;
    }
}

fn key(place: &Place, mode: Mode) -> PoolKey {
    (place.tenant.id, place.tenant.generation, mode)
}
