//! Printing: results to stdout, as a table or as JSON; what else there is to say to stderr.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Write as _};
use std::time::Duration;

use comfy_table::presets::NOTHING;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::{Context, Error, OutputFormat, Result};

impl Context {
    /// Prints a result: the document as JSON, or what `text` makes of it.
    pub(super) fn print<T: Serialize>(
        &self,
        document: &T,
        text: impl FnOnce() -> String,
    ) -> Result<()> {
        match self.output {
            OutputFormat::Json => print_json(document),
            OutputFormat::Table => print_text(&text()),
        }
    }

    /// Prints what a command has changed, in one line, and what one may do next.
    pub(super) fn print_change<T: Serialize>(
        &self,
        document: &T,
        what: &str,
        next: &str,
    ) -> Result<()> {
        match self.output {
            OutputFormat::Json => return print_json(document),
            OutputFormat::Table if self.quiet => return Ok(()),
            OutputFormat::Table => print_text(what)?,
        }
        self.note(next);
        Ok(())
    }

    /// Prints one object of a stream: a line of JSON, or of text.
    pub(super) fn print_line<T: Serialize>(
        &self,
        document: &T,
        text: impl FnOnce() -> String,
    ) -> Result<()> {
        match self.output {
            OutputFormat::Json => {
                let line = serde_json::to_string(document).expect("documents are plain data");
                print_text(&line)
            }
            OutputFormat::Table => print_text(&text()),
        }
    }

    /// Says something beside the result, unless only the result is wanted.
    pub fn note(&self, text: &str) {
        if !self.quiet && !text.is_empty() {
            warn(text);
        }
    }
}

/// Says something that must not be missed.
pub(super) fn warn(text: &str) {
    // In one piece, and there is nobody left to tell if this fails.
    _ = io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// An error, in the shape that it has over HTTP.
#[derive(Serialize)]
pub(super) struct Complaint {
    /// What went wrong.
    pub error: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Its stable name, where the admin API has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
}

impl Complaint {
    /// Prints it to stderr: for people, or as one line of JSON.
    pub fn print(&self, output: OutputFormat) {
        match (output, &self.detail) {
            (OutputFormat::Json, _) => {
                warn(&serde_json::to_string(self).expect("documents are plain data"));
            }
            (OutputFormat::Table, Some(help)) => {
                warn(&format!("error: {}\nhelp: {help}", self.error));
            }
            (OutputFormat::Table, None) => warn(&format!("error: {}", self.error)),
        }
    }
}

/// Prints one JSON document.
pub(super) fn print_json<T: Serialize>(document: &T) -> Result<()> {
    print_text(&serde_json::to_string_pretty(document).expect("documents are plain data"))
}

/// Prints text with a line end.
pub(super) fn print_text(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    let printed = writeln!(out, "{text}").and_then(|()| out.flush());
    printed.map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Error::ClosedPipe,
        _ => Error::failed("the result cannot be printed", error),
    })
}

/// A table without lines, as `kubectl` has it: easy on the eye, and on `awk`.
pub(super) struct Table(comfy_table::Table);

impl Table {
    /// A table with these headings.
    pub fn new(headings: &[&str]) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_style(NOTHING).set_header(headings.to_vec());
        Self(table)
    }

    /// Adds a row; a cell holds one line.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.0.add_row(cells.map(|cell| cell.replace(char::is_control, " ")));
    }

    /// The table, or this sentence when it has no row.
    pub fn or(mut self, empty: &str) -> String {
        if self.0.is_empty() {
            return empty.to_owned();
        }
        for column in self.0.column_iter_mut() {
            column.set_padding((0, 2));
        }
        self.0.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
    }
}

/// Lines of CSV, as RFC 4180 has them.
pub(super) struct Csv;

