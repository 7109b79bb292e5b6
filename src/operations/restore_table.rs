//! One table of a backup into a schema beside: for the rows that somebody deleted by mistake, while everybody
//! else goes on working.
//!
//! The whole backup is restored to a scratch database, as a dump is not to be had in parts without knowing
//! what belongs together. There the table moves to a schema of its own, which is then copied to the live
//! database in one transaction. What is there already is not touched.

use futures_util::FutureExt as _;
use tenantry_backup::{CopyEnd, copy_schema};
use tenantry_provisioning::{Connection, DatabaseName, Server};

use super::{Plan, Step, StepContext, StepError, Work, require_settled, restore};

pub(super) const PLAN: Plan = Plan {
    steps: &[
        Step::new("restore_scratch", |cx| restore_scratch(cx).boxed()),
        Step::new("copy_table", |cx| copy_table(cx).boxed()),
        Step::new("drop_scratch", |cx| restore::drop_build(cx).boxed()),
    ],
    abandon: &[Step::new("drop_scratch", |cx| restore::drop_build(cx).boxed())],
    no_return: 2,
};

/// The table and the schema that it comes to.
fn wanted<'a>(cx: &StepContext<'a>) -> (&'a str, &'a str) {
    match cx.work {
        Work::RestoreTable { table, schema, .. } => (table, schema),
        _ => unreachable!("only the restore of a table has these steps"),
    }
}

async fn restore_scratch(cx: &StepContext<'_>) -> Result<(), StepError> {
    require_settled(&cx.tenant)?;
    restore::restore_beside(cx).await
}

async fn copy_table(cx: &StepContext<'_>) -> Result<(), StepError> {
    let (table, schema) = wanted(cx);
    let server = cx.server().await?;
    let live = server.connect(&cx.tenant.database).await?;
    if has_schema(&live, schema).await? {
        // It came in one transaction, so it is all there.
        return Ok(());
    }
    if restore::has_moved(cx)? {
        restore::restore_beside(cx).await?;
    }
    let scratch = cx.build();
    set_apart(&server, &scratch, table, schema).await?;
    let (tools, _) = cx.environment.tools(&server).await?;
    let env = |database: &DatabaseName| server.url().with_database(database.as_str()).libpq_env();
    let _turn = cx.environment.turn().await;
    let (from, to) = (env(&scratch), env(&cx.tenant.database));
    let end = |libpq_env| CopyEnd { tools: &tools, libpq_env };
    Ok(copy_schema(schema, end(&from), end(&to)).await?)
}

async fn has_schema(session: &Connection, schema: &str) -> Result<bool, StepError> {
    let row = session
        .query_one(
            "-- restore_table::has_schema\nselect exists (select from pg_namespace where nspname = $1)",
            &[&schema],
        )
        .await
        .map_err(tenantry_provisioning::Error::from)?;
    Ok(row.get(0))
}

/// Moves the table to a schema of its own, where the tenant may read and write it. It leaves its parents, or
/// `pg_dump` would have it join those of the live database; foreign keys hold partitions back, and are not copied.
async fn set_apart(
    server: &Server,
    scratch: &DatabaseName,
    table: &str,
    schema: &str,
) -> Result<(), StepError> {
    let failed = tenantry_provisioning::Error::from;
    let session = server.connect(scratch).await?;
    if has_schema(&session, schema).await? {
        return Ok(());
    }
    let row = session
        .query_opt(
            "-- restore_table::set_apart
             select format('create schema %1$I authorization tenantry_owner;
                            grant usage on schema %1$I to tenantry_app;', $2::text)
                 || (select coalesce(string_agg(format('alter table %s drop constraint %I;', conrelid::regclass,
                                                       conname), ''), '')
                     from pg_constraint where contype = 'f' and conparentid = 0 and c.relispartition)
                 || (select coalesce(string_agg(
                         format(case when c.relispartition then 'alter table %1$s detach partition %2$s;'
                                     else 'alter table %2$s no inherit %1$s;' end,
                                inhparent::regclass, c.oid::regclass), ''), '')
                     from pg_inherits where inhrelid = c.oid)
                 || format('alter table %I.%I set schema %I', n.nspname, c.relname, $2::text)
             from pg_class c join pg_namespace n on n.oid = c.relnamespace
             where c.oid = to_regclass($1) and c.relkind = 'r'",
            &[&table, &schema],
        )
        .await
        .map_err(failed)?;
    let Some(row) = row else {
        return Err(StepError::fail(
            format!("the backup has no table {table}"),
            "name it as SQL does, with its schema if that is not `public`; of a partitioned table, name the \
             partitions",
        ));
    };
    Ok(session
        .batch_execute(&format!("begin; {}; commit", row.get::<_, &str>(0)))
        .await
        .map_err(failed)?)
}
