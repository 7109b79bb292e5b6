//! `tenantry backup import`, as its user meets it.

use std::io::Write as _;
use std::process::{Child, ChildStdin, Command, Stdio};

use serde_json::Value;
use tenantry::catalog::lock::Claim;

use super::Scene;
use crate::cli::Cli;
use crate::harness::eventually;
use crate::harness::process::command;

/// The command, with its standard input open.
fn start(scene: &Scene, arguments: &[&str]) -> Child {
    let mut command = command(&scene.fleet);
    command.args(["backup", "import"]).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// A dump of which only the beginning has come, and the guest at work on it.
async fn half_sent(scene: &Scene) -> (Child, ChildStdin) {
    let mut child = start(scene, &["-", "--as", "acme"]);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"create table one (id int);\n").unwrap();
    stdin.write_all(" ".repeat(1024).as_bytes()).unwrap();
    let admin = scene.fleet.admin("postgres").await;
    let sql = "select exists (select from pg_stat_activity where usename like 'tenantry\\_guest\\_%' and query like '%create table%')";
    eventually("the dump comes in", async || admin.query_one(sql, &[]).await.unwrap().get(0)).await;
    (child, stdin)
}

#[tokio::test]
async fn a_dump_is_imported_from_a_file_and_from_standard_input() {
    let scene = Scene::start().await;
    let cli = Cli::new(&scene.fleet);
    let file = scene.dump("old.dump", &["-Fc"]).await;

    let line = format!("backup import {} --as acme --name Acme", file.display());
    let imported = cli.json(&line).await;

    assert_eq!((&imported["tenant"], &imported["format"]), (&"acme".into(), &"custom".into()));
    let rows = imported["tables"].as_array().unwrap();
    assert!(
        rows.iter().any(|table| table["table"] == "cards" && table["rows"] == 2500),
        "{imported}"
    );
    assert!(imported["left_out"]["owners"].as_u64().unwrap() > 0);
    assert_eq!(cli.json("tenant show acme").await["name"], "Acme");
    let mut child = start(&scene, &["-", "--as", "globex"]);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&std::fs::read(&file).unwrap()).unwrap();
    drop(stdin);
    let output =
        tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    let (told, next) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{next}");
    for words in ["`globex` is imported", "Left out: ", "app.cards", "2500"] {
        assert!(told.contains(words), "{told}");
    }
    assert!(next.contains("tenantry migrate baseline globex"), "{next}");
    assert_eq!(scene.content("tenant_globex").await, scene.content("old").await);
    cli.refused(&line, 1, "exists already").await;
    cli.refused("backup import /no/such.dump --as hooli", 1, "cannot be read").await;
    cli.refused(&format!("{line}x --format tar"), 1, "not in tar format").await;
    let definer = "create function f() returns int language sql security definer as 'select 1';";
    for (holds, status, words) in [
        // Broken ...
        ("create table t ();\nselect 1 from nowhere;\n", 1, "nothing of it is left"),
        ("begin;\ncreate table t ();\n", 1, "within a transaction"),
        // ... or refused for what it holds: before it is run, by the server, and once it is in.
        ("create table t ();\n\\! id\n", 4, "nothing of it is left"),
        ("create role evil superuser;\n", 4, "`create role`"),
        ("do $$ begin execute 'create role evil'; end $$;", 4, "permission denied"),
        (definer, 4, "--trust-functions"),
    ] {
        let file = scene.write("holds.sql", holds);
        cli.refused(&format!("backup import {} --as hooli", file.display()), status, words).await;
    }
    cli.refused("tenant show hooli", 1, "there is no tenant").await;
    scene.fleet.assert_healthy().await;
}

#[tokio::test]
async fn a_schema_that_the_files_make_gets_their_history() {
    let scene = Scene::start().await;
    let cli = Cli::new(&scene.fleet);
    scene.fleet.create_tenant_with("origin", true).await;
    let file = scene.path("origin.sql");
    let mut dump = Command::new("pg_dump");
    dump.args(["--exclude-schema=tenantry", "--file"]).arg(&file);
    super::run(dump.arg(scene.fleet.postgres.database_url("tenant_origin"))).await;

    let imported =
        cli.json(&format!("backup import {} --as acme --baseline 1", file.display())).await;

    assert_eq!(imported["baseline"]["differences"], 0, "{imported}");
    assert_eq!(scene.fleet.tenant("acme").await.schema_version, 1);
    assert_eq!(scene.fleet.count("acme", "boards").await, 3);
    let other = scene.write("other.sql", "create table boards (id int);");
    let line = format!("backup import {} --as globex --baseline 1", other.display());
    cli.refused(&line, 4, "No history was written").await;
    assert_eq!(scene.fleet.tenant("globex").await.schema_version, 0);
    cli.refused(
        &format!("backup import {} --as hooli --baseline 7", other.display()),
        2,
        "version 7",
    )
    .await;
}

#[tokio::test]
async fn an_import_that_is_killed_is_undone_by_whoever_comes_by() {
    let scene = Scene::start().await;
    let before = scene.left().await;
    let (mut child, _stdin) = half_sent(&scene).await;

    child.kill().unwrap();
    child.wait().unwrap();

    let catalog = scene.fleet.catalog();
    eventually("the worker is missed", async || catalog.release_abandoned().await.unwrap() == 1)
        .await;
    assert!(scene.fleet.runner().run_one(Claim::Any).await.unwrap().is_some());
    assert_eq!(scene.left().await, before);
    scene.fleet.assert_healthy().await;
}

#[tokio::test]
async fn an_import_that_is_interrupted_leaves_nothing() {
    let scene = Scene::start().await;
    let before = scene.left().await;
    let (child, stdin) = half_sent(&scene).await;

    run_kill(&child);
    let output =
        tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();

    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{told}");
    assert!(told.contains("nothing of it is left"), "{told}");
    assert_eq!(scene.left().await, before);
    drop(stdin);
    let list = Cli::new(&scene.fleet).json("operation list").await;
    let find = |operations: &Value| operations.to_string().contains("cancelled");
    assert!(find(&list), "{list}");
}

/// Ctrl-C.
fn run_kill(child: &Child) {
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}
