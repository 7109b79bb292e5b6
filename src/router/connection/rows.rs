//! [`TenantRows`]: a result too large to hold, row by row.
//!
//! While rows are on their way the connection is busy, and is borrowed: another query on it would wait
//! behind rows that nobody takes. Rows that were not read to their end leave it busy, so it is closed with
//! its use, and the server's work is cancelled.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use futures_util::Stream;
use tokio_postgres::{Error, Row, RowStream};

use super::transaction::Ends;
use super::{Params, TenantConnection, TenantTransaction, Traces};

/// The rows of a query as they come; a few of them are in memory at a time.
pub struct TenantRows<'a> {
    rows: Pin<Box<RowStream>>,
    /// None once the last row, or an error, has come.
    traces: Option<&'a Traces>,
}

impl TenantConnection {
    /// Runs a query whose rows are read one by one.
    pub async fn query_stream(
        &mut self,
        sql: &str,
        params: Params<'_>,
    ) -> Result<TenantRows<'_>, Error> {
        let session = self.session();
        let attempt = move |statement| async move {
            session.client.query_raw(&statement, params.iter().copied()).await
        };
        let rows = self.run(sql, attempt).await?;
        Ok(TenantRows::new(rows, &self.traces))
    }
}

impl TenantTransaction<'_> {
    /// Runs a query whose rows are read one by one.
    pub async fn query_stream(
        &mut self,
        sql: &str,
        params: Params<'_>,
    ) -> Result<TenantRows<'_>, Error> {
        let inner = &self.transaction;
        let attempt = move |statement| async move {
            inner.query_raw(&statement, params.iter().copied()).await
        };
        let rows = self.run(sql, Ends::After, attempt).await?;
        Ok(TenantRows::new(rows, self.traces))
    }
}

impl<'a> TenantRows<'a> {
    fn new(rows: RowStream, traces: &'a Traces) -> Self {
        traces.busy.fetch_add(1, Ordering::Relaxed);
        Self { rows: Box::pin(rows), traces: Some(traces) }
    }

    /// The next row; none after the last one. Nothing is lost when the wait is given up.
    pub async fn next(&mut self) -> Option<Result<Row, Error>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for TenantRows<'_> {
    type Item = Result<Row, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.traces.is_none() {
            return Poll::Ready(None);
        }
        let next = this.rows.as_mut().poll_next(cx);
        if let Poll::Ready(None | Some(Err(_))) = next
            && let Some(traces) = this.traces.take()
        {
            traces.busy.fetch_sub(1, Ordering::Relaxed);
        }
        next
    }
}
