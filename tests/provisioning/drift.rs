//! Fingerprints: the same for what the same files made, and another for any one change.

use std::time::Duration;

use tenantry_provisioning::{
    DatabaseName, MigrationSet, MigrationTimeouts, Schema, SchemaError, Server, Source, apply,
    baseline, build_from_zero, read_schema, reference_schema,
};
use uuid::Uuid;

mod changes;

use self::changes::{CHANGES, FILES, NOISE};
use super::ground::Ground;
use super::subject::{Subject, migrations};

fn set(number: usize) -> MigrationSet {
    migrations(&FILES[..number])
}

async fn reference(server: &Server, set: &MigrationSet) -> Schema {
    let build = DatabaseName::build(Uuid::new_v4());
    let timeouts = MigrationTimeouts::default();
    reference_schema(server, &build, None, (set, None), timeouts).await.unwrap()
}

async fn made(slug: &str, server: &Server, set: &MigrationSet) -> Subject {
    let subject = Subject::new(slug);
    build_from_zero(server, &subject.build(), set, MigrationTimeouts::default()).await.unwrap();
    subject.possess(server, &subject.build()).await.unwrap();
    subject
}

async fn read(server: &Server, subject: &Subject) -> Schema {
    let reading = read_schema(server, &subject.database, Duration::from_secs(5)).await;
    reading.unwrap().schema
}

#[tokio::test]
async fn a_schema_is_the_same_however_the_files_came_to_it() {
    let ground = Ground::new().await;
    let server = ground.server().await;
    let (timeouts, all) = (MigrationTimeouts::default(), set(3));
    let (build, template) =
        (DatabaseName::build(Uuid::new_v4()), DatabaseName::template(all.digest()));
    build_from_zero(&server, &build, &all, timeouts).await.unwrap();
    server.seal_as_template(&build, &template, all.digest(), 3).await.unwrap();

    // A look that died has left something.
    server.create_build(&build, Source::Zero).await.unwrap();
    let in_place = made("in-place", &server, &set(1)).await;
    apply(&server, &in_place.database, &all, timeouts).await.unwrap();
    let from_zero = reference(&server, &all).await;
    let of_template =
        reference_schema(&server, &build, Some(&template), (&all, None), timeouts).await.unwrap();

    assert_eq!(from_zero.differences(&read(&server, &in_place).await), []);
    assert_eq!(from_zero.differences(&of_template), []);
    assert_eq!(from_zero.fingerprint(), of_template.fingerprint());
    assert_ne!(from_zero.fingerprint(), reference(&server, &set(2)).await.fingerprint());
    assert!(server.database(&build).await.unwrap().is_none(), "what was made to be read is gone");
    assert!(server.database(&template).await.unwrap().unwrap().is_template);
}

