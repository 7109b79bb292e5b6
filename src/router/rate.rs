//! [`Rates`]: how many statements a second each tenant may run from here.
//!
//! A tenant with a limit has [`Turns`], shared by everybody who works for it: the pools of all modes, and SQL
//! over HTTP. Each statement takes a number, and the numbers are called at the tenant's rate. Who comes after a
//! pause finds a second's worth of them called already.
//!
//! - A request waits for its turn before it holds anything, so a tenant that waits keeps no connection from
//!   its neighbours. One whose turn would come after its deadline hears that at once, and leaves no number
//!   behind: no crowd builds up. Nor does one who goes away.
//! - Who holds a connection gives it back the sooner the less it waits. So the next statements of one use, up to
//!   a second's worth, run at once, and are paid for by whoever comes next; beyond that each waits in line.
//! - The rate is the tenant's over all replicas. Each takes an equal part of it, as of a server's budget.
//!
//! No limit costs nothing: a tenant without one has no turns.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::timeout;
use uuid::Uuid;

use crate::metrics;
use crate::tenant::Tenant;

/// What may run at once after a pause, however low the rate.
const LEAST_BURST: f64 = 5.0;
/// A wait that no clock of ours tells from none.
const NO_WAIT: Duration = Duration::from_micros(1);

/// The turns of the tenants that have a rate.
pub(super) struct Rates {
    /// How many replicas share each rate.
    routers: Arc<AtomicUsize>,
    known: Mutex<HashMap<Uuid, Arc<Turns>>>,
}

/// Who may run a statement of one tenant, and when.
pub(super) struct Turns {
    routers: Arc<AtomicUsize>,
    line: Mutex<Line>,
    /// The rate is another one: whoever waits looks again.
    changed: Notify,
}

struct Line {
    /// None lets everybody through.
    rate: Option<NonZeroU32>,
    /// How many numbers have been taken.
    taken: f64,
    /// How many of them have been called, and parts of the next; ahead of those taken after a pause.
    called: f64,
    at: Instant,
}

/// A place in line. Who leaves before their turn gives the number back.
struct Place<'a> {
    turns: &'a Turns,
    number: f64,
    is_called: bool,
}

/// What the statements of one use of a connection owe. The first one waited before the connection was there.
pub(crate) struct Toll {
    turns: Arc<Turns>,
    run: AtomicU32,
}

impl Rates {
    pub fn new(routers: Arc<AtomicUsize>) -> Self {
        Self { routers, known: Mutex::default() }
    }

    /// The turns of a tenant as it is now, if its rate is limited. Its debts stay when the rate changes.
    pub fn of(&self, tenant: &Tenant) -> Option<Arc<Turns>> {
        let rate = tenant.limits.queries_per_second();
        let mut known = self.lock();
        let turns = match rate {
            Some(rate) => known.entry(tenant.id).or_insert_with(|| self.turns(rate)).clone(),
            None => known.remove(&tenant.id)?,
        };
        turns.set_rate(rate);
        rate.map(|_| turns)
    }

    /// Forgets turns that nobody uses and to whom nothing is owed.
    pub fn forget_unused(&self) {
        self.lock().retain(|_, turns| Arc::strong_count(turns) > 1 || turns.is_in_debt());
    }

    fn turns(&self, rate: NonZeroU32) -> Arc<Turns> {
        let routers = Arc::clone(&self.routers);
        let line = Line { rate: Some(rate), taken: 0.0, called: 0.0, at: Instant::now() };
        let turns = Turns { routers, line: Mutex::new(line), changed: Notify::new() };
        let burst = turns.burst(rate);
        turns.lock().called = burst;
        Arc::new(turns)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Arc<Turns>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turns {
    /// Waits for one's turn, and gives the toll for what follows; or says how long it would have taken.
    pub async fn enter(self: &Arc<Self>, deadline: Instant) -> Result<Toll, Duration> {
        if let Err(wait) = self.wait(Some(deadline)).await {
            metrics::rate_limited("refused");
            return Err(wait);
        }
        Ok(Toll { turns: Arc::clone(self), run: AtomicU32::new(0) })
    }

    async fn wait(&self, deadline: Option<Instant>) -> Result<(), Duration> {
        let mut place = self.line_up();
        let mut has_waited = false;
        loop {
            let changed = self.changed.notified();
            let wait = place.wait();
            if wait < NO_WAIT {
                place.is_called = true;
                return Ok(());
            }
            if deadline.is_some_and(|deadline| Instant::now() + wait > deadline) {
                return Err(wait);
            }
            if !has_waited {
                metrics::rate_limited("waited");
                has_waited = true;
            }
            _ = timeout(wait, changed).await;
        }
    }

    fn line_up(&self) -> Place<'_> {
        let mut line = self.lock();
        line.taken += 1.0;
        Place { turns: self, number: line.taken, is_called: false }
    }

    /// Takes a number for what runs already.
    fn owe(&self) {
        self.lock().taken += 1.0;
    }

    fn set_rate(&self, rate: Option<NonZeroU32>) {
        let mut line = self.current();
        if line.rate != rate {
            line.rate = rate;
            self.changed.notify_waiters();
        }
    }

    fn is_in_debt(&self) -> bool {
        let line = self.current();
        line.rate.is_some() && line.called < line.taken
    }

    /// The line, with all numbers called whose time has come.
    fn current(&self) -> MutexGuard<'_, Line> {
        let mut line = self.lock();
        let now = Instant::now();
        if let Some(rate) = line.rate {
            let passed = now.duration_since(line.at).as_secs_f64();
            let most = line.taken + self.burst(rate);
            line.called = (line.called + passed * self.part(rate)).min(most);
        }
        line.at = now;
        line
    }

