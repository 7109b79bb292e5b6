//! [`Server`]: administrator access to one PostgreSQL server.
//!
//! Statements about databases and roles go through a small pool of connections to the maintenance
//! database, the one that the connection string names. Work inside another database gets a connection
//! of its own.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{
    GenericClient, Manager, ManagerConfig, Pool, PoolError, RecyclingMethod, Runtime, TimeoutType,
    Timeouts,
};
use futures_util::future::join_all;
use tokio::sync::OnceCell;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::error::Error;
use crate::hardening::Hardening;
use crate::name::DatabaseName;
use crate::schema::MigrationTimeouts;

mod archive;
mod check;
mod connection;
pub mod dial;
mod dsn;
mod line;
mod loan;
mod open;
mod prepare;
mod scram;
mod standby;
mod tls;
mod url;

pub use check::Problem;
pub use connection::Connection;
pub use loan::Loan;
pub use tls::TlsConnector;
pub use url::ServerUrl;

/// A connection to the maintenance database; goes back to its pool when dropped.
pub type PooledClient = deadpool_postgres::Client;

/// Nothing that a tenant made can be taken for PostgreSQL's own, as every name is whole; nor does a setting of its
/// database make our statements mean something else, or end them.
pub(crate) const APART: &str = "-c search_path= -c standard_conforming_strings=on -c quote_all_identifiers=off \
     -c transform_null_equals=off -c default_transaction_isolation=read\\ committed -c statement_timeout=0 \
     -c idle_in_transaction_session_timeout=0";
/// How long to wait for a free connection of the pool.
const POOL_WAIT: Duration = Duration::from_secs(30);

/// Administrator access to one server; clones share one pool.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
    hardening: Hardening,
}

struct Shared {
    url: ServerUrl,
    pool: Pool,
    /// Whether the administrator is a superuser: asked once, since it decides which statements are sent.
    superuser: OnceCell<bool>,
}

/// What a server says of itself and of the administrator.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent facts about one user")]
pub struct ServerFacts {
    /// The version as a number: 150018 for 15.18.
    pub version_num: u32,
    /// The version as a text: `15.18 (Debian 15.18-0+deb12u1)`.
    pub version: String,
    /// The major version: 15.
    pub major: u32,
    /// How many connections the server accepts in all.
    pub max_connections: u32,
    /// How many of these are for superusers, or for roles of `pg_use_reserved_connections`.
    pub reserved_connections: u32,
    /// Whether the administrator is a superuser.
    pub superuser: bool,
    /// Whether the administrator may create databases.
    pub createdb: bool,
    /// Whether the administrator may create roles.
    pub createrole: bool,
    /// Whether the administrator may stamp databases with `tenantry.tenant`.
    pub can_set_stamp: bool,
    /// Whether the server is a standby.
    pub in_recovery: bool,
}

impl ServerFacts {
    /// How many connections everybody may have together: all but the reserved ones.
    #[must_use]
    pub fn usable_connections(&self) -> u32 {
        self.max_connections.saturating_sub(self.reserved_connections)
    }
}

impl Server {
    /// Access to the server at `url`, with at most `max_connections` pooled connections (at least one).
    /// Connects when it is first used.
    #[must_use]
    pub fn new(url: ServerUrl, max_connections: usize) -> Self {
        let pool = maintenance_pool(&url, max_connections.max(1));
        let shared = Arc::new(Shared { url, pool, superuser: OnceCell::new() });
        Self { shared, hardening: Hardening::default() }
    }

    /// The same server, with what tenants of it may see of each other.
    #[must_use]
    pub fn hardened(mut self, hardening: Hardening) -> Self {
        self.hardening = hardening;
        self
    }

    /// What tenants of it may see of each other.
    #[must_use]
    pub fn hardening(&self) -> Hardening {
        self.hardening
    }

    /// Where the server is.
    #[must_use]
    pub fn url(&self) -> &ServerUrl {
        &self.shared.url
    }

    /// A pooled connection to the maintenance database. Waits for a free one for up to 30 seconds.
    pub async fn client(&self) -> Result<PooledClient, Error> {
        let server = || self.url().host_label();
        self.shared.pool.get().await.map_err(|error| match error {
            PoolError::Backend(source) => Error::unreachable(server(), source),
            PoolError::Timeout(TimeoutType::Wait) => Error::TimedOut {
                server: server(),
                what: "waiting for a free administrator connection",
            },
            PoolError::Timeout(_)
            | PoolError::Closed
            | PoolError::NoRuntimeSpecified
            | PoolError::PostCreateHook(_) => {
                Error::TimedOut { server: server(), what: "connecting" }
            }
        })
    }

    /// Opens pooled connections ahead of their first use, as many as the pool allows. What fails is
    /// left to that first use.
    pub async fn warm(&self, connections: usize) {
        let number = connections.min(self.shared.pool.status().max_size);
        join_all((0..number).map(|_| self.client())).await;
    }

