//! A script of SQL that somebody else wrote, cut into statements while it streams by, and the rows between them.
//!
//! It is cut where `psql` would cut it, and nothing in it is obeyed: a backslash outside of quotes is a command to
//! `psql` (a shell, a file), and no statement. `\restrict` and `\unrestrict`, which `pg_dump` writes around its own
//! text, say nothing to us; every other is refused by its line. At most one statement, or one piece of rows, is in
//! memory.

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncBufRead, AsyncBufReadExt};

use super::cutter::{Cut, Cutter};
use crate::tools::major_of;

/// More than any statement of `pg_dump` without `--inserts`.
const MAX_STATEMENT_BYTES: usize = 32 * 1024 * 1024;
/// How many bytes of rows are handed on at a time.
const ROWS_BYTES: usize = 64 * 1024;

const BEGINS: &str = "-- PostgreSQL database dump";
const COMPLETE: &str = "-- PostgreSQL database dump complete";
const DUMPED_FROM: &str = "-- Dumped from database version ";

/// A script, while it is read.
pub struct Script<R> {
    input: R,
    /// The line under way, and how much of it has been cut.
    text: Vec<u8>,
    at: usize,
    /// The number of that line, counted from 1.
    line: u64,
    cutter: Cutter,
    rows: Rows,
    /// Whether `pg_dump` says that this is the beginning of its work, and whether it says so of the end.
    begins: bool,
    complete: bool,
    dumped_from: Option<String>,
}

/// One statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// Its text, without comments before it and without the semicolon.
    pub sql: String,
    /// The line that it begins in, counted from 1.
    pub line: u64,
}

/// Why a script cannot be read on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScriptError {
    /// The stream failed, or cannot be decompressed.
    #[error("the dump cannot be read")]
    Read(#[source] io::Error),
    /// A command to `psql`.
    #[error("line {line} is a command to psql, `\\{command}`, and no SQL")]
    Command {
        /// The line.
        line: u64,
        /// Its first word.
        command: String,
    },
    /// The script ends within a statement, or before `pg_dump` said that it was complete.
    #[error("the dump is cut: it ends at line {line}, and is not complete")]
    Cut {
        /// The last line.
        line: u64,
    },
    /// A statement that is too long to be held.
    #[error("the statement at line {line} is longer than {} MiB", MAX_STATEMENT_BYTES >> 20)]
    TooLong {
        /// The line that it begins in.
        line: u64,
    },
    /// A statement that is no text.
    #[error("line {line} is not UTF-8")]
    NotText {
        /// The line.
        line: u64,
    },
    /// Rows that do not begin in a line of their own.
    #[error("line {line} goes on after `copy … from stdin`")]
    BesideCopy {
        /// The line.
        line: u64,
    },
}

impl ScriptError {
    /// What somebody who has the dump can do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Read(_) | Self::Cut { .. } => "take the dump again, and copy it as a whole",
            Self::Command { command, .. } if command.starts_with("connect") => {
                "this is a dump of `pg_dumpall`, or of `pg_dump --create`: dump the one database, with `pg_dump -Fc`"
            }
            Self::Command { .. } => "take that line out, or dump the database with `pg_dump -Fc`",
            Self::TooLong { .. } => "dump the database with `pg_dump -Fc`, without `--inserts`",
            Self::NotText { .. } => "dump the database with `--encoding=UTF8`",
            Self::BesideCopy { .. } => "begin the rows in the next line",
        }
    }
}

/// Where rows are.
#[derive(Default)]
struct Rows {
    /// Whether the next byte begins a row.
    begins: bool,
    /// Whether the last piece has been handed on.
    ended: bool,
}

impl<R: AsyncBufRead + Unpin> Script<R> {
    /// A script that begins here.
    pub fn new(input: R) -> Self {
        Self {
            input,
            text: Vec::new(),
            at: 0,
            line: 0,
            cutter: Cutter::default(),
            rows: Rows::default(),
            begins: false,
            complete: false,
            dumped_from: None,
        }
    }

    /// The version of the server that was dumped, where the script says it.
    #[must_use]
    pub fn dumped_from(&self) -> Option<&str> {
        self.dumped_from.as_deref()
    }

    /// The same, the number before the full stop.
    #[must_use]
    pub fn dumped_from_major(&self) -> Option<u32> {
        self.dumped_from().and_then(major_of)
    }

