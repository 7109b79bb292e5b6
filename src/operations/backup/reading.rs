//! Reading a database for its backup: `pg_dump`, and the counts that a restore is compared with.
//!
//! Both see one snapshot. Where there is little to read, starting a session costs the server as much as the rows do:
//! `pg_dump` works in ours, and the rows are counted there after it. Where there is much, `pg_dump` has a session of its
//! own in the snapshot of ours, which counts meanwhile.

use std::pin::pin;
use std::time::Duration;

use futures_util::future::{self, Either};
use tenantry_backup::{
    BackupKey, DumpProgress, DumpRequest, Dumped, ObjectClass, ObjectKey, PgTools, Recipient,
    TableRows, dump,
};
use tenantry_provisioning::{Connection, Loan, Schema, Server};
use tokio_postgres::types::Type;

use super::{StepContext, StepError};

/// From this size on, a backup says what the schema is, and `pg_dump` has a session of its own.
const LARGE_BYTES: i64 = 64 * 1024 * 1024;

/// Tables that the rows are counted of: those of extensions are the server's matter.
const NOT_OF_EXTENSIONS: &str = "not exists (select from pg_depend d
     where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')";

/// A snapshot that a program can share.
pub(in crate::operations) struct Snapshot {
    pub(in crate::operations) id: String,
    pub(in crate::operations) absent: Vec<ObjectClass>,
}

/// What is read, and with what.
pub(super) struct Reading<'a> {
    pub(super) server: &'a Server,
    pub(super) tools: &'a PgTools,
    pub(super) key: &'a BackupKey,
    pub(super) also_for: Vec<Recipient>,
    /// Where the dump goes.
    pub(super) object: ObjectKey,
}

/// What was read.
pub(super) struct Read {
    pub(super) dumped: Dumped,
    pub(super) tables: Vec<TableRows>,
    /// The schema's fingerprint, where looking at it is nothing beside the dump.
    pub(super) schema_digest: Option<String>,
}

/// What a snapshot was found to hold.
struct Looked {
    /// Its name for others, where it is large.
    id: Option<String>,
    absent: Vec<ObjectClass>,
    /// Asks for the rows of each table.
    counts: Option<String>,
}

impl Reading<'_> {
    /// Dumps the database of a session into the store, and counts its rows. The session is used up.
    pub(super) async fn read(
        self,
        cx: &StepContext<'_>,
        session: Connection,
        progress: impl Fn(DumpProgress) + Send + Sync,
    ) -> Result<Read, StepError> {
        let lock_timeout = cx.environment.limits.migration_timeouts.lock;
        let Looked { id, absent, counts } = look(&session, lock_timeout, LARGE_BYTES).await?;
        let is_large = id.is_some();
        let url = self.server.url().with_database(cx.tenant.database.as_str());
        let loan = if is_large { None } else { Loan::open(&session).await? };
        let (id, libpq_env) = match &loan {
            Some(loan) => (None, loan.libpq_env(&url)),
            None => (Some(export(&session, id).await?), url.libpq_env()),
        };
        let request = DumpRequest {
            tools: self.tools,
            libpq_env,
            snapshot: id.as_deref(),
            lock_timeout,
            absent,
            also_for: self.also_for,
        };
        let store = cx.environment.store()?;
        let dumped = async { Ok(dump(store, &self.object, self.key, request, progress).await?) };
        let (dumped, (tables, schema_digest)) = match loan {
            Some(loan) => both(dumped, after(loan, session, counts)).await?,
            None => both(dumped, beside(&session, counts, is_large)).await?,
        };
        Ok(Read { dumped, tables, schema_digest })
    }
}

/// Lends a session to `pg_dump`, and counts when that has left. The transaction ends with the session, and so do the
/// locks: the upload may take longer.
async fn after(
    loan: Loan,
    session: Connection,
    counts: Option<String>,
) -> Result<(Vec<TableRows>, Option<String>), StepError> {
    loan.serve(&session).await?;
    Ok((count(&session, counts).await?, None))
}

/// Counts while `pg_dump` is at work, and looks at the schema of a large database.
async fn beside(
    session: &Connection,
    counts: Option<String>,
    is_large: bool,
) -> Result<(Vec<TableRows>, Option<String>), StepError> {
    // Looking locks the tables against DDL. `pg_dump` has locks of its own, and they end with it; these
    // would stand until the upload has ended.
    let failed = tenantry_provisioning::Error::from;
    session.batch_execute("savepoint looked").await.map_err(failed)?;
    let tables = count(session, counts).await?;
    let schema = if is_large { Some(Schema::read(session).await?) } else { None };
    session.batch_execute("rollback to savepoint looked").await.map_err(failed)?;
    Ok((tables, schema.map(|schema| schema.fingerprint())))
}

