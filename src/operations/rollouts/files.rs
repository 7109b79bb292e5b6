//! The files that a rollout belongs to, beside those that are here. A rollout goes on with exactly the files that
//! it was planned with, or not at all: else its first tenants would have another schema than its last. Nor does it go
//! beyond a freeze.

use std::time::{Duration, Instant};

use serde::Serialize;
use tenantry_provisioning::MigrationSet;
use utoipa::ToSchema;

use super::{Environment, RolloutState};
use crate::catalog::CatalogError;
use crate::catalog::operations::Failure;
use crate::catalog::rollouts::RolloutRecord;
use crate::operations::chain;

/// How long nobody may have the files of a rollout before it is held, for everybody to see. As long as it takes
/// to replace the replicas of a deployment by those that have them.
const ALONE: Duration = Duration::from_mins(5);

/// A file that is otherwise than it was when a rollout began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct FileChange {
    /// Its name.
    pub file: String,
    /// What became of it.
    pub change: Change,
}

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It has another content.
    Edited,
    /// It is not here.
    Missing,
    /// It was not there.
    Added,
}

/// A rollout that is left to others, since nobody seems to lead it.
pub(super) struct Abandoned {
    rollout: uuid::Uuid,
    since: Instant,
}

/// What these files have otherwise than those of a rollout; empty where they are the same, and where an older
/// program has not written down which they were.
#[must_use]
pub fn changes(record: &RolloutRecord, set: &MigrationSet) -> Vec<FileChange> {
    if record.migrations_digest == set.directory_digest() || record.files.is_empty() {
        return Vec::new();
    }
    let mut changes = Vec::new();
    let mut note = |file: &str, change| changes.push(FileChange { file: file.to_owned(), change });
    for (file, sha256) in set.checksums() {
        match record.files.get(file) {
            None => note(file, Change::Added),
            Some(planned) if planned != sha256 => note(file, Change::Edited),
            Some(_) => {}
        }
    }
    for file in record.files.keys() {
        if !set.checksums().any(|(here, _)| here == file) {
            note(file, Change::Missing);
        }
    }
    changes
}

/// Why a rollout cannot go on with these files, and what to do; none where it can.
#[must_use]
pub fn contradiction(record: &RolloutRecord, set: &MigrationSet) -> Option<Failure> {
    if record.migrations_digest == set.directory_digest() {
        return None;
    }
    let id = record.id;
    let changes = changes(record, set);
    let mut list: Vec<String> = changes.iter().take(5).map(FileChange::describe).collect();
    if let Some(more) = changes.len().checked_sub(list.len()).filter(|more| *more > 0) {
        list.push(format!("and {more} more"));
    }
    let list = if list.is_empty() { String::new() } else { format!(": {}", list.join(", ")) };
    let another = format!(
        "`tenantry migrate abort {id}` gives it up, and `tenantry migrate up` starts another"
    );
    let remedy = match record.state {
        RolloutState::Running => {
            format!("whoever has those files leads it; if nobody has, {another}")
        }
        RolloutState::Paused => format!(
            "put them back as they were, or go where they are, then `tenantry migrate resume {id}`; or {another}"
        ),
        _ => {
            format!("put them back as they were, then `tenantry migrate resume {id}`; or {another}")
        }
    };
    Some(Failure {
        step: "files".to_owned(),
        message: format!(
            "the migration files here are not those that rollout {id} began with{list}"
        ),
        remedy: Some(remedy),
    })
}

/// The first of the files that a rollout brought to tenants and that is another one now.
fn edited_since(before: &RolloutRecord, set: &MigrationSet) -> Option<String> {
    let brought = set.up_to(before.target_version);
    let edited = |(file, sha256): &(&str, &str)| {
        file.starts_with('V') && before.files.get(*file).is_some_and(|then| then != sha256)
    };
    brought.checksums().find(edited).map(|(file, _)| file.to_owned())
}

/// Why a rollout must wait that goes beyond the version at which the fleet is frozen.
pub(super) fn frozen(record: &RolloutRecord) -> Option<Failure> {
    let ceiling = record.ceiling.filter(|ceiling| *ceiling < record.target_version)?;
    let (id, target) = (record.id, record.target_version);
    let message = format!(
        "the fleet is frozen at version {ceiling}, and the rollout goes to version {target}"
    );
    let remedy = format!(
        "`tenantry migrate unfreeze`, then `tenantry migrate resume {id}`; or `tenantry migrate abort {id}` gives \
         it up"
    );
    Some(Failure { step: "freeze".to_owned(), message, remedy: Some(remedy) })
}

impl FileChange {
    fn describe(&self) -> String {
        let what = match self.change {
            Change::Edited => "has been edited",
            Change::Missing => "is missing",
            Change::Added => "is new",
        };
        format!("{} {what}", self.file)
    }
}

impl Environment {
    /// Refuses files of which the last rollout brought others of the same name: tenants would get another schema than
    /// those that have them.
    pub(in crate::operations) async fn require_unedited(
        &self,
        set: &MigrationSet,
    ) -> Result<(), CatalogError> {
        let Some(before) = self.catalog.last_rollout_that_reached().await? else { return Ok(()) };
        let Some(file) = edited_since(&before, set) else { return Ok(()) };
        Err(CatalogError::Conflict(format!(
            "{file} is not what rollout {} brought to tenants: put it back as it was, and what is new into a file \
             with the next number",
            before.id
        )))
    }

    /// Leaves a rollout of other files to whoever has those. If that is nobody for long, it is held: a rollout
    /// that does not go on must say so.
    pub(super) async fn leave_to_others(&self, open: &RolloutRecord, seen: &mut Option<Abandoned>) {
        match self.catalog.try_chore("rollout").await {
            Ok(Some(nobody_leads)) => nobody_leads.end().await,
            Ok(None) => return *seen = None,
            Err(error) => {
                return tracing::debug!(error = %chain(&error), "the rollout cannot be looked at");
            }
        }
        let now = Instant::now();
        let known = seen.get_or_insert_with(|| Abandoned { rollout: open.id, since: now });
        if known.rollout != open.id || known.since == now {
            *known = Abandoned { rollout: open.id, since: now };
            tracing::warn!(
                rollout = %open.id,
                "the open rollout began with other migration files; it is left to those who have them"
            );
        } else if known.since.elapsed() >= ALONE {
            *seen = None;
            if let Err(error) = self.hold_for_its_files(open).await {
                tracing::warn!(error = %chain(&error), "a rollout that nobody leads cannot be held");
            }
        }
    }

    /// Holds a rollout that began with other files than these.
    pub async fn hold_for_its_files(&self, open: &RolloutRecord) -> Result<(), CatalogError> {
        if let Some(reason) = contradiction(open, &self.migrations()) {
            self.catalog.pause_rollout(open.id, &reason).await?;
        }
        Ok(())
    }
}
