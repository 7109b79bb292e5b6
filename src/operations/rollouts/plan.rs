//! [`RolloutPlan`]: what an operator asks for, and the waves that follow from it. Pure.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use tenantry_provisioning::MigrationSet;
use thiserror::Error;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::catalog::CatalogError;
use crate::catalog::rollouts::RolloutRecord;
use crate::tenant::{Label, Tenant, TenantSlug, Tier};

/// The most operations at a time that may be asked for.
const MAX_CONCURRENCY: u32 = 256;
/// The longest time between two waves: a day.
const MAX_BAKE_SECS: u32 = 86_400;

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RolloutPlan {
    /// These tenants; all that are behind when it is empty.
    #[schema(value_type = Vec<String>)]
    pub tenants: Vec<TenantSlug>,
    /// Who comes first: slugs, `5%`, `tag=beta`, `tier=shared`, `track=gold`, `region=eu` or `server=eu-1`.
    #[schema(value_type = Vec<String>)]
    pub canary: Vec<Selection>,
    /// Who comes then, one wave after the other; a share counts everybody before it. Whoever is in none of
    /// them comes last.
    #[schema(value_type = Vec<String>)]
    pub waves: Vec<Selection>,
    /// How many seconds a wave is watched before the next one begins.
    pub bake_secs: u32,
    /// The rollout pauses when more tenants have failed: a number, or a share such as `2%`. Without, a wave runs
    /// to its end, and the next one begins only if nobody has failed.
    #[schema(value_type = Option<String>)]
    pub max_failures: Option<Bound>,
    /// At most so many tenants at a time.
    pub concurrency: Option<u32>,
    /// At most so many tenants of one server at a time.
    pub per_server: Option<u32>,
    /// Back each tenant up before it is migrated.
    pub backup_first: bool,
    /// The version to stop at; the newest without. Short of the newest, no file of a track runs.
    pub to: Option<i64>,
    /// Only tenants of this track.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub track: Option<Label>,
}

/// Some tenants, by one of their properties.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Selection {
    /// This one.
    Tenant(TenantSlug),
    /// So many of a hundred.
    Share(u8),
    /// Of a tier.
    Tier(Tier),
    /// With a tag.
    Tag(Label),
    /// In a track.
    Track(Label),
    /// On a server of a region.
    Region(Label),
    /// On a server.
    Server(String),
}

/// A number of tenants, or a share of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Bound {
    /// So many.
    Count(u16),
    /// So many of a hundred.
    Share(u8),
}

/// Why a plan makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlanError {
    /// Not a selection.
    #[error(
        "`{0}` selects nobody; give a slug, a share such as 5%, tag=NAME, tier=shared, tier=dedicated, track=NAME, region=NAME or server=NAME"
    )]
    Selection(String),
    /// Not a bound.
    #[error("`{0}` is no bound; give a number of tenants, or a share such as 2%")]
    Bound(String),
    /// A selection of what does not exist.
    #[error(
        "no tenant is `{0}`; `tenantry tenant list` shows names and servers, `tenant show` tiers, tags and tracks, `server list` regions"
    )]
    Nobody(String),
    /// Shares that do not grow.
    #[error(
        "a share counts everybody before it, so `{0}` after a larger one is a wave of nobody; let shares grow"
    )]
    Shrinking(String),
    /// A number that is out of range.
    #[error("`{name}` goes from {from} to {to}")]
    Range {
        /// Which one.
        name: &'static str,
        /// The smallest.
        from: u32,
        /// The largest.
        to: u32,
    },
    /// No file has the version.
    #[error("no migration file has version {0}; the newest is {1}")]
    Version(i64, i64),
}

impl Selection {
    /// Reads a selection.
    pub fn parse(text: &str) -> Result<Self, PlanError> {
        let wrong = || PlanError::Selection(text.to_owned());
        if let Some(number) = text.strip_suffix('%') {
            return share(number).map(Self::Share).ok_or_else(wrong);
        }
        match text.split_once('=') {
            Some(("tier", name)) => Tier::parse(name).map(Self::Tier).ok_or_else(wrong),
            Some(("tag", name)) => Label::parse(name).map(Self::Tag).map_err(|_| wrong()),
            Some(("track", name)) => Label::parse(name).map(Self::Track).map_err(|_| wrong()),
            Some(("region", name)) => Label::parse(name).map(Self::Region).map_err(|_| wrong()),
            Some(("server", name)) if !name.is_empty() => Ok(Self::Server(name.to_owned())),
            Some(_) => Err(wrong()),
            None => TenantSlug::parse(text).map(Self::Tenant).map_err(|_| wrong()),
        }
    }

