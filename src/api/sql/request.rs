//! The client's headers and JSON, read. Nothing of it is repeated in an error: it may hold secrets.

use std::borrow::Cow;

use axum::http::{HeaderMap, HeaderName, StatusCode};
use serde::Deserialize;
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::refusal::Refusal;
use crate::problem::Problem;
use crate::resolve::connection_string::{CONNECTION_STRING, ConnectionString};
use crate::sql::{Batch, Isolation, Query, Request, Statement, text};

const RAW_TEXT: HeaderName = HeaderName::from_static("neon-raw-text-output");
const ARRAY_MODE: HeaderName = HeaderName::from_static("neon-array-mode");
const ISOLATION: HeaderName = HeaderName::from_static("neon-batch-isolation-level");
const READ_ONLY: HeaderName = HeaderName::from_static("neon-batch-read-only");
const DEFERRABLE: HeaderName = HeaderName::from_static("neon-batch-deferrable");
/// Asks for what every request gets.
const POOL: HeaderName = HeaderName::from_static("neon-pool-opt-in");

/// Every header of the client's own.
pub(in crate::api) const HEADERS: [HeaderName; 7] =
    [CONNECTION_STRING, RAW_TEXT, ARRAY_MODE, ISOLATION, READ_ONLY, DEFERRABLE, POOL];

/// One query, or a batch of them.
#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    query: Option<Cow<'a, str>>,
    #[serde(borrow)]
    params: Option<Vec<&'a RawValue>>,
    #[serde(rename = "arrayMode")]
    array_mode: Option<bool>,
    #[serde(borrow)]
    queries: Option<Vec<One<'a>>>,
}

#[derive(Deserialize)]
struct One<'a> {
    #[serde(borrow)]
    query: Cow<'a, str>,
    #[serde(borrow)]
    params: Option<Vec<&'a RawValue>>,
    #[serde(rename = "arrayMode")]
    array_mode: Option<bool>,
}

/// What the caller wants to have run. The content type does not matter: the client sets none of its own.
pub(super) fn read(headers: &HeaderMap, body: &[u8]) -> Result<Request, Refusal> {
    let body: Body<'_> = serde_json::from_slice(body).map_err(|error| unreadable(&error))?;
    let array_mode = flag(headers, &ARRAY_MODE)?.unwrap_or(false);
    let raw_text = flag(headers, &RAW_TEXT)?.unwrap_or(false);
    match body {
        Body { query: Some(query), params, array_mode: own, queries: None } => {
            let one = One { query, params, array_mode: own };
            Ok(Request { queries: vec![one.read(array_mode)?], batch: None, raw_text })
        }
        Body { query: None, params: None, queries: Some(queries), .. } => {
            let batch = Batch {
                isolation: isolation(headers)?,
                read_only: flag(headers, &READ_ONLY)?,
                deferrable: flag(headers, &DEFERRABLE)?,
            };
            let queries = queries.into_iter().map(|one| one.read(array_mode));
            let queries = queries.collect::<Result<_, _>>()?;
            Ok(Request { queries, batch: Some(batch), raw_text })
        }
        Body { query: None, queries: None, .. } => {
            Err(malformed("it has neither `query` nor `queries`").into())
        }
        Body { query: Some(_), queries: Some(_), .. } => {
            Err(malformed("it has both `query` and `queries`").into())
        }
        Body { query: None, params: Some(_), queries: Some(_), .. } => {
            Err(malformed("with `queries`, each of these has its own `params`").into())
        }
    }
}

/// The connection string of a request.
pub(super) fn connection_string(headers: &HeaderMap) -> Result<Option<ConnectionString>, Problem> {
    ConnectionString::of(headers).map_err(|_| {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "connection_string_malformed",
            "Invalid Neon-Connection-String header",
            "send one such as postgresql://user:password@host/database",
        )
    })
}

impl One<'_> {
    fn read(self, array_mode: bool) -> Result<Query, Refusal> {
        let params = self.params.unwrap_or_default().into_iter().map(text::parameter);
        let params = params.collect::<Result<_, _>>().map_err(Refusal::Postgres)?;
        let statement = Statement { text: self.query.into_owned(), params };
        Ok(Query { statement, array_mode: self.array_mode.unwrap_or(array_mode) })
    }
}

fn flag(headers: &HeaderMap, name: &HeaderName) -> Result<Option<bool>, Problem> {
    match headers.get(name).map(|value| value.as_bytes().to_ascii_lowercase()).as_deref() {
        None => Ok(None),
        Some(b"true") => Ok(Some(true)),
        Some(b"false") => Ok(Some(false)),
        Some(_) => Err(bad_header(name, "`true` or `false`")),
    }
}

