//! Looking at one database beside the files: what it has, and what it should have.
//!
//! What it should have is read from a database that nothing but the files made: a clone of the template,
//! which itself accepts no connections, or a build from zero, with the files of a track after that. It is dropped at once. The database that is
//! looked at is only read, between two migrations and never in the middle of one.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future;

use super::fingerprint::Schema;
use super::{
    MIGRATION_KEY, MigrationSet, MigrationTimeouts, RepeatableFile, SchemaError, apply,
    build_from_zero, history, journal, track,
};
use crate::database::{Proof, Source};
use crate::name::DatabaseName;
use crate::server::Server;

/// What one database has. Where a set of files is asked for, it is the common one or that of a track.
#[derive(Debug)]
pub struct Reading {
    history: Vec<history::Row>,
    /// The track that it has files of.
    track: Option<String>,
    track_history: Vec<history::Row>,
    /// The repeatable files that it has, with their checksums.
    repeatables: BTreeMap<String, String>,
    /// Its schema.
    pub schema: Schema,
}

impl Reading {
    /// The newest version that its history names; 0 if it names none.
    #[must_use]
    pub fn version(&self) -> i64 {
        history::version(&self.history)
    }

    /// The track that it has files of.
    #[must_use]
    pub fn track(&self) -> Option<&str> {
        self.track.as_deref()
    }

    /// Whether its history names any file.
    #[must_use]
    pub fn has_history(&self) -> bool {
        !self.history.is_empty()
    }

    /// The files that made it, as far as they are known: those up to its version, and of the repeatable ones
    /// those that it has in their present form. `None` if there is no file of its version.
    #[must_use]
    pub fn files(&self, set: &MigrationSet) -> Option<MigrationSet> {
        let at = set.at(history::version(self.history_of(set)))?;
        let known: Vec<_> = set.repeatables().iter().filter(|file| self.has(file)).collect();
        if known.len() == at.repeatables().len() {
            return Some(at);
        }
        let sql = |version| set.sql(version).unwrap_or_default().to_owned();
        let versions = at.files().map(|file| (file.file.clone(), sql(file.version)));
        let repeatables = known.iter().map(|file| (file.file.clone(), file.sql.clone()));
        set.alike(versions.chain(repeatables).collect()).ok()
    }

    /// The repeatable files that it has in another form than the present one.
    #[must_use]
    pub fn outdated<'a>(&self, set: &'a MigrationSet) -> Vec<&'a str> {
        let is_noted = |file: &&RepeatableFile| self.repeatables.contains_key(&file.file);
        let outdated = set.repeatables().iter().filter(is_noted).filter(|file| !self.has(file));
        outdated.map(|file| file.file.as_str()).collect()
    }

    /// Whether it has all of these files as they are.
    #[must_use]
    pub fn is_up_to_date(&self, set: &MigrationSet) -> bool {
        history::version(self.history_of(set)) >= set.target_version()
            && set.repeatables().iter().all(|file| self.has(file))
    }

    fn has(&self, file: &RepeatableFile) -> bool {
        self.repeatables.get(&file.file) == Some(&file.sha256)
    }

    /// Makes sure that the history is one that these files can have left.
    pub fn check_history(&self, set: &MigrationSet) -> Result<(), SchemaError> {
        track::require(self.track(), set)?;
        history::pending(set, self.history_of(set)).map(drop)
    }

    fn history_of(&self, set: &MigrationSet) -> &[history::Row] {
        if set.of_track().is_some() { &self.track_history } else { &self.history }
    }
}

/// Reads what a database has: history and schema, in two round trips. Waits for a migration that is running,
/// but no longer than `patience`.
pub async fn read_schema(
    server: &Server,
    database: &DatabaseName,
    patience: Duration,
) -> Result<Reading, SchemaError> {
    let connection = server.connect(database).await?;
    let wait = format!(
        "set lock_timeout = {}; select pg_advisory_lock_shared({MIGRATION_KEY})",
        patience.as_millis()
    );
    let (waited, history, track, repeatables, schema) = future::join5(
        connection.batch_execute(&wait),
        history::read(&connection, history::COMMON),
        track::read(&connection),
        journal::repeatables(&connection),
        Schema::read(&connection),
    )
    .await;
    waited.map_err(SchemaError::not_locked)?;
    let (track, track_history) = track?;
    let (history, repeatables, schema) = (history?, repeatables?, schema?);
    Ok(Reading { history, track, track_history, repeatables, schema })
}

/// Reads what these files make, and those of a track after them, in `build`: a clone of their template where there is
/// one, else a build from zero. Nobody else may use that name meanwhile; what an earlier call left there is dropped.
pub async fn reference_schema(
    server: &Server,
    build: &DatabaseName,
    template: Option<&DatabaseName>,
    (set, track): (&MigrationSet, Option<&MigrationSet>),
    timeouts: MigrationTimeouts,
) -> Result<Schema, SchemaError> {
    server.drop_owned_database(build, Proof::Name).await?;
    let made = async {
        match template {
            Some(template) => server.create_build(build, Source::Template(template)).await?,
            None => drop(build_from_zero(server, build, set, timeouts).await?),
        }
        server.open_build(build).await?;
        if let Some(track) = track {
            apply(server, build, track, timeouts).await?;
        }
        let connection = server.connect(build).await?;
        Ok::<_, SchemaError>(Schema::read(&connection).await?)
    };
    let schema = made.await;
    let dropped = server.drop_owned_database(build, Proof::Name).await;
    let schema = schema?;
    dropped?;
    Ok(schema)
}
