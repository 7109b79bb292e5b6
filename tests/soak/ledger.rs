//! [`Ledger`]: what a tenant's clients were promised, and when something may have come between.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tenantry::tenant::TenantSlug;
use uuid::Uuid;

/// Routers hear of a change within this time, also on a machine that has much to do.
const NEWS: Duration = Duration::from_secs(8);
/// Faults that are told one by one.
const TOLD: usize = 20;

/// What happens to a tenant, and with it what its clients may notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// No connection, and the end of those that there are.
    Suspended,
    /// Promises made since the backup are undone; statements that run at the swap end.
    Restored,
    /// No connection any more.
    Deleted,
    /// Statements that were running end.
    ServerRestarted,
}

/// What a client notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The tenant is not served, or is none.
    Refused,
    /// A statement, or the session under it, was ended.
    CutOff,
    /// Anything else.
    Fault,
}

/// One tenant's promises.
pub struct Ledger {
    pub slug: TenantSlug,
    /// When the first change began.
    started: Instant,
    /// In every value, and known to nobody else.
    secret: Uuid,
    next: AtomicI64,
    retired: AtomicBool,
    windows: Mutex<Vec<Span>>,
    /// When each write was acknowledged.
    promises: Mutex<BTreeMap<i64, Instant>>,
    faults: Mutex<Vec<String>>,
    excused: AtomicU64,
    reads: AtomicU64,
}

#[derive(Clone, Copy)]
struct Span {
    cause: Cause,
    from: Instant,
    to: Option<Instant>,
}

/// A time in which something may go wrong for a tenant; without [`Window::close`] it never ends.
pub struct Window {
    ledger: Arc<Ledger>,
    index: usize,
}

/// What all tenants together have seen.
#[derive(Default)]
pub struct Tally {
    pub writes: usize,
    pub reads: u64,
    pub excused: u64,
    pub faults: Vec<String>,
}

impl Ledger {
    pub fn new(slug: TenantSlug, started: Instant) -> Self {
        Self {
            slug,
            started,
            secret: Uuid::new_v4(),
            next: AtomicI64::new(1),
            retired: AtomicBool::new(false),
            windows: Mutex::default(),
            promises: Mutex::default(),
            faults: Mutex::default(),
            excused: AtomicU64::new(0),
            reads: AtomicU64::new(0),
        }
    }

    pub fn open(self: &Arc<Self>, cause: Cause) -> Window {
        let mut windows = lock(&self.windows);
        windows.push(Span { cause, from: Instant::now(), to: None });
        Window { ledger: Arc::clone(self), index: windows.len() - 1 }
    }

    /// Its clients may go home.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// What to write next.
    pub fn next(&self) -> (i64, String) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (number, self.value(number))
    }

    pub fn value(&self, number: i64) -> String {
        format!("{}:{number}", self.secret)
    }

    /// PostgreSQL has acknowledged it.
    pub fn promised(&self, number: i64) {
        lock(&self.promises).insert(number, Instant::now());
    }

    /// A promise to look after, if there is one: the last, or one of the last.
    pub fn promise(&self, back: usize) -> Option<i64> {
        lock(&self.promises).keys().rev().nth(back).copied()
    }

    /// A client has read what it was promised, or not found it.
    pub fn read(&self, number: i64, found: Option<&str>) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        match found {
            Some(value) if value == self.value(number) => {}
            Some(value) => self.fault(&format!("number {number} reads {value}: another tenant's")),
            None if self.may_be_undone(number) => {}
            None => self.fault(&format!("number {number} was acknowledged, and is gone")),
        }
    }

    /// A client has noticed something.
    pub fn noticed(&self, notice: Notice, since: Instant, what: &str) {
        let excuses = |cause| match notice {
            Notice::Refused => matches!(cause, Cause::Suspended | Cause::Deleted),
            Notice::CutOff => true,
            Notice::Fault => false,
        };
        let overlaps = |span: &Span| span.to.is_none_or(|to| since < to + NEWS);
        if lock(&self.windows).iter().any(|span| excuses(span.cause) && overlaps(span)) {
            self.excused.fetch_add(1, Ordering::Relaxed);
        } else {
            self.fault(&format!("{notice:?}: {what}"));
        }
    }

    /// Compares what is there with what was promised.
    pub fn settle(&self, rows: impl Iterator<Item = (i64, String)>) {
        let rows: BTreeMap<_, _> = rows.collect();
        for (number, value) in &rows {
            if *value != self.value(*number) {
                self.fault(&format!("number {number} is {value}: another tenant's"));
            }
        }
        let promised: Vec<_> = lock(&self.promises).keys().copied().collect();
        for number in promised {
            if !rows.contains_key(&number) && !self.may_be_undone(number) {
                self.fault(&format!("number {number} was acknowledged, and is lost"));
            }
        }
    }

    /// Whether a restore went back to before it.
    fn may_be_undone(&self, number: i64) -> bool {
        let Some(at) = lock(&self.promises).get(&number).copied() else { return true };
        let undoes = |span: &Span| {
            span.cause == Cause::Restored && span.from <= at && span.to.is_none_or(|to| at <= to)
        };
        lock(&self.windows).iter().any(undoes)
    }

    fn fault(&self, what: &str) {
        let seconds = self.started.elapsed().as_secs_f32();
        lock(&self.faults).push(format!("{seconds:5.1} s: {}: {what}", self.slug));
    }
}

impl Window {
    pub fn close(self) {
        lock(&self.ledger.windows)[self.index].to = Some(Instant::now());
    }
}

impl Tally {
    pub fn add(&mut self, ledger: &Ledger) {
        self.writes += lock(&ledger.promises).len();
        self.reads += ledger.reads.load(Ordering::Relaxed);
        self.excused += ledger.excused.load(Ordering::Relaxed);
        let room = TOLD.saturating_sub(self.faults.len());
        self.faults.extend(lock(&ledger.faults).iter().take(room).cloned());
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { writes, reads, excused, faults } = self;
        write!(f, "{writes} writes, {reads} reads, {excused} excused, {} faults", faults.len())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics while holding it")
}
