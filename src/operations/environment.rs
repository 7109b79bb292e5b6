//! [`Environment`]: what operations work with, built once per process.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use moka::future::Cache;
use tenantry_backup::{BackupStore, PgTools};
use tenantry_provisioning::{
    Blank, Hardening, MigrationSet, MigrationTimeouts, SchemaError, Server,
};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;
use uuid::Uuid;

use super::backup::BackupRules;
use super::drills::{DrillSchedule, DrillTimes};
use super::history::HistoryRules;
use super::import::ImportSource;
use super::webhook::Webhook;
use super::{ArchiveSettings, StepError, tracks};
use crate::catalog::catching_up::CatchUpMode;
use crate::catalog::freeze::Freeze;
use crate::catalog::rollouts::{Enqueue, FleetStatus, TenantStanding};
use crate::catalog::{Catalog, CatalogError};
use crate::tenant::settings::SettingsRules;

/// How long a server's address and password are trusted before the catalog is asked again.
const SERVER_TTL: Duration = Duration::from_secs(30);
/// How long what a clone of a template is like is not looked at again. Nobody can enter a template, so it stays so.
const BLANK_TTL: Duration = Duration::from_mins(5);

pub(super) const NO_STORE: &str = "no object store is configured";
pub(super) const SET_STORE: &str =
    "set TENANTRY_S3_BUCKET (and TENANTRY_S3_ENDPOINT for a store other than AWS)";

/// Servers, object store, migrations and limits; clones share them.
#[derive(Clone, Debug)]
pub struct Environment {
    /// The control database.
    pub catalog: Catalog,
    /// Where backups go; none when no bucket is configured.
    pub store: Option<BackupStore>,
    /// Bounds on what operations do.
    pub limits: Limits,
    /// Whom to tell what happens in rollouts and to backups.
    pub webhook: Option<Webhook>,
    migrations: Arc<Mutex<MigrationSet>>,
    servers: Cache<Uuid, Server>,
    /// Programs and version of each server; looked at again after a while, as both may be upgraded.
    tools: Cache<String, (PgTools, String)>,
    here: Arc<Here>,
}

/// What belongs to this process.
#[derive(Debug)]
struct Here {
    /// To dump or to restore.
    turns: Semaphore,
    /// The dumps from elsewhere, by the operations that import them.
    sources: Mutex<HashMap<Uuid, ImportSource>>,
    /// What clones of templates are like, by the identifiers of clusters and the oids of templates.
    blanks: Cache<(i64, u32), Arc<Blank>>,
    /// What the operations of a batch are enqueued with, if it is a rollout that is to be refilled.
    enqueues: Cache<Uuid, Arc<Option<Enqueue>>>,
}

/// Bounds on what operations do.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The directory of `V<n>__<name>.sql` and `R__<name>.sql` files that every tenant gets, with those of tracks in
    /// `tracks/<name>`.
    pub migrations_dir: PathBuf,
    /// The SQL file that `--sample-data` loads.
    pub sample_data: Option<PathBuf>,
    /// Where `pg_dump` and `pg_restore` are, of each major version, if not in the usual places.
    pub pg_bin_dirs: Vec<PathBuf>,
    /// When tenants that are behind are migrated without anybody asking; none where they are not.
    pub catch_up: Option<CatchUpMode>,
    /// What tenants may see of each other.
    pub hardening: Hardening,
    /// Bounds on the statements of a migration.
    pub migration_timeouts: MigrationTimeouts,
    /// What the settings of tenants must keep to.
    pub settings: SettingsRules,
    /// How long the database that a restore replaced is kept.
    pub restore_keep: Duration,
    /// Where this machine finds the WAL archives of servers; none where it reads none.
    pub archives: Option<Box<ArchiveSettings>>,
    /// The settings in force, without any secret, for backups of the catalog.
    pub configuration: BTreeMap<String, String>,
    /// When backups are drilled without anybody asking.
    pub drills: Option<DrillSchedule>,
    /// When isolation is audited without anybody asking.
    pub audits: Option<Box<DrillTimes>>,
    /// How long entries of the audit log are kept; for good where nothing is set.
    pub audit_retention: Option<Duration>,
    /// How long what has ended is kept.
    pub history: HistoryRules,
    /// How many ready clones to keep on each server.
    pub spares: usize,
    /// What holds for scheduled backups.
    pub backups: BackupRules,
    /// What reads a whole database that is served rests for so many times as long as it works; 0 is never.
    pub nice_ratio: u32,
    /// How many dumps and restores may run at once in this process.
    pub dumps: usize,
    /// Administrator connections to each server.
    pub admin_connections: usize,
}

