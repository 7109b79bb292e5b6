//! [`ConnectionString`]: what the clients of SQL over HTTP send beside everything else, read.
//!
//! It holds a password, so it is never logged, and nothing of it is repeated in an error. What counts of
//! it is decided elsewhere; its query parameters never do.

use axum::http::{HeaderMap, HeaderName};
use secrecy::SecretString;
use url::Url;

/// The header that it comes in.
pub const CONNECTION_STRING: HeaderName = HeaderName::from_static("neon-connection-string");

/// The parts of a connection string; a part that is not there, or empty, is none.
#[derive(Clone, Debug)]
pub struct ConnectionString {
    /// Who wants to log in.
    pub user: Option<String>,
    /// With what.
    pub password: Option<SecretString>,
    /// Where.
    pub host: Option<String>,
    /// To which database.
    pub database: Option<String>,
}

/// The header is there, and is no connection string, or more than one.
#[derive(Clone, Copy, Debug)]
pub struct Malformed;

impl ConnectionString {
    /// The connection string of a request, if it has one.
    ///
    /// # Errors
    ///
    /// Says no more than that it cannot be read.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, Malformed> {
        let mut values = headers.get_all(CONNECTION_STRING).iter();
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(Malformed);
        }
        let text = value.to_str().map_err(|_| Malformed)?;
        Self::read(text).ok_or(Malformed).map(Some)
    }

    fn read(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok()?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return None;
        }
        let given = |text: String| Some(text).filter(|text| !text.is_empty());
        let password = given(decoded(url.password().unwrap_or_default())?);
        Some(Self {
            user: given(decoded(url.username())?),
            password: password.map(SecretString::from),
            host: given(decoded(url.host_str().unwrap_or_default())?.to_ascii_lowercase()),
            database: given(decoded(url.path().trim_start_matches('/'))?),
        })
    }
}

/// The text behind the percent signs; none where they stand for no text.
fn decoded(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte == b'%' {
            bytes.extend(hex::decode(tail.get(..2)?).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use secrecy::ExposeSecret as _;

    use super::*;

    fn read(text: &str) -> Result<ConnectionString, Malformed> {
        let value = HeaderValue::from_str(text).unwrap();
        let read = ConnectionString::of(&HeaderMap::from_iter([(CONNECTION_STRING, value)]));
        read.map(|string| string.expect("it is there"))
    }

    #[test]
    fn every_part_is_read_and_none_is_shown() {
        let string = read("postgresql://t%2Dx:p%40ss@Acme.DB.example.com:5432/a%20b?ssl=x%2520y");
        let string = string.unwrap();

        assert_eq!(string.user.as_deref(), Some("t-x"));
        assert_eq!(string.password.as_ref().unwrap().expose_secret(), "p@ss");
        assert_eq!(string.host.as_deref(), Some("acme.db.example.com"));
        assert_eq!(string.database.as_deref(), Some("a b"));
        assert!(!format!("{string:?}").contains("p@ss"), "{string:?}");
    }

    #[test]
    fn parts_may_be_missing() {
        for text in ["postgres://h", "postgres://h/", "postgres://@h", "postgres://:@h"] {
            let string = read(text).unwrap();
            assert!(string.user.is_none() && string.password.is_none(), "{text}");
            assert!(string.database.is_none(), "{text}");
        }
        assert!(ConnectionString::of(&HeaderMap::new()).unwrap().is_none());
    }

    #[test]
    fn rubbish_is_malformed() {
        for text in ["", "secret", "mysql://u:secret@h/db", "postgres://u:secret@h/%zz"] {
            assert!(read(text).is_err(), "{text}");
        }
        let value = HeaderValue::from_static("postgres://u:p@h/db");
        let mut twice = HeaderMap::new();
        twice.append(CONNECTION_STRING, value.clone());
        twice.append(CONNECTION_STRING, value);
        assert!(ConnectionString::of(&twice).is_err());
    }
}
