//! [`Fleet`]: a catalog, a tenant server, an object store and the parts of a replica, for one test.

#![allow(clippy::unwrap_used, reason = "a panic is a test's message; here and in the benchmark")]

pub mod certificates;
mod cluster;
pub mod dns;
pub mod faulty_s3;
pub mod postgres18;
pub mod prepared;
pub mod process;
pub mod product;
pub mod provider;
pub mod replica;
pub mod seaweed;
pub mod wal_archive;
pub mod wire;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use secrecy::SecretString;
use tempfile::TempDir;
use tenantry::TenantConnection;
use tenantry::catalog::Catalog;
use tenantry::catalog::backups::BackupRecord;
use tenantry::catalog::changes::Changes;
use tenantry::catalog::operations::{OperationRecord, OperationState};
use tenantry::catalog::servers::ServerChange;
use tenantry::catalog::tenants::NewTenant;
use tenantry::embedded::{EmbeddedPostgres, EmbeddedS3, PostgresSettings};
use tenantry::operations::backup::BackupRules;
use tenantry::operations::history::HistoryRules;
use tenantry::operations::request::{CloneAs, Requester};
use tenantry::operations::runner::{Disturb, Disturbance, StepPoint};
use tenantry::operations::{Environment, Limits, Runner, upkeep};
use tenantry::router::{RouterSettings, TenantRouter};
use tenantry::sealing::MasterKey;
use tenantry::tenant::settings::SettingsRules;
use tenantry::tenant::{Tenant, TenantSettings, TenantSlug, TenantState, Tier};
use tenantry_backup::{BackupStore, S3Settings};
use tenantry_provisioning::{Hardening, MigrationTimeouts, NICE_RATIO, Server, ServerUrl};
use tokio_postgres::{Client, NoTls};
use tokio_util::sync::CancellationToken;

pub const BY: Requester<'_> = Requester { name: "test", idempotency_key: None };

/// Everything that a replica works with, on a cluster and an object store of its own.
pub struct Fleet {
    pub environment: Environment,
    pub changes: Changes,
    pub master_key: SecretString,
    pub s3: EmbeddedS3,
    /// The migration files; a test may add some.
    pub migrations: TempDir,
    /// Last, so that everything else is closed first.
    pub postgres: EmbeddedPostgres,
}

/// What a test may choose about its fleet.
pub struct Options {
    pub spares: usize,
    pub template: bool,
    pub hardening: Hardening,
    pub postgres: PostgresSettings,
}

impl Default for Options {
    fn default() -> Self {
        let (hardening, postgres) = (usual_hardening(), PostgresSettings::scratch());
        Self { spares: 0, template: true, hardening, postgres }
    }
}

impl Fleet {
    /// A fleet with a template and no tenant.
    pub async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    pub async fn start_with(options: Options) -> Self {
        install_crypto();
        let migrations = TempDir::new().unwrap();
        std::fs::copy("migrations/tenant/V1__boards.sql", migrations.path().join("V1__boards.sql"))
            .unwrap();
        let template = options.template.then_some(options.hardening);
        let postgres = cluster::start(options.postgres, migrations.path(), template).await;
        let s3 = EmbeddedS3::start_scratch("backups").await.unwrap();
        let mut limits = limits(migrations.path().to_owned(), options.spares);
        limits.hardening = options.hardening;
        let key = MasterKey::generate();
        let fleet = Box::pin(Self::on(postgres, s3, migrations, key, limits)).await;
        if options.template && options.spares > 0 {
            Box::pin(upkeep::tend(&fleet.environment)).await.unwrap();
        }
        fleet
    }

    /// On a copy of a prepared cluster.
    async fn on(
        postgres: EmbeddedPostgres,
        s3: EmbeddedS3,
        migrations: TempDir,
        master_key: SecretString,
        limits: Limits,
    ) -> Self {
        cluster::settle(&postgres, &master_key).await;
        let catalog = catalog(&postgres, &master_key);
        let store = store(&s3).await;
        let environment = Environment::new(catalog.clone(), Some(store), limits).await.unwrap();
        let changes = catalog.changes();
        Self { environment, changes, master_key, s3, migrations, postgres }
    }

    pub fn catalog(&self) -> &Catalog {
        &self.environment.catalog
    }

    /// Administrator access to the tenant server.
    pub fn server(&self) -> Server {
        Server::new(ServerUrl::parse(&self.postgres.url()).unwrap(), 4)
    }

    pub fn router(&self) -> TenantRouter {
        TenantRouter::new(self.catalog().clone(), self.changes.clone(), router_settings())
    }

