//! [`Effect`]: what a statement of a migration does to a tenant that is being served: which lock it takes on
//! which table, whether it reads or rewrites the rows while it holds it, and how to ask for the same more
//! gently.
//!
//! Only the files are read, no database: what a table looks like is known from the files before. A table that
//! a file makes is nobody's yet, so what the file does to it is no risk and is not told. Where something cannot
//! be known from the files, such as whether a function is volatile, the worse is assumed; a comment
//! `-- tenantry: allow <rule>` above a statement says that somebody has looked.
//!
//! Must never call a statement harmless that is not: `tests/provisioning/risk.rs` holds the table below
//! against a real server.

use std::fmt;

use squawk_syntax::SourceFile;
use squawk_syntax::ast::Stmt;

use super::MigrationSet;
use super::statement::{Statement, head, split};

mod known;
mod rule;
mod statements;
mod tables;
mod tree;
mod types;

pub use rule::Rule;

use known::Known;

/// PostgreSQL's locks on tables, the weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TableLock {
    /// Of a reader.
    AccessShare,
    /// Of `select … for update`.
    RowShare,
    /// Of a writer.
    RowExclusive,
    /// Nobody else changes the schema.
    ShareUpdateExclusive,
    /// Nobody writes.
    Share,
    /// Nobody writes, and only one may hold it.
    ShareRowExclusive,
    /// Nobody but readers.
    Exclusive,
    /// Nobody at all.
    AccessExclusive,
}

/// How much there is to do; it grows with the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Labour {
    /// Only the catalogs of the database change.
    Nothing,
    /// Every row is read.
    Scan,
    /// Rows are written, one by one.
    Update,
    /// Every row and every index is written anew.
    Rewrite,
}

/// What one statement does to one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    /// The line of the file that the statement begins in, counted from 1.
    pub line: usize,
    /// Its beginning, without strings.
    pub statement: String,
    /// The table, view or index, as PostgreSQL would quote it; none where it is about no relation, or the
    /// files do not tell which.
    pub table: Option<String>,
    /// The lock; none where none is known.
    pub lock: Option<TableLock>,
    /// What is done while the lock is held.
    pub labour: Labour,
    /// What may go wrong; empty where nothing is known to.
    pub risks: Vec<Risk>,
}

/// A rule that a statement breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Risk {
    /// Which one.
    pub rule: Rule,
    /// Matters only where the table has more rows than this.
    pub above_rows: i64,
    /// A comment above the statement allows it.
    pub allowed: bool,
    /// What cannot be said in the rule's own words.
    pub detail: Option<String>,
}

/// What a file does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEffects {
    /// Its version; 0 for a repeatable file.
    pub version: i64,
    /// Its name, without version.
    pub name: String,
    /// The name of the file.
    pub file: String,
    /// Whether it runs in one transaction.
    pub in_transaction: bool,
    /// What its statements do to tables that other files have made.
    pub effects: Vec<Effect>,
}

impl TableLock {
    /// As PostgreSQL writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AccessShare => "ACCESS SHARE",
            Self::RowShare => "ROW SHARE",
            Self::RowExclusive => "ROW EXCLUSIVE",
            Self::ShareUpdateExclusive => "SHARE UPDATE EXCLUSIVE",
            Self::Share => "SHARE",
            Self::ShareRowExclusive => "SHARE ROW EXCLUSIVE",
            Self::Exclusive => "EXCLUSIVE",
            Self::AccessExclusive => "ACCESS EXCLUSIVE",
        }
    }
}

impl Labour {
    /// Its word in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "none",
            Self::Scan => "scan",
            Self::Update => "update",
            Self::Rewrite => "rewrite",
        }
    }
}

impl fmt::Display for TableLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Risk {
    /// Whether it counts for a table of so many rows, or of a number that nobody knows.
    #[must_use]
    pub fn counts(&self, rows: Option<i64>) -> bool {
        !self.allowed && rows.is_none_or(|rows| rows >= self.above_rows)
    }
}

impl MigrationSet {
    /// What the files above a version do, the repeatable ones last. What files above `newest` make is new for
    /// everybody: no tenant that is to be migrated is further.
    #[must_use]
    pub fn effects(&self, above: i64, newest: i64) -> Vec<FileEffects> {
        self.effects_knowing(Known::default(), above, newest)
    }

