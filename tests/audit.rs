//! The audit of isolation: it finds every hole that is punched, and nothing where there is none.

use std::path::PathBuf;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use jiff::{Timestamp, ToSpan as _};
use reqwest::StatusCode;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use tenantry::audit::report::verify;
use tenantry::audit::schedule::audit_if_due;
use tenantry::audit::{Audit, AuditOptions, Audited, Finding};
use tenantry::catalog::audits::Acceptance;
use tenantry::embedded::PostgresSettings;
use tenantry::operations::request::BackupChoice;
use tenantry::operations::upkeep;
use tenantry_backup::ObjectKey;
use tenantry_provisioning::Hardening;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::cli::Cli;
use crate::harness::replica::Replica;
use crate::harness::{BY, Fleet, Options, connect, slug, usual_hardening};

mod holes;
mod kept;

use holes::{HOLES, Hole};

const TENANTS: usize = 30;

async fn audited(fleet: &Fleet) -> Audited {
    let begun = Audit::begin(&fleet.environment, AuditOptions::default(), "test").await.unwrap();
    begun.unwrap().run().await.unwrap()
}

async fn findings(fleet: &Fleet) -> Vec<Finding> {
    audited(fleet).await.report.findings
}

/// Waits until this is so.
async fn until(is_so: impl AsyncFn() -> bool) {
    let wait = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), wait).await.unwrap();
}

/// Runs statements, each with its own transaction where `;;` parts them.
async fn run(client: &Client, sql: &str) {
    for statement in sql.split(";;").filter(|statement| !statement.trim().is_empty()) {
        client.batch_execute(statement).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
}

#[tokio::test]
async fn a_fleet_that_has_lived_has_no_findings() {
    let fleet = Fleet::start_with(Options { spares: 1, ..Options::default() }).await;
    for name in ["fresh", "restored", "renamed", "suspended", "rotated", "migrated"] {
        fleet.create_tenant_with(name, true).await;
    }
    fleet.back_up("restored").await;
    let environment = &fleet.environment;
    for asked in [
        environment.restore(&slug("restored"), BackupChoice::Latest, BY).await,
        environment.rename(&slug("renamed"), &slug("initech"), BY).await,
        environment.suspend(&slug("suspended"), None, BY).await,
        environment.rotate_password(&slug("rotated"), BY).await,
    ] {
        fleet.complete(&asked.unwrap()).await;
    }
    upkeep::tend(environment).await.unwrap();

    let report = audited(&fleet).await.report;

    assert_eq!(report.findings, []);
    assert!(report.complete, "{:?}", report.untried);
    let tried = &report.tried;
    assert_eq!((tried.servers, tried.tenants, tried.databases, tried.logins), (1, 6, 6, 5));
    // The suspended one is nobody whom anything could be tried as.
    assert_eq!(tried.pairs_tried * 6, tried.pairs * 5);
    assert_eq!(tried.pairs_tried, tried.pairs_refused);
    assert!(tried.acts > 150 && tried.acts == tried.acts_refused, "{tried:?}");
    let is_standard = usual_hardening() == Hardening::Standard;
    assert_eq!(tried.names_of_databases_seen > 6, is_standard, "{tried:?}");
    fleet.assert_healthy().await;
}

/// The fleet, and what its tenants had before anybody touched them.
struct Ground {
    fleet: Fleet,
    words: Vec<(String, String)>,
}

impl Ground {
    async fn new() -> Self {
        let mut postgres = PostgresSettings::scratch();
        postgres.extra.push(("wal_level".to_owned(), "logical".to_owned()));
        let options = Options { spares: 1, postgres, ..Options::default() };
        let fleet = Fleet::start_with(options).await;
        let names: Vec<String> = (1..=TENANTS).map(|number| format!("t{number:02}")).collect();
        let all = &fleet;
        let create = |name| async move { drop(all.create_tenant(name).await) };
        stream::iter(names.iter().map(String::as_str)).for_each_concurrent(3, create).await;
        fleet.back_up("t01").await;
        upkeep::tend(&fleet.environment).await.unwrap();
        let mut words = vec![("{key}".to_owned(), fleet.catalog().master_key_id())];
        let admin = fleet.admin("postgres").await;
        for name in &names {
            let tenant = fleet.tenant(name).await;
            words.push((format!("{{stamp:{name}}}"), format!("{}:{}", tenant.id, tenant.epoch)));
        }
        let comments = admin
            .query(
                "select 'database', datname::text, shobj_description(oid, 'pg_database') from pg_database
                 union all select 'role', rolname::text, shobj_description(oid, 'pg_authid') from pg_roles",
                &[],
            )
            .await
            .unwrap();
        for row in comments {
            let (kind, name, comment): (&str, &str, Option<&str>) =
                (row.get(0), row.get(1), row.get(2));
            for unowned in ["template", "spare"] {
                if name.starts_with(&format!("tenantry_{unowned}_")) {
                    words.push((format!("{{{unowned}}}"), name.to_owned()));
                    words.push((format!("{{comment:{unowned}}}"), comment.unwrap().to_owned()));
                }
            }
            if let Some(tenant) = name.strip_prefix("tenant_") {
                words.push((format!("{{{kind}:{tenant}}}"), comment.unwrap().to_owned()));
            }
        }
        Self { fleet, words }
    }

    fn filled(&self, text: &str) -> String {
        self.words.iter().fold(text.to_owned(), |text, (word, value)| text.replace(word, value))
    }

    async fn punch(&self) {
        for hole in HOLES {
            run(&self.fleet.admin(hole.at).await, &self.filled(hole.punch)).await;
        }
    }

    async fn mend(&self) {
        for hole in HOLES.iter().rev() {
            match hole.mend.strip_prefix("ROTATE ") {
                Some(name) => {
                    let rotated = self.fleet.environment.rotate_password(&slug(name), BY).await;
                    self.fleet.complete(&rotated.unwrap()).await;
                }
                None => run(&self.fleet.admin(hole.at).await, &self.filled(hole.mend)).await,
            }
        }
    }

    /// A backup's manifest, put where it does not belong; returns the folders.
    async fn misplace_backups(&self) -> [PathBuf; 2] {
        let store = self.fleet.environment.store.as_ref().unwrap();
        let backup = self.fleet.catalog().backups(None, 1).await.unwrap().remove(0);
        let other = self.fleet.tenant("t02").await.id;
        let strangers = Uuid::now_v7();
        for tenant in [other, strangers] {
            let key = ObjectKey::manifest(tenant, backup.id);
            store.put(&key, b"{}".to_vec().into()).await.unwrap();
        }
        let folder = self.fleet.s3.data_dir().join("backups/tenantry");
        [other, strangers].map(|tenant| folder.join(tenant.to_string()))
    }

    fn missing<'a>(&self, found: &[Finding], holes: impl Iterator<Item = &'a Hole>) -> Vec<String> {
        let is_found = |hole: &&Hole| {
            let (subject, remedy) = (self.filled(hole.subject), self.filled(hole.remedy));
            found.iter().any(|finding| {
                finding.kind == hole.kind
                    && finding.subject.contains(&subject)
                    && finding.remedy.contains(&remedy)
            })
        };
        let holes = holes.filter(|hole| !hole.kind.is_empty() && !is_found(hole));
        holes.map(|hole| format!("{} {}", hole.kind, hole.subject)).collect()
    }
}

