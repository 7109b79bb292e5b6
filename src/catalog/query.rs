//! How the catalog is asked: statements are prepared once per connection, and counted by name.

use deadpool_postgres::GenericClient;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};

use super::CatalogError;
use crate::metrics;

pub(super) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// Every row of the answer.
pub(super) async fn rows(
    client: &impl GenericClient,
    sql: &str,
    params: Params<'_>,
) -> Result<Vec<Row>, CatalogError> {
    Ok(client.query(&prepared(client, sql).await?, params).await?)
}

/// The one row of the answer; any other number is an error.
pub(super) async fn one(
    client: &impl GenericClient,
    sql: &str,
    params: Params<'_>,
) -> Result<Row, CatalogError> {
    Ok(client.query_one(&prepared(client, sql).await?, params).await?)
}

/// The row of the answer, if there is one; more are an error.
pub(super) async fn maybe(
    client: &impl GenericClient,
    sql: &str,
    params: Params<'_>,
) -> Result<Option<Row>, CatalogError> {
    Ok(client.query_opt(&prepared(client, sql).await?, params).await?)
}

/// How many rows were changed.
pub(super) async fn execute(
    client: &impl GenericClient,
    sql: &str,
    params: Params<'_>,
) -> Result<u64, CatalogError> {
    Ok(client.execute(&prepared(client, sql).await?, params).await?)
}

async fn prepared(client: &impl GenericClient, sql: &str) -> Result<Statement, CatalogError> {
    metrics::catalog_query(name_of(sql));
    Ok(client.prepare_cached(sql).await?)
}

/// What a statement is called: its first line.
fn name_of(sql: &str) -> &str {
    sql.strip_prefix("-- ").and_then(|rest| rest.lines().next()).unwrap_or("unnamed")
}
