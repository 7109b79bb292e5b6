//! Operations: everything that changes a tenant, as a list of steps that any worker can go on with.
//!
//! An operation is a row in the catalog ([`crate::catalog::operations`]); what it does stands here. Each kind opens its
//! file with its list of steps, in order, and has one function a step. A step reads the catalog, looks at the server
//! and closes the gap between the two: run twice it does nothing the second time, and what an earlier worker left half
//! done it finishes. So there is one way for the first try, for a retry and for the restart after a crash. Before its
//! point of no return an operation may be given up ([`Plan::abandon`] undoes it); after it, there is only forward. A
//! failure belongs to the operation, never to the tenant.
//!
//! ```text
//! queued ─► running ─► succeeded
//!   ▲          │  └──► failed ──(retry)──► queued
//!   └──────────┘            └──(cancel)──► queued, abandoning ─► cancelled
//!    postponed, or its worker died
//! ```

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::catalog::CatalogError;
use crate::catalog::operations::{NewOperation, OperationRecord};
use crate::tenant::{Tenant, TenantSlug};

mod adopt;
pub mod backup;
mod backup_keys;
mod baseline;
pub mod catalog_backup;
pub mod catching_up;
pub mod checkpoints;
mod clone;
mod cutover;
mod delete;
mod drill;
pub mod drills;
pub mod environment;
mod erase;
mod error;
pub mod export;
mod hardening;
pub mod history;
pub mod import;
mod migrate;
pub mod moves;
mod provision;
pub mod rebuild;
pub mod registrations;
mod relocate;
pub mod removal;
mod rename;
pub mod request;
mod restore;
mod restore_at;
mod restore_table;
pub mod rollouts;
mod rotate_password;
pub mod runner;
pub mod sizes;
mod step;
mod suspend;
pub mod tracks;
mod transfer;
mod undo;
pub mod upkeep;
pub mod verify;
mod verify_backup;
mod way_back;
pub mod webhook;

pub use adopt::{AdoptFrom, AdoptionError, differences as adoption_differences};
pub use environment::{Environment, Limits};
pub use error::{StepError, chain};
pub use relocate::{Copied, CopiedBy, Way};
pub use restore_at::ArchiveSettings;
pub use runner::Runner;
pub use step::{Plan, Step, StepContext};
pub use transfer::Transfer;
pub use way_back::WayBack;

/// What an operation does, with its parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "input", rename_all = "snake_case")]
pub enum Work {
    /// Make the tenant's database and role, and serve it.
    Provision {
        /// Whether to load the sample rows.
        sample_data: bool,
    },
    /// Make the tenant from a dump that somebody else took; only the process that asks for it has that.
    Import {
        /// Its name, for people.
        file: String,
        /// Whether somebody knows its code to do no harm.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        trust_functions: bool,
    },
    /// Make a tenant of a database that is there already.
    Adopt(AdoptFrom),
    /// Bring the schema to the newest migration, of its track too.
    Migrate {
        /// No further than to this version.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<i64>,
    },
    /// Note in a database whose schema is there already which files made it.
    Baseline {
        /// The newest of these files.
        version: i64,
        /// The fingerprint of a schema that somebody wants adopted although it differs.
        accepted: Option<String>,
    },
    /// Dump the database to the object store.
    Backup {
        /// Take none where the newest one is proven to hold what there is.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        unless_unchanged: bool,
    },
    /// Remove the backups that its retention does not keep, and what crashed uploads left.
    Prune {},
    /// Put a backup in the place of the live database, which is kept for a while.
    Restore {
        /// The backup.
        backup: Uuid,
        /// On this server, if not on the tenant's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        server: Option<Uuid>,
    },
    /// Make the tenant from a backup, of another tenant or of one that the catalog has lost.
    RestoreAs {
        /// The backup.
        backup: Uuid,
        /// Whether the tenant comes back as it was, which is suspended.
        #[serde(default)]
        suspended: bool,
    },
    /// Put what the tenant had at a moment in the place of its live database, which is kept for a while.
    RestoreAt {
        /// The moment.
        at: Timestamp,
        /// The server in whose archive that is.
        archive: Uuid,
        /// On this server, if not on the tenant's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        server: Option<Uuid>,
    },
    /// Make the tenant of what another one had at a moment.
    RestoreAtAs {
        /// The moment.
        at: Timestamp,
        /// The server in whose archive that is.
        archive: Uuid,
        /// The other tenant.
        of: Uuid,
    },
    /// Make the tenant of what another one has now.
    Clone {
        /// The other tenant.
        of: Uuid,
        /// The SHA-256 of the SQL that masks the data before the tenant opens.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mask: Option<String>,
    },
    /// Restore a backup beside, compare what comes of it, and drop it again.
    Drill {
        /// The backup.
        backup: Uuid,
    },
    /// Restore one table of a backup into a schema beside.
    RestoreTable {
        /// The backup.
        backup: Uuid,
        /// The table, as SQL names it.
        table: String,
        /// The schema that it comes to.
        schema: String,
    },
    /// Put back the database that a restore replaced; the one that replaced it is kept in its turn.
    UndoRestore {
        /// The restore.
        operation: Uuid,
        /// Where the replaced database is.
        server: Uuid,
    },
    /// Move the tenant to another server.
    Relocate {
        /// The server.
        server: Uuid,
        /// Whether it is served meanwhile.
        #[serde(default, skip_serializing_if = "Way::is_auto")]
        way: Way,
    },
    /// Stop serving the tenant; its data stays.
    Suspend {
        /// Why, for people.
        reason: Option<String>,
    },
    /// Serve a suspended tenant again.
    Resume {},
    /// Give the tenant's login role another password.
    RotatePassword {},
    /// Encrypt its backups to another key, from the next one on.
    RotateBackupKey {},
    /// Put the keys in the manifests of its backups under the present master key.
    ResealBackups {},
    /// Destroy every key of its backups, so that nobody can read those that are there.
    DestroyBackupKeys {},
    /// Give the tenant, its database and its role another name; the slug that it had stays an alias.
    Rename {
        /// The new slug.
        to: TenantSlug,
    },
    /// Remove the tenant, its role, its databases and its backups.
    Delete {
        /// Leave the backups, and the key to read them, where they are.
        keep_backups: bool,
        /// Certify that what was in backups is gone.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        erase: bool,
    },
}

