//! Settings of how long what has ended is kept.

use std::time::Duration;

use super::reader::Reader;
use super::value::Value;
use crate::duration;
use crate::operations::history::HistoryRules;

/// How long operations and rollouts are kept unless somebody says.
const OPERATIONS: Duration = Duration::from_hours(90 * 24);
/// The shortest time: whoever asked for something must still learn how it ended.
const SHORTEST: Duration = Duration::from_hours(24);

/// For so long, or for good.
struct Kept(Option<Duration>);

/// Reads how long operations, rollouts and what tenants used are kept.
pub(super) fn read(r: &mut Reader) -> HistoryRules {
    HistoryRules {
        operations: r.get("operation_retention").map_or(Some(OPERATIONS), |Kept(time)| time),
        usage: r.get("usage_retention").and_then(|Kept(time)| time),
    }
}

impl Value for Kept {
    const EXPECTED: &'static str = "duration of a day or more, such as `90d`; 0s means for good";

    fn read(text: &str) -> Result<Self, Option<String>> {
        match duration::parse(text) {
            Some(Duration::ZERO) => Ok(Self(None)),
            Some(time) if time >= SHORTEST => Ok(Self(Some(time))),
            _ => Err(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Settings;
    use super::*;

    fn read(name: &str, text: &str) -> Option<HistoryRules> {
        Settings::read(None, &[(name.into(), text.into())], &[]).ok().map(|it| it.history)
    }

    #[test]
    fn operations_are_kept_for_ninety_days_and_usage_for_good() {
        let usual = HistoryRules { operations: Some(OPERATIONS), usage: None };
        assert_eq!(read("PATH", ""), Some(usual));
        let good = HistoryRules::default();
        assert_eq!(read("TENANTRY_OPERATION_RETENTION", "0s"), Some(good));
        let year = Some(Duration::from_hours(365 * 24));
        let both = HistoryRules { usage: year, ..usual };
        assert_eq!(read("TENANTRY_USAGE_RETENTION", "365d"), Some(both));
        assert_eq!(read("TENANTRY_OPERATION_RETENTION", "23h"), None);
    }
}
