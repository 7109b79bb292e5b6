//! Restoring a backup: into the place of the live database, or as a tenant of its own.
//!
//! The backup is restored beside the live database, compared with its manifest and brought to the
//! schema version that the application knows. Only then comes the cutover, and until the catalog's word
//! in it the live tenant is served, whatever goes wrong. What was replaced is kept for a while: `undo`
//! puts it back in the same way.

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tenantry_backup::{
    BackupKey, Manifest, RestoreError, RestoreRequest, Restored, TableRows, load_manifest, restore,
};
use tenantry_provisioning::{
    DatabaseName, Possession, RoleName, Server, Source, current_version, drop_link_publications,
    scram_verifier,
};
use uuid::Uuid;

use super::backup::count_rows;
use super::cutover::{self, Arrival, Incoming};
use super::transfer::watched;
use super::{Plan, Step, StepContext, StepError, Work, delete, provision, require_settled, tracks};
use crate::tenant::{SchemaState, TenantState, TenantTrack};

mod place;

use place::come_along;
pub(super) use place::{drop_build, has_moved, note_made, settle_place};

pub(super) const IN_PLACE: Plan = Plan {
    steps: &[
        Step::new("restore_beside", |cx| restore_beside(cx).boxed()),
        Step::new("verify", |cx| verify(cx).boxed()),
        Step::new("migrate_beside", |cx| migrate_beside(cx).boxed()),
        Step::new("cut_over", |cx| cut_over(cx).boxed()),
        Step::new("leave_server", |cx| cutover::leave_server(cx).boxed()),
        Step::new("prove_backup", |cx| prove_backup(cx).boxed()),
    ],
    abandon: &[
        Step::new("let_go", |cx| let_go(cx).boxed()),
        Step::new("drop_build", |cx| drop_build(cx).boxed()),
    ],
    no_return: 4,
};

pub(super) const AS_TENANT: Plan = Plan {
    steps: &[
        Step::new("restore_beside", |cx| unless_there(cx, restore_beside(cx).boxed()).boxed()),
        Step::new("verify", |cx| unless_there(cx, verify(cx).boxed()).boxed()),
        Step::new("migrate_beside", |cx| unless_there(cx, migrate_beside(cx).boxed()).boxed()),
        Step::new("take_possession", |cx| take_possession(cx).boxed()),
        Step::new("activate", |cx| activate(cx).boxed()),
    ],
    abandon: delete::STEPS,
    no_return: 5,
};

/// The schema version of the restored database.
const VERSION: &str = "version";
/// The digest of its repeatable migration files.
const REPEATABLES: &str = "repeatables";
/// How far it is with the files of its track.
const TRACK: &str = "track";

/// The roles that were made because the dump names them.
const LENT: &str = "lent";
/// So many of them, and no more.
const MOST_LENT: usize = 16;

/// Where the data comes from, and the server that it goes to.
struct Origin {
    /// Proven to be of its tenant and unaltered.
    manifest: Manifest,
    key: BackupKey,
    server: Server,
}

async fn origin(cx: &StepContext<'_>) -> Result<Origin, StepError> {
    let (backup, server_id) = match *cx.work {
        Work::Restore { backup, server } => (backup, server.unwrap_or(cx.tenant.server_id)),
        Work::RestoreTable { backup, .. } | Work::RestoreAs { backup, .. } => {
            (backup, cx.tenant.server_id)
        }
        _ => unreachable!("only a restore has these steps"),
    };
    let catalog = &cx.environment.catalog;
    let owner = catalog.backup(backup).await?.tenant_id;
    let manifest = load_manifest(cx.environment.store()?, owner, backup).await?;
    let key = catalog.backup_key_of(&manifest).await?.open;
    // Into the place of a tenant's database comes nothing but its own.
    let tenant = if cx.work.makes_tenant() { owner } else { cx.tenant.id };
    manifest.verify(&key, tenant).map_err(RestoreError::from)?;
    let server = cx.environment.server(server_id).await?;
    Ok(Origin { manifest, key, server })
}

pub(super) async fn restore_beside(cx: &StepContext<'_>) -> Result<(), StepError> {
    require_state(cx)?;
    let Origin { manifest, key, server, .. } = origin(cx).await?;
    settle_place(cx).await?;
    restore_into(cx, &manifest, &key, &server).await?;
    note_made(cx).await
}

