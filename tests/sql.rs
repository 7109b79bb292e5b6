//! SQL over HTTP: what comes back, what is refused, and what it costs nobody else.

use std::sync::Arc;
use std::time::Duration;

use axum::http::request::Parts;
use futures_util::future::BoxFuture;
use reqwest::{Client, RequestBuilder, StatusCode};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tenantry::catalog::tokens::Scope;
use tenantry::oidc::TokenVerifier;
use tenantry::resolve::{Access, IdentityResolver, IdentitySettings, ResolveError, Resolved};
use tenantry::router::{RouterSettings, TenantRouter};
use tenantry::sql::SqlSettings;
use tenantry::{Tenancy, TenantResolver, api};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::harness::replica::serve;
use crate::harness::{BY, Fleet, eventually, router_settings, slug};

pub mod hostile;
mod neon;
mod passwords;
mod sessions;
mod statements;

/// A data plane of one's own, with the tenants `acme` and `globex`.
pub struct Sql {
    pub fleet: Fleet,
    pub url: String,
    pub client: Client,
    pub token: String,
    _stop: DropGuard,
}

/// A request with this header comes from somebody who may only read.
pub const READER: &str = "x-reader";

/// The usual resolver, beside which the test decides who may write.
struct Readers(IdentityResolver);

impl TenantResolver for Readers {
    fn resolve<'a>(&'a self, parts: &'a Parts) -> BoxFuture<'a, Result<Resolved, ResolveError>> {
        Box::pin(async {
            let mut resolved = self.0.resolve(parts).await?;
            if parts.headers.contains_key(READER) {
                resolved.access = Access::ReadOnly;
            }
            Ok(resolved)
        })
    }
}

/// What a caller hears.
#[derive(Debug)]
pub struct Heard {
    pub status: StatusCode,
    pub body: Value,
}

impl Sql {
    pub async fn start() -> Self {
        Self::start_with(SqlSettings::default(), router_settings()).await
    }

    pub async fn start_with(sql: SqlSettings, router: RouterSettings) -> Self {
        let fleet = Fleet::start().await;
        for name in ["acme", "globex"] {
            fleet.create_tenant(name).await;
        }
        let token = fleet.catalog().create_token("test", &Scope::ALL).await.unwrap();
        let router = TenantRouter::new(fleet.catalog().clone(), fleet.changes.clone(), router);
        let verifier = TokenVerifier::new(Vec::new()).unwrap();
        let identity =
            IdentityResolver::new(fleet.catalog().clone(), verifier, IdentitySettings::default());
        let tenancy = Tenancy { router, resolver: Arc::new(Readers(identity)) };
        let origins = ["https://app.example.com".parse().unwrap()];
        let served = api::data_plane(tenancy, fleet.catalog().clone(), None, &origins, sql);
        let stop = CancellationToken::new();
        let url = format!("{}/sql", serve(served, &stop).await);
        let token = token.expose_secret().to_owned();
        Self { fleet, url, client: Client::new(), token, _stop: stop.drop_guard() }
    }

    /// A request for a tenant, without its body.
    pub fn request(&self, tenant: &str) -> RequestBuilder {
        self.client.post(&self.url).bearer_auth(&self.token).header("X-Tenant", tenant)
    }

    /// Asks without any header of the client's.
    pub async fn ask(&self, tenant: &str, body: Value) -> Heard {
        hear(self.request(tenant).json(&body)).await
    }

    /// One query of `acme`.
    pub async fn query(&self, query: &str) -> Heard {
        self.ask("acme", json!({ "query": query })).await
    }

    /// Asks as the client does.
    pub async fn ask_as_client(&self, tenant: &str, body: Value) -> Heard {
        let string = format!("postgresql://user:secret@localhost/tenant_{tenant}");
        let request = self.request(tenant).header("Neon-Connection-String", string);
        let request =
            request.header("Neon-Raw-Text-Output", "true").header("Neon-Array-Mode", "true");
        hear(request.json(&body)).await
    }

