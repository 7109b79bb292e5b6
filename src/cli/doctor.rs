//! `tenantry doctor`

use clap::Args;
use serde::Serialize;

use super::confirm::confirm;
use super::report::{count, warn};
use super::{Context, Error, Outcome, Result};
use crate::doctor::{Fix, Report, Severity, examine, put_right};
use crate::operations::Environment;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry doctor
  tenantry doctor --output-format json | jq '.findings[]'
  tenantry doctor --fix                  says what it will do, and asks
  tenantry doctor --fix --yes            for scripts

Without --fix it reads only. With it, what is ours and nobody's data is put right: builds, spares
and templates go that the catalog does not know and nobody is in, and what ended operations have
left (slots, subscriptions, roles of theirs); group roles come back, PUBLIC loses what it has in
tenants' and shared databases. Then it looks again.

It never drops a database that is marked as a tenant's or the role that a tenant logs in as, whether
or not the catalog knows that tenant, writes no stamp, and touches neither the bucket, nor failed operations, nor databases
that are yours. On a server with anything of a tenant that this catalog never had, which may be
another catalog's too, only what operations of this one have left goes. For other rights in
tenants' databases there is `tenantry tenant audit --fix`.

Exit status 1 when something needs somebody; warnings do not count. 4 when --fix is not confirmed.")]
pub(super) struct Options {
    /// Put right what can be without somebody looking at it
    #[arg(long)]
    fix: bool,
    /// Do not ask
    #[arg(long, short, requires = "fix")]
    yes: bool,
}

/// What was put right, what was not, and what is left.
#[derive(Serialize)]
struct Document {
    fixed: Vec<Fix>,
    failed: Vec<Failed>,
    #[serde(flatten)]
    left: Report,
}

/// What could not be put right.
#[derive(Serialize)]
struct Failed {
    #[serde(flatten)]
    fix: Fix,
    error: String,
    help: Option<String>,
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let environment = context.environment().await?;
    let report = examine(&environment).await?;
    if options.fix {
        return fix(report, options.yes, context, &environment).await;
    }
    context.print(&report, || describe(&report))?;
    Ok(outcome(&report))
}

async fn fix(
    report: Report,
    yes: bool,
    context: &Context,
    environment: &Environment,
) -> Result<Outcome> {
    let mut document = Document { fixed: Vec::new(), failed: Vec::new(), left: report };
    let fixes = std::mem::take(&mut document.left.fixes);
    if fixes.is_empty() {
        context.note("There is nothing that can be put right without somebody looking at it.");
    } else {
        for Fix { place, what, .. } in &fixes {
            warn(&format!("on {place}: {what}"));
        }
        confirm(
            &format!("this changes {} on the servers", count(fixes.len(), "thing")),
            "fix",
            yes,
        )?;
        for fix in fixes {
            match put_right(environment, &fix).await.map_err(Error::from) {
                Ok(()) => document.fixed.push(fix),
                Err(error) => {
                    let (help, error) = (error.help(), error.to_string());
                    document.failed.push(Failed { fix, error, help });
                }
            }
        }
        document.left = examine(environment).await?;
    }
    context.print(&document, || document.describe())?;
    Ok(if document.failed.is_empty() { outcome(&document.left) } else { Outcome::Failed })
}

fn outcome(report: &Report) -> Outcome {
    if report.is_healthy() { Outcome::Done } else { Outcome::Failed }
}

impl Document {
    fn describe(&self) -> String {
        let mut lines = Vec::new();
        for Fix { place, what, .. } in &self.fixed {
            lines.push(format!("done: {place}: {what}"));
        }
        for Failed { fix: Fix { place, what, .. }, error, help } in &self.failed {
            lines.push(format!("failed: {place}: {what}: {error}"));
            lines.extend(help.iter().map(|help| format!("  help: {help}")));
        }
        lines.push(describe(&self.left));
        lines.join("\n")
    }
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
    if !report.fixes.is_empty() {
        lines.push("`tenantry doctor --fix` would:".to_owned());
        lines.extend(report.fixes.iter().map(|fix| format!("  on {}: {}", fix.place, fix.what)));
    }
    lines.push(if report.findings.is_empty() { format!("{seen} All is well.") } else { seen });
    lines.join("\n")
}
