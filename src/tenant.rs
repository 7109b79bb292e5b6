//! What a tenant is, apart from any database: its name, its settings, its state and the states it may go
//! to next.
//! Pure: no clock, no I/O.
//!
//! *Failed* is no state. A failure belongs to the operation that failed; the tenant stays where it
//! was, and `retry` or `delete` always works.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tenantry_provisioning::{DatabaseName, RoleName};
use thiserror::Error;
use uuid::Uuid;

mod domain;
mod email;
mod label;
pub mod moves;
pub mod placement;
mod retention;
mod schedule;
mod scope;
pub mod settings;
mod slug;
pub mod tag;

pub use domain::{DomainError, DomainName, is_free_mail};
pub use email::{EmailAddress, EmailError};
pub use label::{Label, LabelError};
pub use retention::{Candidate, Retention};
pub use schedule::Schedule;
pub use scope::{KeyError, TenantScope};
pub use settings::{EffectiveLimits, FleetSettings, TenantSettings};
pub use slug::{MAX_LEN as MAX_SLUG_LEN, SlugError, TenantSlug};
pub use tag::{Tag, TagError, Tags};

/// Most characters of a name for people.
const MAX_NAME_CHARS: usize = 200;

/// A text that is no name for people.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the name of a tenant has 1 to {MAX_NAME_CHARS} characters, and is not blank")]
pub struct NameError;

/// Refuses what is no name for people.
pub fn check_name(text: &str) -> Result<(), NameError> {
    let is_short = text.chars().count() <= MAX_NAME_CHARS;
    let is_name = is_short && !text.trim().is_empty();
    is_name.then_some(()).ok_or(NameError)
}

/// One customer with one database, as the catalog knows it.
#[derive(Clone, Debug)]
pub struct Tenant {
    /// Never changes and is never used again.
    pub id: Uuid,
    /// Its name in URLs, headers and database names; a rename changes it.
    pub slug: TenantSlug,
    /// Its name for people.
    pub name: String,
    /// Whether it shares its server with others.
    pub tier: Tier,
    /// Where it is in its life.
    pub state: TenantState,
    /// Why an operator suspended it.
    pub suspended_reason: Option<String>,
    /// What is kept about it.
    pub settings: TenantSettings,
    /// What it may use: its own limits, and those of its tier where it has none.
    pub limits: EffectiveLimits,
    /// The server that hosts its database; nil where that has been removed after the tenant was deleted.
    pub server_id: Uuid,
    /// That server's name.
    pub server_name: String,
    /// Where that server stands.
    pub server_region: Option<Label>,
    /// The live database.
    pub database: DatabaseName,
    /// The only login role that may connect to it.
    pub role: RoleName,
    /// Which physical database is the live one; the database's stamp must say the same.
    pub epoch: i64,
    /// Raised on every change of place, state, secret or limits.
    pub generation: i64,
    /// The last migration that finished; 0 when none has.
    pub schema_version: i64,
    /// The repeatable migration files that it was last brought to, as a digest; empty is none.
    pub repeatables_digest: String,
    /// What it gets beyond the files of every tenant.
    pub track: Option<TenantTrack>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// The track that a tenant is in, and how far it is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantTrack {
    /// The track.
    pub name: Label,
    /// The last migration of the track that finished; 0 when none has.
    pub version: i64,
    /// Its repeatable files that the tenant was last brought to, as a digest; empty is none.
    pub repeatables_digest: String,
}

/// The schema that a tenant's database has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaState {
    /// The last migration that finished; 0 when none has.
    pub version: i64,
    /// The digest of the repeatable files; `None` where they were left alone.
    pub repeatables: Option<String>,
    /// How far it is with the files of its track; `None` where these were left alone.
    pub track: Option<TenantTrack>,
}

/// How a tenant is hosted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// On a server with other tenants.
    #[default]
    Shared,
    /// On a server of its own.
    Dedicated,
}

/// Where a tenant is in its life. Only [`TenantState::Active`] is routable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TenantState {
    /// Asked for; its database is being made.
    Provisioning,
    /// Served.
    Active,
    /// Stopped by an operator; its data stays.
    Suspended,
    /// In the short cutover of a restore: requests wait.
    Restoring,
    /// In the short cutover of a rename: requests wait.
    Renaming,
    /// Being removed; there is no way back.
    Deleting,
    /// Gone. The row stays for the record; the slug is free.
    Deleted,
}

