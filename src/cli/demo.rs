//! `tenantry demo`: the whole main job on a PostgreSQL and an S3 that live for a minute. Every line of
//! the story is a claim that is checked; the first that does not hold ends the demo with an error.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use comfy_table::{Table, presets};
use tenantry_backup::BackupStore;
use tenantry_provisioning::{Hardening, MigrationTimeouts, NICE_RATIO, ServerUrl};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Context, Outcome};
use crate::catalog::Catalog;
use crate::catalog::operations::{OperationRecord, OperationState};
use crate::catalog::tenants::NewTenant;
use crate::embedded::{EmbeddedPostgres, EmbeddedS3, PostgresSettings};
use crate::operations::backup::BackupRules;
use crate::operations::history::HistoryRules;
use crate::operations::request::{BackupChoice, Requester};
use crate::operations::{Environment, Limits, Runner, upkeep};
use crate::router::{RouterSettings, TenantRouter};
use crate::sealing::MasterKey;
use crate::tenant::settings::SettingsRules;
use crate::tenant::{TenantSettings, TenantSlug, Tier};

/// Options of `tenantry demo`.
#[derive(Debug, clap::Args)]
pub struct Options {}

const TENANTS: [&str; 3] = ["acme-corp", "globex", "initech"];
const BY: Requester<'_> = Requester { name: "demo", idempotency_key: None };

const MIGRATION: &str = include_str!("../../migrations/tenant/V1__boards.sql");
const SAMPLE_DATA: &str = include_str!("../../migrations/sample/boards.sql");
const NEW_MIGRATION: &str = "alter table cards add column due date;\n";

/// Tells the story.
pub async fn run(_options: Options, _context: &Context) -> Result<Outcome> {
    let folder = tempfile::Builder::new().prefix("tenantry-demo-").tempdir()?;
    let mut story = Story::default();

    story.chapter(
        "A PostgreSQL and an S3 server of its own, in a temporary directory",
        "tenantry dev",
    );
    let postgres = EmbeddedPostgres::start_scratch(PostgresSettings::scratch()).await?;
    let s3 = EmbeddedS3::start_scratch("backups").await?;
    story.done("start PostgreSQL and S3");

    story.chapter("The catalog: our own control database, and the first server", "tenantry init");
    let environment = prepare(folder.path(), &postgres, &s3).await?;
    story.done("create the catalog, prepare the server, build the template");

    let actors = Actors::new(environment);
    let told = actors.tell(&mut story, &postgres).await;
    actors.router.close().await;
    s3.stop().await?;
    postgres.stop().await?;
    told?;
    story.end();
    Ok(Outcome::Done)
}

async fn prepare(
    folder: &Path,
    postgres: &EmbeddedPostgres,
    s3: &EmbeddedS3,
) -> Result<Environment> {
    let migrations = folder.join("migrations");
    std::fs::create_dir(&migrations)?;
    std::fs::write(migrations.join("V1__boards.sql"), MIGRATION)?;
    let sample_data = folder.join("sample.sql");
    std::fs::write(&sample_data, SAMPLE_DATA)?;

    let url = ServerUrl::parse(&postgres.database_url("tenantry"))?;
    let catalog = Catalog::new(&url, MasterKey::parse(&MasterKey::generate())?, 8);
    catalog.init().await?;
    catalog.server().prepare().await?;
    catalog.add_server("default", &postgres.url().into()).await?;
    let limits = Limits {
        migrations_dir: migrations,
        sample_data: Some(sample_data),
        pg_bin_dirs: vec![postgres.bin_dir().to_owned()],
        catch_up: None,
        hardening: Hardening::Standard,
        migration_timeouts: MigrationTimeouts::default(),
        settings: SettingsRules::default(),
        restore_keep: Duration::from_hours(7 * 24),
        archives: None,
        drills: None,
        audits: None,
        audit_retention: None,
        history: HistoryRules::default(),
        configuration: std::collections::BTreeMap::default(),
        spares: TENANTS.len(),
        backups: BackupRules::default(),
        nice_ratio: NICE_RATIO,
        dumps: 2,
        admin_connections: 6,
    };
    let store = BackupStore::s3(super::dev::s3_settings(s3)).await?;
    store.check().await?;
    let environment = Environment::new(catalog, Some(store), limits).await?;
    upkeep::tend(&environment).await?;
    Ok(environment)
}

