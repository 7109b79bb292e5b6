//! [`Connection`]: one session that belongs to nobody's pool.

use std::fmt;
use std::ops::{Deref, DerefMut};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::Client;

use super::line::{Lender, Lent};

/// A session of its own. It ends when this value is dropped, and with it every lock it holds.
pub struct Connection {
    client: Client,
    lender: Option<Lender>,
    /// What the server said of the session at its start.
    reported: Vec<(&'static str, String)>,
}

/// What a server says of a session that libpq remembers.
const REPORTED: [&str; 7] = [
    "server_encoding",
    "server_version",
    "is_superuser",
    "session_authorization",
    "DateStyle",
    "integer_datetimes",
    "standard_conforming_strings",
];

impl Connection {
    /// Takes the two halves that the driver made and drives the one for the other.
    pub(super) fn new<S, T>(
        client: Client,
        driver: tokio_postgres::Connection<S, T>,
        lender: Option<Lender>,
    ) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let value = |name| Some((name, driver.parameter(name)?.to_owned()));
        let reported = REPORTED.into_iter().filter_map(value).collect();
        // Ends by itself once the client is dropped: it says goodbye to the server first.
        tokio::spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(error = %crate::error::Cause::from(error), "a connection was lost");
            }
        });
        Self { client, lender, reported }
    }

    /// Whether the session can be lent to a program of PostgreSQL's.
    #[must_use]
    pub fn can_be_lent(&self) -> bool {
        self.lender.is_some()
    }

    /// What the server said of the session at its start, by the names of settings.
    pub(super) fn reported(&self) -> &[(&'static str, String)] {
        &self.reported
    }

    /// The session's line, while none of our own statements runs.
    pub(super) fn lend(&self) -> Option<Lent> {
        self.lender.as_ref().and_then(Lender::lend)
    }

    /// Whether the session has ended, by whichever side.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }
}

impl Deref for Connection {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("is_closed", &self.is_closed()).finish()
    }
}
