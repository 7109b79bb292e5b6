//! Adopting a database whose schema is there already: it gets the history of the files that would have made
//! it, and no file is run.
//!
//! Only a schema that is what the files make is adopted, or exactly the one that somebody has looked at and
//! accepted, by its fingerprint. A history is never overwritten. It is about the common files: those of a track are run
//! by the next migration.

use futures_util::FutureExt as _;
use tenantry_provisioning::{MigrationSet, SchemaError, baseline, current_version};

use super::{Plan, Step, StepContext, StepError, Work};
use crate::tenant::SchemaState;

pub(super) const PLAN: Plan = Plan {
    steps: &[
        Step::new("compare_schema", |cx| compare_schema(cx).boxed()),
        Step::new("write_history", |cx| write_history(cx).boxed()),
        Step::new("record_version", |cx| record_version(cx).boxed()),
    ],
    abandon: &[],
    no_return: 1,
};

async fn compare_schema(cx: &StepContext<'_>) -> Result<(), StepError> {
    let (version, accepted) = parameters(cx);
    let comparison = cx.environment.compare(&cx.tenant, version).await?;
    if comparison.found.has_history() {
        return Err(SchemaError::HasHistory { version: comparison.found.version() }.into());
    }
    let fingerprint = comparison.found.schema.fingerprint();
    let Some(first) = comparison.differences.first() else { return Ok(()) };
    if accepted == Some(fingerprint.as_str()) {
        return Ok(());
    }
    let number = match comparison.differences.len() {
        1 => "1 difference, which is".to_owned(),
        number => format!("{number} differences, the first"),
    };
    Err(StepError::fail(
        format!(
            "the schema is not what the files up to version {version} make: {number} in {}",
            first.object
        ),
        format!(
            "`tenantry migrate baseline {slug} --version {version}` shows them; fix them, choose the version \
             that fits, or accept them with --accept-drift",
            slug = cx.tenant.slug
        ),
    ))
}

async fn write_history(cx: &StepContext<'_>) -> Result<(), StepError> {
    let (version, _) = parameters(cx);
    let server = cx.server().await?;
    let timeouts = cx.environment.limits.migration_timeouts;
    Ok(baseline(&server, &cx.tenant.database, &files(cx, version)?, timeouts).await?)
}

/// What is there: a restore may have come in between.
async fn record_version(cx: &StepContext<'_>) -> Result<(), StepError> {
    let server = cx.server().await?;
    let version = current_version(&server.connect(&cx.tenant.database).await?).await?;
    cx.lock.leave_schema(SchemaState { version, ..SchemaState::default() });
    Ok(())
}

/// The version, and the fingerprint that somebody accepted.
fn parameters<'a>(cx: &StepContext<'a>) -> (i64, Option<&'a str>) {
    match cx.work {
        Work::Baseline { version, accepted } => (*version, accepted.as_deref()),
        _ => unreachable!("only a baseline has these steps"),
    }
}

fn files(cx: &StepContext<'_>, version: i64) -> Result<MigrationSet, StepError> {
    cx.files.at(version).ok_or_else(|| {
        StepError::fail(
            format!("there is no migration file of version {version}"),
            "cancel the operation, and choose a version that the directory has",
        )
    })
}
