//! The hardening `strict`: a tenant that may run any SQL learns the name of nobody else, and everything goes on.

use std::collections::BTreeSet;
use std::time::Duration;

use secrecy::ExposeSecret as _;
use serde_json::json;
use tenantry::audit::{Audit, AuditOptions, Finding, mend};
use tenantry::catalog::audit_log::AuditFilter;
use tenantry::catalog::tenants::NewTenant;
use tenantry::embedded::{EmbeddedPostgres, PostgresSettings};
use tenantry::operations::request::{BackupChoice, RestoreAs};
use tenantry::operations::{Environment, Runner, upkeep};
use tenantry::tenant::Tenant;
use tenantry_provisioning::Hardening;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_util::sync::CancellationToken;

use crate::cli::Cli;
use crate::harness::postgres18::Postgres18;
use crate::harness::{BY, Fleet, Options, connect, new_tenant, slug};

mod bounds;
mod clients;

async fn strict() -> Fleet {
    Fleet::start_with(Options { spares: 1, hardening: Hardening::Strict, ..Options::default() })
        .await
}

/// The connection string of a tenant's own role.
async fn url(fleet: &Fleet, tenant: &Tenant) -> String {
    let password = fleet.catalog().tenant_password(tenant.id).await.unwrap();
    let (role, database) = (tenant.role.as_str(), tenant.database.as_str());
    let port = fleet.postgres.port().unwrap();
    format!("postgres://{role}:{}@127.0.0.1:{port}/{database}", password.expose_secret())
}

async fn log_in(fleet: &Fleet, name: &str) -> Client {
    let tenant = fleet.tenant(name).await;
    connect(&url(fleet, &tenant).await).await.unwrap()
}

