//! [`Label`]: what servers, regions and tags are called.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The longest label, in bytes.
const MAX_LEN: usize = 50;

/// A short name for something that operators name: lowercase letters, digits and inner hyphens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label(Box<str>);

/// A text that is no label.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{} is no name here; use up to {MAX_LEN} lowercase letters, digits and inner hyphens", shown(.0))]
pub struct LabelError(String);

impl Label {
    /// Reads a label.
    pub fn parse(text: &str) -> Result<Self, LabelError> {
        let inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
        let bytes = text.as_bytes();
        let good = (1..=MAX_LEN).contains(&bytes.len())
            && bytes.iter().all(inner)
            && bytes[0] != b'-'
            && bytes[bytes.len() - 1] != b'-';
        if good { Ok(Self(text.into())) } else { Err(LabelError(text.to_owned())) }
    }

    /// The label as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Label {
    type Error = LabelError;

    fn try_from(text: String) -> Result<Self, LabelError> {
        Self::parse(&text)
    }
}

impl From<Label> for String {
    fn from(label: Label) -> Self {
        label.0.into()
    }
}

/// A text of somebody else's, short enough for an error.
fn shown(text: &str) -> String {
    let start: String = text.chars().take(MAX_LEN).collect();
    if start.len() < text.len() { format!("`{start}…`") } else { format!("`{text}`") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_are_labels() {
        for text in ["eu", "eu-1", "0", &"a".repeat(MAX_LEN)] {
            assert_eq!(Label::parse(text).unwrap().as_str(), text);
        }
        for text in ["", "-eu", "eu-", "EU", "eu west", "eu_1", "é", &"a".repeat(MAX_LEN + 1)] {
            assert!(Label::parse(text).is_err(), "{text}");
        }
    }
}
