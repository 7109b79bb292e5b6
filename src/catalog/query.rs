//! How the catalog is asked: statements are prepared once per connection, and counted by name.

use deadpool_postgres::GenericClient;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::CatalogError;
use crate::metrics;

pub(super) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// Runs a statement that is prepared once per connection.
pub(super) async fn rows(
    client: &impl GenericClient,
    sql: &str,
    params: Params<'_>,
) -> Result<Vec<Row>, CatalogError> {
    metrics::catalog_query(name_of(sql));
    let statement = client.prepare_cached(sql).await.map_err(CatalogError::Database)?;
    client.query(&statement, params).await.map_err(CatalogError::Database)
}

pub(super) async fn one(
    client: &impl GenericClient,
    sql: &str,
    params: Params<'_>,
) -> Result<Row, CatalogError> {
    metrics::catalog_query(name_of(sql));
    let statement = client.prepare_cached(sql).await.map_err(CatalogError::Database)?;
    client.query_one(&statement, params).await.map_err(CatalogError::Database)
}

pub(super) async fn maybe(
    client: &impl GenericClient,
    sql: &str,
    params: Params<'_>,
) -> Result<Option<Row>, CatalogError> {
    metrics::catalog_query(name_of(sql));
    let statement = client.prepare_cached(sql).await.map_err(CatalogError::Database)?;
    client.query_opt(&statement, params).await.map_err(CatalogError::Database)
}

pub(super) async fn execute(
    client: &impl GenericClient,
    sql: &str,
    params: Params<'_>,
) -> Result<u64, CatalogError> {
    metrics::catalog_query(name_of(sql));
    let statement = client.prepare_cached(sql).await.map_err(CatalogError::Database)?;
    client.execute(&statement, params).await.map_err(CatalogError::Database)
}

/// What a statement is called: its first line.
fn name_of(sql: &str) -> &str {
    sql.strip_prefix("-- ").and_then(|rest| rest.lines().next()).unwrap_or("unnamed")
}
