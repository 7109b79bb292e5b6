//! Adopting on other servers than the suite's own: of another major version, and by no superuser.

use tenantry::embedded::PostgresSettings;
use tenantry::operations::Environment;
use tenantry_provisioning::Hardening;

use super::{INSIDE, LEGACY, OLD, Scene, from, lines, on_server};
use crate::harness::postgres18::Postgres18;
use crate::harness::{Fleet, Options};

#[tokio::test]
async fn a_database_of_many_years_is_adopted_on_the_newest_major() {
    let Some(newest) = Postgres18::installed() else { return };
    let settings =
        PostgresSettings { bin_dir: Some(newest.bin_dir()), ..PostgresSettings::scratch() };
    let fleet = Fleet::start_with(Options { postgres: settings, ..Options::default() }).await;
    let scene = Scene { fleet };
    scene.run("postgres", "create role old_app login").await;
    scene.database("old").await;
    // The programs of that version come without it.
    scene.run("old", &OLD.replace("create extension pgcrypto;", "")).await;
    scene.run("old", LEGACY).await;

    scene.fleet.complete(&scene.adopt("acme", from("old")).await).await;

    let state = lines(&scene.fleet.admin("tenant_acme").await, INSIDE).await;
    let left: Vec<_> = state.iter().filter(|line| line.contains("old_")).collect();
    assert!(left.is_empty(), "{left:#?}");
    scene.assert_no_findings().await;
    scene.fleet.assert_healthy().await;
}

/// What an administrator must be a member of is said before anything is done.
#[tokio::test]
async fn an_administrator_who_is_no_superuser_adopts_what_he_may() {
    let mut scene = Scene::start().await;
    scene.run("old", "set role old_app; create table t (id int); insert into t values (1)").await;
    scene
        .run(
            "postgres",
            "create role managed login createdb createrole password 'managed';
             grant tenantry_owner, tenantry_app to managed with admin option;
             grant set on parameter tenantry.tenant to managed;
             grant pg_signal_backend to managed;
             grant connect on database postgres to managed",
        )
        .await;
    let url = scene.fleet.postgres.url();
    let (_, place) = url.split_once('@').unwrap();
    let url = format!("postgres://managed:managed@{place}");
    scene.fleet.catalog().set_server_url("default", &url.into()).await.unwrap();
    let mut limits = scene.fleet.environment.limits.clone();
    // Hiding neighbours takes a superuser.
    limits.hardening = Hardening::Standard;
    let catalog = scene.fleet.catalog().clone();
    scene.fleet.environment = Environment::new(catalog, None, limits).await.unwrap();

    let found = scene.obstacles("acme", &from("old")).await;
    assert_eq!(found[0].kind, "no_member", "{found:#?}");
    scene.run("postgres", "grant old_app to managed").await;
    let plan =
        scene.fleet.environment.plan_adoption(&on_server("acme"), &from("old")).await.unwrap();
    assert!(plan.obstacles.is_empty(), "{:#?}", plan.obstacles);
    scene.fleet.complete(&scene.adopt("acme", from("old")).await).await;
    assert_eq!(scene.fleet.count("acme", "t").await, 1);
}