/// Restores a backup into the operation's build.
pub(super) async fn restore_into(
    cx: &StepContext<'_>,
    manifest: &Manifest,
    key: &BackupKey,
    server: &Server,
) -> Result<Restored, StepError> {
    let attempt = || restore_once(cx, manifest, key, server).boxed();
    with_lent_roles(cx, server, attempt).await
}

/// Has something restored into the operation's build.
///
/// A tenant's large objects, and rights that it gave, name roles as they were then. One that this server has not
/// is lent for the time of the restore, and what it had is the fleet's afterwards.
pub(super) async fn with_lent_roles<'a, T>(
    cx: &StepContext<'_>,
    server: &Server,
    attempt: impl Fn() -> BoxFuture<'a, Result<T, StepError>>,
) -> Result<T, StepError> {
    let owner = cx.owner();
    let mut lent: Vec<RoleName> = recall_lent(cx)?;
    let restored = loop {
        let restored = attempt().await;
        match restored.as_ref().err().and_then(missing_role) {
            Some(role) if lent.len() < MOST_LENT && !lent.contains(&role) => {
                lent.push(role);
                let names: Vec<&str> = lent.iter().map(RoleName::as_str).collect();
                cx.remember(LENT, &names).await?;
                server.lend_role(&lent[lent.len() - 1], owner).await?;
            }
            _ => break restored,
        }
    };
    if restored.is_ok() {
        let build = cx.build();
        server.adopt_large_objects(&build, &cx.tenant.role).await?;
        drop_link_publications(&*server.connect(&build).await?).await?;
    }
    for role in &lent {
        server.take_back_role(role, owner).await?;
    }
    restored
}

/// The roles that an attempt which was cut off has lent.
fn recall_lent(cx: &StepContext<'_>) -> Result<Vec<RoleName>, StepError> {
    let names: Vec<String> = cx.recall(LENT)?.unwrap_or_default();
    Ok(names.iter().filter_map(|name| RoleName::parse(name).ok()).collect())
}

/// The role for want of which a restore failed, where a tenant named it. What a migration grants is not left out.
fn missing_role(error: &StepError) -> Option<RoleName> {
    let StepError::Fail(cause, _) = error else { return None };
    let (role, statement) = cause.downcast_ref::<RestoreError>()?.missing_role()?;
    let of_tenant = ["tenant_", "\"tenant_"]
        .map(|role| statement.starts_with(&format!("ALTER DEFAULT PRIVILEGES FOR ROLE {role}")));
    let is_of_tenant = of_tenant.contains(&true) || statement.contains(" LARGE OBJECT ");
    if is_of_tenant { RoleName::parse(role).ok() } else { None }
}

async fn restore_once(
    cx: &StepContext<'_>,
    manifest: &Manifest,
    key: &BackupKey,
    server: &Server,
) -> Result<Restored, StepError> {
    let (tools, _) = cx.environment.tools(server).await?;
    let libpq_env = empty_build(cx, server).await?;
    let request = RestoreRequest { tenant: manifest.tenant, tools: &tools, libpq_env };
    let _turn = cx.environment.turn().await;
    let store = cx.environment.store()?;
    watched(cx, manifest.plain_bytes, |progress| restore(store, manifest, key, request, progress))
        .await
}

/// Makes the operation's build anew, and says how libpq's programs reach it: `pg_restore` cannot go on in the middle,
/// so every attempt starts from an empty database.
pub(super) async fn empty_build(
    cx: &StepContext<'_>,
    server: &Server,
) -> Result<Vec<(&'static str, String)>, StepError> {
    let build = cx.build();
    provision::drop_build(server, cx.operation.id).await?;
    server.create_build(&build, Source::Zero).await?;
    server.open_build(&build).await?;
    Ok(server.url().with_database(build.as_str()).libpq_env())
}

/// A tenant that is being made from a backup is none of these yet, nor is anything at stake.
pub(super) fn require_state(cx: &StepContext<'_>) -> Result<(), StepError> {
    if cx.work.makes_tenant() { Ok(()) } else { require_settled(&cx.tenant) }
}

async fn verify(cx: &StepContext<'_>) -> Result<(), StepError> {
    come_along(cx).await?;
    compare_with_backup(cx).await
}

async fn compare_with_backup(cx: &StepContext<'_>) -> Result<(), StepError> {
    let Origin { manifest, server, .. } = origin(cx).await?;
    compare(cx, &server, &manifest.tables, manifest.schema_version).await
}

