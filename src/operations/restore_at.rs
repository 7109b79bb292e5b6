//! Restoring to a point in time: what a tenant had at a moment between two backups, out of the WAL archive that an
//! operator keeps of a whole server.
//!
//! The server as it was is restored on the worker's machine ([`scratch`]), from what pgBackRest has of it
//! ([`pgbackrest`]), and recovers to that moment. There the tenant's database is found by its marker, whatever it
//! was called then, and copied to the tenant's server. From there on this is a restore like any other. Nothing is
//! written to the archive, and of the restored server nothing stays.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use futures_util::FutureExt as _;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tenantry_backup::{CopyEnd, TableRows, copy_database};
use tenantry_provisioning::{Connection, DatabaseName, Marker, Server, ServerUrl, current_version};
use uuid::Uuid;

use self::pgbackrest::{BaseBackup, PgBackRest};
use super::backup::{count_rows, open_snapshot};
use super::transfer::watched;
use super::{Plan, Step, StepContext, StepError, Work, cutover, delete, restore};
use crate::embedded::{EmbeddedError, RestoredCluster};

mod pgbackrest;
mod scratch;

pub(super) use scratch::{remove_scratch, sweep};

pub(super) const IN_PLACE: Plan = Plan {
    steps: &[
        Step::new("restore_server", |cx| restore_server(cx).boxed()),
        Step::new("restore_beside", |cx| restore_beside(cx).boxed()),
        Step::new("verify", |cx| verify(cx).boxed()),
        Step::new("migrate_beside", |cx| restore::migrate_beside(cx).boxed()),
        Step::new("cut_over", |cx| restore::cut_over(cx).boxed()),
        Step::new("leave_server", |cx| cutover::leave_server(cx).boxed()),
    ],
    abandon: &[
        Step::new("let_go", |cx| restore::let_go(cx).boxed()),
        Step::new("drop_build", |cx| restore::drop_build(cx).boxed()),
        Step::new("remove_scratch", |cx| remove_scratch(cx.environment, cx.operation.id).boxed()),
    ],
    no_return: 5,
};

pub(super) const AS_TENANT: Plan = Plan {
    steps: &[
        Step::new("restore_server", |cx| {
            restore::unless_there(cx, restore_server(cx).boxed()).boxed()
        }),
        Step::new("restore_beside", |cx| {
            restore::unless_there(cx, restore_beside(cx).boxed()).boxed()
        }),
        Step::new("verify", |cx| restore::unless_there(cx, verify(cx).boxed()).boxed()),
        Step::new("migrate_beside", |cx| {
            restore::unless_there(cx, restore::migrate_beside(cx).boxed()).boxed()
        }),
        Step::new("take_possession", |cx| restore::take_possession(cx).boxed()),
        Step::new("activate", |cx| restore::activate(cx).boxed()),
    ],
    abandon: delete::STEPS,
    no_return: 6,
};

/// What the tenant had.
const THEN: &str = "then";
/// How long a server may take to archive what is not yet in its archive.
const ARCHIVING: Duration = Duration::from_mins(1);
/// What PostgreSQL says when the WAL ends before the moment that is wanted, and when it begins after it.
const TOO_LATE: &str = "recovery ended before configured recovery target was reached";
const TOO_EARLY: &str = "requested recovery stop point is before consistent recovery point";

/// Where a machine finds the WAL archives of servers, and room to restore one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveSettings {
    /// pgBackRest's configuration file, if not the usual one.
    pub config: Option<PathBuf>,
    /// By the names of servers, what pgBackRest calls them.
    pub stanzas: BTreeMap<String, String>,
    /// Where servers are restored to.
    pub scratch_dir: PathBuf,
}

/// What is wanted: this tenant's data at this moment, from the archive of this server.
struct Wanted {
    tenant: Uuid,
    at: Timestamp,
    archive: Uuid,
}

/// What was read of the tenant's database of then.
#[derive(Serialize, Deserialize)]
struct Then {
    tables: Vec<TableRows>,
    schema_version: i64,
}

fn wanted(cx: &StepContext<'_>) -> Wanted {
    match *cx.work {
        Work::RestoreAt { at, archive, .. } => Wanted { tenant: cx.tenant.id, at, archive },
        Work::RestoreAtAs { at, archive, of } => Wanted { tenant: of, at, archive },
        _ => unreachable!("only a restore to a point in time has these steps"),
    }
}

async fn restore_server(cx: &StepContext<'_>) -> Result<(), StepError> {
    restore::require_state(cx)?;
    if is_copied(cx).await? {
        return Ok(());
    }
    let cluster = scratch::open(cx).await?;
    let restored = ensure_restored(cx, &cluster).await;
    scratch::conclude(cluster, restored, true).await
}

