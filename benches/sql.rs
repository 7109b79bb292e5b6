//! `make bench`: a point query through `/sql` with keep-alive, beside a bare axum handler that holds one
//! pool to the same database, prepares the same query once, and answers the same JSON.
//!
//! Both listen on TCP in this process and are asked by the same HTTP client, in rounds that take turns.
//! Tenantry proves a token, finds the tenant, reads the query from the request and resets the session
//! afterwards; the peer does nothing of that.

#[path = "../tests/harness/mod.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod harness;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Json, State};
use axum::{Router, routing::post};
use deadpool_postgres::Pool;
use harness::{Fleet, replica::serve, slug};
use reqwest::Client;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tenantry::catalog::tokens::Scope;
use tenantry::oidc::TokenVerifier;
use tenantry::resolve::{IdentityResolver, IdentitySettings};
use tenantry::router::{RouterSettings, TenantRouter};
use tenantry::sql::SqlSettings;
use tenantry::{Tenancy, api};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_postgres::NoTls;
use tokio_util::sync::CancellationToken;

const CLIENTS: usize = 16;
const ROUNDS: usize = 5;
const TIME: Duration = Duration::from_secs(3);
const WARM_UP: Duration = Duration::from_millis(500);
const QUERY: &str = "select id, title from boards where id = $1::bigint";

#[tokio::main]
async fn main() {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    let stop = CancellationToken::new();
    let token = fleet.catalog().create_token("bench", &Scope::ALL).await.expect("a token");
    let ours = Asked {
        url: format!("{}/sql", serve(tenantry(&fleet), &stop).await),
        token: Some(token.expose_secret().to_owned()),
    };
    let peer = Asked { url: bare(&fleet).await, token: None };
    let answers = (ours.once().await, peer.once().await);
    assert_eq!(answers.0, answers.1, "both answer the same");

    let only = std::env::args().nth(1).filter(|arg| !arg.starts_with('-'));
    if only.as_deref() == Some("profile") {
        ours.rate(Duration::from_secs(20)).await;
        return;
    }
    let (mut own, mut others) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for (asked, rates) in [(&ours, &mut own), (&peer, &mut others)] {
            asked.rate(WARM_UP).await;
            rates.push(asked.rate(TIME).await);
        }
    }
    own.sort_by(f64::total_cmp);
    others.sort_by(f64::total_cmp);
    let (own, others) = (own[ROUNDS / 2], others[ROUNDS / 2]);
    println!("{:<70} {:>12} {:>12} {:>8}  bar", "what", "tenantry", "peer", "ratio");
    println!(
        "{:<70} {:>10.0}/s {:>10.0}/s {:>8.2}  >= 0.8 (rate)",
        "/sql, point query, 16 clients / bare axum handler without a token",
        own,
        others,
        own / others
    );
    stop.cancel();
}

/// Where to ask, and as whom.
#[derive(Clone)]
struct Asked {
    url: String,
    token: Option<String>,
}

impl Asked {
    fn request(&self, client: &Client, body: &'static str) -> reqwest::RequestBuilder {
        let request = client.post(&self.url).header("Content-Type", "application/json").body(body);
        match &self.token {
            Some(token) => request.bearer_auth(token).header("X-Tenant", "acme"),
            None => request,
        }
    }

    async fn once(&self) -> Value {
        let answer = self.request(&Client::new(), BODY).send().await.expect("it answers");
        assert!(answer.status().is_success(), "{answer:?}");
        answer.json().await.expect("JSON")
    }

    /// Answers a second to clients that each keep one connection alive.
    async fn rate(&self, time: Duration) -> f64 {
        let started = Instant::now();
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let (asked, client) = (self.clone(), Client::new());
            clients.spawn(async move {
                let mut done = 0_u32;
                while started.elapsed() < time {
                    let answer = asked.request(&client, BODY).send().await.expect("it answers");
                    assert!(answer.status().is_success(), "{answer:?}");
                    answer.bytes().await.expect("a whole answer");
                    done += 1;
                }
                done
            });
        }
        let done: u32 = clients.join_all().await.into_iter().sum();
        f64::from(done) / started.elapsed().as_secs_f64()
    }
}

const BODY: &str =
    r#"{"query": "select id, title from boards where id = $1::bigint", "params": [1]}"#;

fn tenantry(fleet: &Fleet) -> Router {
    let settings = RouterSettings::default();
    let router = TenantRouter::new(fleet.catalog().clone(), fleet.changes.clone(), settings);
    let verifier = TokenVerifier::new(Vec::new()).expect("nobody");
    let catalog = fleet.catalog().clone();
    let identity = IdentityResolver::new(catalog.clone(), verifier, IdentitySettings::default());
    let tenancy = Tenancy { router, resolver: Arc::new(identity) };
    api::data_plane(tenancy, catalog, None, &[], SqlSettings::default())
}

/// The peer, with as many connections as Tenantry may have to one tenant.
#[expect(clippy::disallowed_methods, reason = "the peer is an application without a router")]
async fn bare(fleet: &Fleet) -> String {
    let place = fleet.catalog().place(&slug("acme")).await.expect("it answers").expect("a tenant");
    let url = place.server.with_database("tenant_acme").with_user("tenant_acme", &place.password);
    let manager = deadpool_postgres::Manager::new(url.config(), NoTls);
    let most = RouterSettings::default().pool_max_size;
    let pool = Pool::builder(manager).max_size(most).build().expect("a pool");
    let routes = Router::new().route("/", post(answer)).with_state(pool);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    url
}

async fn answer(State(pool): State<Pool>, Json(body): Json<Value>) -> Json<Value> {
    let client = pool.get().await.expect("a connection");
    let statement = client.prepare_cached(QUERY).await.expect("a statement");
    let id = body["params"][0].as_i64().expect("a number");
    let row = client.query_one(&statement, &[&id]).await.expect("a row");
    let rows = [json!({ "id": row.get::<_, i64>(0).to_string(), "title": row.get::<_, &str>(1) })];
    let fields: Vec<Value> = statement
        .columns()
        .iter()
        .map(|column| {
            json!({
                "name": column.name(),
                "dataTypeID": column.type_().oid(),
                "tableID": column.table_oid().unwrap_or_default(),
                "columnID": column.column_id().unwrap_or_default(),
                "dataTypeSize": if column.type_().oid() == 20 { 8 } else { -1 },
                "dataTypeModifier": column.type_modifier(),
                "format": "text",
            })
        })
        .collect();
    let count = rows.len();
    Json(json!({
        "fields": fields, "rows": rows, "command": "SELECT", "rowCount": count, "rowAsArray": false
    }))
}
