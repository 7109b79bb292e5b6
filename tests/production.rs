//! The checklist of a hardened installation: it is met by one that is, and each check of it can fail.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use secrecy::ExposeSecret as _;
use serde_json::Value;
use tempfile::TempDir;
use tenantry::audit::{Audit, AuditOptions};
use tenantry::catalog::tokens::Scope;
use tenantry_provisioning::Hardening;

use crate::cli::Cli;
use crate::harness::{BY, Fleet, Options, slug};

type Settings<'a> = &'a [(&'static str, &'a str)];

/// A hardened installation on one machine.
struct Scene {
    fleet: Fleet,
    folder: TempDir,
    catalog_url: String,
}

impl Scene {
    async fn start() -> Self {
        let fleet =
            Fleet::start_with(Options { hardening: Hardening::Strict, ..Options::default() }).await;
        let admin = fleet.admin("postgres").await;
        admin
            .batch_execute("create role keeper login superuser password 'of-the-keeper'")
            .await
            .unwrap();
        let port = fleet.postgres.port().unwrap();
        let url =
            |database: &str| format!("postgres://keeper:of-the-keeper@127.0.0.1:{port}/{database}");
        fleet.create_tenant("acme").await;
        fleet.back_up("acme").await;
        let drill = fleet.environment.drill_tenant(&slug("acme"), BY).await.unwrap();
        fleet.complete(&drill).await;
        fleet.catalog().create_token("ci", &[Scope::Migrate]).await.unwrap();
        let readdress = format!("server add default --url {} --replace", url("postgres"));
        assert!(Cli::new(&fleet).run(&readdress).await.status.success());
        let audit =
            Audit::begin(&fleet.environment, AuditOptions::default(), "test").await.unwrap();
        audit.unwrap().run().await.unwrap();

        let scene = Self { catalog_url: url("tenantry"), folder: TempDir::new().unwrap(), fleet };
        fs::write(scene.key_file(), scene.fleet.master_key.expose_secret()).unwrap();
        scene.permit(0o600);
        scene
    }

    fn key_file(&self) -> PathBuf {
        self.folder.path().join("master.key")
    }

