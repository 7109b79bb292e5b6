//! `tenantry restore`

use clap::Args;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use uuid::Uuid;

use super::confirm::confirm;
use super::drive::Driver;
use super::report::{elapsed, moment};
use super::tenant::Wait;
use super::{Context, Outcome, Result, backup};
use crate::catalog::CatalogError;
use crate::operations::request::{BackupChoice, Requester};
use crate::tenant::TenantSlug;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry restore acme-corp --latest --in-place
  tenantry restore acme-corp --before '2026-03-01 12:00' --in-place
  tenantry restore acme-corp --backup 0197f0c0-7a5e-7c3e-9f5e-0a1b2c3d4e5f --in-place --yes

The backup is restored beside the live database and verified; only then are the two swapped. The
replaced database is kept for TENANTRY_RESTORE_KEEP.")]
pub(super) struct Options {
    /// The tenant
    #[arg(value_parser = TenantSlug::parse)]
    slug: TenantSlug,
    #[command(flatten)]
    choice: Choice,
    /// Put it in the place of the live database
    #[arg(long, required = true)]
    in_place: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    wait: Wait,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Choice {
    /// This backup
    #[arg(long, value_name = "ID")]
    backup: Option<Uuid>,
    /// The newest backup
    #[arg(long)]
    latest: bool,
    /// The newest backup of data from before this time, such as 2026-03-01T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    before: Option<Timestamp>,
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let environment = context.environment().await?;
    backup::need_store(&environment)?;
    let (slug, catalog) = (options.slug, &environment.catalog);
    let tenant = catalog.tenant(&slug).await?;
    // The choice is made once, so that what was confirmed is what is restored.
    let backup = match options.choice.backup {
        Some(id) => Some(catalog.backup(id).await?),
        None => catalog.newest_backup(tenant.id, options.choice.before).await?,
    };
    let missing =
        || CatalogError::Missing { what: "suitable backup of tenant", name: slug.to_string() };
    let backup = backup.ok_or_else(missing)?;
    let what = format!(
        "restoring `{slug}` replaces its database, with all that was written since {}",
        moment(backup.started_at)
    );
    confirm(&what, slug.as_str(), options.yes)?;

    let by = context.requester();
    let by = Requester { name: &by, idempotency_key: None };
    let operation = environment.restore(&slug, BackupChoice::Id(backup.id), by).await?;
    let driver = Driver { context, environment: &environment };
    driver
        .conclude(operation, &slug, options.wait.wait, |time| {
            (
                format!("Tenant `{slug}` is back at {} ({time}).", moment(backup.started_at)),
                format!(
                    "The replaced database is kept for {}.",
                    elapsed(context.settings.restore_keep)
                ),
            )
        })
        .await
}

/// Reads `2026-03-01T12:00:00Z`, or a date and time of this machine's time zone.
pub(super) fn parse_time(text: &str) -> std::result::Result<Timestamp, String> {
    let local = || text.parse::<DateTime>().ok()?.to_zoned(TimeZone::system()).ok();
    text.parse().ok().or_else(|| Some(local()?.timestamp())).ok_or_else(|| {
        "a time reads `2026-03-01T12:00:00Z` or, in local time, `2026-03-01 12:00`".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_zone_or_is_local() {
        let utc = parse_time("2026-03-01T12:00:00Z").unwrap();

        assert_eq!(parse_time("2026-03-01T13:00:00+01:00").unwrap(), utc);
        assert!(parse_time("2026-03-01 12:00").is_ok());
        assert!(parse_time("2026-03-01").is_ok());
        for text in ["yesterday", "", "12:00", "2026-13-01"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }
}
