//! Where the fleet stands, as JSON: by version, and tenant by tenant.

use std::cmp::Ordering;

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::rollout::RolloutDocument;
use crate::catalog::catching_up::CatchingUp;
use crate::catalog::freeze::Freeze;
use crate::catalog::rollouts::{FleetStatus, TenantStanding, TrackCount, TrackStanding};
use crate::tenant::{Label, TenantSlug};

/// Where the fleet stands.
#[derive(Debug, Serialize, ToSchema)]
pub struct FleetDocument {
    /// The version that every tenant should be at.
    pub target_version: i64,
    /// Nobody is migrated further than this, whatever files there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freeze: Option<Freeze>,
    /// How it goes with bringing tenants up to date without anybody asking, where workers do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub catching_up: Option<CatchingUp>,
    /// Tenants at it, and at the newest file of their track if they are in one.
    pub current: i64,
    /// Tenants below it, or at it and below the newest file of their track.
    pub behind: i64,
    /// Tenants at it, but with other repeatable files; not among the current ones.
    pub outdated: i64,
    /// Tenants beyond it: somebody has migrated them with newer files, or before the fleet was frozen.
    pub ahead: i64,
    /// Tenants that failed in the newest rollout, and are served at their old version.
    pub failed: i64,
    /// Tenants that had drifted when they were last looked at.
    pub drifted: i64,
    /// Tenants that nobody has looked at yet.
    pub unchecked: i64,
    /// When the tenant was looked at for drift whose look is the longest ago.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checked_since: Option<Timestamp>,
    /// How many tenants are at each version, the oldest first.
    pub versions: Vec<VersionDocument>,
    /// Every track, with the versions that its tenants are at.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tracks: Vec<TrackDocument>,
    /// The newest rollout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutDocument>,
    /// Every tenant, those that are the farthest behind first; where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenants: Option<Vec<StandingDocument>>,
}

/// The tenants at one version.
#[derive(Debug, Serialize, ToSchema)]
pub struct VersionDocument {
    /// The version.
    pub version: i64,
    /// How many are at it.
    pub tenants: i64,
    /// `behind`, `current` or `ahead`.
    pub status: &'static str,
    /// How many of them had drifted when they were last looked at.
    pub drifted: i64,
}

/// How the tenants of a track stand.
#[derive(Debug, Serialize, ToSchema)]
pub struct TrackDocument {
    /// The track.
    pub track: String,
    /// The version that its tenants should be at; none where its files cannot be used.
    pub target_version: Option<i64>,
    /// Why they cannot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// How many tenants are at each version, the oldest first.
    pub versions: Vec<TrackVersionDocument>,
}

/// The tenants at one version of a track.
#[derive(Debug, Serialize, ToSchema)]
pub struct TrackVersionDocument {
    /// The version.
    pub version: i64,
    /// How many are at it.
    pub tenants: i64,
    /// `behind`, `current` or `ahead`; `behind` where the files cannot be used.
    pub status: &'static str,
}

/// Where one tenant stands.
#[derive(Debug, Serialize, ToSchema)]
pub struct StandingDocument {
    /// Its slug.
    #[schema(value_type = String)]
    pub tenant_slug: TenantSlug,
    /// The newest migration that it holds.
    pub schema_version: i64,
    /// The track that it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub track: Option<Label>,
    /// The newest migration of its track that it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub track_version: Option<i64>,
    /// `failed`, `behind`, `current`, `outdated` or `ahead`.
    pub status: &'static str,
    /// How much it had otherwise than the files make it when it was last looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub differences: Option<i32>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl FleetDocument {
    /// The document of what the catalog holds.
    #[must_use]
    pub fn new(fleet: &FleetStatus, tenants: Option<Vec<TenantStanding>>) -> Self {
        let rollout =
            fleet.rollout.as_ref().map(|record| RolloutDocument::new(record, &fleet.counts));
        let versions = fleet.versions.iter().map(|count| VersionDocument {
            version: count.version,
            tenants: count.tenants,
            status: status_of(count.version, fleet.target),
            drifted: count.drifted,
        });
        let standing = |tenant| StandingDocument::new(tenant, fleet.target);
        Self {
            target_version: fleet.target,
            freeze: fleet.freeze.clone(),
            catching_up: fleet.catching_up,
            current: fleet.current(),
            behind: fleet.behind(),
            outdated: fleet.outdated(),
            ahead: fleet.ahead(),
            failed: rollout.as_ref().map_or(0, |rollout| rollout.failed),
            drifted: fleet.drifted(),
            unchecked: fleet.unchecked(),
            checked_since: fleet.oldest_check,
            versions: versions.collect(),
            tracks: fleet.tracks.iter().map(TrackDocument::new).collect(),
            rollout,
            tenants: tenants.map(|tenants| tenants.into_iter().map(standing).collect()),
        }
    }
}

impl StandingDocument {
    fn new(tenant: TenantStanding, target: i64) -> Self {
        let status = match status_of(tenant.version, target) {
            _ if tenant.has_failed => "failed",
            "current" if tenant.in_track == Ordering::Less => "behind",
            "current" if tenant.in_track == Ordering::Greater => "ahead",
            "current" if tenant.is_outdated => "outdated",
            status => status,
        };
        Self {
            tenant_slug: tenant.slug,
            schema_version: tenant.version,
            track_version: tenant.track.as_ref().map(|track| track.version),
            track: tenant.track.map(|track| track.name),
            status,
            differences: tenant.differences,
            error: tenant.error.map(|error| error.message),
        }
    }
}

impl TrackDocument {
    fn new(standing: &TrackStanding) -> Self {
        let target = standing.target;
        let versions = standing.counts.iter().map(|TrackCount { version, tenants, .. }| {
            let status = target.map_or("behind", |target| status_of(*version, target));
            TrackVersionDocument { version: *version, tenants: *tenants, status }
        });
        Self {
            track: standing.track.clone(),
            target_version: target,
            problem: standing.problem.clone(),
            versions: versions.collect(),
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