#[tokio::test]
async fn every_change_by_hand_is_found_and_named() {
    let ground = Ground::new().await;
    let server = ground.server().await;
    let acme = made("acme", &server, &set(3)).await;
    let session = server.connect(&acme.database).await.unwrap();
    session
        .batch_execute(
            "create function told() returns event_trigger language plpgsql as 'begin end'",
        )
        .await
        .unwrap();
    let expected = Schema::read(&session).await.unwrap();

    let mut missed = Vec::new();
    for (change, object, shown) in CHANGES {
        session.batch_execute("begin; set local search_path = public").await.unwrap();
        session.batch_execute(change).await.unwrap_or_else(|error| panic!("{change}: {error:?}"));
        let found = Schema::read(&session).await.unwrap();
        session.batch_execute("rollback").await.unwrap();

        let differences = expected.differences(&found);
        let named = differences.iter().find(|difference| difference.object == *object);
        if !named.is_some_and(|difference| difference.to_string().contains(shown)) {
            missed.push(format!("{change}: {differences:#?}"));
        }
        assert_ne!(found.fingerprint(), expected.fingerprint(), "{change}");
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
    assert_eq!(expected.differences(&read(&server, &acme).await), [], "nothing of it is left");
}

#[tokio::test]
async fn what_happens_every_day_is_no_drift() {
    let ground = Ground::new().await;
    let server = ground.server().await;
    let acme = made("acme", &server, &set(3)).await;
    let expected = reference(&server, &set(3)).await;
    let session = server.connect(&acme.database).await.unwrap();

    for noise in NOISE {
        session.batch_execute("set role tenantry_owner").await.unwrap();
        session.batch_execute(noise).await.unwrap_or_else(|error| panic!("{noise}: {error:?}"));
        assert_eq!(expected.differences(&read(&server, &acme).await), [], "{noise}");
    }
    session.batch_execute("reset role").await.unwrap();
    session.batch_execute("vacuum full").await.unwrap();
    let database = acme.database.quoted();
    let settings = "datestyle = 'German'; set search_path = public; set quote_all_identifiers = on";
    for setting in settings.split("; ") {
        let setting = setting.trim_start_matches("set ");
        session.batch_execute(&format!("alter database {database} set {setting}")).await.unwrap();
    }
    assert_eq!(expected.differences(&read(&server, &acme).await), []);
}

#[tokio::test]
async fn what_is_dropped_during_a_look_is_passed_over() {
    let ground = Ground::new().await;
    let server = ground.server().await;
    let acme = made("acme", &server, &set(3)).await;
    let looking = server.connect(&acme.database).await.unwrap();
    let other = server.connect(&acme.database).await.unwrap();
    // A look of its own time sees rows of what is gone by now.
    let begin = "begin isolation level repeatable read; select count(*) from pg_class";
    looking.batch_execute(begin).await.unwrap();
    other.batch_execute("drop index boards_title").await.unwrap();

    let found = Schema::read(&looking).await.unwrap();

    looking.batch_execute("rollback").await.unwrap();
    let later = Schema::read(&looking).await.unwrap();
    assert_eq!(later.differences(&found), []);
}

#[tokio::test]
async fn a_look_waits_for_a_migration_and_not_for_ever() {
    let ground = Ground::new().await;
    let server = ground.server().await;
    let acme = made("acme", &server, &set(1)).await;
    let mut files = FILES[..1].to_vec();
    files.push(("V2__slow.sql", "create table slow (id int); select pg_sleep(1)"));
    let slow = migrations(&files);
    let run = {
        let (server, database, slow) = (server.clone(), acme.database.clone(), slow.clone());
        tokio::spawn(async move {
            apply(&server, &database, &slow, MigrationTimeouts::default()).await.unwrap()
        })
    };
    let admin = server.connect(&acme.database).await.unwrap();
    loop {
        let held = "select from pg_locks where locktype = 'advisory' and granted";
        if !admin.query(held, &[]).await.unwrap().is_empty() {
            break;
        }
        tokio::task::yield_now().await;
    }

    let hasty = read_schema(&server, &acme.database, Duration::from_millis(50)).await;
    let patient = read_schema(&server, &acme.database, Duration::from_secs(20)).await.unwrap();

    assert!(matches!(hasty, Err(SchemaError::Busy)), "{hasty:?}");
    assert_eq!(patient.version(), 2);
    assert_eq!(reference(&server, &slow).await.differences(&patient.schema), []);
    run.await.unwrap();
}

#[tokio::test]
async fn a_history_is_written_once_and_never_over_another() {
    let ground = Ground::new().await;
    let server = ground.server().await;
    let acme = made("acme", &server, &set(2)).await;
    let timeouts = MigrationTimeouts::default();
    let admin = server.connect(&acme.database).await.unwrap();
    admin.batch_execute("drop schema tenantry cascade").await.unwrap();
    let reading = read_schema(&server, &acme.database, Duration::from_secs(5)).await.unwrap();
    assert!(!reading.has_history());

    for _ in 0..2 {
        baseline(&server, &acme.database, &set(2), timeouts).await.unwrap();
    }
    let refused = baseline(&server, &acme.database, &set(1), timeouts).await.unwrap_err();
    let more = baseline(&server, &acme.database, &set(3), timeouts).await.unwrap_err();
    let applied = apply(&server, &acme.database, &set(3), timeouts).await.unwrap();

    assert!(
        matches!(refused, SchemaError::MissingFile { .. } | SchemaError::HasHistory { .. }),
        "{refused}"
    );
    assert!(matches!(more, SchemaError::HasHistory { version: 2 }), "{more}");
    assert_eq!((applied.from, applied.to), (2, 3));
    assert_eq!(reference(&server, &set(3)).await.differences(&read(&server, &acme).await), []);
    assert_eq!(acme.findings(&server, 1).await, []);
}
