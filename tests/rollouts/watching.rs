//! Holding a rollout from another process, and hearing of it: the command line, the webhook, the event stream.

use std::process::Output;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::hmac;
use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use reqwest::Method;
use serde_json::{Value, json};
use tenantry::catalog::rollouts::RolloutState;
use tenantry::operations::rollouts::RolloutPlan;
use tenantry::operations::webhook::{Webhook, tell};
use tokio::net::TcpListener;

use super::{PICKY, complete, kinds, labels, start, tenant, versions};
use crate::harness::process::command;
use crate::harness::replica::Replica;
use crate::harness::{Fleet, eventually};

pub(super) async fn cli(fleet: &Fleet, line: &str) -> Output {
    let mut command = command(fleet);
    command.args(line.split(' '));
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn another_process_holds_a_rollout_and_goes_on_with_it() {
    let fleet = Fleet::start().await;
    let names = ["acme", "globex", "hooli", "initech", "umbrella"];
    for name in names {
        fleet.create_tenant(name).await;
    }
    fleet.add_migration("V2__slow.sql", "select pg_sleep(1); create table labels (id bigint);");
    let rollout = start(&fleet, &RolloutPlan::default()).await;
    let (runner, id) = (fleet.runner(), rollout.id);
    let running = tokio::spawn(async move { runner.complete_rollout(id, 1).await.unwrap() });
    let done = async || versions(&fleet, names).await.iter().filter(|v| **v == 2).count();
    eventually("the first one is done", async || done().await > 0).await;

    let paused = cli(&fleet, "migrate pause").await;

    assert_eq!(paused.status.code(), Some(0), "{}", text(&paused.stderr));
    assert_eq!(running.await.unwrap().state, RolloutState::Paused);
    assert!(done().await < names.len(), "it was held in time");
    let status = cli(&fleet, "migrate status").await;
    assert!(text(&status.stdout).contains("paused, wave 1 of 1 (all)"), "{}", text(&status.stdout));
    let resumed = cli(&fleet, &format!("migrate resume {id} --output-format json")).await;
    assert_eq!(resumed.status.code(), Some(0), "{}", text(&resumed.stderr));
    assert_eq!(done().await, names.len());
    let said = text(&resumed.stdout);
    let lines: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["event"], "started");
    let end = lines.last().unwrap();
    assert_eq!((&end["status"], &end["succeeded"]), (&json!("succeeded"), &json!(5)));
}

#[tokio::test]
async fn what_is_given_up_is_not_begun() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    labels(&fleet);
    let started = cli(&fleet, "migrate up --wait=false").await;
    assert_eq!(started.status.code(), Some(0), "{}", text(&started.stderr));
    let id = text(&started.stdout).trim().parse().unwrap();
    fleet.environment.reload_migrations().await.unwrap();
    fleet.environment.advance(id).await.unwrap();
    fleet.environment.advance(id).await.unwrap();

    let aborted = cli(&fleet, &format!("migrate abort {id}")).await;

    assert_eq!(aborted.status.code(), Some(0), "{}", text(&aborted.stderr));
    let rollout = fleet.catalog().rollout(id).await.unwrap();
    assert_eq!(complete(&fleet, &rollout).await.state, RolloutState::Aborted);
    assert_eq!(versions(&fleet, ["acme"]).await, [1]);
    let again = cli(&fleet, &format!("migrate resume {id}")).await;
    assert_eq!(again.status.code(), Some(4), "{}", text(&again.stderr));
}

#[tokio::test]
async fn whoever_was_deleted_on_the_way_is_not_taken_for_missing() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    fleet.create_tenant("globex").await;
    labels(&fleet);
    assert_eq!(cli(&fleet, "migrate up --wait=false").await.status.code(), Some(0));
    let deleted = cli(&fleet, "tenant delete globex --yes").await;
    assert_eq!(deleted.status.code(), Some(0), "{}", text(&deleted.stderr));

    let resumed = cli(&fleet, "migrate resume").await;
    let shown = text(&cli(&fleet, "migrate show").await.stdout);

    let said = text(&resumed.stdout);
    assert!(said.contains("1 tenant of 2 at version 2"), "{said}");
    assert!(said.contains("; 1 was deleted meanwhile."), "{said}");
    assert!(shown.contains("1 of 2 done, 0 failed, 1 deleted meanwhile"), "{shown}");
}

#[tokio::test]
async fn a_rollout_whose_leader_died_is_gone_on_with() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    labels(&fleet);
    assert_eq!(cli(&fleet, "migrate up --wait=false").await.status.code(), Some(0));

    let resumed = cli(&fleet, "migrate resume").await;

    assert_eq!(resumed.status.code(), Some(0), "{}", text(&resumed.stderr));
    assert_eq!(versions(&fleet, ["acme"]).await, [2]);
    let again = cli(&fleet, "migrate resume").await;
    assert_eq!(again.status.code(), Some(4), "{}", text(&again.stderr));
}

