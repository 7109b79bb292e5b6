//! The admin API and the public endpoints, over real sockets.

use reqwest::{Method, StatusCode};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tenantry::catalog::tokens::Scope;

use crate::harness::eventually;
use crate::harness::replica::Replica;

#[tokio::test]
async fn a_tenant_lives_its_whole_life_over_http() {
    let replica = Replica::start().await;

    let tenant = replica.create("acme").await;
    assert_eq!(tenant["status"], "active");
    let (status, operation) = replica.post("/api/setup/tenants/acme/backup", Value::Null).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    replica.settle(&operation).await;
    let (_, backups) = replica.get("/api/setup/tenants/acme/backups").await;
    assert_eq!(backups["backups"].as_array().unwrap().len(), 1);

    let (_, operation) =
        replica.post("/api/setup/tenants/acme/suspend", json!({ "reason": "unpaid" })).await;
    replica.settle(&operation).await;
    let (_, tenant) = replica.get("/api/setup/tenants/acme").await;
    assert_eq!(
        (&tenant["status"], &tenant["suspended_reason"]),
        (&json!("suspended"), &json!("unpaid"))
    );
    let (_, operation) = replica.post("/api/setup/tenants/acme/resume", Value::Null).await;
    replica.settle(&operation).await;

    let (_, operation) =
        replica.post("/api/setup/tenants/acme/restore", json!({ "latest": true })).await;
    replica.settle(&operation).await;
    let update =
        json!({ "name": "Acme Corporation", "settings": { "application": { "plan": "gold" } } });
    let (_, tenant) = replica.call(Method::PATCH, "/api/setup/tenants/acme", Some(update)).await;
    assert_eq!(
        (&tenant["name"], &tenant["settings"]["application"]["plan"]),
        (&json!("Acme Corporation"), &json!("gold"))
    );

    let (status, operation) = replica.call(Method::DELETE, "/api/setup/tenants/acme", None).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    replica.settle(&operation).await;
    assert_eq!(replica.get("/api/setup/tenants/acme").await.0, StatusCode::NOT_FOUND);
    replica.fleet.assert_healthy().await;
}

#[tokio::test]
async fn of_many_creates_of_one_slug_one_wins() {
    let replica = std::sync::Arc::new(Replica::start().await);

    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let replica = std::sync::Arc::clone(&replica);
        callers.spawn(async move {
            replica.post("/api/setup/tenant?wait=true", json!({ "slug": "acme" })).await
        });
    }
    let answers = callers.join_all().await;

    let count = |wanted: StatusCode| answers.iter().filter(|(status, _)| *status == wanted).count();
    assert_eq!((count(StatusCode::CREATED), count(StatusCode::CONFLICT)), (1, 19), "{answers:?}");
    let (_, lost) = answers.iter().find(|(status, _)| *status == StatusCode::CONFLICT).unwrap();
    assert_eq!(lost["code"], "exists");
}

#[tokio::test]
async fn the_same_idempotency_key_finds_the_same_operation() {
    let replica = Replica::start().await;
    let send = async || -> Value {
        let request = replica
            .client
            .post(format!("{}/api/setup/tenant", replica.admin))
            .bearer_auth(&replica.token)
            .header("Idempotency-Key", "order-7")
            .json(&json!({ "slug": "acme" }));
        request.send().await.unwrap().json().await.unwrap()
    };

    let (first, second) = (send().await, send().await);

    assert!(first["id"].is_string(), "{first}");
    assert_eq!(first["id"], second["id"]);
}

#[tokio::test]
async fn an_idempotency_key_is_for_one_request() {
    let replica = Replica::start().await;
    replica.create("acme").await;
    let delete = async |query: &str| {
        let url = format!("{}/api/setup/tenants/acme{query}", replica.admin);
        let request = replica.client.delete(url).bearer_auth(&replica.token);
        request.header("Idempotency-Key", "once").send().await.unwrap()
    };
    let unheard = replica
        .client
        .delete(format!("{}/api/setup/tenants/acme", replica.admin))
        .bearer_auth(&replica.token)
        .json(&json!({ "keep_backups": true }));
    assert_eq!(unheard.send().await.unwrap().status(), StatusCode::UNPROCESSABLE_ENTITY);
    let first = delete("?keep_backups=true").await;
    assert_eq!(first.status(), StatusCode::ACCEPTED);
    replica.settle(&first.json::<Value>().await.unwrap()).await;

    let (again, another) = (delete("?keep_backups=true").await, delete("").await);

    assert_eq!(again.status(), StatusCode::ACCEPTED);
    assert_eq!(another.status(), StatusCode::CONFLICT, "it asks for what was not done");
}