/// Who acts in the story.
struct Actors {
    environment: Environment,
    runner: Runner,
    router: TenantRouter,
}

impl Actors {
    fn new(environment: Environment) -> Self {
        let changes = environment.catalog.changes();
        let router =
            TenantRouter::new(environment.catalog.clone(), changes, RouterSettings::default());
        let runner = Runner::new(environment.clone(), CancellationToken::new());
        Self { environment, runner, router }
    }

    async fn tell(&self, story: &mut Story, postgres: &EmbeddedPostgres) -> Result<()> {
        self.provision(story).await?;
        self.query(story).await?;
        self.trespass(story).await?;
        self.migrate(story).await?;
        self.back_up(story).await?;
        self.restore(story).await?;
        self.delete(story, postgres).await
    }

    async fn provision(&self, story: &mut Story) -> Result<()> {
        story.chapter(
            "Three customers, each with a database and a role of its own",
            "tenantry tenant create --slug acme-corp --sample-data",
        );
        for name in TENANTS {
            let new = NewTenant {
                slug: slug(name),
                name: name.to_owned(),
                tier: Tier::Shared,
                settings: TenantSettings::default(),
                server: None,
                track: None,
            };
            let operation = self.environment.create_tenant(&new, true, BY).await?;
            self.complete(&operation).await?;
            story.done(&format!("provision {name}"));
        }
        Ok(())
    }

    async fn query(&self, story: &mut Story) -> Result<()> {
        story.chapter(
            "Each reaches its own database through the router",
            "router.connection(&slug)",
        );
        for name in TENANTS {
            let connection = self.router.connection(&slug(name)).await?;
            let row = connection
                .query_one("select current_database(), (select count(*) from cards)", &[])
                .await?;
            let (database, cards): (String, i64) = (row.get(0), row.get(1));
            ensure!(
                database == format!("tenant_{name}") && cards == 12,
                "{name} reached {database}"
            );
            story.done(&format!("{name}: {cards} cards in {database}"));
        }
        Ok(())
    }

    async fn trespass(&self, story: &mut Story) -> Result<()> {
        story.chapter(
            "The role of globex knocks at the database of acme-corp",
            "psql -U tenant_globex -d tenant_acme-corp",
        );
        let place = self.router.route(&slug("globex")).await?;
        let url = place
            .server
            .with_database("tenant_acme-corp")
            .with_user(place.tenant.role.as_str(), &place.password);
        let refusal = url.config().connect(url.tls()).await.err();
        let refusal = refusal.context("globex got into the database of acme-corp")?;
        let words = refusal.as_db_error().context("PostgreSQL did not answer")?;
        Story::say(&format!("{}: {}", words.severity(), words.message()));
        story.done("refused by PostgreSQL itself");
        Ok(())
    }

    async fn migrate(&self, story: &mut Story) -> Result<()> {
        story.chapter("A new migration for the whole fleet", "tenantry migrate up");
        let file = self.environment.limits.migrations_dir.join("V2__due_dates.sql");
        tokio::fs::write(file, NEW_MIGRATION).await?;
        self.environment.reload_migrations().await?;
        for server in self.environment.catalog.servers().await? {
            let set = self.environment.migrations();
            upkeep::ensure_template(&self.environment, server.id, &set).await?;
        }
        let batch = self.environment.migrate_fleet(&[], BY.name).await?;
        self.complete_batch(batch).await?;
        let versions = self.environment.catalog.count_schema_versions().await?;
        ensure!(versions == [(2, 3)], "the fleet is at {versions:?}");
        story.done("3 tenants from V1 to V2");
        Ok(())
    }

    async fn back_up(&self, story: &mut Story) -> Result<()> {
        story.chapter("All three to S3, compressed and encrypted", "tenantry backup run --all");
        let batch = self.environment.back_up_fleet(&[], BY.name).await?;
        self.complete_batch(batch).await?;
        let backups = self.environment.catalog.backups(None, 10).await?;
        ensure!(backups.len() == 3, "{} backups", backups.len());
        let bytes: i64 = backups.iter().map(|backup| backup.dump_bytes).sum();
        story.done(&format!("3 backups, {bytes} bytes in the bucket"));
        Ok(())
    }

