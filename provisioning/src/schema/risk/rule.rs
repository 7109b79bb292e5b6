//! [`Rule`]: what a statement had better not do to a table that is in use, why, and what to do instead.

/// One rule; its name is what `-- tenantry: allow <name>` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// An index is built while nobody may write.
    CreateIndex,
    /// An index is dropped while nobody may read.
    DropIndex,
    /// An index is rebuilt while nobody may write.
    Reindex,
    /// A column is added that every row must be given a value for.
    AddColumnRewrite,
    /// A column is added that rows have no value for.
    AddColumnRequired,
    /// The type of a column changes.
    ChangeType,
    /// A column must have values from now on.
    SetNotNull,
    /// Rows must have their counterpart from now on.
    AddForeignKey,
    /// Rows must satisfy a condition from now on.
    AddCheck,
    /// Rows must differ from now on.
    AddUnique,
    /// A constraint is validated in the transaction that added it.
    ValidatedTogether,
    /// Something gets another name.
    Rename,
    /// A column goes.
    DropColumn,
    /// A table goes.
    DropTable,
    /// A view goes.
    DropView,
    /// Whatever depends on it goes too.
    DropCascade,
    /// A table is written anew.
    RewriteTable,
    /// A partition is made, attached or detached while its table is locked.
    Partition,
    /// A materialized view is made anew while nobody may read it.
    Refresh,
    /// A table is emptied.
    Truncate,
    /// A table is locked by name.
    LockTable,
    /// Many rows are changed in one transaction.
    Backfill,
    /// A trigger comes or is switched.
    Trigger,
    /// Row level security without a policy.
    NoPolicy,
    /// A value of an enumeration is used in the transaction that adds it.
    EnumValue,
    /// What cannot run in a transaction stands in a file that does.
    InTransaction,
    /// A file ends its transaction by itself.
    EndsTransaction,
    /// A long statement while an earlier one's lock is held.
    LockHeld,
    /// A block of code that nobody looks into.
    Code,
    /// A statement that the parser does not understand.
    NotUnderstood,
}

/// An update of fewer rows takes no time.
const MANY_ROWS: i64 = 10_000;

