//! Where the fleet stands, and how rollouts go: counted by the catalog alone, in one query whatever the number
//! of tenants and rollouts. What the databases themselves have is the business of `migrate verify`.

use std::cmp::Ordering;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use tokio_postgres::Row;
use tokio_postgres::types::Json;
use uuid::Uuid;

use super::super::schema::track_of;
use super::super::tenants::slug_of;
use super::super::{Catalog, CatalogError, one, rows};
use super::{COLUMNS, RolloutRecord, WaveCount, failure_of};
use crate::catalog::catching_up::CatchingUp;
use crate::catalog::freeze::Freeze;
use crate::catalog::operations::Failure;
use crate::tenant::{TenantSlug, TenantTrack};

/// How many tenants of a rollout `r` stand where, as JSON.
const COUNTED: &str = "left join lateral (
         select jsonb_agg(i) as counts from (
             select wave, state, count(*) as tenants from rollout_items
             where rollout_id = r.id group by 1, 2 order by 1, 2) i
     ) counted on true";

/// How a tenant `t` stands in its track, beside the targets of parameter 2: before them (1), at them (0) or behind
/// them (-1), as whoever is in a track is that has none; and whether it has other repeatable files of it.
const IN_TRACK: &str = "cross join lateral (
         select case when t.track is null or $2::jsonb is null then 0
                     else coalesce(sign(t.track_version - ($2::jsonb -> t.track ->> 'version')::bigint), -1)
                end::int as lead,
                coalesce(t.track_repeatables <> $2::jsonb -> t.track ->> 'repeatables', false) as is_outdated
     ) k";

/// Where the fleet stands, from one look at the catalog.
#[derive(Clone, Debug)]
pub struct FleetStatus {
    /// The version that every tenant should be at.
    pub target: i64,
    /// Whether the repeatable files count: not where the fleet is held back from the newest file.
    pub has_repeatables: bool,
    /// Where the fleet is held back.
    pub freeze: Option<Freeze>,
    /// How many tenants are at each version, the oldest first.
    pub versions: Vec<VersionCount>,
    /// How many tenants are at each version of each track.
    pub track_counts: Vec<TrackCount>,
    /// How each track stands; [`Catalog::fleet_status`] leaves that to whoever knows its files.
    pub tracks: Vec<TrackStanding>,
    /// How it goes with bringing tenants up to date without anybody asking; none where workers do not, or may not
    /// now.
    pub catching_up: Option<CatchingUp>,
    /// When the tenant was looked at for drift whose look is the longest ago.
    pub oldest_check: Option<Timestamp>,
    /// The newest rollout.
    pub rollout: Option<RolloutRecord>,
    /// How many of its tenants stand where.
    pub counts: Vec<WaveCount>,
}

/// The tenants at one version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct VersionCount {
    /// The version.
    pub version: i64,
    /// How many are at it.
    pub tenants: i64,
    /// How many of them lack files of their track.
    pub track_behind: i64,
    /// How many of them have files of their track that nobody here knows.
    pub track_ahead: i64,
    /// How many of the others have other repeatable files than they should.
    pub outdated: i64,
    /// How many of them had drifted when they were last looked at.
    pub drifted: i64,
    /// How many of them nobody has looked at yet.
    pub unchecked: i64,
}

/// The tenants at one version of a track.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct TrackCount {
    /// The track.
    pub track: String,
    /// The version.
    pub version: i64,
    /// How many are at it.
    pub tenants: i64,
}

/// How the tenants of a track stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackStanding {
    /// The track.
    pub track: String,
    /// The version that its tenants should be at; none where its files cannot be used.
    pub target: Option<i64>,
    /// Why they cannot.
    pub problem: Option<String>,
    /// How many tenants are at each version, the oldest first.
    pub counts: Vec<TrackCount>,
}

/// Where one tenant stands.
#[derive(Clone, Debug)]
pub struct TenantStanding {
    /// The tenant.
    pub slug: TenantSlug,
    /// The newest migration that it holds.
    pub version: i64,
    /// The track that it is in, and what it has of that.
    pub track: Option<TenantTrack>,
    /// Whether it is further than it should be in its track, or not as far.
    pub in_track: Ordering,
    /// Whether it has other repeatable files than it should, if that counts at its version.
    pub is_outdated: bool,
    /// How much it had otherwise than the files make it when it was last looked at.
    pub differences: Option<i32>,
    /// Whether it failed in the newest rollout, or when it was to be brought up to date.
    pub has_failed: bool,
    /// Why.
    pub error: Option<Failure>,
}

impl FleetStatus {
    /// The same for a fleet that is held back from the newest file.
    #[must_use]
    pub fn held_at(mut self, target: i64, has_repeatables: bool) -> Self {
        self.target = target;
        self.has_repeatables = has_repeatables;
        self
    }