async fn restore_beside(cx: &StepContext<'_>) -> Result<(), StepError> {
    restore::require_state(cx)?;
    if is_copied(cx).await? {
        return remove_scratch(cx.environment, cx.operation.id).await;
    }
    restore::settle_place(cx).await?;
    let cluster = scratch::open(cx).await?;
    // Another machine may have done the step before.
    let copied = match ensure_restored(cx, &cluster).await {
        Ok(()) => copy_from(cx, &cluster).await,
        error => error,
    };
    scratch::conclude(cluster, copied, false).await
}

/// For a tenant that has moved since: what was restored beside it is on the server that it has left.
pub(super) async fn restore_anew(cx: &StepContext<'_>) -> Result<(), StepError> {
    restore_beside(cx).await?;
    compare(cx).await
}

/// Compares what was restored with what was there then.
async fn verify(cx: &StepContext<'_>) -> Result<(), StepError> {
    if restore::has_moved(cx)? { restore_anew(cx).await } else { compare(cx).await }
}

async fn compare(cx: &StepContext<'_>) -> Result<(), StepError> {
    let then: Then = cx.recall(THEN)?.ok_or_else(|| {
        StepError::fail("what the tenant had then was not written down", "restore it again")
    })?;
    let server = cx.environment.server(restore::target(cx)).await?;
    restore::compare(cx, &server, &then.tables, then.schema_version).await
}

/// Whether an earlier attempt has copied all there is: it is written down only then.
async fn is_copied(cx: &StepContext<'_>) -> Result<bool, StepError> {
    let server = cx.environment.server(restore::target(cx)).await?;
    let build = server.database(&cx.build()).await?;
    Ok(build.is_some() && cx.recall::<Then>(THEN)?.is_some() && !restore::has_moved(cx)?)
}

/// Brings the files of the server as they were, unless an earlier attempt has.
async fn ensure_restored(cx: &StepContext<'_>, cluster: &RestoredCluster) -> Result<(), StepError> {
    if scratch::is_restored(cluster) {
        return Ok(());
    }
    let Wanted { tenant, at, archive } = wanted(cx);
    let settings = scratch::settings(cx.environment)?;
    let name = server_name(cx, archive).await?;
    let stanza = settings.stanza(&name)?;
    let live = cx.environment.server(archive).await?;
    cluster.prepare().await?;
    let archiver = PgBackRest { cluster, settings, stanza };
    let backup = archiver.newest_before(at).await?;
    archive_present(&live).await;
    let others = databases_of_others(&live, &backup, tenant).await;
    tracing::info!(%at, stanza, backup = backup.label, left_out = others.len(), "restoring a server");
    archiver.restore(&backup, at, &others).await?;
    scratch::note_restored(cluster).await
}

impl ArchiveSettings {
    /// What pgBackRest calls this server.
    pub(super) fn stanza(&self, server: &str) -> Result<&str, StepError> {
        self.stanzas.get(server).map(String::as_str).ok_or_else(|| {
            StepError::fail(
                format!("no WAL archive of the server {server} is configured here"),
                format!(
                    "name what pgBackRest calls it in TENANTRY_PITR_STANZAS (`{server}=<stanza>`), or restore a \
                     backup with --before"
                ),
            )
        })
    }
}

async fn server_name(cx: &StepContext<'_>, id: Uuid) -> Result<String, StepError> {
    let servers = cx.environment.catalog.servers().await?;
    let found = servers.into_iter().find(|server| server.id == id);
    found.map(|server| server.name).ok_or_else(|| {
        StepError::fail("the server of the archive is not in the catalog any more", "give it up")
    })
}

/// Recovery ends at the first transaction after the moment that is wanted, and on a quiet server there may be none
/// yet. A server that is gone, or that does not let us, is left as it is: recovery will say whether it matters.
async fn archive_present(live: &Server) {
    match live.archive_wal(ARCHIVING).await {
        Ok(true) => {}
        Ok(false) => tracing::warn!("the server does not archive its WAL, or is slow at it"),
        Err(error) => tracing::info!(%error, "the server was not asked to archive its WAL"),
    }
}

