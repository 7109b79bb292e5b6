//! [`Cancel`]: stops the statement that a session runs, by a connection of its own.

use std::fmt;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use tenantry_provisioning::ServerUrl;
use tenantry_provisioning::dial::Address;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::connect::{open, time_for};

/// What it takes to stop a session's statement. The key is a secret of that session.
#[derive(Clone)]
pub(in crate::sql) struct Cancel {
    url: ServerUrl,
    address: Address,
    process_id: i32,
    key: i32,
}

impl Cancel {
    pub(super) fn new(url: ServerUrl, address: Address, process_id: i32, key: i32) -> Self {
        Self { url, address, process_id, key }
    }

    pub(super) fn process_id(&self) -> i32 {
        self.process_id
    }

    /// Asks the server to stop. It says nothing, and may have been done already.
    pub async fn send(self) {
        let sending = async {
            let (mut stream, _) = open(&self.url, &self.address).await?;
            let mut message = BytesMut::new();
            frontend::cancel_request(self.process_id, self.key, &mut message);
            stream.write_all(&message).await?;
            stream.flush().await?;
            // The server closes once it has passed the request on.
            stream.read_to_end(&mut Vec::new()).await?;
            Ok::<_, super::WireError>(())
        };
        match timeout(time_for(&self.url.config()), sending).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a statement could not be cancelled"),
            Err(_) => tracing::debug!("a statement could not be cancelled in time"),
        }
    }
}

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cancel").field("process_id", &self.process_id).finish_non_exhaustive()
    }
}
