//! What becomes of each statement of a dump from elsewhere: it is run, left out, or the reason to refuse the dump.
//!
//! This is for clear words, and keeps nobody out: what runs, runs as a guest that has no rights to anything else.
//! Left out is what belongs to the server that the dump comes from, such as owners and grants: here the owner of
//! everything and the tenant's role have what they have in any tenant's database. Refused is what cannot be left
//! out without changing what the dump means.

use std::iter::Peekable;
use std::str::CharIndices;

/// What becomes of a statement.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is run.
    Run,
    /// It is run, and the rows that follow it are sent.
    Rows,
    /// It is run if the server has this extension, and lets everybody have it.
    Extension(String),
    /// It says nothing here.
    Pass,
    /// It is left out, and the report says so.
    Skip(String),
    /// The dump is refused.
    Refuse {
        /// What is in it.
        what: String,
        /// What somebody who has the dump can do about it.
        remedy: &'static str,
    },
}

const ONE_DATABASE: &str = "this is a dump of `pg_dumpall`, or of `pg_dump --create`: dump the one database, with `pg_dump -Fc`";
const LEAVE_OUT: &str = "dump the database without it: `pg_dump --exclude-schema` or `--exclude-table`, or `pg_restore --use-list`";
const NO_FILES: &str = "have the rows in the dump: `pg_dump` writes `copy … from stdin`";

/// Settings of `pg_dump`'s that are about its own session, or about the old server.
const OTHERS_SETTINGS: [&str; 10] = [
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "transaction_timeout",
    "client_min_messages",
    "row_security",
    "default_with_oids",
    "default_tablespace",
    "default_table_access_method",
    "escape_string_warning",
];

/// Decides about one statement.
pub(super) fn judge(sql: &str) -> Verdict {
    let words = words(sql);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["set", "session" | "local", rest @ ..] | ["set", rest @ ..] => judge_setting(rest),
        ["reset", "role" | "session" | "all", ..] => skip("changes of role"),
        ["grant" | "revoke", ..] | ["alter", "default", "privileges", ..] => skip("grants"),
        ["security", "label", ..] => skip("security labels"),
        ["comment", "on", rest @ ..] => judge_comment(rest),
        ["prepare", "transaction", ..] => {
            refuse("a transaction that is prepared and left open", "take that statement out")
        }
        ["alter", "system", ..] | ["load", ..] => refuse("a change of the server", LEAVE_OUT),
        ["copy", rest @ ..] => judge_copy(rest),
        ["create" | "alter" | "drop", rest @ ..] => judge_ddl(&words, rest),
        ["import", "foreign", "schema", ..] => refuse("a foreign schema", LEAVE_OUT),
        _ => Verdict::Run,
    }
}

/// What a statement is about, in a few words and without any of its values.
pub(super) fn describe(sql: &str) -> String {
    let words = words(sql);
    let head = words.iter().take_while(|word| !word.starts_with(['(', '\'', '=', '$']));
    head.take(6).map(String::as_str).collect::<Vec<_>>().join(" ")
}

fn judge_setting(words: &[&str]) -> Verdict {
    match words {
        ["role" | "authorization", ..] => skip("changes of role"),
        ["client_encoding", "=" | "to", value, ..] | ["names", value, ..] => {
            let value = value.trim_matches('\'').to_ascii_lowercase().replace(['-', '_'], "");
            if matches!(value.as_str(), "utf8" | "unicode" | "sqlascii") {
                Verdict::Pass
            } else {
                refuse(format!("text in {value}"), "dump the database with `--encoding=UTF8`")
            }
        }
        ["standard_conforming_strings", "=" | "to", value, ..] => {
            if matches!(value.trim_matches('\''), "on" | "true" | "1") {
                Verdict::Pass
            } else {
                let remedy = "dump it from a server with `standard_conforming_strings = on`";
                refuse("strings in which a backslash escapes", remedy)
            }
        }
        [name, ..] if OTHERS_SETTINGS.contains(name) => Verdict::Pass,
        _ => Verdict::Run,
    }
}

fn judge_comment(words: &[&str]) -> Verdict {
    match words {
        ["extension", ..] | ["schema", "public", ..] => Verdict::Pass,
        ["database", ..] => skip("comment on the database"),
        ["event", "trigger", name, ..] => skip(format!("comment on event trigger {name}")),
        [kind @ ("publication" | "subscription" | "role" | "tablespace" | "server"), name, ..] => {
            skip(format!("comment on {kind} {name}"))
        }
        _ => Verdict::Run,
    }
}

