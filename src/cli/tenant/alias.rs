//! `tenantry tenant alias list` and `remove`

use clap::{Args, Subcommand};

use crate::cli::report::{Table, age};
use crate::cli::{Context, Outcome, Result};
use crate::tenant::TenantSlug;

/// The commands about aliases.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  tenantry tenant alias list acme
  tenantry tenant alias remove acme acme-corp")]
pub(in crate::cli) enum Command {
    /// List the slugs that a tenant had before, and that still lead to it
    List(ListOptions),
    /// Let a slug that a tenant had before lead to it no more
    Remove(RemoveOptions),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry tenant alias list acme")]
pub(in crate::cli) struct ListOptions {
    /// The tenant
    #[arg(value_parser = TenantSlug::parse)]
    slug: TenantSlug,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry tenant alias remove acme acme-corp

Another tenant can take the slug then. A token or a provider in the settings that still names it is not for
this tenant any more.")]
pub(in crate::cli) struct RemoveOptions {
    /// The tenant
    #[arg(value_parser = TenantSlug::parse)]
    slug: TenantSlug,
    /// The slug that it had
    #[arg(value_parser = TenantSlug::parse)]
    alias: TenantSlug,
}

pub(super) async fn run(command: Command, context: &Context) -> Result<Outcome> {
    match command {
        Command::List(options) => list(options, context).await,
        Command::Remove(options) => remove(options, context).await,
    }
}

async fn list(options: ListOptions, context: &Context) -> Result<Outcome> {
    let aliases = context.catalog().await?.aliases(&options.slug).await?;
    context.print(&aliases, || {
        let mut table = Table::new(&["ALIAS", "AGE"]);
        for alias in &aliases {
            table.row([alias.slug.to_string(), age(alias.created_at)]);
        }
        table.or("No aliases. A tenant that is renamed keeps the slug that it had as one.")
    })?;
    Ok(Outcome::Done)
}

async fn remove(options: RemoveOptions, context: &Context) -> Result<Outcome> {
    let RemoveOptions { slug, alias } = options;
    context.catalog().await?.remove_alias(&slug, &alias, &context.actor).await?;
    let what = format!("`{alias}` leads to `{slug}` no more, and is free.");
    context.print_change(&serde_json::json!({ "alias": alias }), &what, "")?;
    Ok(Outcome::Done)
}
