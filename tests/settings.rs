//! Settings of tenants: read and changed by API and command line, kept by the catalog, in force in the router.

use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tenantry::api::{self, Health, Monitoring, Plane};
use tenantry::catalog::CatalogError;
use tenantry::domains::Domains;
use tenantry::oidc::TokenVerifier;
use tenantry::resolve::{Administrators, IdentitySettings};
use tenantry::router::{RouterError, RouterSettings, TenantConnection, TenantRouter};
use tenantry::tenant::settings::{SettingsPath, SettingsRules};

use crate::harness::process::command;
use crate::harness::replica::{Replica, serve};
use crate::harness::{Fleet, eventually, slug};

const SETTINGS: &str = "/api/setup/tenants/acme/settings";
const SCHEMA: &str =
    r#"{ "type": "object", "properties": { "region": { "enum": ["eu", "us"] } } }"#;

/// Sets one setting, as the command line does.
async fn set(fleet: &Fleet, path: &str, value: Value) -> Result<(), CatalogError> {
    let path: SettingsPath = path.parse().unwrap();
    let (rules, acme) = (SettingsRules::default(), slug("acme"));
    let change = fleet.catalog().change_settings(&acme, "test", |before| {
        rules.change(before, |settings| path.set(settings, value))
    });
    change.await.map(drop)
}

async fn setting(connection: &TenantConnection, name: &str) -> String {
    connection.query_one("select current_setting($1)", &[&name]).await.unwrap().get(0)
}

async fn backend(router: &TenantRouter) -> i32 {
    let connection = router.connection(&slug("acme")).await.unwrap();
    connection.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0)
}

async fn run(fleet: &Fleet, environment: &[(&str, &str)], line: &[&str]) -> Output {
    let mut command = command(fleet);
    command.args(line).envs(environment.iter().copied());
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// What a command prints that ends well.
async fn done(fleet: &Fleet, line: &[&str]) -> String {
    let output = run(fleet, &[], line).await;
    assert!(output.status.success(), "{line:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What a command says that ends with this status.
async fn refused(
    fleet: &Fleet,
    environment: &[(&str, &str)],
    status: i32,
    line: &[&str],
) -> String {
    let output = run(fleet, environment, line).await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{line:?}: {said}");
    said
}

#[tokio::test]
async fn limits_are_in_force_and_follow_a_change() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let router = fleet.router();
    let old = router.connection(&slug("acme")).await.unwrap();
    assert_eq!(setting(&old, "statement_timeout").await, "0");

    set(
        &fleet,
        "limits",
        json!({ "statement_timeout": "30s", "idle_in_transaction_timeout": "5m" }),
    )
    .await
    .unwrap();

    eventually("the limits are in force", async || {
        let connection = router.connection(&slug("acme")).await.unwrap();
        setting(&connection, "statement_timeout").await == "30s"
    })
    .await;
    for connection in
        [router.connection(&slug("acme")).await, router.read_only(&slug("acme")).await]
    {
        let connection = connection.unwrap();
        assert_eq!(setting(&connection, "statement_timeout").await, "30s");
        assert_eq!(setting(&connection, "idle_in_transaction_session_timeout").await, "5min");
    }
    let reader = router.read_only(&slug("acme")).await.unwrap();
    assert_eq!(setting(&reader, "default_transaction_read_only").await, "on");
    assert_eq!(setting(&old, "statement_timeout").await, "0", "work in progress goes on");
    assert_eq!(
        fleet.tenant("acme").await.settings.to_value()["limits"]["statement_timeout"],
        "30s"
    );
}

#[tokio::test]
async fn a_statement_that_runs_too_long_is_ended_and_the_next_one_is_not() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    set(&fleet, "limits.statement_timeout", json!("1s")).await.unwrap();

    let connection = fleet.router().connection(&slug("acme")).await.unwrap();
    let slow = connection.query("select pg_sleep(60)", &[]).await.unwrap_err();

    assert_eq!(slow.code().unwrap().code(), "57014");
    connection.query("select 1", &[]).await.unwrap();
}

#[tokio::test]
async fn the_smaller_bound_on_connections_counts() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let bounded = |pool_max_size| {
        let settings = RouterSettings {
            pool_max_size,
            pool_wait_timeout: Duration::from_secs(3),
            ..RouterSettings::default()
        };
        TenantRouter::new(fleet.catalog().clone(), fleet.changes.clone(), settings)
    };
    let (wide, narrow) = (bounded(10), bounded(1));
    set(&fleet, "limits.connections", json!(2)).await.unwrap();

    for (router, most) in [(&wide, 2), (&narrow, 1)] {
        let mut held = Vec::new();
        for _ in 0..most {
            held.push(router.connection(&slug("acme")).await.unwrap());
        }
        let more = router.connection(&slug("acme")).await;
        assert!(matches!(more, Err(RouterError::Busy(_))), "{most}");
    }
    set(&fleet, "limits.connections", json!(3)).await.unwrap();
    eventually("there is room for a third", async || {
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(wide.connection(&slug("acme")).await);
        }
        held.iter().all(Result::is_ok)
    })
    .await;
}