/// It takes some 30 seconds: a fleet of thirty, attacked by all three times.
#[tokio::test]
async fn every_hole_is_found_and_named_and_none_is_left_when_it_is_mended() {
    let ground = Ground::new().await;
    let fleet = &ground.fleet;
    let clean = audited(fleet).await.report;
    assert_eq!((clean.findings, clean.untried), (vec![], vec![]));
    assert!(clean.tried.pairs_refused > 30 * 30, "{:?}", clean.tried);
    let tenant = fleet.tenant("t30").await;
    let password = fleet.catalog().tenant_password(tenant.id).await.unwrap();
    let url = fleet.server().url().with_database("tenant_t30");
    let session = url.with_user("tenant_t30", &password).connect().await.unwrap();

    ground.punch().await;
    let admin = fleet.admin("postgres").await;
    run(&admin, "revoke connect on database tenant_t30 from tenant_t30").await;
    let folders = ground.misplace_backups().await;
    let found = findings(fleet).await;

    assert!(HOLES.iter().filter(|hole| !hole.kind.is_empty()).count() >= 40);
    assert_eq!(ground.missing(&found, HOLES.iter()), Vec::<String>::new(), "{found:#?}");
    for kind in ["stale_session", "misplaced_backup", "stray_backups"] {
        assert!(found.iter().any(|finding| finding.kind == kind), "{kind}");
    }
    for finding in &found {
        assert!(!finding.remedy.is_empty() && !finding.evidence.is_empty(), "{finding:?}");
        assert!(!finding.remedy.contains("SLUG"), "{finding:?}");
        if let Some(sql) = finding.sql.as_ref().filter(|_| finding.kind != "forbidden_act") {
            let place = finding.database.as_deref().unwrap_or("postgres");
            let shown = fleet.admin(place).await.simple_query(sql).await;
            assert!(shown.is_ok(), "{sql}: {shown:?}");
        }
    }

    drop(session);
    for folder in folders {
        let backup = fleet.catalog().backups(None, 1).await.unwrap().remove(0).id.to_string();
        std::fs::remove_dir_all(folder.join(backup)).unwrap();
    }
    run(&admin, "grant connect on database tenant_t30 to tenant_t30").await;
    ground.mend().await;
    let left = audited(fleet).await.report;
    assert_eq!((left.findings, left.untried), (vec![], vec![]));
}

