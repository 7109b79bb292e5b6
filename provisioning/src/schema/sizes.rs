//! How large databases are, and the tables in them: what a plan needs to say how long a statement takes.

use crate::error::Error;
use crate::name::DatabaseName;
use crate::server::Server;

/// How large a table is in one database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSize {
    /// The name that it was asked for by.
    pub table: String,
    /// With its indexes, its long values and its partitions.
    pub bytes: i64,
    /// About how many rows it has; none if nobody has counted since it got some.
    pub rows: Option<i64>,
}

/// The sizes of those databases that are there, in bytes, the largest first.
pub async fn database_sizes(
    server: &Server,
    databases: &[DatabaseName],
) -> Result<Vec<(String, i64)>, Error> {
    let names: Vec<&str> = databases.iter().map(DatabaseName::as_str).collect();
    let client = server.client().await?;
    let rows = client
        .query(
            "-- sizes::database_sizes
             select name, bytes from (
                 select datname::text as name, pg_database_size(oid) as bytes
                 from pg_database where datname = any($1)
             ) sizes
             -- One that is dropped meanwhile has no size.
             where bytes is not null order by bytes desc, name",
            &[&names],
        )
        .await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// The sizes of those tables that a database has, named as [`Effect`](super::Effect) names them.
pub async fn table_sizes(
    server: &Server,
    database: &DatabaseName,
    tables: &[String],
) -> Result<Vec<TableSize>, Error> {
    let connection = server.connect(database).await?;
    let rows = connection
        .query(
            "-- sizes::table_sizes
             select name, coalesce(sum(pg_total_relation_size(part.oid)), 0)::bigint,
                    case when bool_and(part.reltuples >= 0 or part.relpages = 0
                                       and pg_relation_size(part.oid) = 0)
                         then sum(greatest(part.reltuples, 0))::bigint end
             from unnest($1::text[]) name
             cross join lateral (
                 select to_regclass(name)::oid as root
                 union select relid::oid from pg_partition_tree(to_regclass(name))
             ) parts
             join pg_class part on part.oid = parts.root and part.relkind in ('r', 'm', 'p')
             group by name",
            &[&tables],
        )
        .await?;
    let size = |row: &tokio_postgres::Row| TableSize {
        table: row.get(0),
        bytes: row.get(1),
        rows: row.get(2),
    };
    Ok(rows.iter().map(size).collect())
}
