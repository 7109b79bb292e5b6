//! Users who ask for a tenant of their own: from the request to the first query.

use std::collections::HashMap;
use std::time::Duration;

use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use tenantry::oidc::TokenVerifier;
use tenantry::registration::{Rate, RegistrationRules};
use tenantry::resolve::{IdentitySettings, Trust};
use tenantry::tenant::DomainName;

use crate::harness::provider::Provider;
use crate::harness::replica::{Replica, Setup};
use crate::harness::slug;

mod squatting;

/// A replica that takes registrations of users of one provider; those of another are bound to a tenant.
struct Scene {
    replica: Replica,
    provider: Provider,
    bound: Provider,
}

fn rules() -> RegistrationRules {
    RegistrationRules {
        requires_approval: false,
        allowed_domains: Vec::new(),
        max_tenants: 100,
        rate: Rate { limit: 100, window: Duration::from_hours(1) },
    }
}

impl Scene {
    async fn start(rules: RegistrationRules) -> Self {
        let (provider, bound) = (Provider::start().await, Provider::start().await);
        let pause = Duration::from_secs(10);
        let verifier = TokenVerifier::new(vec![provider.settings(pause), bound.settings(pause)]);
        let initech = Trust { tenants: vec![slug("initech")], tenant_claim: None };
        let identity = IdentitySettings {
            trusts: HashMap::from([
                (provider.issuer.clone(), Trust::default()),
                (bound.issuer.clone(), initech),
            ]),
            base_domain: DomainName::parse("app.example").ok(),
            ..IdentitySettings::default()
        };
        let setup = Setup { verifier: verifier.unwrap(), identity, rules, ..Setup::default() };
        Self { replica: Replica::start_with(setup).await, provider, bound }
    }

    fn token(&self, user: &str) -> String {
        self.provider.token(&json!({ "sub": user }))
    }

    async fn send(&self, token: &str, body: &Value) -> Response {
        let url = format!("{}/api/tenants/register", self.replica.public);
        self.replica.client.post(url).bearer_auth(token).json(body).send().await.unwrap()
    }

    async fn register(&self, token: &str, name: &str) -> (StatusCode, Value) {
        let answer = self.send(token, &application(name)).await;
        (answer.status(), answer.json().await.unwrap())
    }

