//! The types that settings have, and how each is read from text. Environment, file and flags all come
//! down to text first, so a value is written the same way everywhere.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use tenantry_provisioning::{Hardening, ServerUrl};
use tracing_subscriber::EnvFilter;

use super::{AuthProvider, Deployment, LogFormat, MigrationMode};
use crate::duration;
use crate::oidc::Algorithm;
use crate::operations::drills::DrillTimes;
use crate::registration::Rate;
use crate::resolve::{AdminClaim, ClaimPath, TrustedProxies};
use crate::tenant::settings::{Goal, SettingsRules};
use crate::tenant::{DomainName, Retention, Schedule, TenantSlug};

/// A type that a setting may have.
pub(super) trait Value: Sized {
    /// What a text must be to be read; ends the sentence "`…` is no …".
    const EXPECTED: &'static str;

    /// Reads the text; on failure says more than [`Value::EXPECTED`], if there is more to say.
    fn read(text: &str) -> Result<Self, Option<String>>;
}

impl Value for String {
    const EXPECTED: &'static str = "text";

    fn read(text: &str) -> Result<Self, Option<String>> {
        Ok(text.to_owned())
    }
}

impl Value for SecretString {
    const EXPECTED: &'static str = "text";

    fn read(text: &str) -> Result<Self, Option<String>> {
        Ok(text.into())
    }
}

impl Value for PathBuf {
    const EXPECTED: &'static str = "path";

    fn read(text: &str) -> Result<Self, Option<String>> {
        Ok(text.into())
    }
}

/// Of programs, as in `PATH`.
impl Value for Vec<PathBuf> {
    const EXPECTED: &'static str = "absolute paths with `:` between them";

    fn read(text: &str) -> Result<Self, Option<String>> {
        let paths: Self = std::env::split_paths(text).collect();
        if paths.iter().all(|path| path.is_absolute()) { Ok(paths) } else { Err(None) }
    }
}

impl Value for bool {
    const EXPECTED: &'static str = "`true` or `false`";

    fn read(text: &str) -> Result<Self, Option<String>> {
        text.parse().map_err(|_| None)
    }
}

/// A count of things: connections, workers, clones.
#[derive(Clone, Copy)]
pub(super) struct Count(pub usize);

impl Value for Count {
    const EXPECTED: &'static str = "whole number from 0 to 10000";

    fn read(text: &str) -> Result<Self, Option<String>> {
        text.parse().ok().filter(|number| *number <= 10_000).map(Self).ok_or(None)
    }
}

/// A count of which there must be one at least.
#[derive(Clone, Copy)]
pub(super) struct Positive(pub usize);

impl Value for Positive {
    const EXPECTED: &'static str = "whole number from 1 to 10000";

    fn read(text: &str) -> Result<Self, Option<String>> {
        text.parse().ok().filter(|number| (1..=10_000).contains(number)).map(Self).ok_or(None)
    }
}

/// So many times as much.
#[derive(Clone, Copy)]
pub(super) struct Ratio(pub u32);

impl Value for Ratio {
    const EXPECTED: &'static str = "whole number from 0 to 100";

    fn read(text: &str) -> Result<Self, Option<String>> {
        text.parse().ok().filter(|number| *number <= 100).map(Self).ok_or(None)
    }
}

/// A part of a hundred.
#[derive(Clone, Copy)]
pub(super) struct Percent(pub usize);

impl Value for Percent {
    const EXPECTED: &'static str = "part of a hundred, such as `50%`";

    fn read(text: &str) -> Result<Self, Option<String>> {
        let number = text.strip_suffix('%').and_then(|number| number.parse().ok());
        number.filter(|number| *number <= 100).map(Self).ok_or(None)
    }
}

impl Value for Schedule {
    const EXPECTED: &'static str = Self::EXPECTED;

    fn read(text: &str) -> Result<Self, Option<String>> {
        Self::parse(text).ok_or(None)
    }
}

impl Value for Retention {
    const EXPECTED: &'static str = Self::EXPECTED;

    fn read(text: &str) -> Result<Self, Option<String>> {
        Self::parse(text).ok_or(None)
    }
}

impl Value for Goal {
    const EXPECTED: &'static str = Self::EXPECTED;

    fn read(text: &str) -> Result<Self, Option<String>> {
        Self::parse(text).ok_or(None)
    }
}

