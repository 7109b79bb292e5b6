//! `tenantry key …`: the master key.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::drive::Driver;
use super::migrate::describe_failures;
use super::report::{Table, count};
use super::{Context, Outcome, Result, drive};
use crate::catalog::Catalog;
use crate::catalog::audit_log::Event;
use crate::catalog::operations::{OperationRecord, OperationState};
use crate::catalog::resealing::UnderKey;

/// The commands about the master key.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  tenantry key status
  tenantry key rotate")]
pub(super) enum Command {
    /// Put every secret, and the keys of all backups, under the present master key
    Rotate(RotateOptions),
    /// Show how much is under which master key
    Status(StatusOptions),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  export TENANTRY_MASTER_KEY_PREVIOUS=\"$TENANTRY_MASTER_KEY\"
  export TENANTRY_MASTER_KEY=\"$(openssl rand -base64 32)\"
  tenantry key rotate

Every replica must open both keys first: give each of them the new one as TENANTRY_MASTER_KEY_PREVIOUS,
restart it, then swap the two and restart it again. Only keys are sealed again, no dump is touched. Whatever
stops it, ask again: it goes on. Once `tenantry key status` shows one key, the old one may go.
Exit status 3 when something is still under another key.")]
pub(super) struct RotateOptions {}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry key status
  tenantry key status --output-format json")]
pub(super) struct StatusOptions {}

/// What is under which master key.
#[derive(Debug, Serialize)]
struct Status {
    /// The id of the present master key.
    key_id: String,
    /// Whether nothing is under another one.
    complete: bool,
    /// By the id of the key.
    under: BTreeMap<String, UnderKey>,
}

pub(super) async fn run(command: Command, context: &Context) -> Result<Outcome> {
    match command {
        Command::Rotate(options) => rotate(options, context).await,
        Command::Status(options) => status(options, context).await,
    }
}

async fn rotate(_: RotateOptions, context: &Context) -> Result<Outcome> {
    let environment = context.environment().await?;
    let catalog = &environment.catalog;
    let secrets = catalog.reseal().await?;
    let (mut failures, mut outcome) = (String::new(), Outcome::Done);
    let mut tenants = 0;
    if let Some(batch) = environment.reseal_backups(&context.actor).await? {
        let driver = Driver { context, environment: &environment };
        let operations = driver.settle_batch(batch, context.settings.worker_concurrency).await?;
        let done = |one: &&(OperationRecord, _)| one.0.state == OperationState::Succeeded;
        tenants = operations.iter().filter(done).count();
        outcome = drive::outcome(&operations);
        failures = describe_failures(batch, &operations);
    }
    // What opens the catalog is the last to change, so that a rotation which was cut off goes on. Before it comes a
    // backup of the catalog that the new key opens: nobody else makes one before the hour is over.
    let mut after = Status::of(catalog).await?;
    if after.others() <= 1 && outcome == Outcome::Done {
        if environment.store.is_some() {
            environment.back_up_catalog().await?;
        }
        catalog.adopt_master_key().await?;
        after = Status::of(catalog).await?;
    }
    let detail = serde_json::json!({ "secrets": secrets, "complete": after.complete });
    let event = Event { actor: &context.actor, action: "master_key.rotated", tenant: None, detail };
    catalog.record(&event).await?;
    context.print(&after, || {
        let counted = |number, thing| count(usize::try_from(number).unwrap_or_default(), thing);
        let now = after.under.get(&after.key_id).cloned().unwrap_or_default();
        let head = format!(
            "{} and the backups of {} were put under the master key {}, which has {} and {} now.",
            count(usize::try_from(secrets).unwrap_or(usize::MAX), "secret"),
            count(tenants, "tenant"),
            after.key_id,
            counted(now.secrets, "secret"),
            counted(now.backups, "backup"),
        );
        [head, failures, after.rest()].concat()
    })?;
    Ok(if after.complete { Outcome::Done } else { Outcome::PartlyDone })
}

async fn status(_: StatusOptions, context: &Context) -> Result<Outcome> {
    let status = Status::of(&context.catalog().await?).await?;
    context.print(&status, || {
        let mut table = Table::new(&["MASTER KEY", "SECRETS", "BACKUPS", "STATE"]);
        for (key, under) in &status.under {
            let present = if *key == status.key_id { "present" } else { "-" };
            let key = if key.is_empty() { "not noted" } else { key };
            let (secrets, backups) = (under.secrets.to_string(), under.backups.to_string());
            table.row([key.to_owned(), secrets, backups, present.to_owned()]);
        }
        [table.or(""), status.rest()].concat()
    })?;
    Ok(Outcome::Done)
}

impl Status {
    async fn of(catalog: &Catalog) -> Result<Self> {
        let (key_id, under) = (catalog.master_key_id(), catalog.under_master_keys().await?);
        let complete = under.keys().all(|key| *key == key_id);
        Ok(Self { key_id, complete, under })
    }

    /// How many things are under other keys.
    fn others(&self) -> i64 {
        let others = self.under.iter().filter(|(key, _)| **key != self.key_id);
        others.map(|(_, under)| under.secrets + under.backups).sum()
    }

    /// What an operator has to know of what is under other keys.
    fn rest(&self) -> String {
        if self.complete {
            return String::new();
        }
        "\nNot everything is under the present key: keep the other one in TENANTRY_MASTER_KEY_PREVIOUS, and ask \
         for `tenantry key rotate` (again)."
            .to_owned()
    }
}
