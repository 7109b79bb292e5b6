//! One schema of a database into another database: `pg_dump` straight into `pg_restore`, nothing stored.
//!
//! All of it arrives, or nothing: it is one transaction, and `pg_restore` is told of the end of its input
//! only after `pg_dump` has succeeded.

use std::io;
use std::process::Stdio;

use crate::process::Process;
use crate::restore::RestoreError;
use crate::tools::PgTools;

/// Copies a schema and the tables in it: their rows, defaults and rights, and neither indexes nor constraints,
/// which may need what the other database has not. `from` and `to` are libpq's environment variables.
pub async fn copy_schema(
    tools: &PgTools,
    schema: &str,
    from: &[(&'static str, String)],
    to: &[(&'static str, String)],
) -> Result<(), RestoreError> {
    let sections = ["--section=pre-data", "--section=data"].map(str::to_owned);
    // A pattern: in double quotes it stands for itself.
    let only = format!("--schema=\"{}\"", schema.replace('"', "\"\""));
    let format = ["--format=custom", "--compress=0", "--no-password"].map(str::to_owned);
    let dump = format.into_iter().chain(sections).chain([only]);
    let mut source = Process::start(tools.pg_dump(), dump, from, Stdio::null(), Stdio::piped())
        .map_err(RestoreError::Run)?;
    let database = to.iter().find(|(name, _)| *name == "PGDATABASE");
    let (_, database) = database.ok_or_else(|| RestoreError::Run(no_database()))?;
    let restore = [
        "--exit-on-error".to_owned(),
        "--single-transaction".to_owned(),
        "--no-password".to_owned(),
        "--format=custom".to_owned(),
        format!("--dbname=dbname='{}'", database.replace('\\', "\\\\").replace('\'', "\\'")),
    ];
    let mut target = Process::start(tools.pg_restore(), restore, to, Stdio::piped(), Stdio::null())
        .map_err(RestoreError::Run)?;
    let (mut output, mut input) = (source.take_stdout(), target.take_stdin());
    // Whichever stops first says why, below.
    let copied = tokio::io::copy(&mut output, &mut input).await;
    if copied.is_err() {
        source.kill().await;
    }
    let dumped = source.wait().await.map_err(RestoreError::Run)?;
    if copied.is_ok() && !dumped.status.success() {
        target.kill().await;
        return Err(RestoreError::PgRestore { status: dumped.status, stderr: dumped.stderr });
    }
    drop(input);
    let restored = target.wait().await.map_err(RestoreError::Run)?;
    if !restored.status.success() {
        return Err(RestoreError::PgRestore { status: restored.status, stderr: restored.stderr });
    }
    copied.map(drop).map_err(RestoreError::Run)
}

fn no_database() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "no PGDATABASE")
}
