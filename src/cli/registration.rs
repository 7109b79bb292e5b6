//! `tenantry registration list`, `show`, `approve` and `reject`

use clap::{Args, Subcommand};
use uuid::Uuid;

use super::arguments::{id, reason};
use super::report::{Table, age, fields, moment};
use super::{Context, Outcome, Result};
use crate::api::document::RegistrationDocument;
use crate::catalog::registrations::RegistrationState;

/// The commands about registrations.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  tenantry registration list --state pending
  tenantry registration approve 0197f0c0-7a5e-7c3e-9f5e-0a1b2c3d4e5f")]
pub(super) enum Command {
    /// List the tenants that users have asked for
    List(ListOptions),
    /// Show one registration
    Show(ShowOptions),
    /// Let a registration become a tenant; its user becomes the owner
    Approve(ApproveOptions),
    /// Refuse a registration
    Reject(RejectOptions),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry registration list
  tenantry registration list --state pending --output-format json")]
pub(super) struct ListOptions {
    /// pending, approved or rejected
    #[arg(long, value_parser = parse_state)]
    state: Option<RegistrationState>,
    /// Before this registration
    #[arg(long, value_name = "ID", value_parser = id("`tenantry registration list` shows them"))]
    before: Option<Uuid>,
    /// At most so many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=500))]
    limit: i64,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry registration show 0197f0c0-7a5e-7c3e-9f5e-0a1b2c3d4e5f")]
pub(super) struct ShowOptions {
    /// The registration
    #[arg(value_parser = id("`tenantry registration list` shows them"))]
    id: Uuid,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry registration approve 0197f0c0-7a5e-7c3e-9f5e-0a1b2c3d4e5f

A worker of `tenantry serve` makes the tenant.")]
pub(super) struct ApproveOptions {
    /// The registration
    #[arg(value_parser = id("`tenantry registration list` shows them"))]
    id: Uuid,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry registration reject 0197f0c0-7a5e-7c3e-9f5e-0a1b2c3d4e5f --reason \"no contract yet\"")]
pub(super) struct RejectOptions {
    /// The registration
    id: Uuid,
    /// Why; the user sees it
    #[arg(long, value_parser = reason)]
    reason: String,
}

pub(super) async fn run(command: Command, context: &Context) -> Result<Outcome> {
    match command {
        Command::List(options) => list(options, context).await,
        Command::Show(options) => show(options, context).await,
        Command::Approve(options) => approve(options, context).await,
        Command::Reject(options) => reject(options, context).await,
    }
}

async fn list(options: ListOptions, context: &Context) -> Result<Outcome> {
    let catalog = context.catalog().await?;
    let found = catalog.registrations(options.state, options.before, options.limit).await?;
    let documents: Vec<RegistrationDocument> = found.into_iter().map(Into::into).collect();
    context.print(&documents, || {
        let mut table = Table::new(&["ID", "ORGANIZATION", "TENANT", "STATUS", "E-MAIL", "AGE"]);
        for document in &documents {
            table.row([
                document.id.to_string(),
                document.organization_name.clone(),
                document.tenant_slug.to_string(),
                document.status.to_owned(),
                document.admin_email.clone(),
                age(document.created_at),
            ]);
        }
        table.or("No registrations.")
    })?;
    Ok(Outcome::Done)
}

async fn show(options: ShowOptions, context: &Context) -> Result<Outcome> {
    let document =
        RegistrationDocument::from(context.catalog().await?.registration(options.id).await?);
    context.print(&document, || describe(&document))?;
    Ok(Outcome::Done)
}

async fn approve(options: ApproveOptions, context: &Context) -> Result<Outcome> {
    let catalog = context.catalog().await?;
    let decision = RegistrationState::Approved;
    let decided = catalog.decide_registration(options.id, decision, None, &context.actor).await?;
    let slug = &decided.slug;
    let what = format!("`{slug}` is approved; a worker of `tenantry serve` makes it.");
    let next = format!("See how far it is: tenantry registration show {}", options.id);
    context.print_change(&RegistrationDocument::from(decided.clone()), &what, &next)?;
    Ok(Outcome::Done)
}

async fn reject(options: RejectOptions, context: &Context) -> Result<Outcome> {
    let catalog = context.catalog().await?;
    let (decision, reason) = (RegistrationState::Rejected, Some(options.reason.as_str()));
    let decided = catalog.decide_registration(options.id, decision, reason, &context.actor).await?;
    let what = format!("The registration of `{}` is rejected.", decided.organization_name);
    context.print_change(&RegistrationDocument::from(decided), &what, "")?;
    Ok(Outcome::Done)
}

fn describe(registration: &RegistrationDocument) -> String {
    fields(&[
        ("Id", Some(registration.id.to_string())),
        ("Organization", Some(registration.organization_name.clone())),
        ("Tenant", Some(format!("{} ({})", registration.tenant_slug, registration.tenant_id))),
        ("Status", Some(registration.status.to_owned())),
        ("Reason", registration.reason.clone()),
        ("E-mail", Some(registration.admin_email.clone())),
        ("Use case", registration.use_case.clone()),
        ("Size", registration.organization_size.clone()),
        ("User", Some(format!("{} of {}", registration.subject, registration.issuer))),
        ("Decided by", registration.decided_by.clone()),
        ("Asked at", Some(moment(registration.created_at))),
    ])
}

fn parse_state(text: &str) -> std::result::Result<RegistrationState, String> {
    let unknown = || "a state is one of pending, approved, rejected".to_owned();
    RegistrationState::parse(text).ok_or_else(unknown)
}
