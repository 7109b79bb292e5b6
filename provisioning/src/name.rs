//! [`DatabaseName`] and [`RoleName`]: the only text that can reach a DDL statement.
//!
//! PostgreSQL takes no parameters where it takes a name, so names are pasted into the text. What makes
//! that safe is decided here, once: a name is short enough for PostgreSQL not to cut it, holds no
//! character that could end a quoted identifier, and is always quoted.

use std::fmt;

use thiserror::Error;
use uuid::Uuid;

/// PostgreSQL cuts longer identifiers without a word (`NAMEDATALEN - 1`).
const MAX_BYTES: usize = 63;

const BUILD: &str = "tenantry_build_";
const SPARE: &str = "tenantry_spare_";
const TEMPLATE: &str = "tenantry_template_";
const OLD: &str = "tenantry_old_";
const GUEST: &str = "tenantry_guest_";
const CARRIER: &str = "tenantry_move_";
const BACK: &str = "tenantry_back_";

/// How much of a migration set's digest goes into the name of its template.
const DIGEST_DIGITS: usize = 12;

/// The name of a database: `^[a-z_][a-z0-9_-]{0,62}$`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DatabaseName(String);

/// The name of a role: `^[a-z_][a-z0-9_-]{0,62}$`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoleName(String);

/// Why a text is no name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("a name must not be empty")]
    Empty,
    /// More than 63 bytes.
    #[error("the name `{0}` is longer than 63 bytes")]
    TooLong(String),
    /// A character that names must not have.
    #[error(
        "the name `{0}` may only have a-z, 0-9, `_` and `-`, and must begin with a letter or `_`"
    )]
    Character(String),
}

impl DatabaseName {
    /// Accepts a name that can be quoted as it is.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        checked(text).map(Self)
    }

    /// The database of the tenant with this slug: `tenant_<slug>`.
    pub fn tenant(slug: &str) -> Result<Self, NameError> {
        tenant(slug).map(Self)
    }

    /// What an operation builds before its tenant owns it. The name proves whose it is.
    #[must_use]
    pub fn build(operation: Uuid) -> Self {
        Self(format!("{BUILD}{}", operation.simple()))
    }

    /// A clone made ahead of time.
    #[must_use]
    pub fn spare(id: Uuid) -> Self {
        Self(format!("{SPARE}{}", id.simple()))
    }

    /// The template of a migration set, by the set's digest in hexadecimal digits.
    #[must_use]
    pub fn template(digest: &str) -> Self {
        let digits =
            digest.chars().filter(|c| matches!(c, '0'..='9' | 'a'..='f')).take(DIGEST_DIGITS);
        Self(TEMPLATE.chars().chain(digits).collect())
    }

    /// What an operation replaced, and keeps for a while.
    #[must_use]
    pub fn old(operation: Uuid) -> Self {
        Self(format!("{OLD}{}", operation.simple()))
    }

    /// The name, unquoted: for connection settings and query parameters, never for a statement's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as an identifier in a statement.
    #[must_use]
    pub fn quoted(&self) -> String {
        quoted(&self.0)
    }

    /// The operation of a [`DatabaseName::build`]; templates and spares are built under such names, too.
    #[must_use]
    pub fn operation_building(&self) -> Option<Uuid> {
        self.is_build_form().then(|| self.0.strip_prefix(BUILD)?.parse().ok()).flatten()
    }

    /// Whether only this system gives such names, to databases that no tenant has taken possession of.
    #[must_use]
    pub fn is_unowned_form(&self) -> bool {
        self.is_build_form()
            || is_numbered(&self.0, SPARE, 32)
            || is_numbered(&self.0, TEMPLATE, DIGEST_DIGITS)
    }

    /// Whether this is the name of something that an operation is building.
    pub(crate) fn is_build_form(&self) -> bool {
        is_numbered(&self.0, BUILD, 32)
    }

    /// Whether this is the name of something that an operation replaced.
    #[must_use]
    pub fn is_old_form(&self) -> bool {
        is_numbered(&self.0, OLD, 32)
    }
}

