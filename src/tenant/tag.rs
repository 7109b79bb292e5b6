//! [`Tag`]: what a server is, in a word of its operators: `disk=nvme`, `rack=7`.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Label;

/// What servers are asked for in other ways.
const RESERVED: [&str; 4] = ["region", "server", "tag", "tier"];

/// The tags of a server, each key with its one value.
pub type Tags = BTreeMap<Label, Label>;

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tag {
    /// What kind of thing it says.
    pub key: Label,
    /// What it says.
    pub value: Label,
}

/// A text that is no tag.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "a tag is written KEY=VALUE, such as disk=nvme: both of lowercase letters, digits and inner hyphens, and the key none of \
     region, server, tag and tier"
)]
pub struct TagError;

impl Tag {
    /// Reads `disk=nvme`.
    pub fn parse(text: &str) -> Result<Self, TagError> {
        let (key, value) = text.split_once('=').ok_or(TagError)?;
        let label = |text| Label::parse(text).map_err(|_| TagError);
        Ok(Self { key: Self::parse_key(key)?, value: label(value)? })
    }

    /// Reads the key of a tag.
    pub fn parse_key(text: &str) -> Result<Label, TagError> {
        Label::parse(text).ok().filter(|key| !RESERVED.contains(&key.as_str())).ok_or(TagError)
    }

    /// Whether it is one of these.
    #[must_use]
    pub fn is_in(&self, tags: &Tags) -> bool {
        tags.get(&self.key) == Some(&self.value)
    }
}

/// Tags as people read them: `disk=nvme, rack=7`.
#[must_use]
pub fn listed(tags: &Tags) -> String {
    let tags: Vec<String> = tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
    tags.join(", ")
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.key, self.value)
    }
}

impl TryFrom<String> for Tag {
    type Error = TagError;

    fn try_from(text: String) -> Result<Self, TagError> {
        Self::parse(&text)
    }
}

impl From<Tag> for String {
    fn from(tag: Tag) -> Self {
        tag.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_a_key_with_its_value() {
        let tag = Tag::parse("disk=nvme").unwrap();

        assert_eq!(tag.to_string(), "disk=nvme");
        let tags = Tags::from([(tag.key.clone(), tag.value.clone())]);
        assert!(tag.is_in(&tags) && !Tag::parse("disk=ssd").unwrap().is_in(&tags));
        assert_eq!(listed(&tags), "disk=nvme");
    }

    #[test]
    fn what_is_said_in_another_way_is_no_tag() {
        for text in
            ["", "disk", "disk=", "=nvme", "Disk=nvme", "disk=a=b", "region=eu", "tier=x", "tag=x"]
        {
            assert_eq!(Tag::parse(text), Err(TagError), "{text}");
        }
    }
}
