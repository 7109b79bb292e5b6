//! Tenants that bring an identity provider of their own, what it may say, and what is written down of
//! those who try more.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tenantry::catalog::members::{MemberRole, User};
use tenantry::catalog::tokens::Scope;
use tenantry::oidc::TokenVerifier;
use tenantry::resolve::{IdentitySettings, Trust};

use crate::harness::process::Serving;
use crate::harness::provider::{AUDIENCE, Provider};
use crate::harness::replica::{Replica, Setup};
use crate::harness::{Fleet, eventually, slug};

const OK: StatusCode = StatusCode::OK;
const WHO: StatusCode = StatusCode::UNAUTHORIZED;
const NO: StatusCode = StatusCode::FORBIDDEN;

/// One provider of the operator's, one that only tenants know, one that is bound in the settings.
struct Scene {
    replica: Replica,
    shared: Provider,
    own: Provider,
    bound: Provider,
}

impl Scene {
    async fn start() -> Self {
        let (shared, own, bound) =
            (Provider::start().await, Provider::start().await, Provider::start().await);
        let pause = Duration::from_secs(10);
        let verifier = TokenVerifier::new(vec![shared.settings(pause), bound.settings(pause)]);
        let initech = Trust { tenants: vec![slug("initech")], tenant_claim: None };
        let identity = IdentitySettings {
            trusts: HashMap::from([
                (shared.issuer.clone(), Trust::default()),
                (bound.issuer.clone(), initech),
            ]),
            audiences: vec![AUDIENCE.to_owned()],
            ttl: Duration::from_secs(1),
            ..IdentitySettings::default()
        };
        let setup = Setup { verifier: verifier.unwrap(), identity, ..Setup::default() };
        let replica = Replica::start_with(setup).await;
        for name in ["acme", "globex", "initech"] {
            replica.create(name).await;
        }
        Self { replica, shared, own, bound }
    }

    async fn set_sso(&self, tenant: &str, sso: Value) {
        let path = format!("/api/setup/tenants/{tenant}/settings");
        let body = json!({ "sso": sso });
        let (status, answer) = self.replica.call(Method::PATCH, &path, Some(body)).await;
        assert_eq!(status, OK, "{answer}");
    }

    async fn ask(&self, token: &str, header: Option<&str>) -> StatusCode {
        let mut request = self.replica.client.get(format!("{}/api/tenant", self.replica.public));
        request = request.bearer_auth(token);
        if let Some(tenant) = header {
            request = request.header("X-Tenant", tenant);
        }
        request.send().await.unwrap().status()
    }

    async fn becomes(&self, token: &str, wanted: StatusCode) {
        let seen = async {
            while self.ask(token, None).await != wanted {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), seen).await.expect("it takes seconds");
    }
}

fn of(tenant: &str) -> Value {
    json!({ "tenant": tenant })
}

#[tokio::test]
async fn a_tenants_own_provider_speaks_for_that_tenant_and_nobody_else_does() {
    let scene = Scene::start().await;
    let (own, shared) = (&scene.own, &scene.shared);
    assert_eq!(scene.ask(&own.token(&of("acme")), None).await, WHO);
    assert_eq!(scene.ask(&shared.token(&of("acme")), None).await, OK);
    let user = User { issuer: &shared.issuer, subject: "user-1" };
    let catalog = scene.replica.fleet.catalog();
    catalog.add_member(&slug("acme"), user, MemberRole::Owner, "test").await.unwrap();

    scene.set_sso("acme", json!({ "issuer": own.issuer })).await;
    scene.becomes(&own.token(&of("acme")), OK).await;

    for (case, token, header, expected) in [
        ("its own tenant", own.token(&of("acme")), None, OK),
        ("and header", own.token(&of("acme")), Some("acme"), OK),
        ("another tenant", own.token(&of("globex")), None, NO),
        ("another bound one", own.token(&of("initech")), None, NO),
        ("no tenant at all", own.token(&of("nobody")), None, NO),
        ("another by header", own.token(&json!({})), Some("globex"), NO),
        ("claim against header", own.token(&of("acme")), Some("globex"), NO),
        ("meant for others", own.token(&json!({ "tenant": "acme", "aud": "other" })), None, WHO),
        ("the operator's provider", shared.token(&of("acme")), None, NO),
        ("a member by the operator's provider", shared.token(&json!({})), Some("acme"), NO),
        ("the operator's for others", shared.token(&of("globex")), None, OK),
        ("a bound one", scene.bound.token(&of("acme")), None, NO),
    ] {
        assert_eq!(scene.ask(&token, header).await, expected, "{case}");
    }

    scene.set_sso("acme", Value::Null).await;
    scene.becomes(&own.token(&of("acme")), WHO).await;
    assert_eq!(scene.ask(&shared.token(&of("acme")), None).await, OK);
}

