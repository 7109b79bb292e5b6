//! [`Statement`]: one statement of a file that runs outside of a transaction, and how it is to be run.
//!
//! A file is cut where PostgreSQL itself would cut it: at semicolons that stand in no quotes, comments,
//! parentheses or `begin atomic` body. What can run in a transaction runs in one with its record, so that
//! both are there or neither. Only what PostgreSQL refuses there runs alone; for it the [`Manner`] says
//! how to find out whether a run that was cut had done it.

use squawk_lexer::{LiteralKind, TokenKind, tokenize};

/// Above a statement: if it was cut, it may simply be run again.
const MAY_REPEAT: &str = "may-repeat";

/// Above a statement: it may break the rule that follows.
const ALLOW: &str = "allow";

/// One statement of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Statement<'a> {
    /// Its text, without comments before it and without the semicolon.
    pub(super) sql: &'a str,
    /// The line of the file that it begins in, counted from 1.
    pub(super) line: usize,
    /// Its words and signs.
    tokens: Vec<&'a str>,
    may_repeat: bool,
    /// The rules that it may break.
    allowed: Vec<&'a str>,
}

/// How a statement is run and what is known of it after a crash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// Changes the session alone: run every time, and never recorded.
    Setting,
    /// In one transaction with its record.
    Recorded,
    /// `create index concurrently`: done when the index is there and valid.
    CreateIndex(Index),
    /// `drop index concurrently`: done when the index, as written, is gone.
    DropIndex(String),
    /// Alone; twice is as good as once.
    Repeatable,
    /// Alone; nobody can tell whether it was done.
    Once,
    /// Begins or ends transactions, which a file must leave alone.
    Transaction,
    /// An index without a name, which could not be found again.
    Nameless,
}

/// The index that a statement makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Index {
    /// Its name, without quotes.
    pub(super) name: String,
    /// Its table, as written.
    pub(super) table: String,
    pub(super) unique: bool,
}

