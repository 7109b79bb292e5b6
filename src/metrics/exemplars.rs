//! Exemplars: beside a bucket of a histogram, the trace of somebody who fell into it. Prometheus takes them in the
//! OpenMetrics format alone, which is Prometheus' own but for a few lines.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use opentelemetry::trace::{TraceContextExt as _, TraceId};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::BUCKETS;

/// The last exemplar of each bucket.
static EXEMPLARS: LazyLock<Mutex<HashMap<Bucket, Exemplar>>> = LazyLock::new(Mutex::default);

/// A bucket of a histogram: its name, its labels as they are written, and which of [`BUCKETS`] it is, or the one after.
type Bucket = (String, String, usize);

struct Exemplar {
    trace: TraceId,
    value: f64,
    at: Timestamp,
}

/// Remembers the trace under way as one that took so many seconds, if it is told to a collector.
pub(super) fn note(histogram: &str, label: Option<(&str, &str)>, value: f64) {
    let context = Span::current().context();
    let span = context.span();
    let span = span.span_context();
    if span.is_valid() && span.is_sampled() {
        let labels = label.map(|(name, value)| format!("{name}=\"{value}\"")).unwrap_or_default();
        let exemplar = Exemplar { trace: span.trace_id(), value, at: Timestamp::now() };
        lock().insert((histogram.to_owned(), labels, bucket_of(value)), exemplar);
    }
}

/// The same metrics in the OpenMetrics format, with exemplars.
pub(super) fn open_metrics(prometheus: &str) -> String {
    let exemplars = lock();
    let mut text = String::with_capacity(prometheus.len());
    for line in prometheus.lines().filter(|line| !line.is_empty()) {
        match line.strip_prefix("# ") {
            Some(described) => text += &family(described),
            None => text += line,
        }
        if let Some(exemplar) = bucket(line).and_then(|bucket| exemplars.get(&bucket)) {
            let seconds = exemplar.at.as_duration().as_secs_f64();
            _ = write!(
                text,
                " # {{trace_id=\"{}\"}} {} {seconds:.3}",
                exemplar.trace, exemplar.value
            );
        }
        text.push('\n');
    }
    text + "# EOF\n"
}

/// A line about a metric. The name of a counter stands without its end there.
fn family(line: &str) -> String {
    let mut words = line.splitn(3, ' ');
    let (what, name, rest) = (words.next(), words.next(), words.next());
    let [what, name, rest] = [what, name, rest].map(Option::unwrap_or_default);
    format!("# {what} {} {rest}", name.strip_suffix("_total").unwrap_or(name))
}

/// The bucket that a line is about.
fn bucket(line: &str) -> Option<Bucket> {
    let (name, rest) = line.split_once("_bucket{")?;
    let (labels, _) = rest.rsplit_once('}')?;
    let (labels, bound) = labels.rsplit_once("le=\"")?;
    let bound: f64 = bound.trim_end_matches('"').parse().ok()?;
    Some((name.to_owned(), labels.trim_end_matches(',').to_owned(), bucket_of(bound)))
}

fn bucket_of(value: f64) -> usize {
    BUCKETS.partition_point(|bound| *bound < value)
}

fn lock() -> MutexGuard<'static, HashMap<Bucket, Exemplar>> {
    EXEMPLARS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_its_bucket() {
        let found = |line| bucket(line).map(|(name, labels, at)| format!("{name} {labels} {at}"));

        assert_eq!(found("waits_bucket{le=\"0.005\"} 3").as_deref(), Some("waits  1"));
        let labelled = "work_bucket{kind=\"a,b\",le=\"+Inf\"} 3";
        assert_eq!(found(labelled).as_deref(), Some("work kind=\"a,b\" 11"));
        assert_eq!(found("waits_sum 3"), None);
    }

    #[test]
    fn a_counter_is_described_without_its_end() {
        let text = "# HELP asked_total How often.\n# TYPE asked_total counter\nasked_total 3\n\n";

        let expected = "# HELP asked How often.\n# TYPE asked counter\nasked_total 3\n# EOF\n";
        assert_eq!(open_metrics(text), expected);
    }
}
