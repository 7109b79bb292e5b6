//! `tenantry tenant settings get` and `set`

use clap::{Args, Subcommand};
use serde_json::Value;

use crate::catalog::CatalogError;
use crate::cli::report::{Table, plain, print_json, print_text};
use crate::cli::{Context, Outcome, OutputFormat, Result};
use crate::config::nearest_of;
use crate::tenant::TenantSlug;
use crate::tenant::settings::SettingsPath;

/// The commands about a tenant's settings.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  tenantry tenant settings get acme-corp
  tenantry tenant settings set acme-corp limits.connections=20")]
pub(in crate::cli) enum Command {
    /// Show the settings of a tenant, or one of them
    Get(GetOptions),
    /// Change some settings of a tenant; the others stay
    Set(SetOptions),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry tenant settings get acme-corp
  tenantry tenant settings get acme-corp sso.issuer
  tenantry tenant settings get acme-corp limits --output-format json")]
pub(in crate::cli) struct GetOptions {
    /// The tenant
    #[arg(value_parser = TenantSlug::parse)]
    slug: TenantSlug,
    /// The setting, such as sso.issuer, or a section, such as limits
    #[arg(value_parser = parse_path)]
    path: Option<SettingsPath>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry tenant settings set acme-corp sso.issuer=https://sso.acme.com sso.audience=board-app
  tenantry tenant settings set acme-corp limits.connections=5 limits.statement_timeout=30s
  tenantry tenant settings set acme-corp 'application.theme={\"dark\": true}' --unset branding
  tenantry tenant settings set acme-corp 'branding.display_name=\"2024\"'    (text, not a number)

Sections: branding (logo_url, primary_color, secondary_color, display_name), sso (issuer, audience),
limits (connections, statement_timeout, idle_in_transaction_timeout, queries_per_second), fleet (region, tags, server_tags, apart_from),
backup (schedule, retention, goal_rpo, legal_hold), encryption (recipient), compliance and application (any).")]
pub(in crate::cli) struct SetOptions {
    /// The tenant
    #[arg(value_parser = TenantSlug::parse)]
    slug: TenantSlug,
    /// What to set; the value is JSON where it can be read as JSON, else text
    #[arg(value_name = "PATH=VALUE", value_parser = parse_assignment, required_unless_present = "unset")]
    assignments: Vec<Assignment>,
    /// What to take away, before anything is set
    #[arg(long, value_name = "PATH", value_parser = parse_path)]
    unset: Vec<SettingsPath>,
}

#[derive(Clone, Debug)]
struct Assignment {
    path: SettingsPath,
    value: Value,
}

pub(super) async fn run(command: Command, context: &Context) -> Result<Outcome> {
    match command {
        Command::Get(options) => get(options, context).await,
        Command::Set(options) => set(options, context).await,
    }
}

async fn get(GetOptions { slug, path }: GetOptions, context: &Context) -> Result<Outcome> {
    let settings = context.catalog().await?.tenant(&slug).await?.settings.to_value();
    let value = match &path {
        None => &settings,
        Some(path) => path.get(&settings).ok_or_else(|| CatalogError::Missing {
            what: "value of the setting",
            name: path.to_string(),
        })?,
    };
    match (context.output, value) {
        (OutputFormat::Json, value) => print_json(value)?,
        (OutputFormat::Table, Value::Object(_)) => print_text(&describe(path.as_ref(), value))?,
        (OutputFormat::Table, value) => print_text(&plain(value))?,
    }
    Ok(Outcome::Done)
}

async fn set(options: SetOptions, context: &Context) -> Result<Outcome> {
    let SetOptions { slug, assignments, unset } = options;
    let is_fleet = |one: &Assignment| one.path.to_string().split('.').next() == Some("fleet");
    let sets_region = assignments.iter().any(is_fleet);
    let rules = &context.settings.tenant_settings;
    let catalog = context.catalog().await?;
    let changed = catalog.change_settings(&slug, &context.actor, |before| {
        rules.change(before, |settings| {
            for path in &unset {
                path.unset(settings);
            }
            for Assignment { path, value } in assignments {
                path.set(settings, value)?;
            }
            Ok(())
        })
    });
    let what = format!("The settings of `{slug}` are changed; replicas follow in seconds.");
    let next = format!("See them with `tenantry tenant settings get {slug}`.");
    let changed = changed.await?;
    context.print_change(&changed, &what, &next)?;
    if let Some(region) = changed.fleet().and_then(|fleet| fleet.region.as_ref())
        && sets_region
        && !catalog.servers().await?.iter().any(|server| server.region.as_ref() == Some(region))
    {
        context.note(&format!(
            "No server is in {region} yet, so the tenant can go nowhere: `tenantry server set NAME --region {region}` \
             says that one is"
        ));
    }
    Ok(Outcome::Done)
}

/// Each value below an object, a line for each, with its whole path.
fn describe(path: Option<&SettingsPath>, value: &Value) -> String {
    let mut table = Table::new(&["SETTING", "VALUE"]);
    let start = path.map(ToString::to_string).unwrap_or_default();
    add_rows(&mut table, &start, value);
    table.or("No settings. `tenantry tenant settings set SLUG PATH=VALUE` makes some.")
}

fn add_rows(table: &mut Table, path: &str, value: &Value) {
    match value {
        Value::Object(fields) if !fields.is_empty() || path.is_empty() => {
            for (name, inner) in fields {
                let dot = if path.is_empty() { "" } else { "." };
                add_rows(table, &format!("{path}{dot}{name}"), inner);
            }
        }
        value => table.row([path.to_owned(), plain(value)]),
    }
}

fn parse_path(text: &str) -> std::result::Result<SettingsPath, String> {
    text.parse::<SettingsPath>().map_err(|error| match nearest_place(text) {
        Some(nearest) => format!("{error}; did you mean `{nearest}`?"),
        None => format!("{error}; there are {}", SettingsPath::PLACES.join(", ")),
    })
}

/// The known place that somebody may have meant: by its whole path, or by its last name alone.
fn nearest_place(text: &str) -> Option<&'static str> {
    let mut places = SettingsPath::PLACES.iter().copied();
    nearest_of(text, places.clone())
        .or_else(|| places.find(|place| nearest_of(text, place.rsplit('.').take(1)).is_some()))
}

fn parse_assignment(text: &str) -> std::result::Result<Assignment, String> {
    let (path, value) = text
        .split_once('=')
        .ok_or("a setting is written PATH=VALUE, such as limits.connections=5")?;
    let free = path.starts_with("application.") || path.starts_with("compliance.");
    let path = parse_path(path)?;
    if value.is_empty() && !free {
        return Err(format!("no setting is empty; `--unset {path}` takes it away"));
    }
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
    Ok(Assignment { path, value })
}
