//! Transactions that are more than `begin`, and savepoints inside them.

use tokio_postgres::{Error, IsolationLevel, Row};

use super::{HAS_SESSION, Params, Statements, TenantConnection, TenantTransaction, Traces};

/// What a transaction begins with. Without a word it is PostgreSQL's default.
///
/// It can be stricter than its connection and never laxer: what [`read_only`] gave stays so.
///
/// [`read_only`]: crate::router::TenantRouter::read_only
#[must_use = "it begins with `start`"]
pub struct TenantTransactionBuilder<'a> {
    inner: tokio_postgres::TransactionBuilder<'a>,
    statements: &'a Statements,
    traces: &'a Traces,
}

impl TenantConnection {
    /// Prepares a transaction with an isolation level or an access mode of its own.
    pub fn build_transaction(&mut self) -> TenantTransactionBuilder<'_> {
        let session = self.session.as_mut().expect(HAS_SESSION);
        TenantTransactionBuilder {
            inner: session.client.build_transaction(),
            statements: &session.statements,
            traces: &self.traces,
        }
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
        let Self { inner, statements, traces } = self;
        let transaction = traces.watch(inner.start()).await?;
        Ok(TenantTransaction { transaction, statements, traces })
    }
}

impl TenantTransaction<'_> {
    /// Begins a part that can fail alone: dropped without [`TenantTransaction::commit`] it is undone, and the
    /// transaction goes on.
    pub async fn savepoint(&mut self) -> Result<TenantTransaction<'_>, Error> {
        let (statements, traces) = (self.statements, self.traces);
        let transaction = traces.watch(self.transaction.transaction()).await?;
        Ok(TenantTransaction { transaction, statements, traces })
    }

    /// Runs a query that returns at most one row.
    pub async fn query_opt(&self, sql: &str, params: Params<'_>) -> Result<Option<Row>, Error> {
        let inner = &self.transaction;
        let query = async { inner.query_opt(&self.prepare(sql).await?, params).await };
        self.traces.run(query).await
    }
}
