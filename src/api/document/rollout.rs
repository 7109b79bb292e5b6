//! Rollouts as JSON: where one stands, wave by wave, and tenant by tenant.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::catalog::operations::Failure;
use crate::catalog::rollouts::{ItemState, RolloutRecord, RolloutState, RolloutTenant, WaveCount};
use crate::operations::rollouts::{FileChange, RolloutPlan};
use crate::tenant::TenantSlug;

/// A rollout.
#[derive(Debug, Serialize, ToSchema)]
pub struct RolloutDocument {
    /// Its id, and the batch of its operations.
    pub id: Uuid,
    /// How far it is.
    pub status: RolloutState,
    /// The version that its tenants are brought to.
    pub target_version: i64,
    /// How many tenants it has.
    pub tenants: i64,
    /// How many of them are at the version.
    pub succeeded: i64,
    /// How many of them failed.
    pub failed: i64,
    /// How many of them were deleted on the way.
    pub skipped: i64,
    /// The number of the wave under way.
    pub wave: i32,
    /// Every wave, in order.
    pub waves: Vec<WaveDocument>,
    /// The wave under way has ended, and the next one waits until then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bake_until: Option<Timestamp>,
    /// Why it is paused or has failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Failure>,
    /// What was asked for.
    #[schema(value_type = RolloutPlan)]
    pub plan: Value,
    /// Who asked.
    pub requested_by: String,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When its first wave began; the templates come before.
    pub begun_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

/// A wave.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct WaveDocument {
    /// Its number; the first is 0.
    pub wave: i32,
    /// What it was selected by.
    pub name: String,
    /// How many tenants are in it.
    pub tenants: i64,
    /// How many are at the version.
    pub succeeded: i64,
    /// How many failed, and are served at their old version.
    pub failed: i64,
    /// How many were deleted on the way.
    pub skipped: i64,
}

/// A rollout with its tenants.
#[derive(Debug, Serialize, ToSchema)]
pub struct RolloutDetail {
    /// The rollout.
    #[serde(flatten)]
    pub rollout: RolloutDocument,
    /// Where each tenant stands, in the order of the waves.
    pub results: Vec<RolloutTenantDocument>,
    /// What whoever answers has otherwise than the migration files that it began with: it goes on only where
    /// they are the same.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub file_changes: Vec<FileChange>,
}

/// One tenant of a rollout.
#[derive(Debug, Serialize, ToSchema)]
pub struct RolloutTenantDocument {
    /// Its slug.
    #[schema(value_type = String)]
    pub tenant_slug: TenantSlug,
    /// Its wave.
    pub wave: i32,
    /// Where it stands.
    pub status: ItemState,
    /// The newest migration that it holds.
    pub schema_version: i64,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// Its newest operation in this rollout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation_id: Option<Uuid>,
}

impl RolloutDocument {
    /// The document of what the catalog holds.
    #[must_use]
    pub fn new(record: &RolloutRecord, counts: &[WaveCount]) -> Self {
        let waves: Vec<WaveDocument> = (0..)
            .zip(&record.waves)
            .map(|(wave, name)| {
                let sum = |wanted: fn(ItemState) -> bool| {
                    let of_wave = counts.iter().filter(|count| count.wave == wave);
                    of_wave.filter(|count| wanted(count.state)).map(|count| count.tenants).sum()
                };
                WaveDocument {
                    wave,
                    name: name.clone(),
                    tenants: sum(|_| true),
                    succeeded: sum(|state| state == ItemState::Succeeded),
                    failed: sum(|state| state == ItemState::Failed),
                    skipped: sum(|state| state == ItemState::Skipped),
                }
            })
            .collect();
        Self {
            id: record.id,
            status: record.state,
            target_version: record.target_version,
            tenants: waves.iter().map(|wave| wave.tenants).sum(),
            succeeded: waves.iter().map(|wave| wave.succeeded).sum(),
            failed: waves.iter().map(|wave| wave.failed).sum(),
            skipped: waves.iter().map(|wave| wave.skipped).sum(),
            wave: record.wave,
            waves,
            bake_until: record.bake_until.filter(|_| record.state == RolloutState::Running),
            reason: record.reason.clone(),
            plan: record.plan.clone(),
            requested_by: record.requested_by.clone(),
            created_at: record.created_at,
            begun_at: record.begun_at,
            finished_at: record.finished_at,
        }
    }
}

impl RolloutDetail {
    /// The document of what the catalog holds.
    #[must_use]
    pub fn new(
        record: &RolloutRecord,
        counts: &[WaveCount],
        tenants: Vec<RolloutTenant>,
        file_changes: Vec<FileChange>,
    ) -> Self {
        let results = tenants.into_iter().map(Into::into).collect();
        Self { rollout: RolloutDocument::new(record, counts), results, file_changes }
    }
}

impl From<RolloutTenant> for RolloutTenantDocument {
    fn from(tenant: RolloutTenant) -> Self {
        Self {
            tenant_slug: tenant.slug,
            wave: tenant.wave,
            status: tenant.state,
            schema_version: tenant.schema_version,
            error: tenant.error,
            operation_id: tenant.operation,
        }
    }
}
