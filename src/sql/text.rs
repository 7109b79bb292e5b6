//! Values between JSON and the text that PostgreSQL reads and prints.
//!
//! Numbers and JSON travel as they were written: nothing here rounds, and no key changes its place.

use serde_json::value::RawValue;
use tokio_postgres::types::{Kind, Type};

use super::pg_error::PgError;

/// Most dimensions of an array in PostgreSQL.
const MAX_DIMENSIONS: usize = 6;

/// A parameter as PostgreSQL reads it; `None` is NULL.
pub(crate) fn parameter(value: &RawValue) -> Result<Option<String>, Box<PgError>> {
    Ok(match value.get().as_bytes().first() {
        Some(b'n') => None,
        Some(b'"') => Some(string(value)?),
        Some(b'[') => {
            let mut literal = String::new();
            array(value, 1, &mut literal)?;
            Some(literal)
        }
        _ => Some(value.get().to_owned()),
    })
}

fn array(value: &RawValue, depth: usize, literal: &mut String) -> Result<(), Box<PgError>> {
    if depth > MAX_DIMENSIONS {
        let message = "the number of array dimensions exceeds the maximum allowed (6)";
        let hint = "send what is nested deeper as JSON text";
        return Err(Box::new(PgError::ours("54000", message, hint)));
    }
    let elements: Vec<&RawValue> = serde_json::from_str(value.get()).map_err(|_| unreadable())?;
    literal.push('{');
    for (number, element) in elements.into_iter().enumerate() {
        if number > 0 {
            literal.push(',');
        }
        match element.get().as_bytes().first() {
            Some(b'n') => literal.push_str("NULL"),
            Some(b'[') => array(element, depth + 1, literal)?,
            Some(b'"') => quote(&string(element)?, literal),
            Some(b'{') => quote(element.get(), literal),
            _ => literal.push_str(element.get()),
        }
    }
    literal.push('}');
    Ok(())
}

fn string(value: &RawValue) -> Result<String, Box<PgError>> {
    serde_json::from_str(value.get()).map_err(|_| unreadable())
}

fn unreadable() -> Box<PgError> {
    let hint = "send text that is valid Unicode: no half of a surrogate pair";
    Box::new(PgError::ours("22021", "a parameter is no text", hint))
}

fn quote(text: &str, literal: &mut String) {
    literal.push('"');
    for letter in text.chars() {
        if matches!(letter, '"' | '\\') {
            literal.push('\\');
        }
        literal.push(letter);
    }
    literal.push('"');
}

/// How a column's values become JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As text; large and exact numbers too, which JSON's readers would round.
    Text,
    /// `t` or `f`.
    Bool,
    /// A number, unless it is none that JSON knows.
    Number,
    /// JSON already.
    Json,
    /// An array of one of the others, with what stands between its elements.
    Array(Element, u8),
}

/// The same for the elements of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    Text,
    Bool,
    Number,
    Json,
}

impl Form {
    pub fn of(type_oid: u32) -> Self {
        let Some(known) = Type::from_oid(type_oid) else { return Self::Text };
        match known.kind() {
            Kind::Array(element) => {
                let delimiter = if *element == Type::BOX { b';' } else { b',' };
                Self::Array(Element::of(element), delimiter)
            }
            _ => Element::of(&known).into(),
        }
    }

    /// Writes a value that PostgreSQL printed.
    pub fn write(self, text: &str, json: &mut Vec<u8>) {
        match self {
            Self::Text => write_string(text, json),
            Self::Bool => Element::Bool.write(text, json),
            Self::Number => Element::Number.write(text, json),
            Self::Json => Element::Json.write(text, json),
            Self::Array(element, delimiter) => write_array(text, element, delimiter, json),
        }
    }
}

impl From<Element> for Form {
    fn from(element: Element) -> Self {
        match element {
            Element::Text => Self::Text,
            Element::Bool => Self::Bool,
            Element::Number => Self::Number,
            Element::Json => Self::Json,
        }
    }
}

impl Element {
    fn of(known: &Type) -> Self {
        match *known {
            Type::BOOL => Self::Bool,
            Type::INT2 | Type::INT4 | Type::FLOAT4 | Type::FLOAT8 => Self::Number,
            Type::JSON | Type::JSONB => Self::Json,
            _ => Self::Text,
        }
    }

    fn write(self, text: &str, json: &mut Vec<u8>) {
        match self {
            Self::Bool => json.extend_from_slice(if text == "t" { b"true" } else { b"false" }),
            // `NaN`, `Infinity` and `-Infinity` are no numbers in JSON.
            Self::Number if !text.ends_with(|last: char| last.is_ascii_digit()) => {
                write_string(text, json);
            }
            Self::Number | Self::Json => json.extend_from_slice(text.as_bytes()),
            Self::Text => write_string(text, json),
        }
    }
}

/// Writes a JSON string.
pub(super) fn write_string(text: &str, json: &mut Vec<u8>) {
    serde_json::to_writer(json, text).expect("memory takes every string");
}