impl Csv {
    /// One line. A spreadsheet takes text for a formula that begins in a certain way: such text gets a quote before
    /// it, for others wrote some of it.
    pub fn line(cells: &[String]) -> String {
        let cell = |cell: &String| {
            let is_formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r']);
            let text = if is_formula { format!("'{cell}") } else { cell.clone() };
            let needs_quotes = text.contains([',', '"', '\n', '\r']);
            if needs_quotes { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
        };
        cells.iter().map(cell).collect::<Vec<_>>().join(",")
    }
}

/// Names and values below each other; values that are not there are left out. A value may have lines,
/// but nothing else that a terminal would act on.
pub(super) fn fields(fields: &[(&str, Option<String>)]) -> String {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 2;
    let mut text = String::new();
    for (name, value) in fields {
        let Some(value) = value else { continue };
        let value = value.replace(|c: char| c.is_control() && c != '\n', " ");
        let value = value.replace('\n', &format!("\n{:width$}", ""));
        _ = writeln!(text, "{:width$}{value}", format!("{name}:"));
    }
    text.truncate(text.trim_end().len());
    text
}

/// `1 tenant`, `3 tenants`.
pub(super) fn count(number: usize, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

/// A text as it is, anything else as JSON.
pub(super) fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A size in bytes for people: `17.4 MiB`.
pub(super) fn size(bytes: i64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut tenths = i128::from(bytes) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// A length of time for people: `0.21 s`, `3 min 5 s`.
pub(super) fn elapsed(time: Duration) -> String {
    match time.as_secs() {
        0..10 => format!("{:.2} s", time.as_secs_f64()),
        10..60 => format!("{:.0} s", time.as_secs_f64()),
        seconds => coarse(seconds),
    }
}

/// How long ago something was, as `kubectl` has it: `5m`, `3h`, `12d`.
pub(super) fn age(moment: Timestamp) -> String {
    let seconds = Timestamp::now().duration_since(moment).as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// The time between two moments.
pub(super) fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

/// A moment for people: UTC, to the second.
pub(super) fn moment(moment: Timestamp) -> String {
    moment.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

fn coarse(seconds: u64) -> String {
    let parts = |big: u64, big_name: &str, small: u64, small_name: &str| {
        if small == 0 {
            format!("{big} {big_name}")
        } else {
            format!("{big} {big_name} {small} {small_name}")
        }
    };
    match seconds {
        0..3_600 => parts(seconds / 60, "min", seconds % 60, "s"),
        3_600..86_400 => parts(seconds / 3_600, "h", seconds % 3_600 / 60, "min"),
        _ => parts(seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_one_decimal() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (18_350_080, "17.5 MiB"),
            (1 << 30, "1.0 GiB"),
            (5 << 50, "5120.0 TiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn times_are_short() {
        let cases = [
            (0, "0.00 s"),
            (9, "9.00 s"),
            (42, "42 s"),
            (185, "3 min 5 s"),
            (7_200, "2 h"),
            (604_800, "7 d"),
        ];
        for (seconds, text) in cases {
            assert_eq!(elapsed(Duration::from_secs(seconds)), text);
        }
        let now = Timestamp::now();
        assert_eq!(age(now - Duration::from_mins(5)), "5m");
        assert_eq!(age(now + Duration::from_mins(5)), "0s");
    }

    #[test]
    fn tables_have_no_lines_and_no_trailing_blanks() {
        let mut table = Table::new(&["NAME", "STATUS"]);
        table.row(["acme".to_owned(), "active".to_owned()]);
        table.row(["a\nb".to_owned(), String::new()]);

        assert_eq!(table.or("none"), "NAME  STATUS\nacme  active\na b");
        assert_eq!(Table::new(&["NAME"]).or("none"), "none");
    }

    /// Users write some of it, and a terminal does what control characters say.
    #[test]
    fn what_others_wrote_stays_text() {
        let mut table = Table::new(&["NAME"]);
        table.row(["a\u{1b}[2Jb\u{9b}c".to_owned()]);
        let fields = fields(&[("Use case", Some("a\u{1b}]0;b\rc\u{9b}d\n\u{7f}e".to_owned()))]);

        assert_eq!(table.or("none"), "NAME\na [2Jb c");
        assert_eq!(fields, "Use case: a ]0;b c d\n           e");
    }

    #[test]
    fn cells_of_csv_stay_cells_and_text() {
        let cells = ["a", "b,c", "d\"e\nf", "=1+1", "", "-5"].map(str::to_owned);

        assert_eq!(Csv::line(&cells), "a,\"b,c\",\"d\"\"e\nf\",'=1+1,,'-5");
    }

    #[test]
    fn fields_stand_below_each_other() {
        let text = fields(&[
            ("Name", Some("x".to_owned())),
            ("Reason", None),
            ("Status", Some("a\nb".to_owned())),
        ]);

        assert_eq!(text, "Name:   x\nStatus: a\n        b");
    }
}
