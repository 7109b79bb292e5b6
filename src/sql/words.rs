//! [`Words`]: the words that a statement begins with, as PostgreSQL's scanner would find them.
//!
//! Only to tell a kind of statement from another. What a statement may do is PostgreSQL's to decide.

use super::pg_error::PgError;

/// What PostgreSQL would do and cannot be done over HTTP: everything that needs a conversation.
pub(super) fn refusal(text: &str) -> Option<PgError> {
    let mut words = Words::new(text);
    let first = words.next().unwrap_or_default().to_ascii_lowercase();
    let mut second = || words.next().unwrap_or_default().to_ascii_lowercase();
    let (code, message, hint) = match first.as_str() {
        "copy" => (
            "0A000",
            "COPY is not possible over HTTP",
            "read with SELECT, and write with INSERT of several rows or of unnest($1::…[])",
        ),
        "listen" => (
            "0A000",
            "LISTEN is not possible over HTTP",
            "a request has no way to hear what comes later; ask with SELECT instead",
        ),
        "begin" | "start" | "commit" | "end" | "rollback" | "abort" => TRANSACTION,
        "prepare" if second() == "transaction" => TRANSACTION,
        _ => return None,
    };
    Some(PgError::ours(code, message, hint))
}

const TRANSACTION: (&str, &str, &str) = (
    "2D000",
    "a request is a transaction of its own; it can neither begin nor end one",
    "send the statements that belong together as one batch",
);

/// The leading words of a text; ends at anything else than letters, blanks and comments.
pub(super) struct Words<'a>(&'a str);

impl<'a> Words<'a> {
    pub fn new(text: &'a str) -> Self {
        Self(text)
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let text = skip_blanks(self.0);
        let len =
            text.bytes().take_while(|byte| byte.is_ascii_alphabetic() || *byte == b'_').count();
        let (word, rest) = text.split_at(len);
        self.0 = rest;
        (!word.is_empty()).then_some(word)
    }
}

/// Skips what PostgreSQL skips before a statement: blanks, comments, empty statements.
pub(super) fn skip_blanks(mut text: &str) -> &str {
    loop {
        let rest = text.trim_start_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c', ';']);
        if let Some(comment) = rest.strip_prefix("--") {
            text = comment.find(['\n', '\r']).map_or("", |end| &comment[end..]);
        } else if rest.starts_with("/*") {
            text = skip_comment(rest);
        } else {
            return rest;
        }
    }
}

/// Comments nest.
fn skip_comment(text: &str) -> &str {
    let (bytes, mut depth, mut at) = (text.as_bytes(), 0_usize, 0);
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return &text[at..];
        }
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_behind_whatever_postgresql_skips() {
        for text in [
            "copy t from stdin",
            "  COPY t",
            "-- a comment\ncopy t",
            "-- ends with a return\rcopy t",
            "/* a /* nested */ comment */ copy t",
            "/**/;;/*;*/copy(select 1)",
            "\x0ccopy t",
        ] {
            let word = Words::new(text).next().unwrap();
            assert!(word.eq_ignore_ascii_case("copy"), "{text:?}: {word}");
        }
        let two: Vec<_> = Words::new("prepare/* */ transaction 'x'").collect();
        assert_eq!(two, ["prepare", "transaction"]);
    }

    #[test]
    fn what_needs_a_conversation_is_refused() {
        for text in
            ["copy t to stdout", "LISTEN x", "/**/begin", ";commit", "prepare transaction 'x'"]
        {
            assert!(refusal(text).is_some(), "{text}");
        }
        for text in
            ["select 1", "prepare x as select 1", "", "copying", "unlisten *", "savepoint x"]
        {
            assert!(refusal(text).is_none(), "{text}");
        }
    }

    #[test]
    fn there_may_be_no_word() {
        for text in ["", "-- only", "/* never closed /* */", "(select 1)", ";", "é", "/*"] {
            assert_eq!(Words::new(text).next(), None, "{text:?}");
        }
    }
}