/// A change of state that the tenant's life does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a tenant that is {from} cannot become {to}")]
pub struct TransitionError {
    /// The present state.
    pub from: TenantState,
    /// The state that was asked for.
    pub to: TenantState,
}

impl TenantState {
    /// Every state, in the order of a tenant's life.
    pub const ALL: [Self; 7] = [
        Self::Provisioning,
        Self::Active,
        Self::Suspended,
        Self::Restoring,
        Self::Renaming,
        Self::Deleting,
        Self::Deleted,
    ];

    /// Those in which a tenant has its database and role, and no operation is in the middle of changing them.
    pub const SETTLED: [Self; 2] = [Self::Active, Self::Suspended];

    /// The state's name in the catalog, in JSON and in tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Provisioning => "provisioning",
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Restoring => "restoring",
            Self::Renaming => "renaming",
            Self::Deleting => "deleting",
            Self::Deleted => "deleted",
        }
    }

    /// Reads a state's name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Whether it is one of [`TenantState::SETTLED`].
    #[must_use]
    pub fn is_settled(self) -> bool {
        Self::SETTLED.contains(&self)
    }

    /// Whether requests wait for the end of this state, which is near.
    #[must_use]
    pub fn is_cutover(self) -> bool {
        matches!(self, Self::Restoring | Self::Renaming)
    }

    /// `to`, if a tenant in this state may go there. Staying is always allowed, so that a repeated
    /// step changes nothing.
    pub fn transition(self, to: Self) -> Result<Self, TransitionError> {
        use TenantState::{
            Active, Deleted, Deleting, Provisioning, Renaming, Restoring, Suspended,
        };

        let allowed = match (self, to) {
            (from, to) if from == to => true,
            (Provisioning | Suspended | Restoring | Renaming, Active)
            | (Provisioning | Active | Restoring | Renaming, Suspended)
            | (Active | Suspended, Restoring | Renaming)
            | (Provisioning | Active | Suspended | Restoring | Renaming, Deleting)
            | (Deleting, Deleted) => true,
            _ => false,
        };
        if allowed { Ok(to) } else { Err(TransitionError { from: self, to }) }
    }
}

impl fmt::Display for TenantState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Tier {
    /// Every tier.
    pub const ALL: [Self; 2] = [Self::Shared, Self::Dedicated];

    /// The tier's name in the catalog, in JSON and in tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Dedicated => "dedicated",
        }
    }

    /// Reads a tier's name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tier| tier.as_str() == text)
    }
}

impl TenantTrack {
    /// A track of which nothing has been applied yet.
    #[must_use]
    pub fn begin(name: Label) -> Self {
        Self { name, version: 0, repeatables_digest: String::new() }
    }
}

impl Tenant {
    /// The versions that it is at, of the common files and of its track: whoever has prepared statements for other
    /// ones must not use them.
    #[must_use]
    pub fn schema(&self) -> (i64, i64) {
        (self.schema_version, self.track_version())
    }

    /// The last migration of its track that finished; 0 when none has, and where it is in no track.
    #[must_use]
    pub fn track_version(&self) -> i64 {
        self.track.as_ref().map_or(0, |track| track.version)
    }

    /// The name of its track.
    #[must_use]
    pub fn track_name(&self) -> Option<&Label> {
        self.track.as_ref().map(|track| &track.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for state in TenantState::ALL {
            assert_eq!(TenantState::parse(state.as_str()), Some(state));
        }
    }

    #[test]
    fn a_deleted_tenant_stays_deleted() {
        for to in TenantState::ALL {
            assert_eq!(TenantState::Deleted.transition(to).is_ok(), to == TenantState::Deleted);
        }
    }

    #[test]
    fn every_living_tenant_can_be_deleted() {
        for from in TenantState::ALL {
            let doomed = matches!(from, TenantState::Deleted);
            assert_eq!(from.transition(TenantState::Deleting).is_ok(), !doomed);
        }
    }

    #[test]
    fn a_half_made_tenant_cannot_be_restored_or_renamed() {
        for to in [TenantState::Restoring, TenantState::Renaming] {
            assert!(TenantState::Provisioning.transition(to).is_err());
        }
    }

    #[test]
    fn a_cutover_leads_back_to_where_the_tenant_was() {
        for state in TenantState::ALL.into_iter().filter(|state| state.is_cutover()) {
            for other in [TenantState::Active, TenantState::Suspended] {
                assert!(other.transition(state).is_ok());
                assert!(state.transition(other).is_ok());
            }
        }
    }
}
