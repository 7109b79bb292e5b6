//! [`is_pure`]: whether a statement can make anything that would outlive it in its session.
//!
//! What is not pure costs a reset of its session, which no caller waits for but every processor does. So
//! only what is plainly harmless is let off: a query whose every call is of a function in a short list. A
//! function that hides behind a view or a policy is not seen; such a function must not change its session
//! but with `set local`.

use super::words::{Words, skip_blanks};

/// What may stand before an opening parenthesis without being called.
const WORDS: &[&str] = &[
    "all",
    "and",
    "any",
    "as",
    "between",
    "by",
    "case",
    "else",
    "except",
    "exists",
    "filter",
    "from",
    "in",
    "intersect",
    "join",
    "lateral",
    "like",
    "not",
    "on",
    "or",
    "over",
    "select",
    "some",
    "then",
    "union",
    "using",
    "values",
    "when",
    "where",
];
/// Functions of PostgreSQL that remember nothing.
const FUNCTIONS: &[&str] = &[
    "abs",
    "array_agg",
    "avg",
    "ceil",
    "coalesce",
    "concat",
    "count",
    "date_trunc",
    "extract",
    "floor",
    "greatest",
    "json_agg",
    "json_build_array",
    "json_build_object",
    "json_object_agg",
    "jsonb_agg",
    "jsonb_build_array",
    "jsonb_build_object",
    "jsonb_object_agg",
    "least",
    "left",
    "length",
    "lower",
    "max",
    "min",
    "now",
    "nullif",
    "position",
    "rank",
    "replace",
    "right",
    "round",
    "row_number",
    "row_to_json",
    "split_part",
    "string_agg",
    "substring",
    "sum",
    "to_char",
    "to_json",
    "to_jsonb",
    "trim",
    "unnest",
    "upper",
];

/// Whether a statement leaves its session as it found it. Says no when in doubt.
pub(super) fn is_pure(text: &str) -> bool {
    let text = skip_blanks(text);
    let first = Words::new(text).next().unwrap_or_default();
    let is_query =
        ["select", "values", "table"].iter().any(|word| first.eq_ignore_ascii_case(word));
    // A comment could stand between a name and its parenthesis.
    is_query
        && !text.contains("--")
        && !text.contains("/*")
        && !selects_into(text)
        && calls_are_pure(text)
}

/// Whether the result goes into a table, or a text says so.
fn selects_into(text: &str) -> bool {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.into_iter().any(|word| word.eq_ignore_ascii_case("into"))
}

/// Looks at each opening parenthesis; one that stands in a literal is taken for one that calls.
fn calls_are_pure(text: &str) -> bool {
    text.match_indices('(').all(|(at, _)| {
        let before = text[..at].trim_end();
        let rest = before.trim_end_matches(is_of_name);
        let word = &before[rest.len()..];
        if word.is_empty() {
            return before.ends_with(['(', ',', '=', '<', '>', '+', '-', '*', '|', '[']);
        }
        let is_known = |known: &&str| word.eq_ignore_ascii_case(known);
        let is_part = |letter: char| letter == '"' || !letter.is_ascii();
        // Blanks may stand around the dot behind a schema.
        let is_whole = !rest.ends_with(is_part) && !rest.trim_end().ends_with('.');
        is_whole && WORDS.iter().chain(FUNCTIONS).any(is_known)
    })
}

/// Whether a letter is part of a plain name.
fn is_of_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_' || letter == '$'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_queries_are_pure() {
        for text in [
            "select title from boards where id = $1",
            "-- boards::list\nselect id, title from boards order by id",
            "/* app */ SELECT count(*) FROM boards WHERE id IN (1, 2) AND (title = $1 or title is null)",
            "select b.id, (select count(*) from cards c where c.board_id = b.id) from boards b",
            "select jsonb_build_object('id', id, 'at', now()) from boards where id = any ($1)",
            "select lower ( title ) from boards",
            "values (1), (2)",
            "table boards",
        ] {
            assert!(is_pure(text), "{text}");
        }
    }

    #[test]
    fn whatever_may_leave_something_is_not() {
        for text in [
            "select set_config('a', 'b', false)",
            "select pg_advisory_lock(7)",
            "select my_function()",
            "select my_schema.lower(x) from t",
            "select my_schema . lower(x) from t",
            "select my_schema.\n lower(x) from t",
            "select \"lower\"(x) from t",
            "select my_function/**/(1)",
            "select my_function -- in\n(1)",
            "select my_function -- lower\r(1)",
            "select éin(1)",
            "select nextval ('s')",
            "select 1 into\ntemp t",
            "select * into t from boards",
            "insert into boards (title) values ($1)",
            "with x as (select 1) select * from x",
            "update boards set title = $1",
            "set a = 1",
            "show a",
            "do $$ begin end $$",
            "",
        ] {
            assert!(!is_pure(text), "{text}");
        }
    }
}
