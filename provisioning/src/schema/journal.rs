//! The statements of a file that runs outside of a transaction, one by one and each once.
//!
//! A statement is written down before it begins, if it has to run alone, and when it has ended; so a run
//! that was cut goes on with the next one. Between the end of a statement and the note of it the session
//! may die. What was begun and not ended is therefore looked for: an index that is there and valid is
//! adopted, an invalid one is dropped and built again. Of a statement that leaves nothing to look for
//! we do not guess: [`SchemaError::InDoubt`] asks the operator.
//!
//! A file that should run in one transaction may end that by itself. Then a mark is committed with the first
//! part of it: where an earlier run has left one, [`SchemaError::HalfDone`] asks the operator.
//!
//! Two runs never meet here: the migration lock belongs to the session, and PostgreSQL keeps it until the
//! last statement of a session whose client has died has ended.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use futures_util::future;
use postgres_protocol::escape::{escape_identifier, escape_literal};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::run::{FRESH, Piece, Run, Script};
use super::statement::{Index, Manner, Statement, head, split};
use super::{RepeatableFile, SchemaError};
use crate::error::Error;

/// Made with every database; here for those that are older.
const JOURNAL: &str = include_str!("../../sql/journal.sql");
/// Made when a database gets the first file of a track.
const TRACK: &str = include_str!("../../sql/track.sql");

/// How much longer a statement may wait that nobody queues up behind.
const PATIENCE: u32 = 30;

/// The number of a mark; statements are counted from 1.
const MARK: i32 = 0;

/// A statement that was begun.
struct Record {
    sha256: String,
    ended: bool,
}

/// A statement in its file.
#[derive(Clone, Copy)]
struct Entry<'a> {
    file: &'a str,
    number: i32,
    statement: &'a Statement<'a>,
    sha256: &'a str,
}

/// The repeatable files that a database has, with their checksums. No table is none.
pub(super) async fn repeatables(client: &Client) -> Result<BTreeMap<String, String>, SchemaError> {
    let rows = client
        .query_typed(
            "-- journal::repeatables
             select file, sha256 from tenantry.schema_repeatables",
            &[],
        )
        .await;
    match rows {
        Ok(rows) => Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect()),
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Ok(BTreeMap::new()),
        Err(error) => Err(Error::from(error).into()),
    }
}

/// Makes the tables that an older database lacks.
pub(super) async fn prepare(client: &Client) -> Result<(), SchemaError> {
    Ok(client.batch_execute(JOURNAL).await.map_err(Error::from)?)
}

/// Makes the tables that a database lacks which gets files of this track for the first time.
pub(super) async fn prepare_track(client: &Client, track: &str) -> Result<(), SchemaError> {
    prepare(client).await?;
    let named = format!(
        "{TRACK}alter table tenantry.track_history alter column track set default {}",
        escape_literal(track)
    );
    Ok(client.batch_execute(&named).await.map_err(Error::from)?)
}

/// The track that a database has files of, or parts of files. No table is none.
pub(super) async fn held_track(client: &Client) -> Result<Option<String>, SchemaError> {
    let rows = client
        .query_typed(
            "-- journal::held_track
             select track from tenantry.track_history
             union select split_part(file, '/', 2) from tenantry.schema_repeatables where file like 'tracks/%'
             union select split_part(file, '/', 2) from tenantry.schema_statements where file like 'tracks/%'
             order by 1",
            &[],
        )
        .await;
    match rows {
        Ok(rows) if rows.len() > 1 => {
            Err(SchemaError::History("it has files of more than one track".to_owned()))
        }
        Ok(rows) => Ok(rows.first().map(|row| row.get(0))),
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Ok(None),
        Err(error) => Err(Error::from(error).into()),
    }
}

/// Notes that a repeatable file has run; its statements are forgotten, as they may run again.
pub(super) fn note(file: &RepeatableFile) -> String {
    let (name, sha256) = (escape_literal(&file.file), escape_literal(&file.sha256));
    format!(
        "-- journal::note
         insert into tenantry.schema_repeatables (file, sha256) values ({name}, {sha256})
         on conflict (file) do update set sha256 = excluded.sha256, applied_at = now();
         delete from tenantry.schema_statements where file = {name}"
    )
}

