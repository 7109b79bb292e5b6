//! Migrating one tenant to the newest file, or to the one that was asked for. The database's own history decides what is missing, so a
//! second run finds nothing to do.

use futures_util::FutureExt as _;
use tenantry_provisioning::apply;

use super::{Plan, Step, StepContext, StepError, Work};
use crate::tenant::TenantState;

pub(super) const PLAN: Plan = Plan {
    steps: &[Step::new("apply_migrations", |cx| apply_migrations(cx).boxed())],
    abandon: &[],
    no_return: 1,
};

async fn apply_migrations(cx: &StepContext<'_>) -> Result<(), StepError> {
    if !matches!(cx.tenant.state, TenantState::Active | TenantState::Suspended) {
        return Err(StepError::fail(
            format!("the tenant is {}", cx.tenant.state),
            "finish or retry its other operation first (`tenantry operation list`)",
        ));
    }
    let server = cx.environment.server(cx.tenant.server_id).await?;
    let set = match cx.work()? {
        // A tenant that is further already has nothing to do.
        Work::Migrate { to: Some(to) } if cx.tenant.schema_version >= to => return Ok(()),
        Work::Migrate { to: Some(to) } => cx.environment.migrations().until(to),
        _ => cx.environment.migrations(),
    };
    let applied =
        apply(&server, &cx.tenant.database, &set, cx.environment.limits.migration_timeouts).await?;
    for file in &applied.files {
        tracing::info!(version = file.version, name = file.name, elapsed = ?file.elapsed, "migration applied");
    }
    if applied.to != cx.tenant.schema_version {
        cx.lock.set_schema_version(applied.to).await?;
    }
    Ok(())
}
