//! `tenantry migrate verify`

use std::fmt::Write as _;
use std::pin::pin;
use std::time::Instant;

use clap::Args;
use futures_util::StreamExt as _;
use serde::Serialize;
use tenantry_provisioning::Difference;

use super::parse_concurrency;
use crate::api::verification::VerifiedDocument;
use crate::cli::progress::Progress;
use crate::cli::report::{Table, count, elapsed};
use crate::cli::{Context, Outcome, Result};
use crate::operations::verify::{DriftState, Verified};
use crate::tenant::TenantSlug;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry migrate verify                               every tenant's schema against the files
  tenantry migrate verify --tenant acme-corp            this one's
  tenantry migrate verify --server eu-1 --concurrency 8
  tenantry migrate verify --output-format json | jq '.tenants[] | select(.status == \"drifted\")'

Changes no tenant. Lines behind a - should be there, lines behind a + are there instead. A tenant that is
behind is compared with the files up to its version. Exit status 4 when a schema has drifted, 3 when some
databases could not be looked at.")]
pub(in crate::cli) struct Options {
    /// Only this tenant; may be repeated
    #[arg(long = "tenant", value_name = "SLUG", value_parser = TenantSlug::parse)]
    tenants: Vec<TenantSlug>,
    /// Only the tenants of this server
    #[arg(long, value_name = "NAME")]
    server: Option<String>,
    /// How many databases at a time
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = parse_concurrency)]
    concurrency: usize,
}

#[derive(Serialize)]
struct Document {
    target_version: i64,
    clean: usize,
    behind: usize,
    drifted: usize,
    unverified: usize,
    tenants: Vec<VerifiedDocument>,
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let environment = context.environment().await?;
    let tenants = environment.to_verify(&options.tenants, options.server.as_deref()).await?;
    let (began, all) = (Instant::now(), tenants.len());
    let mut progress = Progress::new(context);
    let mut found = Vec::with_capacity(all);
    let mut looks = pin!(environment.verify(tenants, options.concurrency));
    while let Some(verified) = looks.next().await {
        found.push(verified);
        let drifted = found.iter().filter(|one| one.state == DriftState::Drifted).count();
        progress.count(found.len(), all, &format!("verified, {drifted} drifted"));
    }
    drop(progress);
    found.sort_by(|one, other| one.slug.as_str().cmp(other.slug.as_str()));

    let target = environment.migrations().target_version();
    let text = describe(&found, target);
    let document = Document::new(found, target);
    context
        .print(&document, || format!("{text}{}", document.summary(&elapsed(began.elapsed()))))?;
    if document.drifted > 0 {
        context.note(
            "\nNext: put back what a - shows and take away what a + shows, or write it into a migration \
             file; then verify again",
        );
    }
    Ok(document.outcome())
}

impl Document {
    fn new(found: Vec<Verified>, target_version: i64) -> Self {
        let tenants: Vec<_> = found.into_iter().map(VerifiedDocument::new).collect();
        let in_state = |state| tenants.iter().filter(|tenant| tenant.is(state)).count();
        Self {
            target_version,
            clean: in_state(DriftState::Clean),
            behind: in_state(DriftState::Behind),
            drifted: in_state(DriftState::Drifted),
            unverified: in_state(DriftState::Unverified),
            tenants,
        }
    }

    fn summary(&self, time: &str) -> String {
        let all = count(self.tenants.len(), "tenant");
        let Self { clean, behind, drifted, unverified, .. } = self;
        format!(
            "Verified {all} ({time}): {clean} clean, {behind} behind, {drifted} drifted, {unverified} unverified."
        )
    }

    fn outcome(&self) -> Outcome {
        match (self.drifted, self.unverified) {
            (0, 0) => Outcome::Done,
            (0, all) if all == self.tenants.len() => Outcome::Failed,
            (0, _) => Outcome::PartlyDone,
            _ => Outcome::Drifted,
        }
    }
}

/// The tenants that are not as they should be, and then what each of them has otherwise.
fn describe(found: &[Verified], target: i64) -> String {
    let mut table = Table::new(&["TENANT", "SERVER", "STATUS", "VERSION", "DIFFERENCES"]);
    let mut details = String::new();
    let mut listed = false;
    for one in found.iter().filter(|one| one.state != DriftState::Clean) {
        listed = true;
        table.row([
            one.slug.to_string(),
            one.server.clone(),
            one.state.as_str().to_owned(),
            format!("{} of {target}", one.version),
            one.differences.len().to_string(),
        ]);
        if one.differences.is_empty() && one.problem.is_none() {
            continue;
        }
        _ = writeln!(details, "Tenant {}, version {}:", one.slug, one.version);
        if let Some(problem) = &one.problem {
            _ = writeln!(details, "  {}", plain(&problem.message));
            if let Some(remedy) = &problem.remedy {
                _ = writeln!(details, "  help: {remedy}");
            }
        }
        details.push_str(&list(&one.differences));
        details.push('\n');
    }
    if listed { format!("{}\n\n{details}", table.or("")) } else { String::new() }
}

/// Differences, each below what it is about.
pub(super) fn list(differences: &[Difference]) -> String {
    let mut text = String::new();
    for difference in differences {
        _ = writeln!(text, "  {}", plain(&difference.object));
        for line in difference.to_string().lines() {
            _ = writeln!(text, "    {}", plain(line));
        }
    }
    text
}

/// Names are anybody's, and a terminal does what control characters say.
fn plain(text: &str) -> String {
    text.replace(|c: char| c.is_control() && c != '\t', " ")
}
