//! Domains of tenants: proven by a real DNS server, and what they name from then on.

use std::collections::HashMap;
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};
use tenantry::catalog::members::{MemberRole, User};
use tenantry::oidc::TokenVerifier;
use tenantry::resolve::{IdentitySettings, Trust};
use tenantry::tenant::DomainName;

use crate::harness::dns::Dns;
use crate::harness::provider::Provider;
use crate::harness::replica::{Replica, Setup};
use crate::harness::slug;

/// A replica with two tenants that asks a DNS server of its own.
struct Scene {
    replica: Replica,
    provider: Provider,
    dns: Dns,
}

impl Scene {
    async fn start() -> Self {
        let (provider, dns) = (Provider::start().await, Dns::start().await);
        let verifier = TokenVerifier::new(vec![provider.settings(Duration::from_secs(10))]);
        let identity = IdentitySettings {
            trusts: HashMap::from([(provider.issuer.clone(), Trust::default())]),
            base_domain: DomainName::parse("app.example").ok(),
            ..IdentitySettings::default()
        };
        let verifier = verifier.unwrap();
        let setup = Setup { verifier, identity, dns_server: Some(dns.address), ..Setup::default() };
        let replica = Replica::start_with(setup).await;
        for name in ["acme", "globex"] {
            replica.create(name).await;
        }
        Self { replica, provider, dns }
    }

    async fn add(&self, tenant: &str, domain: &str) -> (StatusCode, Value) {
        let path = format!("/api/setup/tenants/{tenant}/domains");
        self.replica.post(&path, json!({ "domain": domain })).await
    }

    async fn verify(&self, tenant: &str, domain: &str) -> (StatusCode, Value) {
        let path = format!("/api/setup/tenants/{tenant}/domains/{domain}/verify");
        self.replica.post(&path, Value::Null).await
    }

    /// Asks for a domain, publishes the proof and has it looked at.
    async fn hold(&self, tenant: &str, domain: &str) {
        let (_, asked) = self.add(tenant, domain).await;
        let (name, text) = (asked["record_name"].as_str(), asked["record_text"].as_str());
        self.dns.publish(name.unwrap(), text.unwrap()).await;
        let (status, verified) = self.verify(tenant, domain).await;
        assert_eq!((status, &verified["verified"]), (StatusCode::OK, &json!(true)), "{verified}");
    }

    async fn ask(&self, claims: Value, host: Option<&str>) -> (StatusCode, Value) {
        let mut request = self.replica.client.get(format!("{}/api/tenant", self.replica.public));
        request = request.bearer_auth(self.provider.token(&claims));
        if let Some(host) = host {
            request = request.header("Host", host);
        }
        let answer = request.send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }
}