    /// Tenants below the target, or at it and behind in their track.
    #[must_use]
    pub fn behind(&self) -> i64 {
        self.sum(Ordering::Less, |count| count.tenants) + self.at_target(|count| count.track_behind)
    }

    /// Tenants at the target that have other repeatable files than they should.
    #[must_use]
    pub fn outdated(&self) -> i64 {
        self.at_target(|count| count.outdated)
    }

    /// Tenants at the target, and with the repeatable files that they should have.
    #[must_use]
    pub fn current(&self) -> i64 {
        let others =
            self.at_target(|count| count.outdated + count.track_behind + count.track_ahead);
        self.sum(Ordering::Equal, |count| count.tenants) - others
    }

    /// Tenants beyond the target, or at it and further in their track than its files.
    #[must_use]
    pub fn ahead(&self) -> i64 {
        self.sum(Ordering::Greater, |count| count.tenants)
            + self.at_target(|count| count.track_ahead)
    }

    /// Tenants that had drifted when they were last looked at.
    #[must_use]
    pub fn drifted(&self) -> i64 {
        self.versions.iter().map(|count| count.drifted).sum()
    }

    /// Tenants that nobody has looked at yet.
    #[must_use]
    pub fn unchecked(&self) -> i64 {
        self.versions.iter().map(|count| count.unchecked).sum()
    }

    /// Of tenants at the target; 0 where that is held back, so that neither repeatable files count nor tracks.
    fn at_target(&self, number: fn(&VersionCount) -> i64) -> i64 {
        if self.has_repeatables { self.sum(Ordering::Equal, number) } else { 0 }
    }

    fn sum(&self, wanted: Ordering, number: fn(&VersionCount) -> i64) -> i64 {
        let wanted = self.versions.iter().filter(|count| count.version.cmp(&self.target) == wanted);
        wanted.map(number).sum()
    }
}

impl Catalog {
    /// Where the fleet stands beside a version and the digest of its repeatable files; `None` where these do
    /// not count. `tracks` has an object for each track that can be used: its `version`, and the digest of its
    /// `repeatables`.
    pub async fn fleet_status(
        &self,
        target: i64,
        repeatables: Option<&str>,
        tracks: &Value,
    ) -> Result<FleetStatus, CatalogError> {
        let sql = format!(
            "-- rollouts::fleet_status
             select v.*, r.*, counted.counts, to_jsonb(f) as freeze, to_jsonb(u) as catching_up, g.track_counts
             from (
                 select jsonb_agg(a order by a.version) as versions, min(a.oldest_check) as oldest_check
                 from (select t.schema_version as version, count(*) as tenants,
                              count(*) filter (where k.lead < 0) as track_behind,
                              count(*) filter (where k.lead > 0) as track_ahead,
                              count(*) filter (where k.lead = 0
                                  and (t.repeatables_digest <> $1 or k.is_outdated)) as outdated,
                              count(*) filter (where c.differences > 0) as drifted,
                              count(*) filter (where c.tenant_id is null) as unchecked,
                              min(c.checked_at) as oldest_check
                       from tenants t left join schema_checks c on c.tenant_id = t.id {IN_TRACK}
                       where t.state in ('active', 'suspended', 'restoring', 'renaming') group by 1) a
             ) v
             left join lateral (select {COLUMNS} from rollouts order by created_at desc limit 1) r on true
             {COUNTED}
             left join schema_freeze f on true
             left join catching_up u on true
             left join lateral (
                 select jsonb_agg(a order by a.track, a.version) as track_counts
                 from (select track, track_version as version, count(*) as tenants from tenants
                       where track is not null and state in ('active', 'suspended', 'restoring', 'renaming')
                       group by 1, 2) a
             ) g on true"
        );
        let row = one(&self.client().await?, &sql, &[&repeatables, &tracks]).await?;
        let versions: Option<Json<Vec<VersionCount>>> = row.get("versions");
        let has_rollout = row.get::<_, Option<Uuid>>("id").is_some();
        Ok(FleetStatus {
            target,
            has_repeatables: repeatables.is_some(),
            freeze: row.get::<_, Option<Json<Freeze>>>("freeze").map(|Json(freeze)| freeze),
            catching_up: row.get::<_, Option<Json<CatchingUp>>>("catching_up").map(|Json(how)| how),
            versions: versions.map(|Json(versions)| versions).unwrap_or_default(),
            track_counts: row
                .get::<_, Option<Json<_>>>("track_counts")
                .map(|Json(counts)| counts)
                .unwrap_or_default(),
            tracks: Vec::new(),
            oldest_check: row.get("oldest_check"),
            rollout: has_rollout.then(|| RolloutRecord::from_row(&row)),
            counts: counts_of(&row),
        })
    }