    fn holds(&self, tenant: &Tenant) -> bool {
        match self {
            Self::Tenant(slug) => tenant.slug == *slug,
            Self::Share(_) => true,
            Self::Tier(tier) => tenant.tier == *tier,
            Self::Tag(tag) => tenant.settings.fleet().is_some_and(|fleet| fleet.tags.contains(tag)),
            Self::Track(track) => tenant.track_name() == Some(track),
            Self::Region(region) => tenant.server_region.as_ref() == Some(region),
            Self::Server(name) => tenant.server_name == *name,
        }
    }
}

impl Bound {
    /// Reads a bound.
    pub fn parse(text: &str) -> Result<Self, PlanError> {
        let wrong = || PlanError::Bound(text.to_owned());
        match text.strip_suffix('%') {
            Some("0") => Ok(Self::Share(0)),
            Some(number) => share(number).map(Self::Share).ok_or_else(wrong),
            None => text.parse().map(Self::Count).map_err(|_| wrong()),
        }
    }

    /// How many of `tenants` that are.
    #[must_use]
    pub fn of(self, tenants: usize) -> i32 {
        let number = match self {
            Self::Count(number) => usize::from(number),
            Self::Share(share) => tenants * usize::from(share) / 100,
        };
        i32::try_from(number).unwrap_or(i32::MAX)
    }
}

impl RolloutPlan {
    /// Whether more than the waves holds operations back, so that each end makes room for another.
    pub(super) fn is_bounded(&self) -> bool {
        self.concurrency.or(self.per_server).is_some() || self.backup_first
    }

    /// Whether it is for some tenants alone: whoever is behind beside them is none of its business.
    pub(super) fn is_named(&self) -> bool {
        !self.tenants.is_empty() || self.track.is_some()
    }

    /// Reads the plan of a rollout.
    pub(super) fn of(record: &RolloutRecord) -> Result<Self, CatalogError> {
        serde_json::from_value(record.plan.clone())
            .map_err(|error| CatalogError::Corrupt(error.to_string()))
    }

    /// Whether the numbers are in their ranges.
    pub(super) fn check(&self) -> Result<(), PlanError> {
        let range = |name, number: Option<u32>, from, to| match number {
            Some(number) if !(from..=to).contains(&number) => {
                Err(PlanError::Range { name, from, to })
            }
            _ => Ok(()),
        };
        range("concurrency", self.concurrency, 1, MAX_CONCURRENCY)?;
        range("per_server", self.per_server, 1, MAX_CONCURRENCY)?;
        range("bake_secs", Some(self.bake_secs), 0, MAX_BAKE_SECS)
    }

    /// The version that tenants are brought to.
    pub(super) fn target(&self, set: &MigrationSet) -> Result<i64, PlanError> {
        let newest = set.target_version();
        match self.to {
            None => Ok(newest),
            Some(to) if set.files().any(|file| file.version == to) => Ok(to),
            Some(to) => Err(PlanError::Version(to, newest)),
        }
    }