    pub fn runner(&self) -> Runner {
        Runner::new(self.environment.clone(), CancellationToken::new())
    }

    pub fn disturbed_runner(&self, disturb: Arc<Disturb>) -> Runner {
        self.runner().disturbed(disturb)
    }

    /// Creates a tenant and sees it served.
    pub async fn create_tenant(&self, slug: &str) -> Tenant {
        self.create_tenant_with(slug, false).await
    }

    pub async fn create_tenant_with(&self, slug: &str, sample_data: bool) -> Tenant {
        let operation =
            self.environment.create_tenant(&new_tenant(slug), sample_data, BY).await.unwrap();
        self.complete(&operation).await;
        let tenant = self.tenant(slug).await;
        assert_eq!(tenant.state, TenantState::Active);
        tenant
    }

    /// The backups of a tenant, the newest first.
    pub async fn backups_of(&self, name: &str) -> Vec<BackupRecord> {
        self.catalog().backups_of(self.tenant(name).await.id).await.unwrap()
    }

    pub async fn tenant(&self, slug: &str) -> Tenant {
        self.catalog().tenant(&self::slug(slug)).await.unwrap()
    }

    /// Drives an operation to its end, which must be a good one.
    pub async fn complete(&self, operation: &OperationRecord) -> OperationRecord {
        let done = self.runner().complete(operation.id).await.unwrap();
        assert_eq!(done.state, OperationState::Succeeded, "{:?}", done.error);
        done
    }

    pub async fn back_up(&self, slug: &str) -> OperationRecord {
        let operation = self.environment.back_up(&self::slug(slug), BY).await.unwrap();
        self.complete(&operation).await
    }

    /// An administrator's session in a database of the tenant server.
    pub async fn admin(&self, database: &str) -> Client {
        connect(&self.postgres.database_url(database)).await.unwrap()
    }

    /// Rows of one table in a tenant's database, as an administrator sees them.
    pub async fn count(&self, slug: &str, table: &str) -> i64 {
        let client = self.admin(&format!("tenant_{slug}")).await;
        client.query_one(&format!("select count(*) from {table}"), &[]).await.unwrap().get(0)
    }

    /// Adds a migration file for every tenant.
    pub fn add_migration(&self, name: &str, sql: &str) {
        std::fs::write(self.migrations.path().join(name), sql).unwrap();
    }

    /// Names of every database, role and stored object that belongs to tenants; what two runs of the
    /// same story must agree on, once ids are taken out.
    pub async fn inventory(&self) -> BTreeMap<&'static str, Vec<String>> {
        let client = self.admin("postgres").await;
        let names = async |sql: &str| -> Vec<String> {
            let rows = client.query(sql, &[]).await.unwrap();
            rows.iter().map(|row| row.get(0)).collect()
        };
        let mut inventory = BTreeMap::new();
        inventory.insert(
            "databases",
            names(
                "select regexp_replace(datname, '[0-9a-f]{12,}', '<id>') || ' open=' || datallowconn
                 from pg_database where datname like 'tenant%' order by 1",
            )
            .await,
        );
        inventory.insert(
            "roles",
            names("select rolname || ' login=' || rolcanlogin from pg_roles where rolname like 'tenant%' order by 1").await,
        );
        let catalog = self.admin("tenantry").await;
        let rows = catalog
            .query("select slug || ' ' || state || ' epoch=' || epoch || ' v' || schema_version from tenants order by slug, created_at", &[])
            .await
            .unwrap();
        inventory.insert("tenants", rows.iter().map(|row| row.get(0)).collect());
        let rows = catalog
            .query("select slug || ' leads=' || leads || ' kept=' || (reserved_for is not null) from tenant_slugs order by slug", &[])
            .await
            .unwrap();
        inventory.insert("slugs", rows.iter().map(|row| row.get(0)).collect());
        let rows =
            catalog.query("select count(*)::text || ' backups' from backups", &[]).await.unwrap();
        inventory.insert("backups", rows.iter().map(|row| row.get(0)).collect());
        let rows = catalog
            .query("select 'claimed spares: ' || count(*) from spares where claimed_by is not null or not ready", &[])
            .await
            .unwrap();
        inventory.insert("spares", rows.iter().map(|row| row.get(0)).collect());
        inventory.insert("objects", self.objects());
        inventory
    }

    /// What tenants have in the object store, ids taken out.
    pub fn objects(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![self.s3.data_dir().join("backups")];
        while let Some(folder) = folders.pop() {
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            for entry in entries {
                let path = entry.unwrap().path();
                // Backups of the catalog come by the clock, whatever happens to tenants.
                if path.ends_with("catalog") {
                    continue;
                }
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.file_name().unwrap().to_string_lossy();
                    let name = if name.starts_with("dump-") { "dump".into() } else { name };
                    if !name.starts_with('.') {
                        found.push(name.into_owned());
                    }
                }
            }
        }
        found.sort();
        found
    }

    /// Fails unless the doctor finds nothing wrong.
    pub async fn assert_healthy(&self) {
        let report = tenantry::doctor::examine(&self.environment).await.unwrap();
        assert!(report.findings.is_empty(), "{:#?}", report.findings);
    }
}

