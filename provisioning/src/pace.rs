//! [`Pace`]: what reads or writes a whole database leaves room for others.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How many times as long as it works whoever is in no hurry rests.
pub const NICE_RATIO: u32 = 5;

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
        if self.bytes >= PIECE_BYTES && self.ratio > 0 {
            sleep(rest(self.ratio, self.began.elapsed())).await;
            *self = Self::new(self.ratio);
        }
    }
}

/// How long to rest after a piece that took so long.
fn rest(ratio: u32, worked: Duration) -> Duration {
    (worked * ratio).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_is_so_many_times_as_long_as_the_piece_before_it_took() {
        let second = Duration::from_secs(1);

        assert_eq!(rest(3, second), second * 3);
        assert_eq!(rest(3, second * 60), LONGEST);
    }

    #[tokio::test]
    async fn only_a_whole_piece_is_followed_by_a_rest() {
        for (ratio, bytes, left) in [
            (1, PIECE_BYTES - 1, PIECE_BYTES - 1),
            (1, PIECE_BYTES, 0),
            (0, PIECE_BYTES, PIECE_BYTES),
        ] {
            let mut pace = Pace::new(ratio);
            pace.worked(bytes).await;
            assert_eq!(pace.bytes, left, "{ratio}");
        }
    }
}
