//! A drill: a restore done only to prove a backup. What comes of it is compared with the backup in rows,
//! contents and schema, and dropped. The tenant's own database is not touched.
//!
//! A backup that fails its drill is not to be relied on, and is not taken for the newest good one any more.

use std::time::{Duration, Instant};

use futures_util::{FutureExt as _, TryStreamExt as _, pin_mut};
use tenantry_backup::{
    BackupKey, Manifest, PgTools, RestoreError, RowDigest, TableDigest, digest_tables,
    load_manifest,
};
use tenantry_provisioning::{Connection, Pace, Schema, Server};
use uuid::Uuid;

use super::backup::count_rows;
use super::restore::drop_build;
use super::verify_backup::blames_backup;
use super::{Plan, Step, StepContext, StepError, Work, restore};

pub(super) const PLAN: Plan = Plan {
    steps: &[
        Step::new("restore_scratch", |cx| restore_scratch(cx).boxed()),
        Step::new("compare", |cx| compare(cx).boxed()),
        Step::new("drop_scratch", |cx| drop_scratch(cx).boxed()),
    ],
    abandon: &[Step::new("drop_scratch", |cx| drop_build(cx).boxed())],
    no_return: 3,
};

/// How many seconds the restore took.
const TOOK: &str = "took";
const BAD: &str = "this backup is lost: take a new one (`tenantry backup run`), and find out what happened to the bucket";

/// What is wrong, and whether it is the backup that is at fault.
enum Flaw {
    Backup(StepError),
    Elsewhere(StepError),
}

fn backup(cx: &StepContext<'_>) -> Uuid {
    match *cx.work {
        Work::Drill { backup } => backup,
        _ => unreachable!("only a drill has these steps"),
    }
}

async fn restore_scratch(cx: &StepContext<'_>) -> Result<(), StepError> {
    let mut began = Instant::now();
    let mut restored = try_restore(cx).await;
    if matches!(restored, Err(Flaw::Backup(_))) {
        // Bytes can be damaged on their way, too. What is said of a backup for good has been seen twice.
        began = Instant::now();
        restored = try_restore(cx).await;
    }
    let concluded = conclude(cx, restored).await;
    if let Err(StepError::Fail(..)) = concluded {
        // Another attempt begins from nothing, and a disk that is full must not stay so.
        drop_build(cx).await?;
    }
    concluded?;
    cx.remember(TOOK, &began.elapsed().as_secs_f64()).await
}

async fn try_restore(cx: &StepContext<'_>) -> Result<(), Flaw> {
    let (manifest, key) = open(cx).await?;
    let server = cx.server().await.map_err(Flaw::Elsewhere)?;
    restore::settle_place(cx).await.map_err(Flaw::Elsewhere)?;
    restore::restore_into(cx, &manifest, &key, &server).await.map(drop).map_err(Flaw::of)
}

async fn compare(cx: &StepContext<'_>) -> Result<(), StepError> {
    // One that found something has dropped it, and is tried again.
    let scratch = cx.build();
    if cx.server().await?.database(&scratch).await?.is_none() {
        restore_scratch(cx).await?;
    }
    let mut compared = try_compare(cx).await;
    if matches!(compared, Err(Flaw::Backup(_))) {
        compared = try_compare(cx).await;
    }
    conclude(cx, compared).await
}

async fn try_compare(cx: &StepContext<'_>) -> Result<(), Flaw> {
    let (manifest, key) = open(cx).await?;
    let server = cx.server().await.map_err(Flaw::Elsewhere)?;
    compare_all(cx, &manifest, &key, &server).await
}

async fn drop_scratch(cx: &StepContext<'_>) -> Result<(), StepError> {
    drop_build(cx).await?;
    let took = Duration::from_secs_f64(cx.recall(TOOK)?.unwrap_or_default());
    Ok(cx.lock.record_proven(backup(cx), took).await?)
}

/// The manifest, proven to be of this tenant and unaltered, and the key.
async fn open(cx: &StepContext<'_>) -> Result<(Manifest, BackupKey), Flaw> {
    let id = backup(cx);
    let store = cx.environment.store().map_err(Flaw::Elsewhere)?;
    let manifest = load_manifest(store, cx.tenant.id, id).await;
    let manifest = manifest.map_err(|error| Flaw::of(error.into()))?;
    let key = cx.environment.catalog.backup_key_of(&manifest).await;
    let key = key.map_err(|error| Flaw::of(error.into()))?.open;
    let verified = manifest.verify(&key, cx.tenant.id).map_err(RestoreError::from);
    verified.map_err(|error| Flaw::of(error.into()))?;
    Ok((manifest, key))
}

