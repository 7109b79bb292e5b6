//! Undoing a restore: the database that it replaced comes back, by the same cutover. What was written
//! since then is kept in its turn, so that an undo can be undone too.

use futures_util::FutureExt as _;
use tenantry_provisioning::{DatabaseName, Server};
use uuid::Uuid;

use super::{Plan, Step, StepContext, StepError, Work, cutover, relocate, restore};
use crate::tenant::TenantState;

pub(super) const PLAN: Plan = Plan {
    steps: &[
        Step::new("keep_replaced", |cx| keep_replaced(cx).boxed()),
        Step::new("migrate_beside", |cx| migrate_beside(cx).boxed()),
        Step::new("cut_over", |cx| cut_over(cx).boxed()),
        Step::new("leave_server", |cx| leave_server(cx).boxed()),
    ],
    abandon: &[
        Step::new("let_go", |cx| let_go(cx).boxed()),
        Step::new("shut_replaced", |cx| shut_replaced(cx).boxed()),
    ],
    no_return: 3,
};

/// The database that was replaced, and its server.
fn replaced(cx: &StepContext<'_>) -> (DatabaseName, Uuid) {
    match *cx.work {
        Work::UndoRestore { operation, server } => (DatabaseName::old(operation), server),
        _ => unreachable!("only an undo has these steps"),
    }
}

/// Sees that it is not dropped in the middle of this, although its time may come.
async fn keep_replaced(cx: &StepContext<'_>) -> Result<(), StepError> {
    let (database, _) = replaced(cx);
    let left = cx.environment.catalog.left_by(&cx.tenant).await?;
    if left.iter().any(|left| left.is_following() && DatabaseName::old(left.operation) == database)
    {
        return Err(StepError::fail(
            "what the tenant left follows it by now, and has all that was written since",
            format!(
                "cancel this; go back with `tenantry tenant relocate {} --back`",
                cx.tenant.slug
            ),
        ));
    }
    let keep = cx.environment.limits.restore_keep;
    if cx.lock.keep_retained(&database, keep).await? {
        return Ok(());
    }
    Err(StepError::fail(
        "the replaced database is kept no more",
        format!("restore a backup: `tenantry backup list {}`", cx.tenant.slug),
    ))
}

/// Files may have been added since: the application of today has to fit the database of then.
async fn migrate_beside(cx: &StepContext<'_>) -> Result<(), StepError> {
    let (database, server_id) = replaced(cx);
    let server = cx.environment.server(server_id).await?;
    // For the administrator alone: the tenant's role lost its right when it was replaced.
    server.unfence(&database, cx.tenant.id).await?;
    // It may have been replaced before its neighbours were hidden from it.
    server.ensure_hardened(&database).await?;
    restore::migrate(cx, &server, &database).await
}

async fn cut_over(cx: &StepContext<'_>) -> Result<(), StepError> {
    let (database, server_id) = replaced(cx);
    let server = cx.environment.server(server_id).await?;
    if restore::is_behind(cx, &server, &database).await? {
        migrate_beside(cx).await?;
    }
    carry_sequences(cx, &server, &database).await?;
    cutover::cut_over(cx, &restore::incoming(cx, database, server_id)?).await
}

/// What followed the tenant's database for a while has its rows of then, and its sequences as they were before.
async fn carry_sequences(
    cx: &StepContext<'_>,
    server: &Server,
    replaced: &DatabaseName,
) -> Result<(), StepError> {
    let Work::UndoRestore { operation, .. } = *cx.work else { return Ok(()) };
    let catalog = &cx.environment.catalog;
    if cx.tenant.state == TenantState::Restoring
        || !catalog.has_followed(cx.tenant.id, operation).await?
    {
        return Ok(());
    }
    let home = cx.server().await?;
    let here = home.connect(&cx.tenant.database).await?;
    relocate::carry_sequences(&here, &server.connect(replaced).await?).await
}

async fn leave_server(cx: &StepContext<'_>) -> Result<(), StepError> {
    let (database, server_id) = replaced(cx);
    cx.lock.forget_retained(&database, server_id).await?;
    cutover::leave_server(cx).await
}

async fn let_go(cx: &StepContext<'_>) -> Result<(), StepError> {
    let (database, server_id) = replaced(cx);
    cutover::let_go(cx, &database, server_id).await
}

async fn shut_replaced(cx: &StepContext<'_>) -> Result<(), StepError> {
    let (database, server_id) = replaced(cx);
    let server = cx.environment.server(server_id).await?;
    match server.fence(&database, cx.tenant.id).await {
        Err(tenantry_provisioning::Error::Missing { .. }) => Ok(()),
        fenced => Ok(fenced.map(drop)?),
    }
}
