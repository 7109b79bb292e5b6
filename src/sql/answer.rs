//! [`Answer`]: results as JSON, written while they are read, never longer than allowed.

use fallible_iterator::FallibleIterator as _;
use postgres_protocol::message::backend::DataRowBody;
use serde::Serialize;

use super::text::{Form, write_string};
use super::wire::{Field, Receive, WireError};

/// What a row's message has beside its values; a row that just fits must not be refused for it.
const ROW_OVERHEAD: usize = 4096;

/// The answer to one request.
pub(super) struct Answer {
    json: Vec<u8>,
    max_bytes: usize,
    rows_left: usize,
    raw_text: bool,
    array_mode: bool,
    batch: bool,
    results: usize,
    columns: Vec<Column>,
    /// Of the result at hand.
    rows: usize,
    /// Of all results.
    all_rows: usize,
}

/// How the values of a column are written.
struct Column {
    form: Form,
    /// The name with its colon; none where the row is an array, and where a later column has the name too.
    key: Option<Vec<u8>>,
}

/// How an answer looks, and how large it may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    pub raw_text: bool,
    pub batch: bool,
    pub max_bytes: usize,
    pub max_rows: usize,
}

/// A column, as the client's library knows it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    name: &'a str,
    #[serde(rename = "dataTypeID")]
    data_type_id: u32,
    #[serde(rename = "tableID")]
    table_id: u32,
    #[serde(rename = "columnID")]
    column_id: i16,
    data_type_size: i16,
    data_type_modifier: i32,
    format: &'static str,
}

impl Answer {
    pub fn new(style: Style) -> Self {
        let Style { raw_text, batch, max_bytes, max_rows } = style;
        let json = if batch { br#"{"results":["#.to_vec() } else { Vec::new() };
        Self {
            json,
            max_bytes,
            rows_left: max_rows,
            raw_text,
            array_mode: false,
            batch,
            results: 0,
            columns: Vec::new(),
            rows: 0,
            all_rows: 0,
        }
    }

    /// A statement's result begins.
    pub fn open(&mut self, array_mode: bool) {
        if self.results > 0 {
            self.json.push(b',');
        }
        self.results += 1;
        self.rows = 0;
        self.array_mode = array_mode;
        self.columns.clear();
        self.json.extend_from_slice(br#"{"fields":["#);
    }

    /// It ends, with the tag of its command; an empty statement has none.
    pub fn close(&mut self, tag: Option<&str>) -> Result<(), WireError> {
        if self.columns.is_empty() && self.rows == 0 {
            self.open_rows();
        }
        let (command, count) = split_tag(tag.unwrap_or_default());
        self.json.extend_from_slice(br#"],"command":"#);
        write_string(command, &mut self.json);
        let count = count.map_or_else(|| "null".to_owned(), |count| count.to_string());
        let end = format!(r#","rowCount":{count},"rowAsArray":{}}}"#, self.array_mode);
        self.json.extend_from_slice(end.as_bytes());
        self.fits()
    }

    /// How many rows it has, and the whole of it.
    pub fn finish(mut self) -> (usize, Vec<u8>) {
        if self.batch {
            self.json.extend_from_slice(b"]}");
        }
        (self.all_rows, self.json)
    }

    fn open_rows(&mut self) {
        self.json.extend_from_slice(br#"],"rows":["#);
    }

    fn write_row(&mut self, row: &DataRowBody) -> Result<(), WireError> {
        let (mut ranges, mut columns) = (row.ranges(), self.columns.iter());
        let mut first = true;
        while let (Some(range), Some(column)) = (ranges.next()?, columns.next()) {
            if !self.array_mode && column.key.is_none() {
                continue;
            }
            if !std::mem::take(&mut first) {
                self.json.push(b',');
            }
            self.json.extend_from_slice(column.key.as_deref().unwrap_or_default());
            let Some(range) = range else {
                self.json.extend_from_slice(b"null");
                continue;
            };
            let text =
                std::str::from_utf8(&row.buffer()[range]).map_err(|_| WireError::Encoding)?;
            column.form.write(text, &mut self.json);
        }
        Ok(())
    }

    fn fits(&self) -> Result<(), WireError> {
        if self.json.len() > self.max_bytes { Err(WireError::TooLong) } else { Ok(()) }
    }
}

impl Receive for Answer {
    fn fields(&mut self, fields: Vec<Field>) {
        for (number, field) in fields.iter().enumerate() {
            if number > 0 {
                self.json.push(b',');
            }
            serde_json::to_writer(&mut self.json, &Shown::from(field)).expect("memory takes it");
            let again = fields[number + 1..].iter().any(|later| later.name == field.name);
            let key = (!self.array_mode && !again).then(|| {
                let mut key = Vec::new();
                write_string(&field.name, &mut key);
                key.push(b':');
                key
            });
            let form = if self.raw_text { Form::Text } else { Form::of(field.type_oid) };
            self.columns.push(Column { form, key });
        }
        if !fields.is_empty() {
            self.open_rows();
        }
    }

    fn row(&mut self, row: &DataRowBody) -> Result<(), WireError> {
        self.rows_left = self.rows_left.checked_sub(1).ok_or(WireError::TooManyRows)?;
        if self.columns.is_empty() && self.rows == 0 {
            // A table may have rows and no columns.
            self.open_rows();
        }
        if self.rows > 0 {
            self.json.push(b',');
        }
        self.rows += 1;
        self.all_rows += 1;
        let (open, close) = if self.array_mode { (b'[', b']') } else { (b'{', b'}') };
        self.json.push(open);
        self.write_row(row)?;
        self.json.push(close);
        self.fits()
    }

    fn room(&self) -> usize {
        self.max_bytes.saturating_sub(self.json.len()) + ROW_OVERHEAD
    }
}

impl<'a> From<&'a Field> for Shown<'a> {
    fn from(field: &'a Field) -> Self {
        Self {
            name: &field.name,
            data_type_id: field.type_oid,
            table_id: field.table_oid,
            column_id: field.column,
            data_type_size: field.type_size,
            data_type_modifier: field.type_modifier,
            format: "text",
        }
    }
}

/// The command and its count: `INSERT 0 3` is an INSERT of three, `CREATE TABLE` counts nothing.
fn split_tag(tag: &str) -> (&str, Option<u64>) {
    let command = tag.trim_end_matches(|last: char| last.is_ascii_digit() || last == ' ');
    (command, tag[command.len()..].rsplit(' ').next().and_then(|count| count.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_a_command_and_maybe_a_count() {
        for (tag, expected) in [
            ("SELECT 2", ("SELECT", Some(2))),
            ("INSERT 0 3", ("INSERT", Some(3))),
            ("CREATE TABLE", ("CREATE TABLE", None)),
            ("SET", ("SET", None)),
            ("", ("", None)),
        ] {
            assert_eq!(split_tag(tag), expected);
        }
    }

    #[test]
    fn an_answer_without_rows_is_whole() {
        let style = Style { raw_text: true, batch: true, max_bytes: 1000, max_rows: 1 };
        let mut answer = Answer::new(style);
        for tag in [Some("SET"), None] {
            answer.open(true);
            answer.close(tag).unwrap();
        }

        let answer: serde_json::Value = serde_json::from_slice(&answer.finish().1).unwrap();

        assert_eq!(answer["results"][0]["command"], "SET");
        assert_eq!(answer["results"][1]["rows"], serde_json::json!([]));
    }
}
