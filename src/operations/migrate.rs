//! Migrating one tenant to the newest file, or to a ceiling. The database's own history decides what is
//! missing, so a second run finds nothing to do.

use futures_util::FutureExt as _;
use tenantry_provisioning::{MigrationSet, Server, apply, current_version};

use super::{Plan, Step, StepContext, StepError, Work, require_settled, way_back};
use crate::tenant::Tenant;

pub(super) const PLAN: Plan = Plan {
    steps: &[Step::new("apply_migrations", |cx| apply_migrations(cx).boxed())],
    abandon: &[],
    no_return: 1,
};

/// Whether there is something to do for a tenant, as far as the catalog knows.
pub(super) fn is_due(tenant: &Tenant, set: &MigrationSet) -> bool {
    tenant.schema_version != set.target_version()
        || set.repeatables_digest().is_some_and(|digest| digest != tenant.repeatables_digest)
}

async fn apply_migrations(cx: &StepContext<'_>) -> Result<(), StepError> {
    require_settled(&cx.tenant)?;
    let server = cx.environment.server(cx.tenant.server_id).await?;
    let mut set = cx.migrations();
    if let Work::Migrate { to: Some(to) } = cx.work()? {
        // A rollout has said where it goes, and must not end somewhere else.
        if let Some(ceiling) = cx.lock.ceiling().filter(|ceiling| *ceiling < to)
            && cx.operation.batch_id.is_some()
        {
            return Err(StepError::fail(
                format!("the fleet is frozen at version {ceiling}, and version {to} is beyond"),
                "`tenantry migrate unfreeze` lifts that; then retry",
            ));
        }
        set = set.up_to(to);
    }
    if is_due(&cx.tenant, &set) {
        way_back::close(cx, None, "the tenant's schema was migrated").await?;
    }
    let timeouts = cx.environment.limits.migration_timeouts;
    let outcome = apply(&server, &cx.tenant.database, &set, timeouts).await;
    if outcome.is_err()
        && let Err(error) = note_version(cx, &server).await
    {
        tracing::debug!(%error, "how far the migration came is not known");
    }
    let applied = outcome?;
    for file in &applied.files {
        tracing::info!(version = file.version, name = file.name, elapsed = ?file.elapsed, "migration applied");
    }
    let repeatables = set.repeatables_digest();
    if applied.to != cx.tenant.schema_version
        || repeatables.is_some_and(|digest| digest != cx.tenant.repeatables_digest)
    {
        cx.lock.set_schema(applied.to, repeatables).await?;
    }
    Ok(())
}

/// The files before the one that failed are applied, and stay so.
async fn note_version(cx: &StepContext<'_>, server: &Server) -> Result<(), StepError> {
    let session = server.connect(&cx.tenant.database).await?;
    let version = current_version(&session).await?;
    if version != cx.tenant.schema_version {
        cx.lock.set_schema(version, None).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_without_a_ceiling_is_as_it_was() {
        let stored =
            |input| serde_json::from_value::<Work>(json!({ "kind": "migrate", "input": input }));

        assert_eq!(stored(json!({})).unwrap(), Work::Migrate { to: None });
        assert_eq!(stored(json!({ "to": 17 })).unwrap(), Work::Migrate { to: Some(17) });
        let written = serde_json::to_value(Work::Migrate { to: None }).unwrap();
        assert_eq!(written["input"], json!({}));
    }
}