#[tokio::test]
async fn tenants_of_one_provider_are_told_apart_by_audience() {
    let scene = Scene::start().await;
    let issuer = &scene.own.issuer;
    scene.set_sso("acme", json!({ "issuer": issuer, "audience": ["acme-app", "acme-cli"] })).await;
    scene.set_sso("globex", json!({ "issuer": issuer, "audience": "globex-app" })).await;
    let token = |tenant: &str, audience: Value| {
        scene.own.token(&json!({ "tenant": tenant, "aud": audience }))
    };

    scene.becomes(&token("acme", json!("acme-cli")), OK).await;
    assert_eq!(scene.ask(&token("globex", json!(["x", "globex-app"])), None).await, OK);
    assert_eq!(scene.ask(&token("globex", json!("acme-app")), None).await, NO);
    assert_eq!(scene.ask(&token("acme", json!("globex-app")), None).await, NO);
    assert_eq!(scene.ask(&token("acme", json!(AUDIENCE)), None).await, WHO);
}

#[tokio::test]
async fn a_tenant_that_names_the_operators_provider_takes_it_from_nobody() {
    let scene = Scene::start().await;
    let shared = &scene.shared;

    scene.set_sso("acme", json!({ "issuer": shared.issuer, "audience": "acme-app" })).await;

    let meant = shared.token(&json!({ "tenant": "acme", "aud": "acme-app" }));
    scene.becomes(&meant, OK).await;
    assert_eq!(scene.ask(&shared.token(&of("acme")), None).await, NO);
    assert_eq!(scene.ask(&shared.token(&of("globex")), None).await, OK);
    // Whom acme's tokens are meant for is acme's affair: to the others it is a stranger.
    let stray = shared.token(&json!({ "tenant": "globex", "aud": "acme-app" }));
    assert_eq!(scene.ask(&stray, None).await, NO);
}

#[tokio::test]
async fn no_tenants_provider_makes_administrators() {
    let scene = Scene::start().await;
    scene.set_sso("acme", json!({ "issuer": scene.own.issuer })).await;
    scene.becomes(&scene.own.token(&of("acme")), OK).await;
    let admin = json!({ "groups": ["platform"] });
    let list = async |token: String| {
        let url = format!("{}/api/setup/tenants", scene.replica.admin);
        scene.replica.client.get(url).bearer_auth(token).send().await.unwrap().status()
    };

    assert_eq!(list(scene.shared.token(&admin)).await, OK);
    assert_eq!(list(scene.own.token(&admin)).await, WHO);
    assert_eq!(list(scene.bound.token(&admin)).await, WHO);
}

#[tokio::test]
async fn a_provider_of_a_tenant_is_fetched_at_an_address_that_can_be_trusted() {
    let scene = Scene::start().await;

    for issuer in ["http://sso.acme.example", "file:///etc/passwd", "sso.acme.example", ""] {
        let path = "/api/setup/tenants/acme/settings";
        let body = json!({ "sso": { "issuer": issuer } });
        let (status, _) = scene.replica.call(Method::PATCH, path, Some(body)).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{issuer}");
    }
}