    /// The same of the files of a track, which run after the common ones.
    #[must_use]
    pub fn effects_after(
        &self,
        common: &MigrationSet,
        above: i64,
        newest: i64,
    ) -> Vec<FileEffects> {
        let mut known = Known::default();
        for file in common.files() {
            look(common.sql(file.version).unwrap_or_default(), file.in_transaction, &mut known);
        }
        known.age();
        self.effects_knowing(known, above, newest)
    }

    fn effects_knowing(&self, mut known: Known, above: i64, newest: i64) -> Vec<FileEffects> {
        let mut files = Vec::new();
        for file in self.files() {
            let sql = self.sql(file.version).unwrap_or_default();
            let effects = look(sql, file.in_transaction, &mut known);
            if file.version <= newest {
                known.age();
            }
            if file.version > above {
                let (version, in_transaction) = (file.version, file.in_transaction);
                let (name, file) = (file.name.clone(), file.file.clone());
                files.push(FileEffects { version, name, file, in_transaction, effects });
            }
        }
        for repeatable in self.repeatables() {
            let in_transaction = repeatable.in_transaction;
            let effects = look(&repeatable.sql, in_transaction, &mut known);
            known.age();
            let (name, file) = (repeatable.name.clone(), repeatable.file.clone());
            files.push(FileEffects { version: 0, name, file, in_transaction, effects });
        }
        files
    }
}

/// The effects of one file, and what is known after it.
fn look(sql: &str, in_transaction: bool, known: &mut Known) -> Vec<Effect> {
    known.begin();
    let statements = split(sql);
    let mut found = Vec::new();
    for statement in &statements {
        let mut look = Look { known, statement, in_transaction, found: Vec::new() };
        look.statement();
        found.extend(look.found);
    }
    if in_transaction {
        mark_held(&mut found);
    }
    known.mark_returning(&mut found);
    found
}

/// One look at one statement.
struct Look<'a> {
    known: &'a mut Known,
    statement: &'a Statement<'a>,
    in_transaction: bool,
    found: Vec<Effect>,
}

impl Look<'_> {
    fn statement(&mut self) {
        let parsed = SourceFile::parse(self.statement.sql);
        let mut statements =
            parsed.tree().stmts().filter(|stmt| !matches!(stmt, Stmt::EmptyStmt(_)));
        let first = statements.next();
        let has_body =
            matches!(first, Some(Stmt::CreateFunction(_) | Stmt::CreateProcedure(_) | Stmt::Do(_)));
        // The body of a function is its language's business, and takes no lock when it is made.
        if !has_body && let Some(error) = parsed.errors().first() {
            let at = usize::from(error.range().start()).min(self.statement.sql.len());
            let before = self.statement.sql.get(..at).unwrap_or_default();
            let line = self.statement.line + before.matches('\n').count();
            self.note(None, None, Labour::Nothing, &[Rule::NotUnderstood]);
            if let Some(risk) = self.found.last_mut().and_then(|effect| effect.risks.last_mut()) {
                risk.detail = Some(format!("line {line}: {}", error.message()));
            }
            return;
        }
        if let Some(statement) = first {
            self.look_at(&statement);
        }
    }

    /// Writes down what is done to a table, unless the table is new.
    fn note(
        &mut self,
        table: Option<String>,
        lock: Option<TableLock>,
        labour: Labour,
        rules: &[Rule],
    ) {
        if table.as_ref().is_some_and(|table| self.known.is_new(table)) {
            return;
        }
        let risks = rules.iter().map(|rule| Risk {
            rule: *rule,
            above_rows: rule.above_rows(),
            allowed: self.statement.allows(rule.as_str()),
            detail: None,
        });
        self.found.push(Effect {
            line: self.statement.line,
            statement: head(self.statement.sql),
            table,
            lock,
            labour,
            risks: risks.collect(),
        });
    }
}

