//! Restoring a backup into the place of the live database.
//!
//! The backup is restored beside the live database, compared with its manifest and brought to the
//! schema version that the application knows. Only then comes the cutover: requests are held, one
//! transaction swaps the two databases, and the replaced one is kept for a while. Until that
//! transaction the live tenant is untouched, whatever goes wrong.

use futures_util::FutureExt as _;
use tenantry_backup::{Manifest, RestoreError, RestoreRequest, load_manifest, restore};
use tenantry_provisioning::{DatabaseName, Owner, Source, Swap, apply, current_version};

use super::backup::count_rows;
use super::{Plan, Step, StepContext, StepError, Work, provision};
use crate::tenant::TenantState;

pub(super) const PLAN: Plan = Plan {
    steps: &[
        Step::new("restore_beside", |cx| restore_beside(cx).boxed()),
        Step::new("verify", |cx| verify(cx).boxed()),
        Step::new("migrate_beside", |cx| migrate_beside(cx).boxed()),
        Step::new("hold", |cx| hold(cx).boxed()),
        Step::new("swap", |cx| swap(cx).boxed()),
        Step::new("serve", |cx| serve(cx).boxed()),
    ],
    abandon: &[
        Step::new("let_go", |cx| let_go(cx).boxed()),
        Step::new("drop_build", |cx| drop_build(cx).boxed()),
    ],
    no_return: 4,
};

/// The state to go back to after the cutover.
const STATE: &str = "state";
/// The epoch of the incoming database.
const EPOCH: &str = "epoch";
/// The schema version of the incoming database.
const VERSION: &str = "version";
/// The digest of its repeatable migration files.
const REPEATABLES: &str = "repeatables";

async fn restore_beside(cx: &StepContext<'_>) -> Result<(), StepError> {
    if !matches!(cx.tenant.state, TenantState::Active | TenantState::Suspended) {
        return Err(StepError::fail(
            format!(
                "the tenant is {}; only an active or suspended one can be restored in place",
                cx.tenant.state
            ),
            "finish or retry its other operation first (`tenantry operation list`)",
        ));
    }
    let store = cx.environment.store()?;
    let server = cx.environment.server(cx.tenant.server_id).await?;
    let (tools, _) = cx.environment.tools(&server).await?;
    let key = cx.environment.catalog.backup_key(cx.tenant.id).await?.open;
    let manifest = manifest(cx).await?;
    let build = DatabaseName::build(cx.operation.id);

    // pg_restore cannot go on in the middle: every attempt starts from an empty database.
    provision::drop_build(&server, cx.operation.id).await?;
    server.create_build(&build, Source::Zero).await?;
    server.open_build(&build).await?;
    let request = RestoreRequest {
        tenant: cx.tenant.id,
        tools: &tools,
        libpq_env: server.url().with_database(build.as_str()).libpq_env(),
    };
    let _turn = cx.environment.turn().await;
    restore(store, &manifest, &key, request, |_| {}).await?;
    Ok(())
}

/// The manifest, proven to be of this tenant and unaltered.
async fn manifest(cx: &StepContext<'_>) -> Result<Manifest, StepError> {
    let Work::Restore { backup } = cx.work()? else {
        unreachable!("only a restore has these steps")
    };
    let key = cx.environment.catalog.backup_key(cx.tenant.id).await?.open;
    let owner = cx.environment.catalog.backup(backup).await?.tenant_id;
    let manifest = load_manifest(cx.environment.store()?, owner, backup).await?;
    manifest.verify(&key, cx.tenant.id).map_err(RestoreError::from)?;
    Ok(manifest)
}