    /// How many sessions of a tenant there are in PostgreSQL.
    pub async fn backends(&self, tenant: &str) -> i64 {
        self.count(&format!("usename = 'tenant_{tenant}'")).await
    }

    /// How many sessions there are of which something holds.
    pub async fn count(&self, condition: &str) -> i64 {
        let admin = self.fleet.admin("postgres").await;
        let question = format!("select count(*) from pg_stat_activity where {condition}");
        admin.query_one(&question, &[]).await.unwrap().get(0)
    }
}

impl Heard {
    pub fn ok(self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.body);
        self.body
    }

    /// The SQLSTATE, or the stable code of ours.
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_else(|| panic!("{self:?}"))
    }
}

pub async fn hear(request: RequestBuilder) -> Heard {
    let answer = request.send().await.unwrap();
    let status = answer.status();
    let text = answer.text().await.unwrap();
    let body = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status}: no JSON: {text}"));
    Heard { status, body }
}

#[tokio::test]
async fn rows_are_objects_of_plain_json_unless_the_caller_wants_text() {
    let sql = Sql::start().await;
    let query =
        "select $1::int as a, 'x' as b, 1.5::float8 as c, true as d, '{\"k\": [1]}'::jsonb as e,
                 array[1, null] as f, null as g, 9007199254740993 as h, 'last' as a";
    let body = json!({ "query": query, "params": [7] });

    let plain = sql.ask("acme", body.clone()).await.ok();
    let text = sql.ask_as_client("acme", body).await.ok();

    let row = json!({ "b": "x", "c": 1.5, "d": true, "e": { "k": [1] }, "f": [1, null], "g": null,
                      "h": "9007199254740993", "a": "last" });
    assert_eq!(plain["rows"], json!([row]));
    assert_eq!((&plain["command"], &plain["rowCount"]), (&json!("SELECT"), &json!(1)));
    assert_eq!(plain["rowAsArray"], false);
    let row =
        json!(["7", "x", "1.5", "t", "{\"k\": [1]}", "{1,NULL}", null, "9007199254740993", "last"]);
    assert_eq!((&text["rows"], &text["rowAsArray"]), (&json!([row]), &json!(true)));
    assert_eq!(
        text["fields"][0],
        json!({ "name": "a", "dataTypeID": 23, "tableID": 0, "columnID": 0, "dataTypeSize": 4,
                "dataTypeModifier": -1, "format": "text" })
    );
}

#[tokio::test]
async fn each_tenant_is_answered_from_its_own_database() {
    let sql = Sql::start().await;
    let ask = |tenant: &'static str| {
        sql.ask(tenant, json!({ "query": "select current_database() as d" }))
    };

    for _ in 0..20 {
        let (acme, globex) = tokio::join!(ask("acme"), ask("globex"));

        assert_eq!(acme.ok()["rows"][0]["d"], "tenant_acme");
        assert_eq!(globex.ok()["rows"][0]["d"], "tenant_globex");
    }
}

#[tokio::test]
async fn an_error_of_postgresql_comes_with_all_its_fields() {
    let sql = Sql::start().await;
    let admin = sql.fleet.admin("tenant_acme").await;
    admin
        .batch_execute(
            "create table t (id int constraint one primary key); grant all on t to tenantry_app",
        )
        .await
        .unwrap();
    sql.query("insert into t values (1)").await.ok();

    let twice = sql.query("insert into t values (1)").await;
    let syntax = sql.query("selec 1").await;

    assert_eq!(twice.status, StatusCode::BAD_REQUEST);
    let of = |name: &str| twice.body[name].as_str().unwrap_or_default().to_owned();
    assert_eq!(
        (of("code"), of("severity"), of("table")),
        ("23505".into(), "ERROR".into(), "t".into())
    );
    assert_eq!((of("schema"), of("constraint")), ("public".into(), "one".into()));
    assert!(of("detail").contains("(id)=(1)") && !of("file").is_empty() && !of("line").is_empty());
    assert_eq!(twice.body["dataType"], Value::Null);
    assert_eq!((syntax.code(), &syntax.body["position"]), ("42601", &json!("1")));
}

