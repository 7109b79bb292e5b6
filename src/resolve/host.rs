//! The tenant that a request's host names: `acme.app.example` under the base domain `app.example`.
//!
//! Behind a trusted proxy the host is the one that the proxy was asked for; nobody else's word counts.

use std::fmt;

use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, header};

use super::ResolveError;
use super::forwarded::Forwarded;
use crate::tenant::TenantSlug;

const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// A domain under which every tenant has a name: lower case, at least two labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseDomain(String);

impl BaseDomain {
    /// Reads a domain such as `app.example`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        let fits = text.len() <= 200 && text.contains('.') && text.split('.').all(label);
        fits.then(|| Self(text.to_owned()))
    }

    /// The tenant that a request's host names; none when it is not a name under this domain.
    pub(super) fn tenant_of(&self, parts: &Parts) -> Result<Option<TenantSlug>, ResolveError> {
        let Some(host) = host(parts)? else { return Ok(None) };
        let Some(label) =
            host.strip_suffix(self.0.as_str()).and_then(|rest| rest.strip_suffix('.'))
        else {
            return Ok(None);
        };
        TenantSlug::parse(label).map(Some).map_err(|_| ResolveError::MalformedHost)
    }
}

impl fmt::Display for BaseDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The host as it is compared: without port and trailing dot, in lower case. HTTP/2 has it in the
/// address, HTTP/1 in a header; two that differ are an attack on whoever looks at the other one.
fn host(parts: &Parts) -> Result<Option<String>, ResolveError> {
    if parts.extensions.get::<Forwarded>().is_some()
        && let Some(forwarded) = named_in(&parts.headers, &FORWARDED_HOST)?
    {
        return Ok(Some(forwarded));
    }
    let in_address = parts.uri.authority().map(plain).transpose()?;
    let in_header = named_in(&parts.headers, &header::HOST)?;
    match (in_address, in_header) {
        (Some(one), Some(other)) if one != other => Err(ResolveError::MalformedHost),
        (address, header) => Ok(address.or(header)),
    }
}

fn named_in(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, ResolveError> {
    let mut values = headers.get_all(name).iter();
    let Some(first) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(ResolveError::MalformedHost);
    }
    let authority = first.to_str().ok().and_then(|text| text.parse::<Authority>().ok());
    plain(&authority.ok_or(ResolveError::MalformedHost)?).map(Some)
}

fn plain(authority: &Authority) -> Result<String, ResolveError> {
    // A comma may stand in a host by the letter of the law; in fact it joins two of them.
    if authority.as_str().contains(['@', ',']) {
        return Err(ResolveError::MalformedHost);
    }
    let host = authority.host();
    Ok(host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use axum::http::Request;
    use proptest::prelude::*;

    use super::*;

    fn tenant(uri: &str, hosts: &[&str]) -> Result<Option<String>, ResolveError> {
        let mut request = Request::builder().uri(uri);
        for host in hosts {
            request = request.header("host", *host);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let base = BaseDomain::parse("app.example").unwrap();
        Ok(base.tenant_of(&parts)?.map(|slug| slug.to_string()))
    }

    #[test]
    fn a_name_under_the_base_domain_is_a_tenant() {
        for host in
            ["acme.app.example", "acme.app.example:8443", "ACME.App.Example", "acme.app.example."]
        {
            assert_eq!(tenant("/", &[host]).unwrap().as_deref(), Some("acme"), "{host}");
        }
        assert_eq!(tenant("https://acme.app.example/x", &[]).unwrap().as_deref(), Some("acme"));
    }

    #[test]
    fn other_hosts_name_nobody() {
        for host in [
            "app.example",
            "example",
            "acmeapp.example",
            "acme.app.example.evil.com",
            "127.0.0.1:80",
            "[::1]",
        ] {
            assert_eq!(tenant("/", &[host]).unwrap(), None, "{host}");
        }
        assert_eq!(tenant("/", &[]).unwrap(), None);
    }

    #[test]
    fn hosts_that_could_be_read_in_two_ways_are_malformed() {
        for hosts in [
            &["a.b.app.example"][..],
            &["-acme.app.example"],
            &["postgres.app.example"],
            &["acme@globex.app.example"],
            &["acme.app.example", "acme.app.example"],
            &["acme.app.example, globex.app.example"],
            &["xn--acm-epa/.app.example"],
            &[".app.example"],
        ] {
            assert!(tenant("/", hosts).is_err(), "{hosts:?}");
        }
        assert!(tenant("https://acme.app.example/", &["globex.app.example"]).is_err());
    }

    #[test]
    fn what_a_proxy_was_asked_for_counts_only_when_it_is_trusted() {
        let named = |trusted: bool, hosts: &[&str]| {
            let mut request = Request::builder().uri("/").header("host", "acme.app.example");
            for host in hosts {
                request = request.header("x-forwarded-host", *host);
            }
            let (mut parts, ()) = request.body(()).unwrap().into_parts();
            if trusted {
                parts.extensions.insert(Forwarded);
            }
            let base = BaseDomain::parse("app.example").unwrap();
            base.tenant_of(&parts).map(|slug| slug.map(|slug| slug.to_string()))
        };
        let name = |slug: &str| Some(slug.to_owned());

        assert_eq!(named(true, &["globex.app.example:443"]).unwrap(), name("globex"));
        assert_eq!(named(true, &["elsewhere.example"]).unwrap(), None);
        assert_eq!(named(true, &[]).unwrap(), name("acme"));
        for hosts in [
            &["globex.app.example", "globex.app.example"][..],
            &["globex.app.example, acme.app.example"],
            &["globex.app.example,elsewhere.example"],
            &["a.b.app.example"],
            &["rub bish"],
            &[""],
        ] {
            assert!(named(true, hosts).is_err(), "{hosts:?}");
            assert_eq!(named(false, hosts).unwrap(), name("acme"), "{hosts:?}");
        }
    }

    #[test]
    fn a_base_domain_is_a_domain() {
        for bad in [
            "",
            "example",
            "App.example",
            ".app.example",
            "app.example.",
            "app..example",
            "*.example",
        ] {
            assert_eq!(BaseDomain::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_a_host_names_is_its_first_label(label in "[a-z0-9-]{0,60}", port in proptest::option::of(1_u16..)) {
            let port = port.map_or_else(String::new, |port| format!(":{port}"));
            let named = tenant("/", &[&format!("{label}.app.example{port}")]);
            prop_assert_eq!(named.ok().flatten(), TenantSlug::parse(&label).ok().map(|slug| slug.to_string()));
        }

        #[test]
        fn no_host_makes_it_panic(host in "[ -~]{0,80}") {
            _ = tenant("/", &[&host]);
        }
    }
}