/// Compares what was restored with what was backed up.
async fn verify(cx: &StepContext<'_>) -> Result<(), StepError> {
    let server = cx.environment.server(cx.tenant.server_id).await?;
    let manifest = manifest(cx).await?;
    let session = server.connect(&DatabaseName::build(cx.operation.id)).await?;

    let counted = count_rows(&session).await?;
    if counted != manifest.tables {
        let wrong = manifest.tables.iter().find(|table| !counted.contains(table));
        let table = wrong.map_or_else(
            || "another set of tables".to_owned(),
            |t| format!("{}.{}", t.schema, t.table),
        );
        return Err(StepError::fail(
            format!("the restored database differs from the backup in {table}"),
            "restore another backup; the live database is untouched",
        ));
    }
    // Constraints need no look of ours: pg_restore checks each as it makes it, and one that was
    // `not valid` in the backup stays so.
    let version = current_version(&session).await?;
    if version != manifest.schema_version {
        return Err(StepError::fail(
            format!(
                "the restored database is at schema version {version}, and its manifest says {}",
                manifest.schema_version
            ),
            "restore another backup; the live database is untouched",
        ));
    }
    cx.remember(VERSION, &version).await
}

/// Brings the restored database to the version that the live one has, so that the application fits it.
async fn migrate_beside(cx: &StepContext<'_>) -> Result<(), StepError> {
    let server = cx.environment.server(cx.tenant.server_id).await?;
    let build = DatabaseName::build(cx.operation.id);
    let set = cx.environment.migrations();
    let applied = apply(&server, &build, &set, cx.environment.limits.migration_timeouts).await?;
    cx.remember(REPEATABLES, &set.repeatables_digest()).await?;
    cx.remember(VERSION, &applied.to).await
}

/// Holds new requests, on every replica. From here the restore goes forward only.
async fn hold(cx: &StepContext<'_>) -> Result<(), StepError> {
    if cx.recall::<TenantState>(STATE).is_none() {
        cx.remember(EPOCH, &(cx.tenant.epoch + 1)).await?;
        cx.remember(STATE, &cx.tenant.state).await?;
    }
    Ok(cx.lock.set_state(TenantState::Restoring, None).await?)
}

async fn swap(cx: &StepContext<'_>) -> Result<(), StepError> {
    let server = cx.environment.server(cx.tenant.server_id).await?;
    let retired = DatabaseName::old(cx.operation.id);
    let keep = cx.environment.limits.restore_keep;
    cx.lock.retain_database(&retired, cx.tenant.server_id, keep).await?;
    server
        .swap(Swap {
            live: &cx.tenant.database,
            incoming: &DatabaseName::build(cx.operation.id),
            retired: &retired,
            role: &cx.tenant.role,
            owner: Owner { tenant: cx.tenant.id, operation: cx.operation.id },
            epoch: epoch(cx)?,
        })
        .await?;
    Ok(())
}

async fn serve(cx: &StepContext<'_>) -> Result<(), StepError> {
    let server = cx.environment.server(cx.tenant.server_id).await?;
    provision::prove_isolation(cx, &server, epoch(cx)?).await?;
    let state = cx.recall(STATE).unwrap_or(TenantState::Active);
    let version = cx.recall(VERSION).unwrap_or(cx.tenant.schema_version);
    let repeatables = cx.recall::<Option<String>>(REPEATABLES).flatten();
    let repeatables = repeatables.as_deref();
    let Work::Restore { backup } = cx.work()? else {
        unreachable!("only a restore has these steps")
    };
    cx.lock.prove_backup(backup).await?;
    Ok(cx.lock.serve(&cx.tenant, state, epoch(cx)?, version, repeatables).await?)
}

fn epoch(cx: &StepContext<'_>) -> Result<i64, StepError> {
    cx.recall(EPOCH).ok_or_else(|| StepError::fail("the new epoch was not written down", "retry"))
}

/// Gives up before the swap: the live database is served again.
async fn let_go(cx: &StepContext<'_>) -> Result<(), StepError> {
    if cx.tenant.state == TenantState::Restoring {
        let state = cx.recall(STATE).unwrap_or(TenantState::Active);
        cx.lock.set_state(state, None).await?;
    }
    Ok(())
}

async fn drop_build(cx: &StepContext<'_>) -> Result<(), StepError> {
    let server = cx.environment.server(cx.tenant.server_id).await?;
    provision::drop_build(&server, cx.operation.id).await
}