#[tokio::test]
async fn a_batch_happens_whole_or_not_at_all() {
    let sql = Sql::start().await;
    let insert = |title: &str| json!({ "query": "insert into boards (title) values ($1)", "params": [title] });

    let good =
        json!({ "queries": [insert("a"), { "query": "select count(*)::int as n from boards" }] });
    let good = sql.ask("acme", good).await.ok();
    let bad = json!({ "queries": [insert("b"), { "query": "select 1 / 0" }, insert("c")] });
    let bad = sql.ask("acme", bad).await;

    assert_eq!(good["results"][0]["command"], "INSERT");
    assert_eq!(good["results"][1]["rows"], json!([{ "n": 1 }]));
    assert_eq!(bad.code(), "22012");
    assert_eq!(sql.fleet.count("acme", "boards").await, 1);
    assert_eq!(sql.ask("acme", json!({ "queries": [] })).await.ok(), json!({ "results": [] }));
}

#[tokio::test]
async fn a_batch_cannot_leave_its_transaction() {
    let sql = Sql::start().await;
    let insert = json!({ "query": "insert into boards (title) values ('kept?')" });
    for way_out in [
        "commit",
        "/* c */ end",
        "; rollback",
        "do $$ begin commit; end $$",
        "prepare transaction 'x'",
    ] {
        let queries =
            json!({ "queries": [insert, { "query": way_out }, { "query": "select 1 / 0" }] });

        let heard = sql.ask("acme", queries).await;

        assert_eq!(heard.code(), "2D000", "{way_out}: {heard:?}");
    }
    assert_eq!(sql.fleet.count("acme", "boards").await, 0);
}

#[tokio::test]
async fn what_needs_a_conversation_is_refused() {
    let sql = Sql::start().await;
    for (query, code) in [
        ("copy boards to stdout", "0A000"),
        ("/* x */ copy boards from stdin", "0A000"),
        ("listen news", "0A000"),
        ("begin", "2D000"),
        ("select 1; select 2", "42601"),
        ("select 'a\0b'", "22021"),
    ] {
        assert_eq!(sql.query(query).await.code(), code, "{query}");
    }
    assert_eq!(sql.query("").await.ok()["rows"], json!([]));
}

