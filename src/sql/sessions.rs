//! [`Sessions`]: who gets a session with a tenant's database, and what becomes of it afterwards.
//!
//! - At most as many sessions of a tenant as its pool may have connections; whoever finds none free waits in
//!   line, with a deadline.
//! - What they hold open counts towards the server's budget, as the router's connections do: an idle one is
//!   closed when another tenant needs the room.
//! - A new session proves by the database's stamp that it reached the tenant, as the router's do.
//! - A session belongs to one tenant, one generation and one kind of access for life.
//! - It comes back only in step, outside a transaction, and after statements that leave nothing behind as
//!   far as their text shows. Any other is closed. A statement that still runs is cancelled first, and its
//!   place stays taken until its backend has ended.
//!   Closing leaves nothing to doubt: no command of PostgreSQL makes a session forget the names of
//!   settings that it has seen.
//! - What comes back is reset all the same, for a function may have done what no text shows; unless it ran
//!   nothing but plain queries ([`is_pure`]). The server does that while nobody waits for the session.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tenantry_provisioning::ServerUrl;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use super::SqlError;
use super::pure::is_pure;
use super::wire::{self, Preparing, Receive, Statement, Wire, WireError};
use crate::catalog::changes::Change;
use crate::catalog::tenants::Place;
use crate::metrics;
use crate::resolve::Access;
use crate::router::read_replicas::{PATIENCE, ReadReplica};
use crate::router::server::{Entry, OpenError as _, Opened, Pool, Verdict};
use crate::router::{Backend, KEPT, PAUSE, RouterError, TRIES, TenantRouter, Toll, is_harmless};
use crate::tenant::{EffectiveLimits, TenantScope, TenantSlug};

mod refused;
mod tenant;

use refused::Refused;
use tenant::{Idle, Line, Tenant};

/// How often idle sessions are looked for.
const TICK: Duration = Duration::from_secs(1);

/// Sessions with tenants' databases. Cheap to clone; clones share them.
#[derive(Clone)]
pub(super) struct Sessions {
    shared: Arc<Shared>,
    /// Ends the background task with the last handle.
    _task: Arc<DropGuard>,
}

struct Shared {
    router: TenantRouter,
    statement_timeout: Duration,
    /// KiB that one tenant's answers may take until they are read.
    unsent: usize,
    tenants: Mutex<HashMap<Whereabouts, Arc<Tenant>>>,
}

/// A tenant, and a read replica unless it is the tenant's server.
type Whereabouts = (TenantSlug, Option<Uuid>);

/// A session for one piece of work.
pub(super) struct Session {
    line: Option<Line>,
    access: Access,
    /// Whether the session may differ from a fresh one.
    marked: bool,
    /// Whether nothing so far can have left anything to reset.
    is_pure: bool,
    tenant: Arc<Tenant>,
    /// Whether it is on a read replica.
    pub is_elsewhere: bool,
    /// If the tenant's rate is limited.
    toll: Option<Toll>,
    permit: Option<(Entry, OwnedSemaphorePermit)>,
}

impl Sessions {
    /// No session yet. Needs a running tokio runtime for its background task.
    pub fn new(router: TenantRouter, statement_timeout: Duration, unsent: usize) -> Self {
        let shared = Shared { router, statement_timeout, unsent, tenants: Mutex::default() };
        let (shared, stop) = (Arc::new(shared), CancellationToken::new());
        tokio::spawn(Arc::clone(&shared).tend(stop.clone()));
        Self { shared, _task: Arc::new(stop.drop_guard()) }
    }

