//! [`RemoteKeys`]: a provider's key set, fetched and remembered.
//!
//! One fetch is under way at a time, however many wait for it, and a pause lies between two, so that
//! tokens with made-up key names cannot make us hammer the provider. While the provider is away the
//! last good set serves, up to [`Timing::max_age`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jsonwebtoken::Algorithm;
use reqwest::header::CACHE_CONTROL;
use reqwest::{Client, StatusCode, Url, redirect};
use serde::Deserialize;
use thiserror::Error;

use super::keys::{Key, KeyError, KeySet};

const TIMEOUT: Duration = Duration::from_secs(5);
/// No key set or discovery document is larger, in bytes.
const MAX_DOCUMENT_BYTES: usize = 1024 * 1024;
/// How long a set is fresh whose provider does not say.
const USUAL_LIFE: Duration = Duration::from_mins(10);
/// Whatever the provider says, a set is fresh for at least and at most this long.
const LIFE: (Duration, Duration) = (Duration::from_mins(1), Duration::from_hours(6));

/// How a fetched key set ages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// The shortest time between two fetches once there is a set; before, it is a tenth of this.
    pub pause: Duration,
    /// How long a set counts that could not be fetched again.
    pub max_age: Duration,
}

/// Why there is no key set.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The provider could not be reached.
    #[error("the provider cannot be reached")]
    Unreachable(#[source] reqwest::Error),
    /// It answered, but not with a document.
    #[error("the provider answered with status {0}")]
    Status(StatusCode),
    /// The document is not what it must be.
    #[error("{0}")]
    Malformed(&'static str),
    /// Nobody has asked yet.
    #[error("the keys have not been fetched yet")]
    NotYet,
}

/// Where to begin.
#[derive(Clone, Debug)]
pub(super) enum Address {
    KeySet(String),
    Issuer(String),
}

#[derive(Debug)]
pub(super) struct RemoteKeys {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    client: Client,
    /// Of the key set, or of the document that names it.
    url: Url,
    /// The issuer that the document must be of.
    issuer: Option<String>,
    timing: Timing,
    state: Mutex<State>,
    fetching: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct State {
    set: Option<Fetched>,
    /// When the last attempt ended, and how if it failed.
    tried_at: Option<Instant>,
    failure: Arc<FetchError>,
}

#[derive(Clone, Debug)]
struct Fetched {
    keys: Arc<KeySet>,
    at: Instant,
    /// When to fetch it anew: ahead of its expiry.
    stale_at: Instant,
}

impl Default for Timing {
    /// 10 seconds between fetches, a day without the provider.
    fn default() -> Self {
        Self { pause: Duration::from_secs(10), max_age: Duration::from_hours(24) }
    }
}

impl RemoteKeys {
    pub(super) fn new(address: Address, timing: Timing) -> Result<Self, KeyError> {
        let (text, issuer) = match address {
            Address::KeySet(url) => (url, None),
            Address::Issuer(issuer) => {
                let base = issuer.trim_end_matches('/');
                (format!("{base}/.well-known/openid-configuration"), Some(issuer))
            }
        };
        let url = trusted(&text).ok_or(KeyError::BadAddress(text))?;
        let client = Client::builder()
            .timeout(TIMEOUT)
            .redirect(redirect::Policy::none())
            .user_agent("tenantry")
            .build()
            .expect("the options are constants");
        let failure = Arc::new(FetchError::NotYet);
        let state = Mutex::new(State { set: None, tried_at: None, failure });
        let fetching = tokio::sync::Mutex::new(());
        Ok(Self { shared: Arc::new(Shared { client, url, issuer, timing, state, fetching }) })
    }

    pub(super) async fn find(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Option<Arc<Key>>, Arc<FetchError>> {
        let asked_at = Instant::now();
        if let Some(fetched) = self.shared.current()
            && let Some(key) = fetched.keys.find(id, algorithm)
        {
            if fetched.stale_at <= asked_at {
                drop(self.refresh(asked_at));
            }
            return Ok(Some(key));
        }
        self.refresh(asked_at).await.expect("a fetch does not panic");
        match self.shared.current() {
            Some(fetched) => Ok(fetched.keys.find(id, algorithm)),
            None => Err(Arc::clone(&self.shared.state().failure)),
        }
    }

    /// Fetches the set unless that was done since `asked_at`, or too short a time ago. A task of its
    /// own: a caller that gives up leaves the others with a fetch under way.
    fn refresh(&self, asked_at: Instant) -> tokio::task::JoinHandle<()> {
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            let _one = shared.fetching.lock().await;
            if shared.may_fetch(asked_at) {
                let fetched = shared.fetch().await;
                shared.note(fetched);
            }
        })
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The set, unless it is too old to be trusted.
    fn current(&self) -> Option<Fetched> {
        self.state().set.clone().filter(|fetched| fetched.at.elapsed() < self.timing.max_age)
    }

    fn may_fetch(&self, asked_at: Instant) -> bool {
        let state = self.state();
        let pause = if state.set.is_some() { self.timing.pause } else { self.timing.pause / 10 };
        state.tried_at.is_none_or(|tried_at| tried_at < asked_at && tried_at.elapsed() >= pause)
    }

    fn note(&self, fetched: Result<Fetched, FetchError>) {
        let mut state = self.state();
        state.tried_at = Some(Instant::now());
        match fetched {
            Ok(fetched) => state.set = Some(fetched),
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    url = %self.url,
                    "the keys of an identity provider cannot be fetched"
                );
                state.failure = Arc::new(error);
            }
        }
    }

    async fn fetch(&self) -> Result<Fetched, FetchError> {
        #[derive(Deserialize)]
        struct Discovery {
            issuer: String,
            jwks_uri: String,
        }
        let mut url = self.url.clone();
        if let Some(issuer) = &self.issuer {
            let (document, _) = self.get(url).await?;
            let document: Discovery = serde_json::from_slice(&document)
                .map_err(|_| FetchError::Malformed("the discovery document cannot be read"))?;
            if document.issuer != *issuer {
                return Err(FetchError::Malformed("the discovery document is of another issuer"));
            }
            url = named_by(&self.url, &document.jwks_uri).ok_or(FetchError::Malformed(
                "the key set's address is not https, nor both it and the issuer on this machine",
            ))?;
        }
        let (document, life) = self.get(url).await?;
        let (keys, at) = (Arc::new(KeySet::parse(&document)?), Instant::now());
        // A fifth is left for a provider that does not answer at once.
        Ok(Fetched { keys, at, stale_at: at + life * 4 / 5 })
    }

    /// A document, and how long it is fresh.
    async fn get(&self, url: Url) -> Result<(Vec<u8>, Duration), FetchError> {
        let mut answer = self.client.get(url).send().await.map_err(FetchError::Unreachable)?;
        if answer.status() != StatusCode::OK {
            return Err(FetchError::Status(answer.status()));
        }
        let control = answer.headers().get(CACHE_CONTROL).and_then(|value| value.to_str().ok());
        let life = control.and_then(max_age).unwrap_or(USUAL_LIFE).clamp(LIFE.0, LIFE.1);
        let mut document = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(FetchError::Unreachable)? {
            document.extend_from_slice(&chunk);
            if document.len() > MAX_DOCUMENT_BYTES {
                return Err(FetchError::Malformed("the document is larger than 1 MiB"));
            }
        }
        Ok((document, life))
    }
}