impl RoleName {
    /// Accepts a name that can be quoted as it is.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        checked(text).map(Self)
    }

    /// The login role of the tenant with this slug: `tenant_<slug>`.
    pub fn tenant(slug: &str) -> Result<Self, NameError> {
        tenant(slug).map(Self)
    }

    /// The role as which an operation lets a dump from elsewhere into its build.
    #[must_use]
    pub fn guest(operation: Uuid) -> Self {
        Self(format!("{GUEST}{}", operation.simple()))
    }

    /// The role as which a database is read that an operation moves; the name also of all else that joins the two
    /// databases.
    #[must_use]
    pub fn carrier(operation: Uuid) -> Self {
        Self(format!("{CARRIER}{}", operation.simple()))
    }

    /// The same of what an operation has left, which follows the database that took its place.
    #[must_use]
    pub fn carrier_back(operation: Uuid) -> Self {
        Self(format!("{BACK}{}", operation.simple()))
    }

    /// The operation of a [`RoleName::carrier`] or of a [`RoleName::carrier_back`].
    #[must_use]
    pub fn operation_carried(&self) -> Option<Uuid> {
        self.0.strip_prefix(CARRIER).or_else(|| self.0.strip_prefix(BACK))?.parse().ok()
    }

    /// The name, unquoted: for connection settings and query parameters, never for a statement's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as an identifier in a statement.
    #[must_use]
    pub fn quoted(&self) -> String {
        quoted(&self.0)
    }
}

impl fmt::Display for DatabaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn tenant(slug: &str) -> Result<String, NameError> {
    if slug.is_empty() { Err(NameError::Empty) } else { checked(&format!("tenant_{slug}")) }
}

fn checked(text: &str) -> Result<String, NameError> {
    let first = text.bytes().next().ok_or(NameError::Empty)?;
    let fits = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
    if text.len() > MAX_BYTES {
        Err(NameError::TooLong(text.to_owned()))
    } else if !matches!(first, b'a'..=b'z' | b'_') || !text.bytes().all(fits) {
        Err(NameError::Character(text.to_owned()))
    } else {
        Ok(text.to_owned())
    }
}

fn quoted(name: &str) -> String {
    format!("\"{name}\"")
}

fn is_numbered(name: &str, prefix: &str, digits: usize) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| {
        rest.len() == digits && rest.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slug_becomes_a_quoted_name() {
        let name = DatabaseName::tenant("acme-corp").unwrap();

        assert_eq!(name.as_str(), "tenant_acme-corp");
        assert_eq!(name.quoted(), "\"tenant_acme-corp\"");
    }

    #[test]
    fn nothing_that_could_leave_the_quotes_is_a_name() {
        for text in
            ["", "a\"b", "a b", "a;b", "a'b", "A", "1a", "-a", "a\\b", "a\0b", "größe", "a\n"]
        {
            assert!(DatabaseName::parse(text).is_err(), "{text:?}");
            assert!(RoleName::parse(text).is_err(), "{text:?}");
        }
        assert!(DatabaseName::tenant("").is_err());
    }

    #[test]
    fn a_name_is_at_most_63_bytes() {
        assert!(DatabaseName::parse(&"a".repeat(63)).is_ok());
        assert!(matches!(DatabaseName::parse(&"a".repeat(64)), Err(NameError::TooLong(_))));
        assert!(RoleName::tenant(&"a".repeat(57)).is_err());
    }

    #[test]
    fn names_that_this_system_gives_are_names_and_only_unowned_ones_prove_anything() {
        let id = Uuid::from_u128(0x0123_4567_89ab_cdef);
        let digest = "0123456789abcdef0123456789abcdef";
        for name in
            [DatabaseName::build(id), DatabaseName::spare(id), DatabaseName::template(digest)]
        {
            assert_eq!(DatabaseName::parse(name.as_str()).as_ref(), Ok(&name));
            assert!(name.is_unowned_form(), "{name}");
        }
        assert_eq!(DatabaseName::template(digest).as_str(), "tenantry_template_0123456789ab");
        assert!(!DatabaseName::old(id).is_unowned_form());
        assert!(!DatabaseName::tenant("build").unwrap().is_unowned_form());
        assert!(!DatabaseName::parse("tenantry_build_acme").unwrap().is_unowned_form());
    }
}