#[tokio::test]
async fn a_change_of_branding_is_seen_and_closes_no_connection() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let router = fleet.router();
    let before = (backend(&router).await, fleet.tenant("acme").await.generation);

    set(&fleet, "branding.primary_color", json!("#123456")).await.unwrap();

    eventually("the new colour is seen", async || {
        let place = router.route(&slug("acme")).await.unwrap();
        place.tenant.settings.branding().and_then(|branding| branding.primary_color())
            == Some("#123456")
    })
    .await;
    assert_eq!((backend(&router).await, fleet.tenant("acme").await.generation), before);
    let connection = router.connection(&slug("acme")).await.unwrap();
    assert!(connection.tenant().settings.branding().is_some(), "handlers see it too");
}

#[tokio::test]
async fn changes_of_different_settings_all_survive() {
    let fleet = Arc::new(Fleet::start().await);
    fleet.create_tenant("acme").await;

    let mut changes = tokio::task::JoinSet::new();
    for number in 0..20 {
        let fleet = Arc::clone(&fleet);
        changes.spawn(async move {
            set(&fleet, &format!("application.n{number}"), json!(number)).await.unwrap();
        });
    }
    changes.join_all().await;
    tokio::join!(
        done(&fleet, &["tenant", "settings", "set", "acme", "limits.connections=5"]),
        done(&fleet, &["tenant", "settings", "set", "acme", "branding.display_name=Acme Corp"]),
    );

    let settings = fleet.tenant("acme").await.settings.to_value();
    assert_eq!(settings["application"].as_object().unwrap().len(), 20);
    assert_eq!(settings["limits"]["connections"], 5);
    assert_eq!(settings["branding"]["display_name"], "Acme Corp");
}

#[tokio::test]
async fn a_row_of_an_older_version_is_served_and_written_back() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let catalog = fleet.admin("tenantry").await;
    let old =
        r#"update tenants set settings = '{"colour": "red", "limits": {"connections": "many"}}'"#;
    catalog.batch_execute(old).await.unwrap();

    fleet.router().connection(&slug("acme")).await.unwrap();
    set(&fleet, "branding.primary_color", json!("#ff0000")).await.unwrap();

    let row = catalog.query_one("select settings from tenants", &[]).await.unwrap();
    assert_eq!(
        row.get::<_, Value>(0),
        json!({
            "branding": { "primary_color": "#ff0000" },
            "application": { "colour": "red", "limits": { "connections": "many" } },
        })
    );
}

#[tokio::test]
async fn settings_are_read_and_patched_over_http() {
    let replica = Replica::start().await;
    let all = json!({
        "branding": { "primary_color": "#123456" },
        "sso": { "issuer": "https://sso.acme.com" },
        "application": { "plan": "gold" },
    });
    let body = json!({ "slug": "acme", "settings": all });
    let (status, tenant) = replica.post("/api/setup/tenant?wait=true", body).await;
    assert_eq!((status, &tenant["settings"]), (StatusCode::CREATED, &all));
    assert_eq!(replica.get(SETTINGS).await, (StatusCode::OK, all));

    let patch =
        json!({ "branding": null, "limits": { "connections": 5 }, "application": { "a": 1 } });
    let (status, changed) = replica.call(Method::PATCH, SETTINGS, Some(patch)).await;

    assert_eq!(status, StatusCode::OK, "{changed}");
    assert_eq!(
        changed,
        json!({
            "sso": { "issuer": "https://sso.acme.com" },
            "limits": { "connections": 5 },
            "application": { "plan": "gold", "a": 1 },
        })
    );
    assert_eq!(replica.get(SETTINGS).await.1, changed);
    let whole = json!({ "settings": { "branding": { "display_name": "Acme" } } });
    let (_, tenant) = replica.call(Method::PATCH, "/api/setup/tenants/acme", Some(whole)).await;
    assert_eq!(tenant["settings"], json!({ "branding": { "display_name": "Acme" } }));

    let own = async || -> Value {
        let request = replica.client.get(format!("{}/api/tenant", replica.public));
        let request = request.bearer_auth(&replica.token).header("X-Tenant", "acme");
        request.send().await.unwrap().json().await.unwrap()
    };
    eventually("the tenant sees its branding", async || {
        own().await["branding"] == json!({ "display_name": "Acme" })
    })
    .await;
    assert!(own().await.get("limits").is_none() && own().await.get("sso").is_none());
}