#[tokio::test]
async fn a_report_is_signed_and_what_is_accepted_counts_no_more() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    run(&fleet.admin("postgres").await, "grant connect on database tenant_acme to public").await;

    let Audited { report, document } = audited(&fleet).await;

    let key = fleet.catalog().certificate_key().await.unwrap().public();
    assert_eq!(verify(&document, &key).unwrap(), report);
    let kept = fleet.catalog().audit_report(report.audit).await.unwrap();
    assert_eq!(verify(&kept, &key).unwrap(), report);
    for (path, value) in [
        ("/findings", json!([])),
        ("/complete", json!(false)),
        ("/tried/pairs_refused", json!(0)),
        ("/findings/0/accepted", json!(null)),
    ] {
        let mut altered = document.clone();
        match altered.pointer_mut(path) {
            Some(place) => *place = value,
            None => altered["findings"][0]["accepted"] = value,
        }
        assert!(verify(&altered, &key).is_err(), "{path}");
    }
    let [finding] = &report.findings[..] else { panic!("{:?}", report.findings) };
    let acceptance = |until| Acceptance {
        finding: finding.id.clone(),
        reason: "a migration of the network".to_owned(),
        accepted_by: "ana".to_owned(),
        until,
    };
    let unknown = Acceptance { finding: "mistyped".to_owned(), ..acceptance(Timestamp::now()) };
    let refused = fleet.catalog().accept_finding(&unknown).await.unwrap_err();
    assert_eq!(refused.to_string(), "there is no finding `mistyped`");
    fleet.catalog().accept_finding(&acceptance(Timestamp::now() + 1.hour())).await.unwrap();
    let accepted = audited(&fleet).await.report;
    assert_eq!((accepted.open().count(), accepted.findings.len()), (0, 1));
    fleet.catalog().accept_finding(&acceptance(Timestamp::now() - 1.hour())).await.unwrap();
    assert_eq!(audited(&fleet).await.report.open().count(), 1, "it is over");
}

#[tokio::test]
async fn what_could_not_be_tried_makes_an_audit_incomplete() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    fleet.create_tenant("globex").await;
    let away = "postgres://nobody:x@127.0.0.1:1/postgres".to_owned().into();
    fleet.catalog().add_server("away", &away).await.unwrap();
    run(&fleet.admin("postgres").await, "alter role tenant_acme password 'another'").await;

    let report = audited(&fleet).await.report;

    assert!(!report.complete);
    assert!(report.untried.iter().any(|what| what.contains("server away")), "{:?}", report.untried);
    let kinds: Vec<_> = report.findings.iter().map(|finding| finding.kind.as_str()).collect();
    assert_eq!(kinds, ["login_failed"]);
    assert_eq!(report.tried.logins, 1);
    assert!(report.tried.pairs_tried < report.tried.pairs, "{:?}", report.tried);
}

#[tokio::test]
async fn the_clock_audits_when_it_is_due() {
    let fleet = Fleet::start().await;
    let times = "0 0 1 1 *".parse().unwrap();
    let ask = async |since| audit_if_due(&fleet.environment, &times, since).await.unwrap();

    assert!(!ask(Timestamp::now() + 1.hour()).await, "not yet");
    let long_ago = Timestamp::now() - (2 * 366 * 24).hours();
    assert!(ask(long_ago).await);
    assert!(!ask(long_ago).await, "it was done");

    let audits = fleet.catalog().audits(10).await.unwrap();
    assert_eq!(audits.len(), 1);
    assert!(audits[0].complete && audits[0].whole);
    let begun = Audit::begin(&fleet.environment, AuditOptions::default(), "a").await.unwrap();
    let second = Audit::begin(&fleet.environment, AuditOptions::default(), "b").await.unwrap();
    assert!(begun.is_some() && second.is_none());
}