/// A backup at fault is marked, and nothing of it stays on the server.
async fn conclude(cx: &StepContext<'_>, outcome: Result<(), Flaw>) -> Result<(), StepError> {
    let error = match outcome {
        Ok(()) => return Ok(()),
        Err(Flaw::Elsewhere(error)) => return Err(error),
        Err(Flaw::Backup(error)) => error,
    };
    drop_build(cx).await?;
    let failed: Result<(), StepError> = Err(error);
    let missing = cx.environment.is_missing(&failed).await?;
    if let Err(error) = &failed {
        cx.lock.record_problem(backup(cx), &error.to_string(), missing).await?;
    }
    failed
}

async fn compare_all(
    cx: &StepContext<'_>,
    manifest: &Manifest,
    key: &BackupKey,
    server: &Server,
) -> Result<(), Flaw> {
    let elsewhere = |error: tenantry_provisioning::Error| Flaw::Elsewhere(error.into());
    let scratch = cx.build();
    let session = server.connect(&scratch).await.map_err(elsewhere)?;
    let counted = count_rows(&session).await.map_err(Flaw::Elsewhere)?;
    if let Some(table) = manifest.tables.iter().find(|table| !counted.contains(table)) {
        return Err(Flaw::found(format!(
            "the restored table {}.{} has another number of rows than the backup says",
            table.schema, table.table
        )));
    }
    if counted.len() != manifest.tables.len() {
        return Err(Flaw::found("the restored database has more tables than the backup says"));
    }
    // Also puts the session's settings to what `pg_dump` writes rows with.
    let schema = Schema::read(&session).await.map_err(elsewhere)?;
    let (tools, version) = cx.environment.tools(server).await.map_err(Flaw::Elsewhere)?;
    // Another major version of PostgreSQL may write the same thing in other words.
    let is_same_server = major(&version) == major(&manifest.server_version);
    let is_same_schema =
        manifest.schema_digest.as_ref().is_none_or(|digest| *digest == schema.fingerprint());
    if is_same_server && !is_same_schema {
        return Err(Flaw::found("the restored schema differs from the one that was backed up"));
    }
    compare_contents(cx, manifest, key, &tools, &session).await
}

async fn compare_contents(
    cx: &StepContext<'_>,
    manifest: &Manifest,
    key: &BackupKey,
    tools: &PgTools,
    session: &Connection,
) -> Result<(), Flaw> {
    let store = cx.environment.store().map_err(Flaw::Elsewhere)?;
    let tables = digest_tables(store, manifest, key, tools).await;
    for TableDigest { columns, rows } in tables.map_err(|error| Flaw::of(error.into()))? {
        let found = digest(session, &columns, &mut Pace::full()).await;
        let found = found
            .map_err(|error| Flaw::Elsewhere(tenantry_provisioning::Error::from(error).into()))?;
        if found != rows {
            return Err(Flaw::found(format!("the rows of {columns} came back otherwise")));
        }
    }
    Ok(())
}

/// The rows of a table, or of a query in brackets, as `copy` writes them.
pub(super) async fn digest(
    session: &Connection,
    what: &str,
    pace: &mut Pace,
) -> Result<RowDigest, tokio_postgres::Error> {
    let rows = session.copy_out(&format!("copy {what} to stdout")).await?;
    pin_mut!(rows);
    let mut digest = RowDigest::default();
    while let Some(bytes) = rows.try_next().await? {
        digest.update(&bytes);
        pace.worked(bytes.len()).await;
    }
    Ok(digest)
}

fn major(version: &str) -> Option<&str> {
    version.split(|c: char| !c.is_ascii_digit()).next()
}

impl Flaw {
    fn found(what: impl Into<String>) -> Self {
        Self::Backup(StepError::fail(what, BAD))
    }

    /// What may pass, or is about what is around it, says nothing of the backup.
    fn of(error: StepError) -> Self {
        match error {
            StepError::Fail(cause, remedy) if blames_backup(cause.as_ref()) => {
                Self::Backup(StepError::Fail(cause, remedy))
            }
            other => Self::Elsewhere(other),
        }
    }
}
