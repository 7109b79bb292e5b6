//! Transactions that are more than `begin`, and savepoints inside them.

use tokio_postgres::{Error, IsolationLevel, Row};

use super::{HAS_CLIENT, Params, Session, TenantConnection, TenantTransaction};

/// What a transaction begins with. Without a word it is PostgreSQL's default.
///
/// It can be stricter than its connection and never laxer: what [`read_only`] gave stays so.
///
/// [`read_only`]: crate::router::TenantRouter::read_only
#[must_use = "it begins with `start`"]
pub struct TenantTransactionBuilder<'a> {
    inner: deadpool_postgres::TransactionBuilder<'a>,
    session: &'a Session,
}

impl TenantConnection {
    /// Prepares a transaction with an isolation level or an access mode of its own.
    pub fn build_transaction(&mut self) -> TenantTransactionBuilder<'_> {
        let client = self.client.as_mut().expect(HAS_CLIENT);
        TenantTransactionBuilder { inner: client.build_transaction(), session: &self.session }
    }
}

impl<'a> TenantTransactionBuilder<'a> {
    /// What the transaction sees of others.
    pub fn isolation_level(self, level: IsolationLevel) -> Self {
        Self { inner: self.inner.isolation_level(level), ..self }
    }

    /// PostgreSQL refuses to write.
    pub fn read_only(self) -> Self {
        Self { inner: self.inner.read_only(true), ..self }
    }

    /// A transaction that is also serializable and read-only waits for a moment from which it cannot fail.
    pub fn deferrable(self) -> Self {
        Self { inner: self.inner.deferrable(true), ..self }
    }

    /// Begins the transaction.
    pub async fn start(self) -> Result<TenantTransaction<'a>, Error> {
        let transaction = self.session.run("select", self.inner.start()).await?;
        Ok(TenantTransaction { transaction, session: self.session })
    }
}

impl TenantTransaction<'_> {
    /// Begins a part that can fail alone: dropped without [`TenantTransaction::commit`] it is undone, and the
    /// transaction goes on.
    pub async fn savepoint(&mut self) -> Result<TenantTransaction<'_>, Error> {
        let transaction = self.session.run("select", self.transaction.transaction()).await?;
        Ok(TenantTransaction { transaction, session: self.session })
    }

    /// Runs a query that returns at most one row.
    pub async fn query_opt(&self, sql: &str, params: Params<'_>) -> Result<Option<Row>, Error> {
        let inner = &self.transaction;
        let query = async { inner.query_opt(&inner.prepare_cached(sql).await?, params).await };
        self.session.run(sql, query).await
    }
}
