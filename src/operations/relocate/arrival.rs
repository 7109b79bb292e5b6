//! How the rows of an online move come to the other server, before it follows: carried by this worker, at a pace that
//! leaves room for others; or copied by the other server itself, which is as fast as the two can.
//!
//! What this worker carries it reads at one moment, and the server follows from that moment on. A worker that dies takes
//! the moment with it, so the next one begins anew.

use std::time::{Duration, Instant};

use tenantry_provisioning::{CopyState, Lsn, Pace, SlotFacts, carry_published};
use tokio::time::sleep;

use super::moment::Moments;
use super::online::{Ends, SERVED_ON};
use crate::operations::transfer::watched;
use crate::operations::{StepContext, StepError};

/// How often to look how far the server's own copy is.
const PAUSE: Duration = Duration::from_millis(100);
/// The same of ours.
const SELDOM: Duration = Duration::from_millis(500);
/// A copy that does not move for so long is given up.
pub(super) const STALLED: Duration = Duration::from_mins(10);
/// What is tried so often in vain is not tried for ever. A worker of the server tries about every five seconds.
const MOST_ERRORS: i64 = 20;
/// The slot may keep so much of the server's log, and no more.
const MOST_RETAINED: u64 = 32 << 30;
/// The follower has caught up when it lacks no more than this.
const NEARLY: u64 = 4 << 20;

impl Ends {
    /// Carries the rows that the tenant's database holds at one moment, and returns the mark of that moment.
    pub(super) async fn carry_rows(&self, cx: &StepContext<'_>) -> Result<Lsn, StepError> {
        let moment = Moments::of(self).next().await?;
        let (mark, here) = (moment.mark(), moment.pass().await?);
        let there = self.target.connect_apart(&self.follower).await?;
        let size = super::size(&self.source, &self.live).await?;
        let (here, there) = (&here, &there);
        let pace = Pace::new(cx.environment.limits.nice_ratio);
        let carried = |progress| async move {
            tokio::select! {
                carried = carry_published(self.link, here, there, pace) => Ok(carried?),
                hopeless = self.watch_rows(progress) => hopeless,
            }
        };
        watched(cx, size, carried).await?;
        Ok(mark)
    }

    /// Watches how the rows arrive, and ends when there is no hope that they all will.
    async fn watch_rows(&self, progress: impl Fn(u64) + Send + Sync) -> Result<(), StepError> {
        let (mut seen, mut moved) = (0, Instant::now());
        loop {
            let bytes = super::size(&self.target, &self.follower).await?;
            progress(bytes);
            if bytes != seen {
                (seen, moved) = (bytes, Instant::now());
            }
            self.require_hope(&self.slot().await?, moved.elapsed(), 0)?;
            sleep(SELDOM).await;
        }
    }

    /// Waits until every table has been copied and the rest is a matter of moments.
    pub(super) async fn await_copy(
        &self,
        progress: impl Fn(u64) + Send + Sync,
    ) -> Result<(), StepError> {
        let session = self.target.connect(&self.follower).await?;
        let (mut seen, mut moved) = (None, Instant::now());
        let mut first_errors = None;
        loop {
            let copied = CopyState::read(&session, self.link).await?;
            let slot = self.slot().await?;
            if copied.is_complete() && slot.lag_bytes <= NEARLY {
                return Ok(());
            }
            let bytes = super::size(&self.target, &self.follower).await?;
            progress(bytes);
            let now = Some((copied.ready, bytes, self.target.followed_to(self.link).await?));
            if now != seen {
                (seen, moved) = (now, Instant::now());
            }
            let errors = copied.errors - *first_errors.get_or_insert(copied.errors);
            self.require_hope(&slot, moved.elapsed(), errors)?;
            sleep(PAUSE).await;
        }
    }

    /// Gives up where the other server does not write what it gets.
    pub(super) async fn require_progress(&self) -> Result<(), StepError> {
        match self.target.follower(self.link).await? {
            Some(follower) if follower.errors > 0 => Err(hopeless(&self.failed(follower.errors))),
            _ => Ok(()),
        }
    }

    /// Gives up what does not come to an end, or costs the source too much.
    fn require_hope(
        &self,
        slot: &SlotFacts,
        still: Duration,
        errors: i64,
    ) -> Result<(), StepError> {
        let why = if slot.is_lost {
            "the tenant's server has removed changes that the copy had not got yet (max_slot_wal_keep_size, \
             idle_replication_slot_timeout)"
                .to_owned()
        } else if slot.retained_bytes > MOST_RETAINED {
            format!("the tenant's server keeps {} GiB of its log for the copy", MOST_RETAINED >> 30)
        } else if errors > MOST_ERRORS {
            self.failed(errors)
        } else if still > STALLED {
            format!("the copy has not moved for {} minutes", STALLED.as_secs() / 60)
        } else {
            return Ok(());
        };
        Err(hopeless(&why))
    }

    fn failed(&self, errors: i64) -> String {
        let server = self.target.url().host_label();
        format!("replication has failed {errors} times; the log of {server} says why")
    }
}

fn hopeless(why: &str) -> StepError {
    StepError::fail(
        format!("{why}; {SERVED_ON}"),
        "fix that, then retry (with a smaller TENANTRY_RELOCATE_NICE_RATIO it is over sooner); or cancel, and \
         relocate with `--offline`",
    )
}
