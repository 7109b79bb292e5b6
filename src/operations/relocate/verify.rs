//! Comparing the tenant's database and what is to take its place, row by row.
//!
//! One that follows is compared as both were at one and the same moment. Reading takes as long as the database is large,
//! so it is done while the tenant is served. To see both sides at one moment, its writers wait for as long as the
//! follower needs to catch up, which is a few milliseconds: what the source holds then, and what the follower holds, is
//! kept in sight by a snapshot on each side. What is written afterwards comes by the same way as what was compared.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future;
use tenantry_provisioning::{Connection, Halt, SAME_TEXT};
use tokio::time::sleep;

use super::online::Ends;
use crate::operations::StepError;
use crate::operations::drill::digest;

/// How long the transactions of writers may take to end, from one try to the next: whoever comes after them waits.
const PATIENCE: [Duration; 8] = [
    Duration::from_millis(200),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(400),
    Duration::from_millis(800),
    Duration::from_millis(800),
    Duration::from_millis(1600),
    Duration::from_millis(1600),
];
/// How long the follower may take meanwhile.
const CATCH_UP: Duration = Duration::from_millis(500);
/// Between two tries, so that nobody waits twice.
const REST: Duration = Duration::from_secs(1);

const LOOK: &str = "begin isolation level repeatable read read only";

/// Compares the two sides, and leaves the follower with statistics of its own.
pub(super) async fn verify(ends: &Ends) -> Result<(), StepError> {
    let (here, there) = same_moment(ends).await?;
    let (one, other) = future::try_join(table_sums(&here), table_sums(&there)).await?;
    if let Some(what) = difference(&one, &other) {
        return Err(StepError::fail(
            format!("the copy differs from the tenant's database in {what}"),
            "the tenant is served where it was; cancel, relocate with `--offline`, and report this",
        ));
    }
    let failed = tenantry_provisioning::Error::from;
    // Otherwise its first queries would be planned for empty tables.
    Ok(there.batch_execute("rollback; analyze").await.map_err(failed)?)
}

/// A session on each side that sees what both held at one moment.
async fn same_moment(ends: &Ends) -> Result<(Connection, Connection), StepError> {
    for patience in PATIENCE {
        if let Some(sessions) = try_same_moment(ends, patience).await? {
            return Ok(sessions);
        }
        sleep(REST).await;
    }
    Err(StepError::fail(
        "the tenant's writers did not pause for long enough to compare the copy with its database",
        "end the transaction that has been open in it for the longest time (pg_stat_activity shows it), then retry",
    ))
}

async fn try_same_moment(
    ends: &Ends,
    patience: Duration,
) -> Result<Option<(Connection, Connection)>, StepError> {
    let failed = tenantry_provisioning::Error::from;
    let here = ends.source.connect(&ends.live).await?;
    let there = ends.target.connect(&ends.follower).await?;
    let halt = Halt::begin(&ends.source, &ends.live, ends.link, patience).await?;
    let Some(halt) = halt else { return Ok(None) };
    let look = format!("{LOOK}; set transaction snapshot '{}'; select", halt.snapshot());
    here.batch_execute(&look).await.map_err(failed)?;
    let mark = ends.source.mark_log().await?;
    let is_level = ends.await_followed(mark, CATCH_UP).await?;
    if is_level {
        there.batch_execute(&format!("{LOOK}; select")).await.map_err(failed)?;
    }
    halt.end().await?;
    Ok(is_level.then_some((here, there)))
}

/// Every row of every table, how far each sequence has come, and the number of large objects.
pub(super) async fn compare(here: &Connection, there: &Connection) -> Result<(), StepError> {
    let (here_sums, there_sums) = future::try_join(sums(here), sums(there)).await?;
    let Some(what) = difference(&here_sums, &there_sums) else { return Ok(()) };
    Err(StepError::fail(
        format!("the copy differs from the tenant's database in {what}"),
        "the tenant is served where it was; move it with a backup, `tenantry restore --server`, and report this",
    ))
}

/// What is compared, each under a name for people.
type Sums = BTreeMap<String, String>;

fn difference<'a>(here: &'a Sums, there: &'a Sums) -> Option<&'a str> {
    let differs = here.iter().find(|(what, sum)| there.get(*what) != Some(sum));
    let only_there = || there.keys().find(|what| !here.contains_key(*what));
    differs.map(|(what, _)| what).or_else(only_there).map(String::as_str)
}

async fn sums(session: &Connection) -> Result<Sums, StepError> {
    let failed = tenantry_provisioning::Error::from;
    let counted = session
        .query(
            "-- relocate::sequences
             select format('the sequence %I.%I', schemaname, sequencename), coalesce(last_value::text, 'unused')
             from pg_sequences
             union all
             select 'its large objects', count(*)::text from pg_largeobject_metadata",
            &[],
        )
        .await
        .map_err(failed)?;
    let mut sums = table_sums(session).await?;
    sums.extend(counted.iter().map(|row| (row.get(0), row.get(1))));
    Ok(sums)
}

/// Every row of every table.
async fn table_sums(session: &Connection) -> Result<Sums, StepError> {
    let failed = tenantry_provisioning::Error::from;
    session.batch_execute(SAME_TEXT).await.map_err(failed)?;
    let mut sums = Sums::new();
    let tables = session
        .query(
            "-- relocate::tables
             select format('%I.%I', n.nspname, c.relname),
                    coalesce(string_agg(quote_ident(a.attname), ', ' order by a.attname), '')
             from pg_class c
             join pg_namespace n on n.oid = c.relnamespace
             left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
             where c.relkind in ('r', 'm') and c.relpersistence <> 't'
               and n.nspname <> 'information_schema' and n.nspname not like 'pg\\_%'
             group by 1",
            &[],
        )
        .await
        .map_err(failed)?;
    for row in &tables {
        let (table, columns): (String, String) = (row.get(0), row.get(1));
        let rows = digest(session, &format!("(select {columns} from only {table})")).await;
        sums.insert(format!("the rows of {table}"), format!("{:?}", rows.map_err(failed)?));
    }
    Ok(sums)
}