/// An address that keys may come from: nobody between us and it can change them.
fn trusted(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let loopback = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    (url.scheme() == "https" || (url.scheme() == "http" && loopback)).then_some(url)
}

/// A key set's address that a discovery document names. Its author is a tenant's, and must not send us to
/// services of this machine that nobody else reaches.
fn named_by(discovery: &Url, text: &str) -> Option<Url> {
    trusted(text).filter(|url| url.scheme() == "https" || discovery.scheme() == "http")
}

fn max_age(control: &str) -> Option<Duration> {
    let mut parts = control.split(',').map(str::trim);
    let seconds = parts.find_map(|part| part.strip_prefix("max-age="))?;
    seconds.parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_over_https_or_from_this_machine() {
        for good in ["https://id.example/keys", "http://127.0.0.1:1/keys", "http://localhost/keys"]
        {
            assert!(trusted(good).is_some(), "{good}");
        }
        for bad in
            ["http://id.example/keys", "http://localhost.evil/keys", "file:///etc/keys", "keys"]
        {
            assert!(trusted(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn only_an_issuer_on_this_machine_names_keys_on_this_machine() {
        let url = |text: &str| Url::parse(text).unwrap();
        let (far, near) = (url("https://id.example/d"), url("http://127.0.0.1:1/d"));

        assert!(named_by(&far, "https://keys.example/keys").is_some());
        assert!(named_by(&near, "http://127.0.0.1:1/keys").is_some());
        assert!(named_by(&near, "https://keys.example/keys").is_some());
        assert!(named_by(&far, "http://127.0.0.1:9200/_all").is_none());
        assert!(named_by(&far, "http://localhost/keys").is_none());
    }

    #[test]
    fn a_life_is_read_from_the_header() {
        assert_eq!(max_age("public, max-age=3600"), Some(Duration::from_hours(1)));
        assert_eq!(max_age("no-store"), None);
        assert_eq!(max_age("max-age=soon"), None);
    }
}
