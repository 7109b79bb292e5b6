//! [`BackupPolicy`]: how a tenant is backed up, said by its own settings, by its tier or for the whole fleet.
//! Pure.
//!
//! Invariant: field by field, the tenant's own word counts before its tier's, and that before the fleet's.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{SettingsError, field, section};
use crate::duration;
use crate::tenant::{Retention, Schedule};

/// How backups are made. What is not said here is said by whoever comes next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BackupPolicy {
    /// When, as a cron expression in UTC, spread over the hour; `off` is never.
    #[serde(
        default,
        deserialize_with = "field::schedule",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<String>, example = "0 2 * * *")]
    pub schedule: Option<Schedule>,
    /// Which of them are kept; without, all.
    #[serde(
        default,
        deserialize_with = "field::retention",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<String>, example = "last=7,daily=14,monthly=12")]
    pub retention: Option<Retention>,
    /// How old the newest of them may be, such as `26h`.
    #[serde(default, deserialize_with = "field::goal", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "26h")]
    pub goal_rpo: Option<Goal>,
    /// Whether none of them may be removed, nor the tenant be deleted with them. Only a tenant can have a hold.
    #[serde(default, deserialize_with = "field::flag", skip_serializing_if = "Option::is_none")]
    pub legal_hold: Option<bool>,
}

/// A length of time that is not to be exceeded, written again as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Goal {
    text: String,
    #[serde(skip)]
    length: Duration,
}

impl Goal {
    /// What a text must be to be read.
    pub const EXPECTED: &'static str = "a duration of a minute or more, such as `26h`";

    /// Reads a goal.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let length = duration::parse(text).filter(|length| *length >= Duration::from_mins(1))?;
        Some(Self { text: text.to_owned(), length })
    }

    /// How long it is.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.length
    }
}

impl BackupPolicy {
    /// Where each field stands in settings.
    pub const PLACES: [&'static str; 4] =
        ["backup.schedule", "backup.retention", "backup.goal_rpo", "backup.legal_hold"];

    /// Reads a policy that somebody sends.
    pub fn parse(value: Value) -> Result<Self, SettingsError> {
        section::parse("backup", value)
    }

    /// Reads a policy that some version of this program has stored. What this one does not know, or would not
    /// take, is passed over: the rest stays in force.
    #[must_use]
    pub fn stored(value: Value) -> Self {
        section::stored("backup", value)
    }

    /// Reads the policy of a tier, which holds nothing.
    pub fn parse_of_tier(value: Value) -> Result<Self, SettingsError> {
        let policy = Self::parse(value)?;
        match policy.legal_hold {
            None => Ok(policy),
            Some(_) => {
                Err(SettingsError::wrong("backup.legal_hold", "a hold is set for one tenant alone"))
            }
        }
    }

    /// This policy, and where it says nothing, another one.
    #[must_use]
    pub fn or(self, other: &Self) -> Self {
        Self {
            schedule: self.schedule.or_else(|| other.schedule.clone()),
            retention: self.retention.or_else(|| other.retention.clone()),
            goal_rpo: self.goal_rpo.or_else(|| other.goal_rpo.clone()),
            legal_hold: self.legal_hold.or(other.legal_hold),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy(value: Value) -> BackupPolicy {
        BackupPolicy::parse(value).unwrap()
    }

    #[test]
    fn the_nearest_word_counts() {
        let fleet = policy(json!({ "schedule": "0 2 * * *" }));
        let tier = policy(json!({ "schedule": "0 * * * *" }));

        assert_eq!(BackupPolicy::default().or(&tier).or(&fleet), tier);
        assert_eq!(BackupPolicy::default().or(&fleet), fleet);
        let off = policy(json!({ "schedule": "off" }));
        assert_eq!(off.clone().or(&tier), off);
    }

    #[test]
    fn what_another_version_stored_leaves_the_rest_in_force() {
        let stored = json!({ "schedule": "0 2 * * *", "colour": "red" });

        assert_eq!(BackupPolicy::stored(stored), policy(json!({ "schedule": "0 2 * * *" })));
        assert_eq!(BackupPolicy::stored(json!({ "schedule": 7 })), BackupPolicy::default());
        for (wrong, words) in [
            (json!({ "schedule": "daily" }), "`backup.schedule`: expected a cron expression"),
            (json!({ "retention": "all" }), "`backup.retention`: expected what to keep"),
            (json!({ "goal_rpo": "30s" }), "`backup.goal_rpo`: expected a duration of a minute"),
            (json!({ "legal_hold": "yes" }), "`backup.legal_hold`: expected true or false"),
        ] {
            let error = BackupPolicy::parse(wrong).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        assert!(BackupPolicy::parse_of_tier(json!({ "legal_hold": true })).is_err());
    }
}