pub fn slug(text: &str) -> TenantSlug {
    TenantSlug::parse(text).unwrap()
}

/// A server that may hold so many connections.
pub fn budget(connections: Option<i32>) -> ServerChange {
    ServerChange { connection_budget: connections.into(), ..ServerChange::default() }
}

pub fn new_tenant(slug: &str) -> NewTenant {
    NewTenant {
        slug: self::slug(slug),
        name: slug.to_owned(),
        tier: Tier::Shared,
        settings: TenantSettings::default(),
        server: None,
        track: None,
    }
}

/// A clone of that name, by the rules of placement and as its original is.
pub fn clone_as(slug: &str) -> CloneAs {
    CloneAs { slug: self::slug(slug), name: None, server: None, tags: None, mask: None }
}

pub fn catalog(postgres: &EmbeddedPostgres, master_key: &SecretString) -> Catalog {
    let url = ServerUrl::parse(&postgres.database_url("tenantry")).unwrap();
    Catalog::new(&url, MasterKey::parse(master_key).unwrap(), 10)
}

pub async fn store(s3: &EmbeddedS3) -> BackupStore {
    BackupStore::s3(s3_settings(s3)).await.unwrap()
}

pub fn s3_settings(s3: &EmbeddedS3) -> S3Settings {
    let (id, secret) = s3.credentials();
    S3Settings {
        bucket: "backups".to_owned(),
        prefix: "tenantry".to_owned(),
        endpoint: Some(s3.endpoint()),
        region: Some("us-east-1".to_owned()),
        force_path_style: true,
        credentials: Some((id.to_owned(), secret.to_owned().into())),
        object_lock: None,
        encryption: None,
    }
}

pub fn limits(migrations_dir: PathBuf, spares: usize) -> Limits {
    Limits {
        migrations_dir,
        sample_data: Some("migrations/sample/boards.sql".into()),
        pg_bin_dirs: Vec::new(),
        catch_up: None,
        hardening: usual_hardening(),
        migration_timeouts: MigrationTimeouts::default(),
        settings: SettingsRules::default(),
        restore_keep: Duration::from_hours(7 * 24),
        archives: None,
        drills: None,
        audits: None,
        audit_retention: None,
        history: HistoryRules::default(),
        configuration: std::collections::BTreeMap::default(),
        spares,
        backups: BackupRules::default(),
        nice_ratio: NICE_RATIO,
        dumps: 2,
        admin_connections: 6,
    }
}

/// What a fleet is unless its test says: `TENANTRY_TEST_HARDENING=strict` has the whole suite run with strict tenants.
#[expect(clippy::disallowed_methods, reason = "it chooses a run of the suite, and is no setting")]
pub fn usual_hardening() -> Hardening {
    match std::env::var("TENANTRY_TEST_HARDENING").as_deref() {
        Ok("strict") => Hardening::Strict,
        _ => Hardening::Standard,
    }
}

pub fn router_settings() -> RouterSettings {
    RouterSettings { pool_wait_timeout: Duration::from_secs(5), ..RouterSettings::default() }
}

/// A plain session, its connection driven in the background.
pub async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Disturbs one step, the first time that it comes by.
pub fn once(step: &'static str, done: bool, what: Disturbance) -> Arc<Disturb> {
    let fired = AtomicBool::new(false);
    Arc::new(move |point: &StepPoint<'_>| {
        let here = point.step == step && point.done == done;
        if here && !fired.swap(true, Ordering::Relaxed) { what } else { Disturbance::None }
    })
}

pub async fn assert_each_runs(client: &TenantConnection, statements: &[&str]) {
    for sql in statements {
        client.query(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
}

pub async fn assert_each_is_refused(client: &TenantConnection, statements: &[&str]) {
    for sql in statements {
        let answer = client.query(sql, &[]).await;
        assert!(answer.is_err_and(|error| error.code().is_some()), "{sql}");
    }
}

pub fn install_crypto() {
    _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// Waits until a condition holds; fails after a minute.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while Instant::now() < deadline {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never happened: {what}");
}
