//! The catalog: our own control database, and the one truth about tenants.
//!
//! [`Catalog`] is a cheap handle. Reads go through its pool; whatever changes a tenant goes through a
//! [`TenantLock`], which is proof that no other worker is at that tenant, and whose session does the
//! writing: when the session is gone, so is the lock, and the write fails with it.
//!
//! A commit that changes where, whether or within which limits a tenant is served raises its `generation`
//! and notifies every replica; a trigger does both, so no statement here can forget it.
//!
//! Must never: hand out a secret that is not wrapped in `SecretString`, or write about a tenant
//! without its lock once the tenant exists.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use refinery::{Migration, Runner};
use secrecy::SecretString;
use tenantry_provisioning::{PooledClient, Server, ServerUrl};
use thiserror::Error;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use self::servers::Addresses;
use crate::sealing::{MasterKey, Purpose, SealError};
use crate::tenant::NameError;
use crate::tenant::settings::SettingsError;

mod attempts;
pub mod audit_log;
pub mod audits;
pub mod backups;
pub mod catching_up;
pub mod changes;
mod chores;
mod clones;
mod cutover;
pub mod domains;
pub mod erasures;
pub mod export;
pub mod freeze;
pub mod history;
pub mod lock;
pub mod members;
pub mod messages;
pub mod moves;
pub mod operations;
pub mod placement;
mod progress;
pub mod proofs;
pub mod protection;
mod query;
pub mod read_replicas;
pub mod rebuild;
pub mod registrations;
pub mod removal;
pub mod resealing;
pub mod rollouts;
pub mod routers;
mod schema;
pub mod schema_checks;
pub mod secrets;
pub mod servers;
mod settings;
pub mod slugs;
pub mod stock;
pub mod tenants;
pub mod tiers;
pub mod tokens;
pub mod turns;
pub mod usage;
pub mod way_back;

pub use lock::TenantLock;
use query::{Params, execute, maybe, one, rows};

/// Our own schema, in order. `V44__…` goes here and nowhere else.
const MIGRATIONS: &[(&str, &str)] = &[
    ("V1__servers_and_tenants", include_str!("../migrations/catalog/V1__servers_and_tenants.sql")),
    ("V2__operations", include_str!("../migrations/catalog/V2__operations.sql")),
    ("V3__backups_and_stock", include_str!("../migrations/catalog/V3__backups_and_stock.sql")),
    ("V4__members", include_str!("../migrations/catalog/V4__members.sql")),
    ("V5__quiet_claims", include_str!("../migrations/catalog/V5__quiet_claims.sql")),
    ("V6__audit_log", include_str!("../migrations/catalog/V6__audit_log.sql")),
    ("V7__domains", include_str!("../migrations/catalog/V7__domains.sql")),
    ("V8__registrations", include_str!("../migrations/catalog/V8__registrations.sql")),
    ("V9__settings", include_str!("../migrations/catalog/V9__settings.sql")),
    ("V10__shared_budgets", include_str!("../migrations/catalog/V10__shared_budgets.sql")),
    ("V11__names", include_str!("../migrations/catalog/V11__names.sql")),
    ("V12__slugs", include_str!("../migrations/catalog/V12__slugs.sql")),
    ("V13__read_replicas", include_str!("../migrations/catalog/V13__read_replicas.sql")),
    ("V14__tiers", include_str!("../migrations/catalog/V14__tiers.sql")),
    ("V15__repeatables", include_str!("../migrations/catalog/V15__repeatables.sql")),
    ("V16__schema_checks", include_str!("../migrations/catalog/V16__schema_checks.sql")),
    ("V17__rollouts", include_str!("../migrations/catalog/V17__rollouts.sql")),
    ("V18__template_timings", include_str!("../migrations/catalog/V18__template_timings.sql")),
    ("V19__rollout_files", include_str!("../migrations/catalog/V19__rollout_files.sql")),
    ("V20__freeze", include_str!("../migrations/catalog/V20__freeze.sql")),
    ("V21__catching_up", include_str!("../migrations/catalog/V21__catching_up.sql")),
    ("V22__backup_schedules", include_str!("../migrations/catalog/V22__backup_schedules.sql")),
    ("V23__backup_keys", include_str!("../migrations/catalog/V23__backup_keys.sql")),
    ("V24__proofs", include_str!("../migrations/catalog/V24__proofs.sql")),
    ("V25__erasures", include_str!("../migrations/catalog/V25__erasures.sql")),
    ("V26__backup_events", include_str!("../migrations/catalog/V26__backup_events.sql")),
    ("V27__open_operations", include_str!("../migrations/catalog/V27__open_operations.sql")),
    ("V28__retained_at", include_str!("../migrations/catalog/V28__retained_at.sql")),
    ("V29__audits", include_str!("../migrations/catalog/V29__audits.sql")),
    ("V30__placement", include_str!("../migrations/catalog/V30__placement.sql")),
    ("V31__audit_chain", include_str!("../migrations/catalog/V31__audit_chain.sql")),
    ("V32__usage", include_str!("../migrations/catalog/V32__usage.sql")),
    ("V33__found_again", include_str!("../migrations/catalog/V33__found_again.sql")),
    ("V34__key_age", include_str!("../migrations/catalog/V34__key_age.sql")),
    ("V35__moving", include_str!("../migrations/catalog/V35__moving.sql")),
    ("V36__active_time", include_str!("../migrations/catalog/V36__active_time.sql")),
    ("V37__server_tags", include_str!("../migrations/catalog/V37__server_tags.sql")),
    ("V38__way_back", include_str!("../migrations/catalog/V38__way_back.sql")),
    ("V39__tracks", include_str!("../migrations/catalog/V39__tracks.sql")),
    ("V40__rollout_items", include_str!("../migrations/catalog/V40__rollout_items.sql")),
    ("V41__away", include_str!("../migrations/catalog/V41__away.sql")),
    ("V42__large_fleets", include_str!("../migrations/catalog/V42__large_fleets.sql")),
    ("V43__history", include_str!("../migrations/catalog/V43__history.sql")),
];