#[tokio::test]
async fn migrations_run_over_http() {
    let replica = Replica::start().await;
    replica.create("acme").await;
    replica.fleet.add_migration("V2__labels.sql", "create table labels (id bigint primary key);");

    let (status, started) = replica.call(Method::POST, "/api/migrations", None).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{started}");
    let run = format!("/api/migrations/{}", started["batch_id"].as_str().unwrap());
    let (_, shown) = replica.get(&run).await;
    replica.settle(&shown["operations"][0]).await;

    let (_, status) = replica.get("/api/migrations").await;
    assert_eq!(
        (&status["target"], &status["behind"], &status["outdated"]),
        (&json!(2), &json!(0), &json!(0))
    );
    let current = json!({ "version": 2, "tenants": 1, "status": "current", "drifted": 0 });
    assert_eq!((&status["versions"], &status["unchecked"]), (&json!([current]), &json!(1)));
    let (_, detail) = replica.get("/api/migrations?detail=true").await;
    let acme = json!({ "tenant_slug": "acme", "schema_version": 2, "status": "current" });
    assert_eq!(detail["tenants"], json!([acme]));
}

#[tokio::test]
async fn nobody_comes_in_without_a_token_that_allows_it() {
    let replica = Replica::start().await;
    let narrow =
        replica.fleet.catalog().create_token("narrow", &[Scope::TenantsRead]).await.unwrap();
    let revoked = replica.fleet.catalog().create_token("revoked", &Scope::ALL).await.unwrap();
    replica.fleet.catalog().revoke_token("revoked").await.unwrap();
    let ask = async |token: Option<&str>, method: Method, path: &str| {
        let request = replica.client.request(method, format!("{}{path}", replica.admin));
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        request.send().await.unwrap().status()
    };

    for path in [
        "/api/setup/tenants",
        "/api/operations",
        "/api/backups",
        "/api/servers",
        "/metrics",
        "/api/migrations",
    ] {
        for token in [None, Some("tenantry_guess"), Some(revoked.expose_secret())] {
            assert_eq!(
                ask(token, Method::GET, path).await,
                StatusCode::UNAUTHORIZED,
                "{path} {token:?}"
            );
        }
    }
    let narrow = Some(narrow.expose_secret());
    assert_eq!(ask(narrow, Method::GET, "/api/setup/tenants").await, StatusCode::OK);
    for (method, path) in [
        (Method::DELETE, "/api/setup/tenants/acme"),
        (Method::POST, "/api/setup/tenants/acme/backup"),
        (Method::GET, "/api/servers"),
        (Method::GET, "/metrics"),
    ] {
        assert_eq!(ask(narrow, method, path).await, StatusCode::FORBIDDEN, "{path}");
    }
}

#[tokio::test]
async fn bad_input_gets_one_clear_error() {
    let replica = Replica::start().await;
    replica.create("acme").await;
    let long = "a".repeat(51);
    for bad in [
        "",
        &long,
        "Acme",
        "-acme",
        "acme-",
        "a_b",
        "../x",
        "acme\";drop database x;--",
        "postgres",
        "template1",
        "tenantry",
        "admin",
        "аcme",
        "acme\u{0}",
    ] {
        let (status, error) = replica.post("/api/setup/tenant", json!({ "slug": bad })).await;
        assert_eq!(
            (status, &error["code"]),
            (StatusCode::UNPROCESSABLE_ENTITY, &json!("invalid_slug")),
            "{bad:?}"
        );
    }
    for (path, body, status) in [
        ("/api/setup/tenant", json!({}), 422),
        ("/api/setup/tenant", json!({ "slug": "x", "colour": 1 }), 422),
        ("/api/setup/tenant", json!({ "slug": "x", "name": "" }), 422),
        ("/api/setup/tenant", json!({ "slug": "x", "settings": [1] }), 422),
        ("/api/setup/tenant", json!({ "slug": "x", "server": "nowhere" }), 404),
        ("/api/setup/tenant", json!({ "slug": "acme" }), 409),
        ("/api/setup/tenants/acme/restore", json!({}), 422),
        (
            "/api/setup/tenants/acme/restore",
            json!({ "latest": true, "at": "2026-03-01T14:05:00Z" }),
            422,
        ),
        (
            "/api/setup/tenants/acme/restore",
            json!({ "latest": true, "archive_of": "default" }),
            422,
        ),
        ("/api/setup/tenants/acme/restore", json!({ "latest": true }), 404),
        ("/api/setup/tenants/nobody/suspend", json!({}), 404),
        ("/api/operations/7/retry", json!({}), 404),
        ("/api/nothing", json!({}), 404),
        ("/api/setup/tenants", json!({}), 405),
    ] {
        let (answered, error) = replica.post(path, body.clone()).await;
        assert_eq!(answered.as_u16(), status, "{path} {body}: {error}");
        for field in ["error", "detail", "code"] {
            assert!(error[field].as_str().is_some_and(|text| !text.is_empty()), "{path}: {error}");
        }
        assert!(!error.to_string().contains("SQLSTATE"), "{error}");
    }
    for query in ["limit=0", "limit=501", "after=Acme", "colour=1", "sort=age", "status=sad"] {
        let (status, _) = replica.get(&format!("/api/setup/tenants?{query}")).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{query}");
    }
}

