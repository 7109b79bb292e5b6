//! [`ReadReplicas`]: where else one may read, and how old what is read there can be.
//!
//! A read replica is fresh up to a moment: whatever was committed before it, the read replica has. A task for
//! each finds that moment every second. It asks the primary how far its log is written, and the read
//! replica whether it has replayed that: the clocks of the servers do not matter, an idle primary is no
//! lag, and a read replica that is cut off from its primary does not take itself for up to date. Nobody
//! has to notice that the task, the primary or the network hangs: the moment grows old by itself.
//!
//! Must never: fail a request that the primary can serve, or keep one waiting for long. A read replica
//! that is away, busy, behind, or does not know the tenant, its password or its stamp yet costs a moment, and
//! then the primary is asked.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use moka::sync::Cache;
use tenantry_provisioning::ServerUrl;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use super::pool::{Admission, CheckoutError, TenantPool};
use super::routes::Route;
use super::server::{OpenError as _, Server};
use super::session::Session;
use super::{Mode, Shared};
use crate::catalog::changes::{Change, Subscription};
use crate::catalog::read_replicas::ReadReplicaPlace;
use crate::catalog::tenants::Place;
use crate::catalog::{Catalog, CatalogError};

mod watch;

/// How long a request waits for a read replica before it goes to the primary.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);
/// How long a tenant is left alone that a read replica does not serve.
const REFUSAL: Duration = Duration::from_secs(1);
/// The list is read again after this time even if no change was announced.
const REREAD: Duration = Duration::from_secs(30);

/// The read replicas of all servers.
pub(super) struct ReadReplicas {
    catalog: Catalog,
    max_lag: Duration,
    known: RwLock<HashMap<Uuid, Vec<Arc<ReadReplica>>>>,
    /// Those that are as busy take turns.
    turn: AtomicUsize,
}

/// One read replica, as this process uses it.
pub(crate) struct ReadReplica {
    place: ReadReplicaPlace,
    /// Its budget, and whether it is away, are its own.
    server: Arc<Server>,
    /// Whatever was committed before this moment can be read; none while it is away.
    fresh: Mutex<Option<Instant>>,
    /// Tenants, by id and generation, that it has just refused.
    refused: Cache<(Uuid, i64), ()>,
    /// Ends its watch.
    _watch: DropGuard,
}

impl ReadReplicas {
    pub fn new(catalog: Catalog, max_lag: Duration) -> Self {
        Self { catalog, max_lag, known: RwLock::default(), turn: AtomicUsize::new(0) }
    }

    /// The read replicas of a server.
    pub fn of(&self, server: Uuid) -> Vec<Arc<ReadReplica>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(&server).cloned().unwrap_or_default()
    }

    /// Those that are fresh enough, the least busy first.
    fn fresh(&self, server: Uuid) -> Vec<Arc<ReadReplica>> {
        let mut fresh = self.of(server);
        fresh.retain(|replica| replica.is_fresh(self.max_lag));
        if fresh.len() > 1 {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % fresh.len();
            fresh.rotate_left(turn);
            fresh.sort_by_key(|replica| Reverse(replica.server.free()));
        }
        fresh
    }

    fn all(&self) -> Vec<Arc<ReadReplica>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.values().flatten().cloned().collect()
    }
}

impl Shared {
    /// Where else a tenant can be read from, the least busy first.
    pub(super) fn elsewhere(&self, route: &Route) -> Vec<Arc<ReadReplica>> {
        // Nobody can tell whether the tenant is still served: the primary alone would know by itself.
        if route.is_stale {
            return Vec::new();
        }
        let mut replicas = self.replicas.fresh(route.place.tenant.server_id);
        replicas.retain(|replica| !replica.has_refused(&route.place));
        replicas
    }

    /// A connection to a read replica of the tenant's server, if one can give it now.
    pub(super) async fn checkout_elsewhere(
        &self,
        route: &Route,
        deadline: Instant,
    ) -> Option<(Admission, Box<Session>)> {
        let place = &route.place;
        for replica in self.elsewhere(route) {
            let home = || TenantPool::on_replica(Arc::clone(place), &replica, &self.settings);
            let pool = self.pool(place, Mode::Elsewhere(replica.id()), home).await;
            let deadline = deadline.min(Instant::now() + PATIENCE);
            match pool.try_checkout(deadline, PATIENCE).await {
                Ok(got) => return Some(got),
                Err(error) => replica.note(place, &error),
            }
        }
        None
    }

