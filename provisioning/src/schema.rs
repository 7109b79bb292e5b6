//! The schema inside a tenant's database: which migrations it has, and applying the others.
//!
//! refinery applies the files and keeps the history; what it leaves open is closed here. Two runs never
//! meet (an advisory lock of ours, in the tenant's database), no file runs as anybody but
//! `tenantry_owner`, the history cannot be written by the tenant, and an error names file and line.
//!
//! A database gets the files of one set, and may get those of a track beside it (see [`MigrationSet::track`]): the
//! same is done with each of them, and each has a history of its own.
//!
//! A file runs in one transaction with its note in the history. One that cannot (its first line is
//! `-- tenantry: no-transaction`) runs statement by statement, each with a note of its own. Repeatable
//! files, which refinery does not know, run after all of the others.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::future;
use refinery::{Runner, Target};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::database::{Proof, Source};
use crate::error::{Cause, Error};
use crate::isolation::lock_down;
use crate::name::DatabaseName;
use crate::server::{Connection, Server};

mod baseline;
mod blockers;
mod drift;
mod dry_run;
mod error;
mod fingerprint;
mod history;
mod journal;
mod mask;
mod risk;
mod run;
mod session;
mod set;
mod sizes;
mod statement;
mod track;

pub use baseline::baseline;
pub use blockers::Blocker;
pub use drift::{Reading, read_schema, reference_schema};
pub use dry_run::{DryRun, dry_run};
pub use error::SchemaError;
pub use fingerprint::{Difference, Schema};
pub use mask::{MaskError, check_mask};
pub use risk::{Effect, FileEffects, Labour, Risk, Rule, TableLock};
pub use set::{MigrationFile, MigrationSet, RepeatableFile};
pub use sizes::{TableSize, database_sizes, table_sizes};
pub use track::{TrackVersion, track_version};

use history::Row;
use run::{Run, Script};
use session::Session;

/// The advisory lock that serialises migrations of one database; whoever holds it is also found by it. `tenantry` in
/// ASCII.
const MIGRATION_KEY: i64 = 0x7465_6e61_6e74_7279;

/// Bounds on the statements of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MigrationTimeouts {
    /// How long a statement may wait for a lock; the tenant's own queries queue up behind it meanwhile.
    /// Then its file is tried again, a few times.
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
    /// The files applied, in their order; the repeatable ones last.
    pub files: Vec<AppliedFile>,
}

/// A file that was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedFile {
    /// Its version; 0 for a repeatable file.
    pub version: i64,
    /// Its name, without version.
    pub name: String,
    /// How long it took.
    pub elapsed: Duration,
}

impl Default for MigrationTimeouts {
    /// 2 seconds for a lock, 15 minutes for a statement.
    fn default() -> Self {
        Self { lock: Duration::from_secs(2), statement: Duration::from_mins(15) }
    }
}

/// Applies the files that a database lacks, each in a transaction of its own, and then the repeatable
/// files that have changed. A database that lacks none costs two round trips.
///
/// Runs to its end even if the caller stops waiting: a file is either applied and noted, or neither. Of
/// a file without a transaction that holds for every statement.
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
    let connection = server.connect_as_owner(database, timeouts).await?;
    let standing = Standing::read(&connection, set).await?;
    standing.require_track(set)?;
    let from = history::version(&standing.history);
    let pending = history::pending(set, &standing.history)?;
    let repeatables = standing.changed(set);
    let mut applied = Applied { from, to: from, files: Vec::new() };

    let run = Run { client: &connection, server, database, timeouts };
    if let Some(track) = set.of_track()
        && standing.history.is_empty()
        && !(pending.is_empty() && repeatables.is_empty())
    {
        journal::prepare_track(&connection, track).await?;
    }
    if !pending.is_empty() {
        applied.files = apply_versions(&run, set, &standing.history, pending).await?;
        applied.to = applied.files.last().map_or(from, |file| file.version);
    }
    if !repeatables.is_empty() {
        journal::prepare(&connection).await?;
    }
    for file in repeatables {
        let begun = Instant::now();
        let (sql, in_transaction) = (&file.sql, file.in_transaction);
        let script = Script { file: &file.file, sql, in_transaction, repeatable: true };
        run.run(script, &journal::note(file)).await?;
        let elapsed = begun.elapsed();
        applied.files.push(AppliedFile { version: 0, name: file.name.clone(), elapsed });
    }
    Ok(applied)
}

/// Waits for the migration lock, which is held until the session ends.
async fn lock(client: &Client) -> Result<(), SchemaError> {
    let lock = format!("select pg_advisory_lock({MIGRATION_KEY})");
    client.batch_execute(&lock).await.map_err(SchemaError::not_locked)
}

/// Where a database stands.
struct Standing {
    history: Vec<Row>,
    /// The repeatable files that it has, with their checksums.
    repeatables: BTreeMap<String, String>,
    /// The track that it has files of, if that was asked for.
    track: Option<String>,
}

impl Standing {
    /// Waits for the migration lock, and reads what is there then.
    async fn read(client: &Client, set: &MigrationSet) -> Result<Self, SchemaError> {
        let repeatables = async {
            match set.repeatables() {
                [] => Ok(BTreeMap::new()),
                _ => journal::repeatables(client).await,
            }
        };
        let track = async {
            match set.of_track() {
                None => Ok(None),
                Some(_) => journal::held_track(client).await,
            }
        };
        let (locked, history, repeatables, track) = future::join4(
            lock(client),
            history::read(client, history::table(set)),
            repeatables,
            track,
        )
        .await;
        locked?;
        Ok(Self { history: history?, repeatables: repeatables?, track: track? })
    }

    /// Refuses the files of a track to a database that has those of another one.
    fn require_track(&self, set: &MigrationSet) -> Result<(), SchemaError> {
        track::require(self.track.as_deref(), set)
    }

    /// The repeatable files that the database lacks, or has with another content.
    fn changed<'a>(&self, set: &'a MigrationSet) -> Vec<&'a RepeatableFile> {
        let has = |file: &RepeatableFile| self.repeatables.get(&file.file) == Some(&file.sha256);
        set.repeatables().iter().filter(|file| !has(file)).collect()
    }
}

async fn apply_versions(
    run: &Run<'_>,
    set: &MigrationSet,
    history: &[Row],
    pending: Vec<&MigrationFile>,
) -> Result<Vec<AppliedFile>, SchemaError> {
    let mut runner =
        Runner::new(set.migrations()).set_target(Target::Version(set.target_version()));
    runner.set_migration_table_name(history::table(set));
    let mut session = Session::new(run, history, pending);
    let ran = runner.run_async(&mut session).await;
    let (files, failure) = session.outcome();
    match (ran, failure) {
        (_, Some(failure)) => Err(failure),
        (Err(refused), None) => Err(SchemaError::History(refused.to_string())),
        (Ok(_), None) => Ok(files),
    }
}

/// Makes a build out of nothing but the migration files, locked down and shut again. May be repeated
/// after a crash at any moment: it goes on where it was, or begins anew if nobody can tell where that is.
///
/// While the files run the build accepts connections, but only the administrator has the right to one.
pub async fn build_from_zero(
    server: &Server,
    build: &DatabaseName,
    set: &MigrationSet,
    timeouts: MigrationTimeouts,
) -> Result<Applied, SchemaError> {
    match furnish(server, build, set, timeouts).await {
        Err(SchemaError::InDoubt { .. } | SchemaError::HalfDone { .. }) => {
            server.drop_owned_database(build, Proof::Name).await?;
            furnish(server, build, set, timeouts).await
        }
        other => other,
    }
}

async fn furnish(
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