#[tokio::test]
async fn wrong_settings_are_refused_with_their_path() {
    let replica = Replica::start().await;
    replica.create("acme").await;

    for (settings, words) in [
        (json!({ "branding": { "primary_color": "red" } }), "`branding.primary_color`: expected"),
        (json!({ "colour": "red" }), "`colour`: unknown field"),
        (json!({ "limits": { "connections": 0 } }), "`limits.connections`: expected"),
        (
            json!({ "application": { "a": "\u{0}" } }),
            "`application.a`: expected text without a NUL",
        ),
        (json!({ "sso": { "audience": "x" } }), "`sso`: missing field `issuer`"),
        (json!([]), "settings are a JSON object"),
    ] {
        let create = json!({ "slug": "globex", "settings": settings });
        let update = json!({ "settings": settings });
        for (status, error) in [
            replica.post("/api/setup/tenant", create).await,
            replica.call(Method::PATCH, "/api/setup/tenants/acme", Some(update)).await,
            replica.call(Method::PATCH, SETTINGS, Some(settings.clone())).await,
        ] {
            assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{settings}: {error}");
            assert_eq!(error["code"], "invalid_settings");
            assert!(error["detail"].as_str().unwrap().starts_with(words), "{error}");
        }
    }
    assert_eq!(replica.get(SETTINGS).await.1, json!({}));
    let nobody = "/api/setup/tenants/nobody/settings";
    assert_eq!(replica.get(nobody).await.0, StatusCode::NOT_FOUND);
    let (status, _) = replica.call(Method::PATCH, nobody, Some(json!({}))).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (_, description) = replica.get("/openapi.json").await;
    let schemas = &description["components"]["schemas"];
    assert!(schemas["Limits"]["properties"]["statement_timeout"].is_object(), "{schemas}");
}

#[tokio::test]
async fn the_operators_schema_for_compliance_is_kept() {
    let replica = Replica::start().await;
    replica.create("acme").await;
    let mut environment = replica.fleet.environment.clone();
    environment.limits.settings = SettingsRules::with_compliance_schema(SCHEMA).unwrap();
    let nobody = TokenVerifier::new(Vec::new()).unwrap();
    let (catalog, nobodys) = (replica.fleet.catalog().clone(), IdentitySettings::default());
    let administrators = Administrators::new(catalog.clone(), nobody, &nobodys, None);
    let domains = Domains::new(catalog.clone(), None, None);
    let changes = replica.fleet.changes.clone();
    let health = Health::new(catalog, Plane::Control(Box::new(environment.clone())), true);
    let monitoring = Monitoring { administrators, exporter: None, health };
    let routes = api::control_plane(environment, changes, domains, monitoring);
    let strict = serve(routes, &replica.shutdown).await;
    let patch = async |region: &str| {
        let request = replica.client.patch(format!("{strict}{SETTINGS}"));
        let request = request.bearer_auth(&replica.token);
        let answer = request.json(&json!({ "compliance": { "region": region } })).send().await;
        answer.unwrap()
    };

    assert_eq!(patch("eu").await.status(), StatusCode::OK);
    let refused = patch("mars").await;

    assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let error: Value = refused.json().await.unwrap();
    assert!(error["detail"].as_str().unwrap().starts_with("`compliance.region`: "), "{error}");
    assert_eq!(replica.get(SETTINGS).await.1["compliance"]["region"], "eu");
}

