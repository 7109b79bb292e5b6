//! `tenantry operation …`

use clap::{Args, Subcommand};
use uuid::Uuid;

use super::arguments::id;
use super::confirm::confirm;
use super::drive::Driver;
use super::report::{Table, age, between, elapsed, fields, moment};
use super::tenant::Wait;
use super::{Context, Error, Outcome, Result};
use crate::api::document::OperationDocument;
use crate::catalog::Catalog;
use crate::catalog::operations::{OperationFilter, OperationRecord, OperationState};
use crate::tenant::TenantSlug;

mod watch;

/// The commands about operations.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  tenantry operation list --status failed
  tenantry operation show 0197f0c0-7a5e-7c3e-9f5e-0a1b2c3d4e5f
  tenantry operation retry 0197f0c0-7a5e-7c3e-9f5e-0a1b2c3d4e5f")]
pub(super) enum Command {
    /// List operations, newest first
    List(ListOptions),
    /// Show one operation
    Show(ShowOptions),
    /// Go on with a failed operation, at the step that failed
    Retry(RetryOptions),
    /// Give a failed or queued operation up, and undo what it did
    Cancel(CancelOptions),
    /// Follow an operation until it has ended
    Watch(watch::Options),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry operation list --status failed
  tenantry operation list --tenant-slug acme-corp")]
pub(super) struct ListOptions {
    /// Only of this tenant
    #[arg(long, value_name = "SLUG", value_parser = TenantSlug::parse)]
    tenant_slug: Option<TenantSlug>,
    /// Only in this state
    #[arg(long, value_parser = parse_state)]
    status: Option<OperationState>,
    /// Only of this fleet run
    #[arg(long, value_name = "ID")]
    batch: Option<Uuid>,
    /// Only older than this one
    #[arg(long, value_name = "ID")]
    before: Option<Uuid>,
    /// At most this many
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    limit: i64,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry operation show 0197f0c0-7a5e-7c3e-9f5e-0a1b2c3d4e5f")]
pub(super) struct ShowOptions {
    /// The operation
    #[arg(value_parser = id("`tenantry operation list` shows them"))]
    id: Uuid,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry operation retry 0197f0c0-7a5e-7c3e-9f5e-0a1b2c3d4e5f

Also drives an operation from here that waits for a worker.")]
pub(super) struct RetryOptions {
    /// The operation
    #[arg(value_parser = id("`tenantry operation list` shows them"))]
    id: Uuid,
    #[command(flatten)]
    wait: Wait,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry operation cancel 0197f0c0-7a5e-7c3e-9f5e-0a1b2c3d4e5f          asks for the tenant's slug
  tenantry operation cancel 0197f0c0-7a5e-7c3e-9f5e-0a1b2c3d4e5f --yes    for scripts

Past its point of no return an operation can only go on: `tenantry operation retry`.")]
pub(super) struct CancelOptions {
    /// The operation
    #[arg(value_parser = id("`tenantry operation list` shows them"))]
    id: Uuid,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    wait: Wait,
}

pub(super) async fn run(command: Command, context: &Context) -> Result<Outcome> {
    match command {
        Command::List(options) => list(options, context).await,
        Command::Show(options) => show(options, context).await,
        Command::Retry(options) => retry(options, context).await,
        Command::Cancel(options) => cancel(options, context).await,
        Command::Watch(options) => watch::run(options, context).await,
    }
}

async fn list(options: ListOptions, context: &Context) -> Result<Outcome> {
    let filter = OperationFilter {
        tenant: options.tenant_slug,
        state: options.status,
        batch: options.batch,
        before: options.before,
        limit: options.limit,
    };
    let operations = context.catalog().await?.operations(&filter).await?;
    let documents = OperationDocument::list(&operations);
    context.print(&documents, || {
        let mut table = Table::new(&["ID", "TENANT", "KIND", "STATUS", "STEP", "TRIES", "AGE"]);
        for operation in &documents {
            table.row([
                operation.id.to_string(),
                operation.tenant_slug.to_string(),
                operation.kind.clone(),
                operation.status.as_str().to_owned(),
                operation.step.unwrap_or_default().to_owned(),
                operation.attempts.to_string(),
                age(operation.created_at),
            ]);
        }
        table.or("No operations.")
    })?;
    Ok(Outcome::Done)
}

async fn show(options: ShowOptions, context: &Context) -> Result<Outcome> {
    let (record, slug) = find(&context.catalog().await?, options.id).await?;
    let document = OperationDocument::new(&record, &slug);
    context.print(&document, || describe(&document))?;
    Ok(Outcome::Done)
}

async fn retry(options: RetryOptions, context: &Context) -> Result<Outcome> {
    let environment = context.environment().await?;
    // What a worker left that has died is nobody's: it may be taken up.
    environment.catalog.release_all_abandoned().await?;
    let (_, slug) = find(&environment.catalog, options.id).await?;
    let record = environment.catalog.retry(options.id).await?;
    let driver = Driver { context, environment: &environment };
    if !options.wait.wait {
        return driver.leave(&record, &slug);
    }
    let record = driver.settle(record.id, &slug).await?;
    if record.state == OperationState::Failed {
        return Err(Error::of_operation(&record, &slug));
    }
    let what = format!("{} of `{slug}` has {}.", record.kind, record.state.as_str());
    context.print_change(&OperationDocument::new(&record, &slug), &what, "")?;
    Ok(Outcome::Done)
}

async fn cancel(options: CancelOptions, context: &Context) -> Result<Outcome> {
    let environment = context.environment().await?;
    environment.catalog.release_all_abandoned().await?;
    let (record, slug) = find(&environment.catalog, options.id).await?;
    let what = format!("cancelling {} of `{slug}` undoes what it has made", record.kind);
    confirm(&what, slug.as_str(), options.yes)?;
    let record = environment.cancel(options.id).await?;
    let driver = Driver { context, environment: &environment };
    if !options.wait.wait {
        return driver.leave(&record, &slug);
    }
    let record = driver.settle(record.id, &slug).await?;
    if record.state != OperationState::Cancelled {
        return Err(Error::of_operation(&record, &slug));
    }
    let what = format!("{} of `{slug}` is given up, and what it did is undone.", record.kind);
    context.print_change(&OperationDocument::new(&record, &slug), &what, "")?;
    Ok(Outcome::Done)
}

/// An operation with its tenant's slug.
async fn find(catalog: &Catalog, id: Uuid) -> Result<(OperationRecord, TenantSlug)> {
    let record = catalog.operation(id).await?;
    let slug = catalog.tenant_by_id(record.tenant_id).await?.slug;
    Ok((record, slug))
}

fn describe(operation: &OperationDocument) -> String {
    let took = operation
        .started_at
        .zip(operation.finished_at)
        .map(|(from, to)| elapsed(between(from, to)));
    let error = operation.error.as_ref();
    let input = (operation.input != serde_json::json!({})).then(|| operation.input.to_string());
    fields(&[
        ("Id", Some(operation.id.to_string())),
        ("Tenant", Some(format!("{} ({})", operation.tenant_slug, operation.tenant_id))),
        ("Kind", Some(operation.kind.clone())),
        ("Input", input),
        ("Status", Some(operation.status.as_str().to_owned())),
        ("Undoing", operation.abandoning.then(|| "yes".to_owned())),
        ("Step", operation.step.map(str::to_owned)),
        ("Copied by", operation.copied.as_ref().map(ToString::to_string)),
        ("Tries", Some(operation.attempts.to_string())),
        ("Error", error.map(|error| format!("{}: {}", error.step, error.message))),
        ("Help", error.and_then(|error| error.remedy.clone())),
        ("Batch", operation.batch_id.map(|id| id.to_string())),
        ("Asked by", Some(operation.requested_by.clone())),
        ("Worker", operation.leased_by.clone()),
        ("Asked at", Some(moment(operation.created_at))),
        ("Started", operation.started_at.map(moment)),
        ("Ended", operation.finished_at.map(moment)),
        ("Took", took),
    ])
}

fn parse_state(text: &str) -> std::result::Result<OperationState, String> {
    OperationState::parse(text).ok_or_else(|| {
        "a status is one of queued, running, succeeded, failed, cancelled".to_owned()
    })
}