#[tokio::test]
async fn refusals_and_changes_are_in_the_audit_log_and_a_flood_does_not_fill_it() {
    let scene = Scene::start().await;
    scene.set_sso("initech", json!({ "issuer": scene.own.issuer })).await;
    let eve = scene.shared.token(&json!({ "sub": "eve", "tenant": "acme" }));
    for _ in 0..30 {
        assert_eq!(scene.ask(&eve, Some("globex")).await, NO);
    }
    let many = scene.shared.token(&json!({ "sub": "mallory" }));
    let names: Vec<String> = (0..300).map(|number| format!("guess-{number}")).collect();
    let guesses = names.iter().map(|name| scene.ask(&many, Some(name)));
    assert!(futures_util::future::join_all(guesses).await.iter().all(|status| *status == NO));

    let oscar = scene.shared.token(&json!({ "sub": "oscar" }));
    assert_eq!(scene.ask(&oscar, Some("globex")).await, NO);

    assert_eq!(denied(&scene, "oscar", 1).await, 1);
    let all = async || denied(&scene, "mallory", 1).await == 11;
    eventually("each of her kinds is written", all).await;
    let (_, log) = scene.replica.get("/api/audit-log?limit=500").await;
    let events = log["events"].as_array().unwrap();
    let of =
        |actor: &str| -> Vec<_> { events.iter().filter(|event| event["actor"] == actor).collect() };

    let [eve] = of("eve")[..] else { panic!("{events:#?}") };
    assert_eq!((&eve["action"], &eve["tenant_slug"]), (&json!("request.denied"), &json!("acme")));
    assert_eq!(eve["detail"]["violation"], "sources_disagree");
    // Ten by what she tried, and the others as a number that is hers.
    let rest = of("mallory").into_iter().filter(|event| event["tenant_slug"].is_null());
    let rest: Vec<_> = rest.map(|event| &event["detail"]["violation"]).collect();
    assert_eq!(rest, ["too_many_to_tell_apart"]);
    // Nobody hides behind her.
    assert_eq!(of("oscar")[0]["tenant_slug"], "globex");
    assert_eq!(of("several").len(), 0);
    let changed = events.iter().find(|event| event["action"] == "settings.changed").unwrap();
    assert_eq!(changed["actor"], "token:test");
    assert_eq!(changed["detail"]["sso"]["after"]["issuer"], scene.own.issuer);
    assert_eq!(changed["detail"]["sso"]["before"], Value::Null);
}

/// Whoever has a provider of their own can have it sign anything.
#[tokio::test]
async fn a_subject_that_cannot_be_stored_does_not_silence_the_audit_log() {
    let scene = Scene::start().await;
    scene.set_sso("acme", json!({ "issuer": scene.own.issuer })).await;
    scene.becomes(&scene.own.token(&of("acme")), OK).await;

    for subject in ["eve\u{0}", "eve\u{1b}[2J", "eve\n"] {
        let token = scene.own.token(&json!({ "sub": subject, "tenant": "globex" }));
        assert_eq!(scene.ask(&token, None).await, WHO, "{subject:?}");
    }
    let eve = scene.own.token(&json!({ "sub": "eve", "tenant": "globex" }));
    assert_eq!(scene.ask(&eve, None).await, NO);

    assert_eq!(denied(&scene, "eve", 1).await, 1);
}

#[tokio::test]
async fn a_flood_that_goes_on_is_one_entry_for_minutes() {
    let scene = Scene::start().await;
    let eve = scene.shared.token(&json!({ "sub": "eve", "tenant": "acme" }));
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        assert_eq!(scene.ask(&eve, Some("globex")).await, NO);
    }

    assert_eq!(denied(&scene, "eve", 1).await, 1);
}

