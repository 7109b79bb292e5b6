//! [`Server`]: what this replica may hold open on one PostgreSQL server, over all tenants.
//!
//! Two counts keep it within its budget. *In use*: a fair queue of permits; a request that has one may
//! hold a connection. *Open*: physical connections, in use, idle, or on their way in or out; each has a
//! [`Slot`]. A request that needs a new connection while all slots are taken closes the idle one that
//! was used least recently, whosever it is: as no more requests than slots can hold a permit, there is
//! always one that is idle, or on its way out.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::timeout_at;
use uuid::Uuid;

mod away;

use away::Away;
pub(crate) use away::{OpenError, Verdict, verdict};

/// How long who waits for a slot relies on being told.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Connections that are being opened at a time: each costs the server a process and a handshake.
const OPENING: usize = 8;

/// One PostgreSQL server, as this replica uses it.
pub(crate) struct Server {
    in_use: Semaphore,
    opening: Semaphore,
    state: Mutex<State>,
    /// Whether the budget has shrunk below what is open or in use: what comes back is closed then. Kept
    /// beside the state, so that who gives a connection back need not look there.
    over: AtomicBool,
    freed: Notify,
    /// Held by the one who asks a server that is away.
    asking: tokio::sync::Mutex<()>,
}

struct State {
    budget: usize,
    /// Permits that are to be taken out of use as they come back, because the budget has shrunk.
    owed: usize,
    open: usize,
    /// Pools that have, or had, a connection.
    pools: Vec<Weak<dyn Pool>>,
    away: Option<Away>,
}

/// Connections to one tenant's database, of whichever kind, among which some may lie idle.
pub(crate) trait Pool: Send + Sync {
    /// Whose they are.
    fn tenant(&self) -> Uuid;
    /// How many there are.
    fn opened(&self) -> &Opened;
    /// How many lie idle.
    fn idle(&self) -> usize;
    /// Since when the one lies idle that was used least recently.
    fn idle_since(&self) -> Option<Instant>;
    /// Closes that one; says whether there was one.
    fn close_oldest(&self) -> bool;
    /// Closes what lies idle for longer than that, and what has ended.
    fn close_idle(&self, timeout: Duration);
}

/// How many physical connections a pool has, wherever they are.
#[derive(Default)]
pub(crate) struct Opened {
    number: AtomicUsize,
    /// Whether the server knows the pool.
    registered: AtomicBool,
}

/// The right to hold a connection.
pub(crate) struct Entry {
    server: Arc<Server>,
}

/// The right to one physical connection, until it has ended.
pub(crate) struct Slot {
    server: Arc<Server>,
    pool: Arc<dyn Pool>,
}

/// The deadline of a request has passed.
#[derive(Debug)]
pub(crate) struct TooLate;

impl Server {
    pub fn new(budget: usize) -> Self {
        let state = State { budget, owed: 0, open: 0, pools: Vec::new(), away: None };
        Self {
            in_use: Semaphore::new(budget),
            opening: Semaphore::new(OPENING),
            state: Mutex::new(state),
            over: AtomicBool::new(false),
            freed: Notify::new(),
            asking: tokio::sync::Mutex::new(()),
        }
    }

    /// Waits for the right to hold a connection, which ends with [`Server::leave`].
    pub async fn enter(&self, deadline: Instant) -> Result<(), TooLate> {
        if let Ok(permit) = self.in_use.try_acquire() {
            permit.forget();
            return Ok(());
        }
        let acquired = timeout_at(deadline.into(), self.in_use.acquire()).await;
        acquired.map_err(|_| TooLate)?.expect("nobody closes it").forget();
        Ok(())
    }

    /// Gives the right to hold a connection back.
    pub fn leave(&self) {
        if self.is_over() {
            let mut state = self.state();
            if state.owed > 0 {
                state.owed -= 1;
                self.note_over(&state);
                return;
            }
        }
        self.in_use.add_permits(1);
    }