fn isolation(headers: &HeaderMap) -> Result<Option<Isolation>, Problem> {
    match headers.get(ISOLATION).map(axum::http::HeaderValue::as_bytes) {
        None => Ok(None),
        Some(b"ReadUncommitted") => Ok(Some(Isolation::ReadUncommitted)),
        Some(b"ReadCommitted") => Ok(Some(Isolation::ReadCommitted)),
        Some(b"RepeatableRead") => Ok(Some(Isolation::RepeatableRead)),
        Some(b"Serializable") => Ok(Some(Isolation::Serializable)),
        Some(_) => Err(bad_header(
            &ISOLATION,
            "`ReadUncommitted`, `ReadCommitted`, `RepeatableRead` or `Serializable`",
        )),
    }
}

fn bad_header(name: &HeaderName, expected: &str) -> Problem {
    let detail = format!("the header {name} must be {expected}");
    Problem::new(StatusCode::BAD_REQUEST, "header_malformed", "Invalid header", detail)
}

/// Where the JSON is wrong, in our words: serde's may repeat a value.
fn unreadable(error: &serde_json::Error) -> Problem {
    let place = format!("line {}, column {}", error.line(), error.column());
    malformed(&match error.classify() {
        Category::Eof => format!("the JSON ends too early, at {place}"),
        Category::Syntax | Category::Io => format!("the JSON cannot be read at {place}"),
        Category::Data => format!(
            "a value has the wrong type, or a field comes twice, at {place}: `query` is a string, `params` an array, \
             `arrayMode` a boolean, `queries` an array of objects"
        ),
    })
}

fn malformed(what: &str) -> Problem {
    let detail = format!(
        "{what}; send {{\"query\": \"select $1::int\", \"params\": [1]}}, or {{\"queries\": [{{\"query\": …}}, …]}}"
    );
    Problem::new(StatusCode::BAD_REQUEST, "body_malformed", "Invalid body", detail)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_body_is_one_query_or_a_batch() {
        let none = HeaderMap::new();
        let one =
            read(&none, br#"{"query": "select 1", "arrayMode": true, "more": {}}"#).ok().unwrap();
        let batch =
            read(&none, br#"{"queries": [{"query": "a\n"}, {"query": "b", "params": [null]}]}"#);
        let batch = batch.ok().unwrap();

        assert!(one.batch.is_none() && one.queries[0].array_mode && !one.raw_text);
        assert_eq!(batch.queries[0].statement.text, "a\n");
        assert_eq!(batch.queries[1].statement.params, [None]);
    }

    #[test]
    fn rubbish_is_refused() {
        let deep = format!("{}1{}", "[".repeat(200_000), "]".repeat(200_000));
        for body in [
            "",
            "null",
            "[]",
            "{}",
            r#"{"query": 1}"#,
            r#"{"query": "a", "queries": []}"#,
            r#"{"queries": {}}"#,
            r#"{"query": "a", "params": {}}"#,
            r#"{"query": "a"} {"query": "b"}"#,
            deep.as_str(),
        ] {
            assert!(read(&HeaderMap::new(), body.as_bytes()).is_err(), "{body:.40}");
        }
        assert!(read(&HeaderMap::new(), b"{\"query\": \"\xff\"}").is_err());
        let deep = format!(r#"{{"query": "a", "params": [{deep}], "x": {deep}}}"#);
        assert!(read(&HeaderMap::new(), deep.as_bytes()).is_err());
    }

    /// It may hold a secret.
    #[test]
    fn who_sends_rubbish_is_told_where_and_never_what() {
        for (body, what) in [
            ("", "the JSON ends too early, at line 1, column 0"),
            ("{\n\"query\": hush}", "the JSON cannot be read at line 2, column 10"),
            (r#"{"query": ["hush"]}"#, "a value has the wrong type"),
            (r#"{"query": "a", "params": "hush"}"#, "at line 1, column 31"),
            (r#"{"hush": 1}"#, "it has neither `query` nor `queries`"),
            (r#"{"query": "hush", "queries": []}"#, "it has both"),
            (r#"{"params": ["hush"], "queries": []}"#, "each of these has its own `params`"),
        ] {
            let Err(Refusal::Problem(problem)) = read(&HeaderMap::new(), body.as_bytes()) else {
                panic!("{body} is taken");
            };

            assert!(problem.detail.contains(what), "{body}: {}", problem.detail);
            assert!(problem.detail.contains("; send {\"query\": "), "{}", problem.detail);
            assert!(!problem.detail.contains("hush"), "{}", problem.detail);
        }
    }

    #[test]
    fn headers_mean_what_they_say() {
        let body = br#"{"queries": []}"#;
        let with = |name: &HeaderName, value: &'static str| {
            let headers = HeaderMap::from_iter([(name.clone(), HeaderValue::from_static(value))]);
            read(&headers, body)
        };
        let serializable = with(&ISOLATION, "Serializable").ok().unwrap().batch.unwrap();

        assert_eq!(serializable.isolation, Some(Isolation::Serializable));
        assert_eq!(with(&READ_ONLY, "true").ok().unwrap().batch.unwrap().read_only, Some(true));
        assert!(with(&ISOLATION, "read committed; drop table x").is_err());
        assert!(with(&DEFERRABLE, "maybe").is_err());
    }
}
