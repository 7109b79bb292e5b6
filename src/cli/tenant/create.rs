//! `tenantry tenant create`

use clap::Args;

use super::Wait;
use crate::catalog::tenants::NewTenant;
use crate::cli::arguments::name;
use crate::cli::drive::Driver;
use crate::cli::server::explain;
use crate::cli::tier::parse_tier;
use crate::cli::{Context, Error, Outcome, Result};
use crate::tenant::{FleetSettings, Label, Tag, TenantSettings, TenantSlug, Tier};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry tenant create --slug acme-corp
  tenantry tenant create --slug acme-corp --name 'Acme Corporation' --sample-data
  tenantry tenant create --slug acme-corp --server eu-1 --wait=false
  tenantry tenant create --slug acme-corp --track enterprise
  tenantry tenant create --slug acme-corp --region eu --tag beta --apart-from globex --explain")]
pub(in crate::cli) struct Options {
    /// Its name in URLs and database names: lowercase letters, digits, inner hyphens
    #[arg(long, value_parser = TenantSlug::parse)]
    slug: TenantSlug,
    /// Its name for people [default: the slug]
    #[arg(long, value_parser = name)]
    name: Option<String>,
    /// The server to host it [default: of those that may, the one with the fewest tenants]
    #[arg(long)]
    server: Option<String>,
    /// Only a server of this region may host it, now and later
    #[arg(long, value_parser = Label::parse)]
    region: Option<Label>,
    /// Only a server with this tag may host it, now and later; may be given several times
    #[arg(long = "server-tag", value_name = "KEY=VALUE", value_parser = Tag::parse)]
    server_tags: Vec<Tag>,
    /// Never on one server with this tenant; may be given several times
    #[arg(long, value_name = "SLUG", value_parser = TenantSlug::parse)]
    apart_from: Vec<TenantSlug>,
    /// A free name, by which rollouts choose it; may be given several times
    #[arg(long = "tag", value_name = "TAG", value_parser = Label::parse)]
    tags: Vec<Label>,
    /// The track whose migration files it gets beyond those of every tenant
    #[arg(long, value_parser = Label::parse)]
    track: Option<Label>,
    /// Only show which server would host it, and why not another
    #[arg(long)]
    explain: bool,
    /// How it is hosted
    #[arg(long, default_value = "shared", value_parser = parse_tier)]
    tier: Tier,
    /// Load the sample rows, to have something to look at
    #[arg(long)]
    sample_data: bool,
    #[command(flatten)]
    wait: Wait,
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    if options.sample_data && context.settings.tenant_sample_data.is_none() {
        return Err(Error::usage(
            "there is no sample data to load",
            "set TENANTRY_TENANT_SAMPLE_DATA to an SQL file, or leave --sample-data out",
        ));
    }
    let environment = context.environment().await?;
    let slug = options.slug;
    for other in &options.apart_from {
        environment.catalog.tenant(other).await?;
    }
    let mut settings = TenantSettings::default();
    settings.set_fleet(FleetSettings {
        region: options.region,
        tags: options.tags.into_iter().collect(),
        server_tags: options.server_tags.into_iter().collect(),
        apart_from: options.apart_from.into_iter().collect(),
    });
    let new = NewTenant {
        slug: slug.clone(),
        name: options.name.unwrap_or_else(|| slug.to_string()),
        tier: options.tier,
        settings,
        server: options.server,
        track: options.track,
    };
    if options.explain {
        return explain(&environment.catalog, &new, context).await;
    }
    let by = context.requester();
    let operation = environment.create_tenant(&new, options.sample_data, by).await?;

    let driver = Driver { context, environment: &environment };
    driver
        .conclude(operation, &slug, options.wait.wait, |time| {
            (
                format!("Tenant `{slug}` is created and served ({time})."),
                format!(
                    "Next: psql \"$(tenantry tenant url {slug})\", or `tenantry backup run {slug}`"
                ),
            )
        })
        .await
}