impl Value for Duration {
    const EXPECTED: &'static str = "duration such as `300s`, `5m`, `12h` or `7d`";

    fn read(text: &str) -> Result<Self, Option<String>> {
        duration::parse(text).ok_or(None)
    }
}

impl Value for SocketAddr {
    const EXPECTED: &'static str = "address with a port, such as `127.0.0.1:8080` or `[::]:8080`";

    fn read(text: &str) -> Result<Self, Option<String>> {
        text.parse().map_err(|_| None)
    }
}

impl Value for TenantSlug {
    const EXPECTED: &'static str = "tenant slug";

    fn read(text: &str) -> Result<Self, Option<String>> {
        Self::parse(text).map_err(|error| Some(format!("{}: {error}", Self::EXPECTED)))
    }
}

impl Value for Deployment {
    const EXPECTED: &'static str = "`development`, `staging` or `production`";

    fn read(text: &str) -> Result<Self, Option<String>> {
        match text {
            "development" => Ok(Self::Development),
            "staging" => Ok(Self::Staging),
            "production" => Ok(Self::Production),
            _ => Err(None),
        }
    }
}

impl Value for AuthProvider {
    const EXPECTED: &'static str = "provider: `none`, `jwt` or `oidc`";

    fn read(text: &str) -> Result<Self, Option<String>> {
        match text {
            "none" => Ok(Self::None),
            "jwt" => Ok(Self::Jwt),
            "oidc" => Ok(Self::Oidc),
            _ => Err(None),
        }
    }
}

/// The path of a JSON Schema file; the file is read at once, so that a bad one is found at the start.
impl Value for SettingsRules {
    const EXPECTED: &'static str = "JSON Schema file";

    fn read(path: &str) -> Result<Self, Option<String>> {
        let unusable = |error: &dyn std::error::Error| {
            Some(format!("{} ({})", Self::EXPECTED, crate::operations::chain(error)))
        };
        let text = std::fs::read_to_string(path).map_err(|error| unusable(&error))?;
        Self::with_compliance_schema(&text).map_err(|error| unusable(&error))
    }
}

/// Several texts, with commas between them.
pub(super) struct List(pub Vec<String>);

impl Value for List {
    const EXPECTED: &'static str = "list with commas between its parts";

    fn read(text: &str) -> Result<Self, Option<String>> {
        let parts: Vec<String> = text.split(',').map(|part| part.trim().to_owned()).collect();
        if parts.iter().any(String::is_empty) { Err(None) } else { Ok(Self(parts)) }
    }
}

/// Algorithms that tokens may be signed with.
pub(super) struct Algorithms(pub Vec<Algorithm>);

impl Value for Algorithms {
    const EXPECTED: &'static str = "list of HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA";

    fn read(text: &str) -> Result<Self, Option<String>> {
        let List(names) = List::read(text)?;
        let all: Result<Vec<_>, _> = names.iter().map(|name| name.parse()).collect();
        all.map(Self).map_err(|_| None)
    }
}

impl Value for ClaimPath {
    const EXPECTED: &'static str =
        "path to a claim, such as `org.slug` or `/https:~1~1acme.com~1tenant`";

    fn read(text: &str) -> Result<Self, Option<String>> {
        Self::parse(text).ok_or(None)
    }
}

impl Value for AdminClaim {
    const EXPECTED: &'static str = "claim and its value, such as `groups=platform`";

    fn read(text: &str) -> Result<Self, Option<String>> {
        Self::parse(text).ok_or(None)
    }
}

impl Value for DomainName {
    const EXPECTED: &'static str = "domain such as `app.example.com`, in lower case";

    fn read(text: &str) -> Result<Self, Option<String>> {
        Self::parse(text).map_err(|_| None)
    }
}

/// Several domains, with commas between them.
pub(super) struct Domains(pub Vec<DomainName>);

impl Value for Domains {
    const EXPECTED: &'static str = "list of domains such as `acme.com,acme.co.uk`, in lower case";

    fn read(text: &str) -> Result<Self, Option<String>> {
        let List(names) = List::read(text)?;
        let all: Result<Vec<_>, _> = names.iter().map(|name| DomainName::parse(name)).collect();
        all.map(Self).map_err(|_| None)
    }
}

impl Value for DrillTimes {
    const EXPECTED: &'static str = "cron expression such as `30 3 * * *`";

    fn read(text: &str) -> Result<Self, Option<String>> {
        text.parse().map_err(Some)
    }
}