#[tokio::test]
async fn the_status_tells_a_guard_from_a_failure() {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    fleet.create_tenant("globex").await;
    fleet.add_migration("V2__picky.sql", PICKY);

    let held = cli(&fleet, "migrate up --canary acme").await;
    assert_eq!(held.status.code(), Some(4), "{}", text(&held.stderr));
    let shown = cli(&fleet, "migrate show").await;
    let shown = text(&shown.stdout);
    assert!(shown.contains("paused") && shown.contains("V2__picky.sql"), "{shown}");
    let second = cli(&fleet, "migrate up").await;
    assert_eq!(second.status.code(), Some(4), "one at a time");
    assert!(text(&second.stderr).contains("migrate resume"), "{}", text(&second.stderr));

    assert_eq!(cli(&fleet, "migrate abort").await.status.code(), Some(0));
    let all = cli(&fleet, "migrate up").await;
    assert_eq!(all.status.code(), Some(3), "{}", text(&all.stderr));
    let detail = cli(&fleet, "migrate status --detail --output-format json").await;
    let detail: Value = serde_json::from_slice(&detail.stdout).unwrap();
    assert_eq!((&detail["behind"], &detail["failed"]), (&json!(1), &json!(1)));
    assert_eq!(detail["tenants"][0]["tenant_slug"], "acme");
    assert!(detail["tenants"][0]["error"].as_str().unwrap().contains("V2__picky.sql"), "{detail}");
}

/// What a receiver got: the signature and the body.
type Received = Arc<Mutex<Vec<(String, String)>>>;

/// A receiver that is not well at first.
async fn receiver() -> (String, Received) {
    let received = Received::default();
    let (kept, refusals) = (received.clone(), Arc::new(Mutex::new(1)));
    let receive = async move |headers: HeaderMap, body: String| {
        let mut left = refusals.lock().unwrap();
        if *left > 0 {
            *left -= 1;
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        let signature = headers["tenantry-signature"].to_str().unwrap().to_owned();
        kept.lock().unwrap().push((signature, body));
        StatusCode::NO_CONTENT
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let routes = Router::new().route("/hook", post(receive));
    tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
    (url, received)
}

#[tokio::test]
async fn the_webhook_hears_everything_signed_even_after_a_bad_start() {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    fleet.create_tenant("globex").await;
    fleet.add_migration("V2__picky.sql", PICKY);
    let (url, received) = receiver().await;
    let webhook = Webhook::new(url, "a secret".to_owned().into());
    let environment = fleet.environment.clone().with_webhook(Some(webhook));

    let plan = RolloutPlan { canary: vec![tenant("acme")], ..RolloutPlan::default() };
    let rollout = start(&fleet, &plan).await;
    complete(&fleet, &rollout).await;
    let expected = kinds(&fleet, rollout.id).await;
    assert_eq!(expected.len(), 5, "{expected:?}");
    eventually("all is told", async || {
        tell(&environment).await.unwrap();
        received.lock().unwrap().len() >= expected.len()
    })
    .await;
    tell(&environment).await.unwrap();

    let received = received.lock().unwrap().clone();
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"a secret");
    let mut heard = Vec::new();
    for (signature, body) in &received {
        let (time, tag) = signature.strip_prefix("t=").unwrap().split_once(",v1=").unwrap();
        let tag = hex::decode(tag).unwrap();
        hmac::verify(&key, format!("{time}.{body}").as_bytes(), &tag).unwrap();
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["rollout_id"], rollout.id.to_string());
        heard.push((body["seq"].as_i64().unwrap(), body["event"].as_str().unwrap().to_owned()));
    }
    heard.sort();
    let heard: Vec<String> = heard.into_iter().map(|(_, kind)| kind).collect();
    assert_eq!(heard, expected, "each once");
}

#[tokio::test]
async fn a_worker_leads_what_the_api_started_and_streams_its_events() {
    let replica = Replica::start().await;
    for name in ["acme", "globex"] {
        replica.create(name).await;
    }
    labels(&replica.fleet);
    let plan = json!({ "canary": ["acme"], "waves": ["100%"], "bake_secs": 1 });

    let (status, started) = replica.call(Method::POST, "/api/rollouts", Some(plan)).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{started}");
    let path = format!("/api/rollouts/{}", started["id"].as_str().unwrap());
    let listen = async |after: &str| {
        let request = replica.client.get(format!("{}{path}/events", replica.admin));
        let request = request.bearer_auth(&replica.token).header("last-event-id", after);
        let answer = request.timeout(Duration::from_secs(30)).send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        let stream = answer.text().await.unwrap();
        let field = |name: &str| -> Vec<String> {
            stream.lines().filter_map(|line| line.strip_prefix(name)).map(str::to_owned).collect()
        };
        (field("id: "), field("event: "), field("data: "))
    };
    let (ids, events, data) = listen("").await;

    let wave = ["wave_started", "wave_finished"];
    assert_eq!(events, [&["started"][..], &wave, &wave, &["succeeded"]].concat());
    let last: Value = serde_json::from_str(data.last().unwrap()).unwrap();
    assert_eq!((&last["event"], &last["detail"]["succeeded"]), (&json!("succeeded"), &json!(2)));
    let (_, rest, _) = listen(&ids[3]).await;
    assert_eq!(rest, events[4..], "it goes on where it was cut off");
    let (_, shown) = replica.get(&path).await;
    assert_eq!(
        (&shown["status"], &shown["results"][1]["status"]),
        (&json!("succeeded"), &json!("succeeded"))
    );
    let (status, _) = replica.call(Method::POST, "/api/rollouts", None).await;
    assert_eq!(status, StatusCode::NO_CONTENT, "nothing is left");
    let tag = Some(json!({ "waves": ["colour=red"] }));
    let (status, refused) = replica.call(Method::POST, "/api/rollouts", tag).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{refused}");
    assert!(refused.to_string().contains("tier=shared"), "{refused}");
    let nobody = Some(json!({ "tenants": [] }));
    let (status, refused) = replica.call(Method::POST, "/api/rollouts", nobody).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "nobody is not everybody: {refused}");
    let (status, _) = replica.call(Method::POST, &format!("{path}/pause"), None).await;
    assert_eq!(status, StatusCode::CONFLICT, "it has ended");
}