    /// Keeps to the read replicas that the catalog names, until `stop`.
    pub(super) async fn follow_replicas(
        self: Arc<Self>,
        mut news: Subscription,
        stop: CancellationToken,
    ) {
        loop {
            match stop.run_until_cancelled(self.reread_replicas(&stop)).await {
                None => return,
                Some(Ok(())) => {}
                Some(Err(error)) => tracing::debug!(%error, "the read replicas cannot be listed"),
            }
            let heard = async {
                while !matches!(news.next().await, Change::ReadReplicas | Change::Unknown) {}
            };
            _ = stop.run_until_cancelled(timeout(REREAD, heard)).await;
        }
    }

    /// What is as before stays; the pools of what is gone are closed.
    async fn reread_replicas(&self, stop: &CancellationToken) -> Result<(), CatalogError> {
        let places = self.replicas.catalog.read_replica_places(None).await?;
        let mut before = self.replicas.all();
        let mut now: HashMap<Uuid, Vec<Arc<ReadReplica>>> = HashMap::new();
        for place in places {
            let same = before.iter().position(|known| known.is_at(&place));
            let of_server = now.entry(place.server_id).or_default();
            of_server.push(match same {
                Some(at) => before.swap_remove(at),
                None => ReadReplica::watched(place, &self.servers, stop),
            });
        }
        *self.replicas.known.write().unwrap_or_else(PoisonError::into_inner) = now;
        for (key, _) in &self.pools {
            if before.iter().any(|gone| key.2 == Mode::Elsewhere(gone.id())) {
                self.pools.invalidate(key.as_ref()).await;
            }
        }
        Ok(())
    }
}

impl ReadReplica {
    fn watched(
        place: ReadReplicaPlace,
        servers: &super::Servers,
        stop: &CancellationToken,
    ) -> Arc<Self> {
        let (server, stop) = (servers.get(place.replica.id), stop.child_token());
        let refused = Cache::builder().time_to_live(REFUSAL).build();
        let replica = Arc::new(Self {
            place,
            server,
            fresh: Mutex::default(),
            refused,
            _watch: stop.clone().drop_guard(),
        });
        tokio::spawn(watch::run(Arc::downgrade(&replica), stop));
        replica
    }

    pub fn id(&self) -> Uuid {
        self.place.replica.id
    }

    pub fn url(&self) -> &Arc<ServerUrl> {
        &self.place.url
    }

    pub fn server(&self) -> Arc<Server> {
        Arc::clone(&self.server)
    }

    fn is_at(&self, place: &ReadReplicaPlace) -> bool {
        self.id() == place.replica.id && self.place.sealed == place.sealed
    }

    fn is_fresh(&self, max_lag: Duration) -> bool {
        self.fresh_since().is_some_and(|moment| moment.elapsed() < max_lag)
    }

    fn fresh_since(&self) -> Option<Instant> {
        *self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It has whatever was committed before this moment; or it is away, until the next look at it.
    fn set_fresh(&self, moment: Option<Instant>) {
        *self.fresh.lock().unwrap_or_else(PoisonError::into_inner) = moment;
    }

    fn has_refused(&self, place: &Place) -> bool {
        self.refused.contains_key(&(place.tenant.id, place.tenant.generation))
    }

    /// Remembers why there was no connection.
    fn note(&self, place: &Place, error: &CheckoutError) {
        let CheckoutError::Connect(error) = error else { return };
        tracing::debug!(tenant = %place.tenant.slug, replica = %self.place.replica.name, %error, "not served by a read replica");
        if error.is_away() { self.note_away() } else { self.note_refusal(place) }
    }

    /// Nobody is led here until the next look finds it again.
    pub fn note_away(&self) {
        self.set_fresh(None);
    }

    /// That it has not replayed a tenant's last change yet is as it should be: no word of alarm.
    pub fn note_refusal(&self, place: &Place) {
        self.refused.insert((place.tenant.id, place.tenant.generation), ());
    }
}