    fn permit(&self, mode: u32) {
        fs::set_permissions(self.key_file(), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// The command line of a hardened installation, with more settings.
    fn cli(&self, more: Settings<'_>) -> Cli<'_> {
        let mut cli = Cli::new(&self.fleet)
            .with("TENANTRY_ENVIRONMENT", "production")
            .with("TENANTRY_HARDENING", "")
            .with("TENANTRY_CATALOG_URL", &self.catalog_url)
            .with("TENANTRY_MASTER_KEY", "")
            .with("TENANTRY_MASTER_KEY_FILE", self.key_file().display().to_string())
            .with("TENANTRY_AUTH_PROVIDER", "jwt")
            .with("TENANTRY_JWT_ISSUER", "https://idp.example.com")
            .with("TENANTRY_JWT_AUDIENCE", "boards")
            .with("TENANTRY_JWT_SECRET", "0123456789abcdef0123456789abcdef")
            .with("TENANTRY_BACKUP_SCHEDULE", "0 2 * * *")
            .with("TENANTRY_DRILL_SCHEDULE", "0 4 * * 0")
            .with("TENANTRY_AUDIT_SCHEDULE", "0 5 * * *");
        for (name, value) in more {
            cli = cli.with(name, *value);
        }
        cli
    }

    /// The exit status, and every check with whether it is good. What is not says what to do.
    async fn check(&self, more: Settings<'_>) -> (i32, Vec<(String, bool)>) {
        let output = self.cli(more).run("config check --production --output-format json").await;
        let document: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        assert_eq!(document["problems"], serde_json::json!([]), "{more:?}");
        let checks = document["checks"].as_array().unwrap().iter().map(|check| {
            let good = check["good"].as_bool().unwrap();
            let has_remedy = check["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty());
            assert!(good || has_remedy, "{check}");
            (check["name"].as_str().unwrap().to_owned(), good)
        });
        (output.status.code().unwrap(), checks.collect())
    }

    /// The checks that fail.
    async fn failing(&self, more: Settings<'_>) -> BTreeSet<String> {
        let (status, checks) = self.check(more).await;
        let failing: BTreeSet<String> =
            checks.into_iter().filter(|(_, good)| !good).map(|(name, _)| name).collect();
        assert_eq!(status, i32::from(!failing.is_empty()), "{failing:?}");
        failing
    }
}

/// Settings, and the checks that they fail.
const SETTINGS: &[(&[&str], Settings<'static>)] = &[
    (&["environment"], &[("TENANTRY_ENVIRONMENT", "staging")]),
    (
        &["identity"],
        &[
            ("TENANTRY_AUTH_PROVIDER", "none"),
            ("TENANTRY_JWT_ISSUER", ""),
            ("TENANTRY_JWT_AUDIENCE", ""),
            ("TENANTRY_JWT_SECRET", ""),
        ],
    ),
    (&["listeners"], &[("TENANTRY_LISTEN", "10.0.0.1:8080")]),
    (&["admin-api", "listeners"], &[("TENANTRY_ADMIN_LISTEN", "0.0.0.0:8081")]),
    (&["hardening"], &[("TENANTRY_HARDENING", "standard")]),
    (
        &["catalog", "catalog-tls"],
        &[(
            "TENANTRY_CATALOG_URL",
            "postgres://keeper:x@192.0.2.1:1/tenantry?sslmode=require&connect_timeout=1",
        )],
    ),
    (
        &["backup-schedule", "bucket", "drill-schedule"],
        &[
            ("TENANTRY_S3_BUCKET", ""),
            ("TENANTRY_BACKUP_SCHEDULE", ""),
            ("TENANTRY_DRILL_SCHEDULE", ""),
        ],
    ),
    (&["backup-schedule"], &[("TENANTRY_BACKUP_SCHEDULE", "")]),
    (&["drill-schedule"], &[("TENANTRY_DRILL_SCHEDULE", "")]),
    (&["audit-schedule"], &[("TENANTRY_AUDIT_SCHEDULE", "")]),
];

/// A check, what makes it fail in the catalog, and what takes that back.
const IN_THE_CATALOG: &[(&str, &str, &str)] = &[
    (
        "master-key",
        "update catalog_facts set changed_at = now() - interval '400 days'",
        "update catalog_facts set changed_at = now()",
    ),
    (
        "master-key",
        "update backups set key_id = '0011223344556677'",
        "update backups set key_id = '{key}'",
    ),
    (
        "tokens",
        "update admin_tokens set created_at = now() - interval '400 days'",
        "update admin_tokens set created_at = now()",
    ),
    (
        "audited",
        "update audits set finished_at = now() - interval '9 days'",
        "update audits set finished_at = now()",
    ),
    ("audited", "update audits set complete = false", "update audits set complete = true"),
    ("audited", "update audits set high = 1", "update audits set high = 0"),
    (
        "backed-up",
        "update backups set confirmed_at = null, started_at = now() - interval '3 days'",
        "update backups set started_at = now()",
    ),
    (
        "drilled",
        "update backups set proven_at = now() - interval '40 days'",
        "update backups set proven_at = now()",
    ),
];

#[tokio::test]
async fn every_check_of_a_production_holds_and_can_fail() {
    let scene = Scene::start().await;
    let (status, all) = scene.check(&[]).await;
    let failing: Vec<_> = all.iter().filter(|(_, good)| !good).collect();
    assert_eq!((status, failing.as_slice()), (0, [].as_slice()), "{all:?}");
    let mut seen = BTreeSet::new();

    for (expected, settings) in SETTINGS {
        let failing = scene.failing(settings).await;
        assert_eq!(
            failing,
            expected.iter().map(|name| (*name).to_owned()).collect(),
            "{settings:?}"
        );
        seen.extend(failing);
    }
    scene.permit(0o644);
    seen.extend(alone(&scene, "secret-files", &[]).await);
    scene.permit(0o640);
    assert_eq!(scene.failing(&[]).await, BTreeSet::new());

    let catalog = scene.fleet.admin("tenantry").await;
    let key = scene.fleet.catalog().master_key_id();
    for (name, hole, mend) in IN_THE_CATALOG {
        catalog.batch_execute(hole).await.unwrap();
        seen.extend(alone(&scene, name, &[]).await);
        catalog.batch_execute(&mend.replace("{key}", &key)).await.unwrap();
    }

    let first = scene.fleet.postgres.database_url("tenantry");
    seen.extend(alone(&scene, "administrators", &[("TENANTRY_CATALOG_URL", &first)]).await);
    let standby = "postgres://keeper:x@192.0.2.1/postgres?sslmode=require".into();
    scene.fleet.catalog().add_read_replica("default", "standby", &standby).await.unwrap();
    seen.extend(alone(&scene, "server-tls", &[]).await);
    scene.fleet.catalog().remove_read_replica("default", "standby").await.unwrap();
    let admin = scene.fleet.admin("postgres").await;
    for line in ["host all all 10.0.0.0/8 trust", "host all all 10.0.0.0/8 scram-sha-256"] {
        admin
            .batch_execute(&format!("copy (select '{line}') to program 'cat >> pg_hba.conf'"))
            .await
            .unwrap();
        seen.extend(alone(&scene, "servers", &[]).await);
        let mend =
            "copy (select 1) to program 'cat >> /dev/null && sed -i /10.0.0.0/d pg_hba.conf'";
        admin.batch_execute(mend).await.unwrap();
    }

    assert_eq!(scene.failing(&[]).await, BTreeSet::new());
    let names: BTreeSet<String> = all.into_iter().map(|(name, _)| name).collect();
    assert_eq!(seen, names, "each check fails at least once");
    scene.fleet.create_tenant("globex").await;
    alone(&scene, "backed-up", &[]).await;
    let (status, told) = scene.cli(&[]).told("config check --production").await;
    assert_eq!(status, 1, "{told}");
    for words in [
        "1 tenant has no backup at all: globex",
        "the listeners speak plain HTTP, over loopback only",
        "no certificate is asked for, over loopback",
        "VERDICT",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
    assert!(!told.contains("in order"), "{told}");
}

/// Sees that this check fails, and no other.
async fn alone(scene: &Scene, name: &str, settings: Settings<'_>) -> BTreeSet<String> {
    let failing = scene.failing(settings).await;
    assert_eq!(failing, BTreeSet::from([name.to_owned()]));
    failing
}
