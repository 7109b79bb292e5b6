//! A script into a build, as the guest: statement by statement, over one session.
//!
//! Each goes to the server by itself and never with another in one text, so what was judged is what runs. The
//! server has the last word on everything; its refusals come back with the line of the dump.

use std::collections::BTreeMap;
use std::pin::pin;

use bytes::Bytes;
use futures_util::{SinkExt as _, TryStreamExt as _};
use serde::{Deserialize, Serialize};
use tenantry_backup::{ForeignError, ForeignScript, PgTools, ScriptError, Statement};
use tenantry_provisioning::{Cause, Connection, Error};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};

use super::judge::{Verdict, describe, judge};
use super::{StepError, refusal};

/// What was left out, and how often.
pub(super) type LeftOut = BTreeMap<String, u64>;

/// What came of a script.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Loaded {
    /// So many statements were run.
    pub statements: u64,
    /// What was not.
    pub left_out: LeftOut,
    /// The version of the server that was dumped, where the dump says it.
    pub dumped_from: Option<String>,
}

const IN_TRANSACTION: &str = "end it with `commit`, or dump the database with `pg_dump -Fc`";
const RIGHTS: &str = "a dump comes in with the rights of the owner of one database, and no others: dump the database \
    without what needs more (`pg_dump --exclude-schema` or `--exclude-table`, or `pg_restore --use-list`)";
const FIX: &str = "fix that line of the dump, or dump the database again with `pg_dump -Fc`; then import it again";

impl From<ForeignError> for StepError {
    fn from(error: ForeignError) -> Self {
        let remedy = error.remedy().to_owned();
        Self::Fail(Box::new(error), Some(remedy))
    }
}

impl From<ScriptError> for StepError {
    fn from(error: ScriptError) -> Self {
        let remedy = error.remedy().to_owned();
        match error {
            ScriptError::Command { .. } => refusal(error.to_string(), remedy),
            error => Self::Fail(Box::new(error), Some(remedy)),
        }
    }
}

/// Runs a whole script. `tools` are those that it came through.
pub(super) async fn load(
    session: &Connection,
    dump: &mut ForeignScript,
    tools: &PgTools,
) -> Result<Loaded, StepError> {
    let mut loaded = Loaded::default();
    loop {
        let next = match dump.script.next().await {
            Ok(next) => next,
            Err(error) => return Err(blame(error, dump, tools).await),
        };
        if loaded.dumped_from.is_none() {
            loaded.dumped_from = dump.script.dumped_from().map(str::to_owned);
            require_old_enough(dump, tools)?;
        }
        let Some(statement) = next else { break };
        run(session, dump, &statement, &mut loaded, tools).await?;
    }
    dump.finish(tools).await?;
    require_no_transaction(session).await?;
    Ok(loaded)
}

async fn run(
    session: &Connection,
    dump: &mut ForeignScript,
    statement: &Statement,
    loaded: &mut Loaded,
    tools: &PgTools,
) -> Result<(), StepError> {
    match judge(&statement.sql) {
        Verdict::Pass => return Ok(()),
        Verdict::Skip(what) => {
            *loaded.left_out.entry(what).or_default() += 1;
            return Ok(());
        }
        Verdict::Refuse { what, remedy } => {
            let line = statement.line;
            return Err(refusal(format!("line {line} of the dump has {what}"), remedy));
        }
        Verdict::Extension(name) => {
            require_extension(session, &name, statement.line).await?;
            execute(session, statement).await?;
        }
        Verdict::Run => execute(session, statement).await?,
        Verdict::Rows => copy(session, dump, statement, tools).await?,
    }
    loaded.statements += 1;
    Ok(())
}

async fn execute(session: &Connection, statement: &Statement) -> Result<(), StepError> {
    let refused = |error| explain(error, statement);
    let nothing: [(&(dyn ToSql + Sync), Type); 0] = [];
    let rows = session.query_typed_raw(&statement.sql, nothing).await.map_err(refused)?;
    let mut rows = pin!(rows);
    while rows.try_next().await.map_err(refused)?.is_some() {}
    Ok(())
}