    /// A session for reading what may be a moment old: on a read replica, if one can give it now.
    pub async fn checkout_elsewhere(
        &self,
        tenant: &TenantScope,
        access: Access,
    ) -> Result<Session, SqlError> {
        let router = &self.shared.router;
        let deadline = Instant::now() + router.settings().pool_wait_timeout;
        let (place, replicas, toll) = router.enter_to_read(tenant.slug(), deadline).await?;
        check(tenant, &place)?;
        for replica in replicas {
            let until = deadline.min(Instant::now() + PATIENCE);
            let opening = self.shared.open(&place, Some(&replica), access, until);
            match timeout_at(until.into(), opening).await {
                Ok(Ok(mut session)) => {
                    (session.toll, session.is_elsewhere) = (toll, true);
                    return Ok(session);
                }
                Err(_) | Ok(Err(Refused::Busy)) => {}
                Ok(Err(refused)) if refused.is_away() => replica.note_away(),
                Ok(Err(_)) => replica.note_refusal(&place),
            }
        }
        self.checkout_on_server(tenant, place, toll, access, deadline).await
    }

    /// A session with the tenant's database, as soon as there is one.
    pub async fn checkout(
        &self,
        tenant: &TenantScope,
        access: Access,
    ) -> Result<Session, SqlError> {
        let router = &self.shared.router;
        let deadline = Instant::now() + router.settings().pool_wait_timeout;
        let (place, toll) = router.enter(tenant.slug(), deadline).await?;
        self.checkout_on_server(tenant, place, toll, access, deadline).await
    }

    async fn checkout_on_server(
        &self,
        tenant: &TenantScope,
        mut place: Arc<Place>,
        toll: Option<Toll>,
        access: Access,
        deadline: Instant,
    ) -> Result<Session, SqlError> {
        let (router, slug) = (&self.shared.router, tenant.slug());
        let (mut tries, mut away) = (0, None);
        loop {
            check(tenant, &place)?;
            let opening = self.shared.open(&place, None, access, deadline);
            match timeout_at(deadline.into(), opening).await {
                Ok(Ok(mut session)) => {
                    session.toll = toll;
                    return Ok(session);
                }
                Err(_) | Ok(Err(Refused::Busy)) => {
                    let busy = || RouterError::Busy(slug.clone()).into();
                    return Err(away.map_or_else(busy, SqlError::Unreachable));
                }
                // It may be coming back, and the server tells when to ask it again.
                Ok(Err(Refused::Wire(error)))
                    if error.verdict() != Verdict::There && Instant::now() < deadline =>
                {
                    away = Some(error);
                }
                // The route may be a moment behind; look again before saying no. So may the catalog, as when
                // a password is changed.
                Ok(Err(refused)) if tries < TRIES && refused.may_be_stale() => {
                    tries += 1;
                    if tries > 2 {
                        sleep(PAUSE).await;
                    }
                    router.forget(slug).await;
                }
                Ok(Err(Refused::Stamp)) => return Err(TenantRouter::wrong_stamp(slug).into()),
                Ok(Err(Refused::Away)) => return Err(SqlError::Unreachable(WireError::Away)),
                Ok(Err(Refused::Wire(error) | Refused::Alone(error))) => {
                    return Err(SqlError::Unreachable(error));
                }
            }
            place = router.active(slug, deadline).await?;
        }
    }
}