impl Environment {
    /// Reads the migrations and puts the parts together; connects to nothing.
    pub async fn new(
        catalog: Catalog,
        store: Option<BackupStore>,
        limits: Limits,
    ) -> Result<Self, SchemaError> {
        let migrations = load(&limits.migrations_dir).await?;
        let turns = Semaphore::new(limits.dumps);
        let blanks = Cache::builder().time_to_live(BLANK_TTL).max_capacity(100).build();
        Ok(Self {
            catalog,
            store,
            limits,
            webhook: None,
            migrations: Arc::new(Mutex::new(migrations)),
            tools: Cache::builder().time_to_live(SERVER_TTL).build(),
            here: Arc::new(Here {
                turns,
                sources: Mutex::default(),
                blanks,
                enqueues: Cache::new(100),
            }),
            servers: Cache::builder().time_to_live(SERVER_TTL).max_capacity(10_000).build(),
        })
    }

    /// The same, with somebody to tell what happens.
    #[must_use]
    pub fn with_webhook(mut self, webhook: Option<Webhook>) -> Self {
        self.webhook = webhook;
        self
    }

    /// The same for somebody: see [`Catalog::asked_by`].
    #[must_use]
    pub fn asked_by(&self, name: &str) -> Self {
        Self { catalog: self.catalog.asked_by(name), ..self.clone() }
    }

