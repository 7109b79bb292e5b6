//! Slugs that users chose for themselves: what they are called, an identity provider may call somebody else.

use reqwest::StatusCode;
use serde_json::{Value, json};
use tenantry::catalog::members::{MemberRole, User};

use super::{Scene, rules};
use crate::harness::slug;

/// How the tenant is reached by somebody whose organisation its provider calls `hooli`.
async fn enter(scene: &Scene, subject: &str, claim: &str) -> StatusCode {
    let token = scene.provider.token(&json!({ "sub": subject, claim: "hooli" }));
    let url = format!("{}/api/tenant", scene.replica.public);
    scene.replica.client.get(url).bearer_auth(token).send().await.unwrap().status()
}

async fn becomes(scene: &Scene, subject: &str, wanted: StatusCode) {
    let seen = async {
        while enter(scene, subject, "org_slug").await != wanted {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(15), seen).await.expect("it takes seconds");
}

#[tokio::test]
async fn a_slug_that_nobody_has_looked_at_lets_in_none_but_its_members() {
    let scene = Scene::start(rules()).await;
    let (_, receipt) = scene.register(&scene.token("eve"), "Hooli").await;
    assert_eq!(receipt["tenant_slug"], "hooli");
    scene.becomes(&scene.token("eve"), &receipt["id"], "active").await;

    for claim in ["tenant", "org_slug", "org", "organization", "group"] {
        assert_eq!(enter(&scene, "peter", claim).await, StatusCode::FORBIDDEN, "{claim}");
        assert_eq!(enter(&scene, "eve", claim).await, StatusCode::OK, "she registered it");
    }
    let invited = User { issuer: &scene.provider.issuer, subject: "samir" };
    let catalog = scene.replica.fleet.catalog();
    catalog.add_member(&slug("hooli"), invited, MemberRole::Member, "test").await.unwrap();
    assert_eq!(enter(&scene, "samir", "org_slug").await, StatusCode::OK);

    let (status, confirmed) = scene.decide(&receipt["id"], "approve", Value::Null).await;
    assert_eq!((status, &confirmed["decided_by"]), (StatusCode::OK, &json!("token:test")));
    becomes(&scene, "peter", StatusCode::OK).await;
}

#[tokio::test]
async fn a_provider_that_an_operator_gave_to_a_tenant_speaks_for_it() {
    let scene = Scene::start(rules()).await;
    let (_, receipt) = scene.register(&scene.token("eve"), "Initech").await;
    scene.becomes(&scene.token("eve"), &receipt["id"], "active").await;

    // The settings of the replica bind it to this tenant.
    let token = scene.bound.token(&json!({ "sub": "peter", "org_slug": "initech" }));
    let url = format!("{}/api/tenant", scene.replica.public);
    let answer = scene.replica.client.get(url).bearer_auth(token).send().await.unwrap();

    assert_eq!(answer.status(), StatusCode::OK);
}
