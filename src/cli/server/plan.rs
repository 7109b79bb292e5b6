//! `tenantry server plan`, and `tenantry tenant create --explain`: where a tenant would go, and why.

use clap::Args;
use serde::Serialize;

use crate::catalog::Catalog;
use crate::catalog::tenants::NewTenant;
use crate::cli::report::Table;
use crate::cli::tier::parse_tier;
use crate::cli::{Context, Outcome, Result};
use crate::tenant::placement::Judged;
use crate::tenant::{FleetSettings, Label, Tag, TenantSettings, TenantSlug, Tier};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry server plan
  tenantry server plan --region eu --tier dedicated

Changes nothing. Exit status 1 when no server can host such a tenant.")]
pub(in crate::cli) struct Options {
    /// Of a tenant that belongs in this region
    #[arg(long, value_parser = Label::parse)]
    region: Option<Label>,
    /// Of a tenant that asks for a server with this tag; may be given several times
    #[arg(long = "server-tag", value_name = "KEY=VALUE", value_parser = Tag::parse)]
    server_tags: Vec<Tag>,
    /// Of a tenant of this tier
    #[arg(long, default_value = "shared", value_parser = parse_tier)]
    tier: Tier,
}

/// A server as the place of a tenant.
#[derive(Serialize)]
struct Document {
    server: String,
    /// Whether the tenant goes there.
    chosen: bool,
    tenants: i64,
    max_tenants: Option<i32>,
    region: Option<Label>,
    tier: Option<Tier>,
    /// Why it cannot host the tenant; nothing where it can.
    unfit: Vec<String>,
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let mut settings = TenantSettings::default();
    settings.set_fleet(FleetSettings {
        region: options.region,
        server_tags: options.server_tags.into_iter().collect(),
        ..FleetSettings::default()
    });
    let nobody = NewTenant {
        slug: TenantSlug::parse("new").expect("a slug"),
        name: String::new(),
        tier: options.tier,
        settings,
        server: None,
        track: None,
    };
    explain(&context.catalog().await?, &nobody, context).await
}

/// Prints every server as the place of a tenant, the best first.
pub(in crate::cli) async fn explain(
    catalog: &Catalog,
    new: &NewTenant,
    context: &Context,
) -> Result<Outcome> {
    let judged = catalog.placement(new).await?;
    let documents: Vec<Document> =
        judged.into_iter().enumerate().map(|(rank, judged)| document(judged, rank == 0)).collect();
    context.print(&documents, || {
        let mut table = Table::new(&["SERVER", "REGION", "TIER", "TENANTS", "VERDICT"]);
        for document in &documents {
            let most = document.max_tenants.map_or_else(String::new, |most| format!(" of {most}"));
            let verdict = match document {
                Document { chosen: true, .. } => "the tenant goes here".to_owned(),
                Document { unfit, .. } if unfit.is_empty() => "possible".to_owned(),
                Document { unfit, .. } => format!("no: {}", unfit.join(", ")),
            };
            table.row([
                document.server.clone(),
                document.region.as_ref().map_or("-", Label::as_str).to_owned(),
                document.tier.map_or("any", Tier::as_str).to_owned(),
                format!("{}{most}", document.tenants),
                verdict,
            ]);
        }
        table.or("No servers. `tenantry server add NAME --url URL` adds one.")
    })?;
    let has_place = documents.iter().any(|document| document.chosen);
    Ok(if has_place { Outcome::Done } else { Outcome::Failed })
}

fn document(judged: Judged, is_best: bool) -> Document {
    let Judged { host, unfit } = judged;
    Document {
        server: host.name,
        chosen: is_best && unfit.is_empty(),
        tenants: host.tenants,
        max_tenants: host.max_tenants,
        region: host.region,
        tier: host.tier,
        unfit: unfit.iter().map(ToString::to_string).collect(),
    }
}