    /// This replica's part of a rate.
    fn part(&self, rate: NonZeroU32) -> f64 {
        let routers = self.routers.load(Ordering::Relaxed).max(1);
        f64::from(rate.get()) / f64::from(u32::try_from(routers).unwrap_or(u32::MAX))
    }

    fn burst(&self, rate: NonZeroU32) -> f64 {
        self.part(rate).max(LEAST_BURST)
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place<'_> {
    /// How long until the number is called.
    fn wait(&self) -> Duration {
        let line = self.turns.current();
        line.rate.map_or(Duration::ZERO, |rate| {
            let seconds = (self.number - line.called) / self.turns.part(rate);
            Duration::from_secs_f64(seconds.max(0.0))
        })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.is_called {
            self.turns.lock().taken -= 1.0;
        }
    }
}

impl Toll {
    /// To be paid before each statement.
    pub async fn pay(&self) {
        let before = self.run.fetch_add(1, Ordering::Relaxed);
        if before == 0 {
            return;
        }
        let rate = self.turns.lock().rate;
        match rate {
            None => {}
            Some(rate) if f64::from(before) <= self.turns.burst(rate) => self.turns.owe(),
            // Without a deadline there is no refusal.
            Some(_) => _ = self.turns.wait(None).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(rate: u32, routers: usize) -> Arc<Turns> {
        Rates::new(Arc::new(AtomicUsize::new(routers))).turns(NonZeroU32::new(rate).unwrap())
    }

    /// How many are let through at once; the one after them hears how long.
    async fn at_once(turns: &Arc<Turns>) -> (u32, Duration) {
        let mut number = 0;
        loop {
            match turns.enter(Instant::now()).await {
                Ok(_) => number += 1,
                Err(wait) => return (number, wait),
            }
        }
    }

    #[tokio::test]
    async fn after_a_pause_a_seconds_worth_runs_at_once() {
        let (number, wait) = at_once(&turns(20, 1)).await;
        assert!((20..40).contains(&number), "{number}");
        assert!(wait <= Duration::from_millis(50), "{wait:?}");

        let (number, wait) = at_once(&turns(20, 2)).await;
        assert!((10..20).contains(&number), "a half for each replica: {number}");
        assert!(wait <= Duration::from_millis(100), "{wait:?}");

        let (number, _) = at_once(&turns(1, 4)).await;
        assert!((5..7).contains(&number), "{number}");
    }

    #[tokio::test]
    async fn who_is_refused_or_goes_away_leaves_no_number_behind() {
        let turns = turns(1, 1);
        at_once(&turns).await;

        for _ in 0..100 {
            assert!(turns.enter(Instant::now()).await.is_err());
            let patient = turns.enter(Instant::now() + Duration::from_mins(1));
            assert!(timeout(Duration::ZERO, patient).await.is_err());
        }

        let (_, wait) = at_once(&turns).await;
        assert!(wait <= Duration::from_secs(1), "{wait:?}");
    }

    #[tokio::test]
    async fn a_higher_rate_calls_those_who_wait() {
        let turns = turns(1, 1);
        for _ in 0..200 {
            turns.owe();
        }
        let waiting = tokio::spawn({
            let turns = Arc::clone(&turns);
            async move { turns.enter(Instant::now() + Duration::from_hours(1)).await.is_ok() }
        });
        tokio::task::yield_now().await;

        turns.set_rate(NonZeroU32::new(1000));

        let called = timeout(Duration::from_secs(20), waiting).await;
        assert!(called.expect("it is not 200 s any more").unwrap());
    }

    #[tokio::test]
    async fn one_use_owes_a_seconds_worth_and_then_waits() {
        let turns = turns(10, 1);
        let toll = turns.enter(Instant::now()).await.unwrap();

        let started = Instant::now();
        for _ in 0..11 {
            toll.pay().await;
        }
        let (number, wait) = at_once(&turns).await;
        assert!(number == 0 || started.elapsed() > Duration::from_millis(100), "it is in debt");
        assert!(wait <= Duration::from_millis(200), "{wait:?}");
        for _ in 0..10 {
            toll.pay().await;
        }

        assert!(started.elapsed() > Duration::from_millis(900), "{:?}", started.elapsed());
    }
}
