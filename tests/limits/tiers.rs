//! Limits of a whole tier, over HTTP and on the command line.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tenantry::tenant::Tier;

use super::{fleet, limit};
use crate::cli::Cli;
use crate::harness::replica::Replica;

#[tokio::test]
async fn tiers_are_read_and_patched_over_http() {
    let replica = Replica::start().await;
    replica.create("acme").await;
    let (status, tiers) = replica.get("/api/tiers").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(tiers["tiers"][0]["tier"], "shared");
    assert_eq!(
        (&tiers["tiers"][0]["tenants"], &tiers["tiers"][0]["limits"]),
        (&json!(1), &json!({}))
    );
    let patch = async |tier: &str, body: Value| {
        replica.call(Method::PATCH, &format!("/api/tiers/{tier}"), Some(body)).await
    };

    let limits = json!({ "connections": 5, "queries_per_second": 100 });
    let (status, changed) = patch("shared", json!({ "limits": limits })).await;
    assert_eq!((status, &changed["limits"]), (StatusCode::OK, &limits), "{changed}");
    let more = json!({ "limits": { "connections": null, "statement_timeout": "30s" } });
    patch("shared", more.clone()).await;
    patch("shared", more).await;

    let limits = json!({ "queries_per_second": 100, "statement_timeout": "30s" });
    assert_eq!(replica.get("/api/tiers/shared").await.1["limits"], limits);
    assert_eq!(replica.get("/api/tiers/dedicated").await.1["limits"], json!({}));
    let own = json!({ "limits": { "queries_per_second": 500 } });
    replica.call(Method::PATCH, "/api/setup/tenants/acme/settings", Some(own)).await;
    assert_eq!(
        replica.get("/api/setup/tenants/acme").await.1["limits"],
        json!({
            "queries_per_second": { "value": 500, "from": "tenant" },
            "statement_timeout": { "value": "30s", "from": "tier" },
        })
    );
    let (_, log) = replica.get("/api/audit-log").await;
    let events = log["events"].as_array().unwrap();
    let told: Vec<_> = events.iter().filter(|event| event["action"] == "tier.changed").collect();
    assert_eq!(told.len(), 2, "{log}");
    let detail = json!({ "tier": "shared", "limits": {
        "before": { "connections": 5, "queries_per_second": 100 }, "after": limits,
    } });
    assert_eq!((&told[0]["actor"], &told[0]["detail"]), (&json!("token:test"), &detail));

    for (body, words) in [
        (json!({ "limits": { "connections": 0 } }), "`limits.connections`: expected"),
        (json!({ "limits": { "queries_per_second": 100_001 } }), "1 to 100000"),
        (json!({ "limits": { "colour": "red" } }), "unknown field `colour`"),
        (json!({ "colour": "red" }), "unknown field `colour`"),
        (json!({ "limits": null }), "invalid type: null"),
    ] {
        let (status, error) = patch("shared", body).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{error}");
        assert!(error["detail"].as_str().unwrap().contains(words), "{error}");
    }
    assert_eq!(replica.get("/api/tiers/shared").await.1["limits"], limits);
    assert_eq!(replica.get("/api/tiers/gold").await.0, StatusCode::NOT_FOUND);
    assert_eq!(patch("gold", json!({ "limits": {} })).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_command_line_shows_and_changes_tiers() {
    let fleet = fleet().await;
    let cli = Cli::new(&fleet);
    limit(&fleet, "acme", json!({ "connections": 20 })).await;

    for (line, status, words) in [
        ("tier list", 0, "shared     2        none"),
        ("tier set shared connections=5 statement_timeout=30s", 0, "are changed"),
        ("tier list", 0, "connections 5, statement_timeout 30s"),
        ("tier show shared", 0, "statement_timeout 30s"),
        ("tenant show acme", 0, "connections 20 (its own)"),
        ("tenant show acme", 0, "statement_timeout 30s (tier shared)"),
        ("tenant show globex", 0, "connections 5 (tier shared)"),
        ("tier unset shared connections", 0, "are changed"),
        ("tier show shared --output-format json", 0, "\"statement_timeout\": \"30s\""),
        ("audit-log", 0, "tier.changed"),
        (
            "tier set shared connections=0",
            2,
            ": connections: expected a whole number from 1 to 1000",
        ),
        ("tier set shared queries_per_second=lots", 2, "1 to 100000"),
        ("tier set shared statement_timeout=soon", 2, "a duration with its unit, such as `30s`"),
        ("tier set shared conections=5", 2, "did you mean `connections`?"),
        ("tier set shared colour=red", 2, "there are connections, statement_timeout"),
        ("tier set shared connections", 2, "LIMIT=VALUE"),
        ("tier set gold connections=5", 2, "a tier is `shared` or `dedicated`"),
        ("tier unset shared colour", 2, "possible values"),
    ] {
        let (ended, text) = cli.told(line).await;
        assert_eq!(ended, status, "{line}: {text}");
        assert!(text.contains(words) && !text.contains("panicked"), "{line}: {text}");
    }
    let limits = fleet.catalog().tier(Tier::Shared).await.unwrap().limits;
    assert_eq!(serde_json::to_value(limits).unwrap(), json!({ "statement_timeout": "30s" }));
}