async fn copy(
    session: &Connection,
    dump: &mut ForeignScript,
    statement: &Statement,
    tools: &PgTools,
) -> Result<(), StepError> {
    let refused = |error| explain(error, statement);
    let sink = session.copy_in::<_, Bytes>(&statement.sql).await.map_err(refused)?;
    let mut sink = pin!(sink);
    loop {
        match dump.script.rows().await {
            Ok(Some(rows)) => sink.send(rows).await.map_err(refused)?,
            Ok(None) => break,
            Err(error) => return Err(blame(error, dump, tools).await),
        }
    }
    sink.finish().await.map_err(refused)?;
    Ok(())
}

/// A script that was made of an archive ends early where the archive is at fault.
async fn blame(error: ScriptError, dump: &mut ForeignScript, tools: &PgTools) -> StepError {
    match error {
        ScriptError::Cut { .. } => match dump.finish(tools).await {
            Ok(()) => error.into(),
            Err(error) => error.into(),
        },
        error => error.into(),
    }
}

fn require_old_enough(dump: &ForeignScript, tools: &PgTools) -> Result<(), StepError> {
    let Some(from) = dump
        .script
        .dumped_from()
        .filter(|_| dump.script.dumped_from_major().is_some_and(|major| major > tools.major()))
    else {
        return Ok(());
    };
    Err(StepError::fail(
        format!(
            "the dump is of PostgreSQL {from}, and the server is of PostgreSQL {}",
            tools.major()
        ),
        "import it to a server of the same or a newer version (--server)",
    ))
}

/// Whoever may create in a database may have the extensions that the server trusts, and no others.
async fn require_extension(session: &Connection, name: &str, line: u64) -> Result<(), StepError> {
    let row = session
        .query_one(
            "-- import::extension
             select bool_or(trusted), (select count(*) from pg_catalog.pg_extension where extname = $1)
             from pg_catalog.pg_available_extension_versions where name = $1",
            &[&name],
        )
        .await
        .map_err(Error::from)?;
    let (trusted, present): (Option<bool>, i64) = (row.get(0), row.get(1));
    match trusted {
        _ if present > 0 => Ok(()),
        Some(true) => Ok(()),
        Some(false) => Err(refusal(
            format!(
                "line {line} of the dump has the extension {name}, which only a superuser may create"
            ),
            format!(
                "dump the database without it, and without what needs it; `{name}` is not one that PostgreSQL trusts"
            ),
        )),
        None => Err(StepError::fail(
            format!("line {line} of the dump has the extension {name}, which the server has not"),
            format!(
                "install {name} on the server, or choose another server with --server; then import it again"
            ),
        )),
    }
}

/// What an open transaction has written would be gone with its session.
async fn require_no_transaction(session: &Connection) -> Result<(), StepError> {
    let row = session
        .query_one(
            "-- import::in_transaction
             select pg_catalog.txid_current_if_assigned() is not null",
            &[],
        )
        .await;
    match row {
        Ok(row) if !row.get::<_, bool>(0) => Ok(()),
        Ok(_) => Err(StepError::fail("the dump ends within a transaction", IN_TRANSACTION)),
        Err(error) => Err(Error::from(error).into()),
    }
}

/// The server's own words, with the line; never the statement's values.
fn explain(error: tokio_postgres::Error, statement: &Statement) -> StepError {
    let Statement { sql, line } = statement;
    let state = error.code().cloned();
    let remedy = match state.as_ref().map(SqlState::code) {
        Some("42501") => RIGHTS,
        Some("53100") => "free disk space on the server, then import it again",
        Some(code) if !code.starts_with("57P") => FIX,
        _ => "look whether the server runs, then import it again",
    };
    let error = Cause::from(error);
    let message = format!("line {line} of the dump, {}: {error}", describe(sql));
    match state {
        Some(SqlState::INSUFFICIENT_PRIVILEGE) => refusal(message, remedy),
        _ => StepError::fail(message, remedy),
    }
}
