//! `tenantry restore --at`

use jiff::Timestamp;

use super::super::confirm::confirm;
use super::super::drive::Driver;
use super::super::report::{elapsed, moment};
use super::super::{Context, Outcome, Result};
use super::Options;
use crate::operations::Environment;
use crate::operations::request::{PointInTime, RestoreAs};
use crate::tenant::TenantSlug;

pub(super) async fn run(
    options: Options,
    slug: &TenantSlug,
    at: Timestamp,
    context: &Context,
    environment: &Environment,
) -> Result<Outcome> {
    let point = PointInTime { at, archive_of: options.archive_of.as_deref() };
    let server = options.servers.first();
    let by = context.requester();
    let driver = Driver { context, environment };
    if let Some(into) = &options.into {
        let to = RestoreAs { slug: into.clone(), server: server.cloned() };
        let operation = environment.restore_at_as(slug, point, to, by).await?;
        let done = |time: &str| {
            (
                format!("Tenant `{into}` has the data of `{slug}` of {} ({time}).", moment(at)),
                format!("Next: `tenantry tenant url {into}`"),
            )
        };
        return driver.conclude(operation, into, options.wait.wait, done).await;
    }
    let what = format!(
        "restoring `{slug}` replaces its database, with all that was written since {}",
        moment(at)
    );
    confirm(&what, slug.as_str(), options.yes)?;
    let operation = environment.restore_at(slug, point, server.map(String::as_str), by).await?;
    let keep = elapsed(context.settings.restore_keep);
    let done = |time: &str| {
        (
            format!("Tenant `{slug}` is back at {} ({time}).", moment(at)),
            format!("The replaced database is kept for {keep}: `tenantry restore {slug} --undo`"),
        )
    };
    driver.conclude(operation, slug, options.wait.wait, done).await
}
