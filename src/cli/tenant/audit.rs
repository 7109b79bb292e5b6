//! `tenantry tenant audit`

use std::collections::HashSet;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use jiff::{Timestamp, ToSpan as _};
use serde::Serialize;
use uuid::Uuid;

use crate::audit::{Audit, AuditOptions, AuditReport, Audited, Finding, NEIGHBOURS_SEEN, mend};
use crate::catalog::audits::Acceptance;
use crate::cli::arguments::reason;
use crate::cli::audit::read_unchecked;
use crate::cli::confirm::confirm;
use crate::cli::drive::Driver;
use crate::cli::report::{Complaint, between, count, elapsed, warn};
use crate::cli::restore::parse_time;
use crate::cli::{Context, Error, Outcome, OutputFormat, Result};
use crate::operations::Environment;
use crate::tenant::TenantSlug;

/// A finding that is fixed by another password, and not by a statement.
const WEAK_PASSWORD: &str = "weak_password";

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  tenantry tenant audit
  tenantry tenant audit --tenant-slug acme-corp
  tenantry tenant audit --output-format json > audit.json     signed: `tenantry audit verify audit.json`
  tenantry tenant audit --baseline audit.json                 only what is new since
  tenantry tenant audit --fix                                 shows each statement, and asks
  tenantry tenant audit accept 64b31ee443e6f57f --reason 'replica of the warehouse' --until 90d

It logs in as every tenant, tries every other database of its server, and tries in its own what no tenant may do.
Exit status 1 when something is found that nobody has accepted, 4 when not everything could be tried."
)]
pub(in crate::cli) struct Options {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunOptions,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Take a finding on, for a reason and for a time
    Accept(AcceptOptions),
}

#[derive(Debug, Args)]
struct RunOptions {
    /// Only this tenant; may be given several times
    #[arg(long, value_name = "SLUG", value_parser = TenantSlug::parse)]
    tenant_slug: Vec<TenantSlug>,
    /// Show only what an earlier report does not have
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// Fix what can be fixed without harm: revoke, reset, comment, harden, another password
    #[arg(long)]
    fix: bool,
    /// Do not ask
    #[arg(long, short, requires = "fix")]
    yes: bool,
    /// Sessions on one server at a time
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    sessions: u16,
    /// At most so many attempts at other databases on one server; beyond, tenants take turns
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry tenant audit accept 64b31ee443e6f57f --reason 'replica of the warehouse' --until 90d
  tenantry tenant audit accept 64b31ee443e6f57f --reason 'until the move' --until 2027-01-31T00:00:00Z

Until then it is shown as accepted and counts no more. Accept it again to change that.")]
struct AcceptOptions {
    /// The finding
    #[arg(value_parser = parse_finding)]
    id: String,
    /// Why
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: String,
    /// RFC 3339, or days from now, such as 90d
    #[arg(long, value_name = "TIME", value_parser = parse_until)]
    until: Timestamp,
}

/// What is new since an earlier report, as JSON.
#[derive(Serialize)]
struct News<'a> {
    audit: Uuid,
    baseline: Uuid,
    complete: bool,
    findings: Vec<&'a Finding>,
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let Options { command, run } = options;
    if let Some(Command::Accept(accept)) = command {
        return take_on(accept, context).await;
    }
    let baseline = run.baseline.as_deref().map(read_unchecked).transpose()?;
    let environment = context.environment().await?;
    let mut audited = audit(&environment, &run, context).await?;
    if run.fix && fix(&environment, &audited.report, run.yes, context).await? {
        audited = audit(&environment, &run, context).await?;
    }
    show(&audited, baseline.as_ref(), context)
}

async fn audit(environment: &Environment, run: &RunOptions, context: &Context) -> Result<Audited> {
    let options = AuditOptions {
        tenants: run.tenant_slug.clone(),
        sessions: usize::from(run.sessions),
        pairs: usize::try_from(run.pairs).unwrap_or(usize::MAX),
    };
    let begun = Audit::begin(environment, options, &context.actor).await?;
    let begun = begun.ok_or_else(|| {
        Error::refused("an audit is under way", "wait for it to end: `tenantry audit list`")
    })?;
    Ok(begun.run().await?)
}

async fn take_on(options: AcceptOptions, context: &Context) -> Result<Outcome> {
    let catalog = context.catalog().await?;
    let AcceptOptions { id, reason, until } = options;
    let acceptance = Acceptance { finding: id, reason, accepted_by: context.actor.clone(), until };
    catalog.accept_finding(&acceptance).await?;
    let what = format!("Finding {} is accepted until {until:.0}.", acceptance.finding);
    context.print_change(&acceptance, &what, "The next audit shows it as accepted.")?;
    Ok(Outcome::Done)
}

