//! `tenantry migrate up --dry-run`

use std::fmt::Write as _;

use crate::cli::report::{Table, count, fields};
use crate::cli::{Context, Outcome, Result};
use crate::operations::Environment;
use crate::operations::rollouts::{RolloutPlan, Trial, TrialOutcome};

pub(super) async fn run(
    environment: &Environment,
    plan: &RolloutPlan,
    context: &Context,
) -> Result<Outcome> {
    let trial = environment.try_rollout(plan).await?;
    context.print(&trial, || describe(&trial))?;
    if !trial.is_well() {
        return Ok(Outcome::PartlyDone);
    }
    if trial.tenants > 0 {
        context.note("\nNobody was migrated. Next: `tenantry migrate up`");
    }
    Ok(Outcome::Done)
}

fn describe(trial: &Trial) -> String {
    if trial.tenants == 0 {
        return super::nothing_to_do(trial.target_version);
    }
    let all = count(trial.tenants, "tenant");
    let mut text = format!("To version {}, for {all}.\n\n", trial.target_version);
    let mut table = Table::new(&["TRIED ON", "SERVER", "RAN", "NOT TRIED", "RESULT"]);
    for outcome in &trial.outcomes {
        table.row([
            place(outcome),
            outcome.server.clone(),
            outcome.tried.len().to_string(),
            outcome.skipped.len().to_string(),
            if outcome.error.is_some() { "failed" } else { "ok" }.to_owned(),
        ]);
    }
    text.push_str(&table.or(""));
    for outcome in &trial.outcomes {
        for skipped in &outcome.skipped {
            let place = place(outcome);
            _ = write!(text, "\n\nNot tried on {place}: {}\n  {}", skipped.file, skipped.reason);
        }
        if let Some(error) = &outcome.error {
            text.push_str("\n\n");
            text.push_str(&fields(&[
                ("Failed", Some(place(outcome))),
                ("Server", Some(outcome.server.clone())),
                ("Error", Some(error.message.clone())),
                ("Help", error.remedy.clone()),
            ]));
        }
    }
    text
}

fn place(outcome: &TrialOutcome) -> String {
    outcome.tenant.as_ref().map_or_else(|| "template".to_owned(), ToString::to_string)
}
