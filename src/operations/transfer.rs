//! How far a restore is: bytes and rate, written down while a step runs, for whoever watches.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval_at};

use super::{StepContext, StepError};
use crate::catalog::operations::OperationRecord;

/// How often it is written down.
const PAUSE: Duration = Duration::from_secs(1);
const TRANSFER: &str = "transfer";

/// How far a restore or an import is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Transfer {
    /// So many bytes of the dump have been restored.
    pub bytes: u64,
    /// So many it has; zero where that is not known before its end.
    pub total_bytes: u64,
    /// So many a second, since it began.
    pub bytes_per_second: u64,
}

impl Transfer {
    /// What an operation says of itself, if it is one that moves data.
    #[must_use]
    pub fn of(record: &OperationRecord) -> Option<Self> {
        serde_json::from_value(record.memory.get(TRANSFER)?.clone()).ok()
    }

    fn new(bytes: u64, total_bytes: u64, elapsed: Duration) -> Self {
        let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
        Self { bytes, total_bytes, bytes_per_second: bytes.saturating_mul(1000) / millis }
    }
}

/// Runs what reports its bytes, and writes down how far it is now and then.
pub(super) async fn watched<T, E, F>(
    cx: &StepContext<'_>,
    total_bytes: u64,
    run: impl FnOnce(Box<dyn Fn(u64) + Send + Sync>) -> F,
) -> Result<T, StepError>
where
    F: Future<Output = Result<T, E>>,
    StepError: From<E>,
{
    let began = Instant::now();
    let bytes = std::sync::Arc::new(AtomicU64::new(0));
    let counted = std::sync::Arc::clone(&bytes);
    let progress = Box::new(move |fed| counted.store(fed, Ordering::Relaxed));
    let mut running = std::pin::pin!(run(progress));
    let mut ticks = interval_at(tokio::time::Instant::now() + PAUSE, PAUSE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let outcome = loop {
        tokio::select! {
            outcome = &mut running => break outcome?,
            _ = ticks.tick() => {
                let transfer =
                    Transfer::new(bytes.load(Ordering::Relaxed), total_bytes, began.elapsed());
                cx.remember(TRANSFER, &transfer).await?;
            }
        }
    };
    let all = total_bytes.max(bytes.load(Ordering::Relaxed));
    cx.remember(TRANSFER, &Transfer::new(all, all, began.elapsed())).await?;
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_of_the_whole_time() {
        let transfer = Transfer::new(3_000, 4_000, Duration::from_millis(1_500));

        assert_eq!(transfer.bytes_per_second, 2_000);
        assert_eq!(Transfer::new(7, 7, Duration::ZERO).bytes_per_second, 7_000);
    }
}
