//! `tenantry dev`: an embedded PostgreSQL, an embedded S3 and one replica, in one process, until Ctrl-C.
//!
//! Everything is kept in one directory, so a second start finds the tenants of the first. The settings
//! that the other commands need to reach it stand in `tenantry.toml` there.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use secrecy::{ExposeSecret as _, SecretString};
use tenantry_backup::S3Settings;
use tokio_util::sync::CancellationToken;

use super::{Context, Error, Interrupt, Outcome, Result, serve};
use crate::catalog::{Catalog, CatalogError, tokens::Scope};
use crate::config::Settings;
use crate::embedded::{EmbeddedPostgres, EmbeddedS3, PostgresSettings};
use crate::sealing::MasterKey;

const BUCKET: &str = "backups";
const REGION: &str = "us-east-1";
const SERVER: &str = "default";

/// The example schema, for a directory that has none of its own yet.
const MIGRATION: &str = include_str!("../../migrations/tenant/V1__boards.sql");
const SAMPLE_DATA: &str = include_str!("../../migrations/sample/boards.sql");

/// Options of `tenantry dev`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry dev                                  data in ~/.local/share/tenantry, ports 8080 and 8081
  tenantry dev --data-dir /tmp/try --port 9000  data plane on 9000, admin API on 9001

The directory holds the databases, the bucket, the migration files, and a settings file for the other
commands. Delete it to begin anew.")]
pub(super) struct Options {
    /// Where everything is kept [default: ~/.local/share/tenantry, for root /var/lib/tenantry-dev]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The port of the data plane; the admin API takes the next one
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    port: u16,
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let folder = options.data_dir.unwrap_or_else(default_folder);
    fs::create_dir_all(&folder)
        .map_err(|error| Error::failed(format!("{} cannot be made", folder.display()), error))?;
    let mut interrupt = Interrupt::listen()
        .map_err(|error| Error::failed("signals cannot be listened to", error))?;

    context.note("starting PostgreSQL and S3 …");
    let postgres = EmbeddedPostgres::start(PostgresSettings::new(folder.join("postgres"))).await?;
    let s3 = EmbeddedS3::start(&folder.join("s3"), BUCKET, None).await?;
    let files = Files::prepare(&folder)?;
    files.write_settings(&postgres, &s3, options.port)?;
    let settings = Settings::from_file(&files.settings)?;
    let catalog = settings.catalog()?;
    prepare_catalog(&catalog, &postgres).await?;
    files.ensure_token(&catalog).await?;

    let shutdown = CancellationToken::new();
    let replica = serve::Replica::start(&settings, serve::Role::All, shutdown.clone()).await?;
    context.note(&welcome(&files, &replica));
    tokio::select! {
        () = interrupt.next() => context.note("stopping …"),
        () = postgres.ended() => context.note("PostgreSQL has stopped; see postgres/postgres.log"),
    }
    shutdown.cancel();
    replica.join().await;
    s3.stop().await?;
    postgres.stop().await?;
    Ok(Outcome::Done)
}

/// How an embedded S3 is reached.
pub(super) fn s3_settings(s3: &EmbeddedS3) -> S3Settings {
    let (id, secret) = s3.credentials();
    S3Settings {
        bucket: BUCKET.to_owned(),
        prefix: "tenantry".to_owned(),
        endpoint: Some(s3.endpoint()),
        region: Some(REGION.to_owned()),
        force_path_style: true,
        credentials: Some((id.to_owned(), secret.to_owned().into())),
        object_lock: None,
        encryption: None,
    }
}

/// Creates or migrates the catalog; PostgreSQL may have another port than last time.
async fn prepare_catalog(catalog: &Catalog, postgres: &EmbeddedPostgres) -> Result<()> {
    catalog.init().await?;
    catalog.server().prepare().await?;
    let url = SecretString::from(postgres.url());
    match catalog.add_server(SERVER, &url).await {
        Err(CatalogError::Exists { .. }) => Ok(catalog.set_server_url(SERVER, &url).await?),
        added => Ok(added.map(drop)?),
    }
}

/// What lies in the data directory beside the two servers.
struct Files {
    folder: PathBuf,
    settings: PathBuf,
    master_key: PathBuf,
    token: PathBuf,
}

