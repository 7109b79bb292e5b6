//! Asking for drills: by somebody, and by the clock. Each time a few tenants have their turn, those first whose
//! backups have gone longest without proof, so that in time everybody's is proven.
//!
//! Whichever replica comes first asks. The queue itself remembers when that was, so a drill that was missed
//! while no replica ran is made up for once.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Environment, Work};
use crate::catalog::CatalogError;
use crate::catalog::backups::BackupRecord;
use crate::catalog::operations::BatchItem;
use crate::tenant::TenantSlug;

/// How often to look at the clock.
const PAUSE: Duration = Duration::from_secs(20);
/// Who asks for a drill that is due.
const CLOCK: &str = "drill schedule";

/// When drills are due, and of how many tenants.
#[derive(Clone, Debug)]
pub struct DrillSchedule {
    /// The moments, in UTC.
    pub moments: DrillTimes,
    /// How many tenants have their turn each time.
    pub sample: i64,
}

/// A cron expression of five fields, in UTC, that some moment fits.
#[derive(Clone)]
pub struct DrillTimes(Cron);

/// Which backups to drill.
#[derive(Clone, Copy, Debug)]
pub enum DrillChoice<'a> {
    /// The newest good ones of these tenants.
    Of(&'a [TenantSlug]),
    /// The newest good ones of so many tenants, whose turn it is.
    Sample(i64),
}

impl Environment {
    /// Drills backups; returns the batch.
    pub async fn drill(&self, choice: DrillChoice<'_>, by: &str) -> Result<Uuid, CatalogError> {
        self.require_store()?;
        let backups = match choice {
            DrillChoice::Sample(limit) => self.catalog.drill_candidates(limit).await?,
            DrillChoice::Of(slugs) => {
                let mut backups = Vec::with_capacity(slugs.len());
                for slug in slugs {
                    backups.push(
                        self.choose_backup(slug, super::request::BackupChoice::Latest).await?,
                    );
                }
                backups
            }
        };
        self.enqueue_drills(&backups, by).await
    }

    async fn enqueue_drills(
        &self,
        backups: &[BackupRecord],
        by: &str,
    ) -> Result<Uuid, CatalogError> {
        let batch = Uuid::now_v7();
        let mut like = Work::Drill { backup: batch }.new_operation(Uuid::nil(), by);
        like.batch_id = Some(batch);
        let items: Vec<_> = backups
            .iter()
            .map(|backup| {
                let item = BatchItem { operation: Uuid::now_v7(), tenant: backup.tenant_id };
                let work = Work::Drill { backup: backup.id };
                (item, work.new_operation(backup.tenant_id, by).input)
            })
            .collect();
        self.catalog.enqueue_each(&like, &items).await?;
        Ok(batch)
    }
}

/// Asks for the drills that are due, until `shutdown`.
pub async fn run(environment: Environment, shutdown: CancellationToken) {
    let Some(schedule) = environment.limits.drills.clone() else { return };
    let mut since = Timestamp::now();
    loop {
        match shutdown.run_until_cancelled(drill_if_due(&environment, &schedule, since)).await {
            None => return,
            Some(Ok(true)) => since = Timestamp::now(),
            Some(Ok(false)) => {}
            Some(Err(error)) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "a drill could not be asked for; it will be tried again");
            }
        }
        if shutdown.run_until_cancelled(sleep(PAUSE)).await.is_none() {
            return;
        }
    }
}

/// Asks for a drill if one is due: since the last one that the clock asked for, or since then if it never has.
pub async fn drill_if_due(
    environment: &Environment,
    schedule: &DrillSchedule,
    since: Timestamp,
) -> Result<bool, CatalogError> {
    let drill = drill(environment, schedule, since);
    Ok(environment.catalog.chore("drills", drill).await?.unwrap_or(false))
}

async fn drill(
    environment: &Environment,
    schedule: &DrillSchedule,
    since: Timestamp,
) -> Result<bool, CatalogError> {
    let last = environment.catalog.last_drill(CLOCK).await?.unwrap_or(since);
    if schedule.moments.after(last).is_none_or(|due| due > Timestamp::now()) {
        return Ok(false);
    }
    environment.require_store()?;
    let backups = environment.catalog.drill_candidates(schedule.sample).await?;
    if backups.is_empty() {
        return Ok(false);
    }
    let batch = environment.enqueue_drills(&backups, CLOCK).await?;
    tracing::info!(%batch, "a drill has begun");
    Ok(true)
}

impl DrillTimes {
    /// The first of these moments after another one; none if there is none to come.
    #[must_use]
    pub fn after(&self, moment: Timestamp) -> Option<Timestamp> {
        let zoned = moment.to_zoned(TimeZone::UTC);
        self.0.find_next_occurrence(&zoned, false).ok().map(|next| next.timestamp())
    }
}

impl FromStr for DrillTimes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parser =
            CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let times = parser.parse(text).map(Self).map_err(|error| error.to_string())?;
        times.after(Timestamp::UNIX_EPOCH).ok_or("no moment fits it")?;
        Ok(times)
    }
}

impl fmt::Debug for DrillTimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for DrillTimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.pattern.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drill_is_due_at_the_next_moment() {
        let nightly: DrillTimes = "30 3 * * *".parse().unwrap();
        let noon = "2026-03-01T12:00:00Z".parse().unwrap();

        assert_eq!(nightly.after(noon), Some("2026-03-02T03:30:00Z".parse().unwrap()));
        for text in ["at night", "0 0 31 2 *", "* * * * * *", "0 2 * * * 2027"] {
            assert!(text.parse::<DrillTimes>().is_err(), "{text}");
        }
    }
}
