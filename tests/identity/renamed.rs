//! Tokens, headers and hosts that carry a slug from before a rename, and whom they still bind.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::json;
use tenantry::catalog::members::MemberRole;

use super::Scene;
use crate::harness::{BY, eventually, slug};

async fn rename(scene: &Scene, from: &str, to: &str) {
    let fleet = &scene.replica.fleet;
    let asked = fleet.environment.rename(&slug(from), &slug(to), BY).await.unwrap();
    fleet.complete(&asked).await;
}

#[tokio::test]
async fn the_old_slug_and_the_new_one_name_the_same_tenant() {
    let scene = Scene::start().await;
    scene.join("globex", MemberRole::Member).await;
    let claim = scene.provider.token(&json!({ "tenant": "acme" }));
    let plain = scene.provider.token(&json!({}));
    let address = scene.provider.token(&json!({ "email": "ana@acme.com", "email_verified": true }));
    scene.ask(&claim, &[]).await;
    rename(&scene, "acme", "acme-2").await;
    rename(&scene, "globex", "globex-2").await;

    for (token, headers, tenant) in [
        (&claim, &[][..], "acme-2"),
        (&claim, &[("X-Tenant", "acme-2"), ("Host", "acme.app.example")], "acme-2"),
        (&claim, &[("X-Tenant", "acme"), ("Host", "acme-2.app.example")], "acme-2"),
        (&address, &[("X-Tenant", "acme"), ("Host", "acme.com")], "acme-2"),
        (&plain, &[("X-Tenant", "globex")], "globex-2"),
        (&plain, &[("X-Tenant", "globex"), ("Host", "globex-2.app.example")], "globex-2"),
        (&scene.replica.token, &[("X-Tenant", "acme")], "acme-2"),
    ] {
        let (status, body) = scene.ask(token, headers).await;
        assert_eq!(status, StatusCode::OK, "{headers:?}: {body}");
        assert_eq!(body["slug"], tenant, "{headers:?}");
    }
    for headers in [[("X-Tenant", "globex-2")], [("X-Tenant", "nobody")]] {
        assert_eq!(scene.ask(&claim, &headers).await.0, StatusCode::FORBIDDEN);
    }
}

/// The settings bind `initech` to a provider of its own; nobody has changed them.
#[tokio::test]
async fn a_renamed_tenant_accepts_no_other_issuer_than_before() {
    let scene = Scene::start().await;
    let shared = |slug: &str| scene.provider.token(&json!({ "tenant": slug }));
    let bound = |slug: &str| scene.bound.token(&json!({ "tenant": slug }));
    // Before there is such a tenant, and before anybody could know.
    for name in ["initech", "initech-2"] {
        assert_eq!(scene.ask(&shared(name), &[]).await.0, StatusCode::FORBIDDEN);
    }

    rename(&scene, "initech", "initech-2").await;

    for name in ["initech", "initech-2"] {
        assert_eq!(scene.ask(&shared(name), &[]).await.0, StatusCode::FORBIDDEN, "{name}");
        let (status, body) = scene.ask(&bound(name), &[]).await;
        assert_eq!((status, &body["slug"]), (StatusCode::OK, &json!("initech-2")), "{body}");
    }
}

/// What is remembered of a caller is true of the tenant that had the slug then, and of no later one.
#[tokio::test]
async fn a_member_of_a_deleted_tenant_is_not_let_into_the_next_one_of_its_slug() {
    let scene = Scene::start().await;
    scene.join("globex", MemberRole::Member).await;
    let plain = scene.provider.token(&json!({}));
    let headers = [("X-Tenant", "globex")];
    assert_eq!(scene.ask(&plain, &headers).await.0, StatusCode::OK);

    let fleet = &scene.replica.fleet;
    let gone = fleet.environment.delete(&slug("globex"), false, BY).await.unwrap();
    fleet.complete(&gone).await;
    scene.replica.create("globex").await;
    eventually("the next one is served", async || {
        scene.ask(&scene.replica.token, &headers).await.0 == StatusCode::OK
    })
    .await;

    let query = reqwest::Client::new().post(format!("{}/sql", scene.replica.public));
    let query = query.bearer_auth(&plain).header("X-Tenant", "globex");
    let query = query.json(&json!({ "query": "select title from boards" })).send().await.unwrap();
    assert_eq!(query.status(), StatusCode::FORBIDDEN);
    assert_eq!(scene.ask(&plain, &headers).await.0, StatusCode::FORBIDDEN);
}

/// A program of the operator's means whoever has the slug now.
#[tokio::test]
async fn an_alias_that_was_given_up_leads_to_its_next_tenant_at_once() {
    let scene = Scene::start().await;
    rename(&scene, "globex", "globex-2").await;
    let found = async || {
        let (_, body) = scene.ask(&scene.replica.token, &[("X-Tenant", "globex")]).await;
        body["slug"].as_str().map(str::to_owned)
    };
    assert_eq!(found().await.as_deref(), Some("globex-2"));

    let catalog = scene.replica.fleet.catalog();
    catalog.remove_alias(&slug("globex-2"), &slug("globex"), "test").await.unwrap();
    scene.replica.create("globex").await;

    let next =
        eventually("it is the next one", async || found().await.as_deref() == Some("globex"));
    tokio::time::timeout(Duration::from_secs(4), next).await.expect("not after some seconds");
}
