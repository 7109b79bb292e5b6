//! [`TenantConnection`]: one tenant's database for one piece of work.
//!
//! It does not hand out the driver's client: every statement passes here, so that a connection that may
//! carry state of one user never reaches the next. Text that may leave state behind (`set`, `begin`,
//! `listen`, …) and a query that was dropped half way mark the connection, and a marked connection is
//! closed instead of going back to its pool. Its place is free once its backend has ended ([`super::Backend`]).
//!
//! Each statement counts towards the tenant's usage, and its rate if it has one; what begins and ends transactions
//! does not.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tokio_postgres::error::{DbError, Severity, SqlState};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row, Statement};

use super::meter::Meter;
use super::pool::Admission;
use super::rate::Toll;
use super::routes::Route;
use super::session::{Prepared, Session, Statements};
use crate::tenant::Tenant;

mod rows;
mod transaction;

pub use rows::TenantRows;
pub use transaction::TenantTransactionBuilder;

/// A connection to the database of one tenant. Goes back to that tenant's pool when dropped.
///
/// Statements are prepared once for each physical connection, whatever their number of uses.
pub struct TenantConnection {
    route: Arc<Route>,
    session: Option<Box<Session>>,
    traces: Traces,
    /// Goes back after the connection.
    admission: Option<Admission>,
}

/// A transaction on a [`TenantConnection`]; rolled back when dropped without [`TenantTransaction::commit`].
pub struct TenantTransaction<'a> {
    transaction: tokio_postgres::Transaction<'a>,
    statements: &'a Statements,
    traces: &'a Traces,
    /// What it was begun with.
    begin: Cow<'static, str>,
    /// Whether it can fail alone; its locks may end before the transaction.
    is_part: bool,
}

/// What the next user of the physical connection must not meet, and what this one owes.
struct Traces {
    meter: Arc<Meter>,
    /// Whether the session may differ from a fresh one.
    marked: AtomicBool,
    /// Queries that have begun and not ended.
    busy: AtomicU32,
    /// For statements of a tenant whose rate is limited.
    toll: Option<Toll>,
    /// Whether the transaction at hand has seen a statement.
    is_begun: AtomicBool,
}

type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

impl TenantConnection {
    pub(super) fn new(
        route: Arc<Route>,
        admission: Admission,
        mut session: Box<Session>,
        toll: Option<Toll>,
    ) -> Self {
        let schema = route.place.tenant.schema();
        if session.schema != schema {
            session.statements.clear();
            session.schema = schema;
        }
        let traces = Traces {
            meter: Arc::clone(&route.meter),
            marked: AtomicBool::new(false),
            busy: AtomicU32::new(0),
            toll,
            is_begun: AtomicBool::new(false),
        };
        Self { route, session: Some(session), traces, admission: Some(admission) }
    }

    /// Whose database this is.
    #[must_use]
    pub fn tenant(&self) -> &Tenant {
        &self.route.place.tenant
    }

    /// Whether the tenant has the migration with this version, so that new code can serve tenants that
    /// a rollout has not reached yet.
    ///
    /// Known from the catalog, without a query: what is true stays true, and what is false may become
    /// true a moment after a migration has ended.
    #[must_use]
    pub fn has_migration(&self, version: i64) -> bool {
        self.tenant().schema_version >= version
    }

    /// The newest migration that the tenant has of its track, known in the same way; 0 where it has none. `None` where
    /// it is in no track: [`TenantConnection::has_migration`] is about the files of every tenant alone.
    #[must_use]
    pub fn track_version(&self, track: &str) -> Option<i64> {
        let own = self.tenant().track.as_ref().filter(|own| own.name.as_str() == track);
        own.map(|own| own.version)
    }

    /// Runs a query and returns its rows.
    pub async fn query(&self, sql: &str, params: Params<'_>) -> Result<Vec<Row>, Error> {
        let client = &self.session().client;
        let attempt = move |statement| async move { client.query(&statement, params).await };
        self.run(sql, attempt).await
    }

    /// Runs a query that returns exactly one row.
    pub async fn query_one(&self, sql: &str, params: Params<'_>) -> Result<Row, Error> {
        let client = &self.session().client;
        let attempt = move |statement| async move { client.query_one(&statement, params).await };
        self.run(sql, attempt).await
    }

    /// Runs a query that returns at most one row.
    pub async fn query_opt(&self, sql: &str, params: Params<'_>) -> Result<Option<Row>, Error> {
        let client = &self.session().client;
        let attempt = move |statement| async move { client.query_opt(&statement, params).await };
        self.run(sql, attempt).await
    }