async fn findings(environment: &Environment) -> Vec<Finding> {
    // The one before may still be letting go.
    let audit = loop {
        match Audit::begin(environment, AuditOptions::default(), "test").await.unwrap() {
            Some(audit) => break audit,
            None => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    let report = audit.run().await.unwrap().report;
    assert!(report.complete, "{:?}", report.untried);
    report.findings
}

/// Everything that a role can read: every catalog and view, column by column where it may not read all of one, and
/// every function that takes nothing and returns rows. How many of them there were, and what they said.
async fn everything(session: &Client) -> (usize, String) {
    let text = async |sql: &str| -> Option<String> {
        match session.query(sql, &[]).await {
            Ok(rows) => {
                let row = |row: &tokio_postgres::Row| row.get::<_, Option<String>>(0);
                Some(rows.iter().filter_map(row).collect::<Vec<_>>().join("\n"))
            }
            // A few may be called only in certain places.
            Err(error) => {
                assert!(error.as_db_error().is_some(), "{sql}: {error}");
                None
            }
        }
    };
    let names = async |sql: &str| -> Vec<String> {
        let rows = session.query(sql, &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    };
    let (mut number, mut said) = (0, String::new());
    let relations = names(
        "select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace
         where c.relkind in ('r', 'v', 'm', 'p', 'f') and has_schema_privilege(n.oid, 'usage')",
    )
    .await;
    for relation in relations {
        if let Some(rows) = text(&format!("select r::text from {relation} r")).await {
            number += 1;
            said += &rows;
            continue;
        }
        let columns = format!(
            "select quote_ident(attname) from pg_attribute
             where attrelid = '{relation}'::regclass and has_column_privilege(attrelid, attnum, 'select')"
        );
        for column in names(&columns).await {
            said +=
                &text(&format!("select {column}::text from {relation}")).await.unwrap_or_default();
        }
    }
    let functions = names(
        "select format('%I.%I', n.nspname, p.proname) from pg_proc p join pg_namespace n on n.oid = p.pronamespace
         where p.proretset and p.pronargs = p.pronargdefaults and has_function_privilege(p.oid, 'execute')",
    );
    for function in functions.await {
        if let Some(rows) = text(&format!("select r::text from {function}() r")).await {
            number += 1;
            said += &rows;
        }
    }
    (number, said)
}

/// Names that others have: databases, roles, and what their sessions are called.
async fn names_of_others(fleet: &Fleet, own: &str) -> BTreeSet<String> {
    // Every PostgreSQL has the first four, and every server of a fleet the others.
    const EVERYBODYS: [&str; 8] = [
        "postgres",
        "template0",
        "template1",
        "public",
        "tenantry",
        "tenantry_owner",
        "tenantry_app",
        "tenantry audit",
    ];
    let rows = fleet
        .admin("postgres")
        .await
        .query(
            "select datname::text from pg_database union select rolname::text from pg_roles where oid >= 16384
             union select substr(datname, 8) from pg_database where datname ~ '^tenant_'",
            &[],
        )
        .await
        .unwrap();
    let mut names: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
    names.retain(|name| {
        !EVERYBODYS.contains(&name.as_str()) && name != own && *name != format!("tenant_{own}")
    });
    names
}

#[tokio::test]
async fn a_strict_tenant_reads_the_name_of_nobody_else() {
    reads_nobody_elses_name(strict().await).await;
}

#[tokio::test]
async fn a_strict_tenant_of_the_newest_major_reads_the_name_of_nobody_else() {
    let Some(newest) = Postgres18::installed() else { return };
    let bin_dir = Some(newest.bin_dir());
    let postgres = PostgresSettings { bin_dir, ..PostgresSettings::scratch() };
    let options = Options { hardening: Hardening::Strict, postgres, ..Options::default() };
    reads_nobody_elses_name(Fleet::start_with(options).await).await;
}

/// Every catalog, view and function is read twice, each by a query of its own.
async fn reads_nobody_elses_name(fleet: Fleet) {
    for name in ["acme", "globex", "initech"] {
        fleet.create_tenant(name).await;
    }
    let admin = fleet.admin("postgres").await;
    for statement in [
        "create role warehouse_reader login",
        "create database warehouse owner warehouse_reader",
        "revoke connect on database warehouse from public",
        "comment on database warehouse is 'of umbrella'",
        "alter role warehouse_reader set application_name = 'umbrella reports'",
        "select pg_create_physical_replication_slot('umbrella_standby')",
    ] {
        admin.batch_execute(statement).await.unwrap();
    }
    let neighbour = log_in(&fleet, "globex").await;
    neighbour
        .batch_execute("set application_name = 'umbrella shop'; begin; select 1")
        .await
        .unwrap();
    let mut others = names_of_others(&fleet, "acme").await;
    others.insert("umbrella".to_owned());
    assert!(others.len() >= 8 && others.contains("warehouse"), "{others:?}");
    let acme = log_in(&fleet, "acme").await;

    let (number, said) = everything(&acme).await;
    let seen: Vec<&String> = others.iter().filter(|name| said.contains(name.as_str())).collect();

    assert_eq!(seen, [] as [&String; 0]);
    assert!(number > 150, "{number}");
    // What is asked by number, name by name.
    for sql in [
        "select shobj_description(oid, 'pg_database') from generate_series(1, 30000) oid",
        "select pg_describe_object(1262, oid::oid, 0) from generate_series(1, 30000) oid",
        "select identity from generate_series(1, 30000) oid, pg_identify_object(1262, oid::oid, 0)",
        "select pg_stat_get_backend_activity(number) from generate_series(1, 100) number",
        "select application_name from pg_stat_get_activity(null)",
        "select pg_database_size('tenant_globex')",
        "select pg_tablespace_databases(1663)",
        "select pg_stat_get_db_numbackends(oid::oid) from generate_series(1, 30000) oid",
    ] {
        let refused = acme.query(sql, &[]).await.unwrap_err();
        assert_eq!(refused.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{sql}");
    }
    // An error that quotes what it could not read quotes no row that is hidden.
    let error = acme
        .query("select * from pg_roles where rolname::text::int > 0 and rolcanlogin", &[])
        .await;
    let quoted = error.unwrap_err().as_db_error().unwrap().message().to_owned();
    assert!(!others.iter().any(|name| quoted.contains(name.as_str())), "{quoted}");

    // The same look finds them all where they are not hidden, so it would have found them.
    let environment = &fleet.environment;
    let tenant = fleet.tenant("acme").await;
    assert!(environment.harden(&tenant, Hardening::Standard).await.unwrap() > 80);
    let (_, said) = everything(&acme).await;
    let unseen: Vec<&String> = others.iter().filter(|name| !said.contains(name.as_str())).collect();
    assert_eq!(unseen, [] as [&String; 0]);
    assert!(environment.harden(&tenant, Hardening::Strict).await.unwrap() > 80);
    assert_eq!(environment.harden(&tenant, Hardening::Strict).await.unwrap(), 0);
    let refused = acme.query("select datname from pg_database", &[]).await.unwrap_err();
    assert_eq!(refused.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
}

#[tokio::test]
async fn what_is_restored_copied_or_moved_is_strict_again() {
    let fleet = strict().await;
    let environment = &fleet.environment;
    let other = EmbeddedPostgres::start_scratch(PostgresSettings::scratch()).await.unwrap();
    let record = environment.catalog.add_server("eu-2", &other.url().into()).await.unwrap();
    environment.server(record.id).await.unwrap().prepare().await.unwrap();
    for name in ["restored", "renamed", "moved", "suspended", "undone"] {
        let new = NewTenant { server: Some("default".to_owned()), ..new_tenant(name) };
        let made = environment.create_tenant(&new, true, BY).await.unwrap();
        fleet.complete(&made).await;
        fleet.back_up(name).await;
    }
    let copied = RestoreAs { slug: slug("copied"), server: Some("default".to_owned()) };
    let restored = environment.restore(&slug("undone"), BackupChoice::Latest, BY).await.unwrap();
    fleet.complete(&restored).await;
    for asked in [
        environment.restore(&slug("restored"), BackupChoice::Latest, BY).await,
        environment.rename(&slug("renamed"), &slug("initech"), BY).await,
        environment.relocate(&slug("moved"), "eu-2", BY).await,
        environment.suspend(&slug("suspended"), None, BY).await,
        environment.undo_restore(&slug("undone"), BY).await,
        environment.drill_tenant(&slug("restored"), BY).await,
        environment.restore_as(&slug("restored"), BackupChoice::Latest, copied, BY).await,
    ] {
        fleet.complete(&asked.unwrap()).await;
    }
    fleet.add_migration(
        "V2__names.sql",
        "create view names as select rolname from pg_roles; select 1 from pg_database",
    );
    environment.reload_migrations().await.unwrap();
    upkeep::tend(environment).await.unwrap();
    let strictly = Cli::new(&fleet).with("TENANTRY_HARDENING", "strict");
    let migrated = strictly.run("migrate up").await;
    assert!(migrated.status.success(), "{migrated:?}");

    assert_eq!(findings(environment).await, []);
    for database in ["tenant_restored", "tenant_copied", "tenant_undone"] {
        let hidden = fleet.admin(database).await;
        let row = hidden
            .query_one("select has_table_privilege('tenantry_app', 'pg_database', 'select')", &[])
            .await;
        assert!(!row.unwrap().get::<_, bool>(0), "{database}");
    }
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn a_right_that_came_back_is_found_and_taken_away_again() {
    let fleet = strict().await;
    fleet.create_tenant("acme").await;
    let environment = &fleet.environment;
    let inside = fleet.admin("tenant_acme").await;
    for (hole, what) in [
        ("grant select on pg_database to public", "pg_catalog.pg_database"),
        ("grant select (datname) on pg_database to tenant_acme", "pg_catalog.pg_database"),
        ("grant select on pg_shdescription to tenantry_app", "pg_catalog.pg_shdescription"),
        ("grant select on pg_tablespace to public", "pg_catalog.pg_tablespace"),
        ("grant usage on language plpgsql to public", "the language plpgsql"),
        (
            "grant execute on function pg_stat_get_activity(int) to public",
            "pg_stat_get_activity(integer)",
        ),
        (
            "set allow_system_table_mods = on; alter view pg_roles reset (security_barrier)",
            "pg_catalog.pg_roles",
        ),
    ] {
        inside.batch_execute(hole).await.unwrap();

        let found = findings(environment).await;

        let [finding] = &found[..] else { panic!("{hole}: {found:#?}") };
        assert_eq!((finding.kind.as_str(), finding.place.as_str()), ("neighbours_seen", "default"));
        assert_eq!(finding.evidence, format!("it gives tenants {what}"), "{hole}");
        assert!(finding.remedy.contains("tenant harden acme`"), "{}", finding.remedy);
        if hole.ends_with("tenant_acme") {
            // What one role was given by hand is taken from it by hand.
            inside
                .batch_execute("revoke select (datname) on pg_database from tenant_acme")
                .await
                .unwrap();
        } else {
            mend(environment, finding).await.unwrap();
        }
        assert_eq!(findings(environment).await, [], "{hole}");
    }
}

#[tokio::test]
async fn a_fleet_becomes_strict_and_standard_again() {
    let hardening = Hardening::Standard;
    let fleet = Fleet::start_with(Options { spares: 1, hardening, ..Options::default() }).await;
    fleet.create_tenant("acme").await;
    fleet.create_tenant("globex").await;
    let mut limits = fleet.environment.limits.clone();
    limits.hardening = Hardening::Strict;
    let store = fleet.environment.store.clone();
    let environment = Environment::new(fleet.catalog().clone(), store, limits).await.unwrap();

    // With the setting, new tenants come from a template of their own; those that are there are found.
    upkeep::tend(&environment).await.unwrap();
    let asked = environment.create_tenant(&new_tenant("initech"), false, BY).await.unwrap();
    let runner = Runner::new(environment.clone(), CancellationToken::new());
    runner.complete(asked.id).await.unwrap();
    let found = findings(&environment).await;
    let databases: Vec<&str> =
        found.iter().filter_map(|finding| finding.database.as_deref()).collect();
    assert_eq!(databases, ["tenant_acme", "tenant_globex"]);
    assert!(found[0].evidence.contains(" more"), "{}", found[0].evidence);
    assert_eq!(findings(&fleet.environment).await, []);

    let cli = Cli::new(&fleet).with("TENANTRY_HARDENING", "standard");
    let strictly = Cli::new(&fleet).with("TENANTRY_HARDENING", "strict");
    assert_eq!(strictly.json("tenant audit --fix --yes").await["findings"], json!([]));
    assert_eq!(findings(&environment).await, []);
    cli.refused("tenant harden --all --undo", 4, "neighbours").await;
    let loosened = cli.json("tenant harden --all --undo --yes").await;
    assert_eq!(
        (loosened.as_array().unwrap().len(), &loosened[0]["hardening"]),
        (3, &json!("standard"))
    );
    assert_eq!(findings(&environment).await.len(), 3);
    assert_eq!(cli.json("tenant harden acme").await[0]["tenant"], "acme");
    let filter =
        AuditFilter { action: Some("tenant".to_owned()), limit: 100, ..AuditFilter::default() };
    let log = fleet.catalog().audit_log(&filter).await.unwrap();
    let times = |action: &str| log.iter().filter(|entry| entry.action == action).count();
    assert_eq!((times("tenant.hardened"), times("tenant.loosened")), (3, 3));
}
