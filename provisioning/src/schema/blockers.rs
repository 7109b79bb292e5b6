//! [`Blocker`]: who holds the lock that a migration waits for.
//!
//! Asked from the maintenance database while the migration waits, as nobody can tell afterwards.

use std::fmt;

use tokio_postgres::types::Type;

use super::MIGRATION_KEY;
use super::statement::head;
use crate::error::Error;
use crate::name::DatabaseName;
use crate::server::Server;

/// A session that a migration waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocker {
    /// Its process; 0 for a transaction that is prepared and belongs to no session.
    pub pid: i32,
    /// Its role.
    pub user: Option<String>,
    /// What it calls itself.
    pub application: Option<String>,
    /// What it is doing: `active`, `idle in transaction`.
    pub state: Option<String>,
    /// When its transaction began.
    pub since: Option<String>,
    /// The beginning of its last query, without strings.
    pub query: Option<String>,
}

/// The sessions that whoever holds a database's migration lock waits for at this moment, the oldest transaction first.
pub(super) async fn look(server: &Server, database: &DatabaseName) -> Result<Vec<Blocker>, Error> {
    let rows = server
        .client()
        .await?
        .query_typed(
            "-- blockers::look
             select b.pid, a.usename::text, a.application_name, a.state,
                    to_char(a.xact_start at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'),
                    left(a.query, 400)
             from (select distinct unnest(pg_blocking_pids(l.pid)) as pid
                   from pg_locks l
                   where l.locktype = 'advisory' and l.objsubid = 1 and l.mode = 'ExclusiveLock' and l.granted
                     and l.database = (select oid from pg_database where datname = $1)
                     and ((l.classid::bigint << 32) | l.objid::bigint) = $2) b
             left join pg_stat_activity a on a.pid = b.pid
             order by a.xact_start limit 3",
            &[(&database.as_str(), Type::TEXT), (&MIGRATION_KEY, Type::INT8)],
        )
        .await?;
    let blocker = |row: &tokio_postgres::Row| {
        let text = |column: usize| {
            row.get::<_, Option<String>>(column).filter(|text| !text.trim().is_empty())
        };
        Blocker {
            pid: row.get(0),
            user: text(1),
            application: text(2),
            state: text(3),
            since: text(4),
            query: text(5).map(|query| head(&query)),
        }
    };
    Ok(rows.iter().map(blocker).collect())
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pid == 0 {
            return f.write_str("a prepared transaction (see pg_prepared_xacts)");
        }
        write!(f, "process {}", self.pid)?;
        if let Some(user) = &self.user {
            write!(f, " of {user}")?;
        }
        if let Some(application) = &self.application {
            write!(f, " ({application})")?;
        }
        if let Some(state) = &self.state {
            write!(f, ", {state}")?;
        }
        if let Some(since) = &self.since {
            write!(f, ", in a transaction since {since}")?;
        }
        self.query.as_ref().map_or(Ok(()), |query| write!(f, ": `{query}`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocker_is_described_by_what_is_known() {
        let mut blocker = Blocker {
            pid: 42,
            user: Some("tenant_acme".to_owned()),
            application: Some("web".to_owned()),
            state: Some("idle in transaction".to_owned()),
            since: Some("2026-01-02T03:04:05Z".to_owned()),
            query: Some("select 1".to_owned()),
        };
        assert_eq!(
            blocker.to_string(),
            "process 42 of tenant_acme (web), idle in transaction, in a transaction since \
             2026-01-02T03:04:05Z: `select 1`"
        );

        (blocker.application, blocker.state, blocker.since, blocker.query) =
            (None, None, None, None);
        assert_eq!(blocker.to_string(), "process 42 of tenant_acme");
    }
}
