//! [`Settings`]: what the operator decided, typed and checked, from the settings file, the environment
//! (`TENANTRY_…`) and flags; the later wins.
//!
//! A name that no setting has is refused rather than ignored: a typing error must not leave a default
//! in force. Everything that is wrong is found in one go. Secrets stay [`SecretString`]s, and no error
//! shows one.
//!
//! This is the one place that reads the environment of the process.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use tenantry_backup::{ObjectLock, ServerEncryption};
use tenantry_provisioning::{Hardening, MigrationTimeouts, NICE_RATIO, ServerUrl};

use crate::catalog::Catalog;
use crate::catalog::catching_up::CatchUpMode;
use crate::operations::backup::BackupRules;
use crate::operations::drills::{DrillSchedule, DrillTimes};
use crate::operations::history::HistoryRules;
use crate::operations::webhook::Webhook;
use crate::operations::{ArchiveSettings, Limits};
use crate::router::RouterSettings;
use crate::sealing::MasterKey;
use crate::sql::SqlSettings;
use crate::tenant::TenantSlug;
use crate::tenant::settings::SettingsRules;

mod access;
mod auth;
mod backup;
mod choice;
mod edge;
mod error;
mod history;
mod key;
mod pitr;
mod reader;
mod registration;
mod source;
mod sql;
mod telemetry;
mod value;
mod webhook;

pub use choice::{AuthProvider, Deployment, LogFormat, MigrationMode};
pub use edge::{EdgeSettings, TlsPair};
pub use error::{ConfigError, Problem};
pub use key::{KEYS, Key, nearest_of};
pub use reader::Explained;
pub use source::Origin;

use auth::Identity;
use reader::Reader;
use registration::Registration;
use value::{Count, Endpoint, Filter, Positive, PostgresUrl, Ratio};

/// Where sample data lies in a checkout of this repository.
const SAMPLE_DATA: &str = "./migrations/sample/boards.sql";
/// Connections to each server beyond one for each operation at work.
const SPARE_SESSIONS: usize = 4;
/// The same to the catalog: each loop of a worker may hold one for as long as its chore takes, and must not keep the
/// others, or operations, from theirs.
const CHORE_SESSIONS: usize = 13;

