//! `tenantry server set`, `cordon` and `uncordon`: whom a server takes.

use std::collections::BTreeSet;

use clap::Args;

use crate::api::document::ServerDocument;
use crate::catalog::servers::{Edit, ServerChange};
use crate::cli::arguments::reason;
use crate::cli::drive::Driver;
use crate::cli::tier::parse_tier;
use crate::cli::{Context, Error, Outcome, Result};
use crate::tenant::{Label, Tag, Tier};

/// What a server is to its tenants.
#[derive(Debug, Args)]
pub(super) struct ChangeOptions {
    /// Where it stands; `none` takes that away. A tenant whose settings have `fleet.region` comes only there
    #[arg(long, value_name = "REGION", value_parser = parse_region)]
    region: Option<Edit<Label>>,
    /// What it is beside that, such as disk=nvme; a tenant whose settings have `fleet.server_tags` comes only where these
    /// are. May be given several times
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = Tag::parse)]
    tags: Vec<Tag>,
    /// Take the tag of this key away; may be given several times
    #[arg(long = "untag", value_name = "KEY", value_parser = Tag::parse_key)]
    untag: Vec<Label>,
    /// Take only tenants of this tier; `any` takes all
    #[arg(long, value_name = "TIER", value_parser = parse_kept_tier)]
    tier: Option<Edit<Tier>>,
    /// Take no more tenants than this; 0 takes the bound away
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..=1_000_000))]
    max_tenants: Option<i32>,
    /// How many connections all replicas together may hold there; they share it. Without it, each may
    /// hold TENANTRY_SERVER_CONNECTION_BUDGET. 0 takes it away
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..=100_000))]
    connection_budget: Option<i32>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry server set eu-1 --region eu --max-tenants 500
  tenantry server set big-1 --tier dedicated --max-tenants 1     a server for one large customer
  tenantry server set eu-1 --tag disk=nvme --tag rack=7 --untag old
  tenantry server set eu-1 --connection-budget 300

It counts for tenants that come from now on; those that are there stay. `tenantry tenant audit` names those
that are where they must not be.")]
pub(in crate::cli) struct Options {
    /// The server's name
    name: String,
    #[command(flatten)]
    change: ChangeOptions,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry server cordon eu-1 --reason 'its disks are replaced on Monday'

Its tenants stay, and are served.")]
pub(in crate::cli) struct CordonOptions {
    /// The server's name
    name: String,
    /// Why, for whoever wonders where tenants go
    #[arg(long, value_parser = reason)]
    reason: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry server uncordon eu-1

Ends its draining too: relocations that have not begun are given up, tenants that have left stay where they are.")]
pub(in crate::cli) struct UncordonOptions {
    /// The server's name
    name: String,
}

impl ChangeOptions {
    /// What is given; zero and the words for none take something away.
    pub(super) fn change(&self) -> Result<ServerChange> {
        let keys: BTreeSet<_> = self.tags.iter().map(|tag| &tag.key).collect();
        if keys.len() < self.tags.len() {
            return Err(Error::usage("a server has one value of each tag", "give each key once"));
        }
        let bound = |number: i32| if number > 0 { Edit::Set(number) } else { Edit::Clear };
        let gone = self.untag.iter().map(|key| (key.clone(), None));
        let set = self.tags.iter().map(|tag| (tag.key.clone(), Some(tag.value.clone())));
        let tags = gone.chain(set).collect();
        Ok(ServerChange {
            connection_budget: self.connection_budget.map(bound).unwrap_or_default(),
            region: self.region.clone().unwrap_or_default(),
            tags,
            tier: self.tier.clone().unwrap_or_default(),
            max_tenants: self.max_tenants.map(bound).unwrap_or_default(),
            cordoned: Edit::Keep,
        })
    }
}

pub(super) async fn set(options: Options, context: &Context) -> Result<Outcome> {
    let change = options.change.change()?;
    if change.is_empty() {
        return Err(Error::usage(
            "nothing is to be changed",
            "give --region, --tag, --untag, --tier, --max-tenants or --connection-budget",
        ));
    }
    let catalog = context.catalog().await?;
    let record = catalog.change_server(&options.name, &change).await?;
    let what = format!("Server `{}` is changed.", record.name);
    let next = "Next: `tenantry server plan` shows where tenants go now.";
    context.print_change(&ServerDocument::from(record), &what, next)?;
    Ok(Outcome::Done)
}

pub(super) async fn cordon(options: CordonOptions, context: &Context) -> Result<Outcome> {
    let why = Edit::Set(options.reason.unwrap_or_default());
    let change = ServerChange { cordoned: why, ..ServerChange::default() };
    let catalog = context.catalog().await?;
    let record = catalog.change_server(&options.name, &change).await?;
    let what = format!("No tenant comes to `{}` any more; {} stay.", record.name, record.tenants);
    let next = format!("Back: `tenantry server uncordon {}`", record.name);
    context.print_change(&ServerDocument::from(record), &what, &next)?;
    Ok(Outcome::Done)
}

pub(super) async fn uncordon(options: UncordonOptions, context: &Context) -> Result<Outcome> {
    let environment = context.environment().await?;
    let change = ServerChange { cordoned: Edit::Clear, ..ServerChange::default() };
    let (record, given_up) = environment.change_server(&options.name, &change).await?;
    if let Some(batch) = given_up {
        let driver = Driver { context, environment: &environment };
        driver.settle_batch(batch, context.settings.worker_concurrency).await?;
    }
    let what = format!("Tenants come to `{}` again.", record.name);
    let next = "Next: `tenantry server plan` shows where they go.";
    context.print_change(&ServerDocument::from(record), &what, next)?;
    Ok(Outcome::Done)
}

fn parse_region(text: &str) -> std::result::Result<Edit<Label>, String> {
    match text {
        "none" => Ok(Edit::Clear),
        name => Label::parse(name).map(Edit::Set).map_err(|e| e.to_string()),
    }
}

fn parse_kept_tier(text: &str) -> std::result::Result<Edit<Tier>, String> {
    match text {
        "any" => Ok(Edit::Clear),
        name => parse_tier(name).map(Edit::Set),
    }
}
