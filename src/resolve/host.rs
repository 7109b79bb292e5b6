//! What a request's host names: `acme.app.example` the tenant `acme` under the base domain
//! `app.example`, and any other domain the tenant that holds it, if one does.
//!
//! `api.app.example` and `apiauth.app.example` are nobody's: the clients of SQL over HTTP call them for every
//! tenant, and the host of the connection string that they send along stands in.
//!
//! Behind a trusted proxy the host is the one that the proxy was asked for; nobody else's word counts.

use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, header};

use super::ResolveError;
use super::connection_string::ConnectionString;
use super::forwarded::Forwarded;
use crate::tenant::{DomainName, TenantSlug};

const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// The labels before the base domain that stand for every tenant. No slug is one of them.
const EVERYBODYS: [&str; 2] = ["api", "apiauth"];

/// What a host can name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HostName {
    /// A tenant, by its slug before the base domain.
    Tenant(TenantSlug),
    /// Perhaps a tenant, by a domain of its own.
    Domain(DomainName),
}

/// What a request's host names; nothing when it is an address, the base domain or not there.
pub(super) fn named_by_host(
    parts: &Parts,
    base: Option<&DomainName>,
) -> Result<Option<HostName>, ResolveError> {
    let Some(host) = host(parts)? else { return Ok(None) };
    let is_everybodys = |label: &&str| {
        base.is_some_and(|base| host.strip_suffix(base.as_str()) == Some(&format!("{label}.")))
    };
    if !EVERYBODYS.iter().any(is_everybodys) {
        return named(&host, base);
    }
    let string = ConnectionString::of(&parts.headers).ok().flatten();
    string.and_then(|string| string.host).map_or(Ok(None), |meant| named(&meant, base))
}

fn named(host: &str, base: Option<&DomainName>) -> Result<Option<HostName>, ResolveError> {
    let before = base.and_then(|base| host.strip_suffix(base.as_str()));
    match before.map(|before| (before, before.strip_suffix('.'))) {
        Some(("", _)) => Ok(None),
        Some((_, Some(label))) => {
            let slug = TenantSlug::parse(label).map_err(|_| ResolveError::MalformedHost)?;
            Ok(Some(HostName::Tenant(slug)))
        }
        Some((_, None)) | None => Ok(DomainName::parse(host).ok().map(HostName::Domain)),
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
        shown(&parts)
    }

    fn shown(parts: &Parts) -> Result<Option<String>, ResolveError> {
        let base = DomainName::parse("app.example").unwrap();
        Ok(named_by_host(parts, Some(&base))?.map(|named| match named {
            HostName::Tenant(slug) => slug.to_string(),
            HostName::Domain(domain) => format!("whoever holds {domain}"),
        }))
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
    fn other_domains_name_whoever_holds_them() {
        for (host, domain) in [
            ("acmeapp.example", "acmeapp.example"),
            ("acme.app.example.evil.com", "acme.app.example.evil.com"),
            ("App.ACME.com.:8443", "app.acme.com"),
        ] {
            let holder = format!("whoever holds {domain}");
            assert_eq!(tenant("/", &[host]).unwrap(), Some(holder), "{host}");
        }
    }

    #[test]
    fn addresses_and_the_base_domain_name_nobody() {
        for host in
            ["app.example", "app.example.:80", "example", "127.0.0.1:80", "[::1]", "büro.de"]
        {
            assert_eq!(tenant("/", &[host]).ok().flatten(), None, "{host}");
        }
        assert_eq!(tenant("/", &[]).unwrap(), None);
    }

    #[test]
    fn a_host_that_is_everybodys_leaves_it_to_the_connection_string() {
        let asked = |host: &str, string: &str| {
            let request = Request::builder().uri("/sql").header("host", host);
            let request = request.header("neon-connection-string", string);
            shown(&request.body(()).unwrap().into_parts().0)
        };
        let string = "postgresql://u:p@acme.app.example/db";

        for host in ["api.app.example", "apiauth.app.example:443", "API.app.example."] {
            assert_eq!(asked(host, string).unwrap().as_deref(), Some("acme"), "{host}");
        }
        assert_eq!(tenant("/", &["api.app.example"]).unwrap(), None);
        assert_eq!(asked("api.app.example", "rubbish").unwrap(), None);
        assert!(asked("api.app.example", "postgresql://u:p@api.app.example/db").is_err());
        assert_eq!(asked("globex.app.example", string).unwrap().as_deref(), Some("globex"));
        let elsewhere = "postgresql://u:p@elsewhere.example/db";
        let holder = "whoever holds elsewhere.example";
        assert_eq!(asked("api.app.example", elsewhere).unwrap().as_deref(), Some(holder));
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
        let asked = |trusted: bool, hosts: &[&str]| {
            let mut request = Request::builder().uri("/").header("host", "acme.app.example");
            for host in hosts {
                request = request.header("x-forwarded-host", *host);
            }
            let (mut parts, ()) = request.body(()).unwrap().into_parts();
            if trusted {
                parts.extensions.insert(Forwarded);
            }
            shown(&parts)
        };
        let name = |slug: &str| Some(slug.to_owned());

        assert_eq!(asked(true, &["globex.app.example:443"]).unwrap(), name("globex"));
        let elsewhere = name("whoever holds elsewhere.example");
        assert_eq!(asked(true, &["elsewhere.example"]).unwrap(), elsewhere);
        assert_eq!(asked(true, &[]).unwrap(), name("acme"));
        for hosts in [
            &["globex.app.example", "globex.app.example"][..],
            &["globex.app.example, acme.app.example"],
            &["globex.app.example,elsewhere.example"],
            &["a.b.app.example"],
            &["rub bish"],
            &[""],
        ] {
            assert!(asked(true, hosts).is_err(), "{hosts:?}");
            assert_eq!(asked(false, hosts).unwrap(), name("acme"), "{hosts:?}");
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
