//! Rebuilding a fleet from the bucket: every tenant of which there is a backup, into a catalog that does not
//! know it, on the servers that there are now. For this the bucket and the master key are enough; a backup of
//! the catalog, if there is one, says what the tenants were called.
//!
//! What the catalog knows stays as it is, so this may be done again: it then goes on where it stopped.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt as _, stream};
use serde_json::Value;
use tenantry_backup::{Manifest, RestoreError, load_manifest};
use uuid::Uuid;

use super::{Environment, StepError, Work};
use crate::catalog::CatalogError;
use crate::catalog::export::CatalogExport;
use crate::catalog::operations::{OperationFilter, OperationState};
use crate::catalog::rebuild::{LostTenant, StoredBackup};
use crate::tenant::Tier;

/// The batch of all that is rebuilt, however often that is asked for; `rebuild` in ASCII.
const BATCH: Uuid = Uuid::from_u128(0x7265_6275_696c_4064_8565_0000_0000_0000);
/// How many manifests are read at a time.
const AT_A_TIME: usize = 8;

/// How to rebuild.
#[derive(Clone, Debug)]
pub struct Rebuild {
    /// The servers to use, by name; all of the catalog when none is named.
    pub servers: Vec<String>,
    /// The tiers, the most urgent first; one that is not named is left for later.
    pub tiers: Vec<Tier>,
}

/// What was found in the bucket.
#[derive(Clone, Debug)]
pub struct Found {
    /// The operations that rebuild it.
    pub batch: Uuid,
    /// Whether there is a backup of the catalog.
    pub has_catalog: bool,
    /// Tenants that are to be rebuilt from now on.
    pub tenants: usize,
    /// Tenants that the catalog knew already.
    pub known: usize,
    /// Tenants of which there is no backup that can be used, and why.
    pub lost: Vec<(String, String)>,
}

/// A tenant to rebuild.
struct Candidate {
    tenant: LostTenant,
    id: Uuid,
    tier: Tier,
    /// Its newest backup.
    backup: Uuid,
}

impl Environment {
    /// Writes down every tenant that the bucket has and the catalog has not, each with the operation that
    /// restores it.
    pub async fn rebuild_from_bucket(
        &self,
        rebuild: &Rebuild,
        by: &str,
    ) -> Result<Found, StepError> {
        let servers = self.servers_to_use(&rebuild.servers).await?;
        let export = self.newest_catalog_backup().await?;
        let mut found = Found {
            batch: BATCH,
            has_catalog: export.is_some(),
            tenants: 0,
            known: 0,
            lost: Vec::new(),
        };
        let rows = export.as_ref().map(rows_by_id).unwrap_or_default();
        let stored: BTreeSet<Uuid> = self.store()?.tenants().await?.into_iter().collect();
        for (id, row) in rows.iter().filter(|(_, row)| row["state"] == "deleted") {
            self.bury(*id, row, &stored).await?;
        }
        let mut candidates = self.candidates(stored, &rows, export.as_ref(), &mut found).await?;
        let rank = |tier| rebuild.tiers.iter().position(|wanted| *wanted == tier);
        candidates.retain(|candidate| rank(candidate.tier).is_some());
        candidates.sort_by_key(|candidate| (rank(candidate.tier), candidate.id));
        for candidate in candidates {
            match self.enqueue_rebuild(&candidate, &servers, by).await {
                // What is wrong with one tenant keeps nobody else waiting.
                Err(error) if !error.is_transient() => {
                    let name = candidate.tenant.row["slug"].as_str().unwrap_or_default();
                    found.lost.push((name.to_owned(), error.to_string()));
                }
                asked => {
                    asked?;
                    found.tenants += 1;
                }
            }
        }
        if let Some(export) = &export {
            self.catalog.rebuild_rest(export).await?;
        }
        self.try_again().await?;
        Ok(found)
    }

    async fn servers_to_use(&self, named: &[String]) -> Result<Vec<String>, StepError> {
        if named.is_empty() {
            let mut all = self.catalog.servers().await?;
            all.retain(|server| server.cordoned.is_none());
            if all.is_empty() {
                return Err(StepError::fail(
                    "the catalog has no server to put tenants on, or all are cordoned",
                    "add one with `tenantry server add`, then do this again",
                ));
            }
            return Ok(all.into_iter().map(|server| server.name).collect());
        }
        for name in named {
            self.catalog.server_by_name(name).await?;
        }
        Ok(named.to_vec())
    }

