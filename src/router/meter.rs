//! [`Meters`]: what each tenant uses through this replica, for the catalog's books.
//!
//! Requests only raise numbers in memory. About once a minute, and when the router is closed, what was counted since
//! is sent to the catalog as one note for all tenants. A note that did not arrive, or of which nobody knows whether
//! it did, is sent again as it is. So what a replica loses that is killed is what it counted since its last note, and
//! nothing is ever counted twice.
//!
//! How many connections a tenant holds is looked at every second, idle ones and those of SQL over HTTP with them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::catalog::usage::Counted;
use crate::catalog::{Catalog, CatalogError};

/// How long the last note may take: whoever ends must not wait for a catalog that is away.
const LAST: Duration = Duration::from_secs(5);

/// The meters of all tenants that this replica serves.
pub(super) struct Meters {
    /// Of this replica, among those who send notes.
    replica: Uuid,
    catalog: Catalog,
    known: Mutex<HashMap<Uuid, Arc<Meter>>>,
    looked_at: Mutex<Instant>,
    /// Held by whoever sends.
    notes: tokio::sync::Mutex<Notes>,
}

/// What one tenant has used since it was last told.
#[derive(Default)]
pub(crate) struct Meter {
    queries: AtomicU64,
    connection_micros: AtomicU64,
    sql_rows: AtomicU64,
    sql_bytes: AtomicU64,
}

#[derive(Default)]
struct Notes {
    /// How many have arrived.
    sent: i64,
    /// One that may not have.
    open: Option<(Date, Vec<Counted>)>,
}

impl Meters {
    pub fn new(catalog: Catalog) -> Self {
        Self {
            replica: Uuid::now_v7(),
            catalog,
            known: Mutex::default(),
            looked_at: Mutex::new(Instant::now()),
            notes: tokio::sync::Mutex::default(),
        }
    }

    /// The meter of a tenant.
    pub fn of(&self, tenant: Uuid) -> Arc<Meter> {
        Arc::clone(self.known().entry(tenant).or_default())
    }

    /// The time since the last look at connections.
    pub fn lap(&self) -> Duration {
        let mut looked_at = self.looked_at.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        now.duration_since(std::mem::replace(&mut looked_at, now))
    }

    /// Sends notes until `stop`, and the last one then.
    pub async fn run(self: Arc<Self>, every: Duration, stop: CancellationToken) {
        while stop.run_until_cancelled(sleep(every)).await.is_some() {
            self.tell().await;
        }
        self.tell_last().await;
    }

    /// Sends what was counted to the very end, if the catalog takes it soon.
    pub async fn tell_last(&self) {
        if timeout(LAST, self.tell()).await.is_err() {
            tracing::warn!("the catalog has not heard what tenants used last");
        }
    }

    async fn tell(&self) {
        if let Err(error) = self.send().await {
            tracing::debug!(%error, "what tenants use is told to the catalog later");
        }
    }

    async fn send(&self) -> Result<(), CatalogError> {
        let mut notes = self.notes.lock().await;
        self.send_open(&mut notes).await?;
        let counted = self.take();
        if !counted.is_empty() {
            notes.open = Some((Timestamp::now().to_zoned(TimeZone::UTC).date(), counted));
        }
        self.send_open(&mut notes).await
    }

    async fn send_open(&self, notes: &mut Notes) -> Result<(), CatalogError> {
        let Some((day, counted)) = &notes.open else { return Ok(()) };
        self.catalog.add_usage(self.replica, notes.sent + 1, *day, counted).await?;
        notes.sent += 1;
        notes.open = None;
        Ok(())
    }

    /// What was counted since the last time. Tenants that nobody uses any more are forgotten.
    fn take(&self) -> Vec<Counted> {
        let mut counted = Vec::new();
        self.known().retain(|tenant, meter| {
            let taken = meter.take(*tenant);
            let used = taken.queries > 0 || taken.connection_seconds > 0.0;
            if used {
                counted.push(taken);
            }
            used || Arc::strong_count(meter) > 1
        });
        counted
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Uuid, Arc<Meter>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Meter {
    /// A statement runs.
    pub fn query(&self) {
        self.queries.fetch_add(1, Ordering::Relaxed);
    }

    /// SQL over HTTP was answered.
    pub fn answered(&self, rows: usize, bytes: usize) {
        self.sql_rows.fetch_add(rows as u64, Ordering::Relaxed);
        self.sql_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// So many connections were open for this long.
    pub fn connected(&self, connections: usize, time: Duration) {
        let micros = time.as_micros().saturating_mul(connections as u128);
        let micros = u64::try_from(micros).unwrap_or(u64::MAX);
        self.connection_micros.fetch_add(micros, Ordering::Relaxed);
    }

    fn take(&self, tenant: Uuid) -> Counted {
        let number = |counter: &AtomicU64| {
            i64::try_from(counter.swap(0, Ordering::Relaxed)).unwrap_or(i64::MAX)
        };
        let time = Duration::from_micros(self.connection_micros.swap(0, Ordering::Relaxed));
        Counted {
            tenant,
            queries: number(&self.queries),
            connection_seconds: time.as_secs_f64(),
            sql_rows: number(&self.sql_rows),
            sql_bytes: number(&self.sql_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_is_not_taken_again() {
        let (meter, tenant) = (Meter::default(), Uuid::now_v7());
        meter.query();
        meter.query();
        meter.answered(3, 40);
        meter.connected(2, Duration::from_millis(1500));

        let taken = meter.take(tenant);

        let all =
            Counted { tenant, queries: 2, connection_seconds: 3.0, sql_rows: 3, sql_bytes: 40 };
        assert_eq!(taken, all);
        let nothing =
            Counted { tenant, queries: 0, connection_seconds: 0.0, sql_rows: 0, sql_bytes: 0 };
        assert_eq!(meter.take(tenant), nothing);
    }
}
