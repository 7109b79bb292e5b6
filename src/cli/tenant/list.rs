//! `tenantry tenant list`

use clap::Args;

use crate::api::document::TenantDocument;
use crate::catalog::tenants::TenantFilter;
use crate::cli::report::{Table, age};
use crate::cli::{Context, Outcome, Result};
use crate::tenant::{Label, TenantSlug, TenantState};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry tenant list
  tenantry tenant list --status suspended --server eu-1
  tenantry tenant list --output-format json | jq -r '.[].slug'")]
pub(in crate::cli) struct Options {
    /// Only tenants in this state; deleted ones are listed only when asked for
    #[arg(long, value_parser = parse_state)]
    status: Option<TenantState>,
    /// Only tenants on this server
    #[arg(long)]
    server: Option<String>,
    /// Only tenants after this slug
    #[arg(long, value_name = "SLUG", value_parser = TenantSlug::parse)]
    after: Option<TenantSlug>,
    /// At most this many
    #[arg(long, default_value_t = i64::MAX, hide_default_value = true, value_name = "N",
          value_parser = clap::value_parser!(i64).range(1..))]
    limit: i64,
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let filter = TenantFilter {
        state: options.status,
        server: options.server,
        after: options.after,
        limit: options.limit,
    };
    let is_filtered = filter.state.is_some() || filter.server.is_some() || filter.after.is_some();
    let catalog = context.catalog().await?;
    if let Some(server) = &filter.server {
        catalog.server_by_name(server).await?;
    }
    let tenants = catalog.tenants(&filter).await?;
    let documents: Vec<TenantDocument> = tenants.into_iter().map(TenantDocument::from).collect();
    context.print(&documents, || {
        let mut table = Table::new(&["SLUG", "NAME", "STATUS", "SERVER", "SCHEMA", "TRACK", "AGE"]);
        for tenant in &documents {
            table.row([
                tenant.slug.to_string(),
                tenant.name.clone(),
                tenant.status.to_string(),
                tenant.server.clone(),
                tenant.schema_version.to_string(),
                track(tenant.track.as_ref(), tenant.track_version),
                age(tenant.created_at),
            ]);
        }
        table.or(if is_filtered {
            "No such tenants."
        } else {
            "No tenants. `tenantry tenant create --slug acme-corp` makes one."
        })
    })?;
    Ok(Outcome::Done)
}

/// The track and the version in it, as in `enterprise 3`; `-` for none.
pub(in crate::cli) fn track(track: Option<&Label>, version: Option<i64>) -> String {
    track.map_or_else(|| "-".to_owned(), |track| format!("{track} {}", version.unwrap_or(0)))
}

fn parse_state(text: &str) -> std::result::Result<TenantState, String> {
    TenantState::parse(text).ok_or_else(|| {
        let all: Vec<&str> = TenantState::ALL.into_iter().map(TenantState::as_str).collect();
        format!("a status is one of {}", all.join(", "))
    })
}