    /// The migrations as they were last read.
    #[must_use]
    pub fn migrations(&self) -> MigrationSet {
        self.migrations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The migrations that tenants may get now: those above the version at which the fleet is frozen are held
    /// back.
    pub async fn permitted(&self) -> Result<MigrationSet, CatalogError> {
        let (set, freeze) = (self.migrations(), self.catalog.freeze().await?);
        Ok(freeze.map_or_else(|| set.clone(), |freeze| set.up_to(freeze.version)))
    }

    /// What the template that these files make here is known by.
    #[must_use]
    pub fn template_digest(&self, set: &MigrationSet) -> String {
        self.limits.hardening.template_digest(set)
    }

    /// Where the fleet stands beside these files; one look at the catalog.
    pub async fn fleet_status(&self) -> Result<FleetStatus, CatalogError> {
        let set = self.migrations();
        let (target, targets) = (set.target_version(), tracks::targets(&set));
        let mut status =
            self.catalog.fleet_status(target, set.repeatables_digest(), &targets).await?;
        status.tracks = tracks::standings(&set, &status.track_counts);
        let Some(freeze) = &status.freeze else { return Ok(status) };
        let held = set.up_to(freeze.version);
        Ok(status.held_at(held.target_version(), held.repeatables_digest().is_some()))
    }

    /// Where each tenant of this fleet stands; one look at the catalog.
    pub async fn tenant_standings(
        &self,
        fleet: &FleetStatus,
    ) -> Result<Vec<TenantStanding>, CatalogError> {
        let set = self.migrations();
        let repeatables = set.repeatables_digest().filter(|_| fleet.has_repeatables);
        let targets = fleet.has_repeatables.then(|| tracks::targets(&set));
        self.catalog.tenant_standings(repeatables, targets.as_ref()).await
    }

    /// Lets nobody be migrated beyond a version, which a file must have.
    pub async fn freeze_at(&self, version: i64, by: &str) -> Result<Freeze, CatalogError> {
        let set = self.migrations();
        if set.at(version).is_none() {
            return Err(CatalogError::Conflict(format!(
                "no migration file has version {version}; the newest is {}: choose the newest that the program \
                 of before knows (TENANTRY_TENANT_MIGRATIONS_DIR)",
                set.target_version()
            )));
        }
        self.catalog.freeze_at(version, by).await
    }

    /// Reads the migrations again: a deploy may have added files.
    pub async fn reload_migrations(&self) -> Result<(), SchemaError> {
        let fresh = load(&self.limits.migrations_dir).await?;
        *self.migrations.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// Administrator access to a server of the catalog.
    pub async fn server(&self, id: Uuid) -> Result<Server, StepError> {
        if let Some(server) = self.servers.get(&id).await {
            return Ok(server);
        }
        let server = Server::new(self.catalog.server_url(id).await?, self.limits.admin_connections)
            .hardened(self.limits.hardening);
        self.servers.insert(id, server.clone()).await;
        Ok(server)
    }

    /// No longer knows a server that has been removed.
    pub(super) async fn forget_server(&self, id: Uuid) {
        self.servers.invalidate(&id).await;
    }

    /// Whether a server answers within `patience`.
    pub async fn server_answers(&self, id: Uuid, patience: Duration) -> bool {
        let asked = async { Some(self.server(id).await.ok()?.facts().await.is_ok()) };
        timeout(patience, asked).await.ok().flatten().unwrap_or(false)
    }

    /// Opens the connections that `workers` need, so that the first operations after a start do not
    /// wait for them. What cannot be reached now is left to the operation that needs it.
    pub async fn warm(&self, workers: usize) -> Result<(), CatalogError> {
        self.catalog.warm(workers).await;
        for server in self.catalog.servers().await? {
            if let Ok(server) = self.server(server.id).await {
                server.warm(workers).await;
            }
        }
        Ok(())
    }

    /// The object store, or what to do to have one.
    pub(super) fn store(&self) -> Result<&BackupStore, StepError> {
        self.store.as_ref().ok_or_else(|| StepError::fail(NO_STORE, SET_STORE))
    }

    /// `pg_dump` and `pg_restore` of the server's own major version, and that server's version.
    pub(super) async fn tools(&self, server: &Server) -> Result<(PgTools, String), StepError> {
        let address = server.url().host_label();
        if let Some(known) = self.tools.get(&address).await {
            return Ok(known);
        }
        let facts = server.facts().await?;
        let known = (self.tools_of(facts.major).await?, facts.version);
        self.tools.insert(address, known.clone()).await;
        Ok(known)
    }

    /// The same of a major version.
    pub(super) async fn tools_of(&self, major: u32) -> Result<PgTools, StepError> {
        PgTools::for_server(major, &self.limits.pg_bin_dirs).await.map_err(|error| {
            let remedy = error.remedy();
            StepError::Fail(Box::new(error), Some(remedy))
        })
    }

    /// What a clone of a template is like, if that was looked at not long ago: of the one that has this oid in the
    /// cluster with this identifier.
    pub(super) async fn blank(&self, template: (i64, u32)) -> Option<Arc<Blank>> {
        self.here.blanks.get(&template).await
    }

    /// Keeps what a clone of a template is like for the next one.
    pub(super) async fn keep_blank(&self, template: (i64, u32), blank: Arc<Blank>) {
        self.here.blanks.insert(template, blank).await;
    }

    /// What the operations of a batch are enqueued with, if that is known.
    pub(super) async fn known_enqueue(&self, batch: Uuid) -> Option<Arc<Option<Enqueue>>> {
        self.here.enqueues.get(&batch).await
    }

    /// Keeps what the operations of a batch are enqueued with, if it is a rollout that is to be refilled.
    pub(super) async fn keep_enqueue(
        &self,
        batch: Uuid,
        enqueue: Option<Enqueue>,
    ) -> Arc<Option<Enqueue>> {
        let kept = Arc::new(enqueue);
        self.here.enqueues.insert(batch, Arc::clone(&kept)).await;
        kept
    }

    /// The dump that an operation imports, if it is here.
    pub(super) fn source(&self, operation: Uuid) -> Option<ImportSource> {
        self.here.sources.lock().unwrap_or_else(PoisonError::into_inner).get(&operation).cloned()
    }

    /// Keeps the dump that an operation imports, or none any more.
    pub(super) fn keep_source(&self, operation: Uuid, source: Option<ImportSource>) {
        let mut sources = self.here.sources.lock().unwrap_or_else(PoisonError::into_inner);
        match source {
            Some(source) => drop(sources.insert(operation, source)),
            None => drop(sources.remove(&operation)),
        }
    }

    /// A turn to dump or to restore; held for as long as that takes.
    pub(super) async fn turn(&self) -> SemaphorePermit<'_> {
        self.here.turns.acquire().await.expect("nobody closes it")
    }
}

async fn load(dir: &Path) -> Result<MigrationSet, SchemaError> {
    let dir = dir.to_owned();
    tokio::task::spawn_blocking(move || MigrationSet::load(&dir))
        .await
        .expect("reading a directory does not panic")
}
