//! Asking for restores, and for their undoing.

use jiff::Timestamp;
use uuid::Uuid;

use super::{Environment, Requester, Work};
use crate::catalog::CatalogError;
use crate::catalog::backups::BackupRecord;
use crate::catalog::operations::OperationRecord;
use crate::tenant::{TenantSlug, TenantState};

/// Which backup to restore.
#[derive(Clone, Copy, Debug)]
pub enum BackupChoice {
    /// This one.
    Id(Uuid),
    /// The newest good one.
    Latest,
    /// The newest good one that was started before this moment.
    Before(Timestamp),
}

/// The tenant that a backup is to become.
#[derive(Clone, Debug)]
pub struct RestoreAs {
    /// Its slug.
    pub slug: TenantSlug,
    /// Its server; the one with the fewest tenants when none is named.
    pub server: Option<String>,
}

impl Environment {
    /// Puts a backup in the place of a tenant's live database, on the tenant's own server.
    pub async fn restore(
        &self,
        slug: &TenantSlug,
        choice: BackupChoice,
        by: Requester<'_>,
    ) -> Result<OperationRecord, CatalogError> {
        self.restore_on(slug, choice, None, by).await
    }

    /// Puts a backup in the place of a tenant's live database, and the tenant on this server.
    pub async fn restore_on(
        &self,
        slug: &TenantSlug,
        choice: BackupChoice,
        server: Option<&str>,
        by: Requester<'_>,
    ) -> Result<OperationRecord, CatalogError> {
        self.require_store()?;
        let backup = self.choose_backup(slug, choice).await?;
        let tenant = self.catalog.tenant(slug).await?;
        if backup.tenant_id != tenant.id {
            return Err(CatalogError::Conflict(format!(
                "backup {} belongs to another tenant, which was called {slug} once; make a tenant of its \
                 own from it with `--as`",
                backup.id
            )));
        }
        let server = self.place_of(&tenant, server).await?;
        let work = Work::Restore { backup: backup.id, server };
        self.ask_of(&tenant, &TenantState::SETTLED, &work, by).await
    }

    /// Makes another tenant of a backup: with an id, a key, a role and a password of its own.
    pub async fn restore_as(
        &self,
        slug: &TenantSlug,
        choice: BackupChoice,
        to: RestoreAs,
        by: Requester<'_>,
    ) -> Result<OperationRecord, CatalogError> {
        self.require_store()?;
        if let Some(earlier) = self.earlier(by, "restore_as").await? {
            return Ok(earlier);
        }
        let backup = self.choose_backup(slug, choice).await?;
        let original = self.catalog.tenant_by_id(backup.tenant_id).await?;
        let work = Work::RestoreAs { backup: backup.id, suspended: false };
        self.copy_tenant(&original, to, &work, by).await
    }

    /// Restores one table of a backup into a schema beside, `restored_<time>`; nothing else is touched.
    pub async fn restore_table(
        &self,
        slug: &TenantSlug,
        choice: BackupChoice,
        table: &str,
        by: Requester<'_>,
    ) -> Result<OperationRecord, CatalogError> {
        self.require_store()?;
        let backup = self.choose_backup(slug, choice).await?.id;
        // Of this moment, so that a second restore does not meet the first.
        let schema = Timestamp::now().strftime("restored_%Y%m%dt%H%M%S%3fz").to_string();
        let work = Work::RestoreTable { backup, table: table.to_owned(), schema };
        self.ask(slug, &TenantState::SETTLED, &work, by).await
    }

    /// Puts back the database that the tenant's last restore replaced.
    pub async fn undo_restore(
        &self,
        slug: &TenantSlug,
        by: Requester<'_>,
    ) -> Result<OperationRecord, CatalogError> {
        let tenant = self.catalog.tenant(slug).await?;
        let Some(retained) = self.catalog.newest_retained(tenant.id).await? else {
            return Err(CatalogError::Conflict(format!(
                "no replaced database of tenant {slug} is kept; restore a backup instead: \
                 `tenantry backup list {slug}`"
            )));
        };
        let operation = retained.operation_id;
        let left = self.catalog.left_by(&tenant).await?;
        if let Some(left) = left.iter().find(|left| left.operation == operation)
            && left.is_following()
        {
            return Err(CatalogError::Conflict(format!(
                "what tenant {slug} left on server {} follows it, and has all that was written since; go back to it \
                 with `tenantry tenant relocate {slug} --back`, or restore a backup",
                left.server_name
            )));
        }
        let work = Work::UndoRestore { operation, server: retained.server_id };
        self.ask(slug, &TenantState::SETTLED, &work, by).await
    }

    /// Restores the newest good backup of a tenant to a scratch database, to prove it.
    pub async fn drill_tenant(
        &self,
        slug: &TenantSlug,
        by: Requester<'_>,
    ) -> Result<OperationRecord, CatalogError> {
        self.require_store()?;
        let backup = self.choose_backup(slug, BackupChoice::Latest).await?.id;
        self.ask(slug, &TenantState::SETTLED, &Work::Drill { backup }, by).await
    }

    /// The backup that is meant, which must be this tenant's.
    pub async fn choose_backup(
        &self,
        slug: &TenantSlug,
        choice: BackupChoice,
    ) -> Result<BackupRecord, CatalogError> {
        let before = match choice {
            BackupChoice::Id(id) => {
                let backup = self.catalog.backup(id).await?;
                // Of a tenant that is gone only its slug is left to compare.
                if backup.slug != *slug && self.catalog.tenant(slug).await?.id != backup.tenant_id {
                    return Err(CatalogError::Conflict(format!(
                        "backup {id} belongs to another tenant than {slug}; list this tenant's with \
                         `tenantry backup list {slug}`"
                    )));
                }
                if let Some(moment) = backup.erased_at {
                    return Err(CatalogError::Conflict(format!(
                        "the key of backup {id} was destroyed at {moment}, so nobody can read it; see the \
                         certificate: `tenantry erasure list {slug}`"
                    )));
                }
                return Ok(backup);
            }
            BackupChoice::Latest => None,
            BackupChoice::Before(moment) => Some(moment),
        };
        let tenant = self.owner_of_backups(slug).await?;
        let newest = self.catalog.newest_backup(tenant.id, before).await?;
        newest.ok_or_else(|| CatalogError::Missing {
            what: "suitable backup of tenant",
            name: slug.to_string(),
        })
    }
}
