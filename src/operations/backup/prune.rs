//! Removing backups that nobody wants any more, and what crashed uploads left in the bucket.
//!
//! What goes is decided once more under the tenant's lock, just before it goes: no restore is under way then, and
//! no backup. A backup goes from the bucket first and then from the catalog, so that one that the catalog knows
//! is either whole or about to go.
//!
//! Must never: remove the newest good backup of a tenant, the newest that was verified or proven, one that a restore
//! waits for, one whose objects are locked in the bucket, or any of a tenant under legal hold; nor a whole backup
//! that only the catalog does not know: after a catalog was lost, these are what is left.

use std::collections::{BTreeMap, HashSet};

use futures_util::FutureExt as _;
use jiff::{SignedDuration, Timestamp};
use tenantry_backup::{BackupStore, KeyScope, ObjectInfo};
use uuid::Uuid;

use crate::catalog::CatalogError;
use crate::catalog::backups::BackupRecord;
use crate::operations::{Environment, Plan, Step, StepContext, StepError, Work};
use crate::tenant::settings::BackupPolicy;
use crate::tenant::{Candidate, Tenant};

pub(crate) const PLAN: Plan =
    Plan { steps: &[Step::new("remove", |cx| remove(cx).boxed())], abandon: &[], no_return: 1 };

/// Objects without a manifest are left alone for this long: an upload may be under way.
const ORPHAN_AGE: SignedDuration = SignedDuration::from_hours(24);
/// Who asks for it after a backup.
const AFTER_BACKUP: &str = "retention";

/// What would become of a tenant's backups.
#[derive(Clone, Debug)]
pub struct PrunePlan {
    /// Each backup, newest first, and why it is kept; one without a reason goes.
    pub backups: Vec<(BackupRecord, Vec<String>)>,
    /// What lies in the bucket and the catalog does not know.
    pub strays: Vec<Stray>,
}

/// Objects of one backup that the catalog does not know.
#[derive(Clone, Debug)]
pub struct Stray {
    /// The backup that they would be of.
    pub backup: Uuid,
    /// How many they are.
    pub objects: usize,
    /// How large they are together.
    pub bytes: u64,
    /// When the newest was written.
    pub written_at: Timestamp,
    /// Why they are left alone, if they are.
    pub keep: Option<&'static str>,
}

impl Environment {
    /// What pruning would do to a tenant's backups at a moment; changes nothing.
    pub async fn prune_plan(
        &self,
        tenant: &Tenant,
        now: Timestamp,
    ) -> Result<PrunePlan, StepError> {
        let (store, catalog) = (self.store()?, &self.catalog);
        let policy = self.backup_policy(tenant.id).await?;
        let backups = catalog.backups_of(tenant.id).await?;
        let known = backups.iter().map(|backup| backup.id);
        let known = known.chain(catalog.open_backups(tenant.id).await?).collect();
        let strays = strays(store, tenant.id, &known, now).await?;

        let mut reasons = judge(&policy, &backups, now);
        let awaited = catalog.awaited_backups(tenant.id).await?;
        for (backup, reasons) in backups.iter().zip(&mut reasons) {
            if awaited.contains(&backup.id) {
                reasons.push("a restore waits for it".to_owned());
            }
            if reasons.is_empty()
                && let Some(until) = locked_until(store, backup).await?.filter(|until| *until > now)
            {
                reasons.push(format!("locked in the bucket until {until:.0}"));
            }
        }
        Ok(PrunePlan { backups: backups.into_iter().zip(reasons).collect(), strays })
    }

    /// How a tenant is backed up: as its settings say, its tier, or the fleet's settings.
    pub async fn backup_policy(&self, tenant: Uuid) -> Result<BackupPolicy, CatalogError> {
        let own = self.catalog.backup_policy(tenant).await?;
        Ok(own.or(&self.limits.backups.policy))
    }
}

impl PrunePlan {
    /// The backups that go.
    pub fn doomed(&self) -> impl Iterator<Item = &BackupRecord> {
        self.backups.iter().filter(|(_, reasons)| reasons.is_empty()).map(|(backup, _)| backup)
    }

    /// The strays that go.
    pub fn litter(&self) -> impl Iterator<Item = &Stray> {
        self.strays.iter().filter(|stray| stray.keep.is_none())
    }
}

/// Asks for the tenant's backups to be pruned, once for each backup, where anybody said what to keep.
pub(super) async fn ask_after_backup(cx: &StepContext<'_>) -> Result<(), StepError> {
    if cx.environment.backup_policy(cx.tenant.id).await?.retention.is_none() {
        return Ok(());
    }
    let key = format!("prune after {}", cx.operation.id);
    let mut operation = Work::Prune {}.new_operation(cx.tenant.id, AFTER_BACKUP);
    operation.idempotency_key = Some(&key);
    cx.environment.catalog.enqueue_once(&operation).await?;
    Ok(())
}