impl Rule {
    /// Every rule.
    pub const ALL: [Self; 30] = [
        Self::CreateIndex,
        Self::DropIndex,
        Self::Reindex,
        Self::AddColumnRewrite,
        Self::AddColumnRequired,
        Self::ChangeType,
        Self::SetNotNull,
        Self::AddForeignKey,
        Self::AddCheck,
        Self::AddUnique,
        Self::ValidatedTogether,
        Self::Rename,
        Self::DropColumn,
        Self::DropTable,
        Self::DropView,
        Self::DropCascade,
        Self::RewriteTable,
        Self::Partition,
        Self::Refresh,
        Self::Truncate,
        Self::LockTable,
        Self::Backfill,
        Self::Trigger,
        Self::NoPolicy,
        Self::EnumValue,
        Self::InTransaction,
        Self::EndsTransaction,
        Self::LockHeld,
        Self::Code,
        Self::NotUnderstood,
    ];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CreateIndex => "create-index",
            Self::DropIndex => "drop-index",
            Self::Reindex => "reindex",
            Self::AddColumnRewrite => "add-column-rewrite",
            Self::AddColumnRequired => "add-column-required",
            Self::ChangeType => "change-type",
            Self::SetNotNull => "set-not-null",
            Self::AddForeignKey => "add-foreign-key",
            Self::AddCheck => "add-check",
            Self::AddUnique => "add-unique",
            Self::ValidatedTogether => "validated-together",
            Self::Rename => "rename",
            Self::DropColumn => "drop-column",
            Self::DropTable => "drop-table",
            Self::DropView => "drop-view",
            Self::DropCascade => "drop-cascade",
            Self::RewriteTable => "rewrite-table",
            Self::Partition => "partition",
            Self::Refresh => "refresh",
            Self::Truncate => "truncate",
            Self::LockTable => "lock-table",
            Self::Backfill => "backfill",
            Self::Trigger => "trigger",
            Self::NoPolicy => "no-policy",
            Self::EnumValue => "enum-value",
            Self::InTransaction => "in-transaction",
            Self::EndsTransaction => "ends-transaction",
            Self::LockHeld => "lock-held",
            Self::Code => "code",
            Self::NotUnderstood => "not-understood",
        }
    }

    /// What may go wrong.
    #[must_use]
    pub fn why(self) -> &'static str {
        match self {
            Self::CreateIndex => "nobody writes to the table while every row is read for the index",
            Self::DropIndex => "nobody reads or writes the table until the transaction ends",
            Self::Reindex => "nobody writes to the table, or uses the index, until it is rebuilt",
            Self::AddColumnRewrite => {
                "each row gets a value of its own, so the whole table is rewritten while nobody reads or writes it"
            }
            Self::AddColumnRequired => {
                "it fails in every database where the table has a row, as no row has a value"
            }
            Self::ChangeType => {
                "the table and its indexes are rewritten, or read where only a check is checked again, while nobody reads or writes it"
            }
            Self::AddForeignKey => "nobody writes to either table while every row is looked up",
            Self::SetNotNull | Self::AddCheck => {
                "every row is read while nobody reads or writes the table"
            }
            Self::AddUnique => "an index is built while nobody reads or writes the table",
            Self::ValidatedTogether => {
                "the lock of the statement that added the constraint is held while every row is read"
            }
            Self::Rename => "the release that is being served still uses the old name, and fails",
            Self::DropColumn => {
                "the release that is being served still names the column, and fails; the data is gone"
            }
            Self::DropTable => {
                "the release that is being served still uses the table, and fails; the data is gone"
            }
            Self::DropView => "the release that is being served still reads the view, and fails",
            Self::DropCascade => {
                "whatever depends on it goes too, which may differ from tenant to tenant"
            }
            Self::RewriteTable => "the whole table is written anew while nobody reads or writes it",
            Self::Partition => "nobody reads or writes the partitioned table meanwhile",
            Self::Refresh => "nobody reads the materialized view until its query has ended",
            Self::Truncate => "the data is gone, and nobody reads or writes the table meanwhile",
            Self::LockTable => "the lock is held until the transaction ends",
            Self::Backfill => {
                "rows stay locked until the last one is done, and all of it is one long transaction"
            }
            Self::Trigger => "nobody writes to the table until the transaction ends",
            Self::NoPolicy => "without a policy, everybody but the table's owner sees no rows",
            Self::EnumValue => "PostgreSQL refuses a value in the transaction that adds it (55P04)",
            Self::InTransaction => "PostgreSQL refuses it in a transaction (25001)",
            Self::EndsTransaction => {
                "what it commits stays when a later statement fails, and the file runs from its beginning again"
            }
            Self::LockHeld => "an earlier statement's lock is held while this one works",
            Self::Code => "what the block does to which table cannot be seen in the file",
            Self::NotUnderstood => {
                "nobody can say what it does; PostgreSQL itself may understand it"
            }
        }
    }

    /// A safer form.
    #[must_use]
    pub fn safer(self) -> &'static str {
        match self {
            Self::CreateIndex => {
                "`create index concurrently`, in a file with `-- tenantry: no-transaction` in its first line"
            }
            Self::DropIndex => {
                "`drop index concurrently`, in a file with `-- tenantry: no-transaction` in its first line"
            }
            Self::Reindex => {
                "`reindex … concurrently`, in a file with `-- tenantry: no-transaction` in its first line"
            }
            Self::AddColumnRewrite => {
                "add the column without a default, set the default in a second statement, and fill old rows in batches"
            }
            Self::AddColumnRequired => {
                "give it a constant default, or add it without `not null` and fill it first"
            }
            Self::ChangeType => {
                "add a column of the new type, fill it in batches, and change over with the next release"
            }
            Self::SetNotNull => {
                "add `check (column is not null) not valid`, `validate constraint` in the next file, and then `set not null`"
            }
            Self::AddForeignKey | Self::AddCheck => {
                "add it `not valid`, and `validate constraint` in a file of its own"
            }
            Self::AddUnique => {
                "`create unique index concurrently` in one file, and `add constraint … using index` in the next; for `exclude` there is no such way"
            }
            Self::ValidatedTogether => "move `validate constraint` into the next file",
            Self::Rename => {
                "add the new name beside the old (a column, a view), and take the old one away with a later release"
            }
            Self::DropColumn | Self::DropTable | Self::DropView => {
                "roll out the release that does without it first, and then drop it"
            }
            Self::DropCascade => "drop what depends on it by name first, and leave `cascade` out",
            Self::RewriteTable => {
                "leave the table as it is, or have each tenant's done in a quiet hour, by hand"
            }
            Self::Partition => {
                "make the table alone, with a check that says what the partition says, and `attach partition`; `detach partition … concurrently`"
            }
            Self::Refresh => {
                "`refresh materialized view concurrently`, which takes a unique index on the view"
            }
            Self::Truncate => {
                "delete in batches, or roll out the release that does without the table first"
            }
            Self::LockTable => "leave it out: the statements take the locks that they need",
            Self::Backfill => {
                "batches: in a file with `-- tenantry: no-transaction`, a `do` block that commits after every few thousand rows"
            }
            Self::Trigger => {
                "give it a file of its own, so that the lock is held for a moment only"
            }
            Self::NoPolicy => "create the policies in the same file",
            Self::EnumValue => "use the value in the next file",
            Self::InTransaction => {
                "put it into a file with `-- tenantry: no-transaction` in its first line"
            }
            Self::EndsTransaction => {
                "leave `begin`, `commit` and the like out, or split the file in two"
            }
            Self::LockHeld => "give the long statement a file of its own",
            Self::Code => "look into it, and write `-- tenantry: allow code` above it",
            Self::NotUnderstood => {
                "try it with `tenantry migrate up --dry-run`, and write `-- tenantry: allow not-understood` above it"
            }
        }
    }

    /// It matters only where a table has more rows.
    pub(super) fn above_rows(self) -> i64 {
        if self == Self::Backfill { MANY_ROWS } else { 0 }
    }
}