fn judge_copy(words: &[&str]) -> Verdict {
    let mut depth = 0_usize;
    let outside = |word: &&&str| {
        match **word {
            "(" => depth += 1,
            ")" => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0
    };
    let words: Vec<&str> = words.iter().filter(outside).copied().collect();
    // The first one is the table, whatever its name.
    let from = words.iter().skip(1).position(|word| matches!(*word, "from" | "to"));
    match from.map(|at| &words[at + 1..]) {
        Some(["from", "stdin", ..]) => Verdict::Rows,
        Some(["from", "program", ..]) => refuse("rows from a program of the server", NO_FILES),
        Some(["from", ..]) => refuse("rows from a file of the server", NO_FILES),
        _ => refuse("rows that go out of the database", "take that statement out"),
    }
}

/// `words` are all, `rest` those after the first.
fn judge_ddl(words: &[&str], rest: &[&str]) -> Verdict {
    let verb = words[0];
    match rest {
        ["or", "replace", rest @ ..] if verb == "create" => judge_ddl(words, rest),
        ["trusted" | "procedural", rest @ ..] if verb == "create" => judge_ddl(words, rest),
        _ if verb == "alter" && gives_owner(words) => skip("owners"),
        ["event", "trigger", name, ..] if verb == "create" => skip(format!("event trigger {name}")),
        [kind @ ("publication" | "subscription"), name, ..] if verb == "create" => {
            skip(format!("{kind} {name}"))
        }
        // They were not made here; this is here already.
        ["event", "trigger", ..]
        | ["publication" | "subscription", ..]
        | ["language", "plpgsql", ..] => Verdict::Pass,
        ["database" | "role" | "group" | "tablespace", ..] => refuse_of_server(verb, rest),
        ["user", next, ..] if *next != "mapping" => refuse_of_server(verb, rest),
        ["server", name, ..] => refuse(format!("the foreign server {name}"), LEAVE_OUT),
        ["foreign", "table", name, ..] => refuse(format!("the foreign table {name}"), LEAVE_OUT),
        ["foreign" | "user", ..] => refuse("a way to another server", LEAVE_OUT),
        ["language", name, ..] => refuse(format!("the language {name}"), LEAVE_OUT),
        ["extension", "if", "not", "exists", name, ..] | ["extension", name, ..]
            if verb == "create" =>
        {
            Verdict::Extension((*name).to_owned())
        }
        ["schema", "if", "exists" | "not", "exists", name, ..]
        | ["schema", "if", "exists", name, ..]
        | ["schema", name, ..]
            if *name == "public" =>
        {
            Verdict::Pass
        }
        ["schema", "if", "not", "exists", "tenantry", ..] | ["schema", "tenantry", ..] => refuse(
            "a schema `tenantry`, which is the name of our own",
            "dump it with `--exclude-schema=tenantry`: `--baseline` writes the history of migrations anew",
        ),
        ["policy", ..] if verb == "create" => judge_policy(words),
        _ if verb == "alter" && has(words, &["set", "tablespace"]) => skip("tablespaces"),
        _ => Verdict::Run,
    }
}

fn refuse_of_server(verb: &str, rest: &[&str]) -> Verdict {
    refuse(format!("`{verb} {}`", rest[0]), ONE_DATABASE)
}

/// A policy may speak of everybody; who else it speaks of is not known here.
fn judge_policy(words: &[&str]) -> Verdict {
    let end = words.iter().position(|word| matches!(*word, "using" | "with"));
    let head = &words[..end.unwrap_or(words.len())];
    // `create policy <name> on <table> … to <roles>`
    let to = head.iter().skip(3).position(|word| *word == "to");
    match to.and_then(|at| head.get(at + 4)) {
        None | Some(&"public") => Verdict::Run,
        Some(role) => refuse(
            format!("the policy {}, which speaks of the role {role}", words[2]),
            "make it speak of `public`, which here is the tenant alone: `alter policy … to public`; then dump again",
        ),
    }
}

/// `alter … owner to <role>`, and not the renaming of a column.
fn gives_owner(words: &[&str]) -> bool {
    matches!(words, [.., "owner", "to", _]) && !words.contains(&"rename")
}

fn skip(what: impl Into<String>) -> Verdict {
    Verdict::Skip(what.into())
}

fn refuse(what: impl Into<String>, remedy: &'static str) -> Verdict {
    Verdict::Refuse { what: what.into(), remedy }
}

fn has(words: &[&str], sequence: &[&str]) -> bool {
    words.windows(sequence.len()).any(|window| window == sequence)
}

/// More of a statement is not looked at; rights and owners are shorter, and so is what stands before a body.
const MOST_WORDS: usize = 400;

/// The words of a statement in lower case, names without their quotes, and its signs. A string is `'` and its text.
fn words(sql: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = sql.char_indices().peekable();
    while let Some((at, sign)) = rest.next() {
        if found.len() == MOST_WORDS {
            break;
        }
        match sign {
            sign if sign.is_whitespace() => {}
            '-' if sql[at..].starts_with("--") => skip_until(&mut rest, sql, "\n"),
            '/' if sql[at..].starts_with("/*") => skip_until(&mut rest, sql, "*/"),
            '"' => found.push(quoted(&mut rest, '"')),
            '\'' => found.push(format!("'{}", quoted(&mut rest, '\''))),
            sign if is_in_word(sign) => {
                let mut word = sign.to_string();
                while let Some((_, next)) = rest.next_if(|(_, next)| is_in_word(*next)) {
                    word.push(next);
                }
                found.push(word.to_lowercase());
            }
            sign => found.push(sign.to_string()),
        }
    }
    found
}

fn skip_until(rest: &mut Peekable<CharIndices<'_>>, sql: &str, end: &str) {
    while let Some((at, _)) = rest.next() {
        if sql[at..].starts_with(end) {
            for _ in 1..end.len() {
                rest.next();
            }
            return;
        }
    }
}

fn quoted(rest: &mut Peekable<CharIndices<'_>>, quote: char) -> String {
    let mut text = String::new();
    while let Some((_, sign)) = rest.next() {
        if sign == quote && rest.next_if(|(_, next)| *next == quote).is_none() {
            break;
        }
        text.push(sign);
    }
    text
}

fn is_in_word(sign: char) -> bool {
    sign.is_alphanumeric() || sign == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_the_old_server_is_left_out() {
        for (sql, what) in [
            ("ALTER TABLE public.boards OWNER TO old_app", "owners"),
            ("ALTER FUNCTION app.f(a integer, b text) OWNER TO \"Odd Role\"", "owners"),
            ("ALTER LARGE OBJECT 16420 OWNER TO old_app", "owners"),
            ("GRANT ALL ON SCHEMA public TO PUBLIC", "grants"),
            ("ALTER DEFAULT PRIVILEGES FOR ROLE x GRANT SELECT ON TABLES TO y", "grants"),
            ("SET SESSION AUTHORIZATION 'x'", "changes of role"),
            ("reset role", "changes of role"),
            ("set local role postgres", "changes of role"),
            (
                "CREATE EVENT TRIGGER log_ddl ON ddl_command_end EXECUTE FUNCTION f()",
                "event trigger log_ddl",
            ),
            ("CREATE PUBLICATION news WITH (publish = 'insert')", "publication news"),
            ("ALTER PUBLICATION news OWNER TO x", "owners"),
            ("CREATE SUBSCRIPTION \"In\" CONNECTION 'x' PUBLICATION p", "subscription In"),
        ] {
            assert_eq!(judge(sql), skip(what), "{sql}");
        }
    }

    #[test]
    fn what_cannot_be_left_out_is_refused() {
        for (sql, part) in [
            ("drop database x", "drop database"),
            ("CREATE ROLE x", "create role"),
            ("create user x", "create user"),
            ("alter system set x = 1", "server"),
            ("copy t from program 'id'", "program"),
            ("COPY t (a, \"from\") FROM '/etc/passwd'", "file"),
            ("copy (select 1 from t) to stdout", "out of the database"),
            ("CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw", "far"),
            ("CREATE FOREIGN TABLE x ()", "foreign table x"),
            ("CREATE USER MAPPING FOR x SERVER y", "another server"),
            ("CREATE OR REPLACE PROCEDURAL LANGUAGE plpython3u", "plpython3u"),
            ("create schema if not exists \"tenantry\"", "our own"),
            ("CREATE POLICY p ON public.t FOR SELECT TO app_user USING (true)", "app_user"),
            ("SET client_encoding = 'LATIN1'", "latin1"),
            ("set standard_conforming_strings = off", "backslash"),
            ("/* x */ prepare transaction 'x'", "prepared"),
        ] {
            let Verdict::Refuse { what, .. } = judge(sql) else {
                panic!("{sql}: {:?}", judge(sql))
            };
            assert!(what.contains(part), "{sql}: {what}");
        }
    }

    #[test]
    fn everything_else_is_run() {
        for sql in [
            "CREATE TABLE public.boards (id bigint NOT NULL, owner text)",
            "CREATE POLICY p ON t USING ((owner = CURRENT_USER))",
            "CREATE POLICY p ON t TO public WITH CHECK (true)",
            "SELECT pg_catalog.set_config('search_path', '', false)",
            "SET xmloption = content",
            "ALTER TABLE ONLY t ADD CONSTRAINT owner CHECK (true)",
            "COMMENT ON TABLE t IS 'x owner to y'",
            "CREATE SCHEMA app",
            "BEGIN",
        ] {
            assert_eq!(judge(sql), Verdict::Run, "{sql}");
        }
        assert_eq!(judge("COPY public.t (a, b) FROM stdin"), Verdict::Rows);
        assert_eq!(judge("copy \"from\" from stdin with (format csv)"), Verdict::Rows);
        assert_eq!(judge("CREATE SCHEMA public"), Verdict::Pass);
        assert_eq!(judge("ALTER PUBLICATION news ADD TABLE ONLY t"), Verdict::Pass);
        assert_eq!(judge("ALTER TABLE t RENAME COLUMN owner TO keeper"), Verdict::Run);
        assert_eq!(judge("DROP SCHEMA IF EXISTS public"), Verdict::Pass);
        assert_eq!(
            judge("CREATE EXTENSION IF NOT EXISTS pgcrypto WITH SCHEMA public"),
            Verdict::Extension("pgcrypto".to_owned())
        );
    }

    #[test]
    fn a_description_holds_no_values() {
        assert_eq!(describe("insert into t values ('secret')"), "insert into t values");
        assert_eq!(describe("ALTER TABLE ONLY public.\"T\" ADD x"), "alter table only public . T");
    }
}
