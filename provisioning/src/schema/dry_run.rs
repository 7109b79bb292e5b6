//! [`dry_run`]: would the files run here? All of them in one transaction that is rolled back.
//!
//! Nothing stays, but until the end the transaction holds every lock that the files take: it is for
//! templates and for a tenant that can wait. What cannot run in that transaction is left out and named;
//! what fails after that may have needed it, so that it is named too and is no error.

use tokio_postgres::Client;

use super::run::{FRESH, line_of};
use super::statement::{Manner, split};
use super::{MigrationSet, MigrationTimeouts, SchemaError, Standing, history};
use crate::error::{Cause, Error};
use crate::name::DatabaseName;
use crate::server::Server;

/// What [`dry_run`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DryRun {
    /// The files that ran, by their names.
    pub tried: Vec<String>,
    /// The files that could not be tried, and why.
    pub skipped: Vec<(String, String)>,
}

/// A file that [`apply`](super::apply) would run.
struct Candidate<'a> {
    file: &'a str,
    sql: &'a str,
    in_transaction: bool,
}

/// Runs the files that a database lacks, those of its track after the others, and leaves nothing of it. Errors are
/// those of [`apply`](super::apply); a lock is waited for once.
pub async fn dry_run(
    server: &Server,
    database: &DatabaseName,
    set: &MigrationSet,
    track: Option<&MigrationSet>,
    timeouts: MigrationTimeouts,
) -> Result<DryRun, SchemaError> {
    let connection = server.connect_as_owner(database, timeouts).await?;
    let mut candidates = candidates(&connection, set).await?;
    if let Some(track) = track {
        candidates.extend(self::candidates(&connection, track).await?);
    }

    let mut outcome = DryRun::default();
    connection.batch_execute("begin").await.map_err(Error::from)?;
    for candidate in candidates {
        if let Some(reason) = candidate.obstacle() {
            outcome.skipped.push((candidate.file.to_owned(), reason.to_owned()));
            continue;
        }
        match attempt(&connection, candidate.sql).await {
            Ok(()) => outcome.tried.push(candidate.file.to_owned()),
            Err(error) => {
                let line = line_of(&error, candidate.sql);
                let (file, source) = (candidate.file.to_owned(), Cause::from(error));
                let is_new_value = source.sql_state().is_some_and(|state| state.code() == "55P04");
                if outcome.skipped.is_empty() && !is_new_value {
                    return Err(SchemaError::Failed { file, line, source });
                }
                let reason = if is_new_value {
                    format!("it uses what an earlier file has to commit first: {source}")
                } else {
                    format!("it may need a file that was left out: {source}")
                };
                outcome.skipped.push((file, reason));
                connection.batch_execute("rollback to file").await.map_err(Error::from)?;
            }
        }
    }
    connection.batch_execute("rollback").await.map_err(Error::from)?;
    Ok(outcome)
}

/// The files of a set that a database lacks.
async fn candidates<'a>(
    client: &Client,
    set: &'a MigrationSet,
) -> Result<Vec<Candidate<'a>>, SchemaError> {
    let standing = Standing::read(client, set).await?;
    standing.require_track(set)?;
    let versions = history::pending(set, &standing.history)?.into_iter().map(|file| Candidate {
        file: &file.file,
        sql: set.sql(file.version).unwrap_or_default(),
        in_transaction: file.in_transaction,
    });
    let repeatables = standing.changed(set).into_iter().map(|file| Candidate {
        file: &file.file,
        sql: &file.sql,
        in_transaction: file.in_transaction,
    });
    Ok(versions.chain(repeatables).collect())
}

impl Candidate<'_> {
    /// Why it cannot run in a transaction of ours.
    fn obstacle(&self) -> Option<&'static str> {
        if !self.in_transaction {
            return Some("it runs without a transaction, so nothing of it could be undone");
        }
        let ends =
            split(self.sql).iter().any(|statement| statement.manner() == Manner::Transaction);
        ends.then_some("it begins or ends transactions by itself")
    }
}

/// Runs one file, with what a commit would check.
async fn attempt(client: &Client, sql: &str) -> Result<(), tokio_postgres::Error> {
    client.batch_execute(FRESH).await?;
    client.batch_execute("savepoint file").await?;
    client.batch_execute(sql).await?;
    client.batch_execute("set constraints all immediate; set constraints all deferred").await
}
