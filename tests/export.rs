//! Export: a tenant's data in formats that need none of our programs, all of one moment.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use aws_lc_rs::digest;
use serde_json::Value;

use crate::cli::Cli;
use crate::harness::process::command;
use crate::harness::{Fleet, eventually};

/// The files of an unpacked export, by their names.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_string_lossy().into_owned();
                found.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// The manifest names every other file, as it is; returns it.
fn check(files: &BTreeMap<String, Vec<u8>>) -> Value {
    let manifest: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
    let listed = manifest["files"].as_array().unwrap();
    assert_eq!(listed.len() + 1, files.len(), "{:?}", files.keys());
    for file in listed {
        let content = &files[file["name"].as_str().unwrap()];
        assert_eq!(file["bytes"], content.len());
        let sha256 = hex::encode(digest::digest(&digest::SHA256, content));
        assert_eq!(file["sha256"], sha256.as_str());
    }
    manifest
}

#[tokio::test]
async fn an_export_is_read_with_unzip_psql_and_anything_that_knows_csv() {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    let admin = fleet.admin("tenant_acme").await;
    admin
        .batch_execute(
            r#"create table "odd/../name" (id int, note text);
               insert into "odd/../name" values (1, null), (2, ''), (3, E'"a",\nb');
               create unlogged table quick (id int); insert into quick values (7)"#,
        )
        .await
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (archive, plain) = (folder.path().join("acme.zip"), folder.path().join("acme"));
    let cli = Cli::new(&fleet);
    let line = |to: &Path| format!("tenant export acme --to {}", to.display());

    let exported = cli.json(&line(&archive)).await;
    cli.json(&line(&plain)).await;

    let unpacked = folder.path().join("unpacked");
    let unzip = Command::new("unzip").arg("-q").arg(&archive).arg("-d").arg(&unpacked).status();
    assert!(unzip.unwrap().success());
    let (from_archive, from_folder) = (files(&unpacked), files(&plain));
    assert_eq!(check(&from_archive), exported);
    check(&from_folder);
    assert_eq!(from_archive["tables/public.boards.csv"], from_folder["tables/public.boards.csv"]);
    let odd = &from_archive["tables/public.odd%2F%2E%2E%2Fname.csv"];
    assert_eq!(String::from_utf8_lossy(odd), "id,note\n1,\n2,\"\"\n3,\"\"\"a\"\",\nb\"\n");
    assert_eq!(from_archive["tables/public.quick.csv"], b"id\n7\n");
    // A PostgreSQL that knows nothing of us takes it all.
    let sql = unpacked.join("database.sql");
    fleet.admin("postgres").await.batch_execute("create database elsewhere").await.unwrap();
    let psql = Command::new("psql")
        .args(["-q", "-v", "ON_ERROR_STOP=1", "-f"])
        .args([sql.as_os_str(), fleet.postgres.database_url("elsewhere").as_ref()])
        .output()
        .unwrap();
    assert!(psql.status.success(), "{}", String::from_utf8_lossy(&psql.stderr));
    let elsewhere = fleet.admin("elsewhere").await;
    let count = elsewhere.query_one("select count(*) from boards", &[]).await.unwrap();
    assert_eq!(count.get::<_, i64>(0), fleet.count("acme", "boards").await);
}

#[tokio::test]
async fn an_export_overwrites_nothing_and_leaves_no_part_of_one() {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    let folder = tempfile::tempdir().unwrap();
    let taken = folder.path().join("taken.zip");
    std::fs::write(&taken, "mine").unwrap();
    let cli = Cli::new(&fleet);

    cli.refused(&format!("tenant export acme --to {}", taken.display()), 1, "is there already")
        .await;
    let away = folder.path().join("away/acme.zip");
    cli.refused(&format!("tenant export acme --to {}", away.display()), 1, "cannot be written")
        .await;

    assert_eq!(std::fs::read_to_string(&taken).unwrap(), "mine");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn an_export_that_is_interrupted_leaves_nothing() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let large = "create table large as select i, repeat(md5(i::text), 20) as t from generate_series(1, 200000) i";
    fleet.admin("tenant_acme").await.batch_execute(large).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (zip, plain) = (folder.path().join("acme.zip"), folder.path().join("acme"));

    for to in [&zip, &plain] {
        let partial = to.with_file_name(format!("{}.partial", to.file_name().unwrap().display()));
        let mut export = command(&fleet);
        export.args(["tenant", "export", "acme", "--to"]).arg(to).stderr(Stdio::piped());
        let export = export.spawn().unwrap();
        eventually("the export begins", async || partial.exists()).await;
        let interrupted = Command::new("kill").args(["-INT", &export.id().to_string()]).status();
        assert!(interrupted.unwrap().success());

        let ended = tokio::task::spawn_blocking(|| export.wait_with_output().unwrap()).await;

        let ended = ended.unwrap();
        let told = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(130), "{told}");
        assert!(told.contains("interrupted"), "{told}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn a_deletion_may_ask_for_an_export() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let folder = tempfile::tempdir().unwrap();
    let cli = Cli::new(&fleet);
    let line = "tenant delete acme --require-export --yes";

    cli.refused(line, 4, "was never exported").await;
    cli.json(&format!("tenant export acme --to {}", folder.path().join("acme").display())).await;

    cli.json(line).await;
    cli.refused("tenant show acme", 1, "no tenant `acme`").await;
}
