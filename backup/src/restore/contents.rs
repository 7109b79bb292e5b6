//! What a stored dump holds, found out without a server: its table of contents, and a digest of the rows of
//! every table.
//!
//! A digest does not depend on the order of the rows, which a restore does not keep. It is made from rows as
//! `copy` writes them, so a restored table can be compared by copying it out under the same settings.

use std::io;
use std::process::Stdio;

use aws_lc_rs::digest::{Context, SHA256};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::ChildStdout;

use super::{Archive, BUFFER_BYTES, RestoreError, Restored, drive, require_readable};
use crate::key::BackupKey;
use crate::manifest::Manifest;
use crate::process::Process;
use crate::store::BackupStore;
use crate::tools::PgTools;

const COPY: &str = "COPY ";
const FROM_STDIN: &str = " FROM stdin;";
/// What ends the rows of a table in a script.
const END: &[u8] = b"\\.\n";
/// The beginning of a line outside of any table; more of it nobody needs.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// The rows of one table, whatever their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableDigest {
    /// The table and its columns, as a `copy` statement names them.
    pub columns: String,
    /// The rows.
    pub rows: RowDigest,
}

/// A digest of lines, whatever their order.
#[derive(Clone, Default)]
pub struct RowDigest {
    rows: u64,
    sum: u128,
    line: Option<Context>,
}

impl RowDigest {
    /// Takes in what `copy … to stdout` sends, in pieces of any size.
    pub fn update(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = match piece {
                [text @ .., b'\n'] => (text, true),
                text => (text, false),
            };
            self.line.get_or_insert_with(|| Context::new(&SHA256)).update(text);
            if ends {
                self.end_line();
            }
        }
    }

    /// How many rows there were.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    fn end_line(&mut self) {
        let hash = self.line.take().unwrap_or_else(|| Context::new(&SHA256)).finish();
        let mut half = [0; 16];
        half.copy_from_slice(&hash.as_ref()[..16]);
        // A sum, so that a row that is there twice does not cancel itself out.
        self.sum = self.sum.wrapping_add(u128::from_le_bytes(half));
        self.rows += 1;
    }
}

impl PartialEq for RowDigest {
    fn eq(&self, other: &Self) -> bool {
        (self.rows, self.sum) == (other.rows, other.sum)
    }
}

impl Eq for RowDigest {}

impl std::fmt::Debug for RowDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RowDigest({} rows, {:032x})", self.rows, self.sum)
    }
}

/// Reads a whole stored dump, checks every byte of it, and has `pg_restore` read its table of contents.
pub async fn list_contents(
    store: &BackupStore,
    manifest: &Manifest,
    key: &BackupKey,
    tools: &PgTools,
) -> Result<Restored, RestoreError> {
    manifest.verify(key, manifest.tenant)?;
    require_readable(manifest, tools)?;
    let archive = Archive::open(store, manifest, key).await?;
    let mut process = start(tools, "--list", Stdio::null()).map_err(RestoreError::pg_restore)?;
    drive(archive, &mut process, |_| {}).await
}

/// Digests the rows of every table that a stored dump holds.
pub async fn digest_tables(
    store: &BackupStore,
    manifest: &Manifest,
    key: &BackupKey,
    tools: &PgTools,
) -> Result<Vec<TableDigest>, RestoreError> {
    manifest.verify(key, manifest.tenant)?;
    require_readable(manifest, tools)?;
    let archive = Archive::open(store, manifest, key).await?;
    let mut process =
        start(tools, "--data-only", Stdio::piped()).map_err(RestoreError::pg_restore)?;
    let reading = read_script(process.take_stdout());
    let (driven, digests) = tokio::join!(drive(archive, &mut process, |_| {}), reading);
    driven?;
    digests.map_err(RestoreError::pg_restore)
}

/// `pg_restore` from its input to its output, with no server.
fn start(tools: &PgTools, what: &str, stdout: Stdio) -> io::Result<Process> {
    let arguments = [what, "--format=custom", "--file=-"];
    Process::start(tools.pg_restore(), arguments, &[], Stdio::piped(), stdout)
}

