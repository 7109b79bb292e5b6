//! Settings of scheduled backups, and of what else needs a bucket.

use std::time::Duration;

use secrecy::ExposeSecret as _;
use tenantry_backup::{BackupStore, ObjectLock, S3Settings, ServerEncryption, StoreError};

use super::Settings;
use super::error::Problem;
use super::reader::Reader;
use super::value::{Percent, Positive, Value};
use crate::operations::backup::BackupRules;
use crate::tenant::settings::BackupPolicy;

/// Reads what holds for scheduled backups. A schedule without a bucket is refused: nobody would miss the backups
/// before they are needed.
pub(super) fn read(r: &mut Reader, concurrency: usize) -> BackupRules {
    let usual = BackupRules::default();
    for (schedule, name) in [
        ("backup_schedule", "TENANTRY_BACKUP_SCHEDULE"),
        ("drill_schedule", "TENANTRY_DRILL_SCHEDULE"),
    ] {
        if r.is_set(schedule) && !r.is_set("s3_bucket") {
            r.problem(Problem::Contradiction {
                message: format!("{name} is set, and no bucket to keep backups in"),
                remedy: "set TENANTRY_S3_BUCKET, or take the schedule away".to_owned(),
            });
        }
    }
    BackupRules {
        policy: BackupPolicy {
            schedule: r.get("backup_schedule"),
            retention: r.get("backup_retention"),
            goal_rpo: r.get("backup_goal_rpo"),
            legal_hold: None,
        },
        concurrency,
        per_server: r.get("backup_server_concurrency").map_or(concurrency, |Positive(n)| n),
        pause_above: r.get("backup_pause_above").map_or(usual.pause_above, |Percent(n)| n),
    }
}

/// Reads how long the audit log is kept. Nothing of it is removed that no checkpoint in a bucket vouches for.
pub(super) fn audit_retention(r: &mut Reader) -> Option<Duration> {
    if r.is_set("audit_retention") && !r.is_set("s3_bucket") {
        r.problem(Problem::Contradiction {
            message: "TENANTRY_AUDIT_RETENTION is set, and no bucket for the checkpoints that stay"
                .to_owned(),
            remedy: "set TENANTRY_S3_BUCKET, or keep the whole log".to_owned(),
        });
    }
    r.get("audit_retention")
}

impl Value for ObjectLock {
    const EXPECTED: &'static str = Self::EXPECTED;

    fn read(text: &str) -> Result<Self, Option<String>> {
        text.parse().map_err(|_| None)
    }
}

impl Value for ServerEncryption {
    const EXPECTED: &'static str = Self::EXPECTED;

    fn read(text: &str) -> Result<Self, Option<String>> {
        text.parse().map_err(|_| None)
    }
}

impl Settings {
    /// The store for backups; none when no bucket is set.
    pub async fn store(&self) -> Result<Option<BackupStore>, StoreError> {
        let Some(bucket) = &self.s3_bucket else { return Ok(None) };
        let settings = S3Settings {
            bucket: bucket.clone(),
            prefix: self.s3_prefix.trim_matches('/').to_owned(),
            endpoint: self.s3_endpoint.clone(),
            region: self.s3_region.clone(),
            force_path_style: self.s3_force_path_style,
            credentials: self
                .s3_access_key_id
                .clone()
                .zip(self.s3_secret_access_key.clone())
                .map(|(id, secret)| (id.expose_secret().to_owned(), secret)),
            object_lock: self.s3_object_lock,
            encryption: self.s3_encryption.clone(),
        };
        BackupStore::s3(settings).await.map(Some)
    }
}