#[tokio::test]
async fn pages_of_tenants_join_without_gap() {
    let replica = Replica::start().await;
    for name in ["a1", "a2", "a3", "a4", "a5"] {
        replica.post("/api/setup/tenant", json!({ "slug": name })).await;
    }

    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let (_, page) = replica.get(&format!("/api/setup/tenants?limit=2{after}")).await;
        seen.extend(
            page["tenants"].as_array().unwrap().iter().map(|tenant| tenant["slug"].clone()),
        );
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }

    assert_eq!(seen, ["a1", "a2", "a3", "a4", "a5"]);
}

#[tokio::test]
async fn a_request_names_its_tenant_by_header() {
    let replica = Replica::start().await;
    replica.create("acme").await;
    let weak = replica.fleet.catalog().create_token("weak", &[Scope::TenantsRead]).await.unwrap();
    let ask = async |token: &str, header: Option<&str>| {
        let request =
            replica.client.get(format!("{}/api/tenant", replica.public)).bearer_auth(token);
        let request = match header {
            Some(value) => request.header("X-Tenant", value),
            None => request,
        };
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json::<Value>().await.unwrap())
    };

    let (status, tenant) = ask(&replica.token, Some("acme")).await;
    assert_eq!(
        (status, &tenant["slug"], &tenant["resolved_by"]),
        (200, &json!("acme"), &json!("header"))
    );

    let (status, error) = ask(&replica.token, None).await;
    assert_eq!((status, &error["error"]), (400, &json!("Missing X-Tenant header")));
    let (status, error) = ask(&replica.token, Some("Acme")).await;
    assert_eq!((status, &error["error"]), (400, &json!("Invalid X-Tenant header format")));
    let unknown = ask(&replica.token, Some("globex")).await;
    let foreign = ask(weak.expose_secret(), Some("acme")).await;
    assert_eq!(unknown.0, 403);
    assert_eq!(unknown, foreign, "an unknown and a foreign tenant look the same");
    assert_eq!(ask("tenantry_guess", Some("acme")).await.0, 401);
}

/// A tenant's provider may have an address of 2000 bytes, and subjects only what can be printed.
#[tokio::test]
async fn whoever_a_token_can_name_can_be_a_member_and_nobody_else() {
    let replica = Replica::start().await;
    replica.create("acme").await;
    let issuer = format!("https://sso.acme.com/{}", "x".repeat(1979));
    let add = async |issuer: &str, subject: &str| {
        let body = json!({ "issuer": issuer, "subject": subject, "role": "member" });
        replica.post("/api/setup/tenants/acme/members", body).await.0
    };

    assert_eq!(add(&issuer, "ana").await, StatusCode::OK);
    for (issuer, subject) in
        [(format!("{issuer}x"), "ana"), (issuer.clone(), "a\u{1b}[2Jna"), (issuer, "a\u{0}na")]
    {
        let status = add(&issuer, subject).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{subject:?}");
    }
}

#[tokio::test]
async fn health_tells_what_is_wrong() {
    let replica = Replica::start().await;
    let get = async |path: &str| {
        let response =
            replica.client.get(format!("{}{path}", replica.public)).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    replica.create("acme").await;

    assert_eq!(get("/livez").await.0, 200);
    assert_eq!(get("/readyz").await.0, 200);
    let health: Value = serde_json::from_str(&get("/health").await.1).unwrap();
    assert_eq!((&health["status"], &health["tenant_count"]), (&json!("healthy"), &json!(1)));

    replica.fleet.postgres.kill();
    eventually("it is not ready", async || get("/readyz").await.0 == 503).await;
    assert_eq!(get("/livez").await.0, 200);
    let health: Value = serde_json::from_str(&get("/health").await.1).unwrap();
    assert_eq!((&health["status"], &health["catalog"]), (&json!("degraded"), &json!("down")));
}

#[tokio::test]
async fn the_api_describes_itself_and_answers_with_an_id() {
    let replica = Replica::start().await;

    let response = replica
        .client
        .get(format!("{}/openapi.json", replica.admin))
        .header("X-Request-Id", "from-outside-1")
        .send()
        .await
        .unwrap();

    assert_eq!(response.headers()["x-request-id"], "from-outside-1");
    let description: Value = response.json().await.unwrap();
    assert!(description["paths"]["/api/setup/tenant"]["post"].is_object());
    let bad = replica
        .client
        .get(format!("{}/livez", replica.admin))
        .header("X-Request-Id", "a b\"c")
        .send()
        .await
        .unwrap();
    assert_ne!(bad.headers()["x-request-id"], "a b\"c");
}