    /// The next statement; `None` at the end of a script that is whole.
    pub async fn next(&mut self) -> Result<Option<Statement>, ScriptError> {
        loop {
            if self.at == self.text.len() && !self.read_line().await? {
                return self.finish();
            }
            let (line, cut) = (self.line, self.cutter.feed(&self.text[self.at..], self.line));
            match cut {
                Cut::Statement { length } => {
                    self.at += length;
                    return self
                        .cutter
                        .take()
                        .map(Some)
                        .map_err(|line| ScriptError::NotText { line });
                }
                Cut::Command { length } => {
                    let command = first_word(&self.text[self.at + length..]);
                    if !matches!(command.as_str(), "restrict" | "unrestrict") {
                        return Err(ScriptError::Command { line, command });
                    }
                    self.at = self.text.len();
                }
                Cut::Line => {
                    if self.cutter.is_empty() {
                        self.note_comment();
                    }
                    self.at = self.text.len();
                }
            }
            if self.cutter.sql.len() > MAX_STATEMENT_BYTES {
                return Err(ScriptError::TooLong { line: self.cutter.line });
            }
        }
    }

    /// After a `copy … from stdin`: the rows that follow, piece by piece; `None` once after the last.
    pub async fn rows(&mut self) -> Result<Option<Bytes>, ScriptError> {
        if self.at < self.text.len() {
            if !self.text[self.at..].trim_ascii().is_empty() {
                return Err(ScriptError::BesideCopy { line: self.line });
            }
            self.at = self.text.len();
            self.rows.begins = true;
        }
        if std::mem::take(&mut self.rows.ended) {
            return Ok(None);
        }
        let mut rows = Vec::with_capacity(ROWS_BYTES);
        while rows.len() < ROWS_BYTES {
            let from = rows.len();
            let ends = self.read_piece(&mut rows, ROWS_BYTES).await?;
            let piece = &rows[from..];
            if self.rows.begins && matches!(piece, b"\\.\n" | b"\\.\r\n" | b"\\.") {
                self.line += 1;
                rows.truncate(from);
                self.rows.ended = true;
                break;
            }
            if piece.is_empty() {
                return Err(ScriptError::Cut { line: self.line });
            }
            self.line += u64::from(ends);
            self.rows.begins = ends;
        }
        if rows.is_empty() {
            self.rows.ended = false;
            return Ok(None);
        }
        Ok(Some(rows.into()))
    }

    async fn read_line(&mut self) -> Result<bool, ScriptError> {
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        (self.at, self.line) = (0, self.line + 1);
        let ends = self.read_piece(&mut text, MAX_STATEMENT_BYTES).await?;
        if !ends && text.len() >= MAX_STATEMENT_BYTES {
            return Err(ScriptError::TooLong { line: self.line });
        }
        if self.line == 1 && text.starts_with("\u{feff}".as_bytes()) {
            text.drain(..3);
        }
        self.text = text;
        Ok(!self.text.is_empty())
    }