    /// The tenants in the bucket, and those that only the catalog's backup knows.
    async fn candidates(
        &self,
        mut ids: BTreeSet<Uuid>,
        rows: &BTreeMap<Uuid, &Value>,
        export: Option<&CatalogExport>,
        found: &mut Found,
    ) -> Result<Vec<Candidate>, StepError> {
        let living = rows.iter().filter(|(_, row)| row["state"] != "deleted");
        ids.extend(living.map(|(id, _)| *id));
        let mut candidates = Vec::new();
        for id in ids {
            if self.catalog.knows_tenant(id).await? {
                found.known += 1;
                continue;
            }
            match self.candidate(id, rows.get(&id).copied(), export).await {
                Ok(candidate) => candidates.push(candidate),
                Err(error @ StepError::Fail(..)) => {
                    let slug = rows.get(&id).and_then(|row| row["slug"].as_str());
                    let name = slug.map_or_else(|| id.to_string(), str::to_owned);
                    found.lost.push((name, error.to_string()));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(candidates)
    }

    async fn candidate(
        &self,
        id: Uuid,
        row: Option<&Value>,
        export: Option<&CatalogExport>,
    ) -> Result<Candidate, StepError> {
        let backups = self.usable_backups(id).await?;
        let newest = backups.first().ok_or_else(|| {
            StepError::fail("there is no backup of it in the bucket", "look for it elsewhere")
        })?;
        let (backup, wrapped) = (newest.manifest.backup, &newest.key.wrapped);
        let row = self.catalog.with_backup_key(id, row, wrapped);
        let server = export.and_then(|export| {
            let server = export.rows("servers").iter().find(|one| one["id"] == row["server_id"])?;
            server["name"].as_str().map(str::to_owned)
        });
        let tier = row["tier"].as_str().and_then(Tier::parse).unwrap_or_default();
        let tenant = LostTenant { row, server, backups };
        Ok(Candidate { tenant, id, tier, backup })
    }

    /// Writes down that a tenant was deleted; the backups that it left can be restored as before.
    async fn bury(&self, id: Uuid, row: &Value, stored: &BTreeSet<Uuid>) -> Result<(), StepError> {
        if self.catalog.knows_tenant(id).await? {
            return Ok(());
        }
        let mut backups = Vec::new();
        if stored.contains(&id) {
            backups = match self.usable_backups(id).await {
                Err(StepError::Fail(..)) => Vec::new(),
                usable => usable?,
            };
        }
        let dead = LostTenant { row: row.clone(), server: None, backups };
        Ok(self.catalog.bury_tenant(&dead).await?)
    }

    /// The backups of a tenant whose manifests are what was signed with a key of ours, the newest first. Why
    /// there is none, where all are refused.
    async fn usable_backups(&self, id: Uuid) -> Result<Vec<StoredBackup>, StepError> {
        let store = self.store()?;
        let mut loading = stream::iter(store.backups_of(id).await?)
            .map(|backup| async move { (backup, load_manifest(store, id, backup).await) })
            .buffered(AT_A_TIME);
        let (mut usable, mut refused) = (Vec::new(), None);
        while let Some((backup, loaded)) = loading.next().await {
            match loaded.map_err(StepError::from).and_then(|manifest| self.prove(manifest)) {
                Ok(stored) => usable.push(stored),
                // One that cannot be read is no reason to do without the others.
                Err(error @ StepError::Fail(..)) => {
                    tracing::warn!(%backup, %error, "a manifest is refused");
                    refused = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        usable.sort_by_key(|stored: &StoredBackup| Reverse(stored.manifest.started_at));
        match refused {
            Some(error) if usable.is_empty() => Err(error),
            _ => Ok(usable),
        }
    }

    fn prove(&self, manifest: Manifest) -> Result<StoredBackup, StepError> {
        let key = self.catalog.backup_key_in(&manifest)?;
        manifest.verify(&key.open, manifest.tenant).map_err(RestoreError::from)?;
        Ok(StoredBackup { manifest, key })
    }

    async fn enqueue_rebuild(
        &self,
        candidate: &Candidate,
        servers: &[String],
        by: &str,
    ) -> Result<(), CatalogError> {
        // Nor is one served again that was about to go.
        let state = &candidate.tenant.row["state"];
        let suspended = state == "suspended" || state == "deleting";
        let work = Work::RestoreAs { backup: candidate.backup, suspended };
        let mut operation = work.new_operation(candidate.id, by);
        operation.batch_id = Some(BATCH);
        self.catalog.rebuild_tenant(&candidate.tenant, servers, &operation).await.map(drop)
    }

    /// What failed in an earlier attempt is tried again.
    async fn try_again(&self) -> Result<(), StepError> {
        let filter = OperationFilter {
            batch: Some(BATCH),
            state: Some(OperationState::Failed),
            limit: i64::MAX,
            ..OperationFilter::default()
        };
        for (operation, _) in self.catalog.operations(&filter).await? {
            self.catalog.retry(operation.id).await?;
        }
        Ok(())
    }
}

fn rows_by_id(export: &CatalogExport) -> BTreeMap<Uuid, &Value> {
    let rows = export.rows("tenants").iter();
    rows.filter_map(|row| Some((row["id"].as_str()?.parse().ok()?, row))).collect()
}
