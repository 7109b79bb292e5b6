//! [`DomainName`]: a name in the DNS, as hosts and e-mail addresses carry it.

use std::sync::LazyLock;
use std::{fmt, iter};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The longest name and the longest label, in bytes (RFC 1035).
const MAX_LEN: usize = 253;
const MAX_LABEL_LEN: usize = 63;

/// At least two labels of `[a-z0-9-]`; international names in their ASCII form (`xn--…`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DomainName(String);

/// A text that is no domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "a domain reads like `app.acme.com`: lower case, no port, no dot at its end, and in its ASCII \
     form (`xn--…`) where it has other letters"
)]
pub struct DomainError;

impl DomainName {
    /// Parses a name exactly as written.
    pub fn parse(text: &str) -> Result<Self, DomainError> {
        let label = |label: &str| {
            (1..=MAX_LABEL_LEN).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        let top = text.rsplit('.').next().unwrap_or_default();
        let good = text.len() <= MAX_LEN
            && text.contains('.')
            && text.split('.').all(label)
            // Otherwise it is an address.
            && !top.bytes().all(|b| b.is_ascii_digit());
        if good { Ok(Self(text.to_owned())) } else { Err(DomainError) }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is this domain or a name under it.
    #[must_use]
    pub fn is_within(&self, domain: &Self) -> bool {
        let rest = self.0.strip_suffix(domain.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }

    /// The part that somebody has registered: `acme.co.uk` of `mail.acme.co.uk`. None of a name that
    /// is open to everybody, such as `co.uk`, by the public suffix list.
    #[must_use]
    pub fn registrable(&self) -> Option<Self> {
        psl::domain_str(&self.0).map(|domain| Self(domain.to_owned()))
    }
}

/// Whether everybody may have an e-mail address there, by a list that is kept for that.
#[must_use]
pub fn is_free_mail(domain: &DomainName) -> bool {
    static DOMAINS: LazyLock<Vec<&str>> = LazyLock::new(|| {
        let lines = include_str!("free_mail_domains.txt").lines();
        lines.filter(|line| !line.starts_with('#')).collect()
    });
    let parents = iter::successors(Some(domain.as_str()), |name| Some(name.split_once('.')?.1));
    parents.into_iter().any(|name| DOMAINS.binary_search(&name).is_ok())
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for DomainName {
    type Error = DomainError;

    fn try_from(text: String) -> Result<Self, DomainError> {
        Self::parse(&text)
    }
}

impl From<DomainName> for String {
    fn from(domain: DomainName) -> Self {
        domain.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn domain(text: &str) -> DomainName {
        DomainName::parse(text).unwrap()
    }

    #[test]
    fn names_in_the_dns_are_domains() {
        for text in ["acme.com", "app.acme.co.uk", "a-b.c1.de", "xn--bcher-kva.example", "1.de"] {
            assert_eq!(domain(text).as_str(), text);
        }
    }

    #[test]
    fn everything_else_is_not() {
        let long_label = format!("{}.com", "a".repeat(64));
        for text in [
            "",
            ".",
            "localhost",
            "Acme.com",
            "acme.com.",
            ".acme.com",
            "a..b",
            "acme.com:80",
            "-a.com",
            "a-.com",
            "a_b.com",
            "*.acme.com",
            "acme .com",
            "127.0.0.1",
            "1.2.3",
            "[::1]",
            "bücher.example",
            "аcme.com",
            "a.com/b",
            "a@b.com",
            &long_label,
            &format!("{}com", "abcdefghi.".repeat(26)),
        ] {
            assert!(DomainName::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_somebody_registered_is_known() {
        for (text, registered) in [
            ("acme.com", Some("acme.com")),
            ("eu.mail.acme.com", Some("acme.com")),
            ("acme.co.uk", Some("acme.co.uk")),
            ("co.uk", None),
            ("shop.github.io", Some("shop.github.io")),
            ("github.io", None),
        ] {
            assert_eq!(domain(text).registrable(), registered.map(domain), "{text}");
        }
    }

    #[test]
    fn free_mail_is_known_whatever_stands_before_it() {
        for text in ["gmail.com", "web.de", "qq.com", "mailinator.com", "eu.mailinator.com"] {
            assert!(is_free_mail(&domain(text)), "{text}");
        }
        for text in ["acme.com", "notgmail.com", "gmail.com.acme.com", "microsoft.com"] {
            assert!(!is_free_mail(&domain(text)), "{text}");
        }
    }

    #[test]
    fn a_name_is_within_its_parents() {
        assert!(domain("app.acme.com").is_within(&domain("acme.com")));
        assert!(domain("acme.com").is_within(&domain("acme.com")));
        assert!(!domain("notacme.com").is_within(&domain("acme.com")));
        assert!(!domain("acme.com").is_within(&domain("app.acme.com")));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,80}") {
            if let Ok(domain) = DomainName::parse(&text) {
                prop_assert_eq!(domain.as_str(), text.as_str());
                prop_assert!(domain.registrable().is_none_or(|parent| domain.is_within(&parent)));
            }
        }
    }
}
