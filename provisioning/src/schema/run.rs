//! [`Run`]: runs files in one database, and waits politely.
//!
//! While a statement waits for a lock, the tenant's own queries queue up behind it. So it waits for the
//! lock timeout and no longer; then its transaction is rolled back, the queue passes, and it is tried
//! again after a pause. After some tries the error names who was in the way, and somebody else's turn
//! has come.

use std::pin::pin;
use std::time::Duration;

use futures_util::future;
use tokio::time::sleep;
use tokio_postgres::Client;
use tokio_postgres::error::{ErrorPosition, SqlState};
use uuid::Uuid;

use super::blockers::{self, Blocker};
use super::statement::{Manner, Statement, split};
use super::{MigrationTimeouts, SchemaError};
use crate::error::Cause;
use crate::name::DatabaseName;
use crate::server::Server;

/// What a file may have set ends with it: the next one starts as `tenantry_owner` with our timeouts.
pub(super) const FRESH: &str = "reset all; reset role";

/// Tries at a lock before another tenant's turn comes.
const TRIES: u32 = 3;
/// The pause after the first try; it doubles.
const PAUSE: Duration = Duration::from_millis(250);

/// A session in which files are run.
pub(super) struct Run<'a> {
    pub(super) client: &'a Client,
    pub(super) server: &'a Server,
    pub(super) database: &'a DatabaseName,
    pub(super) timeouts: MigrationTimeouts,
}

/// A file to run.
#[derive(Clone, Copy)]
pub(super) struct Script<'a> {
    pub(super) file: &'a str,
    pub(super) sql: &'a str,
    pub(super) in_transaction: bool,
    /// Whether another content of it may have run before.
    pub(super) repeatable: bool,
}

/// A part of a file that is tried as a whole.
pub(super) struct Piece<'a> {
    pub(super) file: &'a str,
    pub(super) sql: &'a str,
    /// The line that it begins in.
    pub(super) line: usize,
    /// Whether nothing of it stays when it is refused: it commits nothing by itself.
    pub(super) is_whole: bool,
}

impl Run<'_> {
    /// Runs a file, and `note` that it has run.
    pub(super) async fn run(&self, script: Script<'_>, note: &str) -> Result<(), SchemaError> {
        if !script.in_transaction {
            return self.one_by_one(script, note).await;
        }
        let commits = |statement: &Statement<'_>| statement.manner() == Manner::Transaction;
        let is_whole = !split(script.sql).iter().any(commits);
        let piece = Piece { file: script.file, sql: script.sql, line: 1, is_whole };
        if !is_whole {
            return self.with_mark(&piece, note).await;
        }
        self.patiently(&piece, || self.transaction(script.sql, note)).await
    }

    /// Runs a text and its note in one transaction, in one round trip.
    async fn transaction(&self, sql: &str, note: &str) -> Result<(), tokio_postgres::Error> {
        let client = self.client;
        // A savepoint is refused outside of a transaction, as after a text that has ended it by itself, and the note with
        // it.
        let noted = format!("savepoint noted; {note};\ncommit");
        let opening = format!("begin; {FRESH}");
        let (begun, ran, noted) = future::join3(
            client.batch_execute(&opening),
            client.batch_execute(sql),
            client.batch_execute(&noted),
        )
        .await;
        begun.and(ran).and(noted)
    }

    /// Tries a piece until it gets its locks, or has been refused them too often. A failure leaves the
    /// transaction as it is; being refused a lock ends it.
    pub(super) async fn patiently<F>(
        &self,
        piece: &Piece<'_>,
        attempt: impl Fn() -> F,
    ) -> Result<(), SchemaError>
    where
        F: Future<Output = Result<(), tokio_postgres::Error>>,
    {
        let mut tries = 1;
        loop {
            let (outcome, blockers) = self.watched(attempt()).await;
            let Err(error) = outcome else { return Ok(()) };
            let line = line_of(&error, piece.sql).map(|line| line + piece.line - 1);
            let (file, source) = (piece.file.to_owned(), Cause::from(error));
            if !is_about_locks(&source) {
                return Err(SchemaError::Failed { file, line, source });
            }
            self.client.batch_execute("rollback").await.map_err(crate::Error::from)?;
            if tries >= TRIES || !piece.is_whole {
                return Err(SchemaError::Blocked { file, line, tries, blockers, source });
            }
            tracing::debug!(file, tries, "a migration could not get a lock");
            sleep(pause(tries)).await;
            tries += 1;
        }
    }

    /// Does some work of the session, and tells who was in its way at the end.
    async fn watched<T>(&self, work: impl Future<Output = T>) -> (T, Vec<Blocker>) {
        let mut work = pin!(work);
        let pause =
            (self.timeouts.lock / 4).clamp(Duration::from_millis(20), Duration::from_millis(500));
        let look = || async {
            sleep(pause).await;
            blockers::look(self.server, self.database).await
        };
        let mut seen = Vec::new();
        loop {
            tokio::select! {
                biased;
                done = &mut work => return (done, seen),
                found = look() => match found {
                    Ok(blockers) => seen = blockers,
                    Err(error) => tracing::debug!(%error, "who blocks a migration cannot be seen"),
                },
            }
        }
    }
}

/// Whether it may help to let others pass first: a lock was not to be had, or two waited for each other.
fn is_about_locks(cause: &Cause) -> bool {
    matches!(
        cause.sql_state(),
        Some(&SqlState::LOCK_NOT_AVAILABLE | &SqlState::T_R_DEADLOCK_DETECTED)
    )
}

/// Doubles with every try, spread by up to a half so that replicas do not come in step.
fn pause(tries: u32) -> Duration {
    let spread = f64::from(Uuid::new_v4().as_bytes()[0]) / 256.0;
    (PAUSE * 2_u32.pow(tries - 1)).mul_f64(0.75 + spread / 2.0)
}

/// The line of a text that PostgreSQL points at; it counts in characters from 1.
pub(super) fn line_of(error: &tokio_postgres::Error, sql: &str) -> Option<usize> {
    match error.as_db_error()?.position()? {
        ErrorPosition::Original(position) => {
            let before = sql.chars().take(usize::try_from(*position).ok()?.saturating_sub(1));
            Some(before.filter(|letter| *letter == '\n').count() + 1)
        }
        ErrorPosition::Internal { .. } => None,
    }
}