impl Statement<'_> {
    pub(super) fn manner(&self) -> Manner {
        let word = |at: usize| self.tokens.get(at).map(|token| token.to_ascii_lowercase());
        let first = word(0).unwrap_or_default();
        let second = word(1).unwrap_or_default();
        let is_concurrent = self.has("concurrently");
        match (first.as_str(), second.as_str()) {
            ("set" | "reset", _) => Manner::Setting,
            ("select", _) if self.is_set_config() => Manner::Setting,
            (
                "begin" | "start" | "commit" | "end" | "rollback" | "abort" | "savepoint"
                | "release",
                _,
            )
            | ("prepare", "transaction") => Manner::Transaction,
            ("create", "index" | "unique") if is_concurrent => self.index(second == "unique"),
            ("drop", "index") if is_concurrent => self.dropped(),
            ("vacuum" | "reindex" | "cluster", _) | ("alter", "system") => Manner::Repeatable,
            _ if self.may_repeat => Manner::Repeatable,
            ("do", _) if !self.may_commit() => Manner::Recorded,
            ("do" | "call", _)
            | ("create" | "drop" | "alter", "database" | "tablespace" | "subscription") => {
                Manner::Once
            }
            ("alter", "table") if is_concurrent && self.has("detach") => Manner::Once,
            _ => Manner::Recorded,
        }
    }

    /// Whether a comment above it says that it may break a rule.
    pub(super) fn allows(&self, rule: &str) -> bool {
        self.allowed.contains(&rule)
    }

    /// Whether nobody's queries queue up behind it while it waits.
    pub(super) fn is_patient(&self) -> bool {
        match self.manner() {
            Manner::CreateIndex(_) | Manner::DropIndex(_) => true,
            _ => self.is_reindex(),
        }
    }

    /// Whether it builds indexes beside those that it replaces.
    pub(super) fn is_reindex(&self) -> bool {
        is_word(self.tokens.first(), "reindex") && self.has("concurrently")
    }

    /// Whether some of it may be committed although it failed.
    pub(super) fn may_be_half_done(&self) -> bool {
        let is_block = is_word(self.tokens.first(), "do") || is_word(self.tokens.first(), "call");
        is_block && self.manner() == Manner::Once
    }

    /// Whether a `do` block may end its transaction, by itself or in a procedure that it calls.
    fn may_commit(&self) -> bool {
        let text = self.sql.to_ascii_lowercase();
        ["commit", "rollback", "call"].iter().any(|word| text.contains(word))
    }

    /// `select [pg_catalog.]set_config(…)` and nothing else, as `pg_dump` writes it.
    fn is_set_config(&self) -> bool {
        let is_named = |at| is_word(self.tokens.get(at), "set_config");
        let is_system =
            is_word(self.tokens.get(1), "pg_catalog") && self.tokens.get(2) == Some(&".");
        let calls = self.tokens.iter().filter(|token| **token == "(").count();
        (is_named(1) || is_system && is_named(3)) && calls == 1 && self.tokens.last() == Some(&")")
    }

    fn has(&self, word: &str) -> bool {
        self.tokens.iter().any(|token| token.eq_ignore_ascii_case(word))
    }

    /// `create [unique] index concurrently [if not exists] name on [only] table`
    fn index(&self, unique: bool) -> Manner {
        let mut rest = self.after("concurrently");
        if is_word(rest.first(), "if") {
            rest = rest.get(3..).unwrap_or_default();
        }
        let Some(name) = rest.first().filter(|name| !name.eq_ignore_ascii_case("on")) else {
            return Manner::Nameless;
        };
        let mut rest = rest.get(2..).unwrap_or_default();
        if is_word(rest.first(), "only") {
            rest = &rest[1..];
        }
        Manner::CreateIndex(Index { name: unquoted(name), table: qualified(rest), unique })
    }

    /// `drop index concurrently [if exists] name`
    fn dropped(&self) -> Manner {
        let mut rest = self.after("concurrently");
        if is_word(rest.first(), "if") {
            rest = rest.get(2..).unwrap_or_default();
        }
        Manner::DropIndex(qualified(rest))
    }

    fn after(&self, word: &str) -> &[&str] {
        let at = self.tokens.iter().position(|token| token.eq_ignore_ascii_case(word));
        at.map_or(&[], |at| &self.tokens[at + 1..])
    }
}

/// The statements of a file, in their order.
pub(super) fn split(sql: &str) -> Vec<Statement<'_>> {
    let mut cutter = Cutter::default();
    let (mut offset, mut line) = (0, 1);
    for token in tokenize(sql) {
        let end = offset + token.len as usize;
        let text = &sql[offset..end];
        match token.kind {
            TokenKind::Whitespace | TokenKind::BlockComment { .. } => {}
            TokenKind::LineComment => cutter.comment(text),
            TokenKind::Eof => break,
            TokenKind::Semi if cutter.is_outside() => cutter.cut(sql),
            kind => cutter.push(kind, text, offset..end, line),
        }
        line += text.matches('\n').count();
        offset = end;
    }
    cutter.cut(sql);
    cutter.statements
}

/// The line of a `copy … from stdin` or `… to stdout`: there is nobody who sends the rows, or who takes them.
pub(super) fn copy_by_client(sql: &str) -> Option<usize> {
    let lowercase = sql.to_ascii_lowercase();
    if !lowercase.contains("stdin") && !lowercase.contains("stdout") {
        return None;
    }
    let is_client = |pair: &[&str]| {
        let is = |first, last| is_word(pair.first(), first) && is_word(pair.last(), last);
        is("from", "stdin") || is("to", "stdout")
    };
    let copies = |statement: &Statement<'_>| {
        is_word(statement.tokens.first(), "copy") && statement.tokens.windows(2).any(is_client)
    };
    split(sql).into_iter().find(copies).map(|statement| statement.line)
}

/// Whether some text is a directive to us: `-- tenantry: <word>`.
pub(super) fn is_directive(line: &str, word: &str) -> bool {
    directive(line) == Some(word)
}

fn directive(line: &str) -> Option<&str> {
    line.trim().strip_prefix("--")?.trim().strip_prefix("tenantry:").map(str::trim)
}