impl Value for Rate {
    const EXPECTED: &'static str = "rate such as `3/hour`, `10/day` or `1/minute`";

    fn read(text: &str) -> Result<Self, Option<String>> {
        let (limit, unit) = text.split_once('/').ok_or(None)?;
        let window = match unit {
            "minute" => Duration::from_mins(1),
            "hour" => Duration::from_hours(1),
            "day" => Duration::from_hours(24),
            _ => return Err(None),
        };
        let limit = limit.parse().ok().filter(|limit| (1..=10_000).contains(limit));
        limit.map(|limit| Self { limit, window }).ok_or(None)
    }
}

/// Where people go, with an optional `{slug}`.
pub(super) struct FrontendUrl(pub String);

impl Value for FrontendUrl {
    const EXPECTED: &'static str = "`https://` address such as `https://app.example.com/{slug}` or `https://{slug}.example.com`";

    fn read(text: &str) -> Result<Self, Option<String>> {
        let Endpoint(url) = Endpoint::read(text).map_err(|_| None)?;
        let plain = url.replace("{slug}", "slug");
        let good = !plain.contains(['{', '}', '?', '#']) && !plain.contains(char::is_whitespace);
        if good { Ok(Self(url)) } else { Err(None) }
    }
}

impl Value for TrustedProxies {
    const EXPECTED: &'static str =
        "list of addresses and networks, such as `10.0.0.0/8, 192.0.2.7`";

    fn read(text: &str) -> Result<Self, Option<String>> {
        let List(parts) = List::read(text)?;
        Self::parse(parts.iter().map(String::as_str))
            .map_err(|part| Some(format!("{}: not `{part}`", Self::EXPECTED)))
    }
}

impl Value for LogFormat {
    const EXPECTED: &'static str = "`pretty` or `json`";

    fn read(text: &str) -> Result<Self, Option<String>> {
        match text {
            "pretty" => Ok(Self::Pretty),
            "json" => Ok(Self::Json),
            _ => Err(None),
        }
    }
}

impl Value for Hardening {
    const EXPECTED: &'static str = "`standard` or `strict`";

    fn read(text: &str) -> Result<Self, Option<String>> {
        match text {
            "standard" => Ok(Self::Standard),
            "strict" => Ok(Self::Strict),
            _ => Err(None),
        }
    }
}

impl Value for MigrationMode {
    const EXPECTED: &'static str = "`manual`, `on-demand` or `background`";

    fn read(text: &str) -> Result<Self, Option<String>> {
        match text {
            "manual" => Ok(Self::Manual),
            "on-demand" => Ok(Self::OnDemand),
            "background" => Ok(Self::Background),
            _ => Err(None),
        }
    }
}

/// What is logged, in the syntax of `RUST_LOG`.
pub(super) struct Filter(pub String);

impl Value for Filter {
    const EXPECTED: &'static str =
        "log level such as `info`, or filter such as `warn,tenantry=debug`";

    fn read(text: &str) -> Result<Self, Option<String>> {
        if EnvFilter::try_new(text).is_ok() { Ok(Self(text.to_owned())) } else { Err(None) }
    }
}

/// The connection string of a PostgreSQL server: parsed to see that it can be, kept as it was.
pub(super) struct PostgresUrl(pub SecretString);

impl Value for PostgresUrl {
    const EXPECTED: &'static str =
        "PostgreSQL URL such as `postgres://user:password@host:5432/database`";

    fn read(text: &str) -> Result<Self, Option<String>> {
        ServerUrl::parse(text).map(|_| Self(text.into())).map_err(|error| {
            Some(format!("{} ({})", Self::EXPECTED, crate::operations::chain(&error)))
        })
    }
}

/// The address of an object store; it is shown to people, so it must not carry a password.
pub(super) struct Endpoint(pub String);

impl Value for Endpoint {
    const EXPECTED: &'static str = "`http://` or `https://` address without credentials";

    fn read(text: &str) -> Result<Self, Option<String>> {
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        match rest {
            Some(rest) if !rest.is_empty() && !rest.contains('@') => Ok(Self(text.to_owned())),
            _ => Err(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_carries_no_credentials() {
        assert!(Endpoint::read("http://localhost:9000").is_ok());
        for text in ["https://key:secret@host", "localhost:9000", "ftp://host", "https://"] {
            assert!(Endpoint::read(text).is_err(), "{text}");
        }
    }
}
