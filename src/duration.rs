//! Lengths of time as people write them: `90`, `90s`, `500ms`, `5m`, `12h`, `7d`, and sums such as `1h30m`.
//! One spelling everywhere: in the settings of a process, and in those of a tenant.

use std::time::Duration;

/// Reads a length of time; a bare number counts seconds.
#[must_use]
pub fn parse(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let number: u32 = number.parse().ok()?;
        let unit = match unit {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_mins(1),
            "h" => Duration::from_hours(1),
            "d" => Duration::from_hours(24),
            _ => return None,
        };
        sum = sum.checked_add(unit.checked_mul(number)?)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_or_are_seconds() {
        let cases = [
            ("0", 0),
            ("300", 300),
            ("300s", 300),
            ("5m", 300),
            ("12h", 43_200),
            ("7d", 604_800),
            ("1h30m", 5_400),
        ];
        for (text, seconds) in cases {
            assert_eq!(parse(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(parse("250ms"), Some(Duration::from_millis(250)));
        for text in ["", "s", "5 m", "-1", "1.5h", "5y", "5m5", "99999999999", "m5"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