impl Files {
    fn prepare(folder: &Path) -> Result<Self> {
        let folder = folder.canonicalize().map_err(|error| {
            Error::failed(format!("{} cannot be used", folder.display()), error)
        })?;
        let files = Self {
            settings: folder.join("tenantry.toml"),
            master_key: folder.join("master-key"),
            token: folder.join("admin-token"),
            folder,
        };
        if !files.master_key.exists() {
            write_private(&files.master_key, MasterKey::generate().expose_secret())?;
        }
        let migrations = files.migrations();
        if !migrations.exists() {
            fs::create_dir(&migrations)
                .and_then(|()| fs::write(migrations.join("V1__boards.sql"), MIGRATION))
                .and_then(|()| fs::write(files.sample_data(), SAMPLE_DATA))
                .map_err(|error| Error::failed("the example schema cannot be written", error))?;
        }
        Ok(files)
    }

    fn migrations(&self) -> PathBuf {
        self.folder.join("migrations")
    }

    fn sample_data(&self) -> PathBuf {
        self.folder.join("sample.sql")
    }

    fn write_settings(
        &self,
        postgres: &EmbeddedPostgres,
        s3: &EmbeddedS3,
        port: u16,
    ) -> Result<()> {
        let (id, secret) = s3.credentials();
        let admin_port = port.checked_add(u16::from(port != 0)).ok_or_else(|| {
            Error::usage("port 65535 leaves none for the admin API", "choose a lower --port")
        })?;
        let text = toml_lines(&[
            ("catalog_url", &postgres.database_url("tenantry")),
            ("server_url", &postgres.url()),
            ("master_key_file", &self.master_key.display().to_string()),
            ("listen", &format!("127.0.0.1:{port}")),
            ("admin_listen", &format!("127.0.0.1:{admin_port}")),
            ("tenant_migrations_dir", &self.migrations().display().to_string()),
            ("tenant_sample_data", &self.sample_data().display().to_string()),
            ("pg_bin_dir", &postgres.bin_dir().display().to_string()),
            ("s3_bucket", BUCKET),
            ("s3_endpoint", &s3.endpoint()),
            ("s3_region", REGION),
            ("s3_access_key_id", id),
            ("s3_secret_access_key", secret),
        ]) + "s3_force_path_style = true\n";
        write_private(&self.settings, &text)
    }

    /// The admin token of this directory, made at the first start.
    async fn ensure_token(&self, catalog: &Catalog) -> Result<()> {
        if self.token.exists() {
            return Ok(());
        }
        let name = format!("dev-{}", uuid::Uuid::now_v7());
        let token = catalog.create_token(&name, &Scope::ALL).await?;
        write_private(&self.token, token.expose_secret())
    }
}

/// Strings are written as JSON writes them, which is how TOML's basic strings are.
fn toml_lines(pairs: &[(&str, &str)]) -> String {
    let line = |(key, value): &(&str, &str)| format!("{key} = {}\n", serde_json::json!(value));
    "# Written anew at each start of `tenantry dev`.\n".to_owned()
        + &pairs.iter().map(line).collect::<String>()
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| Error::failed(format!("{} cannot be written", path.display()), error))
}

/// Root's home is closed to the user that PostgreSQL runs as.
fn default_folder() -> PathBuf {
    match std::env::home_dir() {
        Some(home) if home != Path::new("/root") && home != Path::new("/") => {
            home.join(".local/share/tenantry")
        }
        _ => PathBuf::from("/var/lib/tenantry-dev"),
    }
}

fn welcome(files: &Files, replica: &serve::Replica) -> String {
    let (data, admin) = (replica.data_address(), replica.admin_address());
    let (settings, token) = (files.settings.display(), files.token.display());
    let show = |address: Option<std::net::SocketAddr>| {
        address.map_or_else(|| "-".to_owned(), |address| format!("http://{address}"))
    };
    format!(
        "
data plane  {data}
admin API   {admin}   (OpenAPI: {admin}/openapi.json)
settings    {settings}
token       {token}

Try next, in another terminal:

  export TENANTRY_CONFIG={settings}
  tenantry tenant create --slug acme-corp --sample-data
  tenantry tenant list
  psql \"$(tenantry tenant url acme-corp)\" -c 'select * from boards'
  tenantry backup run acme-corp
  tenantry restore acme-corp --latest --in-place
  curl -H \"Authorization: Bearer $(cat {token})\" -H 'X-Tenant: acme-corp' {data}/api/tenant

Ctrl-C stops everything; the data stays in {folder}.",
        data = show(data),
        admin = show(admin),
        folder = files.folder.display(),
    )
}