impl Work {
    /// The kinds that leave a tenant with the files that their worker had read: whoever began one before a rollout
    /// leaves it behind that.
    const BRING_FILES: [&str; 7] = [
        "provision",
        "restore",
        "restore_as",
        "restore_at",
        "restore_at_as",
        "clone",
        "undo_restore",
    ];

    /// The steps.
    #[must_use]
    pub fn plan(&self) -> &'static Plan {
        match self {
            Self::Provision { .. } => &provision::PLAN,
            Self::Import { .. } => &import::PLAN,
            Self::Adopt(_) => &adopt::PLAN,
            Self::Migrate { .. } => &migrate::PLAN,
            Self::Baseline { .. } => &baseline::PLAN,
            Self::Backup { .. } => &backup::PLAN,
            Self::Prune {} => &backup::prune::PLAN,
            Self::Restore { .. } => &restore::IN_PLACE,
            Self::RestoreAs { .. } => &restore::AS_TENANT,
            Self::RestoreAt { .. } => &restore_at::IN_PLACE,
            Self::RestoreAtAs { .. } => &restore_at::AS_TENANT,
            Self::Clone { .. } => &clone::PLAN,
            Self::Drill { .. } => &drill::PLAN,
            Self::RestoreTable { .. } => &restore_table::PLAN,
            Self::UndoRestore { .. } => &undo::PLAN,
            Self::Relocate { .. } => &relocate::PLAN,
            Self::Suspend { .. } => &suspend::SUSPEND,
            Self::Resume {} => &suspend::RESUME,
            Self::RotatePassword {} => &rotate_password::PLAN,
            Self::RotateBackupKey {} => &backup_keys::ROTATE,
            Self::ResealBackups {} => &backup_keys::RESEAL,
            Self::DestroyBackupKeys {} => &erase::PLAN,
            Self::Rename { .. } => &rename::PLAN,
            Self::Delete { .. } => &delete::PLAN,
        }
    }

    /// Whether a tenant's backups, or the keys to them, are gone after it.
    fn takes_backups_away(&self) -> bool {
        matches!(self, Self::Delete { keep_backups: false, .. } | Self::DestroyBackupKeys {})
    }

    /// Whether it makes a tenant of what another one had.
    fn makes_tenant(&self) -> bool {
        matches!(self, Self::RestoreAs { .. } | Self::RestoreAtAs { .. })
    }

    /// The kind's name in the catalog, in JSON and in metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Provision { .. } => "provision",
            Self::Import { .. } => "import",
            Self::Adopt(_) => "adopt",
            Self::Migrate { .. } => "migrate",
            Self::Baseline { .. } => "baseline",
            Self::Backup { .. } => "backup",
            Self::Prune {} => "prune",
            Self::Restore { .. } => "restore",
            Self::RestoreAs { .. } => "restore_as",
            Self::RestoreAt { .. } => "restore_at",
            Self::RestoreAtAs { .. } => "restore_at_as",
            Self::Clone { .. } => "clone",
            Self::Drill { .. } => "drill",
            Self::RestoreTable { .. } => "restore_table",
            Self::UndoRestore { .. } => "undo_restore",
            Self::Relocate { .. } => "relocate",
            Self::Suspend { .. } => "suspend",
            Self::Resume {} => "resume",
            Self::RotatePassword {} => "rotate_password",
            Self::RotateBackupKey {} => "rotate_backup_key",
            Self::ResealBackups {} => "reseal_backups",
            Self::DestroyBackupKeys {} => "destroy_backup_keys",
            Self::Rename { .. } => "rename",
            Self::Delete { .. } => "delete",
        }
    }

    /// Reads the work of a row.
    pub fn of(record: &OperationRecord) -> Result<Self, CatalogError> {
        let value = serde_json::json!({ "kind": record.kind, "input": record.input });
        serde_json::from_value(value).map_err(|error| CatalogError::Corrupt(error.to_string()))
    }

    /// The step that is next or under way: its name, its number and how many there are.
    #[must_use]
    pub fn progress(record: &OperationRecord) -> Option<(&'static str, usize, usize)> {
        let steps = Self::of(record).ok()?.plan().list(record.abandoning);
        let done = usize::try_from(record.completed_steps).ok()?;
        Some((steps.get(done)?.name, done + 1, steps.len()))
    }

    /// The row to ask for this work with.
    #[must_use]
    pub fn new_operation<'a>(&self, tenant: Uuid, requested_by: &'a str) -> NewOperation<'a> {
        let mut value = serde_json::to_value(self).expect("work is plain data");
        NewOperation {
            id: Uuid::now_v7(),
            tenant_id: tenant,
            kind: self.kind(),
            input: value["input"].take(),
            batch_id: None,
            migrations_digest: None,
            requested_by,
            idempotency_key: None,
        }
    }
}

/// Refuses a tenant that another operation has left half way, or that is gone.
fn require_settled(tenant: &Tenant) -> Result<(), StepError> {
    if tenant.state.is_settled() {
        return Ok(());
    }
    Err(StepError::fail(
        format!("the tenant is {}; this needs one that is active or suspended", tenant.state),
        "finish or retry its other operation first (`tenantry operation list`)",
    ))
}
