//! Databases: what a server says of them, who they belong to, and how they are shut.
//!
//! Whatever changes a database here looks at its marker or at its name first. There is no function
//! that takes a name on trust.

use std::collections::HashSet;
use std::time::Duration;

use deadpool_postgres::GenericClient;
use tokio::time::{Instant, sleep};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use crate::error::{Cause, Error};
use crate::marker::Marker;
use crate::name::DatabaseName;
use crate::server::{Server, rows};

mod build;
mod dropping;
mod possession;
mod quiet;
mod rename;

pub use build::Source;
pub use dropping::Proof;
pub(crate) use possession::handing_over;
pub use possession::{Possession, Retirement, Swap};
pub use rename::Rename;

/// How long ended sessions may take to go: a backend looks for the order between two pieces of work.
const SESSIONS_END: Duration = Duration::from_secs(15);

/// What a server says of a database.
#[derive(Clone, Debug)]
pub struct DatabaseFacts {
    /// Its name, which need not be one that this system would give.
    pub name: String,
    /// Its identity on the server; a rename keeps it.
    pub oid: u32,
    /// What its comment says, if that is one of ours.
    pub marker: Option<Marker>,
    /// Whether it accepts connections.
    pub allow_connections: bool,
    /// Whether it may be cloned by everybody who may create databases, and by nobody dropped.
    pub is_template: bool,
    /// Whether a `drop database` was interrupted: such a database can only be dropped again.
    pub is_invalid: bool,
    /// Its stamp: `<tenant>:<epoch>`.
    pub stamp: Option<String>,
    /// How many sessions are in it.
    pub connections: i64,
}

impl DatabaseFacts {
    /// Whether its marker names this tenant.
    #[must_use]
    pub fn belongs_to(&self, tenant: Uuid) -> bool {
        self.marker.as_ref().and_then(Marker::tenant) == Some(tenant)
    }
}

impl Server {
    /// What the server says of this database; `None` if there is none.
    pub async fn database(&self, name: &DatabaseName) -> Result<Option<DatabaseFacts>, Error> {
        let client = self.client().await?;
        database_facts(&client, name).await
    }

    /// The names of the transactions that are prepared in a database: while there is one, it can neither be renamed
    /// nor dropped, however long its sessions are gone.
    pub async fn prepared_transactions(&self, name: &DatabaseName) -> Result<Vec<String>, Error> {
        let sql = "-- database::prepared_transactions
                   select gid from pg_prepared_xacts where database = $1 order by prepared";
        let found = rows(&self.client().await?, sql, &[&name.as_str()]).await?;
        Ok(found.iter().map(|row| row.get(0)).collect())
    }

    /// Every database that carries a marker of ours or a name that this system would give.
    pub async fn list_databases(&self) -> Result<Vec<DatabaseFacts>, Error> {
        let rows = self
            .client()
            .await?
            .query(
                r"-- database::list_databases
                  select d.datname::text, d.oid, shobj_description(d.oid, 'pg_database') as comment,
                         d.datallowconn, d.datistemplate, d.datconnlimit,
                         (select s from pg_db_role_setting, unnest(setconfig) s
                          where setdatabase = d.oid and setrole = 0 and s like 'tenantry.tenant=%') as stamp,
                         coalesce(a.sessions, 0) as sessions
                  from pg_database d
                  left join (select datid, count(*) as sessions from pg_stat_activity
                             where usesysid is not null group by datid) a on a.datid = d.oid
                  where d.datname like 'tenantry\_%' or d.datname like 'tenant\_%'
                     or shobj_description(d.oid, 'pg_database') like 'tenantry %'
                  order by d.datname",
                &[],
            )
            .await?;
        Ok(rows.iter().map(from_row).collect())
    }

    /// Refuses new connections to a tenant's database and ends those that are open. Returns how many
    /// were ended, after they are gone.
    pub async fn fence(&self, database: &DatabaseName, tenant: Uuid) -> Result<u64, Error> {
        let client = self.client().await?;
        let facts = owned_by(&client, database, tenant).await?;
        self.shut(&client, database, facts.oid).await
    }

    /// Accepts connections to a tenant's database again.
    pub async fn unfence(&self, database: &DatabaseName, tenant: Uuid) -> Result<(), Error> {
        let client = self.client().await?;
        owned_by(&client, database, tenant).await?;
        client
            .batch_execute(&format!("alter database {} allow_connections true", database.quoted()))
            .await?;
        Ok(())
    }

    /// Refuses new connections to a database and waits until the present ones are gone.
    async fn shut(
        &self,
        client: &impl GenericClient,
        database: &DatabaseName,
        oid: u32,
    ) -> Result<u64, Error> {
        self.shut_but(client, database, oid, &[]).await
    }