    /// Where each tenant stands, those that are the farthest behind first; beside the same as
    /// [`Catalog::fleet_status`], with nothing for `tracks` where these do not count.
    pub async fn tenant_standings(
        &self,
        repeatables: Option<&str>,
        tracks: Option<&Value>,
    ) -> Result<Vec<TenantStanding>, CatalogError> {
        let sql = format!(
            "-- rollouts::tenant_standings
             select t.slug, t.schema_version, t.track, t.track_version, t.track_repeatables, k.lead,
                    coalesce(t.repeatables_digest <> $1, false) or k.is_outdated as is_outdated,
                    c.differences, coalesce(i.tenant_id, b.tenant_id) is not null as has_failed,
                    coalesce(o.error, i.error) as error
             from tenants t {IN_TRACK}
             left join schema_checks c on c.tenant_id = t.id
             left join rollout_items i on i.tenant_id = t.id and i.state = 'failed'
              and i.rollout_id = (select id from rollouts order by created_at desc limit 1)
             left join (catch_ups u join operations o on o.id = u.operation_id and o.state = 'failed'
                        join tenants_behind b on b.tenant_id = u.tenant_id and b.digest = u.digest)
              on u.tenant_id = t.id
             where t.state in ('active', 'suspended', 'restoring', 'renaming')
             order by t.schema_version, t.slug"
        );
        let found = rows(&self.client().await?, &sql, &[&repeatables, &tracks]).await?;
        found
            .iter()
            .map(|row| {
                Ok(TenantStanding {
                    slug: slug_of(row)?,
                    version: row.get("schema_version"),
                    track: track_of(row)?,
                    in_track: row.get::<_, i32>("lead").cmp(&0),
                    is_outdated: row.get("is_outdated"),
                    differences: row.get("differences"),
                    has_failed: row.get("has_failed"),
                    error: failure_of(row.get("error")),
                })
            })
            .collect()
    }

    /// The newest rollouts first, each with how many of its tenants stand where.
    pub async fn rollouts(
        &self,
        limit: i64,
    ) -> Result<Vec<(RolloutRecord, Vec<WaveCount>)>, CatalogError> {
        let sql = format!(
            "-- rollouts::list
             select r.*, counted.counts
             from (select {COLUMNS} from rollouts order by created_at desc limit $1) r
             {COUNTED}
             order by r.created_at desc"
        );
        let found = rows(&self.client().await?, &sql, &[&limit]).await?;
        Ok(found.iter().map(|row| (RolloutRecord::from_row(row), counts_of(row))).collect())
    }
}

fn counts_of(row: &Row) -> Vec<WaveCount> {
    let counts: Option<Json<Vec<WaveCount>>> = row.get("counts");
    counts.map(|Json(counts)| counts).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(target: i64, versions: Vec<VersionCount>) -> FleetStatus {
        FleetStatus {
            target,
            has_repeatables: true,
            freeze: None,
            catching_up: None,
            versions,
            track_counts: Vec::new(),
            tracks: Vec::new(),
            oldest_check: None,
            rollout: None,
            counts: Vec::new(),
        }
    }

    #[test]
    fn versions_are_behind_current_or_ahead() {
        let count = |version, tenants| VersionCount { version, tenants, ..VersionCount::default() };
        let mut versions = vec![count(1, 5), count(2, 1), count(3, 40), count(4, 2)];
        // Repeatable files count at the target alone: whoever is behind gets them on the way.
        for count in &mut versions {
            count.outdated = count.tenants.min(10);
        }
        let fleet = fleet(3, versions);

        assert_eq!((fleet.behind(), fleet.current(), fleet.ahead()), (6, 30, 2));
        assert_eq!(fleet.outdated(), 10);
        let held = fleet.held_at(2, false);
        assert_eq!((held.behind(), held.current(), held.outdated(), held.ahead()), (5, 1, 0, 42));
    }

    #[test]
    fn who_lacks_files_of_a_track_is_behind_at_the_target_alone() {
        let count = |version| VersionCount {
            version,
            tenants: 9,
            track_behind: 3,
            track_ahead: 1,
            outdated: 2,
            ..VersionCount::default()
        };
        let fleet = fleet(2, vec![count(1), count(2)]);

        assert_eq!((fleet.behind(), fleet.outdated(), fleet.ahead()), (12, 2, 1));
        assert_eq!(fleet.current(), 3);
        let held = fleet.held_at(1, false);
        assert_eq!((held.behind(), held.current(), held.ahead()), (0, 9, 9));
    }
}
