//! Dropping databases, and who can be in the way of that.
//!
//! Before a server (from version 15 on) removes a database's files, each of its sessions, whichever database it is in,
//! must have let go of them. One that sends rows to a client that does not read them does not come to that, and the wait
//! has no end of its own. So a drop that waits for others is watched, and given up with their names. The database is
//! invalid by then: nobody can enter it any more, and the next drop takes it.

use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use super::{database_facts, not_ours};
use crate::error::Error;
use crate::marker::Marker;
use crate::name::DatabaseName;
use crate::server::{PooledClient, Server, rows};

/// How long the server's other sessions may keep a drop waiting. A client that reads slowly, or that rests while it
/// copies, is back before.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often a drop that takes longer is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Why a database may be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Its marker names this tenant.
    Owner(Uuid),
    /// Its name is one that only this system gives, to databases that no tenant owns: a build, a spare
    /// or a template. A replaced database is a tenant's and needs [`Proof::Owner`].
    Name,
}

impl Server {
    /// Drops a database with every session in it, given a proof that it is ours to drop. That there is
    /// none is fine; that the proof does not hold is [`Error::NotOurs`], and that sessions of other databases
    /// are in the way is [`Error::HeldUp`].
    pub async fn drop_owned_database(
        &self,
        name: &DatabaseName,
        proof: Proof,
    ) -> Result<(), Error> {
        let client = self.lock_names(&[name]).await?;
        let Some(facts) = database_facts(&*client, name).await? else {
            return client.release().await;
        };
        let holds = match proof {
            Proof::Owner(tenant) => facts.belongs_to(tenant),
            Proof::Name => {
                name.is_unowned_form() && facts.marker.as_ref().and_then(Marker::tenant).is_none()
            }
        };
        if !holds {
            return Err(not_ours(name));
        }
        if facts.is_template && !facts.is_invalid {
            client
                .batch_execute(&format!("alter database {} is_template false", name.quoted()))
                .await?;
        }
        self.drop_with_sessions(&client, name).await?;
        client.release().await
    }

    /// Drops a database whose name is locked by `client`.
    pub(super) async fn drop_with_sessions(
        &self,
        client: &PooledClient,
        name: &DatabaseName,
    ) -> Result<(), Error> {
        let statement = format!("drop database {} with (force)", name.quoted());
        let mut dropping = pin!(client.batch_execute(&statement));
        let dropped = tokio::select! {
            dropped = &mut dropping => dropped,
            clients = self.in_the_way(&statement) => {
                client.cancel_token().cancel_query(self.url().tls()).await?;
                match dropping.await {
                    Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => {
                        return Err(Error::HeldUp { server: self.url().host_label(), clients });
                    }
                    ended => ended,
                }
            }
        };
        match dropped {
            // Somebody else with the same proof was faster.
            Err(error) if error.code() == Some(&SqlState::INVALID_CATALOG_NAME) => Ok(()),
            other => other.map_err(|error| self.explain_drop(error)),
        }
    }

    /// The clients that a drop has waited for as long as it may. Resolves for no other reason.
    async fn in_the_way(&self, statement: &str) -> Vec<String> {
        let mut since = None;
        loop {
            sleep(LOOK).await;
            match self.awaited(statement).await {
                Ok(Some(clients)) => {
                    if since.get_or_insert_with(Instant::now).elapsed() >= PATIENCE {
                        return clients;
                    }
                }
                Ok(None) | Err(_) => since = None,
            }
        }
    }

    /// Whom a drop waits for, if it waits for the server's other sessions.
    async fn awaited(&self, statement: &str) -> Result<Option<Vec<String>>, Error> {
        let sql = "-- dropping::awaited
             select array(select format('process %s (%s in %s)', pid, usename, datname) from pg_stat_activity
                          where wait_event = 'ClientWrite' order by pid)
             from pg_stat_activity where query = $1 and wait_event = 'ProcSignalBarrier'";
        let found = rows(&self.client().await?, sql, &[&statement]).await?;
        Ok(found.first().map(|row| row.get(0)))
    }

    fn explain_drop(&self, error: tokio_postgres::Error) -> Error {
        let is_about_sessions = error
            .as_db_error()
            .is_some_and(|refusal| refusal.routine() == Some("TerminateOtherDBBackends"));
        if is_about_sessions { self.explain_signal(error) } else { error.into() }
    }
}
