//! `tenantry restore`

use clap::Args;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use uuid::Uuid;

use super::arguments::id;
use super::confirm::confirm;
use super::drive::Driver;
use super::migrate::parse_concurrency;
use super::report::{elapsed, moment};
use super::tenant::Wait;
use super::{Context, Error, Outcome, Result, backup};
use crate::catalog::backups::BackupRecord;
use crate::operations::Environment;
use crate::operations::request::{BackupChoice, RestoreAs};
use crate::tenant::{TenantSlug, Tier};

mod at;
mod from_bucket;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry restore acme-corp --latest --in-place
  tenantry restore acme-corp --before '2026-03-01 12:00' --in-place --server eu-2
  tenantry restore acme-corp --backup 0197f0c0-7a5e-7c3e-9f5e-0a1b2c3d4e5f --as acme-check
  tenantry restore acme-corp --at '2026-03-01 14:05' --in-place
  tenantry restore acme-corp --latest --table boards
  tenantry restore acme-corp --undo
  tenantry restore --from-bucket --server eu-3 --server eu-4

The backup is restored beside the live database and verified; only then are the two swapped. The
replaced database is kept for TENANTRY_RESTORE_KEEP: until then `--undo` brings it back, and keeps
what was written since in its turn. Whatever fails, the live database serves on.

`--at` takes no backup of ours, but what the tenant had at that very moment, out of the WAL archive
that pgBackRest keeps of its server (TENANTRY_PITR_STANZAS, TENANTRY_PITR_SCRATCH_DIR).

After a disaster `--from-bucket` rebuilds the whole fleet in a new catalog, from the bucket and the
master key alone: `tenantry init`, `tenantry server add`, then this. Run it again to go on where it
stopped.")]
pub(super) struct Options {
    /// The tenant
    #[arg(value_parser = TenantSlug::parse, required_unless_present = "from_bucket", conflicts_with = "from_bucket")]
    slug: Option<TenantSlug>,
    #[command(flatten)]
    choice: Choice,
    /// Put it in the place of the live database
    #[arg(long, group = "target")]
    in_place: bool,
    /// This table alone, into a schema `restored_<time>` beside
    #[arg(long, group = "target", value_name = "TABLE", conflicts_with_all = ["in_place", "into", "at", "undo", "from_bucket", "servers"])]
    table: Option<String>,
    /// Make a new tenant of it, and leave the live database alone
    #[arg(long = "as", id = "into", group = "target", value_name = "SLUG", value_parser = TenantSlug::parse, conflicts_with = "in_place")]
    into: Option<TenantSlug>,
    /// Restore to this server [default: the tenant's own; with --as, the one with the fewest tenants];
    /// with --from-bucket, may be repeated [default: all servers]
    #[arg(long = "server", value_name = "NAME", conflicts_with = "undo")]
    servers: Vec<String>,
    /// With --at, the server that the tenant was on then [default: the one that it is on]
    #[arg(long, value_name = "NAME", requires = "at")]
    archive_of: Option<String>,
    /// With --from-bucket, tenants of this tier only; may be repeated, the most urgent first
    #[arg(long = "tier", value_name = "TIER", requires = "from_bucket", value_parser = parse_tier)]
    tiers: Vec<Tier>,
    /// With --from-bucket, how many tenants at a time [default: backup_concurrency]
    #[arg(long, value_name = "N", requires = "from_bucket", value_parser = parse_concurrency)]
    concurrency: Option<usize>,
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
    #[arg(long, value_name = "ID", requires = "target", value_parser = id("`tenantry backup list` shows them"))]
    backup: Option<Uuid>,
    /// The newest good backup
    #[arg(long, requires = "target")]
    latest: bool,
    /// The newest good backup of data from before this time, such as 2026-03-01T12:00:00Z
    #[arg(long, requires = "target", value_name = "TIME", value_parser = parse_time)]
    before: Option<Timestamp>,
    /// No backup: what there was at this time, out of the WAL archive of the server
    #[arg(long, requires = "target", value_name = "TIME", value_parser = parse_time)]
    at: Option<Timestamp>,
    /// No backup: the database that the last restore replaced
    #[arg(long, conflicts_with_all = ["in_place", "into"])]
    undo: bool,
    /// Every tenant that the bucket has and the catalog has not
    #[arg(long, conflicts_with_all = ["in_place", "into"])]
    from_bucket: bool,
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let Some(slug) = options.slug.clone() else {
        return from_bucket::run(options, context).await;
    };
    let environment = context.environment().await?;
    if options.choice.undo {
        return undo(options, &slug, context, &environment).await;
    }
    if options.servers.len() > 1 {
        return Err(Error::usage("a tenant is on one server", "give --server once"));
    }
    if let Some(moment) = options.choice.at {
        return at::run(options, &slug, moment, context, &environment).await;
    }
    backup::need_store(&environment)?;
    let choice = match options.choice {
        Choice { backup: Some(id), .. } => BackupChoice::Id(id),
        Choice { before: Some(moment), .. } => BackupChoice::Before(moment),
        _ => BackupChoice::Latest,
    };
    // The choice is made once, so that what was confirmed is what is restored.
    let backup = environment.choose_backup(&slug, choice).await?;
    if let Some(table) = &options.table {
        return restore_table(&options, &slug, table, &backup, context, &environment).await;
    }
    match &options.into {
        Some(into) => restore_as(&options, &slug, into, &backup, context, &environment).await,
        None => restore_in_place(&options, &slug, &backup, context, &environment).await,
    }
}

