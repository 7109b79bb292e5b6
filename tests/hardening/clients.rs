//! What people and programs connect with, as the role of a strict tenant: unmodified, and each in its ordinary use.

use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::{strict, url};
use crate::harness::Fleet;

/// Where `.ci/bootstrap tests` puts what the client for Python needs.
const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/site");

/// A strict fleet with a tenant `acme` that has rows, and another one.
async fn scene() -> (Fleet, String) {
    let fleet = strict().await;
    let acme = fleet.create_tenant_with("acme", true).await;
    fleet.create_tenant("globex").await;
    let url = url(&fleet, &acme).await;
    (fleet, url)
}

async fn run(fleet: &Fleet, program: &str, arguments: &[&str]) -> Output {
    let own = fleet.postgres.bin_dir().join(program);
    let program = if own.exists() { own } else { program.into() };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    timeout(Duration::from_mins(1), command.output()).await.expect("it ends").unwrap()
}

fn said(output: &Output) -> String {
    let both = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    both.concat()
}

/// Runs it, which must succeed; returns what it said.
async fn ok(fleet: &Fleet, program: &str, arguments: &[&str]) -> String {
    let output = run(fleet, program, arguments).await;
    assert!(output.status.success(), "{program} {}", said(&output));
    said(&output)
}

#[tokio::test]
async fn psql_shows_a_tenant_its_own_and_nothing_else() {
    let (fleet, url) = scene().await;
    let psql = async |command: &str| run(&fleet, "psql", &["-X", "-c", command, &url]).await;

    for command in [
        r"\d",
        r"\dt",
        r"\d boards",
        r"\d+ boards",
        r"\di",
        r"\ds",
        r"\dn",
        r"\df",
        r"\dv",
        r"\dp",
        r"\dx",
        r"\dT",
        r"\dS pg_class",
        r"\conninfo",
        r"\encoding",
        "table boards",
        "explain analyze table boards",
    ] {
        let output = psql(command).await;
        let text = said(&output);
        assert!(output.status.success(), "{command}: {text}");
        assert!(!text.contains("ERROR") && !text.contains("globex"), "{command}: {text}");
    }
    // README.md lists these.
    for command in [r"\l", r"\du", r"\db", r"\drds", "table pg_stat_activity", "table pg_locks"] {
        let text = said(&psql(command).await);
        assert!(
            text.contains("permission denied") && !text.contains("globex"),
            "{command}: {text}"
        );
    }
}

#[tokio::test]
async fn pg_dump_takes_what_is_a_tenants_as_its_owner_and_as_itself() {
    let (fleet, url) = scene().await;
    let all = fleet.postgres.database_url("tenant_acme");

    let by_owner = ok(&fleet, "pg_dump", &["--role=tenantry_owner", &all]).await;
    let by_tenant = ok(
        &fleet,
        "pg_dump",
        &["--schema=public", "--no-subscriptions", "--no-security-labels", &url],
    )
    .await;

    for dump in [&by_owner, &by_tenant] {
        assert!(dump.contains("COPY public.boards") && !dump.contains("globex"), "{dump}");
    }
    // Who takes a dump by hand gets the rights to the system's catalogs, too; a restore by an administrator sets them.
    assert!(by_owner.contains("pg_catalog.pg_database"));
    let refused = run(&fleet, "pg_dump", &["--schema=public", &url]).await;
    assert!(said(&refused).contains("permission denied"), "{}", said(&refused));
}

#[tokio::test]
async fn pgbench_makes_its_tables_as_the_owner_and_runs_as_the_tenant() {
    let (fleet, url) = scene().await;
    let owner = fleet.postgres.database_url("tenant_acme");
    let owner = format!("{owner}?options=-c%20role%3Dtenantry_owner");

    ok(&fleet, "pgbench", &["-i", "-q", "-s", "1", &owner]).await;
    for mode in ["simple", "extended", "prepared"] {
        let line = ["-n", "-c", "4", "-j", "2", "-t", "25", "-M", mode, &url];
        let ran = ok(&fleet, "pgbench", &line).await;

        assert!(ran.contains("100/100"), "{ran}");
    }
}

#[tokio::test]
async fn node_postgres_and_psycopg_work_as_ever() {
    let (fleet, url) = scene().await;
    for (program, script) in
        [("node", "tests/clients/client.mjs"), ("python3", "tests/clients/client.py")]
    {
        let mut command = Command::new(program);
        command.arg(script).env("DATABASE_URL", &url).env("PYTHONPATH", PYTHON);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output =
            timeout(Duration::from_mins(1), command.output()).await.expect("it ends").unwrap();

        assert!(output.status.success(), "`.ci/bootstrap tests` installs it: {}", said(&output));
    }
    drop(fleet);
}
