//! One database into another, or one schema of it: `pg_dump` straight into `pg_restore`, nothing stored.
//!
//! `pg_restore` is told of the end of its input only after `pg_dump` has succeeded: it must not take a cut stream for
//! a whole one. A copy that returned an error may have left part of the data.

use std::io;
use std::process::Stdio;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::process::Process;
use crate::restore::RestoreError;
use crate::tools::PgTools;

const BUFFER_BYTES: usize = 128 * 1024;

/// One side of a copy.
#[derive(Clone, Copy)]
pub struct CopyEnd<'a> {
    /// The programs, of the server's major version.
    pub tools: &'a PgTools,
    /// The connection, as libpq's environment variables.
    pub libpq_env: &'a [(&'static str, String)],
}

/// Copies everything in a database into an empty one, made from `template0`. Objects keep their owners and rights, so
/// the roles have to be there. `snapshot` is one that was exported, where others write meanwhile. `progress` hears
/// how many bytes have come across.
pub async fn copy_database(
    from: CopyEnd<'_>,
    to: CopyEnd<'_>,
    snapshot: Option<&str>,
    progress: impl Fn(u64) + Send + Sync,
) -> Result<(), RestoreError> {
    let snapshot = snapshot.map(|id| format!("--snapshot={id}"));
    let dump: Vec<&str> = snapshot.iter().map(String::as_str).collect();
    copy(from, to, &dump, &[], progress).await
}

/// Copies what a database is made of into an empty one, made from `template0`: everything but its rows. What offers
/// its tables to others, or writes into them from elsewhere, stays behind.
pub async fn copy_definitions(from: CopyEnd<'_>, to: CopyEnd<'_>) -> Result<(), RestoreError> {
    let dump = ["--schema-only", "--no-publications", "--no-subscriptions"];
    copy(from, to, &dump, &[], |_| {}).await
}

/// Copies a schema and the tables in it: their rows, defaults and rights, and neither indexes nor constraints,
/// which may need what the other database has not. All of it arrives, or nothing: it is one transaction.
pub async fn copy_schema(
    schema: &str,
    from: CopyEnd<'_>,
    to: CopyEnd<'_>,
) -> Result<(), RestoreError> {
    // A pattern: in double quotes it stands for itself.
    let only = format!("--schema=\"{}\"", schema.replace('"', "\"\""));
    let dump = ["--section=pre-data", "--section=data", &only];
    copy(from, to, &dump, &["--single-transaction"], |_| {}).await
}

async fn copy(
    from: CopyEnd<'_>,
    to: CopyEnd<'_>,
    dump: &[&str],
    restore: &[&str],
    progress: impl Fn(u64) + Send + Sync,
) -> Result<(), RestoreError> {
    // Who may read the system's catalogs is the matter of each server.
    let format =
        ["--format=custom", "--compress=0", "--no-password", "--exclude-schema=pg_catalog"];
    let dump = format.iter().chain(dump);
    let (tools, env) = (from.tools, from.libpq_env);
    let mut source = Process::start(tools.pg_dump(), dump, env, Stdio::null(), Stdio::piped())
        .map_err(RestoreError::pg_dump)?;
    let database = to.libpq_env.iter().find(|(name, _)| *name == "PGDATABASE");
    let (_, database) = database.ok_or_else(|| RestoreError::pg_restore(no_database()))?;
    // As a connection string, so that no name is taken for one.
    let database =
        format!("--dbname=dbname='{}'", database.replace('\\', "\\\\").replace('\'', "\\'"));
    let own = ["--exit-on-error", "--no-password", "--format=custom", &database];
    let restore = own.iter().chain(restore);
    let (tools, env) = (to.tools, to.libpq_env);
    let mut target =
        Process::start(tools.pg_restore(), restore, env, Stdio::piped(), Stdio::null())
            .map_err(RestoreError::pg_restore)?;

    let (mut output, mut input) = (source.take_stdout(), target.take_stdin());
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut bytes = 0;
    // Whichever stops first says why, below.
    let copied = loop {
        match output.read(&mut buffer).await {
            Ok(0) => break Ok(()),
            Ok(read) => match input.write_all(&buffer[..read]).await {
                Ok(()) => bytes += read as u64,
                Err(error) => break Err(RestoreError::pg_restore(error)),
            },
            Err(error) => break Err(RestoreError::pg_dump(error)),
        }
        progress(bytes);
    };
    if copied.is_err() {
        source.kill().await;
    }
    let dumped = source.wait().await.map_err(RestoreError::pg_dump)?;
    if copied.is_ok() && !dumped.status.success() {
        target.kill().await;
        return Err(RestoreError::PgDump { status: dumped.status, stderr: dumped.stderr });
    }
    drop(input);
    let restored = target.wait().await.map_err(RestoreError::pg_restore)?;
    if !restored.status.success() {
        return Err(RestoreError::PgRestore { status: restored.status, stderr: restored.stderr });
    }
    copied
}

fn no_database() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "no PGDATABASE")
}
