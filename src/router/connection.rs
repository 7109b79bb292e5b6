//! [`TenantConnection`]: one tenant's database for one piece of work.
//!
//! It does not hand out the driver's client: every statement passes here, so that a connection that may
//! carry state of one user never reaches the next. Text that may leave state behind (`set`, `begin`,
//! `listen`, …) and a query that was dropped half way mark the connection, and a marked connection is
//! closed instead of going back to its pool.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use deadpool_postgres::Object;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row};

use super::harmless::is_harmless;
use super::routes::Route;
use crate::tenant::Tenant;

/// A connection to the database of one tenant. Goes back to that tenant's pool when dropped.
///
/// Statements are prepared once for each physical connection, whatever their number of uses.
pub struct TenantConnection {
    route: Arc<Route>,
    client: Option<Object>,
    session: Session,
}

/// A transaction on a [`TenantConnection`]; rolled back when dropped without [`TenantTransaction::commit`].
pub struct TenantTransaction<'a> {
    transaction: deadpool_postgres::Transaction<'a>,
    session: &'a Session,
}

/// What the next user of the physical connection must not meet.
#[derive(Default)]
struct Session {
    /// Whether the session may differ from a fresh one.
    marked: AtomicBool,
    /// Queries that have begun and not ended.
    busy: AtomicU32,
}

type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

impl TenantConnection {
    pub(super) fn new(route: Arc<Route>, client: Object) -> Self {
        Self { route, client: Some(client), session: Session::default() }
    }

    /// Whose database this is.
    #[must_use]
    pub fn tenant(&self) -> &Tenant {
        &self.route.place.tenant
    }

    /// Runs a query and returns its rows.
    pub async fn query(&self, sql: &str, params: Params<'_>) -> Result<Vec<Row>, Error> {
        let client = self.client();
        let query = async { client.query(&client.prepare_cached(sql).await?, params).await };
        self.session.run(sql, query).await
    }

    /// Runs a query that returns exactly one row.
    pub async fn query_one(&self, sql: &str, params: Params<'_>) -> Result<Row, Error> {
        let client = self.client();
        let query = async { client.query_one(&client.prepare_cached(sql).await?, params).await };
        self.session.run(sql, query).await
    }

    /// Runs a query that returns at most one row.
    pub async fn query_opt(&self, sql: &str, params: Params<'_>) -> Result<Option<Row>, Error> {
        let client = self.client();
        let query = async { client.query_opt(&client.prepare_cached(sql).await?, params).await };
        self.session.run(sql, query).await
    }

    /// Runs a statement and returns the number of rows that it changed.
    pub async fn execute(&self, sql: &str, params: Params<'_>) -> Result<u64, Error> {
        let client = self.client();
        let query = async { client.execute(&client.prepare_cached(sql).await?, params).await };
        self.session.run(sql, query).await
    }

    /// Runs several statements of one text. The physical connection is closed afterwards.
    pub async fn batch_execute(&self, sql: &str) -> Result<(), Error> {
        self.session.marked.store(true, Ordering::Relaxed);
        self.session.run(sql, self.client().batch_execute(sql)).await
    }

    /// Begins a transaction.
    pub async fn transaction(&mut self) -> Result<TenantTransaction<'_>, Error> {
        let client = self.client.as_mut().expect(HAS_CLIENT);
        let transaction = self.session.run("select", client.transaction()).await?;
        Ok(TenantTransaction { transaction, session: &self.session })
    }

    fn client(&self) -> &Object {
        self.client.as_ref().expect(HAS_CLIENT)
    }
}

const HAS_CLIENT: &str = "a connection has its client until it is dropped";

impl Drop for TenantConnection {
    fn drop(&mut self) {
        let Some(client) = self.client.take() else { return };
        if *self.session.busy.get_mut() > 0 {
            // Nobody waits for the answer: stop the server's work on it too.
            let (cancel, tls) = (client.cancel_token(), self.route.place.server.tls());
            drop(Object::take(client));
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move { cancel.cancel_query(tls).await });
            }
        } else if *self.session.marked.get_mut() {
            drop(Object::take(client));
        }
    }
}

impl TenantTransaction<'_> {
    /// Makes the transaction's changes last.
    pub async fn commit(self) -> Result<(), Error> {
        self.session.run("select", self.transaction.commit()).await
    }

    /// Undoes the transaction's changes.
    pub async fn rollback(self) -> Result<(), Error> {
        self.session.run("select", self.transaction.rollback()).await
    }

    /// Runs a query and returns its rows.
    pub async fn query(&self, sql: &str, params: Params<'_>) -> Result<Vec<Row>, Error> {
        let inner = &self.transaction;
        let query = async { inner.query(&inner.prepare_cached(sql).await?, params).await };
        self.session.run(sql, query).await
    }

    /// Runs a query that returns exactly one row.
    pub async fn query_one(&self, sql: &str, params: Params<'_>) -> Result<Row, Error> {
        let inner = &self.transaction;
        let query = async { inner.query_one(&inner.prepare_cached(sql).await?, params).await };
        self.session.run(sql, query).await
    }

    /// Runs a statement and returns the number of rows that it changed.
    pub async fn execute(&self, sql: &str, params: Params<'_>) -> Result<u64, Error> {
        let inner = &self.transaction;
        let query = async { inner.execute(&inner.prepare_cached(sql).await?, params).await };
        self.session.run(sql, query).await
    }
}

impl Session {
    /// Runs a query; a caller that drops it half way leaves `busy` raised.
    async fn run<T>(
        &self,
        sql: &str,
        query: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        if !is_harmless(sql) {
            self.marked.store(true, Ordering::Relaxed);
        }
        self.busy.fetch_add(1, Ordering::Relaxed);
        let result = query.await;
        self.busy.fetch_sub(1, Ordering::Relaxed);
        result
    }
}
