//! `tenantry audit-log`

use clap::{Args, Subcommand};
use jiff::{Timestamp, ToSpan as _};

use super::arguments::public_key;
use super::report::{Csv, Table, moment, print_text, warn};
use super::restore::parse_time;
use super::{Context, Error, Outcome, OutputFormat, Result};
use crate::catalog::Catalog;
use crate::catalog::audit_log::{AuditFilter, Recorded};
use crate::operations::checkpoints::verify::Verification;
use crate::tenant::TenantSlug;

/// How many are asked for at a time, so that an export of any length needs little memory.
const PAGE: i64 = 1_000;

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  tenantry audit-log
  tenantry audit-log --tenant acme-corp --since 24h
  tenantry audit-log --action operation --actor token:ci --since 7d
  tenantry audit-log --since 2026-11-01T00:00:00Z --until 2026-12-01T00:00:00Z --all --csv > november.csv
  tenantry audit-log --all --output-format json | jq -r .action | sort | uniq -c
  tenantry audit-log verify

The newest come first. As JSON it is one object a line."
)]
pub(super) struct Options {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: ListOptions,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the chain of entries once more, and hold it against the checkpoints in the bucket
    Verify(VerifyOptions),
}

#[derive(Debug, Args)]
struct ListOptions {
    /// About this tenant
    #[arg(long, value_name = "SLUG", value_parser = TenantSlug::parse)]
    tenant: Option<TenantSlug>,
    /// Not before this moment: RFC 3339, or hours or days ago, such as 24h or 7d
    #[arg(long, value_name = "TIME", value_parser = parse_ago)]
    since: Option<Timestamp>,
    /// Before this moment, in the same spelling
    #[arg(long, value_name = "TIME", value_parser = parse_ago)]
    until: Option<Timestamp>,
    /// By this actor, such as cli:ana or token:ci
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
    /// This action, such as member.added, or all of a noun, such as member
    #[arg(long, value_name = "ACTION")]
    action: Option<String>,
    /// At most so many, the newest
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..=100_000))]
    limit: i64,
    /// However many there are
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// As CSV, with a line of headings
    #[arg(long)]
    csv: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry audit-log verify
  tenantry audit-log verify --public-key 3b6a27bc…

Without --public-key the catalog itself says which key signs its checkpoints (`tenantry erasure public-key` prints
it): an auditor keeps it elsewhere. Exit status 1 when anything was altered, removed, inserted or reordered.")]
struct VerifyOptions {
    /// The key that the checkpoints must be signed with, from a source that you trust
    #[arg(long, value_name = "KEY", value_parser = public_key)]
    public_key: Option<String>,
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    match options.command {
        Some(Command::Verify(options)) => verify(options, context).await,
        None => list(options.list, context).await,
    }
}

async fn list(options: ListOptions, context: &Context) -> Result<Outcome> {
    let ListOptions { tenant, since, until, actor, action, limit, all, csv } = options;
    if let (Some(since), Some(until)) = (since, until)
        && since >= until
    {
        return Err(Error::usage(
            format!("--since {since:.0} is not before --until {until:.0}"),
            "give the earlier moment to --since",
        ));
    }
    let catalog = context.catalog().await?;
    if let Some(slug) = &tenant {
        require_known(&catalog, slug).await?;
    }
    let mut filter = AuditFilter { tenant, since, until, actor, action, before: None, limit: 0 };
    let mut left = if all { i64::MAX } else { limit };
    let mut table = Table::new(&["TIME", "ACTOR", "ACTION", "TENANT", "DETAIL"]);
    if csv {
        print_text(&Csv::line(&HEADINGS.map(str::to_owned)))?;
    }
    while left > 0 {
        filter.limit = left.min(PAGE);
        let page = catalog.audit_log(&filter).await?;
        for event in &page {
            match context.output {
                _ if csv => print_text(&csv_line(event))?,
                OutputFormat::Json => context.print_line(event, String::new)?,
                OutputFormat::Table => table.row([
                    moment(event.at),
                    event.actor.clone(),
                    event.action.clone(),
                    event.tenant_slug.clone().unwrap_or_default(),
                    event.detail.to_string(),
                ]),
            }
        }
        filter.before = page.last().map(|event| event.id);
        let found = i64::try_from(page.len()).unwrap_or(i64::MAX);
        left = if found < filter.limit { 0 } else { left - found };
    }
    if !csv && context.output == OutputFormat::Table {
        print_text(&table.or("Nothing was asked for, changed or refused."))?;
    }
    let was_cut = !all && filter.before.is_some() && {
        filter.limit = 1;
        !catalog.audit_log(&filter).await?.is_empty()
    };
    if was_cut {
        context.note(&format!(
            "The newest {limit} are shown, and there are more: --limit N or --all shows them"
        ));
    }
    Ok(Outcome::Done)
}

