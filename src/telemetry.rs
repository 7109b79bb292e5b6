//! Logs: to stderr, as lines for people or as JSON for machines. Results of commands go to stdout and
//! are no logs.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;

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

/// Starts logging to stderr, and takes in what libraries say through the `log` crate. Does nothing in a
/// process that logs already.
///
/// A `filter` in the syntax of `RUST_LOG`; what is wrong in it is left out.
pub fn start(format: Format, filter: &str) {
    let filter = EnvFilter::new(filter);
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // The subscriber itself honours NO_COLOR.
    let started = match format {
        Format::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .try_init(),
        Format::Pretty if io::stderr().is_terminal() => lines.compact().try_init(),
        Format::Pretty => lines.compact().with_ansi(false).try_init(),
    };
    if let Err(error) = started {
        tracing::debug!(%error, "logging was started before");
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