/// A query in one line with its strings left out, as they may be anything; at most 100 characters.
pub(super) fn head(query: &str) -> String {
    let (mut text, mut offset) = (String::new(), 0);
    for token in tokenize(query) {
        let end = offset + token.len as usize;
        match token.kind {
            TokenKind::Whitespace => text.push(' '),
            TokenKind::LineComment | TokenKind::BlockComment { .. } => {}
            TokenKind::Literal { kind: LiteralKind::Int { .. } | LiteralKind::Numeric { .. } } => {
                text.push_str(&query[offset..end]);
            }
            TokenKind::Literal { .. } => text.push_str("'…'"),
            _ => text.push_str(&query[offset..end]),
        }
        offset = end;
    }
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    text.chars().take(100).collect()
}

/// Puts tokens together to statements.
#[derive(Default)]
struct Cutter<'a> {
    statements: Vec<Statement<'a>>,
    tokens: Vec<&'a str>,
    /// From the first token to the end of the last.
    span: std::ops::Range<usize>,
    line: usize,
    parentheses: usize,
    /// Of `begin` and `case`, in the body of a function or procedure.
    blocks: usize,
    may_repeat: bool,
    allowed: Vec<&'a str>,
}

impl<'a> Cutter<'a> {
    fn is_outside(&self) -> bool {
        self.parentheses == 0 && self.blocks == 0
    }

    fn comment(&mut self, text: &'a str) {
        if !self.tokens.is_empty() {
            return;
        }
        self.may_repeat |= is_directive(text, MAY_REPEAT);
        let allowed = directive(text).and_then(|directive| directive.strip_prefix(ALLOW));
        self.allowed.extend(allowed.into_iter().flat_map(|rules| rules.split([' ', ','])));
    }

    fn push(&mut self, kind: TokenKind, text: &'a str, at: std::ops::Range<usize>, line: usize) {
        match kind {
            TokenKind::OpenParen => self.parentheses += 1,
            TokenKind::CloseParen => self.parentheses = self.parentheses.saturating_sub(1),
            TokenKind::Ident if self.parentheses == 0 && self.makes_function() => {
                match text.to_ascii_lowercase().as_str() {
                    "begin" => self.blocks += 1,
                    "case" if self.blocks > 0 => self.blocks += 1,
                    "end" => self.blocks = self.blocks.saturating_sub(1),
                    _ => {}
                }
            }
            _ => {}
        }
        if self.tokens.is_empty() {
            (self.span.start, self.line) = (at.start, line);
        }
        self.span.end = at.end;
        self.tokens.push(text);
    }

    /// `create [or replace] function | procedure`, as `psql` looks for it.
    fn makes_function(&self) -> bool {
        let word = |at: usize, word| is_word(self.tokens.get(at), word);
        let at = if word(1, "or") && word(2, "replace") { 3 } else { 1 };
        word(0, "create") && (word(at, "function") || word(at, "procedure"))
    }

    fn cut(&mut self, sql: &'a str) {
        let tokens = std::mem::take(&mut self.tokens);
        let may_repeat = std::mem::take(&mut self.may_repeat);
        let allowed = std::mem::take(&mut self.allowed);
        (self.parentheses, self.blocks) = (0, 0);
        if !tokens.is_empty() {
            let (sql, line) = (&sql[self.span.clone()], self.line);
            self.statements.push(Statement { sql, line, tokens, may_repeat, allowed });
        }
    }
}

fn is_word(token: Option<&&str>, word: &str) -> bool {
    token.is_some_and(|token| token.eq_ignore_ascii_case(word))
}

/// A name as PostgreSQL keeps it.
fn unquoted(name: &str) -> String {
    let inner = name.strip_prefix('"').and_then(|name| name.strip_suffix('"'));
    inner.map_or_else(|| name.to_ascii_lowercase(), |inner| inner.replace("\"\"", "\""))
}