/// What a worker commits need not reach the disk at once where the catalog's server may lose it with its last moments:
/// that an operation was taken, for how long, and how many of its steps are done, as a step that is repeated changes
/// nothing; and the end of a rollout's migration. Lazy is also what is followed by something that is not, before
/// anything is done on a server that hangs on it: a commit that is written through takes all before it along.
const LAZY_COMMIT: &str = "-c synchronous_commit=off";

/// A condition that holds, and has the commit of its statement reach the disk before the answer comes. Thus is written
/// what a server is about to be changed for, and what clients are sent elsewhere by: every note of an operation, every
/// change of a tenant's row, and how an operation ends. Who forgot that a cutover has begun, or is done, could neither
/// go on with it nor undo it.
const WRITTEN_THROUGH: &str = "set_config('synchronous_commit', 'on', true) = 'on'";

/// How long whoever has an earlier answer waits for a new one.
const PATIENCE: Duration = Duration::from_secs(1);

/// The catalog's key in `pg_advisory_lock` while its schema is migrated.
const MIGRATION_LOCK: i64 = 0x7465_6e61_6e74_7279;

/// A handle on the catalog; clones share one pool.
#[derive(Clone)]
pub struct Catalog {
    shared: Arc<Shared>,
    /// Whose name stands in the audit log where no call says it.
    by: Option<Arc<str>>,
}

struct Shared {
    /// Short reads and writes, from API calls and from the router's misses.
    reads: Server,
    /// Sessions that hold a tenant's lock for as long as an operation runs.
    locks: Server,
    key: MasterKey,
    /// As their URLs say; see [`servers`].
    addresses: Addresses,
}

