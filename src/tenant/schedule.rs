//! [`Schedule`]: when something is due, as a cron expression in UTC. Pure: the clock is the caller's.
//!
//! Invariant: tenants with the same schedule do not come at once. Each comes later than the expression says,
//! by a part of the hour that only its id decides, and always before the expression says it again.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};
use serde::{Serialize, Serializer};
use uuid::Uuid;

/// What a schedule is written as that is never due.
const OFF: &str = "off";
/// The longest expression, in bytes.
const MAX_BYTES: usize = 200;
/// Over how much of the time until the next run tenants are spread, at most.
const SPREAD: SignedDuration = SignedDuration::from_hours(1);

/// A cron expression of five fields, or `off`.
#[derive(Clone, Debug)]
pub struct Schedule {
    text: String,
    /// None is never.
    cron: Option<Arc<Cron>>,
}

impl Schedule {
    /// What a text must be to be read.
    pub const EXPECTED: &'static str =
        "a cron expression of five fields in UTC, such as `0 2 * * *`, or `off`";

    /// Reads an expression: minute, hour, day, month and day of the week, or a name such as `@daily`. One that
    /// no moment fits, such as the 31st of February, is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == OFF {
            return Some(Self { text: text.to_owned(), cron: None });
        }
        if text.len() > MAX_BYTES {
            return None;
        }
        let parser =
            CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron = parser.parse(text).ok()?;
        next(&cron, Timestamp::UNIX_EPOCH)?;
        Some(Self { text: text.to_owned(), cron: Some(Arc::new(cron)) })
    }

    /// The newest moment at which this tenant was due; `None` when it never was.
    #[must_use]
    pub fn latest(&self, tenant: Uuid, now: Timestamp) -> Option<Timestamp> {
        let cron = self.cron.as_ref()?;
        let said = cron.find_previous_occurrence(&utc(now), true).ok()?.timestamp();
        let due = due(cron, tenant, said)?;
        if due <= now {
            return Some(due);
        }
        let before = cron.find_previous_occurrence(&utc(said), false).ok()?.timestamp();
        self::due(cron, tenant, before)
    }
}

/// When a tenant comes, for a moment that the expression says.
fn due(cron: &Cron, tenant: Uuid, said: Timestamp) -> Option<Timestamp> {
    let gap = next(cron, said)?.duration_since(said).min(SPREAD);
    let hash = digest(&SHA256, tenant.as_bytes());
    let hash = u32::from_be_bytes(hash.as_ref()[..4].try_into().expect("a digest has 32 bytes"));
    said.checked_add(SignedDuration::from_secs(i64::from(hash) % gap.as_secs())).ok()
}

fn next(cron: &Cron, after: Timestamp) -> Option<Timestamp> {
    Some(cron.find_next_occurrence(&utc(after), false).ok()?.timestamp())
}

fn utc(moment: Timestamp) -> Zoned {
    moment.to_zoned(TimeZone::UTC)
}

impl PartialEq for Schedule {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Schedule {}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Schedule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn latest(schedule: &str, tenant: u128, now: &str) -> Option<Timestamp> {
        Schedule::parse(schedule).unwrap().latest(Uuid::from_u128(tenant), at(now))
    }

    #[test]
    fn expressions_of_five_fields_are_read() {
        for text in ["0 2 * * *", "*/15 * * * *", "30 3 * * SUN", "0 0 1 1,7 *", "@daily", "off"] {
            assert_eq!(Schedule::parse(text).map(|read| read.to_string()).as_deref(), Some(text));
        }
        for text in [
            "",
            "2",
            "0 2 * *",
            "0 0 2 * * *",
            "60 2 * * *",
            "0 0 31 2 *",
            "never",
            "0 2 * * * 2027",
        ] {
            assert_eq!(Schedule::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn tenants_come_within_the_hour_each_at_its_own_time() {
        let nightly = |tenant| latest("0 2 * * *", tenant, "2026-03-02T12:00:00Z").unwrap();
        let moments: Vec<Timestamp> = (0..1000).map(nightly).collect();

        let (first, last) = (moments.iter().min().unwrap(), moments.iter().max().unwrap());
        assert!(*first >= at("2026-03-02T02:00:00Z") && *last < at("2026-03-02T03:00:00Z"));
        let quarter = |minutes: i64| {
            let from = at("2026-03-02T02:00:00Z") + SignedDuration::from_mins(minutes);
            let within = from..from + SignedDuration::from_mins(15);
            moments.iter().filter(|moment| within.contains(*moment)).count()
        };
        for minutes in [0, 15, 30, 45] {
            assert!((200..300).contains(&quarter(minutes)), "{}", quarter(minutes));
        }
        assert_eq!(nightly(7), nightly(7));
    }

    #[test]
    fn the_moment_that_counts_is_the_newest_one_that_has_come() {
        let due = latest("0 2 * * *", 7, "2026-03-02T12:00:00Z").unwrap();
        let second = SignedDuration::from_secs(1);
        let nightly = Schedule::parse("0 2 * * *").unwrap();

        assert_eq!(nightly.latest(Uuid::from_u128(7), due), Some(due));
        let day_before = nightly.latest(Uuid::from_u128(7), due - second).unwrap();
        assert_eq!(due.duration_since(day_before), SignedDuration::from_hours(24));
        assert_eq!(latest("off", 7, "2026-03-02T12:00:00Z"), None);
    }

    #[test]
    fn a_schedule_that_comes_often_is_spread_no_further_than_to_its_next_run() {
        for tenant in 0..100 {
            let due = latest("*/5 * * * *", tenant, "2026-03-02T12:00:00Z").unwrap();
            assert!(due > at("2026-03-02T11:55:00Z") - SignedDuration::from_secs(1), "{due}");
        }
    }
}