/// Fixes what can be fixed without harm; returns whether there was anything.
async fn fix(
    environment: &Environment,
    report: &AuditReport,
    yes: bool,
    context: &Context,
) -> Result<bool> {
    let is_weak = |finding: &Finding| finding.kind == WEAK_PASSWORD;
    let is_open = |finding: &Finding| finding.kind == NEIGHBOURS_SEEN;
    let can_mend =
        |finding: &&Finding| finding.fix.is_some() || is_weak(finding) || is_open(finding);
    let mendable: Vec<&Finding> = report.open().filter(can_mend).collect();
    if mendable.is_empty() {
        context.note("Nothing was found that can be fixed without somebody looking at it.");
        return Ok(false);
    }
    for finding in &mendable {
        let place = finding.database.as_deref().unwrap_or(&finding.place);
        match &finding.fix {
            Some(statement) => warn(&format!("on {place}: {statement}")),
            None if is_open(finding) => {
                warn(&format!("on {place}: hide the shared catalogs from tenants"));
            }
            None => warn(&format!("on {place}: another password for {}", finding.subject)),
        }
    }
    let what = format!("this runs {} on the servers", count(mendable.len(), "statement"));
    confirm(&what, "fix", yes)?;
    for finding in mendable {
        if is_weak(finding) {
            rotate(environment, &finding.subject, context).await?;
        } else if let Err(error) = mend(environment, finding).await {
            let failure = error.to_failure("fix");
            let complaint = Complaint {
                error: format!("finding {} stays: {}", finding.id, failure.message),
                detail: failure.remedy,
                code: None,
            };
            complaint.print(context.output);
        }
    }
    Ok(true)
}

async fn rotate(environment: &Environment, role: &str, context: &Context) -> Result<()> {
    let tenants = environment.catalog.living_tenants(None).await?;
    let Some(tenant) = tenants.iter().find(|tenant| tenant.role.as_str() == role) else {
        return Ok(());
    };
    let by = context.requester();
    let operation = environment.rotate_password(&tenant.slug, by).await?;
    Driver { context, environment }.succeed(operation.id, &tenant.slug).await?;
    Ok(())
}

/// Prints the report, or what of it is new.
fn show(audited: &Audited, baseline: Option<&AuditReport>, context: &Context) -> Result<Outcome> {
    let report = &audited.report;
    let known: HashSet<&str> = baseline
        .iter()
        .flat_map(|report| &report.findings)
        .map(|finding| finding.id.as_str())
        .collect();
    let news = |finding: &&Finding| !known.contains(finding.id.as_str());
    let findings: Vec<&Finding> = report.findings.iter().filter(news).collect();
    let open = findings.iter().filter(|finding| finding.accepted.is_none()).count();
    match baseline {
        Some(baseline) if context.output == OutputFormat::Json => {
            let (audit, baseline, complete) = (report.audit, baseline.audit, report.complete);
            let news = News { audit, baseline, complete, findings };
            context.print(&news, String::new)?;
        }
        _ => context.print(&audited.document, || describe(report, &findings))?,
    }
    Ok(match (open, report.complete) {
        (0, true) => Outcome::Done,
        (0, false) => Outcome::Incomplete,
        _ => Outcome::Failed,
    })
}

/// Findings have sentences and statements in them, so they stand below each other rather than in columns.
fn describe(report: &AuditReport, findings: &[&Finding]) -> String {
    let mut lines = Vec::new();
    for finding in findings {
        let Finding { id, kind, subject, place, evidence, remedy, .. } = finding;
        let severity = finding.severity.as_str();
        lines.push(format!("{severity}: {kind}: {subject} ({place}): {evidence}  [{id}]"));
        if let Some(sql) = &finding.sql {
            lines.push(format!("  see:  {}", sql.split_whitespace().collect::<Vec<_>>().join(" ")));
        }
        match &finding.accepted {
            None => lines.push(format!("  help: {remedy}")),
            Some(Acceptance { reason, accepted_by, until, .. }) => {
                lines.push(format!("  accepted by {accepted_by} until {until:.0}: {reason}"));
            }
        }
    }
    lines.extend(report.untried.iter().map(|what| format!("not tried: {what}")));
    let tried = &report.tried;
    let counted = |number: u64, thing| count(usize::try_from(number).unwrap_or(usize::MAX), thing);
    lines.push(format!(
        "Attacked as {} of {} on {} in {}: {} of {} tried and {} refused, {} tried and {} refused; looked into {}.",
        tried.logins,
        counted(tried.tenants, "tenant"),
        counted(tried.servers, "server"),
        elapsed(between(report.started_at, report.finished_at)),
        tried.pairs_tried,
        counted(tried.pairs, "pair"),
        tried.pairs_refused,
        counted(tried.acts, "act"),
        tried.acts_refused,
        counted(tried.databases, "database"),
    ));
    if findings.is_empty() && report.complete {
        lines.push("No findings.".to_owned());
    }
    lines.join("\n")
}

fn parse_finding(text: &str) -> std::result::Result<String, String> {
    let fits = text.len() == 16 && text.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
    if fits {
        Ok(text.to_owned())
    } else {
        Err("it has 16 hexadecimal digits, as audits print it".to_owned())
    }
}

/// A time to come, or how many days from now.
fn parse_until(text: &str) -> std::result::Result<Timestamp, String> {
    let days = text.strip_suffix('d').and_then(|number| number.parse::<u16>().ok());
    let until = match days {
        Some(days) => Timestamp::now() + (i64::from(days) * 24).hours(),
        None => parse_time(text).map_err(|wrong| format!("{wrong}, or `90d` from now"))?,
    };
    if until <= Timestamp::now() {
        return Err("it is over already".to_owned());
    }
    Ok(until)
}