/// Why the catalog could not answer.
#[derive(Debug, Error)]
pub enum CatalogError {
    /// No connection could be had.
    #[error("the catalog cannot be reached")]
    Unreachable(#[source] tenantry_provisioning::Error),
    /// The catalog's PostgreSQL refused a statement.
    #[error("the catalog refused a statement: {}", describe(.0))]
    Database(#[from] tokio_postgres::Error),
    /// The schema could not be brought up to date.
    #[error("the catalog's schema could not be migrated")]
    Migration(#[source] refinery::Error),
    /// The schema is not the one this binary knows.
    #[error(transparent)]
    Version(#[from] VersionError),
    /// A secret did not open.
    #[error(transparent)]
    Sealed(#[from] SealError),
    /// Another row already has this name.
    #[error("{what} `{name}` exists already")]
    Exists {
        /// What kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// Nothing has this name.
    #[error("there is no {what} `{name}`")]
    Missing {
        /// What kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The present state forbids it.
    #[error("{0}")]
    Conflict(String),
    /// Settings that a tenant cannot have.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The session that held the tenant's lock ended: somebody else may be at work.
    #[error("this worker's lease on the tenant has ended")]
    LostLock,
    /// A row that this binary cannot have written.
    #[error("the catalog holds a value that cannot be read: {0}")]
    Corrupt(String),
}

/// The catalog's schema against the one compiled in.
#[derive(Debug, Error)]
pub enum VersionError {
    /// `init` has not been run.
    #[error("the database holds no catalog; run `tenantry init`")]
    Absent,
    /// An older binary made it.
    #[error("the catalog is at version {found}, this tenantry needs {needed}; run `tenantry init`")]
    Behind {
        /// Version found.
        found: i64,
        /// Version needed.
        needed: i64,
    },
    /// A newer binary made it.
    #[error(
        "the catalog is at version {found}, this tenantry knows {known}; install a newer tenantry"
    )]
    Ahead {
        /// Version found.
        found: i64,
        /// Newest version known.
        known: i64,
    },
}

impl Catalog {
    /// A handle on the catalog at `url`, with at most `sessions` connections in each of its two pools. Connects
    /// lazily; call [`Catalog::verify`] before use.
    #[must_use]
    pub fn new(url: &ServerUrl, key: MasterKey, sessions: usize) -> Self {
        let reads = Server::new(url.clone(), sessions);
        let locks = Server::new(url.with_options(LAZY_COMMIT), sessions);
        let shared = Shared { reads, locks, key, addresses: Addresses::default() };
        Self { shared: Arc::new(shared), by: None }
    }

    /// Where the catalog is.
    #[must_use]
    pub fn url(&self) -> &ServerUrl {
        self.shared.reads.url()
    }

    /// The server that hosts the catalog.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.shared.reads
    }

    /// Creates the catalog's database if it is missing, and brings its schema up to date.
    pub async fn init(&self) -> Result<(), CatalogError> {
        self.ensure_database().await?;
        let mut session = self.url().connect().await.map_err(CatalogError::Unreachable)?;
        session.execute("select pg_advisory_lock($1)", &[&MIGRATION_LOCK]).await?;
        if let Some(found) = schema_version(&session).await?
            && found > newest_version()
        {
            return Err(VersionError::Ahead { found, known: newest_version() }.into());
        }

        let migrations = MIGRATIONS
            .iter()
            .map(|(name, sql)| Migration::unapplied(name, sql))
            .collect::<Result<Vec<_>, _>>()
            .map_err(CatalogError::Migration)?;
        Runner::new(&migrations).run_async(&mut *session).await.map_err(CatalogError::Migration)?;

        let check =
            self.shared.key.seal(Purpose::KeyCheck, Uuid::nil(), &"tenantry".to_owned().into());
        session
            .execute(
                "-- catalog::init
                 insert into catalog_facts (name, value) values ('master_key_check', $1)
                 on conflict (name) do nothing",
                &[&check],
            )
            .await?;
        self.verify().await
    }

    /// Makes sure that the catalog has the schema of this binary and was made with this master key.
    pub async fn verify(&self) -> Result<(), CatalogError> {
        let client = self.client().await?;
        let needed = newest_version();
        match schema_version(&client).await? {
            None => return Err(VersionError::Absent.into()),
            Some(found) if found < needed => {
                return Err(VersionError::Behind { found, needed }.into());
            }
            Some(found) if found > needed => {
                return Err(VersionError::Ahead { found, known: needed }.into());
            }
            Some(_) => {}
        }
        let check = one(
            &client,
            "-- catalog::verify
             select value from catalog_facts where name = 'master_key_check'",
            &[],
        )
        .await?;
        self.open(Purpose::KeyCheck, Uuid::nil(), check.get(0)).map(drop)
    }

    async fn ensure_database(&self) -> Result<(), CatalogError> {
        match self.url().connect().await {
            Ok(_) => return Ok(()),
            Err(error) if error.sql_state() == Some(&SqlState::INVALID_CATALOG_NAME) => {}
            Err(error) => return Err(CatalogError::Unreachable(error)),
        }
        let session = self
            .url()
            .with_database("postgres")
            .connect()
            .await
            .map_err(CatalogError::Unreachable)?;
        let name = tenantry_provisioning::DatabaseName::parse(self.url().database())
            .map_err(|error| CatalogError::Corrupt(error.to_string()))?;
        match session.batch_execute(&format!("create database {}", name.quoted())).await {
            Err(error) if error.code() == Some(&SqlState::DUPLICATE_DATABASE) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Opens the connections that `workers` need, ahead of their first operation.
    pub async fn warm(&self, workers: usize) {
        tokio::join!(self.shared.reads.warm(workers), self.shared.locks.warm(workers));
    }

    /// A pooled connection for one short piece of work.
    async fn client(&self) -> Result<PooledClient, CatalogError> {
        self.shared.reads.client().await.map_err(CatalogError::Unreachable)
    }

    /// An answer for somebody who has an earlier one: a catalog that does not give it in time is away.
    pub(crate) async fn in_time<T>(
        &self,
        asked: impl Future<Output = Result<T, CatalogError>>,
    ) -> Result<T, CatalogError> {
        timeout(PATIENCE, asked).await.unwrap_or_else(|_| {
            let (server, what) = (self.url().host_label(), "waiting for an answer");
            Err(CatalogError::Unreachable(tenantry_provisioning::Error::TimedOut { server, what }))
        })
    }

    fn seal(&self, purpose: Purpose, owner: Uuid, secret: &SecretString) -> Vec<u8> {
        self.shared.key.seal(purpose, owner, secret)
    }

    fn open(
        &self,
        purpose: Purpose,
        owner: Uuid,
        sealed: &[u8],
    ) -> Result<SecretString, CatalogError> {
        Ok(self.shared.key.open(purpose, owner, sealed)?)
    }

    /// The id of the master key in use; reveals nothing of the key.
    #[must_use]
    pub fn master_key_id(&self) -> String {
        self.shared.key.id()
    }
}

impl fmt::Debug for Catalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Catalog({})", self.url().host_label())
    }
}

/// The version of the newest catalog migration compiled in.
#[must_use]
pub fn newest_version() -> i64 {
    let newest = MIGRATIONS.last().and_then(|(name, _)| name.strip_prefix('V')?.split_once("__"));
    newest.and_then(|(number, _)| number.parse().ok()).expect("the last file has a number")
}

async fn schema_version(client: &tokio_postgres::Client) -> Result<Option<i64>, CatalogError> {
    let result = client
        .query_one(
            "-- catalog::schema_version\nselect max(version)::bigint from refinery_schema_history",
            &[],
        )
        .await;
    match result {
        Ok(row) => Ok(row.get(0)),
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{} ({})", db.message(), db.code().code()),
        None => error.to_string(),
    }
}

impl From<NameError> for CatalogError {
    fn from(error: NameError) -> Self {
        Self::Conflict(error.to_string())
    }
}

impl CatalogError {
    /// Whether the same call may succeed a little later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::LostLock => true,
            // A server that shuts down or has crashed says so to whoever waits for an answer.
            Self::Database(error) => {
                error.as_db_error().is_none_or(|db| db.code().code().starts_with("57P0"))
            }
            _ => false,
        }
    }

    /// Turns the violation of the named unique constraint into [`CatalogError::Exists`].
    fn on_constraint(self, constraint: &str, what: &'static str, name: &str) -> Self {
        match &self {
            Self::Database(error)
                if error.as_db_error().and_then(|db| db.constraint()) == Some(constraint) =>
            {
                Self::Exists { what, name: name.to_owned() }
            }
            _ => self,
        }
    }
}