/// Writes an array that PostgreSQL printed, such as `{1,NULL,"a \"b\""}` or `[0:1]={1,2}`.
fn write_array(text: &str, element: Element, delimiter: u8, json: &mut Vec<u8>) {
    let Some(start) = text.find('{').filter(|_| text.starts_with(['{', '['])) else {
        // `int2vector` and `oidvector` are arrays that print themselves in their own way.
        return write_string(text, json);
    };
    let bytes = text.as_bytes();
    let mut at = start;
    while at < bytes.len() {
        let byte = bytes[at];
        at += 1;
        match byte {
            b'{' => json.push(b'['),
            b'}' => json.push(b']'),
            b'"' => {
                let mut value = Vec::new();
                while at < bytes.len() && bytes[at] != b'"' {
                    at += usize::from(bytes[at] == b'\\');
                    value.extend(bytes.get(at));
                    at += 1;
                }
                at += 1;
                element.write(&String::from_utf8_lossy(&value), json);
            }
            byte if byte == delimiter => json.push(b','),
            _ => {
                let ends = |byte: &u8| *byte == delimiter || *byte == b'}';
                let len = bytes[at..].iter().position(ends).unwrap_or(bytes.len() - at);
                let value = &text[at - 1..at + len];
                at += len;
                if value == "NULL" {
                    json.extend_from_slice(b"null");
                } else {
                    element.write(value, json);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(json: &str) -> Option<String> {
        parameter(serde_json::from_str::<&RawValue>(json).unwrap()).unwrap()
    }

    fn shown(known: &Type, text: &str) -> String {
        let mut json = Vec::new();
        Form::of(known.oid()).write(text, &mut json);
        let json = String::from_utf8(json).unwrap();
        serde_json::from_str::<serde_json::Value>(&json).unwrap();
        json
    }

    #[test]
    fn parameters_of_every_kind_become_text() {
        for (json, text) in [
            ("null", None),
            (r#""a \"b\" \u00e4""#, Some(r#"a "b" ä"#)),
            ("true", Some("true")),
            ("12345678901234567890.10", Some("12345678901234567890.10")),
            (r#"{"b": 1, "a": 1.0}"#, Some(r#"{"b": 1, "a": 1.0}"#)),
            ("[]", Some("{}")),
            ("[1, [2, null], true]", Some("{1,{2,NULL},true}")),
            (r#"["NULL", "a,b", "q\"\\", ""]"#, Some(r#"{"NULL","a,b","q\"\\",""}"#)),
            (r#"[{"a": "b"}]"#, Some(r#"{"{\"a\": \"b\"}"}"#)),
        ] {
            assert_eq!(sent(json).as_deref(), text, "{json}");
        }
    }

    #[test]
    fn what_is_nested_too_deep_or_no_text_is_refused() {
        for (json, code) in [
            (format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)), "54000"),
            (r#""\ud800""#.to_owned(), "22021"),
            (r#"["\ud800"]"#.to_owned(), "22021"),
        ] {
            let value = serde_json::from_str::<&RawValue>(&json).unwrap();
            assert_eq!(parameter(value).unwrap_err().code, code);
        }
    }

    #[test]
    fn values_become_the_json_that_people_expect() {
        for (known, text, json) in [
            (Type::BOOL, "t", "true"),
            (Type::INT4, "-7", "-7"),
            (Type::INT8, "9007199254740993", r#""9007199254740993""#),
            (Type::FLOAT8, "1e+20", "1e+20"),
            (Type::FLOAT8, "NaN", r#""NaN""#),
            (Type::FLOAT4, "-Infinity", r#""-Infinity""#),
            (Type::JSONB, r#"{"a": 1.10}"#, r#"{"a": 1.10}"#),
            (Type::TEXT, "a\"\n\0", r#""a\"\n\u0000""#),
            (Type::INT4_ARRAY, "{{1,NULL},{3,4}}", "[[1,null],[3,4]]"),
            (Type::INT4_ARRAY, "[0:1]={1,2}", "[1,2]"),
            (Type::INT4_ARRAY, "{}", "[]"),
            (Type::BOOL_ARRAY, "{t,f}", "[true,false]"),
            (
                Type::TEXT_ARRAY,
                r#"{a b,"NULL",NULL,"q\"\\,}","ä"}"#,
                r#"["a b","NULL",null,"q\"\\,}","ä"]"#,
            ),
            (Type::JSON_ARRAY, r#"{"{\"a\": [1]}"}"#, r#"[{"a": [1]}]"#),
            (Type::BOX_ARRAY, "{(1,1),(0,0);(2,2),(0,0)}", r#"["(1,1),(0,0)","(2,2),(0,0)"]"#),
            (Type::INT2_VECTOR, "1 2", r#""1 2""#),
        ] {
            assert_eq!(shown(&known, text), json, "{text}");
        }
    }
}
