//! How each field of a section is read: one function a kind of value, with the words for what it must be.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use url::Url;

use super::{Goal, Timeout};
use crate::duration;
use crate::tenant::{Label, Retention, Schedule, Tag, TenantSlug};

/// The longest address, in bytes; what members' issuers have too.
const MAX_URL_BYTES: usize = 2000;
const MAX_NAME_CHARS: usize = 200;
const MAX_AUDIENCES: usize = 20;
const MAX_AUDIENCE_BYTES: usize = 1000;
const MAX_CONNECTIONS: u64 = 1000;
const MAX_RATE: u64 = 100_000;
/// Most tags of a tenant, and most tenants that it is kept apart from.
const MAX_NAMES: usize = 50;
const MAX_TIMEOUT: Duration = Duration::from_hours(24);

pub(super) fn logo_url<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    text(
        from,
        "an https address of at most 2000 bytes, such as `https://acme.com/logo.svg`",
        |text| address(text).is_some_and(|url| url.scheme() == "https"),
    )
}

pub(super) fn color<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    text(from, "a colour such as `#1a2b3c`", |text| {
        text.strip_prefix('#')
            .is_some_and(|hex| hex.len() == 6 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
    })
}

pub(super) fn display_name<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    text(from, "text of 1 to 200 characters without control characters", |text| {
        !text.trim().is_empty()
            && text.chars().count() <= MAX_NAME_CHARS
            && !text.contains(char::is_control)
    })
}

pub(super) fn recipient<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    text(from, "a public key as `age-keygen` prints it, such as `age1ql3z…`", |text| {
        tenantry_backup::Recipient::parse(text).is_ok()
    })
}

pub(super) fn issuer<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let expected = "an https address without query and fragment, as the `iss` of the tokens has it; \
                    http only on localhost, 127.0.0.1 or [::1]";
    let good = |text: &str| {
        address(text).is_some_and(|url| {
            let loopback = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
            (url.scheme() == "https" || loopback)
                && url.query().is_none()
                && url.fragment().is_none()
        })
    };
    text(from, expected, good)?.ok_or_else(|| unlike(expected))
}

pub(super) fn audience<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let good = |text: &str| {
        (1..=MAX_AUDIENCE_BYTES).contains(&text.len()) && !text.contains(char::is_control)
    };
    let read = |value: &Value| {
        let texts = texts(value).filter(|texts| (1..=MAX_AUDIENCES).contains(&texts.len()))?;
        texts.iter().all(|text| good(text)).then(|| texts.into_iter().map(str::to_owned).collect())
    };
    let expected = "a text or a list of 1 to 20 texts, each of 1 to 1000 bytes";
    optional(from, expected, read).map(Option::unwrap_or_default)
}

pub(super) fn label<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Label>, D::Error> {
    let expected = "a name of up to 50 lowercase letters, digits and inner hyphens";
    optional(from, expected, |value| Label::parse(value.as_str()?).ok())
}

pub(super) fn labels<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeSet<Label>, D::Error> {
    let expected =
        "a name or a list of up to 50 names, each of lowercase letters, digits and inner hyphens";
    names(from, expected, |text| Label::parse(text).ok())
}

pub(super) fn server_tags<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeSet<Tag>, D::Error> {
    let expected = "the tag of a server, such as disk=nvme, or a list of up to 50 of them";
    let tags = names(from, expected, |text| Tag::parse(text).ok())?;
    let keys: BTreeSet<_> = tags.iter().map(|tag| &tag.key).collect();
    if keys.len() < tags.len() {
        return Err(D::Error::custom("a server has one value of each tag"));
    }
    Ok(tags)
}

pub(super) fn slugs<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeSet<TenantSlug>, D::Error> {
    let expected = "the slug of a tenant, or a list of up to 50 of them";
    names(from, expected, |text| TenantSlug::parse(text).ok())
}

pub(super) fn connections<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u16>, D::Error> {
    optional(from, "a whole number from 1 to 1000", |value| {
        let number = value.as_u64().filter(|number| (1..=MAX_CONNECTIONS).contains(number))?;
        u16::try_from(number).ok()
    })
}

pub(super) fn rate<'de, D: Deserializer<'de>>(from: D) -> Result<Option<NonZeroU32>, D::Error> {
    optional(from, "a whole number from 1 to 100000", |value| {
        let number = value.as_u64().filter(|number| *number <= MAX_RATE)?;
        NonZeroU32::new(u32::try_from(number).ok()?)
    })
}

pub(super) fn timeout<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Timeout>, D::Error> {
    optional(from, "a duration with its unit, such as `30s` or `5m`, of at most 24h", |value| {
        let text = value.as_str()?;
        let length = duration::parse(text)?;
        let good = !length.is_zero() && length <= MAX_TIMEOUT;
        good.then(|| Timeout { text: text.to_owned(), length })
    })
}

pub(super) fn schedule<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Schedule>, D::Error> {
    optional(from, Schedule::EXPECTED, |value| Schedule::parse(value.as_str()?))
}

pub(super) fn retention<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Retention>, D::Error> {
    optional(from, Retention::EXPECTED, |value| Retention::parse(value.as_str()?))
}

pub(super) fn goal<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Goal>, D::Error> {
    optional(from, Goal::EXPECTED, |value| Goal::parse(value.as_str()?))
}

pub(super) fn flag<'de, D: Deserializer<'de>>(from: D) -> Result<Option<bool>, D::Error> {
    optional(from, "true or false", Value::as_bool)
}

fn text<'de, D: Deserializer<'de>>(
    from: D,
    expected: &str,
    good: impl FnOnce(&str) -> bool,
) -> Result<Option<String>, D::Error> {
    optional(from, expected, |value| value.as_str().filter(|text| good(text)).map(str::to_owned))
}

fn names<'de, D: Deserializer<'de>, T: Ord>(
    from: D,
    expected: &str,
    read: fn(&str) -> Option<T>,
) -> Result<BTreeSet<T>, D::Error> {
    let read = |value: &Value| {
        let texts = texts(value).filter(|texts| texts.len() <= MAX_NAMES)?;
        texts.into_iter().map(read).collect()
    };
    optional(from, expected, read).map(Option::unwrap_or_default)
}

/// A list of texts, or one text.
fn texts(value: &Value) -> Option<Vec<&str>> {
    match value {
        Value::Array(list) => list.iter().map(Value::as_str).collect(),
        one => Some(vec![one.as_str()?]),
    }
}

/// Reads a field that may be `null`, which means that it is not there.
fn optional<'de, D: Deserializer<'de>, T>(
    from: D,
    expected: &str,
    read: impl FnOnce(&Value) -> Option<T>,
) -> Result<Option<T>, D::Error> {
    match Value::deserialize(from)? {
        Value::Null => Ok(None),
        value => read(&value).map(Some).ok_or_else(|| unlike(expected)),
    }
}

fn unlike<E: serde::de::Error>(expected: &str) -> E {
    E::custom(format_args!("expected {expected}"))
}

/// An absolute http address without credentials that is written as it is meant: [`Url`] would take
/// blanks, backslashes and missing slashes, and correct them.
fn address(text: &str) -> Option<Url> {
    let plain = |b: u8| b.is_ascii_graphic() && !br#""<>\^`{|}"#.contains(&b);
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"))?;
    if text.len() > MAX_URL_BYTES || rest.starts_with('/') || !rest.bytes().all(plain) {
        return None;
    }
    let url = Url::parse(text).ok()?;
    (url.username().is_empty() && url.password().is_none()).then_some(url)
}
