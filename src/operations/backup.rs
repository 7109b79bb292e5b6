//! Backing up one tenant: a dump streamed to the object store, then its manifest.
//!
//! Rows are counted in the snapshot that `pg_dump` reads, so that a restore can be compared with what
//! was there. Nothing counts as a backup before its manifest lies beside it.
//!
//! One that the schedule asks for takes none where the newest backup is proven to hold what there is.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::FutureExt as _;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tenantry_backup::{DumpProgress, Manifest, ObjectKey, Recipient, TableRows, finish};
use uuid::Uuid;

use self::reading::{Read, Reading};
use self::unchanged::Witness;
use super::{Plan, Step, StepContext, StepError, Work, require_settled};
use crate::catalog::CatalogError;
use crate::metrics;
use crate::tenant::settings::EncryptionSettings;

mod goals;
pub(crate) mod prune;
mod reading;
pub(crate) mod schedule;
mod unchanged;

pub use goals::Achieved;
pub use prune::{PrunePlan, Stray};
pub(super) use reading::{Snapshot, count_all_rows, count_rows, open_snapshot};
pub use schedule::{BackupRules, Look};

pub(super) const PLAN: Plan = Plan {
    steps: &[
        Step::new("look_for_changes", |cx| look_for_changes(cx).boxed()),
        Step::new("upload_dump", |cx| upload_dump(cx).boxed()),
        Step::new("write_manifest", |cx| write_manifest(cx).boxed()),
    ],
    abandon: &[Step::new("remove_objects", |cx| remove_objects(cx).boxed())],
    no_return: 3,
};

const DUMP: &str = "dump";
/// The backup that still stands, where none is taken.
const STANDS: &str = "stands";

/// What the manifest will say of the dump.
#[derive(Serialize, Deserialize)]
struct Note {
    #[serde(default)]
    attempt: Option<Uuid>,
    dump_bytes: u64,
    dump_sha256: String,
    plain_bytes: u64,
    tables: Vec<TableRows>,
    #[serde(default)]
    witness: Option<Witness>,
    schema_version: i64,
    #[serde(default)]
    schema_digest: Option<String>,
    server_version: String,
    client_version: String,
    started_at: Timestamp,
    finished_at: Timestamp,
    /// The public half of the key: the tenant may have another one by the time of the manifest.
    #[serde(default)]
    key: Option<String>,
    /// The public keys of others that open the dump.
    #[serde(default)]
    also_for: Vec<String>,
}

async fn look_for_changes(cx: &StepContext<'_>) -> Result<(), StepError> {
    require_settled(&cx.tenant)?;
    if *cx.work != (Work::Backup { unless_unchanged: true }) {
        return Ok(());
    }
    match unchanged::still_stands(cx).await? {
        Some(backup) => cx.remember(STANDS, &backup).await,
        None => Ok(()),
    }
}

async fn upload_dump(cx: &StepContext<'_>) -> Result<(), StepError> {
    if cx.recall::<Uuid>(STANDS)?.is_some() {
        return Ok(());
    }
    require_settled(&cx.tenant)?;
    let store = cx.environment.store()?;
    let server = cx.server().await?;
    let (tools, server_version) = cx.environment.tools(&server).await?;
    let key = cx.environment.catalog.backup_key(cx.tenant.id).await?;
    let also_for = also_for(cx)?;
    // An earlier attempt may have left an upload, or an object; `retry` counts attempts from the beginning.
    let is_again = cx.operation.attempts > 1 || cx.operation.error.is_some();
    if is_again {
        store.remove_backup(cx.tenant.id, cx.operation.id).await?;
    }
    let attempt = is_again.then(Uuid::now_v7);
    let object = ObjectKey::dump_by(cx.tenant.id, cx.operation.id, attempt);

    // A turn is for the dump alone: the session is opened before it, and the upload ends after it.
    let session = server.connect(&cx.tenant.database).await?;
    let turn = Mutex::new(Some(cx.environment.turn().await));
    let progress = |progress| {
        if progress == DumpProgress::LeftServer {
            drop(turn.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
    };
    let witness = Witness::of(cx, &server, &session).await?;
    let started_at = Timestamp::now();
    let readers = also_for.iter().map(ToString::to_string).collect();
    let reading = Reading { server: &server, tools: &tools, key: &key.open, also_for, object };
    let reading = Box::pin(reading.read(cx, session, progress));
    let Read { dumped, tables, schema_digest } = reading.await?;
    let note = Note {
        attempt,
        dump_bytes: dumped.dump_bytes,
        dump_sha256: dumped.dump_sha256,
        plain_bytes: dumped.plain_bytes,
        tables,
        witness,
        schema_version: cx.tenant.schema_version,
        schema_digest,
        server_version,
        client_version: tools.version().to_owned(),
        started_at,
        finished_at: Timestamp::now(),
        key: Some(key.open.public()),
        also_for: readers,
    };
    cx.remember(DUMP, &note).await
}

/// The tenant's own key, which it may have given to read its backups without us.
fn also_for(cx: &StepContext<'_>) -> Result<Vec<Recipient>, StepError> {
    let given = cx.tenant.settings.encryption().and_then(EncryptionSettings::recipient);
    let parsed = given.map(Recipient::parse).transpose().map_err(|error| {
        StepError::fail(error.to_string(), "correct the tenant's setting encryption.recipient")
    })?;
    Ok(parsed.into_iter().collect())
}

async fn write_manifest(cx: &StepContext<'_>) -> Result<(), StepError> {
    if cx.recall::<Uuid>(STANDS)?.is_some() {
        metrics::backup("unchanged");
        return prune::ask_after_backup(cx).await;
    }
    let store = cx.environment.store()?;
    let catalog = &cx.environment.catalog;
    let note: Note = cx.recall(DUMP)?.ok_or_else(|| {
        StepError::fail("the dump's size was not written down", "take a new backup")
    })?;
    let witness =
        note.witness.map(|witness| serde_json::to_value(witness).expect("a witness is plain data"));
    let key = catalog.backup_key_named(cx.tenant.id, note.key.as_deref()).await;
    let key = key.map_err(|error| match error {
        CatalogError::Missing { .. } => StepError::fail(
            "the key that the dump is encrypted to was destroyed meanwhile",
            "give it up (`tenantry operation cancel`), and take a new backup (`tenantry backup run`)",
        ),
        other => other.into(),
    })?;
    let mut manifest = Manifest {
        format: Manifest::format_of(note.attempt),
        tenant: cx.tenant.id,
        backup: cx.operation.id,
        started_at: note.started_at,
        finished_at: note.finished_at,
        attempt: note.attempt,
        dump_bytes: note.dump_bytes,
        dump_sha256: note.dump_sha256,
        plain_bytes: note.plain_bytes,
        server_version: note.server_version,
        client_version: note.client_version,
        schema_version: note.schema_version,
        schema_digest: note.schema_digest,
        tables: note.tables,
        key_id: catalog.master_key_id(),
        wrapped_key: STANDARD.encode(&key.wrapped),
        also_for: note.also_for,
        mac: String::new(),
        extra: BTreeMap::new(),
    };
    manifest.sign(&key.open);
    finish(store, &manifest).await?;
    cx.lock.record_backup(&manifest, witness.as_ref()).await?;
    metrics::backup("taken");
    prune::ask_after_backup(cx).await
}

async fn remove_objects(cx: &StepContext<'_>) -> Result<(), StepError> {
    cx.environment.store()?.remove_backup(cx.tenant.id, cx.operation.id).await?;
    cx.lock.forget_backups(Some(cx.operation.id)).await?;
    Ok(())
}
