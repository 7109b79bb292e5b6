//! A backup, and what is known of it.

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::catalog::backups::BackupRecord;
use crate::tenant::TenantSlug;

/// A backup.
#[derive(Debug, Serialize, ToSchema)]
pub struct BackupDocument {
    /// Its id.
    pub id: Uuid,
    /// The tenant's id.
    pub tenant_id: Uuid,
    /// The tenant's slug.
    #[schema(value_type = String)]
    pub tenant_slug: TenantSlug,
    /// Size of the stored object in bytes.
    pub dump_bytes: i64,
    /// Size before compression in bytes.
    pub plain_bytes: i64,
    /// The newest migration that it holds.
    pub schema_version: i64,
    /// The PostgreSQL that it was taken from.
    pub server_version: String,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
    /// Until when it is proven that nothing was written after it.
    pub confirmed_at: Option<Timestamp>,
    /// When every byte of it was last read and compared with its manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified_at: Option<Timestamp>,
    /// When a drill last restored it and compared what came of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proven_at: Option<Timestamp>,
    /// How many seconds that restore took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proven_seconds: Option<f64>,
    /// Why it is not to be relied on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// When its key was destroyed: nobody can read it any more.
    pub erased_at: Option<Timestamp>,
}

impl From<BackupRecord> for BackupDocument {
    fn from(record: BackupRecord) -> Self {
        Self {
            id: record.id,
            tenant_id: record.tenant_id,
            tenant_slug: record.slug,
            dump_bytes: record.dump_bytes,
            plain_bytes: record.plain_bytes,
            schema_version: record.schema_version,
            server_version: record.server_version,
            started_at: record.started_at,
            finished_at: record.finished_at,
            confirmed_at: record.confirmed_at,
            verified_at: record.proof.verified_at,
            proven_at: record.proof.proven_at,
            proven_seconds: record.proof.proven_seconds,
            problem: record.proof.problem,
            erased_at: record.erased_at,
        }
    }
}
