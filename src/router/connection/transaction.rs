//! Transactions: how they begin, savepoints inside them, and their statements.
//!
//! A statement may have been prepared for a schema that is no more, and its error would end the
//! transaction around it. The first of a transaction is run again in the same transaction, begun anew. One
//! that comes later runs under a savepoint, which is sent along and costs no waiting, unless it has run in
//! this transaction before: then its locks keep the schema as it is.

use std::borrow::Cow;
use std::sync::atomic::Ordering;

use futures_util::future::join3;
use tokio_postgres::{Error, IsolationLevel, Row, Statement};

use super::{
    HAS_SESSION, Params, Statements, TenantConnection, TenantTransaction, Traces, is_outdated,
};
use crate::router::session::Prepared;

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
    /// The same, as text.
    begin: Cow<'static, str>,
}

impl TenantConnection {
    /// Begins a transaction.
    pub async fn transaction(&mut self) -> Result<TenantTransaction<'_>, Error> {
        self.build_transaction().start().await
    }

    /// Prepares a transaction with an isolation level or an access mode of its own.
    pub fn build_transaction(&mut self) -> TenantTransactionBuilder<'_> {
        let session = self.session.as_mut().expect(HAS_SESSION);
        TenantTransactionBuilder {
            inner: session.client.build_transaction(),
            statements: &session.statements,
            traces: &self.traces,
            begin: "begin".into(),
        }
    }
}

impl<'a> TenantTransactionBuilder<'a> {
    /// What the transaction sees of others.
    pub fn isolation_level(self, level: IsolationLevel) -> Self {
        let text = match level {
            IsolationLevel::ReadUncommitted => " isolation level read uncommitted",
            IsolationLevel::RepeatableRead => " isolation level repeatable read",
            IsolationLevel::Serializable => " isolation level serializable",
            _ => " isolation level read committed",
        };
        Self { inner: self.inner.isolation_level(level), begin: self.begin + text, ..self }
    }

    /// PostgreSQL refuses to write.
    pub fn read_only(self) -> Self {
        Self { inner: self.inner.read_only(true), begin: self.begin + " read only", ..self }
    }

    /// A transaction that is also serializable and read-only waits for a moment from which it cannot fail.
    pub fn deferrable(self) -> Self {
        Self { inner: self.inner.deferrable(true), begin: self.begin + " deferrable", ..self }
    }

    /// Begins the transaction.
    pub async fn start(self) -> Result<TenantTransaction<'a>, Error> {
        let Self { inner, statements, traces, begin } = self;
        let transaction = traces.watch(inner.start()).await?;
        traces.is_begun.store(false, Ordering::Relaxed);
        statements.doubt();
        Ok(TenantTransaction { transaction, statements, traces, begin, is_part: false })
    }
}

impl TenantTransaction<'_> {
    /// Begins a part that can fail alone: dropped without [`TenantTransaction::commit`] it is undone, and the
    /// transaction goes on.
    pub async fn savepoint(&mut self) -> Result<TenantTransaction<'_>, Error> {
        let (statements, traces) = (self.statements, self.traces);
        let transaction = traces.watch(self.transaction.transaction()).await?;
        // What is begun anew would lack the savepoint.
        traces.is_begun.store(true, Ordering::Relaxed);
        let begin = Cow::Borrowed("");
        Ok(TenantTransaction { transaction, statements, traces, begin, is_part: true })
    }

    /// Runs a query and returns its rows.
    pub async fn query(&self, sql: &str, params: Params<'_>) -> Result<Vec<Row>, Error> {
        let inner = &self.transaction;
        let attempt = move |statement| async move { inner.query(&statement, params).await };
        self.run(sql, Ends::Before, attempt).await
    }

    /// Runs a query that returns exactly one row.
    pub async fn query_one(&self, sql: &str, params: Params<'_>) -> Result<Row, Error> {
        let inner = &self.transaction;
        let attempt = move |statement| async move { inner.query_one(&statement, params).await };
        self.run(sql, Ends::Before, attempt).await
    }

    /// Runs a query that returns at most one row.
    pub async fn query_opt(&self, sql: &str, params: Params<'_>) -> Result<Option<Row>, Error> {
        let inner = &self.transaction;
        let attempt = move |statement| async move { inner.query_opt(&statement, params).await };
        self.run(sql, Ends::Before, attempt).await
    }

    /// Runs a statement and returns the number of rows that it changed.
    pub async fn execute(&self, sql: &str, params: Params<'_>) -> Result<u64, Error> {
        let inner = &self.transaction;
        let attempt = move |statement| async move { inner.execute(&statement, params).await };
        self.run(sql, Ends::Before, attempt).await
    }

    /// Attempts a statement that fits the schema. One that may not is attempted in a way that can be taken
    /// back.
    pub(super) async fn run<T, F>(
        &self,
        sql: &str,
        ends: Ends,
        attempt: impl Fn(Statement) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let inner = &self.transaction;
        let work = async {
            let is_first = !self.traces.is_begun.swap(true, Ordering::Relaxed);
            let Prepared { statement, is_proven, is_harmless } = self.prepare(sql).await?;
            let outcome = if is_proven || is_first {
                attempt(statement).await
            } else {
                self.saved(ends, attempt(statement)).await
            };
            if !is_harmless {
                // It may have changed the schema itself.
                self.statements.doubt();
            }
            match outcome {
                Err(error) if !is_proven && is_outdated(&error) => {
                    if is_first {
                        // Not `rollback and chain`: after a failure it forgets the isolation level.
                        let begin = &self.begin;
                        let anew = format!("-- transaction::begin_anew\nrollback; {begin}");
                        inner.batch_execute(&anew).await?;
                    } else {
                        inner.batch_execute(UNDO).await?;
                    }
                    self.statements.clear();
                    attempt(self.prepare(sql).await?.statement).await
                }
                outcome => outcome,
            }
        };
        self.traces.run(work).await
    }

    async fn prepare(&self, sql: &str) -> Result<Prepared, Error> {
        let prepared = self.statements.prepare(&self.transaction, sql, !self.is_part).await?;
        self.traces.note(&prepared);
        Ok(prepared)
    }

    /// Sends a savepoint ahead of a statement, and what releases it behind.
    async fn saved<T>(
        &self,
        ends: Ends,
        attempt: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let save = self.transaction.batch_execute(SAVE);
        let release = async {
            match ends {
                Ends::Before => self.transaction.batch_execute(RELEASE).await,
                Ends::After => Ok(()),
            }
        };
        let (saved, outcome, released) = join3(save, attempt, release).await;
        // After a statement that failed nothing is released; its own error says more.
        let value = outcome?;
        saved.and(released).map(|()| value)
    }
}

/// When a statement ends, beside the moment at which its caller has what it asked for.
#[derive(Clone, Copy)]
pub(super) enum Ends {
    /// Before it.
    Before,
    /// After it, once the rows were read; an order to release the savepoint would wait behind them.
    After,
}

const SAVE: &str = "-- transaction::save\nsavepoint tenantry_statement";
const RELEASE: &str = "-- transaction::release\nrelease savepoint tenantry_statement";
const UNDO: &str = "-- transaction::undo\nrollback to savepoint tenantry_statement";
