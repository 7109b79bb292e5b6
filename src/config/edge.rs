//! How the listeners meet their clients: TLS, other people's web pages, proxies in between.

use std::path::PathBuf;

use axum::http::HeaderValue;
use axum::http::uri::Authority;

use super::Deployment;
use super::error::Problem;
use super::reader::Reader;
use super::value::{List, Value};
use crate::resolve::TrustedProxies;

/// Every origin.
const ANY: &str = "*";

/// The settings of the listeners' edges.
#[derive(Clone, Debug)]
pub struct EdgeSettings {
    /// What both listeners encrypt with; without it they speak plain HTTP.
    pub tls: Option<TlsPair>,
    /// The CA whose certificate a client of the admin API must have; never there without `tls`.
    pub admin_client_ca: Option<PathBuf>,
    /// The origins whose pages may call the data plane; `*`, alone, is all of them.
    pub cors_origins: Vec<HeaderValue>,
    /// The proxies whose word about the client counts.
    pub trusted_proxies: TrustedProxies,
}

/// The files of a certificate and its key.
#[derive(Clone, Debug)]
pub struct TlsPair {
    /// The certificate's.
    pub certificate: PathBuf,
    /// The key's.
    pub key: PathBuf,
}

/// Reads everything about the edges.
pub(super) fn read(r: &mut Reader, environment: Deployment) -> EdgeSettings {
    let (certificate, key) = (r.get("tls_cert"), r.get("tls_key"));
    if certificate.is_some() != key.is_some() {
        r.problem(Problem::Contradiction {
            message: "of TENANTRY_TLS_CERT and TENANTRY_TLS_KEY only one is set".to_owned(),
            remedy: "set both, or neither to serve plain HTTP".to_owned(),
        });
    }
    let tls = certificate.zip(key).map(|(certificate, key)| TlsPair { certificate, key });
    let admin_client_ca = r.get("admin_tls_client_ca");
    if admin_client_ca.is_some() && !r.is_set("tls_cert") {
        r.problem(Problem::Contradiction {
            message: "TENANTRY_ADMIN_TLS_CLIENT_CA is set, but the admin API has no TLS".to_owned(),
            remedy: "set TENANTRY_TLS_CERT and TENANTRY_TLS_KEY too".to_owned(),
        });
    }
    let Origins(cors_origins) = r.get("cors_origins").unwrap_or(Origins(Vec::new()));
    if cors_origins.iter().any(|origin| origin == ANY) && environment == Deployment::Production {
        r.problem(Problem::Contradiction {
            message:
                "TENANTRY_CORS_ORIGINS is `*`: in production every web page could call the data \
                      plane"
                    .to_owned(),
            remedy: "name the origins of your own pages, such as https://app.example.com"
                .to_owned(),
        });
    }
    let trusted_proxies = r.get("trusted_proxies").unwrap_or_default();
    EdgeSettings { tls, admin_client_ca, cors_origins, trusted_proxies }
}

/// Origins of web pages, written just as browsers write them: they are compared letter by letter.
struct Origins(Vec<HeaderValue>);

impl Value for Origins {
    const EXPECTED: &'static str = "list of origins, such as `https://app.example.com`";

    fn read(text: &str) -> Result<Self, Option<String>> {
        if text == ANY {
            return Ok(Self(vec![HeaderValue::from_static(ANY)]));
        }
        let List(parts) = List::read(text)?;
        let read = parts.iter().map(|part| match fault(part) {
            Some(fault) => Err(Some(format!("{}: `{part}` {fault}", Self::EXPECTED))),
            None => Ok(HeaderValue::from_str(part).expect("an origin is ASCII")),
        });
        read.collect::<Result<_, _>>().map(Self)
    }
}

/// What keeps a text from being an origin as a browser sends it.
fn fault(text: &str) -> Option<&'static str> {
    if text == ANY {
        return Some(
            "lets in everybody, so the others mean nothing: it stands alone or not at all",
        );
    }
    let (usual_port, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(rest), _) => (443, rest),
        (None, Some(rest)) => (80, rest),
        (None, None) => return Some("does not begin with `https://` or `http://`"),
    };
    if rest.contains(['/', '?', '#']) {
        return Some("has a path or a trailing slash: an origin ends with its host or port");
    }
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-._:[]".contains(c);
    let authority = rest.parse::<Authority>().ok().filter(|_| rest.chars().all(plain));
    let Some(authority) = authority.filter(|authority| !authority.host().is_empty()) else {
        return Some("has no host in lower-case ASCII (`xn--…` for other scripts)");
    };
    match authority.port() {
        Some(port) if port == usual_port => Some("names the usual port, which browsers leave out"),
        None if rest != authority.host() => Some("has no port after its colon"),
        _ => None,
    }
}
