//! The cluster that a [`super::Fleet`] begins with: a copy of one whose catalog has been made and knows its server, with
//! the template of the tenants if the fleet is to have one, once in this process. Every fleet would do all of it the
//! same; what it does is to say where its server is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use secrecy::SecretString;
use tenantry::catalog::Catalog;
use tenantry::embedded::{ClusterTemplate, EmbeddedPostgres, PostgresSettings};
use tenantry::operations::{Environment, upkeep};
use tenantry::sealing::{MasterKey, Purpose};
use tenantry_provisioning::{Hardening, ServerUrl};
use tokio::sync::Mutex;
use uuid::Uuid;

/// The version of PostgreSQL, and how strict the template is.
type Kind = (Option<PathBuf>, Option<&'static str>);

/// They are never dropped; their directories go away with the process.
static TEMPLATES: Mutex<BTreeMap<Kind, ClusterTemplate>> = Mutex::const_new(BTreeMap::new());

/// What saves time in every copy, and changes no answer. What has been written ahead is thrown away, or every copy
/// would have to copy that.
const SETTINGS: [&str; 3] = ["wal_recycle", "wal_init_zero", "jit"];

/// A new cluster that is prepared for tenants, with a catalog for which no master key has been chosen and which is to
/// be told where its server is, and with the template of the tenants' `migrations` if its hardening is given.
pub async fn start(
    settings: PostgresSettings,
    migrations: &Path,
    hardening: Option<Hardening>,
) -> EmbeddedPostgres {
    if settings.durable {
        // Whoever measures wants it as it is in production.
        let postgres = EmbeddedPostgres::start_scratch(settings).await.unwrap();
        Box::pin(furnish(&postgres, migrations, hardening)).await;
        return postgres;
    }
    let mut templates = TEMPLATES.lock().await;
    let kind = (settings.bin_dir.clone(), hardening.map(Hardening::as_str));
    if !templates.contains_key(&kind) {
        let template = Box::pin(prepare(settings.bin_dir.clone(), migrations, hardening)).await;
        templates.insert(kind.clone(), template);
    }
    let template = templates[&kind].clone();
    drop(templates);
    EmbeddedPostgres::start_copy(&template, settings).await.unwrap()
}

/// Tells the catalog on a copy where its server is now, and chooses the master key if none has been chosen.
pub async fn settle(postgres: &EmbeddedPostgres, master_key: &SecretString) {
    let key = MasterKey::parse(master_key).unwrap();
    let admin = super::connect(&postgres.database_url("tenantry")).await.unwrap();
    let server = "select id from servers where name = 'default'";
    let server: Uuid = admin.query_one(server, &[]).await.unwrap().get(0);
    let address = ServerUrl::parse(&postgres.url()).unwrap().host_label();
    let url = key.seal(Purpose::ServerUrl, server, &postgres.url().into());
    let check = key.seal(Purpose::KeyCheck, Uuid::nil(), &"tenantry".to_owned().into());
    let sql =
        "with chosen as (insert into catalog_facts (name, value) values ('master_key_check', $4)
                   on conflict (name) do nothing)
               update servers set url_sealed = $2, address = $3 where id = $1";
    admin.execute(sql, &[&server, &url, &address, &check]).await.unwrap();
}

/// Stops a cluster for copies.
pub async fn into_template(postgres: EmbeddedPostgres) -> ClusterTemplate {
    let admin = super::connect(&postgres.url()).await.unwrap();
    admin.batch_execute("select pg_switch_wal()").await.unwrap();
    postgres.into_template().await
}

async fn prepare(
    bin_dir: Option<PathBuf>,
    migrations: &Path,
    hardening: Option<Hardening>,
) -> ClusterTemplate {
    let extra = SETTINGS.map(|name| (name.to_owned(), "off".to_owned())).to_vec();
    let settings = PostgresSettings { bin_dir, extra, ..PostgresSettings::scratch() };
    let postgres = EmbeddedPostgres::start_scratch(settings).await.unwrap();
    slim(&postgres).await;
    furnish(&postgres, migrations, hardening).await;
    let admin = super::connect(&postgres.url()).await.unwrap();
    for name in SETTINGS {
        admin.batch_execute(&format!("alter system set {name} = off")).await.unwrap();
    }
    let verifier = quick_verifier(postgres.password());
    let keep = format!("alter role postgres password '{verifier}'");
    admin.batch_execute(&keep).await.unwrap();
    into_template(postgres).await
}

/// Makes the catalog and what the server needs for tenants.
async fn furnish(postgres: &EmbeddedPostgres, migrations: &Path, hardening: Option<Hardening>) {
    let url = ServerUrl::parse(&postgres.database_url("tenantry")).unwrap();
    let key = MasterKey::parse(&MasterKey::generate()).unwrap();
    let catalog = Catalog::new(&url, key, 4);
    catalog.init().await.unwrap();
    catalog.server().prepare().await.unwrap();
    catalog.add_server("default", &postgres.url().into()).await.unwrap();
    if let Some(hardening) = hardening {
        let mut limits = super::limits(migrations.to_owned(), 0);
        limits.hardening = hardening;
        let environment = Environment::new(catalog, None, limits).await.unwrap();
        upkeep::tend(&environment).await.unwrap();
    }
    let admin = super::connect(&postgres.database_url("tenantry")).await.unwrap();
    let forget = "delete from catalog_facts where name = 'master_key_check'";
    admin.batch_execute(forget).await.unwrap();
}

/// Every copy, and every database that is made in one, has fewer files without the maps of free and of visible pages.
async fn slim(postgres: &EmbeddedPostgres) {
    let admin = super::connect(&postgres.url()).await.unwrap();
    let open = async |may: bool| {
        let sql = format!("alter database template0 allow_connections {may}");
        admin.batch_execute(&sql).await.unwrap();
    };
    open(true).await;
    for database in ["template0", "template1", "postgres"] {
        let session = super::connect(&postgres.database_url(database)).await.unwrap();
        session.batch_execute("vacuum full").await.unwrap();
    }
    open(false).await;
}

/// The superuser's password for PostgreSQL, with one round where there are usually 4096: clients hash that often at
/// each of the thousands of times that the suite connects.
fn quick_verifier(password: &str) -> String {
    let (salt, mut salted) = (b"it is no secret", [0; digest::SHA256_OUTPUT_LEN]);
    let once = std::num::NonZeroU32::MIN;
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, once, salt, password.as_bytes(), &mut salted);
    let salted = hmac::Key::new(hmac::HMAC_SHA256, &salted);
    let client = hmac::sign(&salted, b"Client Key");
    let stored = digest::digest(&digest::SHA256, client.as_ref());
    let server = hmac::sign(&salted, b"Server Key");
    let [salt, stored, server] = [salt.as_slice(), stored.as_ref(), server.as_ref()]
        .map(|part| BASE64_STANDARD.encode(part));
    format!("SCRAM-SHA-256$1:{salt}${stored}:{server}")
}
