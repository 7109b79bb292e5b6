//! [`Retention`]: which backups are kept, and why. Pure: the clock is the caller's.
//!
//! Invariant: whatever the policy says, the newest backup stays, and the newest that was verified or proven by a
//! restore. What is known to be of no use takes the place of none that is: the good ones are judged as if they
//! were alone. Days, weeks, months and years are those of UTC; of each one that has a backup, its newest is the
//! one that counts.

use std::fmt;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::{Serialize, Serializer};

/// The longest policy, in bytes, and the largest number in one.
const MAX_BYTES: usize = 200;
const MAX_NUMBER: u32 = 10_000;

/// How many backups are kept: a text such as `last=7,daily=14,weekly=8,monthly=12,yearly=3,days=7`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    text: String,
    /// The newest so many.
    last: u32,
    /// The newest of each of so many days, weeks, months and years.
    daily: u32,
    weekly: u32,
    monthly: u32,
    yearly: u32,
    /// Everything that is younger than so many days.
    days: u32,
}

/// What there is to know of a backup that may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The last moment whose data it holds.
    pub of: Timestamp,
    /// Whether it can be relied on, as far as is known.
    pub good: bool,
    /// Whether every byte of it was read and compared.
    pub verified: bool,
    /// Whether a restore has proven it.
    pub proven: bool,
}

/// One part of a policy at work: its name, how many periods it keeps, and how a period is called.
struct Rule {
    name: &'static str,
    number: u32,
    period: fn(Date) -> String,
}

impl Retention {
    /// What a text must be to be read.
    pub const EXPECTED: &'static str = "what to keep, such as `last=7,daily=14,weekly=8,monthly=12,yearly=3,days=7`, \
                                        each a number from 1 to 10000";

    /// Reads a policy. Each part is there once at most, and one at least.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_BYTES {
            return None;
        }
        let mut read = Self {
            text: text.to_owned(),
            last: 0,
            daily: 0,
            weekly: 0,
            monthly: 0,
            yearly: 0,
            days: 0,
        };
        for part in text.split(',') {
            let (name, number) = part.trim().split_once('=')?;
            let place = match name {
                "last" => &mut read.last,
                "daily" => &mut read.daily,
                "weekly" => &mut read.weekly,
                "monthly" => &mut read.monthly,
                "yearly" => &mut read.yearly,
                "days" => &mut read.days,
                _ => return None,
            };
            let number = number.parse().ok().filter(|number| (1..=MAX_NUMBER).contains(number))?;
            if std::mem::replace(place, number) != 0 {
                return None;
            }
        }
        Some(read)
    }

    /// Why each backup is kept, in their order; one without a reason may go.
    #[must_use]
    pub fn judge(&self, backups: &[Candidate], now: Timestamp) -> Vec<Vec<String>> {
        let mut all: Vec<usize> = (0..backups.len()).collect();
        all.sort_by_key(|index| std::cmp::Reverse(backups[*index].of));
        let good: Vec<usize> = all.iter().copied().filter(|index| backups[*index].good).collect();

        let mut reasons = self.judge_these(&good, backups, now);
        if good.len() < all.len() {
            let among_all = self.judge_these(&all, backups, now);
            for ((backup, reasons), among_all) in backups.iter().zip(&mut reasons).zip(among_all) {
                if !backup.good {
                    *reasons = among_all;
                }
            }
        }
        reasons
    }

    /// Why each of these is kept, if there were no others; newest first.
    fn judge_these(
        &self,
        newest_first: &[usize],
        backups: &[Candidate],
        now: Timestamp,
    ) -> Vec<Vec<String>> {
        let mut reasons = vec![Vec::new(); backups.len()];
        let newest = |is: fn(&Candidate) -> bool| {
            newest_first.iter().copied().find(|index| is(&backups[*index]))
        };
        if let Some(newest) = newest(|_| true) {
            reasons[newest].push("the newest".to_owned());
        }
        let verified = newest(|backup| backup.good && backup.verified);
        let proven = newest(|backup| backup.good && backup.proven);
        if let Some(proven) = proven {
            reasons[proven].push("the newest that is proven".to_owned());
        }
        if let Some(verified) = verified.filter(|_| verified != proven) {
            reasons[verified].push("the newest that is verified".to_owned());
        }
        for (index, number) in newest_first.iter().zip(1..=self.last) {
            reasons[*index].push(format!("last {number}"));
        }
        for rule in self.rules() {
            let mut kept: Vec<String> = Vec::new();
            for index in newest_first {
                let period = (rule.period)(backups[*index].of.to_zoned(TimeZone::UTC).date());
                let full = kept.len() >= usize::try_from(rule.number).unwrap_or(usize::MAX);
                if kept.last() != Some(&period) && !full {
                    reasons[*index].push(format!("{} {period}", rule.name));
                    kept.push(period);
                }
            }
        }
        let young = SignedDuration::from_hours(24 * i64::from(self.days));
        for index in newest_first {
            if now.duration_since(backups[*index].of) < young {
                reasons[*index].push(format!("younger than {} days", self.days));
            }
        }
        reasons
    }

    fn rules(&self) -> [Rule; 4] {
        let week = |date: Date| {
            let week = date.iso_week_date();
            format!("{}-W{:02}", week.year(), week.week())
        };
        [
            Rule { name: "daily", number: self.daily, period: |date| date.to_string() },
            Rule { name: "weekly", number: self.weekly, period: week },
            Rule {
                name: "monthly",
                number: self.monthly,
                period: |date| format!("{}-{:02}", date.year(), date.month()),
            },
            Rule { name: "yearly", number: self.yearly, period: |date| date.year().to_string() },
        ]
    }
}

impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Retention {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: &str = "2026-03-31T12:00:00Z";

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn candidates(moments: &[&str]) -> Vec<Candidate> {
        moments.iter().map(|text| candidate(at(text))).collect()
    }

    /// One of which nothing else is known.
    fn candidate(of: Timestamp) -> Candidate {
        Candidate { of, good: true, verified: false, proven: false }
    }

    fn judge(policy: &str, backups: &[Candidate]) -> Vec<Vec<String>> {
        Retention::parse(policy).unwrap().judge(backups, at(NOW))
    }

    /// Which of the backups stay.
    fn kept(policy: &str, backups: &[Candidate]) -> Vec<usize> {
        let reasons = judge(policy, backups).into_iter().enumerate();
        reasons.filter(|(_, reasons)| !reasons.is_empty()).map(|(index, _)| index).collect()
    }

    #[test]
    fn policies_are_lists_of_numbers() {
        let all = "last=7,daily=14,weekly=8,monthly=12,yearly=3,days=7";
        for text in [all, "last=1", "days=30, last=3"] {
            assert_eq!(Retention::parse(text).map(|read| read.to_string()).as_deref(), Some(text));
        }
        for text in [
            "",
            "7",
            "last",
            "last=",
            "last=0",
            "last=-1",
            "last=1,last=2",
            "hourly=3",
            "last=10001",
            "last=1,",
        ] {
            assert_eq!(Retention::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn the_newest_of_each_period_stays() {
        let backups = candidates(&[
            "2026-03-31T02:00:00Z",
            "2026-03-30T22:00:00Z",
            "2026-03-30T02:00:00Z",
            "2026-03-27T02:00:00Z",
            "2026-02-28T02:00:00Z",
            "2025-12-31T02:00:00Z",
            "2025-12-30T02:00:00Z",
        ]);

        assert_eq!(kept("last=2", &backups), [0, 1]);
        assert_eq!(kept("daily=2", &backups), [0, 1], "two on the 30th, and the newer one stays");
        assert_eq!(kept("daily=3", &backups), [0, 1, 3], "days without a backup do not count");
        assert_eq!(kept("weekly=2", &backups), [0, 3], "weeks begin on Monday");
        assert_eq!(kept("monthly=3", &backups), [0, 4, 5]);
        assert_eq!(kept("yearly=9", &backups), [0, 5]);
        assert_eq!(kept("days=2", &backups), [0, 1, 2]);
        let reasons = judge("last=1,daily=1,monthly=1,weekly=1", &backups);
        let all =
            ["the newest", "last 1", "daily 2026-03-31", "weekly 2026-W14", "monthly 2026-03"];
        assert_eq!(reasons[0], all);
    }

    #[test]
    fn the_newest_and_the_newest_proven_one_stay_whatever_the_policy_says() {
        let mut backups = candidates(&[
            "2020-01-03T00:00:00Z",
            "2020-01-05T00:00:00Z",
            "2020-01-04T00:00:00Z",
            "2020-01-01T00:00:00Z",
        ]);
        assert_eq!(kept("days=1", &backups), [1]);

        backups[0].proven = true;
        backups[3].proven = true;

        assert_eq!(kept("days=1", &backups), [0, 1]);
        backups[2].verified = true;
        assert_eq!(kept("days=1", &backups), [0, 1, 2]);
    }

    #[test]
    fn what_is_of_no_use_takes_nobodys_place() {
        let mut backups = candidates(&[
            "2026-03-30T02:00:00Z",
            "2026-03-29T02:00:00Z",
            "2026-03-28T02:00:00Z",
            "2026-03-27T02:00:00Z",
        ]);
        backups[2].proven = true;
        backups[0].good = false;
        backups[2].good = false;

        let reasons = judge("last=1", &backups);

        assert_eq!(reasons[1], ["the newest", "last 1"], "of those that are good");
        assert_eq!(kept("last=1", &backups), [0, 1]);
        assert_eq!(kept("last=2", &backups), [0, 1, 3]);
        assert_eq!(kept("daily=2", &backups), [0, 1, 3]);
    }

    proptest! {
        /// Keeping by count does not change when it is done again without what went.
        #[test]
        fn what_stays_once_stays(hours in prop::collection::vec(0..20_000_i64, 1..60), last in 1..9_u32, daily in 1..9_u32, monthly in 1..9_u32) {
            let policy = format!("last={last},daily={daily},weekly=2,monthly={monthly},yearly=1,days=3");
            let now = at(NOW);
            let backups: Vec<_> = hours.iter()
                .map(|hours| Candidate {
                    good: hours % 5 != 0,
                    verified: hours % 3 == 0,
                    proven: hours % 7 == 0,
                    ..candidate(now - SignedDuration::from_hours(*hours))
                })
                .collect();

            let first = kept(&policy, &backups);
            let left: Vec<_> = first.iter().map(|index| backups[*index]).collect();

            prop_assert_eq!(kept(&policy, &left).len(), left.len());
            prop_assert!(first.len() <= backups.len() && !first.is_empty());
            let newest = backups.iter().map(|backup| backup.of).max();
            prop_assert_eq!(left.iter().map(|backup| backup.of).max(), newest);
        }
    }
}
