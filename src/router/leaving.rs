//! [`Backend`]: what becomes of one whose caller has left in the middle of a statement.
//!
//! To cancel is to ask. A statement can catch that, and goes on: a backend at work does not see that its socket is
//! closed. So whoever has the right to a connection keeps it until the backend has ended, and one that does not end
//! soon is terminated, which nothing catches. The server's administrator does that: the tenant's role may have no
//! connection left, or a password that we do not know.
//!
//! Must never: give a place back that PostgreSQL still counts, or end a backend of another role.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tenantry_provisioning::{Error, RoleName, ServerUrl};
use tokio::time::timeout;

/// How long a backend may take to stop, at first and at most between two attempts to end it.
const PAUSES: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));
/// How long an attempt may take.
const LIMIT: Duration = Duration::from_secs(10);

/// A server's process behind one connection.
#[derive(Clone)]
pub(crate) struct Backend {
    /// The server, as the administrator reaches it.
    pub home: Arc<ServerUrl>,
    /// Whom it works for.
    pub role: RoleName,
    pub process_id: i32,
}

impl Backend {
    /// Waits for the end of a backend that was asked to stop, and ends it if it goes on.
    pub async fn see_off(self, ended: impl Future<Output = ()>) {
        let (mut ended, mut pause) = (pin!(ended), PAUSES.0);
        while timeout(pause, ended.as_mut()).await.is_err() {
            match timeout(LIMIT, self.terminate()).await {
                Ok(Ok(true)) => {
                    tracing::warn!(role = %self.role, "a statement went on without its caller, and was ended");
                }
                Ok(Ok(false)) => return,
                Ok(Err(error)) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(role = %self.role, error, "a statement goes on without its caller");
                }
                Err(_) => {
                    tracing::warn!(role = %self.role, "a statement goes on without its caller");
                }
            }
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// False if it is gone.
    async fn terminate(&self) -> Result<bool, Error> {
        let session = self.home.connect().await?;
        let sql = "-- leaving::terminate
             select pg_terminate_backend(pid) from pg_stat_activity where pid = $1 and usename = $2";
        let ended = session.query_opt(sql, &[&self.process_id, &self.role.as_str()]).await?;
        Ok(ended.is_some())
    }
}