    /// A connection of its own to `database`, as the administrator.
    pub async fn connect(&self, database: &DatabaseName) -> Result<Connection, Error> {
        self.url().with_database(database.as_str()).connect().await
    }

    /// A connection of its own to `database`, as the administrator, in which only PostgreSQL's own names are known.
    pub async fn connect_apart(&self, database: &DatabaseName) -> Result<Connection, Error> {
        self.url().with_database(database.as_str()).with_options(APART).connect().await
    }

    /// A connection of its own to `database`, whose statements run as `tenantry_owner` and within
    /// `timeouts`.
    pub async fn connect_as_owner(
        &self,
        database: &DatabaseName,
        timeouts: MigrationTimeouts,
    ) -> Result<Connection, Error> {
        let options = format!(
            "-c role=tenantry_owner -c lock_timeout={} -c statement_timeout={}",
            timeouts.lock.as_millis(),
            timeouts.statement.as_millis()
        );
        self.url().with_database(database.as_str()).with_options(&options).connect().await
    }

    /// What the server says of itself and of the administrator.
    pub async fn facts(&self) -> Result<ServerFacts, Error> {
        // Before version 15 there was no grant for a setting, and no function that knows it.
        let sql = "-- server::facts
             select current_setting('server_version_num')::int8 as version_num,
                    current_setting('server_version') as version,
                    current_setting('max_connections')::int8 as max_connections,
                    current_setting('superuser_reserved_connections')::int8
                        + coalesce(current_setting('reserved_connections', true)::int8, 0) as reserved,
                    r.rolsuper, r.rolcreatedb or r.rolsuper as createdb,
                    r.rolcreaterole or r.rolsuper as createrole,
                    pg_is_in_recovery() as in_recovery
             from pg_roles r where r.rolname = current_user";
        let row = rows(&self.client().await?, sql, &[]).await?.remove(0);
        let version_num = narrow(row.get("version_num"));
        let superuser = row.get("rolsuper");
        Ok(ServerFacts {
            version_num,
            version: row.get("version"),
            major: version_num / 10_000,
            max_connections: narrow(row.get("max_connections")),
            reserved_connections: narrow(row.get("reserved")),
            superuser,
            createdb: row.get("createdb"),
            createrole: row.get("createrole"),
            can_set_stamp: superuser || (version_num >= 150_000 && self.may_set_stamp().await?),
            in_recovery: row.get("in_recovery"),
        })
    }

    async fn may_set_stamp(&self) -> Result<bool, Error> {
        let row = self
            .client()
            .await?
            .query_one(
                "-- server::may_set_stamp
                 select has_parameter_privilege('tenantry.tenant', 'set')",
                &[],
            )
            .await?;
        Ok(row.get(0))
    }

    /// What PostgreSQL calls the cluster: no other has it but its copies. For a superuser.
    pub async fn system_identifier(&self) -> Result<i64, Error> {
        let sql = "-- server::system_identifier\nselect system_identifier from pg_control_system()";
        Ok(self.client().await?.query_one(sql, &[]).await?.get(0))
    }

    /// Whether the administrator is a superuser.
    pub async fn is_superuser(&self) -> Result<bool, Error> {
        let ask = || async {
            let row = self
                .client()
                .await?
                .query_one(
                    "-- server::is_superuser
                     select rolsuper from pg_roles where rolname = current_user",
                    &[],
                )
                .await?;
            Ok(row.get(0))
        };
        self.shared.superuser.get_or_try_init(ask).await.copied()
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({})", self.url().host_label())
    }
}

/// Runs a statement that is prepared once a session of the pool: looking it up and planning it costs more than the rest
/// of what is asked about databases and roles.
pub(crate) async fn rows(
    client: &impl GenericClient,
    sql: &str,
    params: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, tokio_postgres::Error> {
    let statement = client.prepare_cached(sql).await?;
    client.query(&statement, params).await
}

#[expect(clippy::disallowed_methods, reason = "this pool is the administrator's, not a tenant's")]
fn maintenance_pool(url: &ServerUrl, max_connections: usize) -> Pool {
    let manager = Manager::from_config(
        url.config(),
        url.tls(),
        ManagerConfig { recycling_method: RecyclingMethod::Fast },
    );
    Pool::builder(manager)
        .max_size(max_connections)
        .timeouts(Timeouts {
            wait: Some(POOL_WAIT),
            create: Some(url.connect_timeout()),
            recycle: Some(url.connect_timeout()),
        })
        .runtime(Runtime::Tokio1)
        .build()
        .expect("a runtime is given")
}

/// Version numbers and connection limits are small and positive.
fn narrow(number: i64) -> u32 {
    u32::try_from(number).unwrap_or_default()
}
