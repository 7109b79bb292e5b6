//! Who is asking, and for which tenant: what is believed, and everything that is not.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tenantry::catalog::members::{MemberRole, User};
use tenantry::oidc::TokenVerifier;
use tenantry::resolve::{ClaimPath, IdentitySettings, Trust};
use tenantry::tenant::DomainName;

use crate::harness::provider::{AUDIENCE, Provider, SigningKey};
use crate::harness::replica::{Replica, Setup};
use crate::harness::slug;

mod keys;
mod renamed;

/// Two providers, one of which is bound to `initech`; three tenants.
struct Scene {
    replica: Replica,
    provider: Provider,
    bound: Provider,
}

/// What a request says beside its path.
type Headers<'a> = &'a [(&'a str, &'a str)];

impl Scene {
    async fn start() -> Self {
        let (provider, bound) = (Provider::start().await, Provider::start().await);
        let verifier = TokenVerifier::new(vec![
            provider.settings(Duration::from_secs(10)),
            bound.settings(Duration::from_secs(10)),
        ]);
        let path = ClaimPath::parse("app.tenant");
        let trusts = HashMap::from([
            (provider.issuer.clone(), Trust { tenants: Vec::new(), tenant_claim: path }),
            (bound.issuer.clone(), Trust { tenants: vec![slug("initech")], tenant_claim: None }),
        ]);
        let base_domain = DomainName::parse("app.example").ok();
        let identity = IdentitySettings { trusts, base_domain, ..IdentitySettings::default() };
        let setup = Setup { verifier: verifier.unwrap(), identity, ..Setup::default() };
        let replica = Box::pin(Replica::start_with(setup)).await;
        for name in ["acme", "globex", "initech"] {
            replica.create(name).await;
        }
        let (catalog, held) = (replica.fleet.catalog(), DomainName::parse("acme.com").unwrap());
        let held = catalog.add_domain(&slug("acme"), &held, "test").await.unwrap();
        catalog.domain_verified(&slug("acme"), &held, "test").await.unwrap();
        Self { replica, provider, bound }
    }

