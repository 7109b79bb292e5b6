//! [`Halt`]: a moment in which nobody writes to what is published, so that two servers can be seen at one and the
//! same moment.

use std::time::Duration;

use tokio_postgres::error::SqlState;

use super::followed::mark;
use super::{Link, Lsn};
use crate::error::Error;
use crate::name::DatabaseName;
use crate::server::{Connection, Server};

/// Writers wait while it lives, at their next statement; readers do not.
#[derive(Debug)]
pub struct Halt {
    session: Connection,
    snapshot: String,
    mark: Lsn,
}

impl Halt {
    /// Takes the tables that a link publishes from their writers. Nothing, where the transactions of the writers do
    /// not end within `patience`: whoever comes after them waits for us, so that has to be short.
    pub async fn begin(
        server: &Server,
        database: &DatabaseName,
        link: Link,
        patience: Duration,
    ) -> Result<Option<Self>, Error> {
        let session = server.connect(database).await?;
        // Whoever waits for a free connection must not wait while others wait for us.
        let mut log = server.client().await?;
        let row = session
            .query_one(
                "-- halt::begin
                 select string_agg(format('only %I.%I', schemaname, tablename), ', ')
                 from pg_publication_tables where pubname = $1",
                &[&link.name().as_str()],
            )
            .await?;
        // A vacuum makes way for who has waited as long as this for a deadlock; and where nothing is heard of us any more,
        // the server lets the writers go on.
        let timeouts = format!(
            "set deadlock_timeout = '50ms'; set idle_in_transaction_session_timeout = '5s';
             begin isolation level repeatable read; set local statement_timeout = '{}ms'",
            patience.as_millis()
        );
        session.batch_execute(&timeouts).await?;
        if let Some(tables) = row.get::<_, Option<&str>>(0) {
            match session.batch_execute(&format!("lock table {tables} in share mode")).await {
                Err(error) if is_in_use(&error) => return Ok(None),
                locked => locked?,
            }
        }
        session.batch_execute("set local statement_timeout = 0").await?;
        // The transaction has seen nothing until now: it sees what was there when the last lock was had.
        let row = session.query_one("select pg_export_snapshot()", &[]).await?;
        let mark = mark(&mut log).await?;
        Ok(Some(Self { session, snapshot: row.get(0), mark }))
    }

    /// Where this is in the server's log: what the snapshot holds stands before it, and nothing else.
    #[must_use]
    pub fn mark(&self) -> Lsn {
        self.mark
    }

    /// What the database holds now, for another session's `set transaction snapshot`.
    #[must_use]
    pub fn snapshot(&self) -> &str {
        &self.snapshot
    }

    /// Lets the writers go on.
    pub async fn end(self) -> Result<(), Error> {
        Ok(self.session.batch_execute("rollback").await?)
    }
}

fn is_in_use(error: &tokio_postgres::Error) -> bool {
    let busy =
        [SqlState::QUERY_CANCELED, SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_DEADLOCK_DETECTED];
    error.code().is_some_and(|code| busy.contains(code))
}
