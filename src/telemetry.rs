//! Logs and traces.
//!
//! Logs go to stderr, as lines for people or as JSON for machines. Results of commands go to stdout and are no
//! logs.
//!
//! Traces go to an OpenTelemetry collector, if one is named: a span for each request, which continues the
//! caller's trace (`traceparent`), and in it how long it waited for a connection and for its statements; a span for
//! each operation, and in it one for each step. They name tenants and users as the log does, and never what a
//! statement says. A collector that is away costs spans, and nothing else. What share of requests is traced is
//! OpenTelemetry's own setting (`OTEL_TRACES_SAMPLER`).

use std::io::{self, IsTerminal as _};

use axum::http::HeaderMap;
use opentelemetry::KeyValue;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{Status, TracerProvider as _};
use opentelemetry_http::HeaderExtractor;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt};

/// What a command logs unless told otherwise. It prints itself how an operation ended and what a
/// connection failed with, so the runner and the pools need not say it once more.
pub const COMMAND_FILTER: &str = "warn,deadpool=off,tenantry::operations::runner=off";
/// What is logged beside embedded servers, whose every refusal would be a line.
pub const EMBEDDED_FILTER: &str = "error,deadpool=off,s3s=off,tenantry::operations::runner=off";
/// What a replica logs unless told otherwise.
pub const SERVE_FILTER: &str = "info";

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

/// Logging and tracing under way. When it is dropped, the last spans are sent, within five seconds.
#[derive(Debug)]
pub struct Telemetry(Option<SdkTracerProvider>);

/// Starts logging to stderr, and takes in what libraries say through the `log` crate; and tracing, to the
/// collector at this address. Does nothing in a process that logs already. Not from within an async runtime.
///
/// A `filter` in the syntax of `RUST_LOG`; what is wrong in it is left out.
pub fn start(
    format: Format,
    filter: &str,
    collector: Option<&str>,
) -> Result<Telemetry, ExporterBuildError> {
    let lines = fmt::layer::<Registry>().with_writer(io::stderr);
    // The layer itself honours NO_COLOR.
    let lines = match format {
        Format::Json => {
            lines.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed()
        }
        Format::Pretty if io::stderr().is_terminal() => lines.compact().boxed(),
        Format::Pretty => lines.compact().with_ansi(false).boxed(),
    };
    let mut layers = vec![lines.with_filter(EnvFilter::new(filter)).boxed()];
    let traces = collector.map(tracer_provider).transpose()?;
    if let Some(traces) = &traces {
        let ours = filter_fn(is_traced).with_max_level_hint(LevelFilter::DEBUG);
        let spans = tracing_opentelemetry::layer().with_tracer(traces.tracer("tenantry"));
        layers.push(spans.with_filter(ours).boxed());
    }
    if let Err(error) = tracing_subscriber::registry().with(layers).try_init() {
        tracing::debug!(%error, "logging was started before");
    }
    Ok(Telemetry(traces))
}

/// Makes a request's span part of the trace that its caller names.
pub(crate) fn continue_trace(span: &Span, headers: &HeaderMap) {
    if headers.contains_key("traceparent") {
        let caller = TraceContextPropagator::new().extract(&HeaderExtractor(headers));
        if let Err(error) = span.set_parent(caller) {
            tracing::debug!(%error, "the caller's trace is not continued");
        }
    }
}

/// Writes down how a request was answered.
pub(crate) fn answered(span: &Span, status: u16) {
    span.set_attribute("http.response.status_code", i64::from(status));
    if status >= 500 {
        span.set_status(Status::error(""));
    }
}

/// Our spans, and what the log would say in them.
fn is_traced(what: &Metadata<'_>) -> bool {
    what.target().starts_with("tenantry") && (what.is_span() || *what.level() <= Level::INFO)
}

fn tracer_provider(collector: &str) -> Result<SdkTracerProvider, ExporterBuildError> {
    let endpoint = format!("{}/v1/traces", collector.trim_end_matches('/'));
    let exporter = SpanExporter::builder().with_http().with_endpoint(endpoint).build()?;
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = Resource::builder().with_service_name("tenantry").with_attribute(version);
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource.build())
        .build())
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(traces) = &self.0
            && let Err(error) = traces.shutdown()
        {
            tracing::warn!(%error, "the last spans have not reached the collector");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_filters() {
        for text in [COMMAND_FILTER, EMBEDDED_FILTER, SERVE_FILTER] {
            assert!(EnvFilter::try_new(text).is_ok(), "{text}");
        }
    }
}
