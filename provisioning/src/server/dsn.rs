//! Taking settings out of a connection string that libpq knows and the driver does not.
//!
//! A connection string is either a URL or a list of `key=value` pairs. Both are cut into their settings
//! here only as far as needed to find some by name; what remains goes to the driver as it was.

use crate::error::Error;

/// A connection string without the settings that were taken out of it.
pub(super) struct Dsn {
    /// What the driver gets to parse.
    pub(super) rest: String,
    /// The settings taken out, decoded.
    pub(super) taken: Vec<(String, String)>,
}

impl Dsn {
    /// Takes the settings with these names out of a connection string.
    pub(super) fn split(text: &str, names: &[&str]) -> Result<Self, Error> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            split_url(text, names)
        } else if text.contains("://") || !text.contains('=') {
            Err(Error::Url(
                "does not begin with postgres:// and is no list of key=value".to_owned(),
            ))
        } else {
            split_pairs(text, names)
        }
    }

    /// The value of a setting that was taken out; the last one wins, as with libpq.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.taken.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

fn split_url(text: &str, names: &[&str]) -> Result<Dsn, Error> {
    // A password may hold a question mark: the query begins after the credentials.
    let credentials = text.find('@').unwrap_or(0);
    let Some(query) = text[credentials..].find('?').map(|at| credentials + at) else {
        return Ok(Dsn { rest: text.to_owned(), taken: Vec::new() });
    };
    let (mut taken, mut kept) = (Vec::new(), Vec::new());
    for pair in text[query + 1..].split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some((key, value)) if names.contains(&key) => {
                taken.push((key.to_owned(), percent_decoded(value)?));
            }
            Some(_) => kept.push(pair),
            None => return Err(Error::Url("has a setting without a value".to_owned())),
        }
    }
    let mut rest = text[..query].to_owned();
    if !kept.is_empty() {
        rest.push('?');
        rest.push_str(&kept.join("&"));
    }
    Ok(Dsn { rest, taken })
}

fn percent_decoded(text: &str) -> Result<String, Error> {
    let wrong = || Error::Url("has a wrong percent-encoding".to_owned());
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte == b'%' {
            let digits = tail.get(..2).ok_or_else(wrong)?;
            bytes.extend(hex::decode(digits).map_err(|_| wrong())?);
            rest = &tail[2..];
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

fn split_pairs(text: &str, names: &[&str]) -> Result<Dsn, Error> {
    let (mut taken, mut rest) = (Vec::new(), String::new());
    let mut remaining = text.trim_start();
    while !remaining.is_empty() {
        let broken = || Error::Url("is neither a URL nor a list of key=value".to_owned());
        let (key, after) = remaining.split_once('=').ok_or_else(broken)?;
        let after = after.trim_start();
        let (value, end) = pair_value(after).ok_or_else(broken)?;
        let key = key.trim_end();
        if names.contains(&key) {
            taken.push((key.to_owned(), value));
        } else {
            rest.push_str(key);
            rest.push('=');
            rest.push_str(&after[..end]);
            rest.push(' ');
        }
        remaining = after[end..].trim_start();
    }
    Ok(Dsn { rest, taken })
}

/// The value at the beginning of `text`, unquoted, and where it ends.
fn pair_value(text: &str) -> Option<(String, usize)> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut letters = text.char_indices().skip(usize::from(quoted));
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\'' if quoted => return Some((value, at + 1)),
            letter if letter.is_whitespace() && !quoted => return Some((value, at)),
            '\\' => value.push(letters.next()?.1),
            letter => value.push(letter),
        }
    }
    (!quoted).then_some((value, text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &[&str] = &["sslmode", "sslrootcert"];

    #[test]
    fn settings_are_taken_out_of_a_url() {
        let text =
            "postgres://u:p?w@h/db?sslmode=verify-full&connect_timeout=3&sslrootcert=%2Fa%20b.pem";
        let dsn = Dsn::split(text, NAMES).unwrap();

        assert_eq!(dsn.rest, "postgres://u:p?w@h/db?connect_timeout=3");
        assert_eq!(dsn.get("sslmode"), Some("verify-full"));
        assert_eq!(dsn.get("sslrootcert"), Some("/a b.pem"));
    }

    #[test]
    fn settings_are_taken_out_of_pairs() {
        let text =
            r"host=h password='it\'s = sslmode=x'  sslmode = require sslrootcert='/a b.pem' user=u";
        let dsn = Dsn::split(text, NAMES).unwrap();

        assert_eq!(dsn.rest, r"host=h password='it\'s = sslmode=x' user=u ");
        assert_eq!(dsn.get("sslmode"), Some("require"));
        assert_eq!(dsn.get("sslrootcert"), Some("/a b.pem"));
    }

    #[test]
    fn nonsense_is_refused_without_being_repeated() {
        for text in [
            "",
            "secret",
            "mysql://secret@h/db",
            "host=h password='secret",
            "postgres://h/db?secret",
        ] {
            let error = Dsn::split(text, NAMES).err().unwrap();

            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
