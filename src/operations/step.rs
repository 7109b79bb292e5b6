//! [`Plan`] and [`Step`]: what an operation does, in order; and [`StepContext`], what a step works with.

use std::sync::{Mutex, PoisonError};

use futures_util::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tenantry_provisioning::{DatabaseName, MigrationSet, Owner, Server};

use super::{Environment, StepError, Work};
use crate::catalog::TenantLock;
use crate::catalog::operations::OperationRecord;
use crate::tenant::Tenant;

/// The steps of one kind of operation.
#[derive(Debug)]
pub struct Plan {
    /// What is done, in order.
    pub steps: &'static [Step],
    /// What undoes it, in order; empty where there is nothing to undo.
    pub abandon: &'static [Step],
    /// Once this many steps are done, the operation can no longer be given up.
    pub no_return: usize,
}

/// One idempotent part of an operation.
pub struct Step {
    /// Its name in logs, errors and `operation show`.
    pub name: &'static str,
    pub(super) run: for<'a> fn(&'a StepContext<'a>) -> StepFuture<'a>,
}

/// What a step returns.
pub(super) type StepFuture<'a> = BoxFuture<'a, Result<(), StepError>>;

/// What a step may use.
pub struct StepContext<'a> {
    /// Servers, object store, migrations and limits.
    pub environment: &'a Environment,
    /// The operation as it was when the worker took it.
    pub operation: &'a OperationRecord,
    /// What it does, with its parameters.
    pub(super) work: &'a Work,
    /// The tenant as it was when this step began.
    pub tenant: Tenant,
    /// Proof that nobody else is at this tenant.
    pub lock: &'a TenantLock,
    /// The migration files as they were when the worker took it; they may be others on the disk by now.
    pub(super) files: &'a MigrationSet,
    /// What earlier steps and attempts wrote down; the catalog has the same.
    pub(super) memory: &'a Mutex<Value>,
}

impl Plan {
    /// The list that is to be run.
    #[must_use]
    pub fn list(&self, abandoning: bool) -> &'static [Step] {
        if abandoning { self.abandon } else { self.steps }
    }

    /// Whether an operation that has done so many steps can still be given up.
    #[must_use]
    pub fn may_be_given_up(&self, completed_steps: i32) -> bool {
        usize::try_from(completed_steps).is_ok_and(|done| done < self.no_return)
    }
}

impl Step {
    pub(super) const fn new(
        name: &'static str,
        run: for<'a> fn(&'a StepContext<'a>) -> StepFuture<'a>,
    ) -> Self {
        Self { name, run }
    }
}

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl StepContext<'_> {
    /// The tenant's server.
    pub(super) async fn server(&self) -> Result<Server, StepError> {
        self.environment.server(self.tenant.server_id).await
    }

    /// Whom what this operation makes belongs to.
    pub(super) fn owner(&self) -> Owner {
        Owner { tenant: self.tenant.id, operation: self.operation.id }
    }

    /// The database that this operation makes beside the tenant's own.
    pub(super) fn build(&self) -> DatabaseName {
        DatabaseName::build(self.operation.id)
    }

    /// The migration files to run: those above the version at which the fleet is frozen are held back.
    pub(super) fn migrations(&self) -> MigrationSet {
        self.lock.ceiling().map_or_else(|| self.files.clone(), |ceiling| self.files.up_to(ceiling))
    }

    /// What an earlier step wrote down under this key. What cannot be read is an error: taken for nothing, it would
    /// be done once more, or not be undone.
    pub(super) fn recall<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, StepError> {
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(note) = memory.get(key) else { return Ok(None) };
        T::deserialize(note).map(Some).map_err(|error| {
            StepError::fail(
                format!("the operation's note `{key}` cannot be read: {error}"),
                "see that every replica runs the same version, then retry",
            )
        })
    }

    /// Writes down what a later step, or a later attempt, must know; before the next step begins.
    pub(super) async fn remember(
        &self,
        key: &str,
        value: &impl Serialize,
    ) -> Result<(), StepError> {
        let value = serde_json::to_value(value).expect("notes are plain data");
        self.lock.remember(key, &value).await?;
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)[key] = value;
        Ok(())
    }
}