    /// Names and tenants of the waves. A selection must hold somebody of the fleet, not of those that are due:
    /// what an earlier run has done need not be asked for in other words. Waves of nobody are left out.
    pub(super) fn waves(
        &self,
        due: &[&Tenant],
        fleet: &[Tenant],
    ) -> Result<Vec<(String, Vec<Uuid>)>, PlanError> {
        for selection in self.canary.iter().chain(&self.waves) {
            if !fleet.is_empty() && !fleet.iter().any(|tenant| selection.holds(tenant)) {
                return Err(PlanError::Nobody(selection.to_string()));
            }
        }
        let mut left: Vec<&Tenant> = due.to_vec();
        // The last bits of an id are random: a share is not just the oldest tenants.
        left.sort_by_key(|tenant| tenant.id.as_u128().swap_bytes());
        let mut seen = BTreeSet::new();
        left.retain(|tenant| seen.insert(tenant.id));

        let mut waves = Vec::new();
        let mut canary = Vec::new();
        for selection in &self.canary {
            canary.extend(take(&mut left, selection, due.len(), 0));
        }
        waves.push(("canary".to_owned(), canary));
        let mut largest = 0;
        for selection in &self.waves {
            if let Selection::Share(share) = selection {
                if *share <= largest {
                    return Err(PlanError::Shrinking(selection.to_string()));
                }
                largest = *share;
            }
            let before = waves.iter().map(|(_, tenants)| tenants.len()).sum();
            waves.push((selection.to_string(), take(&mut left, selection, due.len(), before)));
        }
        let rest = if waves.iter().all(|(_, tenants)| tenants.is_empty()) { "all" } else { "rest" };
        waves.push((rest.to_owned(), left.iter().map(|tenant| tenant.id).collect()));
        waves.retain(|(_, tenants)| !tenants.is_empty());
        Ok(waves)
    }
}

impl TryFrom<String> for Selection {
    type Error = PlanError;

    fn try_from(text: String) -> Result<Self, PlanError> {
        Self::parse(&text)
    }
}

impl From<Selection> for String {
    fn from(selection: Selection) -> Self {
        selection.to_string()
    }
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tenant(slug) => write!(f, "{slug}"),
            Self::Share(share) => write!(f, "{share}%"),
            Self::Tier(tier) => write!(f, "tier={}", tier.as_str()),
            Self::Tag(tag) => write!(f, "tag={tag}"),
            Self::Track(track) => write!(f, "track={track}"),
            Self::Region(region) => write!(f, "region={region}"),
            Self::Server(name) => write!(f, "server={name}"),
        }
    }
}

impl TryFrom<String> for Bound {
    type Error = PlanError;

    fn try_from(text: String) -> Result<Self, PlanError> {
        Self::parse(&text)
    }
}

impl From<Bound> for String {
    fn from(bound: Bound) -> Self {
        match bound {
            Bound::Count(number) => number.to_string(),
            Bound::Share(share) => format!("{share}%"),
        }
    }
}

/// Takes out of `left` whom a selection holds; of a share of `all`, `before` are taken already.
fn take(left: &mut Vec<&Tenant>, selection: &Selection, all: usize, before: usize) -> Vec<Uuid> {
    let most = match selection {
        Selection::Share(share) => (all * usize::from(*share)).div_ceil(100).saturating_sub(before),
        _ => usize::MAX,
    };
    let mut taken = Vec::new();
    left.retain(|tenant| {
        let wanted = taken.len() < most && selection.holds(tenant);
        if wanted {
            taken.push(tenant.id);
        }
        !wanted
    });
    taken
}

fn share(number: &str) -> Option<u8> {
    number.parse().ok().filter(|share| (1..=100).contains(share))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selections_and_bounds_read_as_they_are_written() {
        for text in
            ["acme", "5%", "100%", "tag=beta", "tier=shared", "track=a", "region=eu", "server=eu-1"]
        {
            assert_eq!(Selection::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "0%",
            "101%",
            "5.5%",
            "tier=gold",
            "server=",
            "tag=",
            "tag=Beta",
            "region=",
            "colour=red",
            "Acme",
        ] {
            assert!(Selection::parse(text).is_err(), "{text}");
        }
        for text in ["0", "3", "0%", "50%"] {
            assert_eq!(String::from(Bound::parse(text).unwrap()), text);
        }
        for text in ["-1", "many", "101%", ""] {
            assert!(Bound::parse(text).is_err(), "{text}");
        }
        assert_eq!(Bound::Share(2).of(1000), 20);
        assert_eq!(Bound::Share(2).of(40), 0);
    }

    #[test]
    fn a_plan_survives_the_catalog() {
        let plan = RolloutPlan {
            canary: vec![Selection::Share(2), Selection::Tier(Tier::Dedicated)],
            max_failures: Some(Bound::Count(3)),
            ..RolloutPlan::default()
        };

        let written = serde_json::to_value(&plan).unwrap();

        assert_eq!(serde_json::from_value::<RolloutPlan>(written).unwrap(), plan);
        assert!(serde_json::from_str::<RolloutPlan>(r#"{"colour":1}"#).is_err());
    }
}