#[tokio::test]
async fn rubbish_gets_an_answer_that_helps_and_repeats_nothing() {
    let sql = Sql::start().await;
    for body in ["", "secret", "{\"query\": 5}", "{\"secret\": true}", "\u{0}", "[[[["] {
        let heard = hear(sql.request("acme").body(body)).await;

        assert_eq!(
            (heard.status, heard.code()),
            (StatusCode::BAD_REQUEST, "body_malformed"),
            "{body}"
        );
        assert!(!heard.body.to_string().contains("secret"));
    }
    let large = hear(sql.request("acme").body("x".repeat(2 << 20))).await;
    assert_eq!((large.status, large.code()), (StatusCode::PAYLOAD_TOO_LARGE, "request_too_large"));
    let deep = format!("{}{}", "{\"a\":".repeat(50_000), "1".to_owned() + &"}".repeat(50_000));
    let body = format!("{{\"query\": \"select $1::jsonb\", \"params\": [{deep}]}}");
    assert_eq!(hear(sql.request("acme").body(body)).await.code(), "54001");
    let nobody = hear(sql.client.post(&sql.url).header("X-Tenant", "acme").body("{}")).await;
    assert_eq!(nobody.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn ten_thousand_parameters_are_fine_and_too_many_are_refused() {
    let sql = Sql::start().await;
    let many = |number: usize| {
        let holes: Vec<String> = (1..=number).map(|number| format!("${number}::int")).collect();
        let query = format!("select array_length(array[{}], 1) as n", holes.join(","));
        json!({ "query": query, "params": vec![1; number] })
    };

    assert_eq!(sql.ask("acme", many(10_000)).await.ok()["rows"][0]["n"], 10_000);
    let too_many = json!({ "query": "select 1", "params": vec![1; 70_000] });
    assert_eq!(sql.ask("acme", too_many).await.code(), "08P01");
    let missing = json!({ "query": "select $1::int", "params": [] });
    assert_eq!(sql.ask("acme", missing).await.code(), "08P01");
    assert_eq!(sql.query("select 1 as n").await.ok()["rows"][0]["n"], 1);
}

#[tokio::test]
async fn a_connection_string_may_not_name_another_database() {
    let sql = Sql::start().await;
    let ask = async |string: &str| {
        let request = sql.request("acme").header("Neon-Connection-String", string);
        hear(request.json(&json!({ "query": "select 1" }))).await
    };

    for same in ["postgresql://u:p@h/tenant_acme", "postgresql://u:p@h/acme", "postgres://u:p@h/"] {
        ask(same).await.ok();
    }
    let other = ask("postgresql://u:p@h/tenant_globex").await;
    assert_eq!((other.status, other.code()), (StatusCode::FORBIDDEN, "access_denied"));
    let broken = ask("hunter2").await;
    assert_eq!(broken.code(), "connection_string_malformed");
    assert!(!broken.body.to_string().contains("hunter2"));
}

#[tokio::test]
async fn pages_of_named_origins_may_send_the_clients_headers() {
    let sql = Sql::start().await;
    let request = sql.client.request(reqwest::Method::OPTIONS, &sql.url);
    let request = request
        .header("Origin", "https://app.example.com")
        .header("Access-Control-Request-Method", "POST")
        .header("Access-Control-Request-Headers", "neon-connection-string,neon-array-mode");

    let answer = request.send().await.unwrap();

    let allowed = answer.headers()["access-control-allow-headers"].to_str().unwrap();
    assert!(answer.status().is_success());
    for name in ["neon-connection-string", "neon-raw-text-output", "neon-batch-read-only"] {
        assert!(allowed.contains(name), "{allowed}");
    }
}

#[tokio::test]
async fn a_suspended_tenant_is_told_so_in_the_clients_words_too() {
    let sql = Sql::start().await;
    sql.query("select 1").await.ok();
    let suspend = sql.fleet.environment.suspend(&slug("acme"), None, BY).await.unwrap();
    sql.fleet.complete(&suspend).await;
    eventually("the suspension is seen", async || {
        sql.query("select 1").await.status != StatusCode::OK
    })
    .await;

    let plain = sql.query("select 1").await;
    let client = sql.ask_as_client("acme", json!({ "query": "select 1" })).await;
    let unknown = sql.ask_as_client("nobody", json!({ "query": "select 1" })).await;

    assert_eq!((plain.status, plain.code()), (StatusCode::FORBIDDEN, "tenant_suspended"));
    assert_eq!((client.status, client.code()), (StatusCode::BAD_REQUEST, "55000"));
    assert_eq!((unknown.status, unknown.code()), (StatusCode::BAD_REQUEST, "3D000"));
    eventually("its sessions end", async || sql.backends("acme").await == 0).await;
}

/// Long enough that only a cancellation ends it in time.
pub const FOREVER: &str = "select pg_sleep(600)";

/// Waits until nobody sleeps in PostgreSQL any more.
pub async fn woken(sql: &Sql) {
    eventually("the statement is cancelled", async || {
        sql.count("query like '%pg_sleep(600)%' and state = 'active' and pid <> pg_backend_pid()")
            .await
            == 0
    })
    .await;
}

/// Settings with a short time for statements.
pub fn hasty() -> SqlSettings {
    SqlSettings { statement_timeout: Duration::from_secs(1), ..SqlSettings::default() }
}
