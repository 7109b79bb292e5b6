//! `alter table`, action by action.

use squawk_syntax::ast::{
    self, AlterColumnOption, AlterTableAction as Action, AstNode, Constraint as Clause, GeneratedAs,
};
use squawk_syntax::{SyntaxKind, SyntaxNode};

use super::known::Constraint;
use super::tree::{below, has, identifier, listed, name, text, words};
use super::types::{STEADY, is_serial, keeps_rows};
use super::{Labour, Look, Rule, TableLock};

const WHOLE: Option<TableLock> = Some(TableLock::AccessExclusive);
const QUIET: Option<TableLock> = Some(TableLock::ShareUpdateExclusive);
const WRITERS: Option<TableLock> = Some(TableLock::ShareRowExclusive);

impl Look<'_> {
    pub(super) fn alter_table(&mut self, statement: &ast::AlterTable) {
        let relation = statement.table_relation_name();
        let Some(table) = name(relation.and_then(|relation| relation.table_name_ref())) else {
            return self.note(None, WHOLE, Labour::Rewrite, &[Rule::RewriteTable]);
        };
        let actions: Vec<_> = statement.actions().collect();
        if let [Action::TableRenameTo(to)] = actions.as_slice() {
            self.note(Some(table.clone()), WHOLE, Labour::Nothing, &[Rule::Rename]);
            if let Some(to) = name(to.table_name()) {
                self.known.renamed(&table, &to);
            }
            return;
        }
        for action in &actions {
            self.alter(&table, action);
        }
    }

    fn alter(&mut self, table: &str, action: &Action) {
        let (lock, labour, rules): (_, _, &[Rule]) = match action {
            Action::AddColumn(column) => return self.add_column(table, column),
            Action::AddConstraint(added) => return self.add_constraint(table, added),
            Action::AlterColumn(column) => return self.alter_column(table, column),
            Action::ValidateConstraint(validated) => return self.validate(table, validated),
            Action::RenameColumn(renamed) => {
                if let (Some(from), Some(to)) =
                    (name(renamed.column_name_ref()), name(renamed.column_name()))
                {
                    self.known.column_renamed(table, &from, &to);
                }
                (WHOLE, Labour::Nothing, &[Rule::Rename])
            }
            Action::SetSchema(_) => (WHOLE, Labour::Nothing, &[Rule::Rename]),
            Action::DropColumn(dropped) => (
                WHOLE,
                Labour::Nothing,
                cascading(dropped.syntax(), &[Rule::DropColumn, Rule::DropCascade]),
            ),
            Action::DropConstraint(dropped) => {
                if let Some(constraint) = name(dropped.constraint_name_ref()) {
                    self.known.unconstrain(table, &constraint);
                }
                let cascades = has(dropped.syntax(), SyntaxKind::CASCADE_KW);
                (WHOLE, Labour::Nothing, if cascades { &[Rule::DropCascade] } else { &[] })
            }
            Action::AttachPartition(attached) => {
                let partition = name(attached.table_name_ref());
                self.note(partition, WHOLE, Labour::Scan, &[Rule::Partition]);
                (QUIET, Labour::Nothing, &[])
            }
            Action::DetachPartition(detached) => match detached.detach_partition_option() {
                None => (WHOLE, Labour::Nothing, &[Rule::Partition]),
                Some(ast::DetachPartitionOption::DetachConcurrently(_)) => {
                    (QUIET, Labour::Nothing, self.refused())
                }
                Some(ast::DetachPartitionOption::DetachFinalize(_)) => {
                    (QUIET, Labour::Nothing, &[])
                }
            },
            Action::SetLogged(_)
            | Action::SetUnlogged(_)
            | Action::SetTablespace(_)
            | Action::SetAccessMethod(_)
            | Action::MergePartitions(_)
            | Action::SplitPartition(_) => (WHOLE, Labour::Rewrite, &[Rule::RewriteTable]),
            Action::EnableRls(_) => (WHOLE, Labour::Nothing, &[Rule::NoPolicy]),
            Action::EnableTrigger(_)
            | Action::EnableAlwaysTrigger(_)
            | Action::EnableReplicaTrigger(_)
            | Action::DisableTrigger(_) => (WRITERS, Labour::Nothing, &[Rule::Trigger]),
            Action::SetOptions(_)
            | Action::ResetOptions(_)
            | Action::ClusterOn(_)
            | Action::SetWithoutCluster(_) => (QUIET, Labour::Nothing, &[]),
            _ => (WHOLE, Labour::Nothing, &[]),
        };
        self.note(Some(table.to_owned()), lock, labour, rules);
    }

    /// Remembers what the conditions in a piece of a table are about.
    pub(super) fn remember_checks(&mut self, table: &str, node: &SyntaxNode) {
        for check in below::<ast::CheckConstraint>(node) {
            self.known.check(table, words(check.syntax()).iter().map(|word| identifier(word)));
        }
    }

    fn add_column(&mut self, table: &str, column: &ast::AddColumn) {
        self.remember_checks(table, column.syntax());
        let ty = column.ty().map(|ty| text(ty.syntax())).unwrap_or_default();
        let own = name(column.column_name()).unwrap_or_default();
        let has_default = column.constraints().any(
            |clause| matches!(&clause, Clause::DefaultConstraint(default) if !is_null(default)),
        );
        let is_filled = column.constraints().any(|clause| self.gives_each_its_own(&clause));
        let is_required = column.constraints().any(|clause| {
            matches!(clause, Clause::NotNullConstraint(_) | Clause::PrimaryKeyConstraint(_))
        });
        let (mut labour, mut rules) = (Labour::Nothing, Vec::new());
        if is_serial(&ty) || is_filled || self.known.domains.contains(&ty) {
            (labour, rules) = (Labour::Rewrite, vec![Rule::AddColumnRewrite]);
        } else if is_required && !has_default {
            (labour, rules) = (Labour::Scan, vec![Rule::AddColumnRequired]);
        }
        for clause in column.constraints() {
            match &clause {
                Clause::CheckConstraint(_) => rules.push(Rule::AddCheck),
                Clause::UniqueConstraint(_) | Clause::PrimaryKeyConstraint(_) => {
                    rules.push(Rule::AddUnique);
                }
                Clause::ReferencesConstraint(reference) => {
                    self.note(name(reference.table()), WRITERS, Labour::Nothing, &[]);
                    // No row points anywhere yet, unless it is given a value.
                    if !has_default {
                        continue;
                    }
                    rules.push(Rule::AddForeignKey);
                }
                _ => continue,
            }
            labour = labour.max(Labour::Scan);
        }
        self.known.has_column(table, own, ty);
        self.note(Some(table.to_owned()), WHOLE, labour, &rules);
    }

    /// Whether a clause gives each row a value of its own, so that all of them have to be written.
    fn gives_each_its_own(&self, clause: &Clause) -> bool {
        match clause {
            Clause::DefaultConstraint(default) => {
                default.expr().is_some_and(|expr| !self.is_steady(expr.syntax()))
            }
            Clause::GeneratedConstraint(generated) => match generated.generated_as() {
                Some(GeneratedAs::GeneratedStored(stored)) => {
                    words(stored.syntax()).iter().any(|word| word.eq_ignore_ascii_case("stored"))
                }
                _ => true,
            },
            _ => false,
        }
    }

    /// Whether it calls no function that may be volatile.
    fn is_steady(&self, expr: &SyntaxNode) -> bool {
        below::<ast::CallExpr>(expr).all(|call| {
            let called = call.expr().map(|called| text(called.syntax())).unwrap_or_default();
            let called = called.strip_prefix("pg_catalog.").unwrap_or(&called);
            // What is written without a name, such as extract(… from …), is a function of the standard's.
            called.is_empty() || STEADY.contains(&called) || self.known.steady.contains(called)
        })
    }

    fn add_constraint(&mut self, table: &str, added: &ast::AddConstraint) {
        let Some(clause) = added.constraint() else { return };
        self.remember_checks(table, added.syntax());
        let is_valid = !clause.is_not_valid() && !has(clause.syntax(), SyntaxKind::NOT_ENFORCED);
        let mut constraint = Constraint { is_valid, is_fresh: true, ..Constraint::default() };
        let own = clause.constraint_name().map(|own| text_of(own.syntax())).unwrap_or_default();
        let (lock, labour, rules): (_, _, &[Rule]) = match &clause {
            Clause::ForeignKeyConstraint(key) => {
                self.note(name(key.table_name_ref()), WRITERS, Labour::Nothing, &[]);
                (WRITERS, Labour::Scan, &[Rule::AddForeignKey])
            }
            Clause::CheckConstraint(check) => {
                constraint.not_null = check.expr().and_then(|expr| not_null_column(expr.syntax()));
                (WHOLE, Labour::Scan, &[Rule::AddCheck])
            }
            Clause::NotNullConstraint(not_null) => {
                constraint.not_null = name(not_null.column_name_ref());
                (WHOLE, Labour::Scan, &[Rule::SetNotNull])
            }
            Clause::UniqueConstraint(unique) if unique.using_index().is_some() => {
                (WHOLE, Labour::Nothing, &[])
            }
            Clause::PrimaryKeyConstraint(key) if key.using_index().is_some() => {
                // Columns that may hold nulls are read first.
                let index = key.using_index().and_then(|using| name(using.index_ref()));
                if index.is_some_and(|index| self.known.has_filled_columns(&index)) {
                    (WHOLE, Labour::Nothing, &[])
                } else {
                    (WHOLE, Labour::Scan, &[Rule::SetNotNull])
                }
            }
            Clause::UniqueConstraint(_) | Clause::ExcludeConstraint(_) => {
                (WHOLE, Labour::Scan, &[Rule::AddUnique])
            }
            Clause::PrimaryKeyConstraint(key) => {
                self.filled_by_key(table, key);
                (WHOLE, Labour::Scan, &[Rule::AddUnique])
            }
            _ => (WHOLE, Labour::Scan, &[Rule::AddCheck]),
        };
        self.known.constrain(table, own, constraint);
        if is_valid {
            self.note(Some(table.to_owned()), lock, labour, rules);
        } else {
            self.note(Some(table.to_owned()), lock, Labour::Nothing, &[]);
        }
    }

    /// The columns of a primary key hold no nulls.
    pub(super) fn filled_by_key(&mut self, table: &str, key: &ast::PrimaryKeyConstraint) {
        for column in listed(key.syntax()) {
            self.known.fill(table, column);
        }
    }

    fn validate(&mut self, table: &str, validated: &ast::ValidateConstraint) {
        let own = name(validated.constraint_name_ref()).unwrap_or_default();
        let mut rules: &[Rule] = &[];
        if let Some(constraint) = self.known.constraint(table, &own) {
            constraint.is_valid = true;
            if constraint.is_fresh && self.in_transaction {
                rules = &[Rule::ValidatedTogether];
            }
        }
        self.note(Some(table.to_owned()), QUIET, Labour::Scan, rules);
    }

    fn alter_column(&mut self, table: &str, column: &ast::AlterColumn) {
        let own = name(column.column_name_ref()).unwrap_or_default();
        let (lock, labour, rules): (_, _, &[Rule]) = match column.option() {
            Some(AlterColumnOption::SetType(change)) => {
                let new = change.ty().map(|ty| text(ty.syntax())).unwrap_or_default();
                // Indexes in another order are built anew.
                let is_checked = self.known.is_checked(table, &own) || change.collate().is_some();
                let old = self.known.type_of(table, &own);
                let stays =
                    old.is_some_and(|old| keeps_rows(old, &new)) && change.using_expr().is_none();
                self.known.has_column(table, own, new);
                if stays && !is_checked {
                    (WHOLE, Labour::Nothing, &[])
                } else if stays {
                    (WHOLE, Labour::Scan, &[Rule::ChangeType])
                } else {
                    (WHOLE, Labour::Rewrite, &[Rule::ChangeType])
                }
            }
            Some(AlterColumnOption::SetExpression(_)) => {
                (WHOLE, Labour::Rewrite, &[Rule::ChangeType])
            }
            Some(AlterColumnOption::SetNotNull(_)) => {
                let is_filled = self.known.is_filled(table, &own);
                self.known.fill(table, own);
                if is_filled {
                    (WHOLE, Labour::Nothing, &[])
                } else {
                    (WHOLE, Labour::Scan, &[Rule::SetNotNull])
                }
            }
            Some(AlterColumnOption::DropNotNull(_)) => {
                self.known.unfill(table, &own);
                (WHOLE, Labour::Nothing, &[])
            }
            Some(
                AlterColumnOption::SetStatistics(_)
                | AlterColumnOption::SetOptions(_)
                | AlterColumnOption::SetOptionsList(_)
                | AlterColumnOption::ResetOptions(_),
            ) => (QUIET, Labour::Nothing, &[]),
            _ => (WHOLE, Labour::Nothing, &[]),
        };
        self.note(Some(table.to_owned()), lock, labour, rules);
    }

    /// The rule for what PostgreSQL refuses in a transaction, where there is one.
    pub(super) fn refused(&self) -> &'static [Rule] {
        if self.in_transaction { &[Rule::InTransaction] } else { &[] }
    }
}

/// All of the rules where it cascades, the first one otherwise.
pub(super) fn cascading(node: &SyntaxNode, rules: &'static [Rule]) -> &'static [Rule] {
    if has(node, SyntaxKind::CASCADE_KW) { rules } else { &rules[..1] }
}

/// The column of `column is not null`.
fn not_null_column(expr: &SyntaxNode) -> Option<String> {
    let words = words(expr);
    let inner: Vec<&str> = words
        .iter()
        .map(String::as_str)
        .skip_while(|word| *word == "(")
        .take_while(|word| *word != ")")
        .collect();
    match inner.as_slice() {
        [column, is, not, null]
            if [is, not, null]
                .iter()
                .map(|word| word.to_ascii_lowercase())
                .eq(["is", "not", "null"]) =>
        {
            Some(identifier(column))
        }
        _ => None,
    }
}

fn is_null(default: &ast::DefaultConstraint) -> bool {
    default.expr().is_some_and(|expr| text(expr.syntax()) == "null")
}

pub(super) fn text_of(node: &SyntaxNode) -> String {
    words(node).iter().map(|word| identifier(word)).collect()
}
