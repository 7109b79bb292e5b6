//! Backing up one tenant: a dump streamed to the object store, then its manifest.
//!
//! Rows are counted in the snapshot that `pg_dump` reads, so that a restore can be compared with what
//! was there. Nothing counts as a backup before its manifest lies beside it.
//!
//! One that the schedule asks for takes none where the newest backup is proven to hold what there is.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{FutureExt as _, future};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tenantry_backup::{
    DumpProgress, DumpRequest, MANIFEST_FORMAT, Manifest, ObjectClass, Recipient, TableRows, dump,
    finish,
};
use tenantry_provisioning::{Connection, Schema};
use tokio_postgres::types::Type;
use uuid::Uuid;

use self::unchanged::Witness;
use super::{Plan, Step, StepContext, StepError, Work, require_settled};
use crate::catalog::CatalogError;
use crate::metrics;
use crate::tenant::settings::EncryptionSettings;

mod goals;
pub(crate) mod prune;
pub(crate) mod schedule;
mod unchanged;

pub use goals::Achieved;
pub use prune::{PrunePlan, Stray};
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
/// From this size on, a backup says what the schema is.
const LARGE_BYTES: i64 = 64 * 1024 * 1024;

/// What the manifest will say of the dump.
#[derive(Serialize, Deserialize)]
struct Note {
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
    if cx.work()? != (Work::Backup { unless_unchanged: true }) {
        return Ok(());
    }
    match unchanged::still_stands(cx).await? {
        Some(backup) => cx.remember(STANDS, &backup).await,
        None => Ok(()),
    }
}

