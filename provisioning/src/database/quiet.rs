//! Stopping the writes of a database that another one follows: gently first, then for certain.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::owned_by;
use crate::error::Error;
use crate::name::DatabaseName;
use crate::server::Server;

/// Whoever has been idle for longer than this does not hold a connection for one request.
const IDLE_SECS: f64 = 1.0;

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
        loop {
            let row = client
                .query_one(
                    "-- quiet::await_quiet
                     select count(*) from pg_stat_activity
                     where datname = $1 and backend_type = 'client backend' and usename <> current_user
                       and (state is distinct from 'idle'
                            or state_change > now() - $2::float8 * interval '1 second')",
                    &[&database.as_str(), &IDLE_SECS],
                )
                .await?;
            if row.get::<_, i64>(0) == 0 || Instant::now() > deadline {
                return Ok(());
            }
            sleep(Duration::from_millis(5)).await;
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