/// A lock is held until its transaction ends: what works long after it keeps everybody waiting, unless it takes
/// a lock on the same table itself that is as strong.
fn mark_held(effects: &mut [Effect]) {
    let mut held: Vec<Effect> = Vec::new();
    for effect in effects {
        let of_another = held.iter().find(|earlier| {
            let same = (earlier.line, &earlier.statement) == (effect.line, &effect.statement);
            !same && (earlier.table != effect.table || earlier.lock > effect.lock)
        });
        if effect.labour != Labour::Nothing
            && !effect.risks.iter().any(|risk| risk.rule == Rule::ValidatedTogether)
            && let Some(Effect { table: Some(table), line, .. }) = of_another
        {
            let above_rows = effect.risks.iter().map(|risk| risk.above_rows).max().unwrap_or(0);
            let allowed = effect.risks.iter().any(|risk| risk.allowed);
            let detail = Some(format!("{table} has been locked since line {line}"));
            effect.risks.push(Risk { rule: Rule::LockHeld, above_rows, allowed, detail });
        }
        if effect.table.is_some() && effect.lock >= Some(TableLock::Share) {
            held.push(effect.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effects(files: &[&str]) -> Vec<FileEffects> {
        let named = files.iter().enumerate();
        let sources = named.map(|(at, sql)| (format!("V{}__a.sql", at + 1), (*sql).to_owned()));
        MigrationSet::from_sources(sources.collect()).unwrap().effects(1, 1)
    }

    fn rules(file: &FileEffects) -> Vec<(usize, &'static str, bool)> {
        let risks = file.effects.iter().flat_map(|effect| {
            effect.risks.iter().map(|risk| (effect.line, risk.rule.as_str(), risk.allowed))
        });
        risks.collect()
    }

    #[test]
    fn a_risk_is_told_with_its_line_and_may_be_allowed() {
        let found = effects(&[
            "create table boards (id int, title text)",
            "/* first; */ create index a on boards (id);\n\n\
             -- tenantry: allow create-index\ncreate index b on boards (title);\n\
             -- tenantry: allow rename drop-index\ncreate index c on boards (id)",
        ]);

        assert_eq!(
            rules(&found[0]),
            [(1, "create-index", false), (4, "create-index", true), (6, "create-index", false)]
        );
        assert!(!found[0].effects[1].risks[0].counts(None));
    }

    #[test]
    fn what_nobody_uses_yet_is_no_risk() {
        let found = effects(&[
            "create table boards (id int)",
            "create table cards (id int); create index on cards (id); update cards set id = 1;\n\
             create temp table old as select * from boards; drop table old;\n\
             alter table cards rename to \"cards\"; alter table Public.\"cards\" rename id to key",
            "alter table cards alter key type bigint; drop table cards",
        ]);

        assert_eq!(found[0].effects, []);
        assert_eq!(found[1].effects, [], "no tenant has it");
        let sources = vec![
            ("V1__a.sql".to_owned(), "create table cards (id int)".to_owned()),
            ("V2__a.sql".to_owned(), "alter table cards alter id type bigint".to_owned()),
        ];
        let in_use = MigrationSet::from_sources(sources).unwrap().effects(1, 1);
        assert_eq!(rules(&in_use[0]), [(1, "change-type", false)]);
    }

    #[test]
    fn a_value_cannot_be_used_in_the_transaction_that_adds_it() {
        let add = "alter type mood add value 'glad';\nupdate people set mood = 'glad' where false;";
        let first = "create type mood as enum ('sad'); create table people (mood mood)";
        let marked = format!("-- tenantry: no-transaction\n{add}");
        let made = "create type m as enum ('sad'); alter type m add value 'glad'; select 'glad'::m";

        let found = effects(&[first, add, &marked, made]);

        assert!(rules(&found[0]).contains(&(2, "enum-value", false)), "{:?}", rules(&found[0]));
        assert!(!rules(&found[1]).iter().any(|(_, rule, _)| *rule == "enum-value"));
        assert_eq!(rules(&found[2]), []);
    }

    #[test]
    fn what_is_not_understood_is_told_with_its_line() {
        let found = effects(&[
            "select 1",
            "create function f() returns int language plpgsql as $$ begin; nonsense $$;\n\
             select 1;\nalter table\n  boards add add;\ncreate index on boards (id)",
        ]);

        let risks = rules(&found[0]);
        assert_eq!(risks, [(3, "not-understood", false), (5, "create-index", false)]);
        let detail = found[0].effects[0].risks[0].detail.clone().unwrap();
        assert!(detail.starts_with("line 4: "), "{detail}");
    }

    #[test]
    fn files_that_end_their_transaction_are_told() {
        let found = effects(&["select 1", "begin; create table a (); commit"]);

        assert_eq!(rules(&found[0]), [(1, "ends-transaction", false); 2]);
    }

    #[test]
    fn rules_have_names_of_their_own() {
        let names: std::collections::BTreeSet<_> =
            Rule::ALL.iter().map(|rule| rule.as_str()).collect();

        assert_eq!(names.len(), Rule::ALL.len());
        assert!(Rule::ALL.iter().all(|rule| !rule.why().is_empty() && !rule.safer().is_empty()));
    }
}
