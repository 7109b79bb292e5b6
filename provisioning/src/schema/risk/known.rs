//! [`Known`]: what the files up to a statement tell about the schema.

use std::collections::{BTreeMap, BTreeSet};

use super::{Effect, Rule};

/// Tables, columns, constraints and indexes, by the names of [`super::tree::name`].
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Tables and views that nobody uses yet.
    new: BTreeSet<String>,
    /// The types of columns.
    columns: BTreeMap<(String, String), String>,
    /// Constraints by table and name.
    constraints: BTreeMap<(String, String), Constraint>,
    /// Columns that conditions on rows are about, and other words in them.
    checked: BTreeSet<(String, String)>,
    /// The tables of indexes, and their columns.
    indexes: BTreeMap<String, (String, Vec<String>)>,
    /// Domains that check their values.
    pub(super) domains: BTreeSet<String>,
    /// Functions that are not volatile.
    pub(super) steady: BTreeSet<String>,
    /// Enumerations that the file makes, whose values can be used at once.
    pub(super) enums: BTreeSet<String>,
    /// Values that the file has added, as they are written.
    pub(super) values: BTreeSet<String>,
    /// Views that the file makes.
    views: BTreeSet<String>,
    /// Tables that the file gives policies.
    pub(super) policies: BTreeSet<String>,
}

/// A constraint that rows satisfy, or will.
#[derive(Clone, Debug, Default)]
pub(super) struct Constraint {
    /// The column that it says is not null.
    pub(super) not_null: Option<String>,
    pub(super) is_valid: bool,
    /// Whether this file has added it.
    pub(super) is_fresh: bool,
}

impl Known {
    /// A file begins.
    pub(super) fn begin(&mut self) {
        self.enums.clear();
        self.values.clear();
        self.views.clear();
        self.policies.clear();
        for constraint in self.constraints.values_mut() {
            constraint.is_fresh = false;
        }
    }

    /// What has been made so far is in use from now on.
    pub(super) fn age(&mut self) {
        self.new.clear();
    }

    pub(super) fn is_new(&self, table: &str) -> bool {
        self.new.contains(table)
    }

    pub(super) fn made(&mut self, table: String) {
        self.new.insert(table);
    }

    pub(super) fn made_view(&mut self, view: String) {
        self.views.insert(view);
    }

    /// A new table keeps being new under another name.
    pub(super) fn renamed(&mut self, from: &str, to: &str) {
        if self.new.remove(from) {
            self.new.insert(to.to_owned());
        }
        let of_table = |(table, column): &(String, String)| {
            (table == from).then(|| (to.to_owned(), column.clone()))
        };
        rekey(&mut self.columns, of_table);
        rekey(&mut self.constraints, of_table);
        let checked = std::mem::take(&mut self.checked);
        self.checked = checked.into_iter().map(|key| of_table(&key).unwrap_or(key)).collect();
        for (table, _) in self.indexes.values_mut().filter(|(table, _)| table == from) {
            to.clone_into(table);
        }
    }

    pub(super) fn column_renamed(&mut self, table: &str, from: &str, to: &str) {
        rekey(&mut self.columns, |(of, column)| {
            (of == table && column == from).then(|| (of.clone(), to.to_owned()))
        });
        if self.is_checked(table, from) {
            self.check(table, [to.to_owned()]);
        }
        let of_table = self.constraints.iter_mut().filter(|((of, _), _)| of == table);
        for (_, constraint) in of_table {
            if constraint.not_null.as_deref() == Some(from) {
                constraint.not_null = Some(to.to_owned());
            }
        }
    }

    pub(super) fn has_column(&mut self, table: &str, column: String, ty: String) {
        self.columns.insert((table.to_owned(), column), ty);
    }

    pub(super) fn type_of(&self, table: &str, column: &str) -> Option<&str> {
        self.columns.get(&(table.to_owned(), column.to_owned())).map(String::as_str)
    }

    pub(super) fn has_index(&mut self, index: String, table: String, columns: Vec<String>) {
        self.indexes.insert(index, (table, columns));
    }

    pub(super) fn table_of(&self, index: &str) -> Option<String> {
        self.indexes.get(index).map(|(table, _)| table.clone())
    }

    /// Whether the columns of an index hold no nulls; no if nobody knows the index.
    pub(super) fn has_filled_columns(&self, index: &str) -> bool {
        self.indexes.get(index).is_some_and(|(table, columns)| {
            columns.iter().all(|column| self.is_filled(table, column))
        })
    }

    pub(super) fn constrain(&mut self, table: &str, name: String, constraint: Constraint) {
        self.constraints.insert((table.to_owned(), name), constraint);
    }

    pub(super) fn unconstrain(&mut self, table: &str, name: &str) {
        self.constraints.remove(&(table.to_owned(), name.to_owned()));
    }

    pub(super) fn constraint(&mut self, table: &str, name: &str) -> Option<&mut Constraint> {
        self.constraints.get_mut(&(table.to_owned(), name.to_owned()))
    }

    pub(super) fn check(&mut self, table: &str, words: impl IntoIterator<Item = String>) {
        self.checked.extend(words.into_iter().map(|word| (table.to_owned(), word)));
    }

    /// Whether a condition may be about a column.
    pub(super) fn is_checked(&self, table: &str, column: &str) -> bool {
        self.checked.contains(&(table.to_owned(), column.to_owned()))
    }

    /// A column is `not null`.
    pub(super) fn fill(&mut self, table: &str, column: String) {
        let name = format!("not null of {column}");
        let not_null = Some(column);
        self.constrain(table, name, Constraint { not_null, is_valid: true, is_fresh: false });
    }

    pub(super) fn unfill(&mut self, table: &str, column: &str) {
        self.unconstrain(table, &format!("not null of {column}"));
    }

    /// Whether a valid constraint says that a column holds no null.
    pub(super) fn is_filled(&self, table: &str, column: &str) -> bool {
        self.constraints.iter().any(|((of, _), constraint)| {
            of == table && constraint.is_valid && constraint.not_null.as_deref() == Some(column)
        })
    }

    /// At the end of a file: a view that it has dropped and made again is there for everybody, and a table that
    /// it gives policies has some.
    pub(super) fn mark_returning(&self, effects: &mut [Effect]) {
        for effect in effects {
            let Some(table) = &effect.table else { continue };
            let (returns, has_policy) = (self.views.contains(table), self.policies.contains(table));
            effect.risks.retain(|risk| match risk.rule {
                Rule::DropView => !returns,
                Rule::NoPolicy => !has_policy,
                _ => true,
            });
        }
    }
}

/// Gives entries another key, where `of` says which.
fn rekey<V>(
    map: &mut BTreeMap<(String, String), V>,
    of: impl Fn(&(String, String)) -> Option<(String, String)>,
) {
    let moved: Vec<_> = map.keys().filter_map(|key| Some((key.clone(), of(key)?))).collect();
    for (old, new) in moved {
        if let Some(value) = map.remove(&old) {
            map.insert(new, value);
        }
    }
}