/// The name at the beginning, with its schema if it is written with one.
fn qualified(tokens: &[&str]) -> String {
    let length = if tokens.get(1) == Some(&".") { 3 } else { 1 };
    tokens.iter().take(length).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(sql: &str) -> Vec<&str> {
        split(sql).into_iter().map(|statement| statement.sql).collect()
    }

    fn manner(sql: &str) -> Manner {
        let statements = split(sql);
        assert_eq!(statements.len(), 1, "{statements:?}");
        statements[0].manner()
    }

    #[test]
    fn a_file_is_cut_where_postgresql_cuts_it() {
        let sql = "-- one; two\n/* a; /* b; */ c; */ select ';' ;;\n\
            select E'it\\'s; so', \"a;b\", U&'d\\0061;' ;\n\
            create function f() returns int language sql begin atomic select case when true then 1 end; select 2; end;\n\
            create or replace procedure p() language plpgsql as $x$ begin; $$;$$; end $x$;\n\
            create rule r as on insert to t do also (select 1; select 2);\n\
            select a$b$c from t; select $1";

        let cut = texts(sql);

        assert_eq!(cut.len(), 7, "{cut:#?}");
        assert_eq!(cut[0], "select ';'");
        assert_eq!(cut[1], "select E'it\\'s; so', \"a;b\", U&'d\\0061;'");
        assert!(cut[2].ends_with("select 2; end"));
        assert!(cut[3].ends_with("end $x$"));
        assert!(cut[4].ends_with("select 2)"));
        assert_eq!(cut[6], "select $1");
    }

    #[test]
    fn nothing_is_no_statement() {
        assert!(texts(" ; -- nothing\n/* at all */ ;").is_empty());
        assert_eq!(texts("select 'open; select 2").len(), 1);
    }

    #[test]
    fn a_statement_knows_its_line() {
        let lines: Vec<usize> = split("-- top\n\nselect 1;\n\n/* a\n b */ select\n 2; select 3;")
            .iter()
            .map(|statement| statement.line)
            .collect();

        assert_eq!(lines, [3, 6, 7]);
    }

    #[test]
    fn each_statement_has_its_manner() {
        let index = |name: &str, table: &str, unique| {
            Manner::CreateIndex(Index { name: name.to_owned(), table: table.to_owned(), unique })
        };
        for (sql, expected) in [
            (
                "create index concurrently Boards_Title on boards (title)",
                index("boards_title", "boards", false),
            ),
            (
                "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS \"My \"\"i\" ON ONLY app.\"T\" (a)",
                index("My \"i", "app.\"T\"", true),
            ),
            ("create index concurrently on boards (title)", Manner::Nameless),
            ("create index plain on boards (title)", Manner::Recorded),
            ("drop index concurrently if exists app.i", Manner::DropIndex("app.i".to_owned())),
            ("alter type colour add value 'red'", Manner::Recorded),
            ("refresh materialized view concurrently m", Manner::Recorded),
            ("vacuum (analyze) boards", Manner::Repeatable),
            ("reindex table concurrently boards", Manner::Repeatable),
            ("do $$ begin commit; end $$", Manner::Once),
            ("do $$ begin perform 1; end $$", Manner::Recorded),
            ("-- tenantry: may-repeat\ndo $$ begin commit; end $$", Manner::Repeatable),
            ("alter table t detach partition p concurrently", Manner::Once),
            ("set search_path = app", Manner::Setting),
            ("SELECT pg_catalog.set_config('search_path', '', false)", Manner::Setting),
            ("select set_config('search_path', '', false), f()", Manner::Recorded),
            ("commit", Manner::Transaction),
            ("insert into t select 1", Manner::Recorded),
        ] {
            assert_eq!(manner(sql), expected, "{sql}");
        }
    }

    #[test]
    fn the_head_of_a_query_holds_no_strings() {
        let query = "alter role \"x\"\n  password 'hunter2' -- note\n, n = 42 , $$body$$, E'open";

        assert_eq!(head(query), "alter role \"x\" password '…' , n = 42 , '…', '…'");
        assert_eq!(head(&"x".repeat(300)).len(), 100);
    }

    #[test]
    fn directives_may_be_spaced_in_any_way() {
        assert!(is_directive("--tenantry:  no-transaction \r", "no-transaction"));
        assert!(!is_directive("-- tenantry: no-transactions", "no-transaction"));
    }
}
