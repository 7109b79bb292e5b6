//! A history as long as that of a product of some years: however a database came to its end, it is the same.

use std::time::Duration;

use tenantry_provisioning::{
    DatabaseName, MigrationSet, MigrationTimeouts, Schema, Server, apply, build_from_zero,
    read_schema, reference_schema,
};
use uuid::Uuid;

use super::ground::Ground;
use super::subject::Subject;
use crate::harness::product;

fn whole() -> MigrationSet {
    MigrationSet::from_sources(product::files()).unwrap()
}

/// What a database has, and what the files made of its data.
async fn read(server: &Server, subject: &Subject) -> (Schema, String) {
    let reading = read_schema(server, &subject.database, Duration::from_secs(5)).await.unwrap();
    let admin = server.connect(&subject.database).await.unwrap();
    let row = admin.query_one(&product::census(), &[]).await.unwrap();
    (reading.schema, row.get(0))
}

#[test]
fn the_history_is_long_and_of_every_kind() {
    let (set, files) = (whole(), product::files());
    let with = |word: &str| files.iter().filter(|(_, sql)| sql.contains(word)).count();

    assert!(set.len() >= 60, "{}", set.len());
    assert_eq!(set.repeatables().len(), 2);
    assert_eq!(set.files().filter(|file| !file.in_transaction).count(), 11);
    for (word, least) in [
        ("create table", 20),
        ("index concurrently", 11),
        ("create trigger", 20),
        ("language plpgsql", 20),
        ("add value", 11),
        ("update ", 30),
        ("insert into", 20),
        ("alter column", 20),
        ("drop ", 2),
    ] {
        assert!(with(word) >= least, "{word}: {}", with(word));
    }
}

/// Slow: the whole history is run once for every tenth version that a tenant may be at.
#[tokio::test]
async fn whoever_stops_at_any_version_ends_as_if_nobody_had() {
    let ground = Ground::new().await;
    let server = ground.server().await;
    let (set, timeouts) = (whole(), MigrationTimeouts::default());
    let (build, template) =
        (DatabaseName::build(Uuid::new_v4()), DatabaseName::template(set.digest()));
    let applied = build_from_zero(&server, &build, &set, timeouts).await.unwrap();
    assert_eq!(applied.files.len(), set.len() + set.repeatables().len());
    server.seal_as_template(&build, &template, set.digest(), set.target_version()).await.unwrap();

    let from_zero = reference_schema(&server, &build, None, (&set, None), timeouts).await.unwrap();
    let by_clone =
        reference_schema(&server, &build, Some(&template), (&set, None), timeouts).await.unwrap();
    assert_eq!(from_zero.differences(&by_clone), []);
    assert_eq!(from_zero.fingerprint(), by_clone.fingerprint());

    let mut expected = None;
    for version in (0..=set.target_version()).step_by(10) {
        let subject = Subject::new(&format!("at-{version}"));
        let held = set.up_to(version);
        let begun = build_from_zero(&server, &subject.build(), &held, timeouts).await.unwrap();
        subject.possess(&server, &subject.build()).await.unwrap();
        let ended = apply(&server, &subject.database, &set, timeouts).await.unwrap();
        let again = apply(&server, &subject.database, &set, timeouts).await.unwrap();

        assert_eq!((begun.to, ended.from, ended.to), (version, version, set.target_version()));
        assert!(again.files.is_empty(), "{again:?}");
        let (schema, census) = read(&server, &subject).await;
        assert_eq!(from_zero.differences(&schema), [], "from version {version}");
        assert_eq!(schema.fingerprint(), from_zero.fingerprint());
        assert_eq!(*expected.get_or_insert_with(|| census.clone()), census, "from {version}");
    }
    assert!(expected.unwrap().contains("members 40"));
}
