//! The schema inside a tenant's database: which migrations it has, and applying the others.
//!
//! refinery applies the files and keeps the history; what it leaves open is closed here. Two runs never
//! meet (an advisory lock of ours, in the tenant's database), no file runs as anybody but
//! `tenantry_owner`, the history cannot be written by the tenant, and an error names file and line.

use std::time::Duration;

use futures_util::future;
use refinery_core::Runner;
use tokio_postgres::error::SqlState;

use crate::database::Source;
use crate::error::{Cause, Error};
use crate::isolation::lock_down;
use crate::name::DatabaseName;
use crate::server::{Connection, Server};

mod baseline;
mod drift;
mod error;
mod fingerprint;
mod history;
mod session;
mod set;

pub use baseline::baseline;
pub use drift::{Reading, read_schema, reference_schema};
pub use error::SchemaError;
pub use fingerprint::{Difference, Schema};
pub use set::{MigrationFile, MigrationSet};

use session::Session;

/// Pasted into refinery's statements as it stands.
const HISTORY_TABLE: &str = "tenantry.schema_history";

/// Serialises migrations of one database: advisory locks are per database. `tenantry` in ASCII.
const MIGRATION_LOCK: &str = "select pg_advisory_lock(8387233643963478649)";

/// The same lock, for whoever only wants to look while nothing is migrated.
const MIGRATION_LOCK_SHARED: &str = "select pg_advisory_lock_shared(8387233643963478649)";

/// Bounds on the statements of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MigrationTimeouts {
    /// How long a statement may wait for a lock; the tenant's own queries queue up behind it meanwhile.
    pub lock: Duration,
    /// How long a statement may run.
    pub statement: Duration,
}

/// What [`apply`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The version before.
    pub from: i64,
    /// The version after.
    pub to: i64,
    /// The files applied, in their order.
    pub files: Vec<AppliedFile>,
}

/// A file that was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedFile {
    /// Its version.
    pub version: i64,
    /// Its name, without version.
    pub name: String,
    /// How long it took.
    pub elapsed: Duration,
}

impl Default for MigrationTimeouts {
    /// 5 seconds for a lock, 15 minutes for a statement.
    fn default() -> Self {
        Self { lock: Duration::from_secs(5), statement: Duration::from_mins(15) }
    }
}

/// Applies the files that a database lacks, each in a transaction of its own. A database that lacks
/// none costs one round trip.
///
/// Runs to its end even if the caller stops waiting: a file is either applied and noted, or neither.
pub async fn apply(
    server: &Server,
    database: &DatabaseName,
    set: &MigrationSet,
    timeouts: MigrationTimeouts,
) -> Result<Applied, SchemaError> {
    let (server, database, set) = (server.clone(), database.clone(), set.clone());
    let run = tokio::spawn(async move { apply_pending(&server, &database, &set, timeouts).await });
    match run.await {
        Ok(outcome) => outcome,
        Err(panic) => Err(SchemaError::Interrupted(panic)),
    }
}

async fn apply_pending(
    server: &Server,
    database: &DatabaseName,
    set: &MigrationSet,
    timeouts: MigrationTimeouts,
) -> Result<Applied, SchemaError> {
    let mut connection = server.connect_as_owner(database, timeouts).await?;
    // One flight. The lock is held until the session ends, which is at the end of this function.
    let (locked, history) =
        future::join(connection.batch_execute(MIGRATION_LOCK), history::read(&connection)).await;
    locked.map_err(|error| {
        if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) {
            SchemaError::Busy
        } else {
            Error::from(error).into()
        }
    })?;
    let history = history?;
    let from = history::version(&history);
    let pending = history::pending(set, &history)?;
    if pending.is_empty() {
        return Ok(Applied { from, to: from, files: Vec::new() });
    }

    let mut runner = Runner::new(set.migrations());
    runner.set_migration_table_name(HISTORY_TABLE);
    let mut session = Session::new(&mut connection, &history, pending);
    let ran = runner.run_async(&mut session).await;
    let (files, failure) = session.outcome();
    match (ran, failure) {
        (_, Some(failure)) => Err(failure),
        (Err(refused), None) => Err(SchemaError::History(refused.to_string())),
        (Ok(_), None) => {
            let to = files.last().map_or(set.target_version(), |file| file.version);
            Ok(Applied { from, to, files })
        }
    }
}

/// Makes a build out of nothing but the migration files, locked down and shut again. May be repeated
/// after a crash at any moment: it goes on where it was.
///
/// While the files run the build accepts connections, but only the administrator has the right to one.
pub async fn build_from_zero(
    server: &Server,
    build: &DatabaseName,
    set: &MigrationSet,
    timeouts: MigrationTimeouts,
) -> Result<Applied, SchemaError> {
    server.create_build(build, Source::Zero).await?;
    server.open_build(build).await?;
    let furnished = async {
        lock_down(&server.connect(build).await?).await?;
        apply(server, build, set, timeouts).await
    };
    let furnished = furnished.await;
    let closed = server.close_build(build).await;
    let applied = furnished?;
    closed?;
    Ok(applied)
}

/// The version of the newest migration that a database has; 0 if it has none. The connection must be an
/// administrator's.
pub async fn current_version(connection: &Connection) -> Result<i64, SchemaError> {
    let row = connection
        .query_typed(
            "-- schema::current_version
             select coalesce(max(version), 0) from tenantry.schema_history",
            &[],
        )
        .await;
    match row {
        Ok(rows) => Ok(rows.first().map_or(0, |row| row.get(0))),
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Ok(0),
        Err(error) => Err(Error::Database(Cause::from(error)).into()),
    }
}