/// Waits until so many refusals of somebody are written down; gives the number of rows that took.
async fn denied(scene: &Scene, actor: &str, wanted: u64) -> usize {
    let written = async {
        loop {
            let (_, log) = scene.replica.get("/api/audit-log?limit=500").await;
            let events = log["events"].as_array().unwrap();
            let rows: Vec<_> = events.iter().filter(|event| event["actor"] == actor).collect();
            let counts = rows.iter().map(|row| row["detail"]["count"].as_u64().unwrap());
            if counts.sum::<u64>() >= wanted {
                return rows.len();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(15), written).await.expect("it takes seconds")
}

#[tokio::test]
async fn nobody_changes_what_the_audit_log_says() {
    let fleet = Fleet::start().await;
    let user = User { issuer: "https://id.example", subject: "ana" };
    fleet.create_tenant("acme").await;
    fleet.catalog().add_member(&slug("acme"), user, MemberRole::Owner, "test").await.unwrap();
    let session = fleet.catalog().url().connect().await.unwrap();

    for statement in
        ["update audit_log set actor = 'nobody'", "delete from audit_log", "truncate audit_log"]
    {
        assert!(session.batch_execute(statement).await.is_err(), "{statement}");
    }
}

/// A real replica counts what it asks of the catalog.
#[tokio::test]
async fn an_unknown_and_a_foreign_tenant_cost_the_catalog_the_same() {
    let (fleet, provider) = (Fleet::start().await, Provider::start().await);
    for name in ["acme", "globex"] {
        fleet.create_tenant(name).await;
    }
    let operator = fleet.catalog().create_token("test", &Scope::ALL).await.unwrap();
    let settings = [
        ("TENANTRY_AUTH_PROVIDER", "oidc"),
        ("TENANTRY_OIDC_ISSUER", provider.issuer.as_str()),
        ("TENANTRY_OIDC_AUDIENCE", AUDIENCE),
        ("TENANTRY_BASE_DOMAIN", "app.example"),
    ];
    let mut serving = Serving::start_with(&fleet, &settings);
    let public = serving.address("the data plane").await;
    let admin = serving.address("the admin API").await;
    let client = reqwest::Client::new();
    let asked = async || -> HashMap<String, u64> {
        let request = client.get(format!("{admin}/metrics")).bearer_auth(operator.expose_secret());
        let text = request.send().await.unwrap().text().await.unwrap();
        let counters = text.lines().filter_map(|line| {
            let rest = line.strip_prefix("tenantry_catalog_queries_total{query=\"")?;
            let (name, count) = rest.split_once("\"} ")?;
            // What requests ask; workers and gauges ask on their own.
            let ours = ["members::", "domains::", "tenants::place", "tokens::"];
            let is_ours = ours.iter().any(|prefix| name.starts_with(prefix));
            (is_ours && name != "members::own_issuers" && name != "tokens::by_secret")
                .then(|| (name.to_owned(), count.parse().unwrap()))
        });
        counters.collect()
    };
    // By header and by host, as somebody who is a member nowhere.
    let cost = async |header: &str, value: &str| {
        let before = asked().await;
        for subject in 0..5 {
            let token = provider.token(&json!({ "sub": format!("{value}-{subject}") }));
            let request = client.get(format!("{public}/api/tenant")).bearer_auth(token);
            let answer = request.header(header, value).send().await.unwrap();
            assert_eq!(answer.status(), NO);
        }
        let mut cost = asked().await;
        for (name, count) in &mut cost {
            *count -= before.get(name).copied().unwrap_or(0);
        }
        cost.retain(|_, count| *count > 0);
        cost
    };

    for (header, foreign, unknown) in
        [("X-Tenant", "acme", "nobody"), ("Host", "globex.app.example", "nowhere.app.example")]
    {
        let (foreign, unknown) = (cost(header, foreign).await, cost(header, unknown).await);

        assert_eq!(foreign, HashMap::from([("members::standing".to_owned(), 5)]), "{header}");
        assert_eq!(foreign, unknown, "{header}");
    }
}

#[tokio::test]
async fn who_is_known_is_let_in_while_the_catalog_gives_no_answer() {
    let scene = Scene::start().await;
    let shared = &scene.shared;
    let user = User { issuer: &shared.issuer, subject: "user-1" };
    let catalog = scene.replica.fleet.catalog();
    catalog.add_member(&slug("acme"), user, MemberRole::Member, "test").await.unwrap();
    let token = shared.token(&json!({}));
    assert_eq!(scene.ask(&token, Some("acme")).await, OK);
    assert_eq!(scene.ask(&scene.replica.token, Some("acme")).await, OK);

    let mut session = catalog.url().connect().await.unwrap();
    let locked = session.transaction().await.unwrap();
    locked.batch_execute("lock table tenants, members, domains, admin_tokens").await.unwrap();
    // Whatever is remembered is asked anew by now.
    tokio::time::sleep(Duration::from_millis(1500)).await;

    for token in [&token, &scene.replica.token] {
        let asked = scene.ask(token, Some("acme"));
        let status = tokio::time::timeout(Duration::from_secs(8), asked).await;
        assert_eq!(status.expect("an answer"), OK);
    }
}

/// However many requests of somebody who is known come at once, when it is time to ask again.
#[tokio::test]
async fn many_at_once_ask_the_catalog_once() {
    let scene = Scene::start().await;
    let user = User { issuer: &scene.shared.issuer, subject: "user-1" };
    let catalog = scene.replica.fleet.catalog();
    catalog.add_member(&slug("acme"), user, MemberRole::Member, "test").await.unwrap();
    let token = scene.shared.token(&json!({}));
    let mut session = catalog.url().connect().await.unwrap();
    let locked = session.transaction().await.unwrap();
    locked.batch_execute("lock table members").await.unwrap();
    let waiting = "select count(*) from pg_stat_activity
        where wait_event_type = 'Lock' and query like '%members::standing%'";

    let asked = (0..20).map(|_| scene.ask(&token, Some("acme")));
    let (answers, waiting) = tokio::join!(futures_util::future::join_all(asked), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let admin = scene.replica.fleet.admin("postgres").await;
        let waiting: i64 = admin.query_one(waiting, &[]).await.unwrap().get(0);
        locked.rollback().await.unwrap();
        waiting
    });

    assert_eq!(waiting, 1);
    assert!(answers.iter().all(|status| *status == OK), "{answers:?}");
}
