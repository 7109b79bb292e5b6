//! [`EmailAddress`]: an address that there can be only one reading of.

use std::fmt;

use serde::Serialize;
use thiserror::Error;

use super::DomainName;

/// The longest part before the `@`, in bytes (RFC 5321).
const MAX_LOCAL_LEN: usize = 64;

/// `local@domain` in plain ASCII. Quoted and international forms are left out: a part that is read in
/// two ways is how `a@acme.com@evil.com` becomes somebody's colleague.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub struct EmailAddress {
    local: String,
    domain: DomainName,
}

/// A text that is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("an e-mail address reads like `ana@acme.com`")]
pub struct EmailError;

impl EmailAddress {
    /// Parses an address. Letters of the domain may be capitals, as people write them.
    pub fn parse(text: &str) -> Result<Self, EmailError> {
        let (local, domain) = text.split_once('@').ok_or(EmailError)?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+/=?^_`{|}~.-".contains(&b);
        let good = (1..=MAX_LOCAL_LEN).contains(&local.len())
            && local.bytes().all(plain)
            && local.split('.').all(|part| !part.is_empty());
        let domain = DomainName::parse(&domain.to_ascii_lowercase()).map_err(|_| EmailError)?;
        if good { Ok(Self { local: local.to_owned(), domain }) } else { Err(EmailError) }
    }

    /// What stands behind the `@`.
    #[must_use]
    pub fn domain(&self) -> &DomainName {
        &self.domain
    }
}

impl fmt::Display for EmailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.local, self.domain)
    }
}

impl From<EmailAddress> for String {
    fn from(address: EmailAddress) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ordinary_addresses_are_read() {
        for (text, domain) in [
            ("ana@acme.com", "acme.com"),
            ("ana.lee+x@Mail.ACME.co.uk", "mail.acme.co.uk"),
            ("o'hara@xn--bcher-kva.example", "xn--bcher-kva.example"),
        ] {
            assert_eq!(EmailAddress::parse(text).unwrap().domain().as_str(), domain);
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_no_address() {
        for text in [
            "",
            "@",
            "ana",
            "ana@",
            "@acme.com",
            "a@acme.com@evil.com",
            "\"a@acme.com\"@evil.com",
            "ana@acme.com,evil.com",
            "ana@acme.com evil.com",
            "ana@acme.com\n",
            " ana@acme.com",
            "ana@acme.com.",
            "ana@[127.0.0.1]",
            "ana@127.0.0.1",
            "ana@localhost",
            "ana@аcme.com",
            "anä@acme.com",
            ".ana@acme.com",
            "a..b@acme.com",
            "ana@acme.com\0.evil.com",
            "Ana <ana@acme.com>",
            "ana@acme.com>",
            "ana%evil.com@",
        ] {
            assert!(EmailAddress::parse(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_written(text in "\\PC{0,40}") {
            if let Ok(address) = EmailAddress::parse(&text) {
                prop_assert_eq!(address.to_string().to_ascii_lowercase(), text.to_ascii_lowercase());
                prop_assert_eq!(text.matches('@').count(), 1);
            }
        }
    }
}