impl Shared {
    async fn open(
        &self,
        place: &Place,
        replica: Option<&ReadReplica>,
        access: Access,
        deadline: Instant,
    ) -> Result<Session, Refused> {
        let tenant = self.tenant(place, replica);
        let permit = if let Ok(permit) = Arc::clone(&tenant.places).try_acquire_owned() {
            permit
        } else {
            let started = Instant::now();
            let waiting = Arc::clone(&tenant.places).acquire_owned();
            let permit = waiting.await.expect("nobody closes the semaphore");
            metrics::pool_wait(started.elapsed());
            permit
        };
        let entry = tenant.server.entry(deadline).await.map_err(|_| Refused::Busy)?;
        let mut found = None;
        while found.is_none()
            && let Some(mut line) = tenant.take(access)
        {
            found = line.wire.settle().await.then_some(line);
        }
        let schema = place.tenant.schema();
        let line = if let Some(mut line) = found {
            if line.schema != schema {
                line.wire.forget_statements();
                line.schema = schema;
            }
            line
        } else {
            let home = replica.map_or(&place.server, ReadReplica::url);
            let _turn = tenant.server.turn(deadline).await.map_err(|_| Refused::Busy)?;
            let pool: Arc<dyn Pool> = Arc::<Tenant>::clone(&tenant);
            let slot = tenant.server.slot(&pool, deadline).await.map_err(|_| Refused::Busy)?;
            let patience = self.router.settings().pool_wait_timeout;
            let connect = self.connect(place, home, access);
            let wire = tenant.server.ask(home, deadline, patience, connect).await?;
            let (home, role) = (Arc::clone(home), place.tenant.role.clone());
            let backend = Backend { home, role, process_id: wire.process_id() };
            Line { wire, backend, schema, _slot: slot }
        };
        let permit = Some((entry, permit));
        Ok(Session {
            line: Some(line),
            access,
            marked: false,
            is_pure: true,
            tenant,
            is_elsewhere: false,
            toll: None,
            permit,
        })
    }

    async fn connect(
        &self,
        place: &Place,
        home: &ServerUrl,
        access: Access,
    ) -> Result<Wire, Refused> {
        let tenant = &place.tenant;
        let options = options(access, &tenant.limits, self.statement_timeout);
        let url = home
            .with_database(tenant.database.as_str())
            .with_user(tenant.role.as_str(), &place.password)
            .with_options(&options);
        let mut wire = wire::connect(&url).await.map_err(Refused::Wire)?;
        let question = "-- sessions::stamp\nselect current_setting('tenantry.tenant', true)";
        let answered = wire.command(question).await.map_err(Refused::Wire)?;
        if answered.value == Some(format!("{}:{}", tenant.id, tenant.epoch)) {
            Ok(wire)
        } else {
            Err(Refused::Stamp)
        }
    }

    /// The sessions of the tenant as the place has it; those of an older generation are closed.
    fn tenant(&self, place: &Place, replica: Option<&ReadReplica>) -> Arc<Tenant> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        let now = &place.tenant;
        let key = (now.slug.clone(), replica.map(ReadReplica::id));
        if let Some(known) = tenants.get(&key)
            && (known.id, known.generation) == (now.id, now.generation)
            && known.limits.same_connections(&now.limits)
        {
            return Arc::clone(known);
        }
        let limit = now.limits.connections().unwrap_or(usize::MAX);
        let most = self.router.settings().pool_max_size.min(limit);
        // A place that somebody overtook is good for the one who has it, and for nobody after.
        let overtaken = tenants
            .get(&key)
            .is_some_and(|known| known.id == now.id && known.generation > now.generation);
        let tenant = Arc::new(Tenant {
            id: now.id,
            generation: now.generation,
            limits: now.limits.clone(),
            most,
            places: Arc::new(Semaphore::new(most)),
            unsent: Arc::new(Semaphore::new(self.unsent)),
            idle: Mutex::new((!overtaken).then(Vec::new)),
            server: replica.map_or_else(|| self.router.server(now.server_id), ReadReplica::server),
            opened: Opened::default(),
            meter: self.router.meter(now.id),
        });
        if overtaken {
            return tenant;
        }
        if let Some(old) = tenants.insert(key, Arc::clone(&tenant)) {
            old.close();
        }
        tenant
    }

    /// Follows the catalog and closes what is idle.
    async fn tend(self: Arc<Self>, stop: CancellationToken) {
        let mut news = self.router.news();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                change = news.next() => if let Change::Tenant(slug) = change {
                    let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
                    tenants.retain(|(known, _), tenant| {
                        let stays = *known != slug;
                        if !stays {
                            tenant.close();
                        }
                        stays
                    });
                },
                () = sleep(TICK) => self.close_idle(),
            }
        }
    }

    fn close_idle(&self) {
        let most = self.router.settings().pool_idle_timeout;
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        tenants.retain(|_, tenant| {
            tenant.close_idle(most);
            // Every session has it, and so does who is about to ask it for one.
            Arc::strong_count(tenant) > 1
        });
    }
}