    async fn restore(&self, story: &mut Story) -> Result<()> {
        story.chapter(
            "Somebody deletes rows of acme-corp; only acme-corp goes back to before",
            "tenantry restore acme-corp --latest --in-place",
        );
        let connection = self.router.connection(&slug("acme-corp")).await?;
        let deleted = connection.execute("delete from cards where done = false", &[]).await?;
        drop(connection);
        let connection = self.router.connection(&slug("globex")).await?;
        connection
            .execute("insert into boards (title) values ('written after the backup')", &[])
            .await?;
        story.done(&format!("acme-corp loses {deleted} cards, globex writes on"));

        let operation =
            self.environment.restore(&slug("acme-corp"), BackupChoice::Latest, BY).await?;
        self.complete(&operation).await?;
        let (cards, boards) =
            (self.count("acme-corp", "cards").await?, self.count("globex", "boards").await?);
        ensure!(cards == 12 && boards == 4, "acme-corp has {cards} cards, globex {boards} boards");
        story.done(&format!(
            "acme-corp has its {cards} cards again, globex its {boards} boards still"
        ));
        Ok(())
    }

    async fn delete(&self, story: &mut Story, postgres: &EmbeddedPostgres) -> Result<()> {
        story.chapter("initech leaves; nothing of it stays", "tenantry tenant delete initech");
        let tenant = self.environment.catalog.tenant(&slug("initech")).await?;
        let operation = self.environment.delete(&slug("initech"), false, BY).await?;
        self.complete(&operation).await?;

        let admin = ServerUrl::parse(&postgres.url())?.connect().await?;
        let row = admin
            .query_one(
                "-- demo::delete
                 select (select count(*) from pg_database where datname like '%initech%')
                      + (select count(*) from pg_roles where rolname like '%initech%')",
                &[],
            )
            .await?;
        let left: i64 = row.get(0);
        let bucket = self.environment.store.as_ref().context("the demo has a store")?;
        let objects = bucket.backups_of(tenant.id).await?.len();
        ensure!(
            left == 0 && objects == 0,
            "{left} databases and roles, {objects} backups are left"
        );
        story.done("0 databases, 0 roles and 0 backups left");
        Ok(())
    }

    async fn count(&self, name: &str, table: &str) -> Result<i64> {
        let connection = self.router.connection(&slug(name)).await?;
        Ok(connection.query_one(&format!("select count(*) from {table}"), &[]).await?.get(0))
    }

    async fn complete(&self, operation: &OperationRecord) -> Result<()> {
        let ended = self.runner.complete(operation.id).await?;
        let message = ended.error.map(|error| error.message).unwrap_or_default();
        ensure!(ended.state == OperationState::Succeeded, "{} failed: {message}", ended.kind);
        Ok(())
    }

    async fn complete_batch(&self, batch: Uuid) -> Result<()> {
        self.runner.complete_batch(batch, 2).await?;
        let counts = self.environment.catalog.count_operations(Some(batch)).await?;
        ensure!(counts == [(OperationState::Succeeded, 3)], "the batch ended as {counts:?}");
        Ok(())
    }
}

fn slug(name: &str) -> TenantSlug {
    TenantSlug::parse(name).expect("the names of the story are slugs")
}

/// Prints as it goes, and remembers for the closing table.
struct Story {
    since: Instant,
    lines: Vec<(String, Duration)>,
}

impl Default for Story {
    fn default() -> Self {
        Self { since: Instant::now(), lines: Vec::new() }
    }
}

#[expect(clippy::print_stdout, reason = "the story is the output")]
impl Story {
    fn chapter(&mut self, title: &str, command: &str) {
        println!("\n{title}\n  $ {command}");
        self.since = Instant::now();
    }

    fn say(text: &str) {
        println!("  » {text}");
    }

    fn done(&mut self, what: &str) {
        let took = self.since.elapsed();
        println!("  ✓ {what} ({})", milliseconds(took));
        self.lines.push((what.to_owned(), took));
        self.since = Instant::now();
    }

    fn end(&self) {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(["what", "time"]);
        for (what, took) in &self.lines {
            table.add_row([what.clone(), milliseconds(*took)]);
        }
        println!("\n{table}\n");
        println!(
            "Everything held, and nothing is left running. Go on with an environment that stays:"
        );
        println!("  $ tenantry dev");
    }
}

fn milliseconds(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1000.0)
}