async fn upload_dump(cx: &StepContext<'_>) -> Result<(), StepError> {
    if cx.recall::<Uuid>(STANDS).is_some() {
        return Ok(());
    }
    require_settled(&cx.tenant)?;
    let store = cx.environment.store()?;
    let server = cx.environment.server(cx.tenant.server_id).await?;
    let (tools, server_version) = cx.environment.tools(&server).await?;
    let key = cx.environment.catalog.backup_key(cx.tenant.id).await?;
    let also_for = also_for(cx)?;
    // An earlier attempt may have left an upload, or an object; `retry` counts attempts from the beginning.
    if cx.operation.attempts > 1 || cx.operation.error.is_some() {
        store.remove_backup(cx.tenant.id, cx.operation.id).await?;
    }

    // A turn is for the dump alone: the session is opened before it, and the upload ends after it.
    let session = server.connect(&cx.tenant.database).await?;
    let turn = Mutex::new(Some(cx.environment.turn().await));
    let progress = |progress| {
        if progress == DumpProgress::LeftServer {
            drop(turn.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
    };
    let witness = Witness::of(cx, &session).await?;
    let started_at = Timestamp::now();
    let lock_timeout = cx.environment.limits.migration_timeouts.lock;
    let Snapshot { id, absent, is_large } = open_snapshot(&session, lock_timeout).await?;
    let request = DumpRequest {
        tools: &tools,
        libpq_env: server.url().with_database(cx.tenant.database.as_str()).libpq_env(),
        snapshot: Some(&id),
        lock_timeout,
        absent,
        also_for: also_for.clone(),
    };
    let uploaded = dump(store, cx.tenant.id, cx.operation.id, &key.open, request, progress);
    let looked = async {
        // Looking locks the tables against DDL. `pg_dump` has locks of its own, and they end with it; these
        // would stand until the upload has ended.
        let failed = tenantry_provisioning::Error::from;
        session.batch_execute("savepoint looked").await.map_err(failed)?;
        let tables = count_rows(&session).await?;
        let schema = if is_large { Some(Schema::read(&session).await?) } else { None };
        session.batch_execute("rollback to savepoint looked").await.map_err(failed)?;
        Ok::<_, StepError>((tables, schema.map(|schema| schema.fingerprint())))
    };
    let (dumped, looked) = tokio::join!(uploaded, looked);
    let (dumped, (tables, schema_digest)) = (dumped?, looked?);
    let note = Note {
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
        also_for: also_for.iter().map(ToString::to_string).collect(),
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

/// What `pg_dump` needs to know of a snapshot.
pub(super) struct Snapshot {
    pub(super) id: String,
    pub(super) absent: Vec<ObjectClass>,
    /// Whether a look at the whole schema, some 40 ms of work for the server, is nothing beside the dump.
    is_large: bool,
}

/// Opens a transaction whose snapshot `pg_dump` shares; it must stay open until the dump has ended. It waits for
/// locks no longer than `pg_dump` does: whoever waits behind it waits as long.
pub(super) async fn open_snapshot(
    session: &Connection,
    lock_timeout: Duration,
) -> Result<Snapshot, StepError> {
    // What a database is born with has an oid below 16384; pg_dump leaves all of it out but a changed
    // comment on the schema `public`.
    let start = format!(
        "begin isolation level repeatable read, read only; set local lock_timeout = {}",
        lock_timeout.as_millis()
    );
    let (begun, row) = future::join(
        session.batch_execute(&start),
        session.query_typed(
            "-- backup::open_snapshot
             select pg_export_snapshot(),
                    not exists (select from pg_description where objoid >= 16384)
                    and obj_description(to_regnamespace('public'), 'pg_namespace')
                        is not distinct from 'standard public schema',
                    not exists (select from pg_largeobject_metadata),
                    not exists (select from pg_publication where pubname !~ '^tenantry_(move|back)_[0-9a-f]{32}$'),
                    not exists (select from pg_seclabel),
                    not exists (select subdbid from pg_subscription),
                    pg_database_size(current_database()) >= $1",
            &[(&LARGE_BYTES, Type::INT8)],
        ),
    )
    .await;
    let row = begun.and(row).map_err(tenantry_provisioning::Error::from)?.remove(0);
    let classes = [
        ObjectClass::Comments,
        ObjectClass::LargeObjects,
        ObjectClass::Publications,
        ObjectClass::SecurityLabels,
        ObjectClass::Subscriptions,
    ];
    let absent = classes.iter().copied().enumerate().filter(|(index, _)| row.get(index + 1));
    let absent = absent.map(|(_, class)| class).collect();
    let (id, is_large) = (row.get(0), row.get(classes.len() + 1));
    Ok(Snapshot { id, absent, is_large })
}

/// Counts the rows of every table that a dump holds data of and that no crash empties.
pub(super) async fn count_rows(session: &Connection) -> Result<Vec<TableRows>, StepError> {
    count_rows_where(session, "c.relpersistence = 'p'").await
}

/// Counts the rows of every table that can be read, except for those of extensions.
pub(super) async fn count_all_rows(session: &Connection) -> Result<Vec<TableRows>, StepError> {
    let readable = "(c.relpersistence = 'p' or c.relpersistence = 'u' and not pg_is_in_recovery())";
    count_rows_where(session, readable).await
}

async fn count_rows_where(session: &Connection, which: &str) -> Result<Vec<TableRows>, StepError> {
    let failed = tenantry_provisioning::Error::from;
    let query = session
        .query_one(
            &format!(
                "-- backup::count_rows
                 select string_agg(
                     format('select %L, %L, count(*) from only %I.%I', n.nspname, c.relname, n.nspname, c.relname),
                     ' union all ')
                 from pg_class c join pg_namespace n on n.oid = c.relnamespace
                 where c.relkind = 'r' and {which}
                   and n.nspname not in ('pg_catalog', 'information_schema')
                   and not exists (select from pg_depend d
                                   where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')"
            ),
            &[],
        )
        .await
        .map_err(failed)?;
    let Some(query) = query.get::<_, Option<String>>(0) else { return Ok(Vec::new()) };
    let counted = session.query(&format!("{query} order by 1, 2"), &[]).await.map_err(failed)?;
    Ok(counted
        .iter()
        .map(|row| TableRows { schema: row.get(0), table: row.get(1), rows: row.get(2) })
        .collect())
}

async fn write_manifest(cx: &StepContext<'_>) -> Result<(), StepError> {
    if cx.recall::<Uuid>(STANDS).is_some() {
        metrics::backup("unchanged");
        return prune::ask_after_backup(cx).await;
    }
    let store = cx.environment.store()?;
    let catalog = &cx.environment.catalog;
    let note: Note = cx.recall(DUMP).ok_or_else(|| {
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
        format: MANIFEST_FORMAT,
        tenant: cx.tenant.id,
        backup: cx.operation.id,
        started_at: note.started_at,
        finished_at: note.finished_at,
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
