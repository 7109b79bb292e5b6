//! Traces, as a collector gets them: by OpenTelemetry's own protocol, over HTTP.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use secrecy::ExposeSecret as _;
use serde_json::json;
use tenantry::catalog::tokens::Scope;
use tokio_util::sync::CancellationToken;

use crate::harness::process::Serving;
use crate::harness::replica::serve;
use crate::harness::{BY, Fleet, eventually, new_tenant};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SECRET: &str = "no_business_of_a_collector";

type Spans = Arc<Mutex<Vec<Span>>>;

async fn take(State(spans): State<Spans>, body: Bytes) {
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    for resource in request.resource_spans {
        let name = resource.resource.as_ref().and_then(|resource| {
            resource.attributes.iter().find(|attribute| attribute.key == "service.name")
        });
        assert_eq!(
            name.unwrap().value.as_ref().unwrap().value,
            Some(Any::StringValue("tenantry".into()))
        );
        let received = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
        spans.lock().unwrap().extend(received);
    }
}

fn says(span: &Span, key: &str, value: &str) -> bool {
    span.attributes.iter().any(|attribute| {
        let found = attribute.value.as_ref().and_then(|value| value.value.as_ref());
        attribute.key == key && matches!(found, Some(Any::StringValue(text)) if text == value)
    })
}

#[tokio::test]
async fn a_request_continues_its_callers_trace_and_an_operation_tells_its_steps() {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    let (spans, stop) = (Spans::default(), CancellationToken::new());
    let _stop = stop.clone().drop_guard();
    let routes = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&spans));
    let collector = serve(routes, &stop).await;
    let settings = [("TENANTRY_OTEL_EXPORTER_OTLP_ENDPOINT", collector.as_str())];
    let mut serving = Serving::start_with(&fleet, &settings);
    let public = serving.address("the data plane").await;
    let token = fleet.catalog().create_token("test", &Scope::ALL).await.unwrap();

    let query = format!("select '{SECRET}' as it");
    let answer = reqwest::Client::new()
        .post(format!("{public}/sql"))
        .bearer_auth(token.expose_secret())
        .header("X-Tenant", "acme")
        .header("traceparent", format!("00-{TRACE}-b7ad6b7169203331-01"))
        .json(&json!({ "query": query, "params": [] }))
        .send()
        .await
        .unwrap();
    assert!(answer.status().is_success(), "{answer:?}");
    let asked = fleet.environment.create_tenant(&new_tenant("globex"), false, BY).await.unwrap();
    eventually("the worker has made it", async || {
        fleet.catalog().operation(asked.id).await.unwrap().state.is_settled()
    })
    .await;
    let (exit, _) = serving.terminate().await;

    assert!(exit.success());
    let spans = spans.lock().unwrap();
    let of_the_caller = |span: &&Span| hex::encode(&span.trace_id) == TRACE;
    let request = spans.iter().find(|span| span.name == "request" && of_the_caller(span)).unwrap();
    assert_eq!(hex::encode(&request.parent_span_id), "b7ad6b7169203331");
    assert!(says(request, "tenant", "acme") && says(request, "endpoint", "/sql"), "{request:#?}");
    for part in ["checkout", "statements"] {
        let part = spans.iter().filter(of_the_caller).find(|span| span.name == part).unwrap();
        assert_eq!(part.parent_span_id, request.span_id);
    }
    let id = asked.id.to_string();
    let operation = spans.iter().find(|span| says(span, "operation", &id)).unwrap();
    let steps: Vec<_> =
        spans.iter().filter(|span| span.parent_span_id == operation.span_id).collect();
    assert!(
        steps.iter().any(|span| span.name == "step" && says(span, "name", "activate")),
        "{steps:#?}"
    );
    let all = format!("{spans:?}");
    for secret in [SECRET, token.expose_secret(), fleet.master_key.expose_secret()] {
        assert!(!all.contains(secret));
    }
}

#[tokio::test]
async fn a_collector_that_is_away_costs_spans_and_nothing_else() {
    let fleet = Fleet::start().await;
    let nobody = [("TENANTRY_OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")];
    let mut serving = Serving::start_with(&fleet, &nobody);
    let public = serving.address("the data plane").await;

    let answer = reqwest::get(format!("{public}/health")).await.unwrap();
    assert!(answer.status().is_success());
    let ended = tokio::time::timeout(Duration::from_secs(15), serving.terminate()).await;

    assert!(ended.expect("it waits for no collector").0.success());
}
