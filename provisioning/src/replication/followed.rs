//! The side that is followed: what it offers, how far its log has come, and how that is taken away again.

use std::time::Duration;

use secrecy::SecretString;
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use super::{Link, Lsn};
use crate::error::Error;
use crate::marker::{Marker, Owner};
use crate::name::{DatabaseName, RoleName};
use crate::role::{self, Verifier, role_facts, scram_verifier};
use crate::server::{PooledClient, Server, rows};

/// How long whoever reads from a slot may take to go.
const SLOT_FREE: Duration = Duration::from_secs(15);

/// How the slot of a link stands.
#[derive(Clone, Copy, Debug)]
pub struct SlotFacts {
    /// So many bytes of WAL the server keeps for it.
    pub retained_bytes: u64,
    /// So many bytes of WAL the follower has not confirmed yet.
    pub lag_bytes: u64,
    /// Whether the server has removed WAL that the follower still needs.
    pub is_lost: bool,
    /// The process that sends to the follower.
    pub sender: Option<i32>,
}

/// Which of a database's tables a link offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// None; it may have been so before.
    Nothing,
    /// Not those that somebody has made since, also under a name that there was before.
    Some,
    /// All.
    All,
}

impl Server {
    /// Offers every table of a tenant's database to a follower, which logs in with `password`. What is there
    /// already only gets this password.
    pub async fn publish(
        &self,
        database: &DatabaseName,
        link: Link,
        owner: Owner,
        password: &SecretString,
    ) -> Result<(), Error> {
        let carrier = link.name();
        self.ensure_carrier(&carrier, database, owner, &scram_verifier(password)).await?;
        let session = self.connect(database).await?;
        let name = carrier.as_str();
        let row = session
            .query_one(
                "-- followed::publish
                 select exists (select from pg_publication where pubname = $1) as is_published,
                        exists (select from pg_replication_slots
                                where slot_name = $1 and database = current_database()) as has_slot,
                        coalesce(string_agg(format('only %I.%I', n.nspname, c.relname), ', '), '') as tables
                 from pg_class c join pg_namespace n on n.oid = c.relnamespace
                 where c.relkind = 'r' and c.relpersistence = 'p'
                   and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'",
                &[&name],
            )
            .await?;
        if !row.get::<_, bool>("is_published") {
            let tables: &str = row.get("tables");
            let tables =
                if tables.is_empty() { String::new() } else { format!(" for table {tables}") };
            session
                .batch_execute(&format!("create publication {}{tables}", carrier.quoted()))
                .await?;
        }
        if !row.get::<_, bool>("has_slot") {
            session.batch_execute(link.slot_timeout()).await?;
            session
                .execute(
                    "-- followed::publish_slot
                     select pg_create_logical_replication_slot($1, 'pgoutput')",
                    &[&name],
                )
                .await?;
        }
        Ok(())
    }

    /// Takes back what [`Server::publish`] made, in whichever of these databases the tenant's is by now. That there
    /// is nothing is fine.
    pub async fn unpublish(
        &self,
        databases: &[&DatabaseName],
        link: Link,
        tenant: Uuid,
    ) -> Result<(), Error> {
        let carrier = link.name();
        // A follower that cannot be reached would come back at once.
        match self.disable_login(&carrier, tenant).await {
            Err(Error::Missing { .. }) => {}
            disabled => disabled?,
        }
        for database in databases {
            self.drop_slots(database, link).await?;
            let Some(facts) = self.database(database).await? else { continue };
            if facts.belongs_to(tenant) && facts.allow_connections {
                drop_publication(&*self.connect(database).await?, link).await?;
            }
        }
        self.drop_role(&carrier, tenant).await
    }

    /// How the slot of a link stands; `None` if there is none.
    pub async fn slot(&self, link: Link) -> Result<Option<SlotFacts>, Error> {
        let row = self
            .client()
            .await?
            .query_opt(
                "-- followed::slot
                 select pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::int8 as retained,
                        pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::int8 as lag,
                        coalesce(wal_status = 'lost', false) as is_lost, active_pid
                 from pg_replication_slots where slot_name = $1",
                &[&link.name().as_str()],
            )
            .await?;
        let bytes = |number: Option<i64>| u64::try_from(number.unwrap_or(0)).unwrap_or(0);
        Ok(row.map(|row| SlotFacts {
            retained_bytes: bytes(row.get("retained")),
            lag_bytes: bytes(row.get("lag")),
            is_lost: row.get("is_lost"),
            sender: row.get("active_pid"),
        }))
    }

    /// Writes a mark into the server's log. Whatever was committed before this was called stands before it.
    pub async fn mark_log(&self) -> Result<Lsn, Error> {
        mark(&mut self.client().await?).await
    }