/// Refuses a slug that no tenant has, and that nothing was ever said about: who was deleted is still in the log.
async fn require_known(catalog: &Catalog, slug: &TenantSlug) -> Result<()> {
    let about = AuditFilter { tenant: Some(slug.clone()), limit: 1, ..AuditFilter::default() };
    if catalog.audit_log(&about).await?.is_empty() {
        catalog.tenant(slug).await?;
    }
    Ok(())
}

const HEADINGS: [&str; 8] =
    ["id", "at", "actor", "action", "tenant_slug", "tenant_id", "request_id", "detail"];

fn csv_line(event: &Recorded) -> String {
    Csv::line(&[
        event.id.to_string(),
        event.at.to_string(),
        event.actor.clone(),
        event.action.clone(),
        event.tenant_slug.clone().unwrap_or_default(),
        event.tenant_id.map(|id| id.to_string()).unwrap_or_default(),
        event.request_id.clone().unwrap_or_default(),
        event.detail.to_string(),
    ])
}

async fn verify(options: VerifyOptions, context: &Context) -> Result<Outcome> {
    let environment = context.environment().await?;
    let verification = environment.verify_audit_log(options.public_key.as_deref()).await?;
    context.print(&verification, || describe(&verification))?;
    if verification.checkpoints.is_none() {
        warn(
            "Only the chain was checked: no bucket is set, so whoever owns the catalog could have made all of it \
             anew. Set TENANTRY_S3_BUCKET to have checkpoints.",
        );
    }
    Ok(if verification.good { Outcome::Done } else { Outcome::Failed })
}

fn describe(verification: &Verification) -> String {
    let Verification { entries, first, last, vouched_to, .. } = verification;
    let mut lines: Vec<String> =
        verification.breaches.iter().map(|breach| breach.what.clone()).collect();
    if verification.more > 0 {
        lines.push(format!("and {} more", verification.more));
    }
    let vouched = match verification.checkpoints {
        None => String::new(),
        Some(0) => " No checkpoint vouches for them.".to_owned(),
        Some(1) => format!(" One checkpoint vouches for them up to link {vouched_to}."),
        Some(agree) => format!(" {agree} checkpoints vouch for them up to link {vouched_to}."),
    };
    lines.push(format!("Entries: {entries}, links {first} to {last} of the chain.{vouched}"));
    if verification.good {
        lines.push("Nothing was altered, removed, inserted or reordered.".to_owned());
    }
    lines.join("\n")
}

/// A time, or how long ago.
fn parse_ago(text: &str) -> std::result::Result<Timestamp, String> {
    let ago = |unit: char| text.strip_suffix(unit).and_then(|number| number.parse::<u16>().ok());
    let hours = ago('h').map(i64::from).or_else(|| ago('d').map(|days| i64::from(days) * 24));
    match hours {
        Some(hours) => Ok(Timestamp::now() - hours.hours()),
        None => parse_time(text).map_err(|wrong| format!("{wrong}, or `24h` or `7d` ago")),
    }
}
