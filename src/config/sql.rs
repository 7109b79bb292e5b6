//! Settings of SQL over HTTP.

use std::time::Duration;

use super::error::Problem;
use super::reader::Reader;
use super::value::Value;
use crate::sql::SqlSettings;

/// A request that takes longer is cut off, whatever its statements do.
const LONGEST: Duration = Duration::from_secs(75);

/// Reads the bounds of requests.
pub(super) fn read(r: &mut Reader) -> SqlSettings {
    let usual = SqlSettings::default();
    let statement_timeout = r.get("sql_statement_timeout").unwrap_or(usual.statement_timeout);
    if statement_timeout.is_zero() || statement_timeout > LONGEST {
        r.problem(Problem::Contradiction {
            message: "TENANTRY_SQL_STATEMENT_TIMEOUT must be more than nothing and at most 75s: a \
                      request is cut off after 90s"
                .to_owned(),
            remedy:
                "give it a length such as 30s; run what takes longer over a connection of its own"
                    .to_owned(),
        });
    }
    SqlSettings {
        max_response_bytes: r
            .get("sql_max_response_bytes")
            .map_or(usual.max_response_bytes, |Size(bytes)| bytes),
        max_rows: r.get("sql_max_rows").map_or(usual.max_rows, |Rows(rows)| rows),
        statement_timeout,
    }
}

/// How large an answer may be; it is held in memory.
struct Size(usize);

impl Value for Size {
    const EXPECTED: &'static str = "number of bytes from 1024 to 1073741824";

    fn read(text: &str) -> Result<Self, Option<String>> {
        let size = text.parse().ok().filter(|size| (1024..=1 << 30).contains(size));
        size.map(Self).ok_or(None)
    }
}

struct Rows(usize);

impl Value for Rows {
    const EXPECTED: &'static str = "whole number from 1 to 100000000";

    fn read(text: &str) -> Result<Self, Option<String>> {
        let rows = text.parse().ok().filter(|rows| (1..=100_000_000).contains(rows));
        rows.map(Self).ok_or(None)
    }
}
