//! Audits by the clock. Whichever replica comes first audits; what was kept of the last one tells when that was, so
//! an audit that was missed while no replica ran is made up for once.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Audit, AuditOptions};
use crate::operations::drills::DrillTimes;
use crate::operations::{Environment, StepError};

/// How often to look at the clock.
const PAUSE: Duration = Duration::from_secs(20);
/// Who asks for an audit that is due.
const CLOCK: &str = "audit schedule";

/// Audits when it is due, until `shutdown`.
pub async fn run(environment: Environment, shutdown: CancellationToken) {
    let Some(times) = environment.limits.audits.clone() else { return };
    let since = Timestamp::now();
    loop {
        match shutdown.run_until_cancelled(audit_if_due(&environment, &times, since)).await {
            None => return,
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                tracing::warn!(%error, "the audit could not be made; it will be tried again");
            }
        }
        if shutdown.run_until_cancelled(sleep(PAUSE)).await.is_none() {
            return;
        }
    }
}

/// Audits if it is due: since the last audit that the clock asked for, or since then if there was none.
pub async fn audit_if_due(
    environment: &Environment,
    times: &DrillTimes,
    since: Timestamp,
) -> Result<bool, StepError> {
    let last = environment.catalog.last_audit_by(CLOCK).await?.unwrap_or(since);
    if times.after(last).is_none_or(|due| due > Timestamp::now()) {
        return Ok(false);
    }
    let Some(due) = Audit::begin(environment, AuditOptions::default(), CLOCK).await? else {
        return Ok(false);
    };
    let audited = due.run().await?;
    let summary = audited.report.summary();
    let (findings, complete) = (summary.findings.total(), summary.complete);
    tracing::info!(audit = %summary.id, findings, complete, "the fleet was audited");
    Ok(true)
}
