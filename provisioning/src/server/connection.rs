//! [`Connection`]: one session that belongs to nobody's pool.

use std::fmt;
use std::ops::{Deref, DerefMut};

use tokio_postgres::{Client, Socket};

/// A session of its own. It ends when this value is dropped, and with it every lock it holds.
pub struct Connection {
    client: Client,
}

impl Connection {
    /// Takes the two halves that the driver made and drives the one for the other.
    pub(super) fn new<S>(client: Client, driver: tokio_postgres::Connection<Socket, S>) -> Self
    where
        S: tokio_postgres::tls::TlsStream + Unpin + Send + 'static,
    {
        // Ends by itself once the client is dropped: it says goodbye to the server first.
        tokio::spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(error = %crate::error::Cause::from(error), "a connection was lost");
            }
        });
        Self { client }
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