/// Waits for a dump and for what goes with it. Where both fail, the dump says why.
async fn both<T, U>(
    dump: impl Future<Output = Result<T, StepError>>,
    other: impl Future<Output = Result<U, StepError>>,
) -> Result<(T, U), StepError> {
    match future::select(pin!(dump), pin!(other)).await {
        Either::Left((dumped, other)) => Ok((dumped?, other.await?)),
        Either::Right((Ok(other), dump)) => Ok((dump.await?, other)),
        Either::Right((Err(error), dump)) => Err(dump.await.err().unwrap_or(error)),
    }
}

/// Opens a transaction whose snapshot `pg_dump` shares; it must stay open until the dump has ended. It waits for
/// locks no longer than `pg_dump` does: whoever waits behind it waits as long.
pub(in crate::operations) async fn open_snapshot(
    session: &Connection,
    lock_timeout: Duration,
) -> Result<Snapshot, StepError> {
    let Looked { id, absent, .. } = look(session, lock_timeout, 0).await?;
    Ok(Snapshot { id: export(session, id).await?, absent })
}

/// The name of a session's snapshot, if it has none yet.
async fn export(session: &Connection, id: Option<String>) -> Result<String, StepError> {
    if let Some(id) = id {
        return Ok(id);
    }
    let rows = session.query_typed("-- reading::export\nselect pg_export_snapshot()", &[]).await;
    Ok(rows.map_err(tenantry_provisioning::Error::from)?.remove(0).get(0))
}

/// Opens a transaction, and looks at what it sees. From `large_bytes` on, the snapshot gets a name.
async fn look(
    session: &Connection,
    lock_timeout: Duration,
    large_bytes: i64,
) -> Result<Looked, StepError> {
    // What a database is born with has an oid below 16384; pg_dump leaves all of it out but a changed
    // comment on the schema `public`.
    let start = format!(
        "begin isolation level repeatable read, read only; set local lock_timeout = {}",
        lock_timeout.as_millis()
    );
    let counts = counts_of("c.relpersistence = 'p'");
    let facts = format!(
        "-- reading::look
         select case when pg_database_size(current_database()) >= $1 then pg_export_snapshot() end,
                ({counts}),
                not exists (select from pg_description where objoid >= 16384)
                and obj_description(to_regnamespace('public'), 'pg_namespace')
                    is not distinct from 'standard public schema',
                not exists (select from pg_largeobject_metadata),
                not exists (select from pg_publication where pubname !~ '^tenantry_(move|back)_[0-9a-f]{{32}}$'),
                not exists (select from pg_seclabel),
                not exists (select subdbid from pg_subscription)"
    );
    let (begun, row) = future::join(
        session.batch_execute(&start),
        session.query_typed(&facts, &[(&large_bytes, Type::INT8)]),
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
    let absent = classes.into_iter().enumerate().filter(|(index, _)| row.get(index + 2));
    let absent = absent.map(|(_, class)| class).collect();
    Ok(Looked { id: row.get(0), counts: row.get(1), absent })
}

/// Counts the rows of every table that a dump holds data of and that no crash empties.
pub(in crate::operations) async fn count_rows(
    session: &Connection,
) -> Result<Vec<TableRows>, StepError> {
    count_rows_where(session, "c.relpersistence = 'p'").await
}

/// Counts the rows of every table that can be read, except for those of extensions.
pub(in crate::operations) async fn count_all_rows(
    session: &Connection,
) -> Result<Vec<TableRows>, StepError> {
    let readable = "(c.relpersistence = 'p' or c.relpersistence = 'u' and not pg_is_in_recovery())";
    count_rows_where(session, readable).await
}

async fn count_rows_where(session: &Connection, which: &str) -> Result<Vec<TableRows>, StepError> {
    let rows = session.query_typed(&counts_of(which), &[]).await;
    let counts = rows.map_err(tenantry_provisioning::Error::from)?.remove(0).get(0);
    count(session, counts).await
}

/// Asks for the statement that counts.
fn counts_of(which: &str) -> String {
    format!(
        "-- reading::counts_of
         select string_agg(
             format('select %L, %L, count(*) from only %I.%I', n.nspname, c.relname, n.nspname, c.relname),
             ' union all ')
         from pg_class c join pg_namespace n on n.oid = c.relnamespace
         where c.relkind = 'r' and {which} and n.nspname not in ('pg_catalog', 'information_schema')
           and {NOT_OF_EXTENSIONS}"
    )
}

async fn count(session: &Connection, counts: Option<String>) -> Result<Vec<TableRows>, StepError> {
    let Some(counts) = counts else { return Ok(Vec::new()) };
    let counted = session.query_typed(&format!("{counts} order by 1, 2"), &[]).await;
    Ok(counted
        .map_err(tenantry_provisioning::Error::from)?
        .iter()
        .map(|row| TableRows { schema: row.get(0), table: row.get(1), rows: row.get(2) })
        .collect())
}
