//! Settings of SQL over HTTP.

use std::net::SocketAddr;
use std::time::Duration;

use super::Deployment;
use super::error::Problem;
use super::reader::Reader;
use super::value::Value;
use crate::sql::SqlSettings;

/// A request that takes longer is cut off, whatever its statements do.
const LONGEST: Duration = Duration::from_secs(75);

/// Reads who may send requests, and their bounds.
pub(super) fn read(r: &mut Reader, environment: Deployment, listen: SocketAddr) -> SqlSettings {
    let usual = SqlSettings::default();
    let password_auth = r.get("sql_password_auth").unwrap_or(usual.password_auth);
    let is_encrypted = r.is_set("tls_cert") || r.is_set("trusted_proxies");
    let is_open = !is_encrypted && !listen.ip().is_loopback();
    if password_auth && is_open && environment == Deployment::Production {
        r.problem(Problem::Contradiction {
            message: "with TENANTRY_SQL_PASSWORD_AUTH passwords of tenants would come in plain HTTP"
                .to_owned(),
            remedy: "set TENANTRY_TLS_CERT and TENANTRY_TLS_KEY, or name in TENANTRY_TRUSTED_PROXIES the \
                     proxy that encrypts"
                .to_owned(),
        });
    }
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
        password_auth,
        max_response_bytes: r
            .get("sql_max_response_bytes")
            .map_or(usual.max_response_bytes, |Size(bytes)| bytes),
        max_rows: r.get("sql_max_rows").map_or(usual.max_rows, |Rows(rows)| rows),
        statement_timeout,
        send_timeout: usual.send_timeout,
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
