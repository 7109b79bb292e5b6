//! The watch over one read replica: up to which moment it is fresh.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tenantry_provisioning::{Connection, Error, ServerUrl};
use thiserror::Error;
use tokio::time::{sleep, timeout};
use tokio_postgres::types::PgLsn;
use tokio_util::sync::CancellationToken;

use super::ReadReplica;
use crate::metrics;

/// The pause between two looks.
const TICK: Duration = Duration::from_secs(1);
/// How long an answer may take before the server counts as away.
const LIMIT: Duration = Duration::from_secs(2);
/// Moments that are remembered; a read replica that lags by more of them has no known lag.
const MOMENTS: usize = 600;

/// Why a look ended.
#[derive(Debug, Error)]
enum Lost {
    #[error("the read replica does not answer")]
    Replica(#[source] Error),
    #[error("the primary does not answer, so nobody knows how far the read replica lags")]
    Primary(#[source] Error),
    #[error("the server is no standby any more")]
    Promoted,
    #[error("the server is a standby of another server")]
    Stranger,
    /// It was taken away.
    #[error("the read replica is not used any more")]
    Unused,
}

/// What the primary had written when.
#[derive(Default)]
struct Progress {
    /// In the order of both.
    written: VecDeque<(Instant, PgLsn)>,
    /// The read replica was seen here when its primary had not come so far: it follows another history.
    /// Until it has left this place behind, what it has replayed proves nothing.
    astray: Option<PgLsn>,
}

/// Watches until `stop`, or until nobody uses the read replica any more.
pub(super) async fn run(replica: Weak<ReadReplica>, stop: CancellationToken) {
    let mut told = false;
    loop {
        let Some(Err(lost)) = stop.run_until_cancelled(look(&replica, &mut told)).await else {
            return;
        };
        let Some(replica) = replica.upgrade() else { return };
        let place = &replica.place.replica;
        // What it has does not grow less by the primary's end; it grows old.
        if !matches!(lost, Lost::Primary(_)) {
            replica.set_fresh(None);
            metrics::replica_up(&place.server, &place.name, false);
        } else if let Some(moment) = replica.fresh_since() {
            metrics::replica_lag(&place.server, &place.name, moment.elapsed());
        }
        if !told {
            let error: &(dyn std::error::Error + 'static) = &lost;
            tracing::warn!(server = %place.server, replica = %place.name, error, "a read replica cannot be watched; trying on");
            told = true;
        }
        drop(replica);
        if stop.run_until_cancelled(sleep(TICK)).await.is_none() {
            return;
        }
    }
}

/// Looks on until something is lost.
async fn look(replica: &Weak<ReadReplica>, told: &mut bool) -> Result<Infallible, Lost> {
    let (url, primary) = {
        let place = &used(replica)?.place;
        (place.url.clone(), place.primary.clone())
    };
    let standby = url.connect().await.map_err(Lost::Replica)?;
    let there = in_time(&url, standby.cluster()).await.map_err(Lost::Replica)?;
    let main = primary.connect().await.map_err(Lost::Primary)?;
    if in_time(&primary, main.cluster()).await.map_err(Lost::Primary)? != there {
        return Err(Lost::Stranger);
    }
    let mut progress = Progress::default();
    loop {
        let before = replayed(&url, &standby).await?;
        let now = Instant::now();
        let written = in_time(&primary, main.written()).await.map_err(Lost::Primary)?;
        let after = replayed(&url, &standby).await?;
        progress.note(before, now, written);
        used(replica)?.see(progress.fresh_since(after), told);
        sleep(TICK).await;
    }
}

async fn replayed(url: &ServerUrl, standby: &Connection) -> Result<PgLsn, Lost> {
    let replayed = in_time(url, standby.replayed()).await.map_err(Lost::Replica)?;
    replayed.ok_or(Lost::Promoted)
}

async fn in_time<T>(
    url: &ServerUrl,
    asked: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    timeout(LIMIT, asked).await.unwrap_or_else(|_| {
        Err(Error::TimedOut { server: url.host_label(), what: "telling where its log ends" })
    })
}

fn used(replica: &Weak<ReadReplica>) -> Result<Arc<ReadReplica>, Lost> {
    replica.upgrade().ok_or(Lost::Unused)
}

impl ReadReplica {
    fn see(&self, fresh: Option<Instant>, told: &mut bool) {
        let place = &self.place.replica;
        self.set_fresh(fresh);
        metrics::replica_up(&place.server, &place.name, true);
        if let Some(moment) = fresh {
            metrics::replica_lag(&place.server, &place.name, moment.elapsed());
        }
        if std::mem::take(told) {
            tracing::info!(server = %place.server, replica = %place.name, "a read replica is back");
        }
    }
}

impl Progress {
    /// The primary had written this much at a moment, before which the read replica had replayed that.
    fn note(&mut self, replayed: PgLsn, moment: Instant, written: PgLsn) {
        if replayed > written {
            self.astray = self.astray.max(Some(replayed));
        }
        // A new primary may have begun before the end of the old one.
        self.written.retain(|(_, earlier)| *earlier <= written);
        self.written.push_back((moment, written));
        if self.written.len() > MOMENTS {
            self.written.pop_front();
        }
    }

    /// The last moment whose log is replayed.
    fn fresh_since(&mut self, replayed: PgLsn) -> Option<Instant> {
        if self.astray.is_some_and(|place| replayed <= place) {
            return None;
        }
        let last = self.written.iter().rposition(|(_, written)| *written <= replayed)?;
        self.written.drain(..last);
        self.written.front().map(|(moment, _)| *moment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lsn(number: u64) -> PgLsn {
        PgLsn::from(number)
    }

    /// A progress that has seen the primary at each of these, a second apart, and when it began.
    fn seen(written: &[u64]) -> (Progress, Instant) {
        let (mut progress, begin) = (Progress::default(), Instant::now());
        for (number, written) in (0..).zip(written) {
            progress.note(lsn(0), begin + TICK * number, lsn(*written));
        }
        (progress, begin)
    }

    #[test]
    fn a_replica_is_as_fresh_as_the_last_moment_that_it_has_replayed() {
        let (mut progress, begin) = seen(&[10, 20, 30]);

        assert_eq!(progress.fresh_since(lsn(5)), None);
        assert_eq!(progress.fresh_since(lsn(10)), Some(begin));
        assert_eq!(progress.fresh_since(lsn(29)), Some(begin + TICK));
        assert_eq!(progress.fresh_since(lsn(35)), Some(begin + TICK * 2));
    }

    #[test]
    fn an_idle_primary_is_no_lag() {
        let (mut progress, begin) = seen(&[10, 10, 10]);

        assert_eq!(progress.fresh_since(lsn(10)), Some(begin + TICK * 2));
    }

    #[test]
    fn a_replica_that_stands_still_stays_at_its_moment() {
        let (mut progress, begin) = seen(&[10, 20]);
        assert_eq!(progress.fresh_since(lsn(10)), Some(begin));

        progress.note(lsn(10), begin + TICK * 2, lsn(30));

        assert_eq!(progress.fresh_since(lsn(10)), Some(begin));
    }

    #[test]
    fn who_was_ahead_of_the_primary_has_another_history() {
        let (mut progress, begin) = seen(&[10]);
        progress.note(lsn(50), begin + TICK, lsn(20));
        assert_eq!(progress.fresh_since(lsn(50)), None);

        progress.note(lsn(50), begin + TICK * 2, lsn(60));
        assert_eq!(progress.fresh_since(lsn(50)), None);

        assert_eq!(progress.fresh_since(lsn(60)), Some(begin + TICK * 2));
    }

    #[test]
    fn only_so_many_moments_are_kept() {
        let numbers: Vec<u64> = (0..2 * MOMENTS as u64).collect();
        let (progress, _) = seen(&numbers);

        assert_eq!(progress.written.len(), MOMENTS);
    }
}