#[tokio::test]
async fn an_audit_runs_over_http_and_health_knows_the_last_one() {
    let replica = Replica::start().await;
    replica.create("acme").await;
    let (_, health) = replica.get("/health").await;
    assert_eq!(health["isolation_status"], "not_audited");
    assert_eq!(replica.get("/api/audit").await.0, StatusCode::NOT_FOUND);

    let (status, begun) = replica.post("/api/audit", json!({})).await;

    assert_eq!(status, StatusCode::ACCEPTED, "{begun}");
    let path = format!("/api/audit/{}", begun["id"].as_str().unwrap());
    until(async || replica.get(&path).await.0 == StatusCode::OK).await;
    let (_, report) = replica.get(&path).await;
    assert_eq!((&report["complete"], &report["findings"]), (&json!(true), &json!([])), "{report}");
    assert_eq!(replica.get("/api/audit").await.1, report);
    assert_eq!(replica.get("/api/audits").await.1["audits"].as_array().unwrap().len(), 1);
    until(async || replica.get("/health").await.1["isolation_status"] == "isolated").await;
    let unknown = replica.post("/api/audit", json!({ "tenants": ["nobody"] })).await;
    assert_eq!(unknown.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_command_finds_fixes_and_compares() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    fleet.create_tenant("globex").await;
    let cli = Cli::new(&fleet);
    let folder = TempDir::new().unwrap();
    let before = folder.path().join("before.json");
    let clean = cli.json("tenant audit").await;
    assert_eq!(clean["findings"], json!([]), "{clean}");

    let punch = "grant connect on database tenant_globex to tenant_acme;
                 comment on role tenantry_app is 'mine'; alter role tenant_acme connection limit 9";
    run(&fleet.admin("postgres").await, punch).await;
    let found = cli.run("tenant audit --output-format json").await;
    assert_eq!(found.status.code(), Some(1));
    std::fs::write(&before, &found.stdout).unwrap();
    let document: Value = serde_json::from_slice(&found.stdout).unwrap();
    let file = before.display();
    let key = cli.json("erasure public-key").await["public_key"].as_str().unwrap().to_owned();
    cli.json(&format!("audit verify {file} --public-key {key}")).await;
    let nothing_new = cli.json(&format!("tenant audit --baseline {file}")).await;
    assert_eq!(nothing_new["findings"], json!([]), "{nothing_new}");

    cli.refused(
        "tenant audit --fix",
        4,
        "revoke connect on database tenant_globex from tenant_acme",
    )
    .await;
    let fixed = cli.json("tenant audit --fix --yes").await;
    assert_eq!(fixed["findings"], json!([]), "{fixed}");
    assert_eq!(cli.json("audit list").await.as_array().unwrap().len(), 6);

    let altered = document.to_string().replace("tenant_globex", "tenant_initech");
    std::fs::write(&before, altered).unwrap();
    cli.refused(&format!("audit verify {file} --public-key {key}"), 4, "the document was altered")
        .await;
    run(&fleet.admin("postgres").await, "alter role tenant_acme connection limit 9").await;
    let one = cli.run("tenant audit --output-format json").await;
    let id = serde_json::from_slice::<Value>(&one.stdout).unwrap()["findings"][0]["id"].clone();
    let id = id.as_str().unwrap();
    cli.json(&format!("tenant audit accept {id} --reason known --until 30d")).await;
    assert_eq!(cli.json("tenant audit").await["findings"][0]["accepted"]["reason"], "known");
    let text = cli.run("tenant audit").await.stdout;
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(text.contains("connection_limit") && text.contains("accepted by"), "{text}");
    let secrets = [fleet.postgres.password(), fleet.master_key.expose_secret()];
    assert!(secrets.iter().all(|secret| !text.contains(secret)));
}

#[tokio::test]
async fn nothing_that_is_tried_leaves_anything_behind() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let admin = fleet.admin("postgres").await;
    let everything = async || -> Vec<String> {
        let rows = admin
            .query(
                "select rolname::text from pg_roles union all select datname::text from pg_database
                 union all select slot_name::text from pg_replication_slots",
                &[],
            )
            .await
            .unwrap();
        let inside = connect(&fleet.postgres.database_url("tenant_acme")).await.unwrap();
        let objects = inside
            .query(
                "select oid::regclass::text from pg_class where relnamespace::regnamespace::text !~ '^pg_t'
                 union all select oid::regprocedure::text from pg_proc union all select nspname::text from pg_namespace
                 union all select extname::text from pg_extension union all select evtname::text from pg_event_trigger
                 union all select oid::text from pg_largeobject_metadata union all select pubname::text from pg_publication",
                &[],
            )
            .await
            .unwrap();
        let mut names: Vec<String> = rows.iter().chain(&objects).map(|row| row.get(0)).collect();
        names.sort();
        names
    };
    // With every right, everything that is tried succeeds.
    run(&admin, "alter role tenant_acme superuser").await;
    let before = everything().await;

    let found = findings(&fleet).await;

    let acts = found.iter().filter(|finding| finding.kind == "forbidden_act").count();
    assert!(acts > 20, "{acts}");
    // A session's own slot goes with the session, a moment after it.
    until(async || everything().await == before).await;
}
