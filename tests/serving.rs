//! `tenantry serve` as a process and on the wire: what it logs, how it ends, whom it cuts off.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use secrecy::ExposeSecret as _;
use tenantry::catalog::operations::{OperationFilter, OperationState};
use tenantry::catalog::tokens::Scope;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::harness::process::Serving;
use crate::harness::replica::Replica;
use crate::harness::{BY, Fleet, new_tenant, slug};

mod readers;

async fn token(fleet: &Fleet) -> String {
    let token = fleet.catalog().create_token("test", &Scope::ALL).await.unwrap();
    token.expose_secret().to_owned()
}

#[tokio::test]
async fn the_log_is_json_that_names_tenant_and_operation_and_no_secret() {
    let fleet = Fleet::start().await;
    let token = token(&fleet).await;
    let mut serving = Serving::start(&fleet);
    let public = serving.address("the data plane").await;

    let operation = fleet.environment.create_tenant(&new_tenant("acme"), true, BY).await.unwrap();
    let done = serving.logged("operation").await;
    let request = reqwest::Client::new().get(format!("{public}/api/tenant"));
    let answer = request.bearer_auth(&token).header("X-Tenant", "acme").send().await.unwrap();
    let (exit, log) = serving.terminate().await;

    assert!(answer.status().is_success());
    assert!(exit.success());
    assert_eq!(done["tenant"], "acme");
    assert_eq!(done["operation"], operation.id.to_string());
    assert!(log.iter().all(|line| line["timestamp"].is_string() && line["level"].is_string()));
    let mut spans = log.iter().filter_map(|line| line.get("span"));
    assert!(spans.any(|span| span["endpoint"] == "/api/tenant" && span["tenant"] == "acme"));
    let place = fleet.catalog().place(&slug("acme")).await.unwrap().unwrap();
    let text = serde_json::to_string(&log).unwrap();
    for secret in [place.password.expose_secret(), fleet.master_key.expose_secret(), token.as_str()]
    {
        assert!(!text.contains(secret));
    }
}

#[tokio::test]
async fn a_replica_that_waits_for_its_catalog_ends_in_order() {
    let fleet = Fleet::start().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://nobody@{}/tenantry", silent.local_addr().unwrap());
    let serving = Serving::start_with(&fleet, &[("TENANTRY_CATALOG_URL", &url)]);

    let _asked = timeout(Duration::from_secs(30), silent.accept()).await.unwrap().unwrap();
    let (exit, _) = serving.terminate().await;

    assert!(exit.success(), "{exit}");
}

#[tokio::test]
async fn a_shutdown_under_load_cuts_no_answer_and_hands_its_operations_over() {
    let fleet = Fleet::start().await;
    for name in ["acme", "globex"] {
        fleet.create_tenant_with(name, true).await;
    }
    let token = token(&fleet).await;
    let mut serving = Serving::start(&fleet);
    let public = serving.address("the data plane").await;
    let (answered, ending) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..6 {
        let (public, token) = (public.clone(), token.clone());
        let (answered, ending) = (Arc::clone(&answered), Arc::clone(&ending));
        callers.spawn(async move {
            let client = reqwest::Client::new();
            let tenant = if caller % 2 == 0 { "acme" } else { "globex" };
            loop {
                let request = client.get(format!("{public}/api/tenant"));
                match request.bearer_auth(&token).header("X-Tenant", tenant).send().await {
                    Ok(answer) => {
                        assert_eq!(answer.status(), 200);
                        let body: serde_json::Value = answer.json().await.unwrap();
                        assert_eq!(body["slug"], tenant);
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                    // Before the signal nobody is turned away; after it, only before being heard.
                    Err(error) => {
                        assert!(ending.load(Ordering::Relaxed), "{error:?}");
                        return;
                    }
                }
            }
        });
    }
    let mut backups = Vec::new();
    for _ in 0..6 {
        for name in ["acme", "globex"] {
            backups.push(fleet.environment.back_up(&slug(name), BY).await.unwrap());
        }
    }
    while answered.load(Ordering::Relaxed) < 100 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    ending.store(true, Ordering::Relaxed);
    let (exit, _) = serving.terminate().await;
    callers.join_all().await;

    assert!(exit.success(), "{exit}");
    let running = OperationFilter {
        state: Some(OperationState::Running),
        limit: 100,
        ..OperationFilter::default()
    };
    assert!(fleet.catalog().operations(&running).await.unwrap().is_empty());
    for backup in &backups {
        fleet.complete(backup).await;
    }
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn a_client_that_stays_silent_is_cut_off() {
    let replica = Replica::start().await;
    let address = replica.public.trim_start_matches("http://").to_owned();
    let mut silent = TcpStream::connect(&address).await.unwrap();
    let mut half = TcpStream::connect(&address).await.unwrap();
    half.write_all(b"GET /livez HTTP/1.1\r\nHost:").await.unwrap();
    let mut undecided = TcpStream::connect(&address).await.unwrap();
    undecided.write_all(b"PRI * HTTP/").await.unwrap();
    let mut idle = TcpStream::connect(&address).await.unwrap();
    idle.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();

    for (what, stream) in [
        ("silent", &mut silent),
        ("half", &mut half),
        ("undecided", &mut undecided),
        ("idle", &mut idle),
    ] {
        let mut answer = Vec::new();
        let end = timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await;
        end.unwrap_or_else(|_| panic!("the {what} one is not cut off")).unwrap();
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
    }
}
