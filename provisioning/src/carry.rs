//! Carrying rows from a session into another one, as text that both write and read alike.

use std::pin::pin;

use bytes::Bytes;
use futures_util::{SinkExt as _, TryStreamExt as _, future};
use tokio_postgres::types::Type;

use crate::error::Error;
use crate::pace::Pace;
use crate::replication::Link;
use crate::server::Connection;

/// Settings under which servers write the same values as the same text.
pub const SAME_TEXT: &str = "set datestyle = 'ISO, YMD'; set intervalstyle = 'postgres'; set timezone = 'UTC'; \
     set extra_float_digits = 3; set bytea_output = 'hex'; set lc_monetary = 'C'";
/// Both sides have to read it alike, too, and in full.
pub(crate) const IN_FULL: &str = "set xmloption = content; set row_security = off";

/// For a transaction that lasts for as long as a database is large. Before version 17 there is one setting less.
pub const UNTIMED: &str = "select set_config(name, '0', false) from pg_settings \
     where name in ('transaction_timeout', 'lock_timeout')";

/// What is wrong over there is told at the end of a `copy` alone: it ends so often.
const PART_BYTES: usize = 64 << 20;

/// Carries the rows of every table that a link publishes, as the transaction of `from` sees them, into a database that
/// has the same tables and no rows. No trigger fires there, and no foreign key is looked at; `to` must be a superuser's
/// session. `from` keeps no lock on a table that has been read.
///
/// When this fails, some rows are there.
pub async fn carry_published(
    link: Link,
    from: &Connection,
    to: &Connection,
    mut pace: Pace,
) -> Result<(), Error> {
    let alike = format!("{SAME_TEXT}; {IN_FULL}");
    let quiet = format!("{alike}; {UNTIMED}; set session_replication_role = replica");
    future::try_join(from.batch_execute(&alike), to.batch_execute(&quiet)).await?;
    // The order of columns may differ: a dump makes those of a parent first.
    let tables = from
        .query_typed(
            "-- carry::tables
             select format('%I.%I', p.schemaname, p.tablename) ||
                    coalesce(' (' || string_agg(quote_ident(a.attname), ', ' order by a.attnum) || ')', '')
             from pg_publication_tables p
             left join pg_attribute a
               on a.attrelid = format('%I.%I', p.schemaname, p.tablename)::regclass
              and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
             where p.pubname = $1
             group by p.schemaname, p.tablename
             order by 1",
            &[(&link.name().as_str(), Type::NAME)],
        )
        .await?;
    from.batch_execute("savepoint carried").await?;
    for table in &tables {
        carry_table(table.get(0), from, to, &mut pace).await?;
        from.batch_execute("rollback to carried").await?;
    }
    Ok(())
}

/// Carries the rows of one table, which may be followed by a list of its columns; without one they are all but those
/// that are generated.
pub(crate) async fn carry_table(
    table: &str,
    from: &Connection,
    to: &Connection,
    pace: &mut Pace,
) -> Result<(), Error> {
    let rows = from.copy_out(&format!("copy {table} to stdout")).await?;
    let mut rows = pin!(rows);
    let mut next = rows.try_next().await?;
    while next.is_some() {
        let sink = to.copy_in::<_, Bytes>(&format!("copy {table} from stdin")).await?;
        let mut sink = pin!(sink);
        let mut left = PART_BYTES;
        // Servers send each row by itself.
        while let Some(row) = next.take_if(|_| left > 0) {
            left = left.saturating_sub(row.len());
            pace.worked(row.len()).await;
            sink.feed(row).await?;
            next = rows.try_next().await?;
        }
        sink.finish().await?;
    }
    Ok(())
}
