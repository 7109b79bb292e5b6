//! Migrating one tenant to the newest file, or to a ceiling. The database's own history decides what is
//! missing, so a second run finds nothing to do.

use futures_util::FutureExt as _;
use tenantry_provisioning::{MigrationSet, Server, current_version};

use super::{Plan, Step, StepContext, StepError, Work, require_settled, tracks, way_back};
use crate::tenant::{SchemaState, Tenant};

pub(super) const PLAN: Plan = Plan {
    steps: &[Step::new("apply_migrations", |cx| apply_migrations(cx).boxed())],
    abandon: &[],
    no_return: 1,
};

/// Whether there is something to do for a tenant, as far as the catalog knows.
pub(super) fn is_due(tenant: &Tenant, set: &MigrationSet) -> bool {
    tenant.schema_version != set.target_version()
        || set.repeatables_digest().is_some_and(|digest| digest != tenant.repeatables_digest)
        || tracks::is_due(tenant, set)
}

async fn apply_migrations(cx: &StepContext<'_>) -> Result<(), StepError> {
    require_settled(&cx.tenant)?;
    let server = cx.server().await?;
    let mut set = cx.migrations();
    if let Work::Migrate { to: Some(to) } = *cx.work {
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
    let (database, track) = (&cx.tenant.database, cx.tenant.track.as_ref());
    let outcome = tracks::bring(cx.environment, &server, database, &set, track).await;
    if outcome.is_err()
        && let Err(error) = note_version(cx, &server).await
    {
        tracing::debug!(%error, "how far the migration came is not known");
    }
    note(cx, outcome?);
    Ok(())
}

/// The files before the one that failed are applied, and stay so.
async fn note_version(cx: &StepContext<'_>, server: &Server) -> Result<(), StepError> {
    let session = server.connect(&cx.tenant.database).await?;
    let version = current_version(&session).await?;
    let track = match &cx.tenant.track {
        Some(track) => tracks::found(server, &cx.tenant.database, track).await.ok(),
        None => None,
    };
    note(cx, SchemaState { version, repeatables: None, track });
    Ok(())
}

/// Has it written down what is there, where that is news.
fn note(cx: &StepContext<'_>, found: SchemaState) {
    let is_other = |digest: &String| *digest != cx.tenant.repeatables_digest;
    let is_news = found.version != cx.tenant.schema_version
        || found.repeatables.as_ref().is_some_and(is_other)
        || found.track.is_some() && found.track != cx.tenant.track;
    if is_news {
        cx.lock.leave_schema(found);
    }
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