async fn remove(cx: &StepContext<'_>) -> Result<(), StepError> {
    let (store, tenant) = (cx.environment.store()?, cx.tenant.id);
    let now = Timestamp::now();
    let plan = cx.environment.prune_plan(&cx.tenant, now).await?;
    for backup in plan.doomed() {
        if is_wanted_now(cx, backup.id).await? {
            tracing::info!(backup = %backup.id, "backup kept: a hold or a restore has come meanwhile");
            continue;
        }
        store.remove_backup(tenant, backup.id).await?;
        cx.lock.forget_backups(Some(backup.id)).await?;
        tracing::info!(backup = %backup.id, of = %backup.started_at, "backup removed by its retention");
    }
    for stray in plan.litter() {
        store.remove_backup(tenant, stray.backup).await?;
        tracing::warn!(
            backup = %stray.backup, objects = stray.objects, bytes = stray.bytes,
            "objects of an upload that never ended are removed"
        );
    }
    // No listing shows these: also under a backup that came to its end, when a connection broke as it began.
    let unfinished = store.abort_older(tenant, now - ORPHAN_AGE).await?;
    if unfinished > 0 {
        tracing::warn!(unfinished, "uploads that never ended are removed");
    }
    for stray in plan.strays.iter().filter(|stray| stray.keep == Some(WHOLE)) {
        tracing::warn!(backup = %stray.backup, "the bucket has a backup that the catalog does not know; it is left");
    }
    Ok(())
}

/// Whether a hold, or a restore that reads this backup, has come since it was decided that it goes.
async fn is_wanted_now(cx: &StepContext<'_>, backup: Uuid) -> Result<bool, StepError> {
    let is_held = cx.environment.backup_policy(cx.tenant.id).await?.legal_hold == Some(true);
    let awaited = cx.environment.catalog.awaited_backups(cx.tenant.id).await?;
    Ok(is_held || awaited.contains(&backup))
}

fn judge(policy: &BackupPolicy, backups: &[BackupRecord], now: Timestamp) -> Vec<Vec<String>> {
    let candidates: Vec<Candidate> = backups
        .iter()
        .map(|backup| Candidate {
            of: backup.data_of(),
            good: backup.is_good(),
            verified: backup.proof.verified_at.is_some(),
            proven: backup.proof.proven_at.is_some(),
        })
        .collect();
    let mut reasons = match &policy.retention {
        Some(retention) => retention.judge(&candidates, now),
        None => vec![vec!["no retention is set".to_owned()]; backups.len()],
    };
    if policy.legal_hold == Some(true) {
        for reasons in &mut reasons {
            reasons.push("legal hold".to_owned());
        }
    }
    reasons
}

/// Until when the bucket itself refuses to lose an object of a backup.
async fn locked_until(
    store: &BackupStore,
    backup: &BackupRecord,
) -> Result<Option<Timestamp>, StepError> {
    let scope = KeyScope::Backup { tenant: backup.tenant_id, backup: backup.id };
    let mut latest = None;
    for object in store.list(scope).await? {
        latest = latest.max(store.locked_until(&object.key).await?);
    }
    Ok(latest)
}

const WHOLE: &str = "it is a whole backup that only the catalog does not know";

/// What the bucket holds of a tenant besides the backups that are known.
async fn strays(
    store: &BackupStore,
    tenant: Uuid,
    known: &HashSet<Uuid>,
    now: Timestamp,
) -> Result<Vec<Stray>, StepError> {
    let mut found: BTreeMap<Uuid, Vec<ObjectInfo>> = BTreeMap::new();
    for object in store.list(KeyScope::Tenant(tenant)).await? {
        if !known.contains(&object.key.backup()) {
            found.entry(object.key.backup()).or_default().push(object);
        }
    }
    let strays = found.into_iter().map(|(backup, objects)| {
        let written_at = objects.iter().map(|object| object.last_modified).max().unwrap_or(now);
        let keep = if objects.iter().any(|object| object.key.is_manifest()) {
            Some(WHOLE)
        } else {
            let young = now.duration_since(written_at) < ORPHAN_AGE;
            young.then_some("it is younger than a day, and may be an upload under way")
        };
        let bytes = objects.iter().map(|object| object.size).sum();
        Stray { backup, objects: objects.len(), bytes, written_at, keep }
    });
    Ok(strays.collect())
}
