//! Migrations of one database: once, in order, or with an error that says where.

use std::time::Duration;

use tenantry_provisioning::{
    MigrationTimeouts, SchemaError, apply, build_from_zero, current_version,
};

use super::ground::Ground;
use super::subject::{FILES, Subject, migrations};

#[tokio::test]
async fn migrations_are_applied_once_by_however_many() {
    let ground = Ground::new().await;
    let server = ground.server().await;
    let acme = Subject::made("acme", &server).await;
    let mut files = FILES.to_vec();
    files.push((
        "V3__more.sql",
        "select pg_sleep(0.2); create table more (id int); insert into more values (1)",
    ));
    let set = migrations(&files);

    let timeouts = MigrationTimeouts::default();
    let runs = tokio::join!(
        apply(&server, &acme.database, &set, timeouts),
        apply(&server, &acme.database, &set, timeouts),
        apply(&server, &acme.database, &set, timeouts),
    );

    let applied: usize =
        [runs.0, runs.1, runs.2].map(|run| run.unwrap()).iter().map(|run| run.files.len()).sum();
    assert_eq!(applied, 1);
    let again = apply(&server, &acme.database, &set, timeouts).await.unwrap();
    assert_eq!((again.from, again.to, again.files.len()), (3, 3, 0));
    let admin = server.connect(&acme.database).await.unwrap();
    assert_eq!(current_version(&admin).await.unwrap(), 3);
    let rows = acme.connect(&server).await.unwrap().query("select * from more", &[]).await.unwrap();
    assert_eq!(rows.len(), 1);
}

#[tokio::test]
async fn a_file_that_fails_is_named_with_its_line_and_leaves_nothing() {
    let ground = Ground::new().await;
    let server = ground.server().await;
    let acme = Subject::made("acme", &server).await;
    let mut files = FILES.to_vec();
    files.push((
        "V3__fine.sql",
        "create table fine (id int); set search_path = pg_catalog; set role none",
    ));
    files.push((
        "V4__broken.sql",
        "-- größe\ncreate table broken (id int);\n\ncreate tabel oops ();\n",
    ));
    let timeouts = MigrationTimeouts::default();

    let error = apply(&server, &acme.database, &migrations(&files), timeouts).await.unwrap_err();

    let text = error.to_string();
    assert!(text.contains("V4__broken.sql:4") && text.contains("42601"), "{text}");
    assert!(!error.is_transient());
    let admin = server.connect(&acme.database).await.unwrap();
    assert_eq!(current_version(&admin).await.unwrap(), 3);
    assert!(admin.batch_execute("select * from broken").await.is_err());

    files[3].1 = "create table whole (id int)";
    let applied = apply(&server, &acme.database, &migrations(&files), timeouts).await.unwrap();
    assert_eq!((applied.from, applied.to), (3, 4));
    let owner = admin
        .query_one("select pg_get_userbyid(relowner)::text from pg_class where oid = 'public.whole'::regclass", &[])
        .await
        .unwrap();
    assert_eq!(owner.get::<_, &str>(0), "tenantry_owner", "a file's settings end with it");
}

#[tokio::test]
async fn a_history_that_does_not_fit_is_refused() {
    let ground = Ground::new().await;
    let server = ground.server().await;
    let acme = Subject::made("acme", &server).await;
    let timeouts = MigrationTimeouts::default();
    let try_files = async |files: &[(&str, &str)]| {
        apply(&server, &acme.database, &migrations(files), timeouts).await.unwrap_err()
    };

    let missing = try_files(&FILES[..1]).await;
    let edited = try_files(&[FILES[0], ("V2__labels.sql", "select 1")]).await;
    let admin = server.connect(&acme.database).await.unwrap();
    admin
        .batch_execute("update tenantry.schema_history set checksum = 'x' where version = 1")
        .await
        .unwrap();
    let damaged = try_files(FILES).await;
    admin
        .batch_execute("alter table tenantry.schema_history alter version type text")
        .await
        .unwrap();
    let mangled = try_files(FILES).await;

    assert!(matches!(missing, SchemaError::MissingFile { version: 2, .. }), "{missing}");
    assert!(matches!(edited, SchemaError::Edited { .. }), "{edited}");
    assert!(matches!(damaged, SchemaError::History(_)), "{damaged}");
    assert!(matches!(mangled, SchemaError::History(_)), "{mangled}");
}

#[tokio::test]
async fn a_migration_does_not_wait_for_long() {
    let ground = Ground::new().await;
    let server = ground.server().await;
    let acme = Subject::made("acme", &server).await;
    let mut session = acme.connect(&server).await.unwrap();
    let reading = session.transaction().await.unwrap();
    reading.query("select * from boards", &[]).await.unwrap();
    let mut files = FILES.to_vec();
    files.push(("V3__column.sql", "alter table boards add done boolean"));
    let short =
        MigrationTimeouts { lock: Duration::from_millis(100), ..MigrationTimeouts::default() };

    let waited = apply(&server, &acme.database, &migrations(&files), short).await.unwrap_err();
    drop(reading);
    files.push(("V4__slow.sql", "select pg_sleep(30)"));
    let short =
        MigrationTimeouts { statement: Duration::from_millis(500), ..MigrationTimeouts::default() };
    let slow = apply(&server, &acme.database, &migrations(&files), short).await.unwrap_err();

    assert!(waited.is_transient() && waited.to_string().contains("55P03"), "{waited}");
    assert!(!slow.is_transient() && slow.to_string().contains("V4__slow.sql"), "{slow}");
}

#[tokio::test]
async fn a_build_from_zero_goes_on_after_a_failure() {
    let ground = Ground::new().await;
    let server = ground.server().await;
    let acme = Subject::new("acme");
    let mut files = FILES.to_vec();
    files.push(("V3__broken.sql", "create table"));
    let timeouts = MigrationTimeouts::default();

    let failed = build_from_zero(&server, &acme.build(), &migrations(&files), timeouts).await;
    let between = server.database(&acme.build()).await.unwrap().unwrap();
    let applied =
        build_from_zero(&server, &acme.build(), &migrations(FILES), timeouts).await.unwrap();

    assert!(matches!(failed, Err(SchemaError::Failed { .. })), "{failed:?}");
    assert!(!between.allow_connections);
    assert_eq!((applied.from, applied.to, between.connections), (2, 2, 0));
    acme.possess(&server, &acme.build()).await.unwrap();
    assert_eq!(acme.findings(&server, 1).await, []);
}
