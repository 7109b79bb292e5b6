//! The cluster that a [`super::Fleet`] begins with: a copy of one that ran the migrations of the catalog, and of the
//! tenants if the fleet is to have a template, once in this process. Every fleet calls `init` and tends all the same.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tenantry::catalog::Catalog;
use tenantry::embedded::{ClusterTemplate, EmbeddedPostgres, PostgresSettings};
use tenantry::operations::{Environment, upkeep};
use tenantry::sealing::MasterKey;
use tenantry_provisioning::{Hardening, ServerUrl};
use tokio::sync::Mutex;

/// The version of PostgreSQL, and how strict the template is.
type Kind = (Option<PathBuf>, Option<&'static str>);

/// They are never dropped; their directories go away with the process.
static TEMPLATES: Mutex<BTreeMap<Kind, ClusterTemplate>> = Mutex::const_new(BTreeMap::new());

/// A new cluster that is prepared for tenants, with a catalog for which no master key has been chosen, and with the
/// template of the tenants' `migrations` if its hardening is given.
pub async fn start(
    settings: PostgresSettings,
    migrations: &Path,
    hardening: Option<Hardening>,
) -> EmbeddedPostgres {
    let mut templates = TEMPLATES.lock().await;
    let kind = (settings.bin_dir.clone(), hardening.map(Hardening::as_str));
    if !templates.contains_key(&kind) {
        let template = prepare(settings.bin_dir.clone(), migrations, hardening).await;
        templates.insert(kind.clone(), template);
    }
    let template = templates[&kind].clone();
    drop(templates);
    EmbeddedPostgres::start_copy(&template, settings).await.unwrap()
}

async fn prepare(
    bin_dir: Option<PathBuf>,
    migrations: &Path,
    hardening: Option<Hardening>,
) -> ClusterTemplate {
    // At its end it throws away what has been written ahead, or every copy would have to copy that.
    let off = |name: &str| (name.to_owned(), "off".to_owned());
    let extra = vec![off("wal_recycle"), off("wal_init_zero")];
    let settings = PostgresSettings { bin_dir, extra, ..PostgresSettings::scratch() };
    let postgres = EmbeddedPostgres::start_scratch(settings).await.unwrap();
    let catalog = catalog(&postgres, "tenantry").await;
    catalog.server().prepare().await.unwrap();
    let admin = super::connect(&postgres.database_url("tenantry")).await.unwrap();
    let forget = "delete from catalog_facts where name = 'master_key_check'";
    admin.batch_execute(forget).await.unwrap();
    if let Some(hardening) = hardening {
        make_template(&postgres, migrations, hardening).await;
    }
    admin.batch_execute("select pg_switch_wal()").await.unwrap();
    postgres.into_template().await
}

/// By way of another catalog, so that the fleet's knows nothing of it.
async fn make_template(postgres: &EmbeddedPostgres, migrations: &Path, hardening: Hardening) {
    let catalog = catalog(postgres, "beside").await;
    catalog.add_server("default", &postgres.url().into()).await.unwrap();
    let mut limits = super::limits(migrations.to_owned(), 0);
    limits.hardening = hardening;
    let environment = Environment::new(catalog, None, limits).await.unwrap();
    upkeep::tend(&environment).await.unwrap();
    let admin = super::connect(&postgres.url()).await.unwrap();
    admin.batch_execute("drop database beside with (force)").await.unwrap();
}

async fn catalog(postgres: &EmbeddedPostgres, database: &str) -> Catalog {
    let url = ServerUrl::parse(&postgres.database_url(database)).unwrap();
    let key = MasterKey::parse(&MasterKey::generate()).unwrap();
    let catalog = Catalog::new(&url, key, 4);
    catalog.init().await.unwrap();
    catalog
}
