//! How well a tenant is protected, as JSON: what was achieved, beside its goal.

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::operations::backup::Achieved;

/// How much of a tenant's work would be lost with its database, and how long it takes to have the rest again.
#[derive(Debug, Serialize, ToSchema)]
pub struct ProtectionDocument {
    /// The moment whose data the newest backup holds, or was shown to hold still; none without a backup.
    pub data_of: Option<Timestamp>,
    /// How long ago that is, or the tenant was made.
    pub age_seconds: u64,
    /// How long ago it may be.
    pub goal_rpo_seconds: Option<u64>,
    /// Whether it is; none without a goal.
    pub goal_met: Option<bool>,
    /// When a restore last showed that a backup is good.
    pub proven_at: Option<Timestamp>,
    /// How long that restore took.
    pub recovery_seconds: Option<f64>,
}

impl From<Achieved> for ProtectionDocument {
    fn from(achieved: Achieved) -> Self {
        Self {
            data_of: achieved.protection.data_of,
            age_seconds: achieved.age_secs,
            goal_rpo_seconds: achieved.goal_secs,
            goal_met: achieved.goal_secs.map(|_| !achieved.is_missed()),
            proven_at: achieved.protection.proven_at,
            recovery_seconds: achieved.protection.proven_seconds,
        }
    }
}
