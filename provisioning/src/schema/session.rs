//! [`Session`]: the connection that refinery's runner works with.
//!
//! refinery can drive a bare client, but then each file costs it four round trips, an error tells
//! neither file nor line, and a damaged history row is a panic.

use std::collections::VecDeque;
use std::fmt;
use std::time::Instant;

use refinery::Migration;
use refinery_core::AsyncMigrate;
use refinery_core::traits::r#async::{AsyncQuery, AsyncTransaction};
use time::OffsetDateTime;

use super::history::Row;
use super::run::{Run, Script};
use super::{AppliedFile, MigrationFile, SchemaError};
use crate::error::Error;

pub(super) struct Session<'a> {
    run: &'a Run<'a>,
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
        run: &'a Run<'a>,
        history: &'a [Row],
        pending: Vec<&'a MigrationFile>,
    ) -> Self {
        Self { run, history, pending: pending.into(), applied: Vec::new(), failure: None }
    }

    /// What was applied, and why it ended there.
    pub(super) fn outcome(self) -> (Vec<AppliedFile>, Option<SchemaError>) {
        (self.applied, self.failure)
    }

    fn stop(&mut self, failure: SchemaError) -> Stopped {
        self.failure = Some(failure);
        Stopped
    }

    /// Runs a file and its note in the history.
    async fn apply(&mut self, sql: &str, note: &str) -> Result<(), Stopped> {
        let begun = Instant::now();
        let Some(file) = self.pending.pop_front() else {
            return Err(self
                .stop(SchemaError::History("the runner applies more than is pending".to_owned())));
        };
        let script = Script {
            file: &file.file,
            sql,
            in_transaction: file.in_transaction,
            repeatable: false,
        };
        match self.run.run(script, note).await {
            Ok(()) => {
                let (version, name) = (file.version, file.name.clone());
                self.applied.push(AppliedFile { version, name, elapsed: begun.elapsed() });
                Ok(())
            }
            // The session ends now, and a transaction with it.
            Err(failure) => Err(self.stop(failure)),
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
                    if let Err(error) = self.run.client.batch_execute(query).await {
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