#[tokio::test]
async fn a_domain_counts_once_its_holder_has_published_the_proof() {
    let scene = Scene::start().await;
    let domain = "app.acme.example";

    let (status, asked) = scene.add("acme", domain).await;
    assert_eq!((status, &asked["verified"]), (StatusCode::OK, &json!(false)));
    let name = asked["record_name"].as_str().unwrap();
    let text = asked["record_text"].as_str().unwrap();
    assert_eq!(name, "_tenantry-challenge.app.acme.example");
    assert_eq!(scene.add("acme", domain).await.1, asked, "asking again gives the same challenge");

    let (status, missing) = scene.verify("acme", domain).await;
    assert_eq!(
        (status, &missing["code"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("domain_unproven"))
    );
    assert!(missing["detail"].as_str().unwrap().contains(text), "{missing}");
    scene.dns.publish(name, "something else").await;
    let (status, wrong) = scene.verify("acme", domain).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(wrong["error"].as_str().unwrap().contains("something else"), "{wrong}");

    scene.dns.publish(name, text).await;
    let (status, verified) = scene.verify("acme", domain).await;
    assert_eq!((status, &verified["verified"]), (StatusCode::OK, &json!(true)), "{verified}");
    assert_eq!(scene.verify("acme", domain).await, (status, verified), "twice equals once");
    let (_, log) = scene.replica.get("/api/audit-log?tenant=acme").await;
    let actions: Vec<_> = log["events"].as_array().unwrap().iter().map(|e| &e["action"]).collect();
    assert!(actions.contains(&&json!("domain.added")), "{log}");
    assert!(actions.contains(&&json!("domain.verified")), "{log}");
}

#[tokio::test]
async fn a_proof_may_stand_behind_an_alias() {
    let scene = Scene::start().await;
    let (_, asked) = scene.add("acme", "acme.example").await;
    let (name, text) = (asked["record_name"].as_str(), asked["record_text"].as_str());

    scene.dns.delegate(name.unwrap(), "proofs.hoster.example").await;
    scene.dns.publish("proofs.hoster.example", text.unwrap()).await;

    assert_eq!(scene.verify("acme", "acme.example").await.0, StatusCode::OK);
}

#[tokio::test]
async fn asking_first_takes_no_domain_and_a_proven_one_is_one_tenants() {
    let scene = Scene::start().await;
    scene.add("globex", "acme.example").await;

    scene.hold("acme", "acme.example").await;
    let (_, asked) = scene.add("globex", "acme.example").await;
    let (name, text) = (asked["record_name"].as_str(), asked["record_text"].as_str());
    assert_eq!(scene.verify("globex", "acme.example").await.0, StatusCode::UNPROCESSABLE_ENTITY);
    scene.dns.publish(name.unwrap(), text.unwrap()).await;
    let (status, taken) = scene.verify("globex", "acme.example").await;

    assert_eq!((status, &taken["code"]), (StatusCode::CONFLICT, &json!("exists")), "{taken}");
}

#[tokio::test]
async fn what_nobody_can_hold_alone_is_refused() {
    let scene = Scene::start().await;

    for domain in ["gmail.com", "co.uk", "github.io", "acme.app.example", "app.example"] {
        let (status, refused) = scene.add("acme", domain).await;
        assert_eq!(
            (status, &refused["code"]),
            (StatusCode::UNPROCESSABLE_ENTITY, &json!("invalid")),
            "{domain}"
        );
    }
    for domain in
        ["localhost", "App.Acme.com", "acme.com.", "127.0.0.1", "https://acme.com", "*.acme.com"]
    {
        assert_eq!(scene.add("acme", domain).await.0, StatusCode::UNPROCESSABLE_ENTITY, "{domain}");
    }
    assert_eq!(scene.verify("acme", "nobody.example").await.0, StatusCode::NOT_FOUND);
    assert_eq!(scene.add("nobody", "nobody.example").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_dns_that_is_away_proves_nothing() {
    let mut scene = Scene::start().await;
    scene.add("acme", "acme.example").await;

    scene.dns.stop().await;
    let (status, away) = scene.verify("acme", "acme.example").await;

    assert_eq!(
        (status, &away["code"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("dns_unavailable"))
    );
}

#[tokio::test]
async fn a_verified_domain_names_its_tenant_to_its_members() {
    let scene = Scene::start().await;
    scene.hold("acme", "portal.acme.example").await;
    scene.add("globex", "portal.globex.example").await;
    let user = User { issuer: &scene.provider.issuer, subject: "user-1" };
    let catalog = scene.replica.fleet.catalog();
    catalog.add_member(&slug("acme"), user, MemberRole::Member, "test").await.unwrap();
    let cases = [
        (json!({}), "portal.acme.example", StatusCode::OK),
        (json!({}), "PORTAL.acme.example.:8443", StatusCode::OK),
        (json!({ "tenant": "acme" }), "portal.acme.example", StatusCode::OK),
        (json!({ "sub": "user-2" }), "portal.acme.example", StatusCode::FORBIDDEN),
        (json!({ "tenant": "globex" }), "portal.acme.example", StatusCode::FORBIDDEN),
        // Asked for, not verified; and nobody's at all.
        (json!({}), "portal.globex.example", StatusCode::BAD_REQUEST),
        (json!({}), "acme.example", StatusCode::BAD_REQUEST),
        (json!({}), "x.portal.acme.example", StatusCode::BAD_REQUEST),
        (json!({}), "portal.acme.example.evil.example", StatusCode::BAD_REQUEST),
        (json!({}), "xn--portal-acme-0kg.example", StatusCode::BAD_REQUEST),
    ];

    for (claims, host, expected) in cases {
        let (status, body) = scene.ask(claims, Some(host)).await;
        assert_eq!(status, expected, "{host}: {body}");
        if status == StatusCode::OK {
            assert_eq!(body["slug"], "acme");
        }
    }
    let (_, body) = scene.ask(json!({}), Some("portal.acme.example")).await;
    assert_eq!(body["resolved_by"], "domain");
}

#[tokio::test]
async fn a_proven_address_at_a_verified_domain_belongs_to_its_tenant() {
    let scene = Scene::start().await;
    scene.hold("acme", "acme.example").await;
    scene.hold("globex", "labs.acme.example").await;
    let proven = |email: &str| json!({ "email": email, "email_verified": true });
    let cases = [
        (proven("ana@acme.example"), "acme"),
        (proven("ana@ACME.example"), "acme"),
        (proven("ana@eu.acme.example"), "acme"),
        (proven("ana@labs.acme.example"), "globex"),
        (
            json!({ "email": "ana@acme.example", "email_verified": true, "tenant": "globex" }),
            "globex",
        ),
    ];
    let nobodys = [
        json!({ "email": "ana@acme.example" }),
        json!({ "email": "ana@acme.example", "email_verified": false }),
        json!({ "email": "ana@acme.example", "email_verified": "true" }),
        proven("a@acme.example@evil.example"),
        proven("\"a@acme.example\"@evil.example"),
        proven("ana@acme.example.evil.example"),
        proven("ana@notacme.example"),
        proven("ana@xn--cme-8cd.example"),
        proven("ana@аcme.example"),
        proven("ana@gmail.com"),
        proven("acme.example"),
        json!({ "email": ["ana@acme.example"], "email_verified": true }),
    ];

    for (claims, tenant) in cases {
        let (status, body) = scene.ask(claims.clone(), None).await;
        assert_eq!((status, &body["slug"]), (StatusCode::OK, &json!(tenant)), "{claims}: {body}");
    }
    for claims in nobodys {
        let (status, body) = scene.ask(claims.clone(), None).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{claims}: {body}");
    }
    let (status, _) = scene.ask(proven("ana@acme.example"), Some("globex.app.example")).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "the address and the host disagree");
}

#[tokio::test]
async fn a_domain_is_free_again_once_it_is_removed_or_its_tenant_is_gone() {
    let scene = Scene::start().await;
    scene.hold("acme", "acme.example").await;
    scene.hold("acme", "acme.test").await;

    let path = "/api/setup/tenants/acme/domains/acme.example";
    let (removed, _) = scene.replica.call(reqwest::Method::DELETE, path, None).await;
    assert_eq!(removed, StatusCode::NO_CONTENT);
    scene.hold("globex", "acme.example").await;
    let (_, deletion) =
        scene.replica.call(reqwest::Method::DELETE, "/api/setup/tenants/acme", None).await;
    scene.replica.settle(&deletion).await;
    scene.hold("globex", "acme.test").await;
}

/// Between the look at the DNS and the word in the catalog a tenant may go, and another one get its slug.
#[tokio::test]
async fn a_proof_of_an_earlier_request_proves_no_later_one() {
    let scene = Scene::start().await;
    let (catalog, acme) = (scene.replica.fleet.catalog(), slug("acme"));
    let domain = DomainName::parse("acme.example").unwrap();
    let seen = catalog.add_domain(&acme, &domain, "test").await.unwrap();

    catalog.remove_domain(&acme, &domain, "test").await.unwrap();
    assert!(catalog.domain_verified(&acme, &seen, "test").await.is_err());
    catalog.add_domain(&acme, &domain, "test").await.unwrap();
    assert!(catalog.domain_verified(&acme, &seen, "test").await.is_err());

    assert_eq!(catalog.domains(&acme).await.unwrap()[0].verified_at, None);
}

/// The text is whatever the holder of the domain wrote; it is read on an operator's terminal.
#[tokio::test]
async fn what_the_dns_says_instead_is_shown_short_and_printable() {
    let scene = Scene::start().await;
    let (_, asked) = scene.add("acme", "acme.example").await;
    let name = asked["record_name"].as_str().unwrap();
    scene.dns.publish(name, "a\u{1b}]0;b").await;
    for number in 0..20 {
        scene.dns.publish(name, &format!("{number}{}", "x".repeat(200))).await;
    }

    let (_, wrong) = scene.verify("acme", "acme.example").await;

    let said = wrong["error"].as_str().unwrap();
    assert!(!said.contains(char::is_control) && said.len() < 1000, "{said:?}");
}
