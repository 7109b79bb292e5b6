//! What a set of files means to one database: repeatable files, ceilings, and trying without doing.

use tenantry_provisioning::{Applied, DryRun, MigrationTimeouts, SchemaError, apply, dry_run};

use super::ground::Ground;
use super::subject::{FILES, Subject, migrations};

const VIEW: (&str, &str) =
    ("R__titles.sql", "create or replace view titles as select title from boards");
const RUNS: (&str, &str) =
    ("R__a_count.sql", "create table if not exists runs (n int); insert into runs values (1)");

fn timeouts() -> MigrationTimeouts {
    MigrationTimeouts::default()
}

fn names(applied: &Applied) -> Vec<&str> {
    applied.files.iter().map(|file| file.name.as_str()).collect()
}

#[tokio::test]
async fn repeatable_files_run_last_in_order_and_again_when_they_change() {
    let ground = Ground::new().await;
    let server = ground.server().await;
    let acme = Subject::made("acme", &server).await;
    let run = async |files: &[(&str, &str)]| {
        apply(&server, &acme.database, &migrations(files), timeouts()).await
    };
    let mut files = vec![VIEW, RUNS];
    files.extend(FILES);

    let first = run(&files).await.unwrap();
    let nothing = run(&files).await.unwrap();
    files.push(("V3__column.sql", "alter table boards add colour text"));
    files[0].1 = "create or replace view titles as select title, colour from boards";
    let changed = run(&files).await.unwrap();
    files[1].1 =
        "-- tenantry: no-transaction\ninsert into runs values (2); insert into nowhere values (1)";
    let failed = run(&files).await.unwrap_err();
    files[1].1 = "-- tenantry: no-transaction\ninsert into runs values (3); analyze runs";
    let mended = run(&files).await.unwrap();

    assert_eq!((names(&first), first.from, first.to), (vec!["a_count", "titles"], 2, 2));
    assert_eq!(nothing.files, []);
    assert_eq!((names(&changed), changed.to), (vec!["column", "titles"], 3));
    assert!(failed.to_string().contains("R__a_count.sql:2"), "{failed}");
    assert_eq!(names(&mended), ["a_count"]);
    let admin = server.connect(&acme.database).await.unwrap();
    let runs = admin.query_one("select array_agg(n order by n) from runs", &[]).await.unwrap();
    assert_eq!(runs.get::<_, Vec<i32>>(0), [1, 2, 3]);
    let left = admin.query("select * from tenantry.schema_statements", &[]).await.unwrap();
    assert!(left.is_empty(), "they may run again");
}

#[tokio::test]
async fn a_ceiling_stops_below_it_and_takes_nothing_back() {
    let ground = Ground::new().await;
    let server = ground.server().await;
    let acme = Subject::made("acme", &server).await;
    let mut files = FILES.to_vec();
    files.extend([("V3__a.sql", "create table a ()"), ("V4__b.sql", "create table b ()"), VIEW]);
    let whole = migrations(&files);
    let run = async |ceiling| {
        apply(&server, &acme.database, &whole.up_to(ceiling), timeouts()).await.unwrap()
    };

    let held = run(3).await;
    let whole_run = run(4).await;
    let below = run(1).await;

    assert_eq!((held.from, held.to, names(&held)), (2, 3, vec!["a"]));
    assert_eq!((whole_run.to, names(&whole_run)), (4, vec!["b", "titles"]));
    assert_eq!((below.from, below.to, below.files.len()), (4, 4, 0));
}

#[tokio::test]
async fn a_dry_run_tries_what_it_can_and_leaves_nothing() {
    let ground = Ground::new().await;
    let server = ground.server().await;
    let acme = Subject::made("acme", &server).await;
    let mut files = FILES.to_vec();
    files.extend([
        ("V3__a.sql", "create table a (n int); create type mood as enum ('sad'); set role none"),
        ("V4__b.sql", "insert into a values (1); alter type mood add value 'glad'"),
        ("V5__c.sql", "-- tenantry: no-transaction\ncreate index concurrently a_n on a (n); create table c ()"),
        ("V6__d.sql", "alter table c add m int"),
        VIEW,
    ]);
    let set = migrations(&files);

    let found = dry_run(&server, &acme.database, &set, None, timeouts()).await.unwrap();

    let DryRun { tried, skipped } = found;
    assert_eq!(tried, ["V3__a.sql", "V4__b.sql", "R__titles.sql"]);
    let files: Vec<_> = skipped.iter().map(|(file, _)| file.as_str()).collect();
    assert_eq!(files, ["V5__c.sql", "V6__d.sql"]);
    assert!(skipped[0].1.contains("without a transaction"), "{skipped:?}");
    assert!(skipped[1].1.contains("42P01"), "{skipped:?}");
    let admin = server.connect(&acme.database).await.unwrap();
    let left = admin
        .query_one("select to_regclass('a') is null and to_regclass('titles') is null", &[])
        .await
        .unwrap();
    assert!(left.get::<_, bool>(0), "nothing is left");
    assert_eq!(apply(&server, &acme.database, &set, timeouts()).await.unwrap().to, 6);
}

#[tokio::test]
async fn a_dry_run_fails_where_the_files_would() {
    let ground = Ground::new().await;
    let server = ground.server().await;
    let acme = Subject::made("acme", &server).await;
    let mut files = FILES.to_vec();
    files.push((
        "V3__late.sql",
        "create table a (n int primary key);\ncreate table b (n int references a deferrable initially deferred);\n\
         insert into b values (1)",
    ));

    let late =
        dry_run(&server, &acme.database, &migrations(&files), None, timeouts()).await.unwrap_err();
    files[2].1 = "select 1;\nselect nonsense";
    let wrong =
        dry_run(&server, &acme.database, &migrations(&files), None, timeouts()).await.unwrap_err();

    assert!(late.to_string().contains("23503"), "{late}");
    assert!(matches!(&wrong, SchemaError::Failed { line: Some(2), .. }), "{wrong}");
}
