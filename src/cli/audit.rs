//! `tenantry audit …`: reports of audits of isolation.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::Value;
use uuid::Uuid;

use super::arguments::{id, public_key};
use super::erasure::refused;
use super::report::{Table, fields, moment};
use super::{Context, Error, Outcome, Result, report};
use crate::audit::report::{AuditReport, verify as verify_report};

/// The commands about reports.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  tenantry audit list
  tenantry audit show 0197f0c0-7a5e-7c3e-9f5e-0a1b2c3d4e5f > audit.json
  tenantry audit verify audit.json --public-key 3b6a27bc…")]
pub(super) enum Command {
    /// List audits, newest first
    List(ListOptions),
    /// Print the signed report of one audit, to be handed out
    Show(ShowOptions),
    /// Check a report; needs nothing but the file and the public key
    Verify(VerifyOptions),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry audit list")]
pub(super) struct ListOptions {
    /// At most so many
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(i64).range(1..=100_000))]
    limit: i64,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry audit show 0197f0c0-7a5e-7c3e-9f5e-0a1b2c3d4e5f > audit.json")]
pub(super) struct ShowOptions {
    /// The audit
    #[arg(value_parser = id("`tenantry audit list` shows them"))]
    id: Uuid,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry audit verify audit.json --public-key 3b6a27bc…

Exit status 4 when it is not what the holder of the key signed.")]
pub(super) struct VerifyOptions {
    /// The report, as `tenantry tenant audit --output-format json` or `tenantry audit show` prints it
    file: PathBuf,
    /// What `tenantry erasure public-key` prints, from a source that you trust
    #[arg(long, value_name = "KEY", value_parser = public_key)]
    public_key: String,
}

pub(super) async fn run(command: Command, context: &Context) -> Result<Outcome> {
    match command {
        Command::List(options) => list(options, context).await,
        Command::Show(options) => show(options, context).await,
        Command::Verify(options) => verify(&options, context),
    }
}

async fn list(options: ListOptions, context: &Context) -> Result<Outcome> {
    let audits = context.catalog().await?.audits(options.limit).await?;
    context.print(&audits, || {
        let mut table =
            Table::new(&["ID", "AT", "OF", "COMPLETE", "CRITICAL", "HIGH", "MEDIUM", "LOW", "BY"]);
        for audit in &audits {
            let found = audit.findings;
            table.row([
                audit.id.to_string(),
                moment(audit.finished_at),
                if audit.whole { "the fleet" } else { "some tenants" }.to_owned(),
                if audit.complete { "yes" } else { "no" }.to_owned(),
                found.critical.to_string(),
                found.high.to_string(),
                found.medium.to_string(),
                found.low.to_string(),
                audit.requested_by.clone(),
            ]);
        }
        table.or("No audits. `tenantry tenant audit` makes one.")
    })?;
    Ok(Outcome::Done)
}

/// Always JSON: it is a document for others.
async fn show(options: ShowOptions, context: &Context) -> Result<Outcome> {
    report::print_json(&context.catalog().await?.audit_report(options.id).await?)?;
    Ok(Outcome::Done)
}

fn verify(options: &VerifyOptions, context: &Context) -> Result<Outcome> {
    let document = read(&options.file)?;
    let report = verify_report(&document, &options.public_key).map_err(|error| refused(&error))?;
    context.print(&document, || {
        let found = format!(
            "{}, {} of them accepted",
            report.findings.len(),
            report.findings.len() - report.open().count()
        );
        fields(&[
            ("Good", Some("signed with this key, and unaltered".to_owned())),
            ("Audit", Some(report.audit.to_string())),
            ("Ended", Some(moment(report.finished_at))),
            ("Complete", Some(if report.complete { "yes" } else { "no" }.to_owned())),
            ("Findings", Some(found)),
        ])
    })?;
    Ok(Outcome::Done)
}

/// Reads a report from a file, as it stands there.
pub(super) fn read(file: &Path) -> Result<Value> {
    let name = file.display();
    let bytes =
        fs::read(file).map_err(|error| Error::failed(format!("{name} cannot be read"), error))?;
    serde_json::from_slice(&bytes).map_err(|error| {
        Error::refused(format!("{name} is no report: {error}"), "give the JSON of an audit")
    })
}

/// Reads a report from a file, without asking who signed it.
pub(super) fn read_unchecked(file: &Path) -> Result<AuditReport> {
    AuditReport::read(&read(file)?).map_err(|error| {
        Error::refused(
            format!("{} is no report: {error}", file.display()),
            "give the JSON of an audit, by this version or an older one",
        )
    })
}
