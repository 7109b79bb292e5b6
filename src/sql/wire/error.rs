//! [`WireError`]: why a session did not do what it was asked to.

use std::io;

use thiserror::Error;

use crate::router::server::{Verdict, verdict};
use crate::sql::pg_error::PgError;

/// What went wrong on a session with PostgreSQL.
#[derive(Debug, Error)]
pub(crate) enum WireError {
    /// PostgreSQL refused.
    #[error("PostgreSQL refused: {0}")]
    Postgres(Box<PgError>),
    /// A statement that was prepared before does not fit the schema any more; prepared anew, it will.
    #[error("a prepared statement is out of date: {0}")]
    Stale(Box<PgError>),
    /// The session ended.
    #[error("the server ended the session")]
    Closed,
    /// The network, or what came over it, is at fault.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// The server does not do what was asked for, or speaks another language.
    #[error("the server cannot be spoken with: {0}")]
    Protocol(&'static str),
    /// The server is known to be away, and was not asked again.
    #[error("the server is away")]
    Away,
    /// Opening a session took too long.
    #[error("the server did not answer in time")]
    TimedOut,
    /// A result, or one row or error, is longer than whoever asked can take.
    #[error("the result is too long")]
    TooLong,
    /// A result has more rows than whoever asked can take.
    #[error("the result has too many rows")]
    TooManyRows,
    /// The statement wants to copy, which needs a stream in the other direction.
    #[error("COPY is not possible here")]
    Copy,
    /// A value is no UTF-8, which the session was set to.
    #[error("a value is not in UTF-8")]
    Encoding,
    /// The text cannot be sent.
    #[error("the statement has a character that PostgreSQL cannot take")]
    Text,
    /// The parameters cannot be sent.
    #[error("there are more parameters than PostgreSQL can take")]
    Parameters,
}

impl WireError {
    /// PostgreSQL's code, if PostgreSQL said it.
    pub fn sql_state(&self) -> Option<&str> {
        match self {
            Self::Postgres(error) | Self::Stale(error) => Some(&error.code),
            _ => None,
        }
    }

    /// What it says about the server that a session could not be opened on.
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Postgres(error) | Self::Stale(error) => {
                verdict(Some(&error.code), error.routine.as_deref())
            }
            Self::Away => Verdict::Away,
            _ => Verdict::Unsure,
        }
    }
}

impl From<PgError> for WireError {
    fn from(error: PgError) -> Self {
        Self::Postgres(Box::new(error))
    }
}