    async fn ask(&self, token: &str, headers: Headers<'_>) -> (StatusCode, Value) {
        let client = reqwest::Client::new();
        let mut request = client.get(format!("{}/api/tenant", self.replica.public));
        if !token.is_empty() {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    async fn join(&self, name: &str, role: MemberRole) {
        let user = User { issuer: &self.provider.issuer, subject: "user-1" };
        self.replica.fleet.catalog().add_member(&slug(name), user, role, "test").await.unwrap();
    }
}

#[tokio::test]
async fn each_source_names_a_tenant_and_they_may_agree() {
    let scene = Scene::start().await;
    scene.join("globex", MemberRole::Member).await;
    let claim = scene.provider.token(&json!({ "tenant": "acme" }));
    let nested = scene.provider.token(&json!({ "app": { "tenant": "acme" }, "tenant": "globex" }));
    let organisation = scene.provider.token(&json!({ "org_name": "acme" }));
    let plain = scene.provider.token(&json!({}));
    let bound = scene.bound.token(&json!({ "org": "initech" }));
    let address =
        scene.provider.token(&json!({ "email": "ana@eu.acme.com", "email_verified": true }));
    let cases: [(&str, Headers<'_>, &str, &str); 10] = [
        (&address, &[("Host", "acme.com")], "acme", "email"),
        (&claim, &[], "acme", "claims"),
        (&nested, &[], "acme", "claims"),
        (&organisation, &[], "acme", "claims"),
        (&bound, &[], "initech", "claims"),
        (&plain, &[("X-Tenant", "globex")], "globex", "header"),
        (&plain, &[("Host", "globex.app.example")], "globex", "host"),
        (
            &plain,
            &[("X-Tenant", "globex"), ("Host", "GLOBEX.app.example:8080")],
            "globex",
            "header",
        ),
        (&claim, &[("X-Tenant", "acme"), ("Host", "acme.app.example.")], "acme", "claims"),
        (&scene.replica.token, &[("X-Tenant", "acme")], "acme", "header"),
    ];

    for (token, headers, tenant, source) in cases {
        let (status, body) = scene.ask(token, headers).await;

        assert_eq!(status, StatusCode::OK, "{tenant} by {source}: {body}");
        assert_eq!((&body["slug"], &body["resolved_by"]), (&json!(tenant), &json!(source)));
    }
}

/// Every way that we know of to get at somebody else's data, and the answer to each.
#[tokio::test]
#[expect(clippy::too_many_lines, reason = "it is one table")]
async fn nobody_gets_in_by_a_forged_or_foreign_token_or_request() {
    const BAD: StatusCode = StatusCode::BAD_REQUEST;
    const WHO: StatusCode = StatusCode::UNAUTHORIZED;
    const NO: StatusCode = StatusCode::FORBIDDEN;
    let scene = Scene::start().await;
    scene.join("globex", MemberRole::Member).await;
    let provider = &scene.provider;
    let acme = json!({ "tenant": "acme" });
    let good = provider.token(&acme);
    let plain = provider.token(&json!({}));
    let now = jsonwebtoken::get_current_timestamp();
    let with = |other: Value| {
        let mut claims = acme.clone();
        claims.as_object_mut().unwrap().extend(other.as_object().unwrap().clone());
        provider.token(&claims)
    };
    let without = |name: &str| {
        let mut claims = provider.claims(&acme);
        claims.as_object_mut().unwrap().remove(name);
        provider.key().sign(&claims)
    };
    let key = provider.key();
    let claims_text = provider.claims(&acme).to_string();
    let header = |more: &str| {
        key.sign_raw(&format!(r#"{{"alg":"RS256","kid":"first"{more}}}"#), &claims_text)
    };
    let unsigned = |alg: &str| {
        let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"{alg}"}}"#));
        format!("{header}.{}.", URL_SAFE_NO_PAD.encode(&claims_text))
    };
    let modulus = serde_json::to_value(&key.public).unwrap()["n"].as_str().unwrap().to_owned();
    let with_public_key = |alg| {
        let mut header = Header::new(alg);
        header.kid = Some("first".to_owned());
        encode(&header, &provider.claims(&acme), &EncodingKey::from_secret(modulus.as_bytes()))
            .unwrap()
    };
    let stranger = SigningKey::generate("first");
    let parts: Vec<&str> = good.split('.').collect();
    let globex =
        URL_SAFE_NO_PAD.encode(provider.claims(&json!({ "tenant": "globex" })).to_string());
    let named = |value: Value| provider.token(&json!({ "tenant": value }));
    let yes = || json!(true);
    let mail = |email: &str, verified: Value| {
        provider.token(&json!({ "email": email, "email_verified": verified }))
    };
    let with_mail =
        |email: Value| provider.token(&json!({ "email": email, "email_verified": true }));
    let bound_mail =
        |email: &str| scene.bound.token(&json!({ "email": email, "email_verified": true }));
    let twice = key.sign_raw(
        r#"{"alg":"RS256","kid":"first"}"#,
        &format!(r#"{},"tenant":"globex"}}"#, claims_text.trim_end_matches('}')),
    );

    let tokens: Vec<(&str, String, StatusCode)> = vec![
        ("no token at all", String::new(), BAD),
        ("rubbish", "rubbish".into(), WHO),
        ("two parts", "a.b".into(), WHO),
        ("four parts", format!("{good}.x"), WHO),
        ("alg none", unsigned("none"), WHO),
        ("alg None", unsigned("None"), WHO),
        ("alg NONE", unsigned("NONE"), WHO),
        ("alg nOnE", unsigned("nOnE"), WHO),
        ("alg empty", unsigned(""), WHO),
        ("no signature", format!("{}.{}.", parts[0], parts[1]), WHO),
        ("other claims under the signature", format!("{}.{globex}.{}", parts[0], parts[2]), WHO),
        ("a bit of the signature", format!("{}.{}.{}", parts[0], parts[1], &parts[2][1..]), WHO),
        ("HS256 with the public key", with_public_key(Algorithm::HS256), WHO),
        ("HS512 with the public key", with_public_key(Algorithm::HS512), WHO),
        ("another's key under our key's name", stranger.sign(&provider.claims(&acme)), WHO),
        ("a key of the other provider", scene.bound.key().sign(&provider.claims(&acme)), WHO),
        (
            "alg of another size",
            header("").replacen(
                &URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256","kid":"first"}"#),
                &URL_SAFE_NO_PAD.encode(r#"{"alg":"RS384","kid":"first"}"#),
                1,
            ),
            WHO,
        ),
        (
            "alg twice",
            key.sign_raw(r#"{"alg":"RS256","alg":"none","kid":"first"}"#, &claims_text),
            WHO,
        ),
        ("jku", header(r#","jku":"https://evil.example/keys""#), WHO),
        ("x5u", header(r#","x5u":"https://evil.example/cert""#), WHO),
        ("embedded jwk", header(r#","jwk":{"kty":"RSA","n":"AQAB","e":"AQAB"}"#), WHO),
        ("crit", header(r#","crit":["exp"]"#), WHO),
        ("b64", header(r#","crit":["b64"],"b64":false"#), WHO),
        ("a token of another type", header(r#","typ":"logout+jwt""#), WHO),
        (
            "kid with a path",
            SigningKey { id: "../../dev/null".into(), ..key.clone() }.sign(&provider.claims(&acme)),
            WHO,
        ),
        (
            "kid with SQL",
            SigningKey { id: "' or 1=1 --".into(), ..key.clone() }.sign(&provider.claims(&acme)),
            WHO,
        ),
        ("kid that is a number", key.sign_raw(r#"{"alg":"RS256","kid":1}"#, &claims_text), WHO),
        ("no iss", without("iss"), WHO),
        ("foreign iss", with(json!({ "iss": "https://evil.example" })), WHO),
        (
            "iss with a slash at its end",
            with(json!({ "iss": format!("{}/", provider.issuer) })),
            WHO,
        ),
        ("iss in capitals", with(json!({ "iss": provider.issuer.to_uppercase() })), WHO),
        ("iss as a list", with(json!({ "iss": [provider.issuer, "x"] })), WHO),
        ("no aud", without("aud"), WHO),
        ("foreign aud", with(json!({ "aud": "another-application" })), WHO),
        ("foreign auds", with(json!({ "aud": ["one", "two"] })), WHO),
        ("aud in capitals", with(json!({ "aud": AUDIENCE.to_uppercase() })), WHO),
        ("aud as an object", with(json!({ "aud": { AUDIENCE: true } })), WHO),
        ("no exp", without("exp"), WHO),
        ("expired", with(json!({ "exp": now - 60 })), WHO),
        ("exp as text", with(json!({ "exp": (now + 300).to_string() })), WHO),
        ("exp below zero", with(json!({ "exp": -1 })), WHO),
        ("not yet valid", with(json!({ "nbf": now + 120 })), WHO),
        ("nbf as text", with(json!({ "nbf": "yesterday" })), WHO),
        ("no sub", without("sub"), WHO),
        ("an empty sub", with(json!({ "sub": "" })), WHO),
        ("sub as a number", with(json!({ "sub": 1 })), WHO),
        ("a sub without end", with(json!({ "sub": "x".repeat(300) })), WHO),
        ("a claim twice", twice, WHO),
        ("oversized", with(json!({ "padding": "x".repeat(20_000) })), WHO),
        ("tenant as a list", named(json!(["acme"])), NO),
        ("tenant as an object", named(json!({ "slug": "acme" })), NO),
        ("tenant as a number", named(json!(1)), NO),
        ("tenant in capitals", named(json!("ACME")), NO),
        ("tenant with a look-alike", named(json!("аcme")), NO),
        ("tenant with a space", named(json!("acme ")), NO),
        ("tenant with a path", named(json!("acme/../globex")), NO),
        ("tenant with SQL", named(json!("acme'; drop table tenants; --")), NO),
        ("tenant with a NUL", named(json!("acme\u{0}")), NO),
        ("tenant that is reserved", named(json!("postgres")), NO),
        ("tenant that does not exist", named(json!("nobody")), NO),
        (
            "organisation that nobody is called",
            provider.token(&json!({ "org_name": "Nobody Inc." })),
            NO,
        ),
        ("organisation that would make a slug", provider.token(&json!({ "org_name": "ACME" })), NO),
        ("a bound issuer for another tenant", scene.bound.token(&acme), NO),
        ("another issuer for a bound tenant", named(json!("initech")), NO),
        ("an e-mail address that nobody has confirmed", mail("eve@acme.com", json!(false)), BAD),
        ("an address that is confirmed in words", mail("eve@acme.com", json!("true")), BAD),
        ("an address with two domains", mail("a@acme.com@evil.com", yes()), BAD),
        ("an address with a quoted domain", mail("\"a@acme.com\"@evil.com", yes()), BAD),
        ("an address with a comment", mail("a@evil.com(@acme.com)", yes()), BAD),
        ("an address with a NUL", mail("a@acme.com\u{0}.evil.com", yes()), BAD),
        ("an address under another domain", mail("a@acme.com.evil.com", yes()), BAD),
        ("an address whose domain ends alike", mail("a@evilacme.com", yes()), BAD),
        ("an address with a look-alike", mail("a@аcme.com", yes()), BAD),
        ("an address with an IDN look-alike", mail("a@xn--cme-8cd.com", yes()), BAD),
        ("addresses as a list", with_mail(json!(["a@acme.com"])), BAD),
        ("a confirmed address of a bound issuer", bound_mail("a@acme.com"), NO),
        ("no tenant named", plain.clone(), BAD),
        (
            "a token of ours that is none",
            "tenantry_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".into(),
            BAD,
        ),
    ];
    let (acme_mail, claims_globex) = (mail("a@acme.com", yes()), named(json!("globex")));
    let requests: Vec<(&str, &str, Headers<'_>, StatusCode)> = vec![
        ("no token, but a header", "", &[("X-Tenant", "acme")], WHO),
        ("no token, but a host", "", &[("Host", "acme.app.example")], WHO),
        ("header of a tenant that one is no member of", &plain, &[("X-Tenant", "acme")], NO),
        ("header of a tenant that does not exist", &plain, &[("X-Tenant", "nobody")], NO),
        ("host of a tenant that one is no member of", &plain, &[("Host", "acme.app.example")], NO),
        ("claim against header", &good, &[("X-Tenant", "globex")], NO),
        ("claim against host", &good, &[("Host", "globex.app.example")], NO),
        (
            "header against host",
            &plain,
            &[("X-Tenant", "globex"), ("Host", "acme.app.example")],
            NO,
        ),
        (
            "claim and header against host",
            &good,
            &[("X-Tenant", "acme"), ("Host", "globex.app.example")],
            NO,
        ),
        ("header twice", &good, &[("X-Tenant", "acme"), ("X-Tenant", "acme")], BAD),
        ("header with a comma", &good, &[("X-Tenant", "acme,globex")], BAD),
        ("header with a space in it", &good, &[("X-Tenant", "ac me")], BAD),
        ("header in capitals", &good, &[("X-Tenant", "Acme")], BAD),
        ("header that is empty", &good, &[("X-Tenant", "")], BAD),
        ("domain of a tenant that one is no member of", &plain, &[("Host", "acme.com")], NO),
        ("claim against domain", &claims_globex, &[("Host", "acme.com")], NO),
        ("header against domain", &plain, &[("X-Tenant", "globex"), ("Host", "ACME.com.:443")], NO),
        ("address against header", &acme_mail, &[("X-Tenant", "globex")], NO),
        ("address against host", &acme_mail, &[("Host", "globex.app.example")], NO),
        ("a domain under a tenant's", &plain, &[("Host", "www.acme.com")], BAD),
        ("an IDN look-alike of a tenant's domain", &plain, &[("Host", "xn--cme-8cd.com")], BAD),
        ("a look-alike of a tenant's domain", &plain, &[("Host", "acme.com.evil.com")], BAD),
        ("host of two labels", &good, &[("Host", "acme.globex.app.example")], BAD),
        ("host with a user", &good, &[("Host", "acme@globex.app.example")], BAD),
        ("bound issuer by header", &plain, &[("X-Tenant", "initech")], NO),
        (
            "our own token against itself",
            &scene.replica.token,
            &[("X-Tenant", "acme"), ("Host", "globex.app.example")],
            NO,
        ),
    ];
    assert!(tokens.len() + requests.len() >= 60);

    for (case, token, expected) in &tokens {
        let (status, body) = scene.ask(token, &[]).await;

        assert_eq!(status, *expected, "{case}: {body}");
        assert!(!body.to_string().contains("title"), "{case}: {body}");
    }
    for (case, token, headers, expected) in &requests {
        let (status, body) = scene.ask(token, headers).await;

        assert_eq!(status, *expected, "{case}: {body}");
    }
    // What a proxy that is not trusted claims has no say.
    let forged: Headers<'_> =
        &[("X-Forwarded-Host", "globex.app.example"), ("Forwarded", "host=globex.app.example")];
    assert_eq!(scene.ask(&good, forged).await.1["slug"], "acme");
    assert_eq!(scene.ask(&plain, forged).await.0, BAD);
}

#[tokio::test]
async fn an_unknown_and_a_foreign_tenant_are_refused_alike() {
    let scene = Scene::start().await;
    let plain = scene.provider.token(&json!({}));

    let foreign = scene.ask(&plain, &[("X-Tenant", "acme")]).await;
    let unknown = scene.ask(&plain, &[("X-Tenant", "nobody")]).await;

    assert_eq!(foreign, unknown);
    assert_eq!(foreign.1["error"], "Access denied");
    assert_eq!(foreign.1["detail"], "User does not belong to tenant");
}

#[tokio::test]
async fn a_membership_counts_until_it_is_taken_away() {
    let scene = Scene::start().await;
    let plain = scene.provider.token(&json!({}));
    let header: Headers<'_> = &[("X-Tenant", "globex")];
    assert_eq!(scene.ask(&plain, header).await.0, StatusCode::FORBIDDEN);

    let becomes = async |wanted: StatusCode| {
        let seen = async {
            while scene.ask(&plain, header).await.0 != wanted {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), seen).await.expect("it takes seconds");
    };

    scene.join("globex", MemberRole::Admin).await;
    becomes(StatusCode::OK).await;
    let user = User { issuer: &scene.provider.issuer, subject: "user-1" };
    scene.replica.fleet.catalog().remove_member(&slug("globex"), user, "test").await.unwrap();
    becomes(StatusCode::FORBIDDEN).await;
}

#[tokio::test]
async fn people_with_the_admin_claim_use_the_admin_api_but_no_tenants_data() {
    let scene = Scene::start().await;
    let provider = &scene.provider;
    let admin = provider.token(&json!({ "groups": ["staff", "platform"] }));
    let other = provider.token(&json!({ "groups": ["staff"] }));
    let forged =
        SigningKey::generate("first").sign(&provider.claims(&json!({ "groups": "platform" })));
    let list = async |token: &str| {
        let url = format!("{}/api/setup/tenants", scene.replica.admin);
        let request = scene.replica.client.get(url).bearer_auth(token);
        request.send().await.unwrap().status()
    };

    assert_eq!(list(&admin).await, StatusCode::OK);
    assert_eq!(list(&other).await, StatusCode::UNAUTHORIZED);
    assert_eq!(list(&forged).await, StatusCode::UNAUTHORIZED);
    assert_eq!(scene.ask(&admin, &[("X-Tenant", "acme")]).await.0, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn with_one_tenant_nobody_names_it_but_everybody_proves_who_they_are() {
    let provider = Provider::start().await;
    let verifier = TokenVerifier::new(vec![provider.settings(Duration::from_secs(10))]).unwrap();
    let identity = IdentitySettings { only: Some(slug("main")), ..IdentitySettings::default() };
    let replica = Replica::start_with(Setup { verifier, identity, ..Setup::default() }).await;
    replica.create("main").await;
    let ask = async |token: &str, tenant: Option<&str>| {
        let mut request = replica.client.get(format!("{}/api/tenant", replica.public));
        request = if token.is_empty() { request } else { request.bearer_auth(token) };
        request =
            tenant.into_iter().fold(request, |request, name| request.header("X-Tenant", name));
        request.send().await.unwrap().status()
    };
    let token = provider.token(&json!({ "team": "backend" }));

    assert_eq!(ask(&token, None).await, StatusCode::OK);
    assert_eq!(ask(&token, Some("main")).await, StatusCode::OK);
    assert_eq!(ask(&token, Some("other")).await, StatusCode::FORBIDDEN);
    assert_eq!(ask("", None).await, StatusCode::UNAUTHORIZED);
    assert_eq!(ask("rubbish", None).await, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_connection_to_read_cannot_write() {
    let scene = Scene::start().await;
    let router = scene.replica.fleet.router();

    let reading = router.read_only(&slug("acme")).await.unwrap();
    let writing = router.connection(&slug("acme")).await.unwrap();

    let insert = "insert into boards (title) values ('new')";
    let refused = reading.execute(insert, &[]).await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "25006");
    assert_eq!(writing.execute(insert, &[]).await.unwrap(), 1);
    assert_eq!(reading.query("select 1 from boards", &[]).await.unwrap().len(), 4);
}