#[tokio::test]
async fn a_schema_file_is_read_at_the_start() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("compliance.json");
    let with_schema = [("TENANTRY_TENANT_COMPLIANCE_SCHEMA", path.to_str().unwrap())];
    let set = ["tenant", "settings", "set", "acme", "compliance.region=mars"];

    for bad in [None, Some("{"), Some(r#"{"type": 5}"#), Some(r#"{"$ref": "https://x.example/y"}"#)]
    {
        if let Some(text) = bad {
            std::fs::write(&path, text).unwrap();
        }
        let said = refused(&fleet, &with_schema, 2, &["serve"]).await;
        assert!(
            said.contains("TENANTRY_TENANT_COMPLIANCE_SCHEMA")
                && said.contains("is no JSON Schema file"),
            "{said}"
        );
    }
    std::fs::write(&path, SCHEMA).unwrap();
    let said = refused(&fleet, &with_schema, 2, &set).await;
    assert!(said.contains("`compliance.region`"), "{said}");
    done(&fleet, &set).await;
    assert!(
        run(&fleet, &with_schema, &["tenant", "settings", "set", "acme", "limits.connections=5"])
            .await
            .status
            .success()
    );
}

#[tokio::test]
async fn the_command_line_gets_and_sets() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let get = async |path: &str| done(&fleet, &["tenant", "settings", "get", "acme", path]).await;
    assert!(done(&fleet, &["tenant", "settings", "get", "acme"]).await.starts_with("No settings."));

    let line = ["tenant", "settings", "set", "acme", "sso.issuer=https://sso.acme.com"];
    done(
        &fleet,
        &[&line[..], &["limits.connections=5", "application.theme={\"dark\": true}"]].concat(),
    )
    .await;

    assert_eq!(get("sso.issuer").await, "https://sso.acme.com\n");
    assert_eq!(get("limits.connections").await, "5\n");
    assert!(get("application").await.contains("application.theme.dark  true"));
    let json = ["tenant", "settings", "get", "acme", "--output-format", "json"];
    let whole: Value = serde_json::from_str(&done(&fleet, &json).await).unwrap();
    assert_eq!(whole, fleet.tenant("acme").await.settings.to_value());
    let line =
        ["tenant", "settings", "set", "acme", "--unset", "sso", "--unset", "application.theme"];
    let after = done(&fleet, &[&line[..], &["--output-format", "json"]].concat()).await;
    let after: Value = serde_json::from_str(&after).unwrap();
    assert_eq!(after, json!({ "limits": { "connections": 5 }, "application": {} }));
}

#[tokio::test]
async fn the_command_line_refuses_what_makes_no_sense() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;

    for (line, status, words) in [
        ("set acme sso.isuer=https://x.example", 2, "did you mean `sso.issuer`?"),
        ("set acme issuer=https://x.example", 2, "did you mean `sso.issuer`?"),
        ("set acme mood=good", 2, "there are branding"),
        ("set acme limits.connections", 2, "PATH=VALUE"),
        ("set acme", 2, "PATH=VALUE"),
        ("set acme --unset brandin", 2, "did you mean `branding`?"),
        ("set acme branding.primary_color=red", 2, "a colour such as"),
        ("set acme limits.connections=0", 2, "1 to 1000"),
        ("set acme sso.audience=x", 2, "missing field `issuer`"),
        ("set nobody limits.connections=5", 1, "no tenant `nobody`"),
        ("get acme sso.isuer", 2, "did you mean `sso.issuer`?"),
        ("get acme sso.issuer", 1, "settings set SLUG sso.issuer=VALUE"),
    ] {
        let line: Vec<&str> = ["tenant", "settings"].into_iter().chain(line.split(' ')).collect();
        let said = refused(&fleet, &[], status, &line).await;
        assert!(said.contains(words) && !said.contains("panicked"), "{line:?}: {said}");
    }
    assert_eq!(fleet.tenant("acme").await.settings.to_value(), json!({}));
}

#[tokio::test]
async fn the_audit_log_has_the_settings_that_a_tenant_is_born_with_and_no_change_that_was_none() {
    let replica = Replica::start().await;
    let sso = json!({ "issuer": "https://sso.acme.com" });
    let new = json!({ "slug": "acme", "settings": { "sso": sso } });
    assert_eq!(replica.post("/api/setup/tenant?wait=true", new).await.0, StatusCode::CREATED);
    replica.create("globex").await;

    let (path, name) = ("/api/setup/tenants/nobody", json!({ "name": "Somebody" }));
    let (status, _) = replica.call(Method::PATCH, path, Some(name)).await;

    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(replica.get("/api/audit-log?action=name").await.1["events"], json!([]));
    let (_, log) = replica.get("/api/audit-log?action=settings").await;
    let events = log["events"].as_array().unwrap();
    assert_eq!(events.len(), 1, "{log}");
    assert_eq!(
        (&events[0]["action"], &events[0]["actor"]),
        (&json!("settings.changed"), &json!("token:test"))
    );
    assert_eq!(events[0]["detail"]["sso"], json!({ "before": null, "after": sso }));
}