    /// The same, with some of the present sessions left where they are.
    pub(crate) async fn shut_but(
        &self,
        client: &impl GenericClient,
        database: &DatabaseName,
        oid: u32,
        spared: &[i32],
    ) -> Result<u64, Error> {
        client
            .batch_execute(&format!("alter database {} allow_connections false", database.quoted()))
            .await?;
        self.end_sessions(client, oid, spared).await
    }

    pub(crate) async fn end_sessions(
        &self,
        client: &impl GenericClient,
        oid: u32,
        spared: &[i32],
    ) -> Result<u64, Error> {
        let deadline = Instant::now() + SESSIONS_END;
        let mut pause = Duration::from_millis(2);
        let mut ended = HashSet::new();
        loop {
            // A session that is being opened holds a lock on the database and is not listed yet.
            let found = rows(
                client,
                "-- database::end_sessions
                 with told as (
                     select pid, pg_terminate_backend(pid) as sent from pg_stat_activity
                     where datid = $1 and usesysid is not null and pid <> pg_backend_pid()
                       and pid <> all ($2::int4[]))
                 select (select coalesce(array_agg(pid), '{}') from told where sent is not null),
                        (select count(*) from pg_locks
                         where locktype = 'object' and classid = 'pg_database'::regclass and objid = $1
                           and mode = 'RowExclusiveLock' and pid <> pg_backend_pid())",
                &[&oid, &spared],
            )
            .await
            .map_err(|error| self.explain_signal(error))?;
            let (present, arriving): (Vec<i32>, i64) = (found[0].get(0), found[0].get(1));
            if present.is_empty() && arriving == 0 {
                return Ok(u64::try_from(ended.len()).unwrap_or(u64::MAX));
            }
            ended.extend(present);
            if Instant::now() > deadline {
                let server = self.url().host_label();
                return Err(Error::TimedOut { server, what: "waiting for sessions to end" });
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    fn explain_signal(&self, error: tokio_postgres::Error) -> Error {
        if error.code() != Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
            return error.into();
        }
        Error::MissingPrivilege {
            what: "ending another role's session in the database".to_owned(),
            remedy: Some(format!(
                "end that session by hand, or, as a superuser, run `grant pg_signal_backend to \"{}\"`",
                self.url().user()
            )),
            source: Some(Cause::from(error)),
        }
    }
}

pub(crate) async fn database_facts(
    client: &impl GenericClient,
    name: &DatabaseName,
) -> Result<Option<DatabaseFacts>, Error> {
    let statement = client
        .prepare_cached(
            "-- database::database_facts
             select d.datname::text, d.oid, shobj_description(d.oid, 'pg_database') as comment,
                    d.datallowconn, d.datistemplate, d.datconnlimit,
                    (select s from pg_db_role_setting, unnest(setconfig) s
                     where setdatabase = d.oid and setrole = 0 and s like 'tenantry.tenant=%') as stamp,
                    (select count(*) from pg_stat_activity a
                     where a.datid = d.oid and a.usesysid is not null) as sessions
             from pg_database d where d.datname = $1",
        )
        .await?;
    Ok(client.query_opt(&statement, &[&name.as_str()]).await?.as_ref().map(from_row))
}

/// The database, if it is there and its marker names this tenant.
pub(crate) async fn owned_by(
    client: &impl GenericClient,
    database: &DatabaseName,
    tenant: Uuid,
) -> Result<DatabaseFacts, Error> {
    match database_facts(client, database).await? {
        Some(facts) if facts.belongs_to(tenant) => Ok(facts),
        Some(_) => Err(not_ours(database)),
        None => Err(missing(database)),
    }
}

pub(crate) fn not_ours(database: &DatabaseName) -> Error {
    Error::NotOurs { kind: "database", name: database.to_string() }
}

pub(crate) fn missing(database: &DatabaseName) -> Error {
    Error::Missing { kind: "database", name: database.to_string() }
}

fn from_row(row: &Row) -> DatabaseFacts {
    let stamp: Option<&str> = row.get("stamp");
    DatabaseFacts {
        name: row.get("datname"),
        oid: row.get("oid"),
        marker: row.get::<_, Option<&str>>("comment").and_then(Marker::parse),
        allow_connections: row.get("datallowconn"),
        is_template: row.get("datistemplate"),
        is_invalid: row.get::<_, i32>("datconnlimit") == -2,
        stamp: stamp.and_then(|setting| setting.split_once('=')).map(|(_, value)| value.to_owned()),
        connections: row.get("sessions"),
    }
}