/// The databases in a backup that are other tenants' for certain, by the names that they had: those need no room.
/// What the server does not know today may have been this tenant's.
async fn databases_of_others(live: &Server, backup: &BaseBackup, tenant: Uuid) -> Vec<String> {
    let asked = async {
        let cluster = live.url().connect().await?.cluster().await?;
        Ok::<_, tenantry_provisioning::Error>((cluster, live.list_databases().await?))
    };
    let databases = match asked.await {
        Ok((cluster, databases)) if backup.cluster == Some(cluster) => databases,
        // Numbers of another cluster say nothing about this one.
        Ok(_) => Vec::new(),
        Err(error) => {
            tracing::info!(%error, "the server does not say whose its databases are");
            Vec::new()
        }
    };
    let of_other = |marker: Option<Uuid>| marker.is_some_and(|owner| owner != tenant);
    let others: HashSet<u32> = databases
        .iter()
        .filter(|facts| of_other(facts.marker.as_ref().and_then(Marker::tenant)))
        .map(|facts| facts.oid)
        .collect();
    let left_out = backup.databases.iter().filter(|(oid, _)| others.contains(oid));
    left_out.map(|(_, name)| name.clone()).collect()
}

/// Has the server of then recover, and copies the tenant's database from it.
async fn copy_from(cx: &StepContext<'_>, cluster: &RestoredCluster) -> Result<(), StepError> {
    let Wanted { at, archive, .. } = wanted(cx);
    let running = cluster.start().await.map_err(|error| explain(error, at))?;
    let user = cx.environment.server(archive).await?.url().user().to_owned();
    let then = Server::new(ServerUrl::parse(&running.address(&user))?, 1);
    let copied = copy_tenant(cx, &then).await;
    running.stop().await?;
    copied
}

/// What keeps a cluster from recovering to a moment, in words of ours where it is the moment.
fn explain(error: EmbeddedError, at: Timestamp) -> StepError {
    match &error {
        EmbeddedError::Program { output, .. } if output.contains(TOO_LATE) => StepError::fail(
            format!("the archive ends before {at}, or nobody has written on that server since"),
            "see that the server archives its WAL (`select * from pg_stat_archiver`), and as a superuser run `select \
             txid_current()`, then `select pg_switch_wal()` there; or choose an earlier time",
        ),
        EmbeddedError::Program { output, .. } if output.contains(TOO_EARLY) => StepError::fail(
            format!("the oldest backup in the archive had not ended at {at}"),
            "choose a later time, or restore a backup with --before",
        ),
        _ => error.into(),
    }
}

async fn copy_tenant(cx: &StepContext<'_>, then: &Server) -> Result<(), StepError> {
    let Wanted { tenant, at, .. } = wanted(cx);
    let database = find(then, tenant).await?.ok_or_else(|| {
        StepError::fail(
            format!("the server had no database of this tenant at {at}"),
            "choose a time at which it was there; if it was on another server then, name that one with --archive-of",
        )
    })?;
    // It may have been shut for a moment, and nobody but us comes here.
    then.unfence(&database, tenant).await?;
    let session = then.connect(&database).await?;
    let schema_version = current_version(&session).await?;
    let snapshot = open_snapshot(&session, cx.environment.limits.migration_timeouts.lock).await?.id;
    let tables = count_rows(&session).await?;
    let total_bytes = table_bytes(&session).await?;
    let from = then.url().with_database(database.as_str()).libpq_env();

    let server = cx.environment.server(restore::target(cx)).await?;
    let attempt = || {
        async {
            let (tools, _) = cx.environment.tools(&server).await?;
            let to = restore::empty_build(cx, &server).await?;
            let _turn = cx.environment.turn().await;
            let end = |libpq_env| CopyEnd { tools: &tools, libpq_env };
            watched(cx, total_bytes, |progress| {
                copy_database(end(&from), end(&to), Some(&snapshot), progress)
            })
            .await
        }
        .boxed()
    };
    restore::with_lent_roles(cx, &server, attempt).await?;
    cx.remember(THEN, &Then { tables, schema_version }).await?;
    restore::note_made(cx).await
}

/// The tenant's database, by its marker. One that a restore had replaced carries it too.
async fn find(then: &Server, tenant: Uuid) -> Result<Option<DatabaseName>, StepError> {
    let databases = then.list_databases().await?;
    let own = databases.iter().filter(|facts| facts.belongs_to(tenant) && !facts.is_invalid);
    let names = own.filter_map(|facts| DatabaseName::parse(&facts.name).ok());
    Ok(names.into_iter().find(|name| !name.is_old_form()))
}

/// About as many bytes as a dump will have.
pub(super) async fn table_bytes(session: &Connection) -> Result<u64, StepError> {
    let row = session
        .query_one(
            "-- restore_at::table_bytes
             select coalesce(sum(pg_table_size(oid)), 0)::int8 from pg_class
             where relkind = 'r' and oid >= 16384",
            &[],
        )
        .await
        .map_err(tenantry_provisioning::Error::from)?;
    Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or_default())
}
