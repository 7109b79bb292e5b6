//! [`Session`]: the connection that refinery's runner works with.
//!
//! refinery can drive a bare client, but then each file costs it four round trips, an error tells
//! neither file nor line, and a damaged history row is a panic.

use std::collections::VecDeque;
use std::fmt;
use std::time::Instant;

use futures_util::future;
use refinery_core::traits::r#async::{AsyncQuery, AsyncTransaction};
use refinery_core::{AsyncMigrate, Migration};
use time::OffsetDateTime;
use tokio_postgres::Client;
use tokio_postgres::error::ErrorPosition;

use super::history::Row;
use super::{AppliedFile, MigrationFile, SchemaError};
use crate::error::{Cause, Error};

/// What a file may have set ends with it: the next one starts as `tenantry_owner` with our timeouts.
const FRESH: &str = "reset all; reset role";

pub(super) struct Session<'a> {
    client: &'a mut Client,
    /// As read under the migration lock.
    history: &'a [Row],
    pending: VecDeque<&'a MigrationFile>,
    applied: Vec<AppliedFile>,
    failure: Option<SchemaError>,
}

/// The real error stays in the session: refinery does not give back what it was given.
#[derive(Debug)]
pub(super) struct Stopped;

impl<'a> Session<'a> {
    pub(super) fn new(
        client: &'a mut Client,
        history: &'a [Row],
        pending: Vec<&'a MigrationFile>,
    ) -> Self {
        Self { client, history, pending: pending.into(), applied: Vec::new(), failure: None }
    }

    /// What was applied, and why it ended there.
    pub(super) fn outcome(self) -> (Vec<AppliedFile>, Option<SchemaError>) {
        (self.applied, self.failure)
    }

    fn stop(&mut self, failure: SchemaError) -> Stopped {
        self.failure = Some(failure);
        Stopped
    }

    /// Runs a file and its note in the history in one transaction, in two round trips.
    async fn apply(&mut self, sql: &str, note: &str) -> Result<(), Stopped> {
        let begun = Instant::now();
        let Some(file) = self.pending.pop_front() else {
            return Err(self
                .stop(SchemaError::History("the runner applies more than is pending".to_owned())));
        };
        // The note follows only after success: a file may have ended the transaction by itself.
        let client = &*self.client;
        let ran = future::join3(
            client.batch_execute(FRESH),
            client.batch_execute("begin"),
            client.batch_execute(sql),
        );
        let outcome = match ran.await {
            (Ok(()), Ok(()), Ok(())) => {
                match future::join(client.batch_execute(note), client.batch_execute("commit")).await
                {
                    (Err(error), _) | (Ok(()), Err(error)) => Err(error),
                    (Ok(()), Ok(())) => Ok(()),
                }
            }
            (Err(error), ..) | (Ok(()), Err(error), _) | (Ok(()), Ok(()), Err(error)) => Err(error),
        };
        match outcome {
            Ok(()) => {
                let (version, name) = (file.version, file.name.clone());
                self.applied.push(AppliedFile { version, name, elapsed: begun.elapsed() });
                Ok(())
            }
            Err(error) => {
                // The session ends now, and the transaction with it.
                let line = line_of(&error, sql);
                let file = file.file.clone();
                Err(self.stop(SchemaError::Failed { file, line, source: Cause::from(error) }))
            }
        }
    }
}

impl AsyncTransaction for Session<'_> {
    type Error = Stopped;

    async fn execute<'a, T: Iterator<Item = &'a str> + Send + 'a>(
        &'a mut self,
        queries: T,
    ) -> Result<usize, Stopped> {
        let queries: Vec<&str> = queries.collect();
        match queries[..] {
            [sql, note] => self.apply(sql, note).await?,
            // The history's table, which is there if it has rows.
            _ if !self.history.is_empty() => {}
            _ => {
                for query in &queries {
                    if let Err(error) = self.client.batch_execute(query).await {
                        return Err(self.stop(Error::from(error).into()));
                    }
                }
            }
        }
        Ok(queries.len())
    }
}

impl AsyncQuery<Vec<Migration>> for Session<'_> {
    /// refinery asks for nothing but the history.
    async fn query<'a>(&'a mut self, _query: &'a str) -> Result<Vec<Migration>, Stopped> {
        Ok(self.history.iter().map(for_refinery).collect())
    }
}

impl AsyncMigrate for Session<'_> {}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stopped")
    }
}

impl std::error::Error for Stopped {}

/// refinery compares version, name and checksum; when it was applied is only handed through.
fn for_refinery(row: &Row) -> Migration {
    Migration::applied(row.version, row.name.clone(), OffsetDateTime::UNIX_EPOCH, row.checksum)
}

/// The line of the file that PostgreSQL points at; it counts in characters from 1.
fn line_of(error: &tokio_postgres::Error, sql: &str) -> Option<usize> {
    match error.as_db_error()?.position()? {
        ErrorPosition::Original(position) => {
            let before = sql.chars().take(usize::try_from(*position).ok()?.saturating_sub(1));
            Some(before.filter(|letter| *letter == '\n').count() + 1)
        }
        ErrorPosition::Internal { .. } => None,
    }
}
