//! Every other statement. What only adds something that nobody uses yet has no effect worth telling.

use squawk_syntax::ast::{self, AstNode, Stmt};
use squawk_syntax::{SyntaxKind, SyntaxNode};

use super::tables::{cascading, text_of};
use super::tree::{below, has, identifier, listed, name, text, words};
use super::{Labour, Look, Rule, TableLock};

const WHOLE: Option<TableLock> = Some(TableLock::AccessExclusive);
const QUIET: Option<TableLock> = Some(TableLock::ShareUpdateExclusive);
const WRITERS: Option<TableLock> = Some(TableLock::ShareRowExclusive);
const ROWS: Option<TableLock> = Some(TableLock::RowExclusive);

/// Words in a block of code that change something.
const DEEDS: &[&str] = &[
    "alter", "call", "create", "delete", "drop", "execute", "lock", "merge", "perform", "refresh",
    "truncate", "update",
];

impl Look<'_> {
    pub(super) fn look_at(&mut self, statement: &Stmt) {
        self.look_for_new_values(statement.syntax());
        self.look_inside(statement);
        match statement {
            Stmt::AlterTable(it) => self.alter_table(it),
            Stmt::CreateTable(it) => self.create_table(it),
            Stmt::CreateTableAs(it) => self.made(name(it.table_name())),
            Stmt::SelectInto(it) => {
                self.made(it.into_clause().and_then(|into| name(into.table_name())));
            }
            Stmt::CreateView(it) => self.create_view(it),
            Stmt::CreateMaterializedView(it) => {
                self.remember_view(name(it.view()));
                self.made(name(it.view()));
            }
            Stmt::CreateIndex(it) => self.create_index(it),
            Stmt::DropIndex(it) => self.drop_index(it),
            Stmt::Reindex(it) => self.reindex(it),
            Stmt::Refresh(it) => {
                let quietly = it.concurrently_token().is_some();
                let lock = if quietly { Some(TableLock::Exclusive) } else { WHOLE };
                let rules: &[Rule] = if quietly { &[] } else { &[Rule::Refresh] };
                self.note(name(it.view_ref()), lock, Labour::Scan, rules);
            }
            Stmt::DropTable(it) => {
                let rules = cascading(it.syntax(), &[Rule::DropTable, Rule::DropCascade]);
                self.each(it.table_name_refs(), WHOLE, rules);
            }
            Stmt::DropView(it) => {
                let rules = cascading(it.syntax(), &[Rule::DropView, Rule::DropCascade]);
                self.each(it.view_refs(), WHOLE, rules);
            }
            Stmt::DropMaterializedView(it) => {
                let rules = cascading(it.syntax(), &[Rule::DropView, Rule::DropCascade]);
                self.each(it.view_refs(), WHOLE, rules);
            }
            Stmt::AlterView(it) => self.alter_view(name(it.view_ref()), it.syntax()),
            Stmt::AlterMaterializedView(it) => self.alter_view(name(it.view_ref()), it.syntax()),
            Stmt::AlterIndex(it) => self.alter_index(it),
            Stmt::AlterType(it) => self.alter_type(it),
            Stmt::CreateType(it) => {
                self.known.enums.extend(name(it.type_name()));
            }
            Stmt::CreateDomain(it)
                if it.domain_qualifiers().any(|one| is_constraint(one.syntax())) =>
            {
                self.known.domains.extend(name(it.domain()));
            }
            Stmt::CreateFunction(it) => self.create_function(it),
            Stmt::AlterFunction(it) => {
                self.known.steady.retain(|known| !words(it.syntax()).contains(known));
            }
            Stmt::AlterDomain(it) => self.alter_domain(it.syntax()),
            other => self.look_at_rows(other),
        }
    }

    /// What is about rows, maintenance, code and transactions.
    fn look_at_rows(&mut self, statement: &Stmt) {
        match statement {
            Stmt::Truncate(it) => {
                let rules = cascading(it.syntax(), &[Rule::Truncate, Rule::DropCascade]);
                let tables =
                    it.table_list().into_iter().flat_map(|list| list.table_relation_names());
                self.each(tables, WHOLE, rules);
            }
            Stmt::Lock(it) => self.lock(it),
            Stmt::Update(it) => self.change(name(it.relation_name())),
            Stmt::Delete(it) => self.change(name(it.relation_name())),
            Stmt::Merge(it) => self.change(name(it.table_relation_name())),
            Stmt::Insert(it) => self.note(name(it.relation_name_ref()), ROWS, Labour::Nothing, &[]),
            Stmt::CreateTrigger(it) => {
                let table = it.on_relation().and_then(|on| name(on.relation_name_ref()));
                self.note(table, WRITERS, Labour::Nothing, &[Rule::Trigger]);
            }
            Stmt::DropTrigger(it) => {
                let table = it.on_relation().and_then(|on| name(on.relation_name_ref()));
                self.note(table, WHOLE, Labour::Nothing, &[Rule::Trigger]);
            }
            Stmt::CreatePolicy(it) => {
                let table = it.on_table().and_then(|on| name(on.table_name_ref()));
                self.known.policies.extend(table.clone());
                self.note(table, WHOLE, Labour::Nothing, &[]);
            }
            Stmt::DropPolicy(it) => {
                let table = it.on_table().and_then(|on| name(on.table_name_ref()));
                self.note(table, WHOLE, Labour::Nothing, &[]);
            }
            Stmt::Cluster(it) => self.cluster(it),
            Stmt::Vacuum(it) => self.vacuum(it),
            Stmt::Do(it) => self.code(it.syntax()),
            Stmt::Call(_) => self.note(None, None, Labour::Nothing, &[Rule::Code]),
            Stmt::AlterSystem(_)
            | Stmt::CreateDatabase(_)
            | Stmt::DropDatabase(_)
            | Stmt::CreateTablespace(_)
            | Stmt::DropTablespace(_) => self.outside(),
            Stmt::Begin(_)
            | Stmt::Commit(_)
            | Stmt::Rollback(_)
            | Stmt::SavepointCreate(_)
            | Stmt::ReleaseSavepoint(_)
            | Stmt::PrepareTransaction(_) => {
                self.note(None, None, Labour::Nothing, &[Rule::EndsTransaction]);
            }
            Stmt::DropSchema(it) if has(it.syntax(), SyntaxKind::CASCADE_KW) => {
                self.note(None, WHOLE, Labour::Nothing, &[Rule::DropTable, Rule::DropCascade]);
            }
            Stmt::DropType(_)
            | Stmt::DropDomain(_)
            | Stmt::DropFunction(_)
            | Stmt::DropExtension(_)
            | Stmt::DropSequence(_)
            | Stmt::DropOwned(_)
                if has(statement.syntax(), SyntaxKind::CASCADE_KW) =>
            {
                self.note(None, WHOLE, Labour::Nothing, &[Rule::DropCascade]);
            }
            _ => {}
        }
    }

    /// Rows that are changed inside of another statement: `with gone as (delete …) insert …`.
    fn look_inside(&mut self, statement: &Stmt) {
        let node = statement.syntax();
        if !matches!(
            statement,
            Stmt::Select(_) | Stmt::Insert(_) | Stmt::Update(_) | Stmt::Delete(_) | Stmt::Merge(_)
        ) {
            return;
        }
        let updates = below::<ast::Update>(node).filter(|inner| inner.syntax() != node);
        for table in updates.map(|update| name(update.relation_name())) {
            self.change(table);
        }
        let deletes = below::<ast::Delete>(node).filter(|inner| inner.syntax() != node);
        for table in deletes.map(|delete| name(delete.relation_name())) {
            self.change(table);
        }
    }

    /// A new condition on a domain is checked in every table that has a column of it.
    fn alter_domain(&mut self, node: &SyntaxNode) {
        let adds = has(node, SyntaxKind::ADD_KW) || has(node, SyntaxKind::SET_KW);
        if adds && is_constraint(node) && !has(node, SyntaxKind::VALID_KW) {
            let lock = Some(TableLock::Share);
            self.note(None, lock, Labour::Scan, &[Rule::AddCheck]);
        }
    }

    fn each<N: AstNode>(
        &mut self,
        relations: impl Iterator<Item = N>,
        lock: Option<TableLock>,
        rules: &[Rule],
    ) {
        for relation in relations {
            self.note(name(Some(relation)), lock, Labour::Nothing, rules);
        }
    }

    fn made(&mut self, table: Option<String>) {
        if let Some(table) = table {
            self.known.made(table);
        }
    }

    fn remember_view(&mut self, view: Option<String>) {
        if let Some(view) = view {
            self.known.made_view(view);
        }
    }

    fn create_table(&mut self, statement: &ast::CreateTable) {
        let Some(table) = name(statement.table_name()) else { return };
        if let Some(parent) = statement.partition_of() {
            self.note(name(parent.table_name_ref()), WHOLE, Labour::Nothing, &[Rule::Partition]);
        }
        let keys = below::<ast::ForeignKeyConstraint>(statement.syntax())
            .map(|key| name(key.table_name_ref()));
        let references = below::<ast::ReferencesConstraint>(statement.syntax())
            .map(|reference| name(reference.table()));
        for referenced in keys.chain(references).filter(|to| to.as_ref() != Some(&table)) {
            self.note(referenced, WRITERS, Labour::Nothing, &[]);
        }
        for column in below::<ast::Column>(statement.syntax()) {
            let own = name(column.name()).unwrap_or_default();
            let is_filled = column.clauses().any(|clause| {
                matches!(
                    clause,
                    ast::ColumnClause::ColumnConstraint(
                        ast::ColumnConstraint::NotNullConstraint(_)
                            | ast::ColumnConstraint::PrimaryKeyConstraint(_)
                    )
                )
            });
            if is_filled {
                self.known.fill(&table, own.clone());
            }
            if let Some(ty) = column.ty() {
                self.known.has_column(&table, own, text(ty.syntax()));
            }
        }
        self.remember_checks(&table, statement.syntax());
        for key in below::<ast::PrimaryKeyConstraint>(statement.syntax()) {
            self.filled_by_key(&table, &key);
        }
        self.known.made(table);
    }

    fn create_view(&mut self, statement: &ast::CreateView) {
        let view = name(statement.view());
        if statement.or_replace().is_some() {
            self.note(view.clone(), WHOLE, Labour::Nothing, &[]);
        }
        self.remember_view(view);
    }

    fn create_index(&mut self, statement: &ast::CreateIndex) {
        let relation = statement.table_relation_name();
        let is_parent_alone =
            relation.as_ref().is_some_and(|relation| relation.only_token().is_some());
        let table = name(relation.and_then(|relation| relation.table_name_ref()));
        if let (Some(index), Some(table)) = (name(statement.index()), &table) {
            let columns = statement.partition_item_list().map(|list| listed(list.syntax()));
            self.known.has_index(index, table.clone(), columns.unwrap_or_default());
        }
        // Indexes with conditions or expressions are built anew when a column's type changes, whatever it is.
        let list = statement.partition_item_list().map(|list| words(list.syntax()));
        let list = list.unwrap_or_default();
        if let Some(table) = &table
            && (statement.where_clause().is_some()
                || list.iter().filter(|word| *word == "(").count() > 1)
        {
            self.known.check(table, words(statement.syntax()).iter().map(|word| identifier(word)));
        }
        if has(statement.syntax(), SyntaxKind::CONCURRENTLY_KW) {
            let rules = self.refused();
            self.note(table, QUIET, Labour::Scan, rules);
        } else if is_parent_alone {
            self.note(table, Some(TableLock::Share), Labour::Nothing, &[]);
        } else {
            self.note(table, Some(TableLock::Share), Labour::Scan, &[Rule::CreateIndex]);
        }
    }

    fn drop_index(&mut self, statement: &ast::DropIndex) {
        let quietly = statement.concurrently_token().is_some();
        for index in statement.index_refs() {
            let table = name(Some(index)).and_then(|index| self.known.table_of(&index));
            if quietly {
                let rules = self.refused();
                self.note(table, QUIET, Labour::Nothing, rules);
            } else {
                self.note(table, WHOLE, Labour::Nothing, &[Rule::DropIndex]);
            }
        }
    }

    fn reindex(&mut self, statement: &ast::Reindex) {
        let table = match statement.reindex_target() {
            Some(ast::ReindexTarget::ReindexTargetTable(it)) => name(it.table_name_ref()),
            Some(ast::ReindexTarget::ReindexTargetIndex(it)) => {
                name(it.index_ref()).and_then(|index| self.known.table_of(&index))
            }
            // Of everything: each table in a transaction of its own.
            _ => {
                let rules = self.refused();
                self.note(None, Some(TableLock::Share), Labour::Scan, rules);
                None
            }
        };
        if has(statement.syntax(), SyntaxKind::CONCURRENTLY_KW) {
            let rules = self.refused();
            self.note(table, QUIET, Labour::Scan, rules);
        } else {
            self.note(table, Some(TableLock::Share), Labour::Scan, &[Rule::Reindex]);
        }
    }

    fn alter_view(&mut self, view: Option<String>, node: &SyntaxNode) {
        let renames = has(node, SyntaxKind::RENAME_KW) || has(node, SyntaxKind::SCHEMA_KW);
        let rules: &[Rule] = if renames { &[Rule::Rename] } else { &[] };
        self.note(view, WHOLE, Labour::Nothing, rules);
    }

    fn alter_index(&mut self, statement: &ast::AlterIndex) {
        let table = name(statement.index_ref()).and_then(|index| self.known.table_of(&index));
        if let Some(ast::AlterIndexAction::SetTablespace(_)) = statement.action() {
            self.note(table, WHOLE, Labour::Rewrite, &[Rule::RewriteTable]);
        }
    }

    fn alter_type(&mut self, statement: &ast::AlterType) {
        let ty = name(statement.type_name_ref()).unwrap_or_default();
        match statement.action() {
            Some(ast::AlterTypeAction::AddValue(added))
                if self.in_transaction && !self.known.enums.contains(&ty) =>
            {
                self.known.values.extend(added.literal().map(|value| text_of(value.syntax())));
            }
            Some(
                ast::AlterTypeAction::RenameAttribute(_)
                | ast::AlterTypeAction::RenameValue(_)
                | ast::AlterTypeAction::TypeRenameTo(_)
                | ast::AlterTypeAction::SetSchema(_),
            ) if !self.known.enums.contains(&ty) => {
                self.note(None, None, Labour::Nothing, &[Rule::Rename]);
            }
            _ => {}
        }
    }

    /// A value that this file has added is no value until the file has been committed.
    fn look_for_new_values(&mut self, node: &SyntaxNode) {
        if self.known.values.is_empty() {
            return;
        }
        let uses = words(node).iter().any(|word| self.known.values.contains(&identifier(word)));
        if uses {
            self.note(None, None, Labour::Nothing, &[Rule::EnumValue]);
        }
    }

    fn create_function(&mut self, statement: &ast::CreateFunction) {
        let node = statement.syntax();
        let steady = has(node, SyntaxKind::IMMUTABLE_KW) || has(node, SyntaxKind::STABLE_KW);
        if let Some(function) = name(below::<ast::Path>(node).next()) {
            if steady {
                self.known.steady.insert(function);
            } else {
                self.known.steady.remove(&function);
            }
        }
    }

    fn lock(&mut self, statement: &ast::Lock) {
        let mode = statement.lock_mode_clause().and_then(|clause| clause.lock_mode());
        let mode = mode.map(|mode| text(mode.syntax())).unwrap_or_default();
        let lock = match mode.as_str() {
            "access share" => TableLock::AccessShare,
            "row share" => TableLock::RowShare,
            "row exclusive" => TableLock::RowExclusive,
            "share update exclusive" => TableLock::ShareUpdateExclusive,
            "share" => TableLock::Share,
            "share row exclusive" => TableLock::ShareRowExclusive,
            "exclusive" => TableLock::Exclusive,
            _ => TableLock::AccessExclusive,
        };
        let rules: &[Rule] = if lock >= TableLock::Share { &[Rule::LockTable] } else { &[] };
        let relations =
            statement.relation_list().into_iter().flat_map(|list| list.relation_names());
        self.each(relations, Some(lock), rules);
    }

    /// `update`, `delete` and `merge`: of few rows they are none of our business.
    fn change(&mut self, table: Option<String>) {
        self.note(table, ROWS, Labour::Update, &[Rule::Backfill]);
    }

    fn cluster(&mut self, statement: &ast::Cluster) {
        let legacy = statement.cluster_legacy().and_then(|legacy| legacy.on_path());
        let table = name(statement.table_name_ref()).or_else(|| name(legacy));
        if table.is_none() {
            self.outside();
        }
        self.note(table, WHOLE, Labour::Rewrite, &[Rule::RewriteTable]);
    }

    fn vacuum(&mut self, statement: &ast::Vacuum) {
        let options = statement.vacuum_option_list();
        let is_full = statement.full_token().is_some()
            || options.is_some_and(|options| has(options.syntax(), SyntaxKind::FULL_KW));
        let tables: Vec<_> = statement
            .table_and_columns_list()
            .into_iter()
            .flat_map(|list| list.table_and_columnss())
            .map(|table| name(table.table_relation_name().and_then(|table| table.table_name_ref())))
            .collect();
        let tables = if tables.is_empty() { vec![None] } else { tables };
        let mut rules = self.refused().to_vec();
        if is_full {
            rules.push(Rule::RewriteTable);
        }
        let (lock, labour) = if is_full { (WHOLE, Labour::Rewrite) } else { (QUIET, Labour::Scan) };
        for table in tables {
            self.note(table, lock, labour, &rules);
        }
    }

    /// A `do` block can do anything; one that only looks does not matter.
    fn code(&mut self, node: &SyntaxNode) {
        let text = text(node);
        let mut words = text.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
        if words.any(|word| DEEDS.contains(&word)) {
            self.note(None, None, Labour::Nothing, &[Rule::Code]);
        }
    }

    /// What PostgreSQL refuses in a transaction.
    fn outside(&mut self) {
        let rules = self.refused();
        if !rules.is_empty() {
            self.note(None, None, Labour::Nothing, rules);
        }
    }
}

fn is_constraint(node: &SyntaxNode) -> bool {
    has(node, SyntaxKind::CHECK_KW) || has(node, SyntaxKind::NOT_KW)
}
