//! Tracks from the command line and over HTTP.

use reqwest::{Method, StatusCode};

use super::*;
use crate::cli::Cli;
use crate::harness::replica::Replica;

#[tokio::test]
async fn a_track_is_given_shown_and_filled_from_the_command_line() {
    let fleet = fleet().await;
    let cli = Cli::new(&fleet);

    let (status, said) = cli.told("tenant create --slug acme --track gold").await;
    assert_eq!(status, 0, "{said}");
    fleet.create_tenant("globex").await;
    let (status, said) = cli.told("tenant set-track globex silver").await;
    assert_eq!((status, said.contains("migrate up --tenant globex")), (0, true), "{said}");
    let (_, shown) = cli.told("migrate status --detail").await;
    assert!(shown.contains("gold") && shown.contains("silver"), "{shown}");
    let (_, document) = cli.told("migrate status --detail --output-format json --quiet").await;
    let document: Value = serde_json::from_str(&document).unwrap();
    assert_eq!((&document["behind"], &document["current"]), (&json!(0), &json!(1)), "{document:#}");
    assert_eq!(document["outdated"], 1, "{document:#}");
    assert_eq!(
        document["tracks"][0],
        json!({ "track": "gold", "target_version": 1,
                "versions": [{ "version": 1, "tenants": 1, "status": "current" }] })
    );
    assert_eq!(
        document["tenants"][1],
        json!({ "tenant_slug": "globex", "schema_version": 1, "track": "silver",
                "track_version": 0, "status": "outdated" })
    );
    let (status, said) = cli.told("migrate up --track silver").await;
    assert_eq!(status, 0, "{said}");
    let (_, shown) = cli.told("tenant show acme").await;
    assert!(shown.contains("gold, version 1"), "{shown}");
    let (_, listed) = cli.told("tenant list --output-format json --quiet").await;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((&listed[0]["track"], &listed[0]["track_version"]), (&json!("gold"), &json!(1)));
    let (status, said) = cli.told("migrate verify").await;
    assert_eq!((status, said.contains("2 clean, 0 behind, 0 drifted")), (0, true), "{said}");
}

#[tokio::test]
async fn a_wrong_track_is_refused_with_what_to_do() {
    let fleet = fleet().await;
    let cli = Cli::new(&fleet);
    create(&fleet, "acme", "gold").await;

    for (line, status, told) in [
        ("tenant set-track acme iron", 4, "there are gold, silver"),
        ("tenant create --slug late --track iron", 4, "there are gold, silver"),
        ("tenant set-track acme silver", 4, "has files of track gold already"),
        ("tenant set-track acme --none", 4, "has files of track gold already"),
        ("tenant set-track acme ../gold", 2, "lowercase letters"),
        ("tenant create --slug late --track x';drop", 2, "lowercase letters"),
        ("tenant set-track acme", 2, "<TRACK>"),
        ("migrate up --track iron", 4, "there are gold, silver"),
        ("migrate up --canary track=iron", 2, "no tenant is `track=iron`"),
        ("tenant set-track acme gold", 0, "is in track `gold`"),
    ] {
        let (found, said) = cli.told(line).await;
        assert_eq!((found, said.contains(told)), (status, true), "{line}: {said}");
    }
    add(&fleet, "gold", "V9__late.sql", "select 1");
    let (status, said) = cli.told("config check").await;
    assert!(status != 0 && said.contains("track gold cannot be used"), "{said}");
    let (_, said) = cli.told("migrate status").await;
    assert!(said.contains("track gold cannot be used"), "{said}");
}

#[tokio::test]
async fn a_track_is_given_and_read_over_http() {
    let replica = Replica::start().await;
    add(&replica.fleet, "gold", "V1__audits.sql", "create table audits (id bigint primary key)");
    replica.fleet.environment.reload_migrations().await.unwrap();

    let body = json!({ "slug": "acme", "track": "gold" });
    let (status, made) = replica.post("/api/setup/tenant?wait=true", body).await;
    assert_eq!((status, &made["track"]), (StatusCode::CREATED, &json!("gold")), "{made:#}");
    assert_eq!(made["track_version"], 1);
    replica.create("globex").await;
    let set = async |name: &str, track: Value| {
        let path = format!("/api/setup/tenants/{name}/track");
        replica.call(Method::PUT, &path, Some(json!({ "track": track }))).await
    };

    let (status, globex) = set("globex", json!("gold")).await;
    assert_eq!(
        (status, &globex["track"], &globex["track_version"]),
        (StatusCode::OK, &json!("gold"), &json!(0))
    );
    let (status, globex) = set("globex", Value::Null).await;
    assert_eq!(
        (status, &globex["track"], &globex["track_version"]),
        (StatusCode::OK, &Value::Null, &Value::Null)
    );
    let (status, refused) = set("acme", Value::Null).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(refused["detail"].as_str().unwrap().contains("stays in that track"), "{refused}");
    let (status, unknown) = set("globex", json!("iron")).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(unknown["detail"].as_str().unwrap().contains("there is gold"), "{unknown}");
    assert_eq!(set("globex", json!("../gold")).await.0, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(set("nobody", json!("gold")).await.0, StatusCode::NOT_FOUND);
    let (_, plan) = replica.get("/api/migrations/plan?track=gold").await;
    assert_eq!(plan["tenants"], 0, "{plan:#}");
}