    async fn ensure_carrier(
        &self,
        carrier: &RoleName,
        database: &DatabaseName,
        owner: Owner,
        verifier: &str,
    ) -> Result<(), Error> {
        let verifier = Verifier::parse(verifier)?;
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let role = carrier.quoted();
        let mut statements = Vec::new();
        match role_facts(&transaction, carrier).await? {
            // It reads every row of every table, and nothing of any other database.
            None => statements.extend([
                format!(
                    "create role {role} login replication bypassrls nosuperuser nocreatedb nocreaterole \
                     in role pg_read_all_data password {verifier}"
                ),
                format!("comment on role {role} is '{}'", Marker::Tenant(owner)),
            ]),
            Some(facts) if facts.belongs_to(owner.tenant) => {
                statements.push(format!("alter role {role} login password {verifier}"));
            }
            Some(_) => return Err(role::not_ours(carrier)),
        }
        statements.push(format!("grant connect on database {} to {role}", database.quoted()));
        transaction.batch_execute(&statements.join("; ")).await?;
        Ok(transaction.commit().await?)
    }

    /// Drops the slot of a link, and those by which its tables were being copied, unless another move follows this
    /// database, too. That there is none is fine.
    pub async fn drop_slots(&self, database: &DatabaseName, link: Link) -> Result<(), Error> {
        let carrier = link.name();
        let client = self.client().await?;
        let deadline = Instant::now() + SLOT_FREE;
        loop {
            let found = rows(
                &client,
                r"-- followed::drop_slots
                  select slot_name::text, active_pid from pg_replication_slots
                  where slot_name = $1
                     or database = $2 and slot_name ~ '^pg_[0-9]+_sync_[0-9]+_[0-9]+$'
                        and not exists (select from pg_replication_slots f
                                        where f.database = $2 and f.slot_name <> $1
                                          and f.slot_name !~ '^(tenantry_back_|pg_[0-9]+_sync_)')",
                &[&carrier.as_str(), &database.as_str()],
            )
            .await?;
            let mut left = found.len();
            for slot in &found {
                let (name, reader): (&str, Option<i32>) = (slot.get(0), slot.get(1));
                let ended = match reader {
                    Some(pid) => client.execute("select pg_terminate_backend($1)", &[&pid]).await,
                    None => client.execute("select pg_drop_replication_slot($1)", &[&name]).await,
                };
                match ended {
                    Ok(_) if reader.is_none() => left -= 1,
                    Ok(_) => {}
                    // Whoever copies a table may have come back, or dropped its slot itself.
                    Err(error) if is_about_others(&error) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            if left == 0 {
                return Ok(());
            }
            if Instant::now() > deadline {
                let server = self.url().host_label();
                return Err(Error::TimedOut {
                    server,
                    what: "waiting for a replication slot to be free",
                });
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

fn is_about_others(error: &tokio_postgres::Error) -> bool {
    matches!(error.code(), Some(&SqlState::OBJECT_IN_USE | &SqlState::UNDEFINED_OBJECT))
}

/// Whether a database's tables are offered by a link, by a session in it: none of them, all, or not those that were
/// made since.
pub async fn offered(session: &Client, link: Link) -> Result<Offered, Error> {
    let row = session
        .query_one(
            "-- followed::offered
             select exists (select from pg_publication where pubname = $1) as is_published,
                    exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
                            where c.relkind = 'r' and c.relpersistence = 'p'
                              and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
                              and not exists (select from pg_publication_rel r
                                              join pg_publication p on p.oid = r.prpubid
                                              where p.pubname = $1 and r.prrelid = c.oid)) as lacks_some",
            &[&link.name().as_str()],
        )
        .await?;
    Ok(match (row.get("is_published"), row.get("lacks_some")) {
        (false, _) => Offered::Nothing,
        (true, true) => Offered::Some,
        (true, false) => Offered::All,
    })
}

/// Offers a database's tables no more, by a session in it.
pub async fn drop_publication(session: &Client, link: Link) -> Result<(), Error> {
    let name = link.name().quoted();
    Ok(session.batch_execute(&format!("drop publication if exists {name}")).await?)
}

/// Drops what came into a copy of a database with the rest: nobody follows a copy.
pub async fn drop_link_publications(session: &Client) -> Result<(), Error> {
    let row = session
        .query_one(
            "-- followed::drop_link_publications
             select string_agg('drop publication ' || quote_ident(pubname), '; ') from pg_publication
             where pubname ~ '^tenantry_(move|back)_[0-9a-f]{32}$'",
            &[],
        )
        .await?;
    let Some(statements) = row.get::<_, Option<&str>>(0) else { return Ok(()) };
    Ok(session.batch_execute(statements).await?)
}

impl Link {
    /// A slot begins when every transaction has ended that was open on its server: no longer than this. The way back
    /// is not worth a long wait.
    fn slot_timeout(self) -> &'static str {
        match self {
            Self::Move(_) => "set statement_timeout = '5min'",
            Self::Back(_) => "set statement_timeout = '5s'",
        }
    }
}

/// [`Server::mark_log`] by a session that is there.
pub(super) async fn mark(client: &mut PooledClient) -> Result<Lsn, Error> {
    let transaction = client.transaction().await?;
    // What stands before it is on the disk then, also where a session does not wait for that.
    transaction.batch_execute("set local synchronous_commit = local").await?;
    let row = transaction
        .query_one(
            "-- followed::mark
             select pg_wal_lsn_diff(pg_logical_emit_message(true, 'tenantry', ''::text), '0/0')::int8",
            &[],
        )
        .await?;
    transaction.commit().await?;
    Ok(Lsn(row.get(0)))
}
