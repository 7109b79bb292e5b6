//! [`Pace`]: what reads or writes a whole database leaves room for others.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Work between two rests. It is much more than what is on its way between a server and us, which goes on meanwhile.
const PIECE_BYTES: usize = 16 << 20;
/// The longest rest: a piece that took long was held up, and not hard work.
const LONGEST: Duration = Duration::from_secs(5);

/// Has one rest after each piece of work, for a multiple of the time that the piece took. So it adapts: a busy server
/// makes the work slow, and the rests long.
#[derive(Debug)]
pub struct Pace {
    ratio: u32,
    began: Instant,
    bytes: usize,
}

impl Pace {
    /// Rests for so many times as long as it works; 0 is never.
    #[must_use]
    pub fn new(ratio: u32) -> Self {
        Self { ratio, began: Instant::now(), bytes: 0 }
    }

    /// Never rests.
    #[must_use]
    pub fn full() -> Self {
        Self::new(0)
    }

    /// Notes that so many bytes were read or written, and rests if it is time.
    pub async fn worked(&mut self, bytes: usize) {
        self.bytes += bytes;
        if let Some(rest) = self.rest_after(self.began.elapsed()) {
            sleep(rest).await;
            *self = Self::new(self.ratio);
        }
    }

    /// How long to rest, if a piece of work is done.
    fn rest_after(&self, worked: Duration) -> Option<Duration> {
        let is_due = self.ratio > 0 && self.bytes >= PIECE_BYTES;
        is_due.then(|| (worked * self.ratio).min(LONGEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_is_so_many_times_as_long_as_the_piece_before_it_took() {
        let after = |ratio, bytes, secs| {
            let pace = Pace { bytes, ..Pace::new(ratio) };
            pace.rest_after(Duration::from_secs(secs)).map(|rest| rest.as_secs())
        };

        assert_eq!(after(3, PIECE_BYTES, 1), Some(3));
        assert_eq!(after(3, PIECE_BYTES - 1, 1), None);
        assert_eq!(after(3, PIECE_BYTES, 60), Some(LONGEST.as_secs()));
        assert_eq!(after(0, PIECE_BYTES, 1), None);
    }

    #[tokio::test]
    async fn after_a_rest_another_piece_begins() {
        let mut pace = Pace::new(1);

        pace.worked(PIECE_BYTES).await;

        assert_eq!(pace.bytes, 0);
    }
}
