//! From the SDK's errors to ours.
//!
//! What is kept of an error is its text. The SDK's own types print whole responses in `Debug`, which
//! is too much for a log.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use super::super::StoreError;

/// What was attempted, for an error to say.
pub(super) struct Attempt {
    pub(super) operation: &'static str,
    pub(super) bucket: String,
    pub(super) key: String,
}

impl Attempt {
    /// The error of a request.
    pub(super) fn failed<E>(&self, error: &SdkError<E, HttpResponse>) -> StoreError
    where
        E: Error + ProvideErrorMetadata + 'static,
    {
        match error {
            SdkError::ServiceError(service) => {
                self.refused(service.err(), service.raw().status().as_u16())
            }
            // No provider gave credentials: no request was made at all.
            SdkError::DispatchFailure(_) if chain(error).contains("credential") => {
                self.denied(Reason::of(error))
            }
            SdkError::DispatchFailure(failure) if failure.is_user() => self.other(error),
            SdkError::TimeoutError(_)
            | SdkError::DispatchFailure(_)
            | SdkError::ResponseError(_) => self.unreachable(error),
            _ => self.other(error),
        }
    }

    /// The error of a body that broke off, or whose bytes are not those that were stored.
    pub(super) fn broken(&self, error: impl Error + 'static) -> StoreError {
        // The SDK's error for this is private; its words are all there is.
        if chain(&error).contains("checksum mismatch") {
            return StoreError::Damaged { key: self.key.clone() };
        }
        self.unreachable(&error)
    }

    /// The store stopped sending.
    pub(super) fn timed_out(&self, after: Duration) -> StoreError {
        StoreError::Timeout { operation: self.operation, after_secs: after.as_secs() }
    }

    /// The object is not the one that was there at first.
    pub(super) fn changed(&self) -> StoreError {
        StoreError::Changed { key: self.key.clone() }
    }

    fn refused<E: ProvideErrorMetadata>(&self, error: &E, status: u16) -> StoreError {
        let operation = self.operation;
        let reason = Reason(match (error.code(), error.message()) {
            (Some(code), Some(message)) => format!("{code}: {message} (HTTP {status})"),
            (Some(code), None) => format!("{code} (HTTP {status})"),
            (None, _) => format!("HTTP {status}"),
        });
        match (error.code().unwrap_or_default(), status) {
            ("NoSuchBucket", _) => {
                StoreError::NoSuchBucket { place: format!("s3://{}", self.bucket) }
            }
            ("AuthorizationHeaderMalformed" | "IllegalLocationConstraintException", _)
            | (_, 301) => StoreError::Settings { reason: "the bucket is in another region" },
            (_, 401 | 403) => self.denied(reason),
            (_, 404) => StoreError::NotFound { key: self.key.clone() },
            (_, 412 | 416) => self.changed(),
            ("SlowDown" | "RequestTimeout", _) | (_, 429 | 500 | 502 | 503 | 504) => {
                StoreError::Unreachable { operation, source: reason.into() }
            }
            _ => StoreError::Other { operation, source: reason.into() },
        }
    }

    fn denied(&self, reason: Reason) -> StoreError {
        StoreError::Denied { operation: self.operation, source: reason.into() }
    }

    fn other(&self, error: &(dyn Error + 'static)) -> StoreError {
        StoreError::Other { operation: self.operation, source: Reason::of(error).into() }
    }

    fn unreachable(&self, error: &(dyn Error + 'static)) -> StoreError {
        StoreError::Unreachable { operation: self.operation, source: Reason::of(error).into() }
    }
}

/// Whether the store does not have this request at all.
pub(super) fn is_not_implemented<E: ProvideErrorMetadata>(
    error: &SdkError<E, HttpResponse>,
) -> bool {
    let status = error.raw_response().map(|response| response.status().as_u16());
    status == Some(501) || error.code() == Some("NotImplemented")
}

/// The text of an SDK error with its causes, on one line.
#[derive(Debug)]
struct Reason(String);

impl Reason {
    fn of(error: &(dyn Error + 'static)) -> Self {
        Self(chain(error))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Reason {}

fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
