//! [`SqlError`]: why a request got no answer.

use thiserror::Error;

use super::pg_error::PgError;
use super::wire::WireError;
use crate::router::RouterError;

/// What went wrong with a request.
#[derive(Debug, Error)]
pub(crate) enum SqlError {
    /// There is no way to the tenant's database.
    #[error(transparent)]
    Route(#[from] RouterError),
    /// The tenant's server refused a session, or could not be reached.
    #[error("the tenant's database cannot be reached")]
    Unreachable(#[source] WireError),
    /// PostgreSQL refused a statement, or we did in its place.
    #[error("a statement was refused: {0}")]
    Refused(Box<PgError>),
    /// The answer would be too long.
    #[error("the answer is too long")]
    TooLong,
    /// The answer would have too many rows.
    #[error("the answer has too many rows")]
    TooManyRows,
    /// The statements took too long.
    #[error("the statements took too long")]
    TimedOut,
    /// Answers that nobody reads took all the room.
    #[error("too many answers wait to be read")]
    Unread,
    /// The session broke on the way.
    #[error("the session was lost")]
    Lost(#[source] WireError),
}

impl SqlError {
    /// Whether a standby ended a statement for a reason that a primary does not know: its shutdown, or that the
    /// statement was in the way of replication; or did not say why. That the standby is away is not this tenant's
    /// to say.
    pub fn is_of_a_standby(&self) -> bool {
        const CODES: [&str; 5] = ["40001", "40P01", "57P01", "57P02", "57P04"];
        match self {
            Self::Lost(_) => true,
            Self::Refused(error) => CODES.contains(&error.code.as_str()),
            _ => false,
        }
    }
}

impl From<WireError> for SqlError {
    fn from(error: WireError) -> Self {
        let ours =
            |code, message, hint| Self::Refused(Box::new(PgError::ours(code, message, hint)));
        match error {
            WireError::Postgres(error) | WireError::Stale(error) => Self::Refused(error),
            WireError::TooLong => Self::TooLong,
            WireError::TooManyRows => Self::TooManyRows,
            WireError::Copy => ours(
                "0A000",
                "COPY is not possible over HTTP",
                "read with SELECT, and write with INSERT",
            ),
            WireError::Encoding => ours(
                "22021",
                "a value cannot be shown in UTF-8",
                "convert it in the query, or leave client_encoding as it is",
            ),
            WireError::Text => ours(
                "22021",
                "the statement cannot be sent",
                "take out the character with the code zero",
            ),
            WireError::Parameters => ours(
                "08P01",
                "a statement takes at most 65535 parameters",
                "send several values as one array",
            ),
            WireError::Closed
            | WireError::Io(_)
            | WireError::Protocol(_)
            | WireError::Away
            | WireError::TimedOut => Self::Lost(error),
        }
    }
}
