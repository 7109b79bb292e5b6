//! Comparing the tenant's database and what is to take its place, row by row.
//!
//! One that follows is compared as both were at one and the same moment. Reading takes as long as the database is large,
//! so it is done while the tenant is served. To see both sides at one moment, its writers wait for as long as the
//! follower needs to catch up, which is a few milliseconds: what the source holds then, and what the follower holds, is
//! kept in sight by a snapshot on each side. What is written afterwards comes by the same way as what was compared.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future;
use tenantry_provisioning::{Connection, Pace, SAME_TEXT};

use super::moment::{self, Moments};
use super::online::Ends;
use crate::operations::StepError;
use crate::operations::drill::digest;

/// How long the follower may take to catch up while the writers wait.
const CATCH_UP: Duration = Duration::from_millis(500);

/// Compares the two sides, and leaves the follower with statistics of its own.
pub(super) async fn verify(ends: &Ends, nice_ratio: u32) -> Result<(), StepError> {
    let (here, there) = same_moment(ends).await?;
    let pace = || Pace::new(nice_ratio);
    let sums = future::try_join(table_sums(&here, pace()), table_sums(&there, pace()));
    let (one, other) = sums.await?;
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
    let there = moment::connect(&ends.target, &ends.follower).await?;
    let mut moments = Moments::of(ends);
    loop {
        let moment = moments.next().await?;
        let is_level = ends.await_followed(moment.mark(), CATCH_UP).await?;
        if is_level {
            moment::keep(&there).await?;
        }
        let here = moment.pass().await?;
        if is_level {
            return Ok((here, there));
        }
    }
}

/// Every row of every table, how far each sequence has come, and the number of large objects.
pub(super) async fn compare(here: &Connection, there: &Connection) -> Result<(), StepError> {
    future::try_join(moment::keep(here), moment::keep(there)).await?;
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
    let mut sums = table_sums(session, Pace::full()).await?;
    sums.extend(counted.iter().map(|row| (row.get(0), row.get(1))));
    Ok(sums)
}

/// Every row of every table, as a transaction sees them. It keeps no lock on one that has been read.
async fn table_sums(session: &Connection, mut pace: Pace) -> Result<Sums, StepError> {
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
    let mut before = "savepoint summed";
    for row in &tables {
        let (table, columns): (String, String) = (row.get(0), row.get(1));
        let rows = format!("(select {columns} from only {table})");
        let (freed, rows) =
            future::join(session.batch_execute(before), digest(session, &rows, &mut pace)).await;
        freed.map_err(failed)?;
        sums.insert(format!("the rows of {table}"), format!("{:?}", rows.map_err(failed)?));
        before = "rollback to summed";
    }
    Ok(sums)
}
