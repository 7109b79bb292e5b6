//! [`PgError`]: an error of PostgreSQL with everything that it says, in the names of the client's library.

use std::fmt;
use std::io;

use fallible_iterator::FallibleIterator as _;
use postgres_protocol::message::backend::ErrorResponseBody;
use serde::Serialize;

/// What PostgreSQL says about an error; what it does not say is null.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PgError {
    pub message: String,
    pub severity: String,
    /// The SQLSTATE.
    pub code: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    pub position: Option<String>,
    pub internal_position: Option<String>,
    pub internal_query: Option<String>,
    pub r#where: Option<String>,
    pub schema: Option<String>,
    pub table: Option<String>,
    pub column: Option<String>,
    pub data_type: Option<String>,
    pub constraint: Option<String>,
    pub file: Option<String>,
    pub line: Option<String>,
    pub routine: Option<String>,
}

impl PgError {
    /// An error that we find before, or instead of, PostgreSQL.
    pub fn ours(code: &str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            severity: "ERROR".to_owned(),
            code: code.to_owned(),
            hint: Some(hint.into()),
            ..Self::default()
        }
    }

    pub(super) fn read(body: &ErrorResponseBody) -> io::Result<Self> {
        let mut error = Self::default();
        let mut fields = body.fields();
        while let Some(field) = fields.next()? {
            let value = String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'M' => error.message = value,
                b'V' => error.severity = value,
                // The translated severity, for servers too old to send the other.
                b'S' if error.severity.is_empty() => error.severity = value,
                b'C' => error.code = value,
                b'D' => error.detail = Some(value),
                b'H' => error.hint = Some(value),
                b'P' => error.position = Some(value),
                b'p' => error.internal_position = Some(value),
                b'q' => error.internal_query = Some(value),
                b'W' => error.r#where = Some(value),
                b's' => error.schema = Some(value),
                b't' => error.table = Some(value),
                b'c' => error.column = Some(value),
                b'd' => error.data_type = Some(value),
                b'n' => error.constraint = Some(value),
                b'F' => error.file = Some(value),
                b'L' => error.line = Some(value),
                b'R' => error.routine = Some(value),
                _ => {}
            }
        }
        Ok(error)
    }

    /// Whether the session ends with it.
    pub(super) fn is_fatal(&self) -> bool {
        matches!(self.severity.as_str(), "FATAL" | "PANIC")
    }
}

/// For the log: neither the message nor the detail, which may quote a tenant's data.
impl fmt::Display for PgError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.severity, self.code)
    }
}
