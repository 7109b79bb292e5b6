//! [`is_harmless`]: whether a statement can leave something behind in its session.
//!
//! A guess from the text, made to be wrong on the safe side. What a function does inside cannot be seen
//! from outside: functions of a schema that change their session must do so with `set local`.

use std::sync::LazyLock;

use aho_corasick::AhoCorasick;

/// What leaves state behind wherever it stands in a statement. To update `pg_settings` is to `set`.
static STATEFUL: LazyLock<AhoCorasick> = LazyLock::new(|| {
    AhoCorasick::builder()
        .ascii_case_insensitive(true)
        .build(["set_config", "pg_settings", "setseed", "advisory", "into temp", "dblink"])
        .expect("a few short words")
});

/// Whether a statement leaves the session as it found it. Says no when in doubt: the price of a wrong
/// no is a new connection.
pub(crate) fn is_harmless(sql: &str) -> bool {
    const PLAIN: [&str; 7] = ["select", "insert", "update", "delete", "with", "values", "merge"];

    let text = skip_comments(sql);
    let word_len = text.bytes().take_while(u8::is_ascii_alphabetic).count();
    let (word, rest) = text.split_at(word_len);
    PLAIN.iter().any(|plain| word.eq_ignore_ascii_case(plain)) && !STATEFUL.is_match(rest)
}

fn skip_comments(sql: &str) -> &str {
    let mut text = sql.trim_start();
    while let Some(comment) = text.strip_prefix("--") {
        text = comment.split_once(['\n', '\r']).map_or("", |(_, rest)| rest).trim_start();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_statements_are_harmless() {
        for sql in [
            "select 1",
            "  SELECT 1",
            "-- boards::list\nselect id from boards",
            "with x as (select 1) select * from x",
            "insert into t values (1)",
            "update t set a = 1",
            "delete from t",
        ] {
            assert!(is_harmless(sql), "{sql}");
        }
    }

    #[test]
    fn statements_that_leave_state_are_not() {
        for sql in [
            "begin",
            "set role x",
            "/* c */ select 1",
            "listen x",
            "-- ends with a return\rset search_path to\nvalues",
            "select set_config('a', 'b', false)",
            "select PG_ADVISORY_LOCK(1)",
            "update pg_settings set setting = 'off' where name = 'default_transaction_read_only'",
            "select setseed(0.5)",
            "prepare x as select 1",
            "declare c cursor for select 1",
            "",
            "selecting",
            "discard all",
            "-- only a comment",
        ] {
            assert!(!is_harmless(sql), "{sql}");
        }
    }
}