async fn read_script(output: ChildStdout) -> io::Result<Vec<TableDigest>> {
    let mut output = BufReader::with_capacity(BUFFER_BYTES, output);
    let mut script = Script::default();
    loop {
        let bytes = output.fill_buf().await?;
        if bytes.is_empty() {
            return Ok(script.tables);
        }
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            script.update(piece);
        }
        let read = bytes.len();
        output.consume(read);
    }
}

/// A script of `pg_restore`, while it is read.
#[derive(Default)]
struct Script {
    tables: Vec<TableDigest>,
    /// Whether the lines are rows of the last table.
    in_table: bool,
    /// Whether the line is a row whose beginning has been digested.
    in_row: bool,
    /// The beginning of any other line.
    head: Vec<u8>,
}

impl Script {
    /// Takes in a line, or a part of one.
    fn update(&mut self, piece: &[u8]) {
        let ends = piece.ends_with(b"\n");
        if self.in_row {
            self.digest(piece);
            self.in_row = !ends;
            return;
        }
        if self.head.len() < MAX_HEAD_BYTES {
            self.head.extend_from_slice(piece);
        }
        if self.in_table {
            // Three bytes tell the end of a table from a row.
            if self.head == END {
                (self.in_table, self.head) = (false, Vec::new());
            } else if ends || self.head.len() >= END.len() {
                let row = std::mem::take(&mut self.head);
                self.digest(&row);
                self.in_row = !ends;
            }
        } else if ends {
            let line = std::mem::take(&mut self.head);
            if let Some(columns) = columns(&line) {
                self.tables.push(TableDigest { columns, rows: RowDigest::default() });
                self.in_table = true;
            }
        }
    }

    fn digest(&mut self, bytes: &[u8]) {
        if let Some(table) = self.tables.last_mut() {
            table.rows.update(bytes);
        }
    }
}

/// `public.boards (id, title)` of `COPY public.boards (id, title) FROM stdin;`.
fn columns(line: &[u8]) -> Option<String> {
    let line = std::str::from_utf8(line).ok()?.trim_end();
    Some(line.strip_prefix(COPY)?.strip_suffix(FROM_STDIN)?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "SET client_encoding = 'UTF8';\n\
        COPY public.boards (id, title) FROM stdin;\n1\tone\n2\t\\\\.\n3\t\n\\.\n\n\
        COPY public.\"odd name\" (id) FROM stdin;\n\\.\n\
        SELECT pg_catalog.setval('public.boards_id_seq', 3, true);\n";

    fn read(pieces: impl Iterator<Item = &'static [u8]>) -> Vec<TableDigest> {
        let mut script = Script::default();
        for piece in pieces {
            script.update(piece);
        }
        script.tables
    }

    fn digest(rows: &[&str]) -> RowDigest {
        let mut digest = RowDigest::default();
        for row in rows {
            digest.update(row.as_bytes());
        }
        digest
    }

    #[test]
    fn a_script_is_read_in_pieces_of_any_size() {
        let lines = read(SCRIPT.as_bytes().split_inclusive(|byte| *byte == b'\n'));
        let bytes = read(SCRIPT.as_bytes().chunks(1));

        assert_eq!(lines, bytes);
        let [boards, odd] = &lines[..] else { panic!("{lines:?}") };
        assert_eq!(boards.columns, "public.boards (id, title)");
        assert_eq!(boards.rows, digest(&["1\tone\n", "2\t\\\\.\n", "3\t\n"]));
        assert_eq!((odd.columns.as_str(), odd.rows.rows()), ("public.\"odd name\" (id)", 0));
    }

    #[test]
    fn the_order_of_rows_does_not_matter_and_their_number_does() {
        let one = digest(&["a\n", "b\n", "b\n"]);

        assert_eq!(one, digest(&["b\n", "a\nb", "\n"]));
        assert_ne!(one, digest(&["a\n", "a\n", "b\n"]));
        assert_ne!(one, digest(&["a\n", "b\n"]));
        assert_ne!(one, digest(&["a\nb\n", "bb\n"]));
    }
}