impl Run<'_> {
    /// Runs the statements of a file that have not run yet, and `note` that it has run.
    pub(super) async fn one_by_one(
        &self,
        script: Script<'_>,
        note: &str,
    ) -> Result<(), SchemaError> {
        self.client.batch_execute(FRESH).await.map_err(Error::from)?;
        prepare(self.client).await?;
        let statements = split(script.sql);
        let checksums: Vec<String> = statements.iter().map(checksum).collect();
        let records = self.records(script, &checksums).await?;
        for ((number, statement), sha256) in (1..).zip(&statements).zip(&checksums) {
            let entry = Entry { file: script.file, number, statement, sha256 };
            match records.get(&number) {
                Some(record) if record.ended => {}
                earlier => self.statement(entry, earlier.is_some()).await?,
            }
        }
        Ok(self.client.batch_execute(note).await.map_err(Error::from)?)
    }

    /// Runs a file that ends its transaction by itself, unless an earlier run has committed a part of it.
    pub(super) async fn with_mark(&self, piece: &Piece<'_>, note: &str) -> Result<(), SchemaError> {
        let client = self.client;
        client.batch_execute(FRESH).await.map_err(Error::from)?;
        prepare(client).await?;
        let marks = client
            .query_typed(
                "-- journal::with_mark
                 select ended_at is not null from tenantry.schema_statements where file = $1 and number = $2",
                &[(&piece.file, Type::TEXT), (&MARK, Type::INT4)],
            )
            .await
            .map_err(Error::from)?;
        let (file, sha256) = (escape_literal(piece.file), digest(&SHA256, piece.sql.as_bytes()));
        let note = format!(
            "{note};\ndelete from tenantry.schema_statements where file = {file} and number = {MARK}"
        );
        match marks.first().map(|mark| mark.get(0)) {
            Some(false) => return Err(SchemaError::HalfDone { file: piece.file.to_owned() }),
            // Somebody has looked, and says that all of it is done.
            Some(true) => return Ok(client.batch_execute(&note).await.map_err(Error::from)?),
            None => {}
        }
        let opening = format!(
            "begin;\ninsert into tenantry.schema_statements (file, number, sha256)
             values ({file}, {MARK}, '{}')",
            hex::encode(sha256)
        );
        self.patiently(piece, || self.ending_itself(&opening, piece.sql, &note)).await
    }

    /// Runs a text that may end the transaction of its `opening` by itself, and its note once it has succeeded.
    async fn ending_itself(
        &self,
        opening: &str,
        sql: &str,
        note: &str,
    ) -> Result<(), tokio_postgres::Error> {
        let client = self.client;
        let (begun, ran) =
            future::join(client.batch_execute(opening), client.batch_execute(sql)).await;
        begun.and(ran)?;
        let (noted, committed) =
            future::join(client.batch_execute(note), client.batch_execute("commit")).await;
        noted.and(committed)
    }

    /// What earlier runs of the file wrote down. What has ended must still stand in the file.
    async fn records(
        &self,
        script: Script<'_>,
        checksums: &[String],
    ) -> Result<BTreeMap<i32, Record>, SchemaError> {
        let rows = self
            .client
            .query_typed(
                "-- journal::records
                 select number, sha256, ended_at is not null
                 from tenantry.schema_statements where file = $1",
                &[(&script.file, Type::TEXT)],
            )
            .await
            .map_err(Error::from)?;
        let record = |row: &tokio_postgres::Row| {
            (row.get(0), Record { sha256: row.get(1), ended: row.get(2) })
        };
        let records: BTreeMap<i32, Record> = rows.iter().map(record).collect();
        let stands = |(number, record): (&i32, &Record)| {
            let at = usize::try_from(number - 1).ok();
            at.and_then(|at| checksums.get(at)).is_some_and(|sha256| *sha256 == record.sha256)
        };
        if records.iter().all(|(number, record)| !record.ended || stands((number, record))) {
            return Ok(records);
        }
        if !script.repeatable {
            return Err(SchemaError::Edited { file: script.file.to_owned() });
        }
        let name = escape_literal(script.file);
        let forget = format!(
            "-- journal::records\ndelete from tenantry.schema_statements where file = {name}"
        );
        self.client.batch_execute(&forget).await.map_err(Error::from)?;
        Ok(BTreeMap::new())
    }

    /// Runs one statement. `begun` if an earlier run began it and did not live to see its end.
    async fn statement(&self, entry: Entry<'_>, begun: bool) -> Result<(), SchemaError> {
        let Entry { file, statement, .. } = entry;
        let is_whole = !statement.may_be_half_done();
        let piece = Piece { file, sql: statement.sql, line: statement.line, is_whole };
        let (client, sql) = (self.client, statement.sql);
        let manner = statement.manner();
        if begun && self.is_done(&manner).await.map_err(Error::from)? {
            tracing::info!(file, line = statement.line, "a statement of a cut run is done");
            return self.write_down(entry, true).await;
        }
        match &manner {
            Manner::Setting => {
                return self.patiently(&piece, || client.batch_execute(sql)).await;
            }
            Manner::Recorded | Manner::Transaction | Manner::Nameless => {
                return self.patiently(&piece, || self.with_record(entry)).await;
            }
            Manner::Once if begun => return Err(in_doubt(entry)),
            _ => {}
        }
        self.write_down(entry, false).await?;
        let ran = if statement.is_patient() {
            self.with_patience(&piece, statement, &manner).await
        } else {
            self.patiently(&piece, || client.batch_execute(sql)).await
        };
        if let Err(failure) = ran {
            // It would be tried again, and nobody can tell how much of it was committed.
            if !is_whole && failure.is_transient() {
                return Err(failure);
            }
            // Where this does not succeed either, the next run sees to it.
            if self.give_up(entry, &manner).await.is_err() {
                tracing::debug!(file, "a failed statement stays written down as begun");
            }
            return Err(failure);
        }
        self.write_down(entry, true).await
    }

    /// Runs a statement together with its record.
    async fn with_record(&self, entry: Entry<'_>) -> Result<(), tokio_postgres::Error> {
        self.ending_itself("begin", entry.statement.sql, &record(entry, true)).await
    }

    /// Runs what waits for old transactions to end and keeps nobody waiting meanwhile.
    async fn with_patience(
        &self,
        piece: &Piece<'_>,
        statement: &Statement<'_>,
        manner: &Manner,
    ) -> Result<(), SchemaError> {
        let client = self.client;
        let usual = client
            .query_typed("-- journal::with_patience\nselect current_setting('lock_timeout')", &[])
            .await
            .map_err(Error::from)?;
        let usual = usual.first().map_or_else(String::new, |row| row.get(0));
        let longer = (self.timeouts.lock * PATIENCE).min(self.timeouts.statement).as_millis();
        let set = |value: &str| format!("set lock_timeout = {}", escape_literal(value));
        client.batch_execute(&set(&longer.to_string())).await.map_err(Error::from)?;
        self.patiently(piece, || async {
            self.clear_up(statement, manner).await?;
            client.batch_execute(statement.sql).await
        })
        .await?;
        Ok(client.batch_execute(&set(&usual)).await.map_err(Error::from)?)
    }

    /// After a failure that PostgreSQL reported: nothing of the statement is left, and nothing in doubt.
    async fn give_up(
        &self,
        entry: Entry<'_>,
        manner: &Manner,
    ) -> Result<(), tokio_postgres::Error> {
        self.clear_up(entry.statement, manner).await?;
        let forget = format!(
            "-- journal::give_up
             delete from tenantry.schema_statements where file = {} and number = {}",
            escape_literal(entry.file),
            entry.number
        );
        self.client.batch_execute(&forget).await
    }

    /// Whether there is nothing left to do.
    async fn is_done(&self, manner: &Manner) -> Result<bool, tokio_postgres::Error> {
        match manner {
            Manner::CreateIndex(index) => {
                Ok(self.find(index).await?.is_some_and(|found| found.valid && found.matches))
            }
            Manner::DropIndex(name) => {
                let rows = self
                    .client
                    .query_typed(
                        "-- journal::is_done\nselect to_regclass($1) is null",
                        &[(name, Type::TEXT)],
                    )
                    .await?;
                Ok(rows.first().is_some_and(|row| row.get(0)))
            }
            _ => Ok(false),
        }
    }

    /// Drops what a try that was cut has left: it costs writes and serves no reader.
    async fn clear_up(
        &self,
        statement: &Statement<'_>,
        manner: &Manner,
    ) -> Result<(), tokio_postgres::Error> {
        match manner {
            Manner::CreateIndex(index) => self.clear_away(index).await,
            _ if statement.is_reindex() => self.clear_copies().await,
            _ => Ok(()),
        }
    }

    /// Drops the copies of indexes that were never finished, or never dropped, under PostgreSQL's own names.
    async fn clear_copies(&self) -> Result<(), tokio_postgres::Error> {
        let copies = self
            .client
            .query_typed(
                "-- journal::clear_copies
                 select format('%I.%I', n.nspname, c.relname)
                 from pg_index i
                 join pg_class c on c.oid = i.indexrelid
                 join pg_namespace n on n.oid = c.relnamespace
                 where not i.indisvalid and c.relname ~ '_cc(new|old)[0-9]*$' and c.relkind = 'i'",
                &[],
            )
            .await?;
        for copy in &copies {
            let name: &str = copy.get(0);
            tracing::info!(index = name, "the copy of an index is dropped");
            self.client.batch_execute(&format!("drop index concurrently {name}")).await?;
        }
        Ok(())
    }

    /// Drops an index that is not valid.
    async fn clear_away(&self, index: &Index) -> Result<(), tokio_postgres::Error> {
        let Some(found) = self.find(index).await?.filter(|found| !found.valid) else {
            return Ok(());
        };
        tracing::info!(index = index.name, table = index.table, "an invalid index is dropped");
        let (schema, name) = (escape_identifier(&found.schema), escape_identifier(&index.name));
        self.client.batch_execute(&format!("drop index concurrently {schema}.{name}")).await
    }

    async fn find(&self, index: &Index) -> Result<Option<Found>, tokio_postgres::Error> {
        let rows = self
            .client
            .query_typed(
                "-- journal::find
                 select n.nspname::text, i.indisvalid, i.indisunique = $3
                 from pg_index i
                 join pg_class c on c.oid = i.indexrelid
                 join pg_namespace n on n.oid = c.relnamespace
                 where i.indrelid = to_regclass($1) and c.relname = $2::name",
                &[
                    (&index.table, Type::TEXT),
                    (&index.name, Type::TEXT),
                    (&index.unique, Type::BOOL),
                ],
            )
            .await?;
        let found = |row: &tokio_postgres::Row| Found {
            schema: row.get(0),
            valid: row.get(1),
            matches: row.get(2),
        };
        Ok(rows.first().map(found))
    }

    async fn write_down(&self, entry: Entry<'_>, ended: bool) -> Result<(), SchemaError> {
        Ok(self.client.batch_execute(&record(entry, ended)).await.map_err(Error::from)?)
    }
}

/// An index that is there.
struct Found {
    schema: String,
    valid: bool,
    /// Whether it is as unique as the one wanted.
    matches: bool,
}

fn record(entry: Entry<'_>, ended: bool) -> String {
    format!(
        "-- journal::record
         insert into tenantry.schema_statements (file, number, sha256, ended_at)
         values ({}, {}, {}, {})
         on conflict (file, number)
             do update set sha256 = excluded.sha256, ended_at = excluded.ended_at",
        escape_literal(entry.file),
        entry.number,
        escape_literal(entry.sha256),
        if ended { "now()" } else { "null" },
    )
}

fn checksum(statement: &Statement<'_>) -> String {
    hex::encode(digest(&SHA256, statement.sql.as_bytes()))
}

fn in_doubt(entry: Entry<'_>) -> SchemaError {
    SchemaError::InDoubt {
        file: entry.file.to_owned(),
        line: entry.statement.line,
        number: entry.number,
        statement: head(entry.statement.sql),
    }
}