async fn restore_in_place(
    options: &Options,
    slug: &TenantSlug,
    backup: &BackupRecord,
    context: &Context,
    environment: &Environment,
) -> Result<Outcome> {
    let what = format!(
        "restoring `{slug}` replaces its database, with all that was written since {}",
        moment(backup.started_at)
    );
    confirm(&what, slug.as_str(), options.yes)?;

    let by = context.requester();
    let choice = BackupChoice::Id(backup.id);
    let operation = environment
        .restore_on(slug, choice, options.servers.first().map(String::as_str), by)
        .await?;
    let driver = Driver { context, environment };
    driver
        .conclude(operation, slug, options.wait.wait, |time| {
            (
                format!("Tenant `{slug}` is back at {} ({time}).", moment(backup.started_at)),
                format!(
                    "The replaced database is kept for {}: `tenantry restore {slug} --undo`",
                    elapsed(context.settings.restore_keep)
                ),
            )
        })
        .await
}

async fn restore_as(
    options: &Options,
    slug: &TenantSlug,
    into: &TenantSlug,
    backup: &BackupRecord,
    context: &Context,
    environment: &Environment,
) -> Result<Outcome> {
    let by = context.requester();
    let to = RestoreAs { slug: into.clone(), server: options.servers.first().cloned() };
    let choice = BackupChoice::Id(backup.id);
    let operation = environment.restore_as(slug, choice, to, by).await?;
    let driver = Driver { context, environment };
    driver
        .conclude(operation, into, options.wait.wait, |time| {
            (
                format!(
                    "Tenant `{into}` has the data of `{slug}` of {} ({time}).",
                    moment(backup.started_at)
                ),
                format!("Next: `tenantry tenant url {into}`"),
            )
        })
        .await
}

async fn restore_table(
    options: &Options,
    slug: &TenantSlug,
    table: &str,
    backup: &BackupRecord,
    context: &Context,
    environment: &Environment,
) -> Result<Outcome> {
    let by = context.requester();
    let choice = BackupChoice::Id(backup.id);
    let operation = environment.restore_table(slug, choice, table, by).await?;
    let schema = operation.input["schema"].as_str().unwrap_or_default().to_owned();
    let driver = Driver { context, environment };
    driver
        .conclude(operation, slug, options.wait.wait, |time| {
            (
                format!(
                    "The table {table} of `{slug}` of {} is in the schema {schema} ({time}).",
                    moment(backup.started_at)
                ),
                format!("When it is needed no more: `drop schema {schema} cascade`"),
            )
        })
        .await
}

async fn undo(
    options: Options,
    slug: &TenantSlug,
    context: &Context,
    environment: &Environment,
) -> Result<Outcome> {
    environment.catalog.tenant(slug).await?;
    let what = format!(
        "undoing the restore of `{slug}` replaces its database, with all that was written since the restore"
    );
    confirm(&what, slug.as_str(), options.yes)?;

    let by = context.requester();
    let operation = environment.undo_restore(slug, by).await?;
    let driver = Driver { context, environment };
    driver
        .conclude(operation, slug, options.wait.wait, |time| {
            (
                format!("Tenant `{slug}` has the database back that was replaced ({time})."),
                format!(
                    "What was written since is kept for {}: `tenantry restore {slug} --undo`",
                    elapsed(context.settings.restore_keep)
                ),
            )
        })
        .await
}

fn parse_tier(text: &str) -> std::result::Result<Tier, String> {
    Tier::parse(text).ok_or_else(|| "a tier is `shared` or `dedicated`".to_owned())
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
