//! What goes on on a server, by database: right now, and what it takes of the server.

use std::time::{Duration, SystemTime};

use crate::error::Error;
use crate::name::DatabaseName;
use crate::server::Server;

/// What a server counts and shows, all of one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Activity {
    /// How many connections it takes.
    pub max_connections: i64,
    /// Databases with a connection, or that ever had a transaction.
    pub databases: Vec<DatabaseActivity>,
}

/// The same of one database. What sessions do is visible to a superuser, or to a member of `pg_monitor`.
#[derive(Clone, Debug, PartialEq)]
pub struct DatabaseActivity {
    /// Its name.
    pub database: String,
    /// Transactions that have ended, well or not, since the server began to count.
    pub transactions: i64,
    /// Sessions of clients.
    pub connections: i64,
    /// Those of them that run a statement.
    pub active: i64,
    /// Those of them that wait for somebody else's lock.
    pub waiting: i64,
    /// How long the oldest open transaction has been open.
    pub longest: Option<Duration>,
}

/// How much of its server a database takes.
#[derive(Clone, Debug, PartialEq)]
pub struct DatabaseUsage {
    /// Its name.
    pub database: String,
    /// Which of all that ever had this name on the server.
    pub oid: u32,
    /// Its size.
    pub bytes: i64,
    /// When the server was last told to count anew.
    pub counted_since: Option<SystemTime>,
    /// How many seconds sessions have run statements in it since the server began to count.
    pub active_seconds: f64,
}

/// What those of these databases take that are there.
pub async fn database_usage(
    server: &Server,
    databases: &[DatabaseName],
) -> Result<Vec<DatabaseUsage>, Error> {
    let names: Vec<&str> = databases.iter().map(DatabaseName::as_str).collect();
    let client = server.client().await?;
    let rows = client
        .query(
            "-- activity::database_usage
             select d.name, d.oid, d.bytes, s.stats_reset as counted_since,
                    coalesce(s.active_time, 0) / 1000 as active_seconds
             from (select datname::text as name, oid, pg_database_size(oid) as bytes
                   from pg_database where datname = any($1)) d
             left join pg_stat_database s on s.datid = d.oid
             -- One that is dropped meanwhile has no size.
             where d.bytes is not null",
            &[&names],
        )
        .await?;
    let usage = rows.iter().map(|row| DatabaseUsage {
        database: row.get("name"),
        oid: row.get("oid"),
        bytes: row.get("bytes"),
        counted_since: row.get("counted_since"),
        active_seconds: row.get("active_seconds"),
    });
    Ok(usage.collect())
}

/// Looks at a server.
pub async fn activity(server: &Server) -> Result<Activity, Error> {
    let client = server.client().await?;
    let rows = client
        .query(
            "-- activity::of_databases
             select d.datname::text as database, s.xact_commit + s.xact_rollback as transactions,
                    count(a.pid) as connections,
                    count(a.pid) filter (where a.state = 'active') as active,
                    count(a.pid) filter (where a.wait_event_type = 'Lock') as waiting,
                    max(extract(epoch from clock_timestamp() - a.xact_start))::float8 as longest,
                    current_setting('max_connections')::int8 as max_connections
             from pg_database d
             join pg_stat_database s on s.datid = d.oid
             left join pg_stat_activity a
               on a.datid = d.oid and a.backend_type = 'client backend' and a.pid <> pg_backend_pid()
             group by d.oid, d.datname, s.xact_commit, s.xact_rollback",
            &[],
        )
        .await?;
    let databases = rows.iter().map(|row| DatabaseActivity {
        database: row.get("database"),
        transactions: row.get("transactions"),
        connections: row.get("connections"),
        active: row.get("active"),
        waiting: row.get("waiting"),
        longest: row
            .get::<_, Option<f64>>("longest")
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
    });
    Ok(Activity {
        max_connections: rows.first().map_or(0, |row| row.get("max_connections")),
        databases: databases.collect(),
    })
}
