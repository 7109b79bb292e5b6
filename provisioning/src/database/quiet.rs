//! Stopping the writes of a database that another one follows: gently first, then for certain.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::owned_by;
use crate::error::Error;
use crate::name::DatabaseName;
use crate::server::{Server, rows};

/// Whoever has been idle for longer than this does not hold a connection for one request.
const IDLE_SECS: f64 = 1.0;
/// Between two looks.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LAST_PAUSE: Duration = Duration::from_millis(20);

impl Server {
    /// Waits until nobody is at work in a database any more, for at most `patience`: requests that were let in before
    /// they are held come to their end. Refuses nothing.
    pub async fn await_quiet(
        &self,
        database: &DatabaseName,
        patience: Duration,
    ) -> Result<(), Error> {
        let client = self.client().await?;
        let deadline = Instant::now() + patience;
        let mut pause = FIRST_PAUSE;
        loop {
            let busy = rows(
                &client,
                "-- quiet::await_quiet
                 select from pg_stat_activity
                 where datname = $1 and backend_type = 'client backend' and usename <> current_user
                   and (state is distinct from 'idle'
                        or state_change > now() - $2::float8 * interval '1 second')
                 limit 1",
                &[&database.as_str(), &IDLE_SECS],
            )
            .await?;
            if busy.is_empty() || Instant::now() > deadline {
                return Ok(());
            }
            sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    /// Refuses new connections to a tenant's database and ends those that are open, except for `spared`: who sends
    /// what was written to a follower, and who reads what that does not carry. What they may do is to read.
    pub async fn quiesce(
        &self,
        database: &DatabaseName,
        tenant: Uuid,
        spared: &[i32],
    ) -> Result<u64, Error> {
        let client = self.client().await?;
        let facts = owned_by(&client, database, tenant).await?;
        self.shut_but(&client, database, facts.oid, spared).await
    }
}
