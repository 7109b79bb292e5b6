//! `tenantry migrate up`

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use uuid::Uuid;

use super::follow::Follow;
use crate::catalog::operations::{OperationRecord, OperationState};
use crate::cli::report::fields;
use crate::cli::tenant::Wait;
use crate::cli::{Context, Error, Outcome, Result};
use crate::duration;
use crate::operations::rollouts::{Bound, RolloutPlan, Selection};
use crate::tenant::{Label, TenantSlug};

/// Tenants that are migrated from here at a time.
const CONCURRENCY: u32 = 4;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry migrate up                              every tenant that is behind
  tenantry migrate up --tenant acme-corp           this one only
  tenantry migrate up --track enterprise           the tenants of this track
  tenantry migrate up --canary acme-corp --canary 2% --bake 10m --wave 25% --wave 100%
  tenantry migrate up --wave tier=shared --wave server=eu-1 --max-failures 1% --per-server 2
  tenantry migrate up --to V17 --backup-first
  tenantry migrate up --dry-run --canary acme-corp would the files run? Nobody is migrated
  tenantry migrate up --output-format json         one event a line, the rollout at its end last

The files are tried on a new template of every server first: a file that does not run touches no
tenant. Then come the canary and the waves, in order; whoever is in none of them comes last. A share
counts everybody before it. The next wave begins when the one before has ended, its time to bake is
over and its databases answer, unless more tenants have failed than may. Tenants that fail are served
at their old version; `tenantry migrate resume` takes just them.

The files of a tenant's track run after the others, and no template has them: where one fails, the tenants
of that track do. With --to short of the newest version none of them runs.

With --dry-run the files make the template of every server, which stays, and are then run for each tenant
of the canary (or that is named) in a transaction that is rolled back. It holds their locks until then.

Exit status 3 when some tenants failed or a dry run did, 1 when all did, 4 when the rollout was paused.")]
pub(in crate::cli) struct Options {
    #[command(flatten)]
    who: Who,
    /// Try the files on a template of every server and on the canary, and migrate nobody
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: Wait,
}

/// Whom a rollout takes, and how; the same for `plan`.
#[derive(Debug, Args)]
pub(super) struct Who {
    /// Only this tenant; may be repeated
    #[arg(long = "tenant", value_name = "SLUG", value_parser = TenantSlug::parse)]
    tenants: Vec<TenantSlug>,
    /// Only tenants of this track
    #[arg(long, value_parser = Label::parse)]
    track: Option<Label>,
    /// Who comes first: SLUG, 5%, tier=NAME, tag=NAME, track=NAME, region=NAME or server=NAME; may be repeated
    #[arg(long, value_name = "WHO", value_parser = Selection::parse)]
    canary: Vec<Selection>,
    /// Who comes in the next wave, as with --canary; may be repeated, in order
    #[arg(long = "wave", value_name = "WHO", value_parser = Selection::parse)]
    waves: Vec<Selection>,
    /// How long a wave is watched before the next one begins, such as 10m
    #[arg(long, default_value = "0s", value_name = "TIME", value_parser = parse_bake)]
    bake: Duration,
    /// Pause when more tenants have failed: a number or a share; without, at the end of such a wave
    #[arg(long, value_name = "N|P%", value_parser = Bound::parse)]
    max_failures: Option<Bound>,
    /// How many tenants at a time, over all servers [default: 4 from here]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    concurrency: Option<u32>,
    /// How many tenants of one server at a time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    per_server: Option<u32>,
    /// Back each tenant up before it is migrated
    #[arg(long)]
    backup_first: bool,
    /// The version to stop at
    #[arg(long, value_name = "VERSION", value_parser = parse_version)]
    to: Option<i64>,
}

/// What there is to say when every tenant is where it should be.
#[derive(Serialize)]
struct Nothing {
    status: &'static str,
    target_version: i64,
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let plan = options.who.plan()?;
    let concurrency = usize::try_from(plan.concurrency.unwrap_or(CONCURRENCY)).unwrap_or(1);
    let context = &context.with_concurrency(concurrency);
    let environment = context.environment().await?;
    if options.dry_run {
        return super::trial::run(&environment, &plan, context).await;
    }
    let Some(rollout) = environment.start_rollout(&plan, &context.actor).await? else {
        let target_version = match plan.to {
            Some(to) => to,
            None => environment.permitted().await?.target_version(),
        };
        let nothing = Nothing { status: "nothing_to_do", target_version };
        context.print_line(&nothing, || super::nothing_to_do(target_version))?;
        return Ok(Outcome::Done);
    };
    if !options.wait.wait {
        return super::show::leave(&environment, &rollout, context).await;
    }
    let follow = Follow { context, environment: &environment, id: rollout.id, concurrency };
    Box::pin(follow.run()).await
}

impl Who {
    pub(super) fn plan(self) -> Result<RolloutPlan> {
        if !self.bake.is_zero() && self.canary.is_empty() && self.waves.is_empty() {
            return Err(Error::usage(
                "--bake is the time between two waves, and without a canary or a wave everybody is migrated at once",
                "say who comes first with --canary or --wave, such as `--canary 2% --wave 100%`, or leave --bake out",
            ));
        }
        Ok(RolloutPlan {
            tenants: self.tenants,
            canary: self.canary,
            waves: self.waves,
            bake_secs: u32::try_from(self.bake.as_secs()).unwrap_or(u32::MAX),
            max_failures: self.max_failures,
            concurrency: self.concurrency,
            per_server: self.per_server,
            backup_first: self.backup_first,
            to: self.to,
            track: self.track,
        })
    }
}

/// Every tenant of a batch that failed, with what went wrong and what to do; empty when none did.
pub(in crate::cli) fn describe_failures(
    batch: Uuid,
    operations: &[(OperationRecord, TenantSlug)],
) -> String {
    let mut text = String::new();
    for (record, slug) in
        operations.iter().filter(|(record, _)| record.state != OperationState::Succeeded)
    {
        let error = record.error.as_ref();
        text.push_str("\n\n");
        text.push_str(&fields(&[
            ("Failed", Some(slug.to_string())),
            ("Step", error.map(|error| error.step.clone())),
            (
                "Error",
                error.map_or(Some(record.state.as_str().to_owned()), |error| {
                    Some(error.message.clone())
                }),
            ),
            ("Help", error.and_then(|error| error.remedy.clone())),
            ("Operation", Some(record.id.to_string())),
        ]));
    }
    if !text.is_empty() {
        _ = write!(text, "\n\nAll of them: `tenantry operation list --batch {batch}`");
    }
    text
}

pub(in crate::cli) fn parse_concurrency(text: &str) -> std::result::Result<usize, String> {
    text.parse()
        .ok()
        .filter(|number| (1..=256).contains(number))
        .ok_or_else(|| "it is a number from 1 to 256".to_owned())
}

fn parse_bake(text: &str) -> std::result::Result<Duration, String> {
    duration::parse(text).ok_or_else(|| "it is a length of time such as 30s or 10m".to_owned())
}

pub(super) fn parse_version(text: &str) -> std::result::Result<i64, String> {
    text.trim_start_matches('V')
        .parse()
        .ok()
        .filter(|version| *version > 0)
        .ok_or_else(|| "it is the version of a file, such as V17".to_owned())
}
