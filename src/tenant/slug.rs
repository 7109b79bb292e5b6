//! [`TenantSlug`]: the name of a tenant, and the only text from outside that may become part of a
//! database name, a DNS label or an object key. It is made by [`TenantSlug::parse`] and by nothing
//! else, so whoever holds one need not check it again.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The longest slug: 50 bytes fit PostgreSQL's 63 with our prefixes, and a DNS label.
pub const MAX_LEN: usize = 50;

/// How many slugs are suggested for one name.
const SUGGESTIONS: usize = 50;
/// What a name becomes of which no letter can be in a slug.
const NAMELESS: &str = "tenant";

/// Names that would read as ours, as PostgreSQL's or as a host of the operator's.
const RESERVED: &[&str] = &[
    "admin",
    "api",
    "apiauth",
    "app",
    "catalog",
    "default-template",
    "health",
    "localhost",
    "owner",
    "postgres",
    "public",
    "root",
    "static",
    "status",
    "system",
    "template",
    "template0",
    "template1",
    "tenantry",
    "www",
];

/// `[a-z0-9]([a-z0-9-]{0,48}[a-z0-9])?`, not reserved.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TenantSlug(String);

/// Why a text is no slug.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SlugError {
    /// Nothing was given.
    #[error("a tenant slug cannot be empty")]
    Empty,
    /// More than [`MAX_LEN`] bytes.
    #[error("a tenant slug has at most {MAX_LEN} characters, this one has {0}")]
    TooLong(usize),
    /// A character outside `a-z`, `0-9` and `-`, or a hyphen at an end.
    #[error(
        "a tenant slug has only lowercase letters, digits and inner hyphens, such as `acme-corp`"
    )]
    Form,
    /// One of the names that are kept for the system.
    #[error("the slug `{0}` is reserved; choose another")]
    Reserved(String),
}

impl TenantSlug {
    /// Parses a slug exactly as written: nothing is trimmed, lower-cased or replaced.
    pub fn parse(text: &str) -> Result<Self, SlugError> {
        let bytes = text.as_bytes();
        let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';

        match (bytes.first(), bytes.last()) {
            (None, _) | (_, None) => Err(SlugError::Empty),
            _ if bytes.len() > MAX_LEN => Err(SlugError::TooLong(text.chars().count())),
            (Some(b'-'), _) | (_, Some(b'-')) => Err(SlugError::Form),
            _ if !bytes.iter().all(inner) => Err(SlugError::Form),
            _ if RESERVED.contains(&text) => Err(SlugError::Reserved(text.to_owned())),
            _ => Ok(Self(text.to_owned())),
        }
    }

    /// Slugs for a new tenant of this name, the best one first: `acme-corp`, `acme-corp-2`, …
    ///
    /// Only for making a tenant, never for finding one: two names may become one slug.
    #[must_use]
    pub fn suggestions(name: &str) -> Vec<Self> {
        let whole = slug::slugify(name);
        // Room for a number behind it.
        let cut: String = whole.chars().take(MAX_LEN - 3).collect();
        let base = match cut.trim_matches('-') {
            "" => NAMELESS,
            base => base,
        };
        let numbered = (2..=SUGGESTIONS).map(|number| format!("{base}-{number}"));
        std::iter::once(base.to_owned())
            .chain(numbered)
            .filter_map(|text| Self::parse(&text).ok())
            .collect()
    }

    /// The slug as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TenantSlug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for TenantSlug {
    type Error = SlugError;

    fn try_from(text: String) -> Result<Self, SlugError> {
        Self::parse(&text)
    }
}

impl From<TenantSlug> for String {
    fn from(slug: TenantSlug) -> Self {
        slug.0
    }
}

impl std::str::FromStr for TenantSlug {
    type Err = SlugError;

    fn from_str(text: &str) -> Result<Self, SlugError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ordinary_names_are_slugs() {
        for text in ["a", "7", "acme", "acme-corp", "a--b", "x1-2", &"a".repeat(50)] {
            assert_eq!(TenantSlug::parse(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn hostile_and_sloppy_names_are_not() {
        let bad = [
            "",
            "Acme",
            "-acme",
            "acme-",
            "-",
            "a_b",
            "../x",
            "acme corp",
            " acme",
            "acme\0",
            "acme\";drop database x;--",
            "аcme",
            "ａcme",
            "acme.",
            "é",
            &"a".repeat(51),
        ];
        for text in bad {
            assert!(TenantSlug::parse(text).is_err(), "{text:?} must be refused");
        }
    }

    #[test]
    fn a_name_suggests_slugs() {
        for (name, slug) in [
            ("Acme Corp.", "acme-corp"),
            ("Müller & Söhne GmbH", "muller-sohne-gmbh"),
            ("  ", "tenant"),
            ("-- drop table", "drop-table"),
            ("Postgres", "postgres-2"),
            ("admin", "admin-2"),
        ] {
            assert_eq!(TenantSlug::suggestions(name)[0].as_str(), slug, "{name}");
        }
        assert_eq!(TenantSlug::suggestions(&"x".repeat(80))[0].as_str().len(), MAX_LEN - 3);
        assert_eq!(TenantSlug::suggestions("Acme")[1].as_str(), "acme-2");
    }

    #[test]
    fn system_names_are_reserved() {
        for text in ["postgres", "template1", "tenantry", "admin"] {
            assert_eq!(TenantSlug::parse(text), Err(SlugError::Reserved(text.to_owned())));
        }
    }

    proptest! {
        #[test]
        fn every_name_suggests_slugs(name in "\\PC{0,60}") {
            prop_assert!(TenantSlug::suggestions(&name).len() >= SUGGESTIONS - 1);
        }

        #[test]
        fn whatever_parses_is_safe_everywhere(text in "\\PC{0,60}") {
            if let Ok(slug) = TenantSlug::parse(&text) {
                prop_assert!(slug.as_str().len() <= MAX_LEN);
                prop_assert!(slug.as_str().bytes().all(|b| b"abcdefghijklmnopqrstuvwxyz0123456789-".contains(&b)));
            }
        }
    }
}