/// Compares what was restored with what was backed up.
pub(super) async fn compare(
    cx: &StepContext<'_>,
    server: &Server,
    tables: &[TableRows],
    schema_version: i64,
) -> Result<(), StepError> {
    let session = server.connect(&cx.build()).await?;
    if let Some(table) = difference(tables, &count_rows(&session).await?) {
        return Err(StepError::fail(
            format!("the restored database differs from the backup in {table}"),
            "restore another backup; the live database is untouched",
        ));
    }
    // Constraints need no look of ours: pg_restore checks each as it makes it, and one that was
    // `not valid` in the backup stays so.
    let version = current_version(&session).await?;
    if version != schema_version {
        return Err(StepError::fail(
            format!(
                "the restored database is at schema version {version}, and was at {schema_version}"
            ),
            "restore another backup; the live database is untouched",
        ));
    }
    cx.remember(VERSION, &version).await
}

/// Where restored tables differ from those of a backup. Each server has them in an order of its own.
pub(super) fn difference(backed_up: &[TableRows], restored: &[TableRows]) -> Option<String> {
    if let Some(table) = backed_up.iter().find(|table| !restored.contains(table)) {
        return Some(format!("{}.{}", table.schema, table.table));
    }
    (backed_up.len() != restored.len()).then(|| "another set of tables".to_owned())
}

/// Brings the restored database to the version that the live one has, so that the application fits it.
pub(super) async fn migrate_beside(cx: &StepContext<'_>) -> Result<(), StepError> {
    come_along(cx).await?;
    let server = cx.environment.server(target(cx)).await?;
    migrate(cx, &server, &cx.build()).await
}

/// Brings a database that is not served yet to the newest files; unless nobody has said yet which files made it,
/// as after an import.
pub(super) async fn migrate(
    cx: &StepContext<'_>,
    server: &Server,
    database: &DatabaseName,
) -> Result<(), StepError> {
    if cx.tenant.schema_version == 0
        && current_version(&server.connect(database).await?).await? == 0
    {
        return cx.remember(VERSION, &0).await;
    }
    let track = tracks::of_arrival(cx, server, database).await?;
    let set = cx.migrations();
    let schema = tracks::bring(cx.environment, server, database, &set, track.as_ref()).await?;
    cx.remember(REPEATABLES, &schema.repeatables).await?;
    cx.remember(TRACK, &schema.track).await?;
    cx.remember(VERSION, &schema.version).await
}

/// What [`migrate`] has left, if it has come to its end.
fn migrated(cx: &StepContext<'_>) -> Result<Option<SchemaState>, StepError> {
    let Some(version) = cx.recall(VERSION)? else { return Ok(None) };
    let repeatables = cx.recall::<Option<String>>(REPEATABLES)?.flatten();
    let track = cx.recall::<Option<TenantTrack>>(TRACK)?.flatten();
    Ok(Some(SchemaState { version, repeatables, track }))
}

/// Whether files were added since [`migrate`], or the tenant has come into a track: a cutover that failed may be
/// retried days later.
pub(super) async fn is_behind(
    cx: &StepContext<'_>,
    server: &Server,
    database: &DatabaseName,
) -> Result<bool, StepError> {
    let SchemaState { version, track, .. } = migrated(cx)?.unwrap_or_default();
    let has_history = version > 0 || cx.tenant.schema_version > 0;
    let set = cx.migrations();
    let track_is_older = match &track {
        None => cx.tenant.track.is_some(),
        Some(track) => tracks::lacks(track, &set).unwrap_or(false),
    };
    let has_older = has_history && (version < set.target_version() || track_is_older);
    // In the middle of a cutover it has another name.
    Ok(has_older && server.database(database).await?.is_some())
}

/// A database that [`migrate`] has seen to, as what comes into the place of the tenant's.
pub(super) fn incoming(
    cx: &StepContext<'_>,
    database: DatabaseName,
    server_id: Uuid,
) -> Result<Incoming, StepError> {
    Ok(Incoming {
        database,
        server_id,
        schema: migrated(cx)?.unwrap_or_else(|| SchemaState {
            version: cx.tenant.schema_version,
            ..SchemaState::default()
        }),
        arrival: Arrival::Complete,
    })
}