    async fn state(&self, token: &str, id: &Value) -> (StatusCode, Value) {
        let id = id.as_str().unwrap();
        let url = format!("{}/api/tenants/register/{id}", self.replica.public);
        let answer = self.replica.client.get(url).bearer_auth(token).send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    async fn becomes(&self, token: &str, id: &Value, status: &str) -> Value {
        let seen = async {
            loop {
                let (_, state) = self.state(token, id).await;
                if state["status"] == status {
                    return state;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), seen).await.expect("it takes seconds")
    }

    async fn decide(&self, id: &Value, decision: &str, body: Value) -> (StatusCode, Value) {
        let id = id.as_str().unwrap();
        self.replica.post(&format!("/api/registrations/{id}/{decision}"), body).await
    }
}

fn application(name: &str) -> Value {
    json!({
        "organization_name": name, "admin_email": "ana@acme.example",
        "use_case": "boards", "organization_size": "11-50"
    })
}

#[tokio::test]
async fn a_user_gets_a_tenant_and_owns_it() {
    let scene = Scene::start(rules()).await;
    let token = scene.token("ana");

    let answer = scene.send(&token, &application("Acme Corp.")).await;
    let location = answer.headers()["location"].to_str().unwrap().to_owned();
    let (status, receipt): (_, Value) = (answer.status(), answer.json().await.unwrap());

    assert_eq!(status, StatusCode::ACCEPTED, "{receipt}");
    assert_eq!(location, format!("/api/tenants/register/{}", receipt["id"].as_str().unwrap()));
    assert_eq!(receipt["tenant_slug"], "acme-corp");
    assert_eq!(receipt["status"], "provisioning");
    assert_eq!(receipt["dashboard_url"], "https://dashboard.example/acme-corp");
    let access =
        json!({ "header": "x-tenant", "value": "acme-corp", "host": "acme-corp.app.example" });
    assert_eq!(receipt["api_access"], access);
    scene.becomes(&token, &receipt["id"], "active").await;
    let tenant = scene.replica.fleet.catalog().tenant(&slug("acme-corp")).await.unwrap();
    assert_eq!(tenant.id.to_string(), receipt["tenant_id"]);
    assert_eq!(tenant.name, "Acme Corp.");
    let (_, members) = scene.replica.get("/api/setup/tenants/acme-corp/members").await;
    assert_eq!(members["members"][0]["subject"], "ana", "{members}");
    assert_eq!(members["members"][0]["role"], "owner");
    let (_, log) = scene.replica.get("/api/audit-log?tenant=acme-corp").await;
    let joined = log["events"].as_array().unwrap().iter().find(|e| e["action"] == "member.added");
    let joined = joined.expect("a new owner is a change of members");
    assert_eq!(
        (&joined["detail"]["subject"], &joined["detail"]["role"]),
        (&json!("ana"), &json!("owner"))
    );
    assert_eq!(joined["tenant_id"], receipt["tenant_id"]);
    let url = format!("{}/api/tenant", scene.replica.public);
    let request = scene.replica.client.get(url).bearer_auth(&token).header("X-Tenant", "acme-corp");
    assert_eq!(request.send().await.unwrap().status(), StatusCode::OK);
    scene.replica.fleet.assert_healthy().await;
}

#[tokio::test]
async fn an_operator_decides_where_that_is_asked_for() {
    let scene = Scene::start(RegistrationRules { requires_approval: true, ..rules() }).await;
    let token = scene.token("ana");
    let (_, wanted) = scene.register(&token, "Acme").await;
    let (_, unwanted) = scene.register(&token, "Spam").await;
    assert_eq!(wanted["status"], "pending_approval");

    let (_, listed) = scene.replica.get("/api/registrations?state=pending").await;
    assert_eq!(listed["registrations"].as_array().unwrap().len(), 2, "{listed}");
    let (status, approved) = scene.decide(&wanted["id"], "approve", Value::Null).await;
    assert_eq!(status, StatusCode::OK, "{approved}");
    let nothing = scene.decide(&unwanted["id"], "reject", json!({ "reason": " " })).await;
    assert_eq!(nothing.0, StatusCode::UNPROCESSABLE_ENTITY);
    let reason = json!({ "reason": "no contract yet" });
    assert_eq!(scene.decide(&unwanted["id"], "reject", reason.clone()).await.0, StatusCode::OK);

    scene.becomes(&token, &wanted["id"], "active").await;
    let rejected = scene.becomes(&token, &unwanted["id"], "rejected").await;
    assert_eq!(rejected["reason"], "no contract yet");
    assert_eq!(scene.decide(&unwanted["id"], "approve", Value::Null).await.0, StatusCode::CONFLICT);
    assert_eq!(scene.decide(&unwanted["id"], "reject", reason).await.0, StatusCode::OK);
    assert_eq!(scene.replica.get("/api/setup/tenants/spam").await.0, StatusCode::NOT_FOUND);
    let (_, log) = scene.replica.get("/api/audit-log").await;
    let of = |action: &str| {
        let events = log["events"].as_array().unwrap();
        events.iter().filter(|event| event["action"] == action).count()
    };
    assert_eq!(
        (of("registration.made"), of("registration.approved"), of("registration.rejected")),
        (2, 1, 1)
    );
}

#[tokio::test]
async fn names_that_are_taken_get_a_number_and_reserved_ones_are_nobodys() {
    let scene = Scene::start(rules()).await;
    scene.replica.create("acme").await;

    for (name, slug) in [
        ("Acme", "acme-2"),
        ("ACME!", "acme-3"),
        ("Postgres", "postgres-2"),
        ("Grüße & Söhne", "grusse-sohne"),
        ("日本", "ri-ben"),
        ("Globex'; drop table tenants; --", "globex-drop-table-tenants"),
    ] {
        let (status, receipt) = scene.register(&scene.token("ana"), name).await;
        assert_eq!(
            (status, &receipt["tenant_slug"]),
            (StatusCode::ACCEPTED, &json!(slug)),
            "{name}"
        );
    }
}

#[tokio::test]
async fn whoever_asks_at_once_gets_a_slug_of_their_own() {
    let scene = Scene::start(rules()).await;
    let tokens: Vec<_> = (0..8).map(|user| scene.token(&format!("user-{user}"))).collect();

    let asked = tokens.iter().map(|token| scene.register(token, "Acme"));
    let answers = futures_util::future::join_all(asked).await;

    let mut slugs: Vec<_> =
        answers.iter().map(|(_, receipt)| receipt["tenant_slug"].as_str().unwrap()).collect();
    slugs.sort_unstable();
    slugs.dedup();
    assert_eq!(slugs.len(), 8, "{slugs:?}");
    for (token, (_, receipt)) in tokens.iter().zip(&answers) {
        scene.becomes(token, &receipt["id"], "active").await;
    }
}

#[tokio::test]
async fn a_slug_that_was_taken_before_the_approval_gets_a_number() {
    let scene = Scene::start(RegistrationRules { requires_approval: true, ..rules() }).await;
    let token = scene.token("ana");
    let (_, receipt) = scene.register(&token, "Acme").await;
    assert_eq!(receipt["tenant_slug"], "acme");

    scene.replica.create("acme").await;
    scene.decide(&receipt["id"], "approve", Value::Null).await;
    let made = scene.becomes(&token, &receipt["id"], "active").await;

    assert_eq!(made["tenant_slug"], "acme-2");
    assert_eq!(made["tenant_id"], receipt["tenant_id"]);
}

#[tokio::test]
async fn nobody_tries_too_often_whichever_replica_they_ask() {
    let rate = Rate { limit: 3, window: Duration::from_hours(1) };
    let scene = Scene::start(RegistrationRules { rate, ..rules() }).await;
    let other = scene.replica.another(RegistrationRules { rate, ..rules() }).await;
    let ana = scene.token("ana");
    let ask = async |public: &str, token: &str, name: &str| {
        let url = format!("{public}/api/tenants/register");
        let request = scene.replica.client.post(url).bearer_auth(token).json(&application(name));
        request.send().await.unwrap()
    };

    for (public, name) in [(&scene.replica.public, "one"), (&other, "two"), (&other, "three")] {
        assert_eq!(ask(public, &ana, name).await.status(), StatusCode::ACCEPTED);
    }
    for public in [&scene.replica.public, &other] {
        // Neither the same user nor another one from the same address.
        for token in [&ana, &scene.token("eve")] {
            let refused = ask(public, token, "four").await;
            assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
            let wait: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
            assert!((3500..=3601).contains(&wait), "{wait}");
        }
    }
}

#[tokio::test]
async fn many_at_once_are_counted_one_by_one() {
    let rate = Rate { limit: 3, window: Duration::from_hours(1) };
    let scene = Scene::start(RegistrationRules { rate, ..rules() }).await;
    let ana = scene.token("ana");

    let asked = (0..10).map(|_| scene.register(&ana, "Acme"));
    let answers = futures_util::future::join_all(asked).await;

    let accepted = answers.iter().filter(|(status, _)| *status == StatusCode::ACCEPTED).count();
    assert_eq!(accepted, 3);
}

#[tokio::test]
async fn nobody_owns_more_than_they_may() {
    let scene = Scene::start(RegistrationRules { max_tenants: 2, ..rules() }).await;
    let ana = scene.token("ana");
    let (_, first) = scene.register(&ana, "One").await;
    scene.becomes(&ana, &first["id"], "active").await;
    scene.register(&ana, "Two").await;

    let (status, refused) = scene.register(&ana, "Three").await;
    assert_eq!((status, &refused["code"]), (StatusCode::CONFLICT, &json!("registration_too_many")));
    assert_eq!(scene.register(&scene.token("bob"), "Three").await.0, StatusCode::ACCEPTED);
    let (_, deletion) = scene.replica.call(Method::DELETE, "/api/setup/tenants/one", None).await;
    scene.replica.settle(&deletion).await;
    assert_eq!(scene.register(&ana, "Four").await.0, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn only_proven_addresses_at_allowed_domains_register() {
    let allowed_domains = vec![DomainName::parse("acme.example").unwrap()];
    let scene = Scene::start(RegistrationRules { allowed_domains, ..rules() }).await;
    let with = |email: Value, verified: Value| {
        scene.provider.token(&json!({ "email": email, "email_verified": verified }))
    };

    for (token, expected) in [
        (with(json!("ana@acme.example"), json!(true)), StatusCode::ACCEPTED),
        (with(json!("ana@eu.acme.example"), json!(true)), StatusCode::ACCEPTED),
        (with(json!("ana@acme.example"), json!(false)), StatusCode::FORBIDDEN),
        (with(json!("ana@acme.example"), json!("true")), StatusCode::FORBIDDEN),
        (with(json!("eve@evil.example"), json!(true)), StatusCode::FORBIDDEN),
        (with(json!("eve@acme.example@evil.example"), json!(true)), StatusCode::FORBIDDEN),
        (with(json!("eve@notacme.example"), json!(true)), StatusCode::FORBIDDEN),
        (scene.token("ana"), StatusCode::FORBIDDEN),
    ] {
        assert_eq!(scene.register(&token, "Acme").await.0, expected);
    }
    let mut elsewhere = application("Acme");
    elsewhere["admin_email"] = json!("eve@evil.example");
    let token = with(json!("ana@acme.example"), json!(true));
    assert_eq!(scene.send(&token, &elsewhere).await.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn strangers_and_rubbish_register_nothing() {
    let scene = Scene::start(rules()).await;
    let ana = scene.token("ana");

    for token in ["", "rubbish", &scene.replica.token] {
        assert_eq!(scene.register(token, "Acme").await.0, StatusCode::UNAUTHORIZED, "{token}");
    }
    let bound = scene.bound.token(&json!({}));
    assert_eq!(scene.register(&bound, "Acme").await.0, StatusCode::FORBIDDEN);
    for (field, value) in [
        ("organization_name", json!("")),
        ("organization_name", json!("x".repeat(201))),
        ("organization_name", json!("Ac\u{0}me")),
        ("organization_name", json!("Ac\nme")),
        ("organization_name", json!(["Acme"])),
        ("admin_email", json!("ana")),
        ("admin_email", json!("a@acme.example@evil.example")),
        ("use_case", json!("x\u{0}")),
        ("use_case", json!("x".repeat(2000))),
        ("slug", json!("acme")),
    ] {
        let mut body = application("Acme");
        body[field] = value;
        let answer = scene.send(&ana, &body).await;
        assert_eq!(answer.status(), StatusCode::UNPROCESSABLE_ENTITY, "{field}");
    }
    assert_eq!(scene.replica.get("/api/registrations").await.1["registrations"], json!([]));
}

#[tokio::test]
async fn a_registration_is_its_users_affair() {
    let scene = Scene::start(rules()).await;
    let (ana, eve) = (scene.token("ana"), scene.token("eve"));
    let (_, receipt) = scene.register(&ana, "Acme").await;

    assert_eq!(scene.state(&ana, &receipt["id"]).await.0, StatusCode::OK);
    let foreign = scene.state(&eve, &receipt["id"]).await;
    let unknown = scene.state(&eve, &json!("0197f0c0-7a5e-7c3e-9f5e-0a1b2c3d4e5f")).await;
    assert_eq!(foreign, unknown);
    assert_eq!(foreign.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_same_request_is_one_registration() {
    let scene = Scene::start(rules()).await;
    let ana = scene.token("ana");
    let send = async |token: &str| -> Value {
        let url = format!("{}/api/tenants/register", scene.replica.public);
        let request = scene.replica.client.post(url).bearer_auth(token).json(&application("Acme"));
        request.header("Idempotency-Key", "k1").send().await.unwrap().json().await.unwrap()
    };

    let (first, again) = (send(&ana).await, send(&ana).await);
    let another = send(&scene.token("bob")).await;

    assert_eq!(first["id"], again["id"]);
    assert_ne!(first["id"], another["id"]);
}

/// Tokens of some providers name organisations as people do, and anybody may register any name.
#[tokio::test]
async fn a_name_that_nobody_has_looked_at_names_no_tenant() {
    let scene = Scene::start(rules()).await;
    scene.replica.create("acme").await;
    let eve = scene.token("eve");
    for name in ["acme", "Globex Inc."] {
        let (_, receipt) = scene.register(&eve, name).await;
        scene.becomes(&eve, &receipt["id"], "active").await;
    }
    let ask = async |name: &str| {
        let token = scene.provider.token(&json!({ "org_name": name }));
        let url = format!("{}/api/tenant", scene.replica.public);
        let answer = scene.replica.client.get(url).bearer_auth(token).send().await.unwrap();
        let (status, own): (_, Value) = (answer.status(), answer.json().await.unwrap());
        (status, own["slug"].clone())
    };

    assert_eq!(ask("acme").await, (StatusCode::OK, json!("acme")));
    assert_eq!(ask("Globex Inc.").await.0, StatusCode::FORBIDDEN);
    let (path, name) = ("/api/setup/tenants/globex-inc", json!({ "name": "Globex" }));
    scene.replica.call(Method::PATCH, path, Some(name)).await;
    assert_eq!(ask("Globex").await, (StatusCode::OK, json!("globex-inc")));
}

#[tokio::test]
async fn a_request_that_comes_again_is_no_new_attempt() {
    let rate = Rate { limit: 1, window: Duration::from_hours(1) };
    let scene = Scene::start(RegistrationRules { rate, ..rules() }).await;
    let ana = scene.token("ana");
    let send = async |key: &str| {
        let url = format!("{}/api/tenants/register", scene.replica.public);
        let request = scene.replica.client.post(url).bearer_auth(&ana).json(&application("Acme"));
        let answer = request.header("Idempotency-Key", key).send().await.unwrap();
        let (status, body): (_, Value) = (answer.status(), answer.json().await.unwrap());
        (status, body["id"].clone())
    };

    let first = send("k1").await;

    assert_eq!(first.0, StatusCode::ACCEPTED);
    assert_eq!(send("k1").await, first);
    assert_eq!(send("k2").await.0, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn finding_a_tenant_by_its_name_reads_no_others() {
    let scene = Scene::start(rules()).await;
    let session = scene.replica.fleet.catalog().url().connect().await.unwrap();
    session.batch_execute("set enable_seqscan = off").await.unwrap();

    let sql = "explain select slug from tenants where name = 'Acme' and state <> 'deleted'";
    let plan = session.query(sql, &[]).await.unwrap();

    let text: Vec<&str> = plan.iter().map(|row| row.get(0)).collect();
    assert!(text.iter().any(|line| line.contains("tenants_name")), "{text:?}");
}
