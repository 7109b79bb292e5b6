//! `tenantry tier …`

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::{Map, Value};

use super::report::{Table, fields, moment, plain};
use super::{Context, Outcome, Result};
use crate::api::document::TierDocument;
use crate::config::nearest_of;
use crate::tenant::settings::{BackupPolicy, Goal, Limits, SettingsError};
use crate::tenant::{Retention, Schedule, Tier};

/// The commands about tiers.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  tenantry tier list
  tenantry tier set shared connections=5 statement_timeout=30s")]
pub(super) enum Command {
    /// List the tiers with their limits and their backups
    List(ListOptions),
    /// Show one tier
    Show(ShowOptions),
    /// Change some limits of a tier, or how it is backed up; the rest stays
    Set(SetOptions),
    /// Take limits of a tier away, or how it is backed up
    Unset(UnsetOptions),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry tier list")]
pub(super) struct ListOptions {}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry tier show shared
  tenantry tier show shared --output-format json")]
pub(super) struct ShowOptions {
    /// The tier
    #[arg(value_parser = parse_tier)]
    tier: Tier,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry tier set shared connections=5 statement_timeout=30s
  tenantry tier set shared queries_per_second=200 idle_in_transaction_timeout=1m
  tenantry tier set dedicated --backup-schedule '0 * * * *' --backup-retention last=24,daily=30
  tenantry tenant settings set acme-corp limits.connections=20      (a tenant's own limit counts first)

Limits: connections (1 to 1000, for each replica), statement_timeout and idle_in_transaction_timeout
(such as 30s or 5m), queries_per_second (1 to 100000, over all replicas). They are in force at once.
The schedule of backups is a cron expression in UTC; tenants are spread over the hour after it.")]
pub(super) struct SetOptions {
    /// The tier
    #[arg(value_parser = parse_tier)]
    tier: Tier,
    /// What to set
    #[arg(value_name = "LIMIT=VALUE", value_parser = parse_assignment, required_unless_present = "backup")]
    assignments: Vec<(&'static str, Value)>,
    #[command(flatten)]
    backup: BackupOptions,
}

/// How a tier's tenants are backed up.
#[derive(Debug, Args)]
#[group(id = "backup", multiple = true)]
struct BackupOptions {
    /// When they are backed up, as a cron expression; `off` is never
    #[arg(long = "backup-schedule", value_name = "CRON", value_parser = parse_schedule)]
    schedule: Option<Schedule>,
    /// Which backups are kept, such as `last=7,daily=14`
    #[arg(long = "backup-retention", value_name = "POLICY", value_parser = parse_retention)]
    retention: Option<Retention>,
    /// How old the newest backup may be, such as 26h
    #[arg(long = "backup-goal-rpo", value_name = "DURATION", value_parser = parse_goal)]
    goal_rpo: Option<Goal>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry tier unset shared connections
  tenantry tier unset dedicated statement_timeout backup.schedule")]
pub(super) struct UnsetOptions {
    /// The tier
    #[arg(value_parser = parse_tier)]
    tier: Tier,
    /// What to take away
    #[arg(value_name = "LIMIT", required = true, value_parser = PossibleValuesParser::new(names()))]
    names: Vec<String>,
}

pub(super) async fn run(command: Command, context: &Context) -> Result<Outcome> {
    match command {
        Command::List(options) => list(options, context).await,
        Command::Show(options) => show(options, context).await,
        Command::Set(SetOptions { tier, assignments, backup }) => {
            let set = |limits: &mut Map<String, Value>, policy: &mut Map<String, Value>| {
                limits
                    .extend(assignments.into_iter().map(|(name, value)| (name.to_owned(), value)));
                policy.append(&mut fields_of(&backup.policy()));
            };
            change(tier, set, context).await
        }
        Command::Unset(UnsetOptions { tier, names }) => {
            let unset = |limits: &mut Map<String, Value>, policy: &mut Map<String, Value>| {
                limits.retain(|name, _| !names.contains(name));
                policy.retain(|name, _| !names.contains(&format!("backup.{name}")));
            };
            change(tier, unset, context).await
        }
    }
}

async fn list(_: ListOptions, context: &Context) -> Result<Outcome> {
    let tiers = context.catalog().await?.tiers().await?;
    let documents: Vec<TierDocument> = tiers.into_iter().map(TierDocument::from).collect();
    context.print(&documents, || {
        let mut table = Table::new(&["TIER", "TENANTS", "LIMITS", "BACKUPS"]);
        for document in &documents {
            table.row([
                document.tier.as_str().to_owned(),
                document.tenants.to_string(),
                or(&told(&document.limits).join(", "), "none"),
                or(&told(&document.backup).join(", "), "as the fleet"),
            ]);
        }
        table.or("No tiers. `tenantry init` makes them.")
    })?;
    Ok(Outcome::Done)
}

async fn show(options: ShowOptions, context: &Context) -> Result<Outcome> {
    let tier = context.catalog().await?.tier(options.tier).await?;
    let document = TierDocument::from(tier);
    context.print(&document, || {
        fields(&[
            ("Tier", Some(document.tier.as_str().to_owned())),
            ("Tenants", Some(document.tenants.to_string())),
            ("Limits", Some(or(&told(&document.limits).join("\n"), "none"))),
            ("Backups", Some(or(&told(&document.backup).join("\n"), "as the fleet"))),
            ("Changed", Some(moment(document.updated_at))),
        ])
    })?;
    Ok(Outcome::Done)
}

async fn change(
    tier: Tier,
    change: impl FnOnce(&mut Map<String, Value>, &mut Map<String, Value>),
    context: &Context,
) -> Result<Outcome> {
    let catalog = context.catalog().await?;
    let changed = catalog.change_tier(tier, &context.actor, |both| {
        // The table holds nothing else; what is something else is refused after this.
        if let (Value::Object(limits), Value::Object(backup)) = both {
            change(limits, backup);
        }
    });
    let document = TierDocument::from(changed.await?);
    let name = tier.as_str();
    let what = format!("The settings of tier `{name}` are changed; replicas follow in a second.");
    let next = format!("See them with `tenantry tier show {name}`.");
    context.print_change(&document, &what, &next)?;
    Ok(Outcome::Done)
}

impl BackupOptions {
    fn policy(self) -> BackupPolicy {
        BackupPolicy {
            schedule: self.schedule,
            retention: self.retention,
            goal_rpo: self.goal_rpo,
            legal_hold: None,
        }
    }
}

/// Each field with its value.
fn told(document: &impl Serialize) -> Vec<String> {
    let told = fields_of(document).into_iter();
    told.map(|(name, value)| format!("{name} {}", plain(&value))).collect()
}

fn fields_of(document: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(document).expect("limits and policies are plain data") {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn or(text: &str, empty: &str) -> String {
    if text.is_empty() { empty } else { text }.to_owned()
}

/// What can be taken away.
fn names() -> Vec<&'static str> {
    Limits::NAMES.into_iter().chain(BackupPolicy::PLACES).collect()
}

fn parse_retention(text: &str) -> std::result::Result<Retention, String> {
    Retention::parse(text).ok_or_else(|| format!("a retention is {}", Retention::EXPECTED))
}

fn parse_goal(text: &str) -> std::result::Result<Goal, String> {
    Goal::parse(text).ok_or_else(|| format!("a goal is {}", Goal::EXPECTED))
}

fn parse_schedule(text: &str) -> std::result::Result<Schedule, String> {
    Schedule::parse(text).ok_or_else(|| format!("a schedule is {}", Schedule::EXPECTED))
}

pub(super) fn parse_tier(text: &str) -> std::result::Result<Tier, String> {
    Tier::parse(text).ok_or_else(|| "a tier is `shared` or `dedicated`".to_owned())
}

fn parse_assignment(text: &str) -> std::result::Result<(&'static str, Value), String> {
    let (name, value) =
        text.split_once('=').ok_or("a limit is written LIMIT=VALUE, such as connections=5")?;
    let names = Limits::NAMES;
    let known = names.into_iter().find(|known| *known == name);
    let known = known.ok_or_else(|| match nearest_of(name, names.into_iter()) {
        Some(nearest) => format!("there is no limit `{name}`; did you mean `{nearest}`?"),
        None => format!("there is no limit `{name}`; there are {}", names.join(", ")),
    })?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
    // Looked at here, for the catalog would call it as it is called among a tenant's settings.
    let limit = Map::from_iter([(known.to_owned(), value.clone())]);
    match Limits::parse(Value::Object(limit)) {
        Ok(_) => Ok((known, value)),
        Err(SettingsError::Wrong { reason, .. }) => Err(format!("{known}: {reason}")),
        Err(error) => Err(error.to_string()),
    }
}
