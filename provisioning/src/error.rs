//! [`Error`]: what can go wrong on a server, what PostgreSQL said, and what an operator can do about it.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::io;

use thiserror::Error;
use tokio_postgres::error::{DbError, SqlState};

/// Why a server did not do what it was asked to.
#[derive(Debug, Error)]
pub enum Error {
    /// The connection string cannot be used. Says what is wrong with it and repeats nothing of it.
    #[error("the connection string {0}")]
    Url(String),
    /// No session could be opened.
    #[error("the server {server} cannot be reached: {source}")]
    Unreachable {
        /// Host and port.
        server: String,
        /// What the driver said.
        source: Cause,
    },
    /// Something took longer than it may.
    #[error("the server {server} took too long: {what}")]
    TimedOut {
        /// Host and port.
        server: String,
        /// What was waited for.
        what: &'static str,
    },
    /// A database is not dropped, since a session of the server does not let go of its files.
    #[error("the server {server} drops no database before all its sessions have let go of it{}", unread(.clients))]
    HeldUp {
        /// Host and port.
        server: String,
        /// Whose clients do not read what they asked for: processes, roles and databases. Empty if none is seen,
        /// or the administrator may not look.
        clients: Vec<String>,
    },
    /// The server has no connection left.
    #[error("the server has no free connection: {0}")]
    TooManyConnections(#[source] Cause),
    /// The server's disk is full.
    #[error("the server's disk is full: {0}")]
    DiskFull(#[source] Cause),
    /// The user of the connection string lacks a privilege.
    #[error("the administrator lacks a privilege: {what}")]
    MissingPrivilege {
        /// What was refused.
        what: String,
        /// What grants it, when that is known.
        remedy: Option<String>,
        /// What PostgreSQL said, when it was PostgreSQL that refused.
        source: Option<Cause>,
    },
    /// A database that must be quiet has sessions in it.
    #[error("the database is in use: {0}")]
    SourceInUse(#[source] Cause),
    /// The operating system sorts text in another way than when the template was made.
    #[error("the template's collation is out of date: {0}")]
    CollationMismatch(#[source] Cause),
    /// A thing has the name that we need and was not made by us for this owner. It is left alone.
    #[error("the {kind} `{name}` exists and does not belong to this tenant")]
    NotOurs {
        /// `database` or `role`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// A thing that must be there is not.
    #[error("there is no {kind} `{name}`")]
    Missing {
        /// `database`, `role` or `subscription`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// A password was to be set that is not a SCRAM-SHA-256 verifier.
    #[error("the password is not a SCRAM-SHA-256 verifier")]
    NotAVerifier,
    /// A session was lent to one of PostgreSQL's programs, and lost.
    #[error("the session that a program worked in is lost")]
    Lent(#[source] io::Error),
    /// PostgreSQL refused a statement for another reason, or the connection broke.
    #[error("the server refused a statement: {0}")]
    Database(#[source] Cause),
}

/// What the driver or PostgreSQL said, in full: its own `Display` stops at "db error".
pub struct Cause(tokio_postgres::Error);

impl Error {
    /// PostgreSQL's code for the error, if it came from there.
    #[must_use]
    pub fn sql_state(&self) -> Option<&SqlState> {
        self.cause().and_then(Cause::sql_state)
    }

    /// Whether the same call may succeed later without anybody's doing.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::TimedOut { .. }
            | Self::HeldUp { .. }
            | Self::TooManyConnections(_)
            | Self::SourceInUse(_)
            | Self::Lent(_) => true,
            Self::Unreachable { source, .. } | Self::Database(source) => source.is_transient(),
            Self::Url(_)
            | Self::DiskFull(_)
            | Self::MissingPrivilege { .. }
            | Self::CollationMismatch(_)
            | Self::NotOurs { .. }
            | Self::Missing { .. }
            | Self::NotAVerifier => false,
        }
    }

    /// What the operator should do.
    #[must_use]
    pub fn remedy(&self) -> Option<Cow<'static, str>> {
        let text = match self {
            Self::Url(_) => {
                "write it as postgres://user:password@host:5432/postgres, or as host=… user=… password=…"
            }
            Self::Unreachable { source, .. } => return Some(source.unreachable_remedy().into()),
            Self::TimedOut { .. } => "look at the server's load and at the network, then try again",
            Self::HeldUp { .. } => {
                "most often a client does not read the rows that it asked for (pg_stat_activity shows the wait event \
                 ClientWrite): let it read on, or end its session by `select pg_terminate_backend(…)`; then try again"
            }
            Self::TooManyConnections(_) => {
                "end idle sessions or raise max_connections on the server, then try again"
            }
            Self::DiskFull(_) => "free disk space on the server, then try again",
            Self::MissingPrivilege { remedy, .. } => {
                let otherwise = "the user of the connection string needs LOGIN, CREATEDB and CREATEROLE, and \
                                 must own the databases; `tenantry server check` names what is missing";
                return Some(remedy.clone().map_or(otherwise.into(), Into::into));
            }
            Self::SourceInUse(_) => {
                "end the sessions in that database (pg_stat_activity shows them), then try again"
            }
            Self::CollationMismatch(_) => {
                "drop our template so that it is built anew, or rebuild its text indexes and run \
                 `alter database … refresh collation version`, then try again"
            }
            Self::NotOurs { .. } => {
                "nothing was changed: rename or remove it by hand, or choose another name"
            }
            Self::Database(cause)
                if cause.sql_state() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION) =>
            {
                "this is a standby: name the primary, or all hosts with target_session_attrs=read-write"
            }
            Self::Missing { .. } | Self::NotAVerifier | Self::Lent(_) | Self::Database(_) => {
                return None;
            }
        };
        Some(text.into())
    }

    /// What could not be opened: a session at `server`.
    pub(crate) fn unreachable(server: String, source: tokio_postgres::Error) -> Self {
        match Self::from(source) {
            Self::Database(source) => Self::Unreachable { server, source },
            named => named,
        }
    }

    pub(crate) fn cause(&self) -> Option<&Cause> {
        match self {
            Self::Unreachable { source, .. }
            | Self::TooManyConnections(source)
            | Self::DiskFull(source)
            | Self::SourceInUse(source)
            | Self::CollationMismatch(source)
            | Self::Database(source) => Some(source),
            Self::MissingPrivilege { source, .. } => source.as_ref(),
            Self::Url(_)
            | Self::TimedOut { .. }
            | Self::HeldUp { .. }
            | Self::NotOurs { .. }
            | Self::Missing { .. }
            | Self::NotAVerifier
            | Self::Lent(_) => None,
        }
    }
}

fn unread(clients: &[String]) -> String {
    if clients.is_empty() {
        return String::new();
    }
    format!("; not read by their clients are {}", clients.join(", "))
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        let cause = Cause(error);
        match cause.sql_state() {
            Some(&SqlState::TOO_MANY_CONNECTIONS) => Self::TooManyConnections(cause),
            Some(&SqlState::DISK_FULL) => Self::DiskFull(cause),
            Some(&SqlState::OBJECT_IN_USE) => Self::SourceInUse(cause),
            Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Self::MissingPrivilege {
                what: cause.to_string(),
                remedy: None,
                source: Some(cause),
            },
            Some(&SqlState::INTERNAL_ERROR) if cause.is_about_collations() => {
                Self::CollationMismatch(cause)
            }
            _ => Self::Database(cause),
        }
    }
}

impl Cause {
    /// PostgreSQL's code, if PostgreSQL said it.
    #[must_use]
    pub fn sql_state(&self) -> Option<&SqlState> {
        self.0.code()
    }

    /// PostgreSQL's own words, if it said something.
    #[must_use]
    pub fn as_db_error(&self) -> Option<&DbError> {
        self.0.as_db_error()
    }

    /// Whether waiting may be enough.
    pub(crate) fn is_transient(&self) -> bool {
        let Some(error) = self.as_db_error() else {
            return self.is_broken_connection();
        };
        let code = error.code().code();
        code.starts_with("08")
            || code.starts_with("57P0")
            || ["40001", "40P01", "55P03", "53000", "53200", "53300", "25006"].contains(&code)
            // Two sessions granted something on one database at the same moment.
            || matches!(error.routine(), Some("simple_heap_update" | "simple_heap_delete"))
    }

    /// Whether the network or the server went away, as opposed to a wrong setting or a wrong certificate.
    fn is_broken_connection(&self) -> bool {
        if self.0.is_closed() {
            return true;
        }
        let mut cause = self.0.source();
        while let Some(inner) = cause {
            if let Some(io) = inner.downcast_ref::<std::io::Error>() {
                // The TLS stream reports a certificate that it refuses as invalid data.
                return io.kind() != std::io::ErrorKind::InvalidData;
            }
            cause = inner.source();
        }
        false
    }

    /// PostgreSQL's messages are translated; the name of the statement in the hint is not.
    fn is_about_collations(&self) -> bool {
        self.as_db_error().is_some_and(|error| {
            error.routine() == Some("createdb")
                && (error.message().contains("collation version")
                    || error.hint().is_some_and(|hint| hint.contains("REFRESH COLLATION VERSION")))
        })
    }

    fn unreachable_remedy(&self) -> &'static str {
        match self.sql_state().map(SqlState::code) {
            Some("28P01" | "28000") => {
                "check user and password in the connection string, and pg_hba.conf"
            }
            Some("22023") => "run `tenantry server prepare`: the server lacks our roles",
            Some("3D000") => "check the name of the database in the connection string",
            Some(code) if code.starts_with("57P0") => {
                "wait until the server has started, then try again"
            }
            _ => {
                "check host and port, that the server runs, and the sslmode of the connection string"
            }
        }
    }
}

impl From<tokio_postgres::Error> for Cause {
    fn from(error: tokio_postgres::Error) -> Self {
        Self(error)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(error) = self.as_db_error() else {
            write!(f, "{}", self.0)?;
            let mut cause = self.0.source();
            while let Some(inner) = cause {
                write!(f, ": {inner}")?;
                cause = inner.source();
            }
            return Ok(());
        };
        let code = error.code().code();
        write!(f, "{} (SQLSTATE {code})", error.message())?;
        // The details of a data or constraint error quote the tenant's rows.
        if let Some(detail) =
            error.detail().filter(|_| !code.starts_with("22") && !code.starts_with("23"))
        {
            write!(f, ". {detail}")?;
        }
        error.hint().map_or(Ok(()), |hint| write!(f, ". {hint}"))
    }
}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cause({self})")
    }
}

impl StdError for Cause {}
