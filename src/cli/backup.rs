//! `tenantry backup …`

use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use uuid::Uuid;

use super::arguments::id;
use super::drive::{self, Driver};
use super::migrate::{describe_failures, parse_concurrency};
use super::report::{Table, age, between, count, elapsed, fields, moment, size};
use super::{Context, Error, Outcome, Result};
use crate::api::document::{BackupDocument, BatchDocument};
use crate::operations::Environment;
use crate::tenant::TenantSlug;

mod drill;
mod import;
mod key;
mod prune;
mod verify;

/// The commands about backups.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  tenantry backup run --all
  tenantry backup list acme-corp
  tenantry backup drill --sample 5
  tenantry backup prune --all --dry-run")]
pub(super) enum Command {
    /// Back tenants up to the bucket
    Run(RunOptions),
    /// List backups, newest first
    List(ListOptions),
    /// Show one backup
    Show(ShowOptions),
    /// Make a new tenant of a pg_dump that you have
    Import(import::Options),
    /// The keys to which tenants' backups are encrypted
    #[command(subcommand)]
    Key(key::Command),
    /// Read backups whole, decrypt them and compare them with their manifests
    Verify(verify::Options),
    /// Restore backups to a scratch database, compare what comes of them, and drop it
    Drill(drill::Options),
    /// Remove backups that nobody asked to keep
    Prune(prune::PruneOptions),
    /// Keep every backup of a tenant, whatever its retention says
    Hold(prune::HoldOptions),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry backup run acme-corp
  tenantry backup run acme-corp globex --concurrency 2
  tenantry backup run --all

Exit status 3 when some tenants failed, 1 when all did.")]
pub(super) struct RunOptions {
    /// The tenants
    #[arg(value_name = "SLUG", value_parser = TenantSlug::parse, required_unless_present = "all")]
    slugs: Vec<TenantSlug>,
    /// Every active and suspended tenant
    #[arg(long, conflicts_with = "slugs")]
    all: bool,
    /// How many tenants at a time [default: backup_concurrency]
    #[arg(long, value_name = "N", value_parser = parse_concurrency)]
    concurrency: Option<usize>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry backup list
  tenantry backup list acme-corp --limit 3")]
pub(super) struct ListOptions {
    /// Only this tenant's
    #[arg(value_parser = TenantSlug::parse)]
    slug: Option<TenantSlug>,
    /// At most this many
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    limit: i64,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry backup show 0197f0c0-7a5e-7c3e-9f5e-0a1b2c3d4e5f")]
pub(super) struct ShowOptions {
    /// The backup
    #[arg(value_parser = id("`tenantry backup list` shows them"))]
    id: Uuid,
}

pub(super) async fn run(command: Command, context: &Context) -> Result<Outcome> {
    match command {
        Command::Run(options) => back_up(options, context).await,
        Command::List(options) => list(options, context).await,
        Command::Show(options) => show(options, context).await,
        Command::Import(options) => import::run(options, context).await,
        Command::Key(command) => key::run(command, context).await,
        Command::Verify(options) => verify::run(options, context).await,
        Command::Drill(options) => drill::run(options, context).await,
        Command::Prune(options) => prune::prune(options, context).await,
        Command::Hold(options) => prune::hold(options, context).await,
    }
}

async fn back_up(options: RunOptions, context: &Context) -> Result<Outcome> {
    let concurrency = options.concurrency.unwrap_or(context.settings.backup_concurrency);
    let context = &context.with_copies(concurrency);
    let environment = context.environment().await?;
    need_store(&environment)?;
    if let [slug] = options.slugs.as_slice() {
        return back_up_one(slug, context, &environment).await;
    }
    let began = Instant::now();
    let batch = environment.back_up_fleet(&options.slugs, &context.actor).await?;
    let driver = Driver { context, environment: &environment };
    let operations = driver.settle_batch(batch, context.settings.worker_concurrency).await?;
    let document = BatchDocument::new(batch, &operations);
    context.print(&document, || {
        if operations.is_empty() {
            return "No tenants to back up.".to_owned();
        }
        let tenants = count(document.succeeded, "tenant");
        let head = format!("{tenants} backed up ({}).", elapsed(began.elapsed()));
        [head, describe_failures(batch, &operations)].join("")
    })?;
    Ok(drive::outcome(&operations))
}

async fn back_up_one(
    slug: &TenantSlug,
    context: &Context,
    environment: &Environment,
) -> Result<Outcome> {
    let operation = environment.back_up(slug, context.requester()).await?;
    let began = Instant::now();
    let done = Driver { context, environment }.succeed(operation.id, slug).await?;
    // A backup has the id of the operation that made it.
    let backup = environment.catalog.backup(done.id).await?;
    let what = format!(
        "Tenant `{slug}` is backed up: {}, {} stored ({}).",
        backup.id,
        size(backup.dump_bytes),
        elapsed(began.elapsed())
    );
    let next = format!(
        "Next: `tenantry restore {slug} --backup {} --in-place`, when it is needed",
        backup.id
    );
    context.print_change(&BackupDocument::from(backup), &what, &next)?;
    Ok(Outcome::Done)
}

async fn list(options: ListOptions, context: &Context) -> Result<Outcome> {
    let environment = context.environment().await?;
    let tenant = match &options.slug {
        Some(slug) => Some(environment.owner_of_backups(slug).await?.id),
        None => None,
    };
    let limit = options.limit;
    let mut backups = environment.catalog.backups(tenant, limit.saturating_add(1)).await?;
    let shown = usize::try_from(limit).unwrap_or(usize::MAX);
    let was_cut = backups.len() > shown;
    backups.truncate(shown);
    let documents: Vec<BackupDocument> = backups.into_iter().map(BackupDocument::from).collect();
    context.print(&documents, || {
        let mut table = Table::new(&[
            "ID",
            "TENANT",
            "OF",
            "AGE",
            "UNCHANGED",
            "SIZE",
            "SCHEMA",
            "POSTGRES",
            "PROOF",
        ]);
        for backup in &documents {
            table.row([
                backup.id.to_string(),
                backup.tenant_slug.to_string(),
                moment(backup.started_at),
                age(backup.started_at),
                backup.confirmed_at.map_or_else(|| "-".to_owned(), |at| format!("{} ago", age(at))),
                backup.erased_at.map_or_else(|| size(backup.dump_bytes), |_| "erased".to_owned()),
                backup.schema_version.to_string(),
                plain_version(&backup.server_version),
                describe_proof(backup),
            ]);
        }
        table.or("No backups. `tenantry backup run --all` takes some.")
    })?;
    if was_cut {
        context.note(&format!(
            "The newest {limit} are shown, and there are more: --limit N shows them"
        ));
    }
    Ok(Outcome::Done)
}

/// The version of a server without what its packager adds to it.
fn plain_version(version: &str) -> String {
    version.split_whitespace().next().unwrap_or_default().to_owned()
}

async fn show(options: ShowOptions, context: &Context) -> Result<Outcome> {
    let backup = BackupDocument::from(context.catalog().await?.backup(options.id).await?);
    context.print(&backup, || {
        fields(&[
            ("Id", Some(backup.id.to_string())),
            ("Tenant", Some(format!("{} ({})", backup.tenant_slug, backup.tenant_id))),
            ("Data of", Some(moment(backup.started_at))),
            ("Unchanged", backup.confirmed_at.map(|at| format!("at {}", moment(at)))),
            ("Taken in", Some(elapsed(between(backup.started_at, backup.finished_at)))),
            ("Erased", backup.erased_at.map(moment)),
            ("Stored", Some(size(backup.dump_bytes))),
            ("Dump", Some(size(backup.plain_bytes))),
            ("Schema", Some(format!("version {}", backup.schema_version))),
            ("PostgreSQL", Some(backup.server_version.clone())),
            ("Verified", backup.verified_at.map(moment)),
            ("Proven", backup.proven_at.map(moment)),
            (
                "Restored in",
                backup.proven_seconds.map(|secs| elapsed(Duration::from_secs_f64(secs))),
            ),
            ("Problem", backup.problem.clone()),
        ])
    })?;
    Ok(Outcome::Done)
}

/// What is known of a backup, in a word or two.
fn describe_proof(backup: &BackupDocument) -> String {
    match backup {
        BackupDocument { problem: Some(_), .. } => "bad".to_owned(),
        BackupDocument { proven_at: Some(_), proven_seconds: Some(secs), .. } => {
            format!("restored in {}", elapsed(Duration::from_secs_f64(*secs)))
        }
        BackupDocument { verified_at: Some(_), .. } => "verified".to_owned(),
        _ => "-".to_owned(),
    }
}

/// Refuses before anything is queued that could only fail.
pub(super) fn need_store(environment: &Environment) -> Result<()> {
    if environment.store.is_some() {
        return Ok(());
    }
    Err(Error::usage(
        "no bucket for backups is set",
        "set TENANTRY_S3_BUCKET, and TENANTRY_S3_ENDPOINT for a store other than AWS",
    ))
}