    /// Reads to the end of the line, or somewhat more than so many bytes of it. Whether the line ended.
    async fn read_piece(&mut self, into: &mut Vec<u8>, limit: usize) -> Result<bool, ScriptError> {
        let from = into.len();
        while into.len() - from < limit {
            let bytes = self.input.fill_buf().await.map_err(ScriptError::Read)?;
            if bytes.is_empty() {
                return Ok(false);
            }
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(bytes.len(), |end| end + 1);
            into.extend_from_slice(&bytes[..taken]);
            self.input.consume(taken);
            if end.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What `pg_dump` says of its own work.
    fn note_comment(&mut self) {
        let Ok(text) = std::str::from_utf8(self.text[self.at..].trim_ascii()) else { return };
        self.begins |= text == BEGINS;
        self.complete |= text == COMPLETE;
        if let Some(version) = text.strip_prefix(DUMPED_FROM) {
            self.dumped_from = Some(version.to_owned());
        }
    }

    fn finish(&self) -> Result<Option<Statement>, ScriptError> {
        let is_whole = self.cutter.is_at_rest() && (self.complete || !self.begins);
        let line = self.line.saturating_sub(1);
        if is_whole { Ok(None) } else { Err(ScriptError::Cut { line }) }
    }
}

fn first_word(text: &[u8]) -> String {
    let word = text.split(u8::is_ascii_whitespace).next().unwrap_or_default();
    String::from_utf8_lossy(&word[..word.len().min(20)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(script: &str) -> Result<Vec<(u64, String)>, ScriptError> {
        let mut script = Script::new(script.as_bytes());
        let mut found = Vec::new();
        while let Some(Statement { sql, line }) = script.next().await? {
            let is_copy = sql.starts_with("copy ");
            found.push((line, sql));
            while is_copy && let Some(rows) = script.rows().await? {
                found.push((0, String::from_utf8(rows.to_vec()).unwrap()));
            }
        }
        Ok(found)
    }

    async fn texts(script: &str) -> Vec<String> {
        all(script).await.unwrap().into_iter().map(|(_, sql)| sql).collect()
    }

    #[tokio::test]
    async fn a_script_is_cut_where_psql_cuts_it() {
        let script = "-- one; two\n/* a; /* b; */\n c; */ select ';' ;;\n\
            select E'it\\'s; so', \"a;b\", U&'d\\0061;' , 'two\n lines; ''so' -- x; y\n, 1;\n\
            create function f() returns int language sql begin atomic select case when true then 1 end; select 2; end;\n\
            create or replace procedure p() language plpgsql as $x$ begin; $$;$$;\n end $x$;\n\
            create rule r as on insert to t do also (select 1; select 2);\n\
            select a$b$c from t; select $1;\nselect case when end then begin end;";

        let cut = texts(script).await;

        assert_eq!(cut.len(), 8, "{cut:#?}");
        assert_eq!(cut[0], "select ';'");
        assert!(cut[1].starts_with("select E'it\\'s; so'") && cut[1].ends_with("-- x; y\n, 1"));
        assert!(cut[2].ends_with("select 2; end"), "{}", cut[2]);
        assert!(cut[3].ends_with("end $x$"), "{}", cut[3]);
        assert!(cut[4].ends_with("select 2)"));
        assert_eq!(cut[6], "select $1");
        assert_eq!(cut[7], "select case when end then begin end");
    }

    #[tokio::test]
    async fn rows_are_no_statements() {
        let script = "copy t (a, b) from stdin;\n1\t;\n\\\\!\tx\n\\.\nselect 1;\ncopy u from stdin;\n\\.\nselect 2;\n";

        let found = all(script).await.unwrap();

        let expected = [
            (1, "copy t (a, b) from stdin"),
            (0, "1\t;\n\\\\!\tx\n"),
            (5, "select 1"),
            (6, "copy u from stdin"),
            (8, "select 2"),
        ];
        let found: Vec<(u64, &str)> = found.iter().map(|(at, sql)| (*at, sql.as_str())).collect();
        assert_eq!(found, expected);
    }

    #[tokio::test]
    async fn rows_of_any_length_come_whole() {
        let row = "x".repeat(3 * ROWS_BYTES);
        let script = format!("copy t from stdin;\n{row}\n\\.y\n{row}\n\\.\n");

        let found = texts(&script).await;

        assert_eq!(found[1..].concat(), format!("{row}\n\\.y\n{row}\n"));
    }

    #[tokio::test]
    async fn commands_to_psql_are_refused_by_their_line() {
        for (script, line, command) in [
            ("select 1;\n\\! rm -rf /\n", 2, "!"),
            ("\\connect postgres\n", 1, "connect"),
            ("select 1 \\gexec\n", 1, "gexec"),
            ("-- x\n  \\i /etc/passwd\n", 2, "i"),
            ("select 1; \\copy t from 'x'\n", 1, "copy"),
            ("\\.\n", 1, "."),
        ] {
            let refused = all(script).await.unwrap_err();

            let ScriptError::Command { line: at, command: found } = &refused else {
                panic!("{script}: {refused}")
            };
            assert_eq!((*at, found.as_str()), (line, command), "{script}");
        }
        assert_eq!(texts("\\restrict a1B2\nselect '\\! x';\n\\unrestrict a1B2\n").await.len(), 1);
    }

    #[tokio::test]
    async fn what_is_cut_is_noticed() {
        let whole = "--\n-- PostgreSQL database dump\n--\n-- Dumped from database version 15.18 (Debian)\n\
                     select 1;\n--\n-- PostgreSQL database dump complete\n--\n";
        let mut script = Script::new(whole.as_bytes());
        while script.next().await.unwrap().is_some() {}
        assert_eq!(script.dumped_from_major(), Some(15));

        for script in [
            whole.split("--\n-- PostgreSQL database dump complete").next().unwrap(),
            "select 1",
            "select 'open;\n",
            "create function f() as $$ begin",
            "/* open",
            "copy t from stdin;\n1\n",
            "copy t from stdin;",
        ] {
            assert!(matches!(all(script).await, Err(ScriptError::Cut { .. })), "{script}");
        }
        assert!(matches!(
            all("copy t from stdin; select 1;\n").await,
            Err(ScriptError::BesideCopy { line: 1 })
        ));
    }
}
