//! [`Context`]: what every command works with.

use std::fs;

use crate::catalog::Catalog;
use crate::cli::{OutputFormat, Result};
use crate::config::Settings;
use crate::operations::Environment;
use crate::operations::request::Requester;

/// What every command works with.
#[derive(Clone, Debug)]
pub struct Context {
    /// What the operator decided.
    pub settings: Settings,
    /// How results are printed.
    pub output: OutputFormat,
    /// Whether only results and errors are printed.
    pub quiet: bool,
    /// Who gives the command, for the record.
    pub actor: String,
}

impl Context {
    /// The catalog, found to be there, of our version and under our key.
    pub async fn catalog(&self) -> Result<Catalog> {
        let catalog = self.settings.catalog()?;
        catalog.verify().await?;
        Ok(catalog.asked_by(&self.actor))
    }

    /// Everything that operations work with.
    pub async fn environment(&self) -> Result<Environment> {
        let catalog = self.catalog().await?;
        let store = self.settings.store().await?;
        let environment = Environment::new(catalog, store, self.settings.limits()).await?;
        Ok(environment.with_webhook(self.settings.webhook.clone()))
    }

    /// The same command, with room for so many operations at a time.
    #[must_use]
    pub fn with_concurrency(&self, operations: usize) -> Self {
        let mut context = self.clone();
        context.settings.worker_concurrency = operations;
        context
    }

    /// The same command, with room for so many dumps or copies at a time. While one operation copies, another writes
    /// its notes: so there is room for twice as many operations.
    #[must_use]
    pub fn with_copies(&self, copies: usize) -> Self {
        let mut context = self.with_concurrency(2 * copies);
        context.settings.backup_concurrency = copies;
        context
    }

    /// Who asks for operations.
    #[must_use]
    pub fn requester(&self) -> Requester<'_> {
        Requester { name: &self.actor, idempotency_key: None }
    }
}

/// Who gives this command, for the record.
pub fn actor() -> String {
    format!("cli:{}", user_name())
}

/// The name of the user who runs this process; the number where the system keeps its names elsewhere.
#[cfg(unix)]
fn user_name() -> String {
    use std::os::unix::fs::MetadataExt as _;

    let Ok(process) = fs::metadata("/proc/self") else { return "unknown".to_owned() };
    let uid = process.uid();
    let accounts = fs::read_to_string("/etc/passwd").unwrap_or_default();
    name_of(uid, &accounts).map_or_else(|| uid.to_string(), str::to_owned)
}

/// Finds a user in the text of `/etc/passwd`.
fn name_of(uid: u32, accounts: &str) -> Option<&str> {
    let uid = uid.to_string();
    accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_the_name_of_the_account() {
        let accounts = "root:x:0:0:root:/root:/bin/bash\nana:x:1000:1000::/home/ana:/bin/sh\n";

        assert_eq!(name_of(1000, accounts), Some("ana"));
        assert_eq!(name_of(0, accounts), Some("root"));
        assert_eq!(name_of(7, accounts), None);
    }
}