pub(super) async fn cut_over(cx: &StepContext<'_>) -> Result<(), StepError> {
    if cutover::was_done(cx).await? {
        return Ok(());
    }
    let server = cx.environment.server(target(cx)).await?;
    let build = cx.build();
    if cx.tenant.state != TenantState::Restoring && has_moved(cx)? {
        migrate_beside(cx).await?;
    } else if is_behind(cx, &server, &build).await? {
        server.open_build(&build).await?;
        migrate(cx, &server, &build).await?;
    }
    let incoming = incoming(cx, build, target(cx))?;
    cutover::cut_over(cx, &incoming).await
}

/// A backup whose data is served is a good one.
async fn prove_backup(cx: &StepContext<'_>) -> Result<(), StepError> {
    let Work::Restore { backup, .. } = *cx.work else {
        unreachable!("only a restore in place has this step")
    };
    Ok(cx.lock.prove_backup(backup).await?)
}

/// Gives up before the cutover has come to its end: the live database is served again.
pub(super) async fn let_go(cx: &StepContext<'_>) -> Result<(), StepError> {
    cutover::let_go(cx, &cx.build(), target(cx)).await
}

/// The server that a restore goes to.
pub(super) fn target(cx: &StepContext<'_>) -> Uuid {
    match *cx.work {
        Work::Restore { server: Some(server), .. }
        | Work::RestoreAt { server: Some(server), .. } => server,
        _ => cx.tenant.server_id,
    }
}

/// A tenant that has its database is made already: by an earlier attempt, or because nothing but the catalog
/// was lost. What is in it is newer than any backup.
pub(super) async fn unless_there(
    cx: &StepContext<'_>,
    step: BoxFuture<'_, Result<(), StepError>>,
) -> Result<(), StepError> {
    let server = cx.server().await?;
    if provision::is_done(cx, &server).await? { Ok(()) } else { step.await }
}

pub(super) async fn take_possession(cx: &StepContext<'_>) -> Result<(), StepError> {
    let server = cx.server().await?;
    let password = cx.environment.catalog.tenant_password(cx.tenant.id).await?;
    let verifier = scram_verifier(&password);
    let from = cx.build();
    let owner = cx.owner();
    let (database, role, epoch) = (&cx.tenant.database, &cx.tenant.role, cx.tenant.epoch);
    let (verifier, login) = (verifier.as_str(), !comes_suspended(cx));
    let possession = Possession { from: &from, database, role, verifier, login, owner, epoch };
    Ok(server.take_possession(possession).await?)
}

pub(super) async fn activate(cx: &StepContext<'_>) -> Result<(), StepError> {
    let server = cx.server().await?;
    provision::prove_isolation(cx, &server, cx.tenant.epoch).await?;
    let schema = match migrated(cx)? {
        Some(schema) => schema,
        None => found(cx, &server).await?,
    };
    let state = if comes_suspended(cx) { TenantState::Suspended } else { TenantState::Active };
    Ok(cx.lock.serve(&cx.tenant, state, cx.tenant.epoch, &schema).await?)
}

/// What a tenant's database has that was there already.
async fn found(cx: &StepContext<'_>, server: &Server) -> Result<SchemaState, StepError> {
    let database = &cx.tenant.database;
    let version = current_version(&server.connect(database).await?).await?;
    let track = match tracks::of_arrival(cx, server, database).await? {
        Some(track) => Some(tracks::found(server, database, &track).await?),
        None => None,
    };
    Ok(SchemaState { version, repeatables: None, track })
}

fn comes_suspended(cx: &StepContext<'_>) -> bool {
    matches!(cx.work, Work::RestoreAs { suspended: true, .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(rows: &[(&str, i64)]) -> Vec<TableRows> {
        let table = |(table, rows): &(&str, i64)| {
            let (schema, table) = ("public".to_owned(), (*table).to_owned());
            TableRows { schema, table, rows: *rows }
        };
        rows.iter().map(table).collect()
    }

    #[test]
    fn tables_may_come_in_another_order_and_not_with_other_rows() {
        let backed_up = tables(&[("user_roles", 1), ("userprofiles", 2)]);

        assert_eq!(
            difference(&backed_up, &tables(&[("userprofiles", 2), ("user_roles", 1)])),
            None
        );
        let fewer = tables(&[("userprofiles", 1), ("user_roles", 1)]);
        assert_eq!(difference(&backed_up, &fewer).unwrap(), "public.userprofiles");
        let more = tables(&[("userprofiles", 2), ("user_roles", 1), ("x", 0)]);
        assert_eq!(difference(&backed_up, &more).unwrap(), "another set of tables");
    }
}