impl Session {
    /// Runs one statement when it is its turn; see [`Wire::run`]. `anew` means that nothing counts that was
    /// prepared before, `last` that no other follows, nor a command.
    pub async fn run(
        &mut self,
        statement: &Statement,
        anew: bool,
        last: bool,
        result: &mut impl Receive,
    ) -> Result<Option<String>, WireError> {
        if let Some(toll) = &self.toll {
            toll.pay().await;
        }
        self.tenant.meter.query();
        let harmless = is_harmless(&statement.text);
        self.marked |= !harmless;
        let preparing = match (anew, harmless) {
            (true, _) => Preparing::Anew,
            (false, true) => Preparing::Kept,
            (false, false) => Preparing::Known,
        };
        self.is_pure &= is_pure(&statement.text);
        let last = last && !self.marked && !self.is_pure;
        self.wire().run(statement, preparing, last, result).await
    }

    /// Runs a command of this project's own; returns its tag.
    pub async fn command(&mut self, text: &str) -> Result<String, WireError> {
        Ok(self.wire().command(text).await?.tag)
    }

    /// Counts an answer.
    pub fn answered(&self, rows: usize, bytes: usize) {
        self.tenant.meter.answered(rows, bytes);
    }

    /// KiB that the tenant's answers may take until they are read.
    pub fn unsent(&self) -> Arc<Semaphore> {
        Arc::clone(&self.tenant.unsent)
    }

    /// Whether a transaction is open.
    pub fn in_transaction(&self) -> bool {
        self.line.as_ref().is_some_and(|line| line.wire.in_transaction())
    }

    fn wire(&mut self) -> &mut Wire {
        let line = self.line.as_mut().expect("a session has its line until it is dropped");
        &mut line.wire
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let (Some(mut line), permit) = (self.line.take(), self.permit.take()) else { return };
        let wire = &mut line.wire;
        if wire.is_busy() {
            // Nobody waits for the answer: stop the server's work on it too. The place is free after that.
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move {
                    let stopping = async {
                        line.wire.cancel().send().await;
                        line.wire.ended().await;
                    };
                    line.backend.clone().see_off(stopping).await;
                    drop((line, permit));
                });
            }
            return;
        }
        // The budget may have shrunk meanwhile.
        let is_kept = !self.marked && !self.tenant.server.is_over();
        if is_kept && (if self.is_pure { wire.is_idle() } else { wire.begin_reset() }) {
            wire.shrink();
            let mut idle = self.tenant.lock_idle();
            if let Some(idle) = idle.as_mut() {
                idle.push(Idle { line, access: self.access, since: Instant::now() });
            }
        }
    }
}

/// The slug may have become another tenant's since the caller was let in.
fn check(tenant: &TenantScope, place: &Place) -> Result<(), RouterError> {
    if place.tenant.id == tenant.id() {
        return Ok(());
    }
    Err(RouterError::AnotherTenant(tenant.slug().clone()))
}

/// What a session begins with. A statement that could lift one of them marks its session.
fn options(access: Access, limits: &EffectiveLimits, statement_timeout: Duration) -> String {
    let timeout = limits.statement_timeout().filter(|own| !own.is_zero());
    let timeout = timeout.map_or(statement_timeout, |own| own.min(statement_timeout));
    let mut options =
        vec![KEPT.to_owned(), format!("-c statement_timeout={}", timeout.as_millis())];
    let idle = limits.idle_in_transaction_timeout();
    options.extend(
        idle.map(|timeout| {
            format!("-c idle_in_transaction_session_timeout={}", timeout.as_millis())
        }),
    );
    if access == Access::ReadOnly {
        options.push("-c default_transaction_read_only=on".to_owned());
    }
    options.join(" ")
}