    /// [`Server::enter`], for whoever keeps the right on its own.
    pub async fn entry(self: &Arc<Self>, deadline: Instant) -> Result<Entry, TooLate> {
        self.enter(deadline).await?;
        Ok(Entry { server: Arc::clone(self) })
    }

    /// Waits for one's turn to open a connection. Who waits here has closed nobody's idle one yet.
    pub async fn turn(&self, deadline: Instant) -> Result<SemaphorePermit<'_>, TooLate> {
        let turn = timeout_at(deadline.into(), self.opening.acquire()).await;
        Ok(turn.map_err(|_| TooLate)?.expect("nobody closes it"))
    }

    /// Waits for a slot, and makes room for it if need be.
    pub async fn slot(
        self: &Arc<Self>,
        pool: &Arc<dyn Pool>,
        deadline: Instant,
    ) -> Result<Slot, TooLate> {
        loop {
            // In line before the look, or two slots that are freed at once wake only one of those who wait.
            let mut freed = pin!(self.freed.notified());
            freed.as_mut().enable();
            if self.take_slot(pool) {
                return Ok(Slot { server: Arc::clone(self), pool: Arc::clone(pool) });
            }
            self.close_least_recent();
            // Who has waited longer gets the slot of the one just closed, and a connection that is laid down
            // frees none.
            let until = deadline.min(Instant::now() + LOOK_AGAIN);
            let freed = timeout_at(until.into(), freed).await;
            if freed.is_err() && Instant::now() >= deadline {
                return Err(TooLate);
            }
        }
    }

    fn take_slot(&self, pool: &Arc<dyn Pool>) -> bool {
        let mut state = self.state();
        if state.open >= state.budget {
            return false;
        }
        state.open += 1;
        let opened = pool.opened();
        opened.number.fetch_add(1, Ordering::Relaxed);
        if !opened.registered.swap(true, Ordering::Relaxed) {
            state.pools.push(Arc::downgrade(pool));
        }
        true
    }

    /// Closes the idle connection that was used least recently, if there is one.
    fn close_least_recent(&self) {
        let pools: Vec<_> = self.state().pools.iter().filter_map(Weak::upgrade).collect();
        let mut oldest: Vec<_> =
            pools.iter().filter_map(|pool| Some((pool.idle_since()?, pool))).collect();
        oldest.sort_by_key(|(since, _)| *since);
        _ = oldest.into_iter().any(|(_, pool)| pool.close_oldest());
    }

    /// Another budget is in force from now on; what is open beyond it is closed as it is given back.
    pub fn set_budget(&self, budget: usize) {
        let (mut grown, surplus) = {
            let mut state = self.state();
            let before = std::mem::replace(&mut state.budget, budget);
            let grown = budget.saturating_sub(before);
            let shrunk = before.saturating_sub(budget);
            let forgiven = grown.min(state.owed);
            state.owed -= forgiven;
            let taken = self.in_use.forget_permits(shrunk);
            state.owed += shrunk - taken;
            self.note_over(&state);
            (grown - forgiven, state.open.saturating_sub(budget))
        };
        if grown > 0 {
            self.in_use.add_permits(grown);
            while grown > 0 {
                self.freed.notify_one();
                grown -= 1;
            }
        }
        for _ in 0..surplus {
            self.close_least_recent();
        }
    }

    /// Pools that hold nothing any more are forgotten; returns those that do.
    pub fn pools(&self) -> Vec<Arc<dyn Pool>> {
        let mut state = self.state();
        state.pools.retain(|pool| pool.upgrade().is_some_and(|pool| pool.opened().is_any()));
        state.pools.iter().filter_map(Weak::upgrade).collect()
    }

    /// Whether what comes back must be closed, as the budget has shrunk.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn note_over(&self, state: &State) {
        self.over.store(state.owed > 0 || state.open > state.budget, Ordering::Relaxed);
    }

    /// How many more connections may be in use than are.
    pub fn free(&self) -> usize {
        self.in_use.available_permits()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Opened {
    pub fn number(&self) -> usize {
        self.number.load(Ordering::Relaxed)
    }

    /// Whether the server must go on knowing the pool.
    fn is_any(&self) -> bool {
        let any = self.number() > 0;
        self.registered.store(any, Ordering::Relaxed);
        any
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.server.leave();
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.pool.opened().number.fetch_sub(1, Ordering::Relaxed);
        let mut state = self.server.state();
        state.open -= 1;
        self.server.note_over(&state);
        drop(state);
        self.server.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use futures_util::poll;

    use super::*;

    /// One connection, in use until somebody lays it down.
    #[derive(Default)]
    struct One {
        opened: Opened,
        idle: Mutex<Option<Slot>>,
        /// Where those who close one meet, before and after.
        together: Option<Arc<Barrier>>,
    }

    impl Pool for One {
        fn tenant(&self) -> Uuid {
            Uuid::nil()
        }

        fn opened(&self) -> &Opened {
            &self.opened
        }

        fn idle(&self) -> usize {
            usize::from(self.idle.lock().unwrap().is_some())
        }

        fn idle_since(&self) -> Option<Instant> {
            self.idle.lock().unwrap().as_ref().map(|_| Instant::now())
        }

        fn close_oldest(&self) -> bool {
            let Some(slot) = self.idle.lock().unwrap().take() else { return false };
            let meet = || self.together.as_ref().map(|together| together.wait());
            meet();
            drop(slot);
            meet();
            true
        }

        fn close_idle(&self, _: Duration) {}
    }

    #[tokio::test]
    async fn a_connection_that_is_laid_down_after_the_look_makes_room_all_the_same() {
        let (server, deadline) =
            (Arc::new(Server::new(1)), Instant::now() + Duration::from_secs(5));
        let one = Arc::new(One::default());
        let pool: Arc<dyn Pool> = Arc::<One>::clone(&one);
        let slot = server.slot(&pool, deadline).await.unwrap();

        let other: Arc<dyn Pool> = Arc::new(One::default());
        let (got, ()) = tokio::join!(server.slot(&other, deadline), async {
            *one.idle.lock().unwrap() = Some(slot);
        });

        assert!(got.is_ok(), "one lies idle");
    }

    #[tokio::test]
    async fn whose_slot_went_to_one_who_had_waited_longer_gets_the_next_that_is_laid_down() {
        let (server, deadline) =
            (Arc::new(Server::new(1)), Instant::now() + Duration::from_secs(5));
        let [first, second, third] = [(); 3].map(|()| Arc::new(One::default()));
        let pools =
            [&first, &second, &third].map(|one| -> Arc<dyn Pool> { Arc::<One>::clone(one) });
        let slot = server.slot(&pools[0], deadline).await.unwrap();

        let mut longer = pin!(server.slot(&pools[1], deadline));
        assert!(poll!(longer.as_mut()).is_pending(), "it is in use");
        *first.idle.lock().unwrap() = Some(slot);
        let mut shorter = pin!(server.slot(&pools[2], deadline));
        assert!(poll!(shorter.as_mut()).is_pending(), "another was there before");
        *second.idle.lock().unwrap() = Some(longer.await.unwrap());

        assert!(shorter.await.is_ok(), "one lies idle");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn two_who_close_an_idle_connection_at_the_same_moment_both_get_its_slot() {
        let (server, deadline) =
            (Arc::new(Server::new(2)), Instant::now() + Duration::from_secs(5));
        let together = Arc::new(Barrier::new(2));
        let idle =
            [(); 2].map(|()| One { together: Some(Arc::clone(&together)), ..One::default() });
        let idle = idle.map(Arc::new);
        for one in &idle {
            let pool: Arc<dyn Pool> = Arc::<One>::clone(one);
            *one.idle.lock().unwrap() = Some(server.slot(&pool, deadline).await.unwrap());
        }

        let slots = [(); 2].map(|()| {
            let server = Arc::clone(&server);
            tokio::spawn(async move {
                let pool: Arc<dyn Pool> = Arc::new(One::default());
                server.slot(&pool, deadline).await
            })
        });

        let slots = futures_util::future::try_join_all(slots).await.unwrap();
        assert!(slots.iter().all(Result::is_ok), "two lay idle");
    }
}
