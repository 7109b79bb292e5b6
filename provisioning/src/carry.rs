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

/// Carries the rows of every table that a link publishes, as `from` sees them, into a database that has the same
/// tables and no rows. No trigger fires there, and no foreign key is looked at; `to` must be a superuser's session.
///
/// When this fails, some tables are there and others are not, each as a whole.
pub async fn carry_published(
    link: Link,
    from: &Connection,
    to: &Connection,
    mut pace: Pace,
) -> Result<(), Error> {
    let alike = format!("{SAME_TEXT}; {IN_FULL}");
    let quiet = format!("{alike}; set session_replication_role = replica");
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
    for table in &tables {
        carry_table(table.get(0), from, to, &mut pace).await?;
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
    if next.is_none() {
        return Ok(());
    }
    let sink = to.copy_in::<_, Bytes>(&format!("copy {table} from stdin")).await?;
    let mut sink = pin!(sink);
    while let Some(bytes) = next {
        let length = bytes.len();
        sink.feed(bytes).await?;
        pace.worked(length).await;
        next = rows.try_next().await?;
    }
    sink.finish().await?;
    Ok(())
}
