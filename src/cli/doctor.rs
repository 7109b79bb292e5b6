//! `tenantry doctor`

use clap::Args;

use super::report::count;
use super::{Context, Outcome, Result};
use crate::doctor::{Report, Severity, examine};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry doctor
  tenantry doctor --output-format json | jq '.findings[]'

Reads only. Exit status 1 when something needs somebody; warnings do not count.")]
pub(super) struct Options {}

pub(super) async fn run(_: Options, context: &Context) -> Result<Outcome> {
    let environment = context.environment().await?;
    let report = examine(&environment).await?;
    context.print(&report, || describe(&report))?;
    Ok(if report.is_healthy() { Outcome::Done } else { Outcome::Failed })
}

/// Findings have sentences in them, so they stand below each other rather than in columns.
fn describe(report: &Report) -> String {
    let seen = format!(
        "Looked at {}, {} and {}.",
        count(report.servers, "server"),
        count(report.tenants, "tenant"),
        count(report.backups, "backup")
    );
    let mut lines = Vec::new();
    for finding in &report.findings {
        let severity = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        lines.push(format!(
            "{severity}: {}: {}\n  help: {}",
            finding.place, finding.what, finding.remedy
        ));
    }
    lines.push(if report.findings.is_empty() { format!("{seen} All is well.") } else { seen });
    lines.join("\n")
}
