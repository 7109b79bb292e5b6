//! `tenantry usage`

use clap::Args;
use jiff::civil::Date;

use super::report::{Csv, Table, print_text, size};
use super::{Context, Error, Outcome, OutputFormat, Result};
use crate::catalog::usage::{Usage, UsageFilter};
use crate::tenant::TenantSlug;

/// How many are asked for at a time, so that an export of any length needs little memory.
const PAGE: i64 = 1_000;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry usage --tenant acme-corp
  tenantry usage --from 2026-11-01 --to 2026-11-30
  tenantry usage --from 2026-11-01 --to 2026-11-30 --csv > november.csv
  tenantry usage --output-format json | jq -s 'map(.queries) | add'

A line for each tenant and day (UTC), the newest day first; as JSON one object a line. Replicas tell what they have
counted about once a minute, and when they stop; sizes are looked at once an hour.")]
pub(super) struct Options {
    /// Of this tenant
    #[arg(long, value_name = "SLUG", value_parser = TenantSlug::parse)]
    tenant: Option<TenantSlug>,
    /// From this day on, such as 2026-11-01
    #[arg(long, value_name = "DAY", value_parser = parse_day)]
    from: Option<Date>,
    /// To this day, and with it
    #[arg(long, value_name = "DAY", value_parser = parse_day)]
    to: Option<Date>,
    /// As CSV, with a line of headings
    #[arg(long)]
    csv: bool,
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let Options { tenant, from, to, csv } = options;
    if let (Some(first), Some(last)) = (from, to)
        && first > last
    {
        return Err(Error::usage(
            format!("--from {first} is after --to {last}"),
            "give the earlier day to --from",
        ));
    }
    let catalog = context.catalog().await?;
    if let Some(slug) = &tenant {
        catalog.tenant(slug).await?;
    }
    let mut filter = UsageFilter { tenant, from, to, after: None, limit: PAGE };
    let mut table = Table::new(&[
        "DAY",
        "TENANT",
        "SIZE",
        "LARGEST",
        "CONNECTION·S",
        "ACTIVE·S",
        "QUERIES",
        "SQL ROWS",
        "SQL BYTES",
        "BACKUPS",
        "BACKUP BYTES",
    ]);
    if csv {
        print_text(&Csv::line(&HEADINGS.map(str::to_owned)))?;
    }
    loop {
        let page = catalog.usage(&filter).await?;
        for usage in &page {
            match context.output {
                _ if csv => print_text(&csv_line(usage))?,
                OutputFormat::Json => context.print_line(usage, String::new)?,
                OutputFormat::Table => table.row(cells(usage)),
            }
        }
        filter.after = page.last().map(|last| (last.day, last.tenant_id));
        if i64::try_from(page.len()).is_ok_and(|found| found < PAGE) {
            break;
        }
    }
    if !csv && context.output == OutputFormat::Table {
        print_text(&table.or("Nothing was used."))?;
    }
    Ok(Outcome::Done)
}

fn cells(usage: &Usage) -> [String; 11] {
    let known = |bytes: Option<i64>| bytes.map_or_else(|| "?".to_owned(), size);
    [
        usage.day.to_string(),
        usage.tenant_slug.to_string(),
        known(usage.database_bytes),
        known(usage.largest_database_bytes),
        format!("{:.0}", usage.connection_seconds),
        format!("{:.0}", usage.active_seconds),
        usage.queries.to_string(),
        usage.sql_rows.to_string(),
        size(usage.sql_bytes),
        usage.backups.to_string(),
        size(usage.backup_bytes),
    ]
}

const HEADINGS: [&str; 12] = [
    "day",
    "tenant_slug",
    "tenant_id",
    "database_bytes",
    "largest_database_bytes",
    "connection_seconds",
    "active_seconds",
    "queries",
    "sql_rows",
    "sql_bytes",
    "backups",
    "backup_bytes",
];

fn csv_line(usage: &Usage) -> String {
    let known = |bytes: Option<i64>| bytes.map(|bytes| bytes.to_string()).unwrap_or_default();
    Csv::line(&[
        usage.day.to_string(),
        usage.tenant_slug.to_string(),
        usage.tenant_id.to_string(),
        known(usage.database_bytes),
        known(usage.largest_database_bytes),
        format!("{:.3}", usage.connection_seconds),
        format!("{:.3}", usage.active_seconds),
        usage.queries.to_string(),
        usage.sql_rows.to_string(),
        usage.sql_bytes.to_string(),
        usage.backups.to_string(),
        usage.backup_bytes.to_string(),
    ])
}

fn parse_day(text: &str) -> std::result::Result<Date, String> {
    text.parse().map_err(|_| "a day is written as 2026-11-01".to_owned())
}
