//! What the admin API refuses is in the log: who asked for what, and a flood of it as a few entries.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use reqwest::{Method, RequestBuilder, StatusCode};
use secrecy::ExposeSecret as _;
use tenantry::catalog::audit_log::Recorded;
use tenantry::catalog::operations::OperationFilter;
use tenantry::catalog::tokens::Scope;

use super::{events, verified};
use crate::harness::replica::Replica;

const FLOOD: usize = 1500;

async fn status(request: RequestBuilder) -> StatusCode {
    request.send().await.unwrap().status()
}

fn violations<'a>(found: &'a [Recorded], violation: &str) -> Vec<&'a Recorded> {
    found.iter().filter(|event| event.detail["violation"] == violation).collect()
}

#[tokio::test]
async fn whoever_is_refused_is_in_the_log_and_a_flood_of_them_is_a_few_entries() {
    let replica = Replica::start().await;
    let fleet = &replica.fleet;
    replica.create("acme").await;
    let reader = fleet.catalog().create_token("reader", &[Scope::TenantsRead]).await.unwrap();
    let ask = |method: Method, path: &str| {
        replica.client.request(method, format!("{}{path}", replica.admin))
    };

    let forbidden = ask(Method::DELETE, "/api/setup/tenants/acme")
        .bearer_auth(reader.expose_secret())
        .header("x-request-id", "try-1");
    assert_eq!(status(forbidden).await, StatusCode::FORBIDDEN);
    let nameless = ask(Method::GET, "/api/audit-log").header("x-request-id", "try-2");
    assert_eq!(status(nameless).await, StatusCode::UNAUTHORIZED);
    let foreign = ask(Method::GET, "/api/setup/tenants").bearer_auth("eyJ.not.ours");
    assert_eq!(status(foreign).await, StatusCode::UNAUTHORIZED);
    // Each with another token of our form, and at another tenant.
    let guesses = stream::iter(0..FLOOD).map(|number| {
        let path = format!("/api/setup/tenants/guess-{number}");
        status(ask(Method::GET, &path).bearer_auth(format!("tenantry_{number:043}")))
    });
    let answers: Vec<StatusCode> = guesses.buffer_unordered(16).collect().await;
    assert!(answers.iter().all(|status| *status == StatusCode::UNAUTHORIZED));

    let written = async {
        loop {
            let found = events(fleet, "request").await;
            if ["missing_scope", "no_token", "invalid_token", "unknown_token"]
                .iter()
                .all(|violation| !violations(&found, violation).is_empty())
            {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let found = tokio::time::timeout(Duration::from_mins(1), written).await.expect("all written");

    let [denied] = violations(&found, "missing_scope")[..] else { panic!("{found:#?}") };
    assert_eq!((denied.actor.as_str(), denied.action.as_str()), ("token:reader", "request.denied"));
    assert_eq!(denied.request_id.as_deref(), Some("try-1"));
    assert_eq!((denied.tenant_slug.as_deref(), denied.tenant_id.is_some()), (Some("acme"), true));
    let detail = &denied.detail;
    assert_eq!(detail["endpoint"], "DELETE /api/setup/tenants/{slug}");
    assert_eq!((&detail["scope"], &detail["count"]), (&"tenants:write".into(), &1.into()));
    assert_eq!(detail["client"], "127.0.0.1");
    let [nameless] = violations(&found, "no_token")[..] else { panic!("{found:#?}") };
    assert_eq!(
        (nameless.actor.as_str(), nameless.request_id.as_deref()),
        ("unknown", Some("try-2"))
    );
    // One entry at first; the rest waits until it is worth another.
    let guesses = violations(&found, "unknown_token");
    assert_eq!(guesses.len(), 1, "{guesses:#?}");
    assert!(guesses[0].detail["count"].as_u64().unwrap() <= FLOOD as u64);
    assert_eq!((&guesses[0].tenant_slug, guesses[0].actor.as_str()), (&None, "unknown"));
    assert!(
        !serde_json::to_string(&found).unwrap().contains("tenantry_0"),
        "a token is in the log"
    );
    let breaches = verified(fleet).await.breaches;
    assert!(breaches.is_empty(), "{breaches:?}");
}

/// Asking what a token may is no refusal: who polls an operation with the right to read is let through, silently.
#[tokio::test]
async fn whoever_is_let_through_by_another_scope_is_not_in_the_log() {
    let replica = Replica::start().await;
    let fleet = &replica.fleet;
    replica.create("acme").await;
    let (operation, _) = fleet
        .catalog()
        .operations(&OperationFilter { limit: 1, ..OperationFilter::default() })
        .await
        .unwrap()
        .remove(0);
    let poll = async |name: &str, scope: Scope| {
        let token = fleet.catalog().create_token(name, &[scope]).await.unwrap();
        let path = format!("{}/api/operations/{}", replica.admin, operation.id);
        status(replica.client.get(path).bearer_auth(token.expose_secret())).await
    };

    assert_eq!(poll("reader", Scope::TenantsRead).await, StatusCode::OK);
    assert_eq!(poll("writer", Scope::TenantsWrite).await, StatusCode::OK);
    assert_eq!(poll("scraper", Scope::Metrics).await, StatusCode::FORBIDDEN);

    let written = async {
        loop {
            let found = events(fleet, "request").await;
            if !violations(&found, "missing_scope").is_empty() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let found = tokio::time::timeout(Duration::from_mins(1), written).await.expect("written");
    let [denied] = violations(&found, "missing_scope")[..] else { panic!("{found:#?}") };
    assert_eq!(denied.actor, "token:scraper");
    assert_eq!(denied.detail["scope"], "tenants:read");
}