/// Every setting.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
pub struct Settings {
    /// What this deployment is for.
    pub environment: Deployment,
    /// The control database.
    pub catalog_url: Option<SecretString>,
    /// The first tenant server; the catalog's when not set.
    pub server_url: Option<SecretString>,
    /// Seals the catalog's secrets.
    pub master_key: Option<SecretString>,
    /// Keys that open what the master key of before has sealed.
    pub master_key_previous: Option<SecretString>,
    /// Where the data plane listens.
    pub listen: SocketAddr,
    /// Where the admin API listens.
    pub admin_listen: SocketAddr,
    /// How the listeners meet their clients.
    pub edge: EdgeSettings,
    /// Whether requests name their tenant.
    pub multi_tenant_mode: bool,
    /// The one tenant in single-tenant mode; always there when `multi_tenant_mode` is false.
    pub tenant_slug: Option<TenantSlug>,
    /// That tenant's name for people.
    pub tenant_name: Option<String>,
    identity: Identity,
    registration: Registration,
    /// Whom to ask for the proof of a domain; the system's name servers when not set.
    pub dns_server: Option<SocketAddr>,
    /// The directory of migrations for tenants.
    pub tenant_migrations_dir: PathBuf,
    /// The SQL file with sample rows.
    pub tenant_sample_data: Option<PathBuf>,
    /// What tenants may see of each other.
    pub hardening: Hardening,
    /// What the settings of tenants must keep to.
    pub tenant_settings: SettingsRules,
    /// Most connections to one tenant's database.
    pub pool_max_size: usize,
    /// Most connections to one server, over all its tenants.
    pub server_connection_budget: usize,
    /// After this time without use a connection is closed.
    pub pool_idle_timeout: Duration,
    /// How long a request waits for a connection.
    pub pool_wait_timeout: Duration,
    /// How far a read replica may be behind and still be read from.
    pub replica_max_lag: Duration,
    /// Bounds of SQL over HTTP.
    pub sql: SqlSettings,
    /// The bucket for backups.
    pub s3_bucket: Option<String>,
    /// What every key in the bucket begins with.
    pub s3_prefix: String,
    /// The address of a store other than AWS.
    pub s3_endpoint: Option<String>,
    /// The bucket's region.
    pub s3_region: Option<String>,
    /// The id of a key for the store; the AWS chain is asked when there is none.
    pub s3_access_key_id: Option<SecretString>,
    /// That key's secret.
    pub s3_secret_access_key: Option<SecretString>,
    /// Whether the bucket is part of the path.
    pub s3_force_path_style: bool,
    /// How long the bucket holds what is of a backup.
    pub s3_object_lock: Option<ObjectLock>,
    /// With what the store encrypts what it keeps.
    pub s3_encryption: Option<ServerEncryption>,
    /// Backups that one command takes at a time.
    pub backup_concurrency: usize,
    /// What holds for scheduled backups.
    pub backups: BackupRules,
    /// Operations that one replica drives at a time.
    pub worker_concurrency: usize,
    /// Ready clones on each server.
    pub warm_spares: usize,
    /// When backups are drilled without anybody asking.
    pub drill_schedule: Option<DrillTimes>,
    /// How many tenants' backups then.
    pub drill_sample: usize,
    /// When isolation is audited without anybody asking.
    pub audit_schedule: Option<DrillTimes>,
    /// How long entries of the audit log are kept; for good where nothing is set.
    pub audit_retention: Option<Duration>,
    /// How long what has ended is kept.
    pub history: HistoryRules,
    /// How long the database that a restore replaced is kept.
    pub restore_keep: Duration,
    /// Online moves rest for so many times as long as they work.
    pub relocate_nice_ratio: u32,
    /// Where the WAL archives of servers are.
    pub archives: Option<Box<ArchiveSettings>>,
    /// When a tenant that is behind is migrated.
    pub migration_mode: MigrationMode,
    /// How long a migration waits for a lock.
    pub migration_lock_timeout: Duration,
    /// How long one statement of a migration may run.
    pub migration_statement_timeout: Duration,
    /// Whom to tell what happens in rollouts and to backups.
    pub webhook: Option<Webhook>,
    /// Where `pg_dump` and `pg_restore` are, of each major version; none means the usual places.
    pub pg_bin_dirs: Vec<PathBuf>,
    /// Whether histograms are kept.
    pub advanced_metrics: bool,
    /// Whether the requests of each tenant are counted.
    pub metrics_per_tenant: bool,
    /// What is logged, when somebody said so.
    pub log_level: Option<String>,
    /// The OpenTelemetry collector that traces go to.
    pub collector: Option<String>,
    /// How it is logged.
    pub log_format: LogFormat,
    explained: Vec<Explained>,
}

