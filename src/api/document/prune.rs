//! What pruning does to a tenant's backups, as JSON.

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::catalog::backups::BackupRecord;
use crate::operations::backup::{PrunePlan, Stray};
use crate::tenant::TenantSlug;

/// What would become of a tenant's backups.
#[derive(Debug, Serialize, ToSchema)]
pub struct PruneDocument {
    /// The tenant's slug.
    #[schema(value_type = String)]
    pub tenant_slug: TenantSlug,
    /// Every backup, newest first.
    pub backups: Vec<JudgedBackup>,
    /// What lies in the bucket and the catalog does not know.
    pub strays: Vec<StrayDocument>,
}

/// A backup, and why it stays.
#[derive(Debug, Serialize, ToSchema)]
pub struct JudgedBackup {
    /// Its id.
    pub id: Uuid,
    /// The moment whose data it holds.
    pub started_at: Timestamp,
    /// Size of the stored object in bytes.
    pub dump_bytes: i64,
    /// Why it is kept; empty where it goes.
    pub keep: Vec<String>,
}

/// Objects of one backup that the catalog does not know.
#[derive(Debug, Serialize, ToSchema)]
pub struct StrayDocument {
    /// The backup that they would be of.
    pub backup: Uuid,
    /// How many they are.
    pub objects: usize,
    /// How large they are together.
    pub bytes: u64,
    /// When the newest was written.
    pub written_at: Timestamp,
    /// Why they are left alone; none where they go.
    pub keep: Option<&'static str>,
}

impl PruneDocument {
    /// The document of a plan.
    #[must_use]
    pub fn new(slug: &TenantSlug, plan: PrunePlan) -> Self {
        Self {
            tenant_slug: slug.clone(),
            backups: plan.backups.into_iter().map(JudgedBackup::from).collect(),
            strays: plan.strays.into_iter().map(StrayDocument::from).collect(),
        }
    }

    /// How many backups and strays go.
    #[must_use]
    pub fn removes(&self) -> usize {
        self.backups.iter().filter(|backup| backup.keep.is_empty()).count()
            + self.strays.iter().filter(|stray| stray.keep.is_none()).count()
    }
}

impl From<(BackupRecord, Vec<String>)> for JudgedBackup {
    fn from((backup, keep): (BackupRecord, Vec<String>)) -> Self {
        Self { id: backup.id, started_at: backup.started_at, dump_bytes: backup.dump_bytes, keep }
    }
}

impl From<Stray> for StrayDocument {
    fn from(stray: Stray) -> Self {
        Self {
            backup: stray.backup,
            objects: stray.objects,
            bytes: stray.bytes,
            written_at: stray.written_at,
            keep: stray.keep,
        }
    }
}
