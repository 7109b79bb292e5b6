//! `tenantry migrate status`

use std::fmt::Write as _;

use clap::Args;

use super::show::describe_counts;
use crate::api::document::fleet::FleetDocument;
use crate::catalog::catching_up::CatchUpMode;
use crate::catalog::rollouts::RolloutState;
use crate::cli::report::{Table, age};
use crate::cli::tenant::list::track;
use crate::cli::{Context, Outcome, Result};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry migrate status
  tenantry migrate status --detail
  tenantry migrate status --output-format json | jq .behind

The catalog answers, and no tenant's database is asked: what has drifted is what `tenantry migrate verify`
found when it was last run.")]
pub(in crate::cli) struct Options {
    /// List the tenants too, those that are behind first
    #[arg(long)]
    detail: bool,
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let environment = context.environment().await?;
    let status = environment.fleet_status().await?;
    let mut tenants = None;
    if options.detail {
        tenants = Some(environment.tenant_standings(&status).await?);
    }
    let document = FleetDocument::new(&status, tenants);
    context.print(&document, || {
        let dir = context.settings.tenant_migrations_dir.display();
        let newest = environment.migrations().target_version();
        format!("Newest migration in {dir}: version {newest}\n\n{}", describe(&document))
    })?;
    context.note(&next(&document));
    Ok(Outcome::Done)
}

fn describe(fleet: &FleetDocument) -> String {
    let mut table = Table::new(&["VERSION", "TENANTS", "STATUS", "DRIFTED"]);
    for row in &fleet.versions {
        table.row([
            row.version.to_string(),
            row.tenants.to_string(),
            row.status.to_owned(),
            row.drifted.to_string(),
        ]);
    }
    let mut text = table.or("No tenants.");
    text.push_str(&describe_tracks(fleet));
    if let Some(freeze) = &fleet.freeze {
        let (by, since) = (&freeze.frozen_by, age(freeze.frozen_at));
        _ = write!(text, "\nFrozen at version {} by {by}, {since} ago", freeze.version);
    }
    if let Some(how) = &fleet.catching_up {
        let when = match how.mode {
            CatchUpMode::OnDemand => "when they are next used",
            CatchUpMode::Background => "in the background",
        };
        _ = write!(text, "\nBrought to version {} {when}: {} failed", how.version, how.failed);
        if how.is_stopped && how.mode == CatchUpMode::Background {
            text.push_str(", and nobody else is taken: the last three failed in a row");
        }
    }
    if fleet.outdated > 0 {
        _ = write!(text, "\nWith repeatable files that have changed since: {}", fleet.outdated);
    }
    if let Some(since) = fleet.checked_since {
        let never = fleet.unchecked;
        _ = write!(text, "\nLooked at for drift up to {} ago, {never} not yet", age(since));
    }
    if let Some(rollout) = &fleet.rollout {
        let wave = usize::try_from(rollout.wave).ok().and_then(|wave| rollout.waves.get(wave));
        let name = wave.map_or("", |wave| wave.name.as_str());
        _ = write!(
            text,
            "\n\nRollout {} to version {}: {}, wave {} of {} ({name}), {}",
            rollout.id,
            rollout.target_version,
            rollout.status.as_str(),
            rollout.wave + 1,
            rollout.waves.len(),
            describe_counts(rollout),
        );
    }
    if let Some(tenants) = &fleet.tenants {
        let mut table =
            Table::new(&["TENANT", "VERSION", "TRACK", "STATUS", "DIFFERENCES", "ERROR"]);
        for tenant in tenants {
            table.row([
                tenant.tenant_slug.to_string(),
                tenant.schema_version.to_string(),
                track(tenant.track.as_ref(), tenant.track_version),
                tenant.status.to_owned(),
                tenant.differences.map_or("unknown".to_owned(), |number| number.to_string()),
                tenant.error.clone().unwrap_or_default(),
            ]);
        }
        text.push_str("\n\n");
        text.push_str(&table.or("No tenants."));
    }
    text
}

/// The tenants at each version of each track; nothing where there is no track.
fn describe_tracks(fleet: &FleetDocument) -> String {
    if fleet.tracks.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["TRACK", "VERSION", "TENANTS", "STATUS"]);
    for track in &fleet.tracks {
        for row in &track.versions {
            let (version, tenants) = (row.version.to_string(), row.tenants.to_string());
            table.row([track.track.clone(), version, tenants, row.status.to_owned()]);
        }
        if track.versions.is_empty() {
            let newest = track.target_version.map_or("-".to_owned(), |newest| newest.to_string());
            table.row([track.track.clone(), newest, "0".to_owned(), "-".to_owned()]);
        }
    }
    let mut text = format!("\n\n{}", table.or(""));
    for track in &fleet.tracks {
        if let Some(problem) = &track.problem {
            _ = write!(text, "\n{problem}");
        }
    }
    text.push('\n');
    text
}

/// What to do next, in one line.
fn next(fleet: &FleetDocument) -> String {
    let state = fleet.rollout.as_ref().map(|rollout| (rollout.id, rollout.status));
    match state {
        Some((id, RolloutState::Running)) => {
            format!("\nNext: `tenantry migrate show {id}` tells how the rollout goes")
        }
        Some((id, RolloutState::Paused)) => {
            format!("\nNext: `tenantry migrate show {id}` tells why the rollout is paused")
        }
        Some((id, RolloutState::Failed)) if fleet.failed > 0 && fleet.behind > 0 => {
            format!("\nNext: `tenantry migrate show {id}` tells who failed and why")
        }
        _ if fleet.catching_up.is_some_and(|how| how.failed > 0) => {
            "\nNext: `tenantry migrate status --detail` tells who failed and why; fix them, then `tenantry \
             operation retry` or `tenantry migrate up`"
                .to_owned()
        }
        _ if fleet.behind + fleet.outdated > 0 => format!(
            "\nNext: `tenantry migrate up` brings {} to version {}",
            fleet.behind + fleet.outdated,
            fleet.target_version
        ),
        _ if fleet.ahead > 0 && fleet.freeze.is_none() => {
            "\nSome tenants are ahead of these files: look with a newer checkout".to_owned()
        }
        _ if fleet.drifted > 0 => {
            format!("\nNext: `tenantry migrate verify` shows what the {} have", fleet.drifted)
        }
        _ => String::new(),
    }
}
