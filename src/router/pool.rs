//! [`TenantPool`]: the connections to one tenant's database, for one generation and mode.
//!
//! Admission comes first and outside of the pool: the tenant's own permits, then the server's fair
//! queue. So a tenant with hundreds of waiting requests has no more of them in that queue than it may
//! hold connections, and does not keep its neighbours waiting. Who has both takes an idle connection or
//! opens one. A connection goes back before its permits do.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tenantry_provisioning::{ServerUrl, TlsConnector};
use tokio::sync::Semaphore;
use tokio::time::timeout_at;
use uuid::Uuid;

use super::read_replicas::ReadReplica;
use super::server::{OpenError as _, Opened, Pool, Server};
use super::session::{ConnectError, Session};
use super::{Mode, RouterSettings};
use crate::catalog::tenants::Place;
use crate::tenant::EffectiveLimits;

/// Connections to one tenant's database. Once closed, it never gives one out again.
pub(super) struct TenantPool {
    place: Arc<Place>,
    mode: Mode,
    server: Arc<Server>,
    /// Where the tenant's server is, or that read replica of it.
    home: Arc<ServerUrl>,
    permits: Semaphore,
    idle: Mutex<Idle>,
    opened: Opened,
}

#[derive(Default)]
struct Idle {
    closed: bool,
    /// The one used last stands last; it is warm, and is taken first.
    sessions: VecDeque<(Instant, Box<Session>)>,
}

/// The right to hold one connection of a pool.
pub(super) struct Admission {
    pool: Arc<TenantPool>,
}

/// Why a pool gave no connection.
#[derive(Debug)]
pub(super) enum CheckoutError {
    /// All are in use, of the tenant or of the server, until the deadline.
    Busy,
    /// The pool is closed: its tenant has changed.
    Closed,
    /// None could be opened.
    Connect(ConnectError),
}

impl TenantPool {
    pub fn new(
        place: Arc<Place>,
        mode: Mode,
        server: Arc<Server>,
        settings: &RouterSettings,
    ) -> Self {
        let home = place.server.clone();
        Self::at(home, place, mode, server, settings)
    }

    /// The same on a read replica of the tenant's server.
    pub fn on_replica(place: Arc<Place>, replica: &ReadReplica, settings: &RouterSettings) -> Self {
        let (home, mode) = (replica.url().clone(), Mode::Elsewhere(replica.id()));
        Self::at(home, place, mode, replica.server(), settings)
    }

    fn at(
        home: Arc<ServerUrl>,
        place: Arc<Place>,
        mode: Mode,
        server: Arc<Server>,
        settings: &RouterSettings,
    ) -> Self {
        let most = place.tenant.limits.connections().unwrap_or(usize::MAX);
        Self {
            place,
            mode,
            server,
            home,
            permits: Semaphore::new(settings.pool_max_size.min(most)),
            idle: Mutex::default(),
            opened: Opened::default(),
        }
    }

    /// Whether its connections are as good as new ones under these limits.
    pub fn suits(&self, limits: &EffectiveLimits) -> bool {
        self.place.tenant.limits.same_connections(limits)
    }

    /// A connection, and the right to hold it.
    pub async fn checkout(
        self: &Arc<Self>,
        deadline: Instant,
        patience: Duration,
    ) -> Result<(Admission, Box<Session>), CheckoutError> {
        let admission = self.admit(deadline).await?;
        loop {
            if let Some(session) = self.take_idle()? {
                return Ok((admission, session));
            }
            // Boxed: it is large, and most requests never open one.
            match Box::pin(self.open(deadline, patience)).await {
                Ok(session) => return Ok((admission, session)),
                Err(CheckoutError::Connect(error))
                    if error.is_away()
                        && !matches!(error, ConnectError::Away)
                        && Instant::now() < deadline => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// A connection without a second attempt at a server that is away.
    pub async fn try_checkout(
        self: &Arc<Self>,
        deadline: Instant,
        patience: Duration,
    ) -> Result<(Admission, Box<Session>), CheckoutError> {
        let admission = self.admit(deadline).await?;
        if let Some(session) = self.take_idle()? {
            return Ok((admission, session));
        }
        let session = Box::pin(self.open(deadline, patience)).await?;
        Ok((admission, session))
    }

    async fn admit(self: &Arc<Self>, deadline: Instant) -> Result<Admission, CheckoutError> {
        let permit = if let Ok(permit) = self.permits.try_acquire() {
            permit
        } else {
            let acquired = timeout_at(deadline.into(), self.permits.acquire()).await;
            acquired.map_err(|_| CheckoutError::Busy)?.expect("nobody closes it")
        };
        self.server.enter(deadline).await.map_err(|_| CheckoutError::Busy)?;
        permit.forget();
        Ok(Admission { pool: Arc::clone(self) })
    }

    async fn open(
        self: &Arc<Self>,
        deadline: Instant,
        patience: Duration,
    ) -> Result<Box<Session>, CheckoutError> {
        let _turn = self.server.turn(deadline).await.map_err(|_| CheckoutError::Busy)?;
        // One may have come back in the meantime.
        if let Some(session) = self.take_idle()? {
            return Ok(session);
        }
        let pool: Arc<dyn Pool> = Arc::<Self>::clone(self);
        let slot = self.server.slot(&pool, deadline).await.map_err(|_| CheckoutError::Busy)?;
        let open = Session::open(&self.place, &self.home, self.mode, slot, patience);
        let session = self.server.ask(&self.home, deadline, patience, open).await;
        session.map(Box::new).map_err(CheckoutError::Connect)
    }

    /// The idle connection that was used last, if one of them lives.
    fn take_idle(&self) -> Result<Option<Box<Session>>, CheckoutError> {
        let mut idle = self.lock_idle();
        if idle.closed {
            return Err(CheckoutError::Closed);
        }
        let living =
            |(_, session): (Instant, Box<Session>)| (!session.is_closed()).then_some(session);
        Ok(std::iter::from_fn(|| idle.sessions.pop_back()).find_map(living))
    }

    /// With what a connection is encrypted.
    pub fn tls(&self) -> TlsConnector {
        self.home.tls()
    }

    /// Takes a connection back that is as good as new.
    pub fn put_back(&self, mut session: Box<Session>) {
        session.is_used = true;
        let mut idle = self.lock_idle();
        if !idle.closed && !self.server.is_over() {
            idle.sessions.push_back((Instant::now(), session));
        }
    }

    /// Gives out nothing any more. Connections in use end with their work.
    pub fn close(&self) {
        let mut idle = self.lock_idle();
        idle.closed = true;
        idle.sessions.clear();
    }

    fn lock_idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool for TenantPool {
    fn tenant(&self) -> Uuid {
        self.place.tenant.id
    }

    fn opened(&self) -> &Opened {
        &self.opened
    }

    fn idle(&self) -> usize {
        self.lock_idle().sessions.len()
    }

    fn idle_since(&self) -> Option<Instant> {
        self.lock_idle().sessions.front().map(|(since, _)| *since)
    }

    fn close_oldest(&self) -> bool {
        let oldest = self.lock_idle().sessions.pop_front();
        oldest.is_some()
    }

    fn close_idle(&self, timeout: Duration) {
        self.lock_idle()
            .sessions
            .retain(|(since, session)| since.elapsed() < timeout && !session.is_closed());
    }
}

impl Admission {
    pub fn pool(&self) -> &TenantPool {
        &self.pool
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.pool.server.leave();
        self.pool.permits.add_permits(1);
    }
}