impl Settings {
    /// Reads the settings of this process. `flags` are settings that were given on the command line,
    /// by name; `file` is what `--config` says, before `TENANTRY_CONFIG`.
    pub fn load(
        file: Option<&Path>,
        flags: &[(&'static str, String)],
    ) -> Result<Self, ConfigError> {
        let environment: Vec<_> = std::env::vars_os().collect();
        Self::read(file, &environment, flags)
    }

    /// Reads the settings of one file, whatever the environment says.
    pub fn from_file(file: &Path) -> Result<Self, ConfigError> {
        Self::read(Some(file), &[], &[])
    }

    /// Reads settings from a given environment.
    pub fn read(
        file: Option<&Path>,
        environment: &[(OsString, OsString)],
        flags: &[(&'static str, String)],
    ) -> Result<Self, ConfigError> {
        let mut gathered = source::Gathered::default();
        let named = environment
            .iter()
            .find(|(name, value)| name == key::CONFIG_VARIABLE && !value.is_empty());
        if let Some(path) = file.or(named.map(|(_, path)| Path::new(path))) {
            gathered.file(path);
        }
        gathered.environment(environment);
        gathered.flags(flags);
        Self::build(Reader::new(gathered))
    }

    fn build(mut reader: Reader) -> Result<Self, ConfigError> {
        let r = &mut reader;
        let environment = r.get("environment").unwrap_or(Deployment::Development);
        let listen = r.get("listen").unwrap_or(SocketAddr::from(([127, 0, 0, 1], 8080)));
        let backup_concurrency = r.get("backup_concurrency").map_or(2, |Positive(number)| number);
        let settings = Self {
            environment,
            catalog_url: r.get("catalog_url").map(|PostgresUrl(url)| url),
            server_url: r.get("server_url").map(|PostgresUrl(url)| url),
            master_key: r.get("master_key"),
            master_key_previous: r.get("master_key_previous"),
            listen,
            admin_listen: r.get("admin_listen").unwrap_or(SocketAddr::from(([127, 0, 0, 1], 8081))),
            edge: edge::read(r, environment),
            multi_tenant_mode: r.get("multi_tenant_mode").unwrap_or(true),
            tenant_slug: r.get("tenant_slug"),
            tenant_name: r.get("tenant_name"),
            identity: auth::read(r),
            registration: registration::read(r),
            dns_server: r.get("dns_server"),
            tenant_migrations_dir: r
                .get("tenant_migrations_dir")
                .unwrap_or_else(|| "./migrations/tenant".into()),
            tenant_sample_data: r
                .get("tenant_sample_data")
                .or_else(|| Some(PathBuf::from(SAMPLE_DATA)).filter(|path| path.is_file())),
            hardening: choice::hardening(r, environment),
            tenant_settings: r.get("tenant_compliance_schema").unwrap_or_default(),
            pool_max_size: r.get("pool_max_size").map_or(10, |Positive(size)| size),
            server_connection_budget: r
                .get("server_connection_budget")
                .map_or(80, |Positive(number)| number),
            pool_idle_timeout: r.get("pool_idle_timeout").unwrap_or(Duration::from_mins(5)),
            pool_wait_timeout: r.get("pool_wait_timeout").unwrap_or(Duration::from_secs(10)),
            replica_max_lag: r.get("replica_max_lag").unwrap_or(Duration::from_secs(10)),
            sql: sql::read(r, environment, listen),
            s3_bucket: r.get("s3_bucket"),
            s3_prefix: r.get("s3_prefix").unwrap_or_else(|| "tenantry".to_owned()),
            s3_endpoint: r.get("s3_endpoint").map(|Endpoint(address)| address),
            s3_region: r.get("s3_region"),
            s3_access_key_id: r.get("s3_access_key_id"),
            s3_secret_access_key: r.get("s3_secret_access_key"),
            s3_force_path_style: r.get("s3_force_path_style").unwrap_or(false),
            s3_object_lock: r.get("s3_object_lock"),
            s3_encryption: r.get("s3_encryption"),
            backup_concurrency,
            backups: backup::read(r, backup_concurrency),
            worker_concurrency: r.get("worker_concurrency").map_or(4, |Positive(number)| number),
            warm_spares: r.get("warm_spares").map_or(2, |Count(number)| number),
            drill_schedule: r.get("drill_schedule"),
            drill_sample: r.get("drill_sample").map_or(5, |Positive(number)| number),
            audit_schedule: r.get("audit_schedule"),
            audit_retention: backup::audit_retention(r),
            history: history::read(r),
            restore_keep: r.get("restore_keep").unwrap_or(Duration::from_hours(7 * 24)),
            relocate_nice_ratio: r
                .get("relocate_nice_ratio")
                .map_or(NICE_RATIO, |Ratio(number)| number),
            archives: pitr::read(r),
            migration_mode: r.get("migration_mode").unwrap_or(MigrationMode::Manual),
            migration_lock_timeout: r
                .get("migration_lock_timeout")
                .unwrap_or(Duration::from_secs(2)),
            migration_statement_timeout: r
                .get("migration_statement_timeout")
                .unwrap_or(Duration::from_mins(15)),
            webhook: webhook::read(r),
            pg_bin_dirs: r.get("pg_bin_dir").unwrap_or_default(),
            advanced_metrics: telemetry::read(r),
            metrics_per_tenant: r.get("metrics_per_tenant").unwrap_or(false),
            log_level: r.get("log_level").map(|Filter(filter)| filter),
            log_format: r.get("log_format").unwrap_or(LogFormat::Pretty),
            collector: r.get("otel_exporter_otlp_endpoint").map(|Endpoint(address)| address),
            explained: r.explain(),
        };
        reader.finish(settings)
    }

    /// Every setting, its value and who set it, in the order of [`KEYS`].
    #[must_use]
    pub fn explain(&self) -> &[Explained] {
        &self.explained
    }

    /// A handle on the catalog; connects to nothing yet.
    pub fn catalog(&self) -> Result<Catalog, ConfigError> {
        let url = self.catalog_server_url()?;
        let key = self.master_key.as_ref().ok_or_else(|| {
            missing(
                "master_key",
                "make one with `openssl rand -base64 32` and keep it safe: without it no secret in the \
                 catalog, and no backup, can be read",
            )
        })?;
        let mut key = self.parse_master_key("master_key", key)?;
        if let Some(others) = &self.master_key_previous {
            for other in others.expose_secret().split(',') {
                let other = other.trim().to_owned().into();
                key = key.opening_too(self.parse_master_key("master_key_previous", &other)?);
            }
        }
        Ok(Catalog::new(&url, key, self.concurrency() + CHORE_SESSIONS))
    }

    fn parse_master_key(
        &self,
        name: &'static str,
        text: &SecretString,
    ) -> Result<MasterKey, ConfigError> {
        MasterKey::parse(text).map_err(|_| {
            ConfigError::one(Problem::Value {
                place: self.place(name),
                value: None,
                expected:
                    "32 random bytes in base64 or hex; make some with `openssl rand -base64 32`"
                        .to_owned(),
            })
        })
    }

    /// The control database.
    pub fn catalog_server_url(&self) -> Result<ServerUrl, ConfigError> {
        let url = self.catalog_url.as_ref().ok_or_else(|| {
            missing(
                "catalog_url",
                "for example postgres://admin:…@localhost:5432/tenantry; `tenantry init` then creates \
                 the database",
            )
        })?;
        self.parse("catalog_url", url)
    }

    /// How to reach the first tenant server, as it was written and parsed.
    pub fn first_server(&self) -> Result<(SecretString, ServerUrl), ConfigError> {
        match (&self.server_url, &self.catalog_url) {
            (Some(text), _) => Ok((text.clone(), self.parse("server_url", text)?)),
            (None, Some(text)) => Ok((text.clone(), self.parse("catalog_url", text)?)),
            (None, None) => {
                Err(missing("server_url", "for example postgres://admin:…@localhost:5432/postgres"))
            }
        }
    }

    /// Every setting in force, without the secrets: of those only whether they are set.
    #[must_use]
    pub fn configuration(&self) -> BTreeMap<String, String> {
        let named = |one: &Explained| (one.key.name.to_owned(), one.value.clone());
        self.explained.iter().map(named).collect()
    }

    /// Bounds on what operations do.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            migrations_dir: self.tenant_migrations_dir.clone(),
            sample_data: self.tenant_sample_data.clone(),
            pg_bin_dirs: self.pg_bin_dirs.clone(),
            catch_up: match self.migration_mode {
                MigrationMode::Manual => None,
                MigrationMode::OnDemand => Some(CatchUpMode::OnDemand),
                MigrationMode::Background => Some(CatchUpMode::Background),
            },
            hardening: self.hardening,
            migration_timeouts: MigrationTimeouts {
                lock: self.migration_lock_timeout,
                statement: self.migration_statement_timeout,
            },
            settings: self.tenant_settings.clone(),
            restore_keep: self.restore_keep,
            archives: self.archives.clone(),
            configuration: self.configuration(),
            drills: self.drill_schedule.clone().map(|moments| DrillSchedule {
                moments,
                sample: i64::try_from(self.drill_sample).unwrap_or(i64::MAX),
            }),
            audits: self.audit_schedule.clone().map(Box::new),
            audit_retention: self.audit_retention,
            history: self.history,
            spares: self.warm_spares,
            backups: self.backups.clone(),
            nice_ratio: self.relocate_nice_ratio,
            dumps: self.backup_concurrency,
            admin_connections: self.concurrency() + SPARE_SESSIONS,
        }
    }

    /// Bounds of a router.
    #[must_use]
    pub fn router(&self) -> RouterSettings {
        RouterSettings {
            pool_max_size: self.pool_max_size,
            server_budget: self.server_connection_budget,
            pool_idle_timeout: self.pool_idle_timeout,
            pool_wait_timeout: self.pool_wait_timeout,
            replica_max_lag: self.replica_max_lag,
            migrates_on_demand: self.migration_mode == MigrationMode::OnDemand,
            ..RouterSettings::default()
        }
    }

    /// It was parsed when the settings were read, but the certificates that it names may be gone since.
    fn parse(&self, name: &str, url: &SecretString) -> Result<ServerUrl, ConfigError> {
        ServerUrl::parse(url.expose_secret()).map_err(|error| {
            ConfigError::one(Problem::Value {
                place: self.place(name),
                value: None,
                expected: format!("PostgreSQL URL ({})", crate::operations::chain(&error)),
            })
        })
    }

    /// How many operations may be at work at once.
    fn concurrency(&self) -> usize {
        self.worker_concurrency.max(self.backup_concurrency)
    }

    /// How the setting is spelled where it was set.
    fn place(&self, name: &str) -> String {
        let explained = self.explained.iter().find(|explained| explained.key.name == name);
        explained.map_or(&Origin::Default, |explained| &explained.origin).place(name)
    }
}

fn missing(name: &str, remedy: &'static str) -> ConfigError {
    ConfigError::one(Problem::Missing { place: key::variable(name), remedy })
}

#[cfg(test)]
mod tests;
