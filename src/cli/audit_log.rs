//! `tenantry audit-log`

use clap::Args;
use jiff::{Timestamp, ToSpan as _};

use super::report::{Table, moment};
use super::restore::parse_time;
use super::{Context, Outcome, Result};
use crate::catalog::audit_log::AuditFilter;
use crate::tenant::TenantSlug;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry audit-log
  tenantry audit-log --tenant acme-corp --since 24h
  tenantry audit-log --since 2026-11-01T00:00:00Z --limit 1000 --output-format json")]
pub(super) struct Options {
    /// About this tenant
    #[arg(long, value_name = "SLUG", value_parser = TenantSlug::parse)]
    tenant: Option<TenantSlug>,
    /// Not before this moment: RFC 3339, or hours or days ago, such as 24h or 7d
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<Timestamp>,
    /// At most so many, the newest
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..=100_000))]
    limit: i64,
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let Options { tenant, since, limit } = options;
    let filter = AuditFilter { tenant, since, before: None, limit };
    let events = context.catalog().await?.audit_log(&filter).await?;
    context.print(&events, || {
        let mut table = Table::new(&["TIME", "ACTOR", "ACTION", "TENANT", "DETAIL"]);
        for event in &events {
            table.row([
                moment(event.at),
                event.actor.clone(),
                event.action.clone(),
                event.tenant_slug.clone().unwrap_or_default(),
                event.detail.to_string(),
            ]);
        }
        table.or("Nothing was changed, and nothing refused.")
    })?;
    Ok(Outcome::Done)
}

/// A time, or how long ago.
fn parse_since(text: &str) -> std::result::Result<Timestamp, String> {
    let ago = |unit: char| text.strip_suffix(unit).and_then(|number| number.parse::<u16>().ok());
    let hours = ago('h').map(i64::from).or_else(|| ago('d').map(|days| i64::from(days) * 24));
    match hours {
        Some(hours) => Ok(Timestamp::now() - hours.hours()),
        None => parse_time(text).map_err(|wrong| format!("{wrong}, or `24h` or `7d` ago")),
    }
}