    /// Runs a statement and returns the number of rows that it changed.
    pub async fn execute(&self, sql: &str, params: Params<'_>) -> Result<u64, Error> {
        let client = &self.session().client;
        let attempt = move |statement| async move { client.execute(&statement, params).await };
        self.run(sql, attempt).await
    }

    /// Runs several statements of one text. The physical connection is closed afterwards.
    pub async fn batch_execute(&self, sql: &str) -> Result<(), Error> {
        self.traces.marked.store(true, Ordering::Relaxed);
        self.traces.run(self.session().client.batch_execute(sql)).await
    }

    /// Runs a prepared statement; once more when a migration has changed what it returns.
    async fn run<T, F>(&self, sql: &str, attempt: impl Fn(Statement) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let twice = async {
            match attempt(self.prepare(sql).await?).await {
                Err(error) if is_outdated(&error) => {
                    self.session().statements.clear();
                    attempt(self.prepare(sql).await?).await
                }
                other => other,
            }
        };
        self.traces.run(twice).await
    }

    async fn prepare(&self, sql: &str) -> Result<Statement, Error> {
        let Session { client, statements, .. } = self.session();
        let prepared = statements.prepare(client, sql, false).await?;
        self.traces.note(&prepared);
        Ok(prepared.statement)
    }

    /// Closes the physical connection with this use if it was made for it.
    pub(super) fn close_unless_pooled(&self) {
        if !self.session().is_used {
            self.traces.marked.store(true, Ordering::Relaxed);
        }
    }

    fn session(&self) -> &Session {
        self.session.as_ref().expect(HAS_SESSION)
    }
}

/// Whether PostgreSQL refused a prepared statement because its result has another type now.
fn is_outdated(error: &Error) -> bool {
    let db = error.as_db_error();
    db.is_some_and(|db| {
        *db.code() == SqlState::FEATURE_NOT_SUPPORTED
            && db.routine() == Some("RevalidateCachedQuery")
    })
}

/// Whether PostgreSQL ended the session with it. The driver may not know that yet.
fn is_last(error: &Error) -> bool {
    let severity = error.as_db_error().and_then(DbError::parsed_severity);
    matches!(severity, Some(Severity::Fatal | Severity::Panic))
}

const HAS_SESSION: &str = "a connection has its session until it is dropped";

impl Drop for TenantConnection {
    fn drop(&mut self) {
        let (Some(session), Some(admission)) = (self.session.take(), self.admission.take()) else {
            return;
        };
        if *self.traces.busy.get_mut() > 0 {
            let Session { client, backend, driver, .. } = *session;
            // Nobody waits for the answer: stop the server's work on it too. The place is free after that.
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                let (cancel, tls) = (client.cancel_token(), admission.pool().tls());
                runtime.spawn(async move {
                    let stopping = async {
                        drop(client);
                        _ = cancel.cancel_query(tls).await;
                        _ = driver.await;
                    };
                    backend.see_off(stopping).await;
                    drop(admission);
                });
            }
        } else if !*self.traces.marked.get_mut() {
            admission.pool().put_back(session);
        }
    }
}

impl TenantTransaction<'_> {
    /// Makes the transaction's changes last.
    pub async fn commit(self) -> Result<(), Error> {
        self.traces.watch(self.transaction.commit()).await
    }

    /// Undoes the transaction's changes.
    pub async fn rollback(self) -> Result<(), Error> {
        self.traces.watch(self.transaction.rollback()).await
    }
}

impl Traces {
    /// Runs a statement of the application's, when it is its turn.
    async fn run<T>(&self, query: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        if let Some(toll) = &self.toll {
            Box::pin(toll.pay()).await;
        }
        self.meter.query();
        self.watch(query).await
    }

    /// Runs what costs no turn; a caller that drops it half way leaves `busy` raised.
    async fn watch<T>(&self, query: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        self.busy.fetch_add(1, Ordering::Relaxed);
        let result = query.await;
        self.busy.fetch_sub(1, Ordering::Relaxed);
        if result.as_ref().is_err_and(is_last) {
            self.marked.store(true, Ordering::Relaxed);
        }
        result
    }

    /// What is about to run may leave the session another than it was.
    fn note(&self, prepared: &Prepared) {
        if !prepared.is_harmless {
            self.marked.store(true, Ordering::Relaxed);
        }
    }
}
