//! `tenantry migrate status`

use std::cmp::Ordering;
use std::fmt::Write as _;

use clap::Args;
use serde::Serialize;

use crate::api::document::rollout::RolloutDocument;
use crate::catalog::rollouts::{FleetStatus, ItemState, RolloutState};
use crate::catalog::tenants::TenantFilter;
use crate::cli::report::Table;
use crate::cli::{Context, Outcome, Result};
use crate::operations::Environment;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry migrate status
  tenantry migrate status --detail
  tenantry migrate status --output-format json | jq .behind")]
pub(in crate::cli) struct Options {
    /// List the tenants too, those that are behind first
    #[arg(long)]
    detail: bool,
}

#[derive(Serialize)]
struct Document {
    /// The newest file of the migrations directory.
    target_version: i64,
    current: i64,
    behind: i64,
    /// At the newest version, but with other repeatable files; not among the current ones.
    outdated: i64,
    /// At a version that the directory does not have: an older checkout is looking.
    ahead: i64,
    /// Failed in the newest rollout, and served at their old version.
    failed: i64,
    versions: Vec<Row>,
    /// The newest rollout.
    #[serde(skip_serializing_if = "Option::is_none")]
    rollout: Option<RolloutDocument>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenants: Option<Vec<TenantRow>>,
}

#[derive(Serialize)]
struct Row {
    version: i64,
    tenants: i64,
    status: &'static str,
}

#[derive(Serialize)]
struct TenantRow {
    tenant_slug: String,
    schema_version: i64,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let environment = context.environment().await?;
    let target = environment.migrations().target_version();
    let outdated = environment.count_outdated().await?;
    let mut document = Document::new(target, &environment.catalog.fleet_status().await?, outdated);
    if options.detail {
        document.tenants = Some(detail(&environment, &document).await?);
    }
    context.print(&document, || {
        let dir = context.settings.tenant_migrations_dir.display();
        format!("Newest migration in {dir}: version {target}\n\n{}", document.describe())
    })?;
    context.note(&document.next());
    Ok(Outcome::Done)
}

/// Every tenant, those that are behind first.
async fn detail(environment: &Environment, document: &Document) -> Result<Vec<TenantRow>> {
    let filter = TenantFilter { limit: i64::MAX, ..TenantFilter::default() };
    let tenants = environment.catalog.tenants(&filter).await?;
    let planned = match &document.rollout {
        Some(rollout) => environment.catalog.rollout_tenants(rollout.id).await?,
        None => Vec::new(),
    };
    let mut rows: Vec<TenantRow> = tenants
        .into_iter()
        .filter(|tenant| document.versions.iter().any(|row| row.version == tenant.schema_version))
        .map(|tenant| {
            let failed = planned
                .iter()
                .find(|one| one.tenant_id == tenant.id && one.state == ItemState::Failed);
            TenantRow {
                tenant_slug: tenant.slug.to_string(),
                schema_version: tenant.schema_version,
                status: match failed {
                    Some(_) => "failed",
                    None => status_of(tenant.schema_version, document.target_version),
                },
                error: failed.and_then(|one| Some(one.error.as_ref()?.message.clone())),
            }
        })
        .collect();
    rows.sort_by(|a, b| {
        (a.schema_version, &a.tenant_slug).cmp(&(b.schema_version, &b.tenant_slug))
    });
    Ok(rows)
}

impl Document {
    fn new(target: i64, fleet: &FleetStatus, outdated: i64) -> Self {
        let counted = &fleet.versions;
        let sum = |wanted: Ordering| -> i64 {
            counted
                .iter()
                .filter(|(version, _)| version.cmp(&target) == wanted)
                .map(|(_, number)| number)
                .sum()
        };
        let versions = counted.iter().map(|&(version, tenants)| {
            let status = status_of(version, target);
            Row { version, tenants, status }
        });
        let rollout =
            fleet.rollout.as_ref().map(|record| RolloutDocument::new(record, &fleet.counts));
        Self {
            target_version: target,
            current: sum(Ordering::Equal) - outdated,
            behind: sum(Ordering::Less),
            outdated,
            ahead: sum(Ordering::Greater),
            failed: rollout.as_ref().map_or(0, |rollout| rollout.failed),
            versions: versions.collect(),
            rollout,
            tenants: None,
        }
    }

    fn describe(&self) -> String {
        let mut table = Table::new(&["VERSION", "TENANTS", "STATUS"]);
        for row in &self.versions {
            table.row([row.version.to_string(), row.tenants.to_string(), row.status.to_owned()]);
        }
        let mut text = table.or("No tenants.");
        if self.outdated > 0 {
            _ = write!(text, "\nWith repeatable files that have changed since: {}", self.outdated);
        }
        if let Some(rollout) = &self.rollout {
            let wave = usize::try_from(rollout.wave).ok().and_then(|wave| rollout.waves.get(wave));
            let name = wave.map_or("", |wave| wave.name.as_str());
            _ = write!(
                text,
                "\n\nRollout {} to version {}: {}, wave {} of {} ({name}), {} of {} done, {} failed",
                rollout.id,
                rollout.target_version,
                rollout.status.as_str(),
                rollout.wave + 1,
                rollout.waves.len(),
                rollout.succeeded,
                rollout.tenants,
                rollout.failed,
            );
        }
        if let Some(tenants) = &self.tenants {
            let mut table = Table::new(&["TENANT", "VERSION", "STATUS", "ERROR"]);
            for tenant in tenants {
                table.row([
                    tenant.tenant_slug.clone(),
                    tenant.schema_version.to_string(),
                    tenant.status.to_owned(),
                    tenant.error.clone().unwrap_or_default(),
                ]);
            }
            text.push_str("\n\n");
            text.push_str(&table.or("No tenants."));
        }
        text
    }

    /// What to do next, in one line.
    fn next(&self) -> String {
        let state = self.rollout.as_ref().map(|rollout| (rollout.id, rollout.status));
        match state {
            Some((id, RolloutState::Running)) => {
                format!("\nNext: `tenantry migrate show {id}` tells how the rollout goes")
            }
            Some((id, RolloutState::Paused)) => {
                format!("\nNext: `tenantry migrate show {id}` tells why the rollout is paused")
            }
            Some((id, RolloutState::Failed)) if self.failed > 0 && self.behind > 0 => {
                format!("\nNext: `tenantry migrate show {id}` tells who failed and why")
            }
            _ if self.behind + self.outdated > 0 => format!(
                "\nNext: `tenantry migrate up` brings {} to version {}",
                self.behind + self.outdated,
                self.target_version
            ),
            _ if self.ahead > 0 => {
                "\nSome tenants are ahead of these files: look with a newer checkout".to_owned()
            }
            _ => String::new(),
        }
    }
}

fn status_of(version: i64, target: i64) -> &'static str {
    match version.cmp(&target) {
        Ordering::Less => "behind",
        Ordering::Equal => "current",
        Ordering::Greater => "ahead",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_behind_current_or_ahead() {
        let versions = vec![(1, 5), (2, 1), (3, 40), (4, 2)];
        let fleet = FleetStatus { versions, rollout: None, counts: Vec::new() };
        let document = Document::new(3, &fleet, 10);

        assert_eq!((document.behind, document.current, document.ahead), (6, 30, 2));
        assert_eq!(document.versions[1].status, "behind");
    }
}
