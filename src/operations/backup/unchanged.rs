//! Whether a database is what its newest backup holds: proven, or taken for changed.
//!
//! PostgreSQL counts the rows that are written in each database, in the system tables too, so that neither DDL
//! nor a large object nor `truncate` goes uncounted. A [`Witness`] is these counts before the snapshot of a
//! backup, with what says that they go on from each other: the same database, counters that nobody reset, a
//! server that has not started again, not even its background processes alone, as after a crash that loses the
//! counts. Sequences write no rows, so their values stand beside.
//!
//! A session hands in its counts when it becomes idle, ten seconds later at the latest, or before it vanishes.
//! So the proof first sees that all sessions have been idle for longer than that, and looks at the counts then.
//!
//! What cannot be proven so counts as changed: a PostgreSQL before 15, whose counts can get lost; a standby, which
//! counts nothing of what it replays, also when it is promoted later; counters that are off; a table whose access
//! method is not PostgreSQL's own; a transaction that is prepared; an administrator who may not see others' sessions.
//! And so does a backup that others can read than those who are to read the next one. What a superuser writes after
//! `set track_counts = off` in its session is not seen.

use futures_util::future::try_join;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tenantry_backup::{KeyScope, ObjectInfo};
use tenantry_provisioning::{Connection, DatabaseName, Server};
use tokio_postgres::Row;
use uuid::Uuid;

use super::{StepContext, StepError};

/// What must stay the same where nothing is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Witness {
    server: Uuid,
    epoch: i64,
    database: i64,
    /// When the server began, and the youngest of its processes that a crash takes with it.
    started: Timestamp,
    checkpointer: Timestamp,
    reset: Option<Timestamp>,
    inserted: i64,
    updated: i64,
    deleted: i64,
    /// A digest of the values of all sequences.
    sequences: String,
    /// The public keys that a backup is encrypted to, the tenant's present one first.
    readers: Vec<String>,
}

impl Witness {
    /// The witness of a database as it is now; `None` where there can be none. What PostgreSQL counts can be seen from
    /// any database of the server, and a session that has looked there before does it a dozen times cheaper.
    pub async fn of(
        cx: &StepContext<'_>,
        server: &Server,
        session: &Connection,
    ) -> Result<Option<Self>, StepError> {
        let (counts, sequences) =
            try_join(counts(server, &cx.tenant.database), sequences(session)).await?;
        let (Some(row), Some(sequences)) = (counts, sequences) else { return Ok(None) };
        let Some(checkpointer) = row.get("checkpointer") else { return Ok(None) };
        let key = cx.environment.catalog.backup_key(cx.tenant.id).await?;
        let others = super::also_for(cx)?.into_iter().map(|key| key.to_string());
        Ok(Some(Self {
            server: cx.tenant.server_id,
            epoch: cx.tenant.epoch,
            database: row.get("database"),
            started: row.get("started"),
            checkpointer,
            reset: row.get("reset"),
            inserted: row.get("inserted"),
            updated: row.get("updated"),
            deleted: row.get("deleted"),
            sequences,
            readers: std::iter::once(key.open.public()).chain(others).collect(),
        }))
    }
}

/// The newest backup of a tenant, if it can be relied on, its objects are where they were put and nothing has been
/// written since it began. Then it is written down that it still stands.
pub(super) async fn still_stands(cx: &StepContext<'_>) -> Result<Option<Uuid>, StepError> {
    let Some((backup, witness)) = cx.environment.catalog.newest_witness(cx.tenant.id).await? else {
        return Ok(None);
    };
    if !backup.is_good() {
        return Ok(None);
    }
    let Ok(before) = serde_json::from_value::<Witness>(witness) else { return Ok(None) };
    let server = cx.server().await?;
    let session = server.connect(&cx.tenant.database).await?;
    let looked_at = Timestamp::now();
    if !is_quiet(&session).await? || Witness::of(cx, &server, &session).await? != Some(before) {
        return Ok(None);
    }
    let stored = cx.environment.store()?;
    let scope = KeyScope::Backup { tenant: cx.tenant.id, backup: backup.id };
    let stored = stored.list(scope).await?;
    let bytes = u64::try_from(backup.dump_bytes).ok();
    let is_dump = |found: &ObjectInfo| found.key.is_dump() && Some(found.size) == bytes;
    if !stored.iter().any(|found| found.key.is_manifest()) || !stored.iter().any(is_dump) {
        tracing::warn!(backup = %backup.id, "objects of the newest backup are missing; another one is taken");
        return Ok(None);
    }
    cx.lock.confirm_backup(backup.id, looked_at).await?;
    Ok(Some(backup.id))
}

/// Whether every other session in this database has handed in its counts, and no transaction is left prepared.
async fn is_quiet(session: &Connection) -> Result<bool, StepError> {
    let row = session
        .query_one(
            "-- unchanged::is_quiet
             select not exists (
                        select from pg_stat_activity
                        where datname = current_database() and pid <> pg_backend_pid()
                          and (state = 'idle' and state_change < clock_timestamp() - interval '15 seconds')
                              is not true)
                    and not exists (select from pg_prepared_xacts where database = current_database())",
            &[],
        )
        .await
        .map_err(tenantry_provisioning::Error::from)?;
    Ok(row.get(0))
}

async fn counts(server: &Server, database: &DatabaseName) -> Result<Option<Row>, StepError> {
    let client = server.client().await?;
    let failed = tenantry_provisioning::Error::from;
    let statement = client
        .prepare_cached(
            "-- unchanged::counts
             select d.oid::int8 as database, pg_postmaster_start_time() as started,
                    (select backend_start from pg_stat_activity where backend_type = 'checkpointer')
                        as checkpointer,
                    s.stats_reset as reset, s.tup_inserted as inserted, s.tup_updated as updated,
                    s.tup_deleted as deleted
             from pg_database d join pg_stat_database s on s.datid = d.oid
             where d.datname = $1
               and current_setting('server_version_num')::int >= 150000
               and not pg_is_in_recovery()
               and not exists (select from pg_db_role_setting r, unnest(r.setconfig) as c
                               where r.setdatabase in (0, d.oid) and c like 'track_counts=%')",
        )
        .await
        .map_err(failed)?;
    Ok(client.query_opt(&statement, &[&database.as_str()]).await.map_err(failed)?)
}

/// A digest of the values of a database's sequences; `None` where something there is not counted.
async fn sequences(session: &Connection) -> Result<Option<String>, StepError> {
    let failed = tenantry_provisioning::Error::from;
    // 2 is `heap` in every database.
    let rows = session
        .query_typed(
            "-- unchanged::sequences
             select current_setting('track_counts')::bool
                    and bool_and(c.relam = 2 or c.relkind not in ('r', 'm', 't')),
                    string_agg(format('select %s::int8 as id, last_value, is_called from %s.%I',
                                      c.oid, c.relnamespace::regnamespace, c.relname), ' union all ')
                        filter (where c.relkind = 'S' and c.relpersistence <> 't')
             from pg_class c",
            &[],
        )
        .await
        .map_err(failed)?;
    let (is_counted, query): (bool, Option<String>) = (rows[0].get(0), rows[0].get(1));
    if !is_counted {
        return Ok(None);
    }
    let Some(query) = query else { return Ok(Some(String::new())) };
    let digest = format!(
        "-- unchanged::values
         select encode(sha256(convert_to(string_agg(concat_ws(' ', id, last_value, is_called), ',' order by id),
                                         'utf8')), 'hex') from ({query}) as sequence"
    );
    let rows = session.query_typed(&digest, &[]).await.map_err(failed)?;
    Ok(Some(rows[0].get(0)))
}
