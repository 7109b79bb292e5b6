//! Removing a server: refused while anything of ours is on it that somebody may need, with what to do about each.
//!
//! Templates and spares are nobody's: whoever asks for it has them dropped with our roles, or leaves them on a server
//! that is gone. Tenants' databases are never dropped here, but for those that tenants have left, where that is asked.

use std::time::Duration;

use serde::Serialize;
use tenantry_provisioning::{DatabaseName, Proof};
use thiserror::Error;
use tokio::time::timeout;

use super::upkeep::{build_id, templates_of};
use super::{Environment, StepError, way_back};
use crate::catalog::CatalogError;
use crate::catalog::lock::ChoreLock;
use crate::catalog::removal::Belongings;
use crate::catalog::servers::{Edit, ServerChange, ServerRecord};

/// How long whoever tends the server's templates may take to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// What becomes of templates, spares and group roles on a server that is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stock {
    /// A server that has some is not removed.
    Refuse,
    /// They are dropped.
    Drop,
    /// They stay there, and nobody knows of them any more; so does what tenants have left, where that is to go.
    Leave,
}

/// A server that was removed.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Removed {
    /// Its name.
    pub server: String,
    /// Databases of ours that were dropped there.
    pub dropped: Vec<String>,
    /// Roles of ours that something there still needs, and that were left.
    pub roles_left: Vec<String>,
}

/// Why a server was not removed.
#[derive(Debug, Error)]
pub enum RemovalError {
    /// The catalog said no, or something is still there.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The server did not let us drop what is ours.
    #[error(transparent)]
    Step(#[from] StepError),
}

impl Environment {
    /// Removes a server. `drop_kept` drops the databases that tenants have left there: no restore or relocation can be
    /// undone to it then.
    pub async fn remove_server(
        &self,
        name: &str,
        stock: Stock,
        drop_kept: bool,
    ) -> Result<Removed, RemovalError> {
        let record = self.catalog.server_by_name(name).await?;
        self.require_removable(&record, stock, drop_kept).await?;
        if record.cordoned.is_none() {
            // Whoever comes now would find what is dropped next.
            let why = Edit::Set("it is being removed".to_owned());
            let change = ServerChange { cordoned: why, ..ServerChange::default() };
            self.catalog.change_server(name, &change).await?;
        }
        let mut removed =
            Removed { server: name.to_owned(), dropped: Vec::new(), roles_left: Vec::new() };
        if drop_kept {
            self.drop_kept(&record, stock, &mut removed).await?;
        }
        let _tending = match stock {
            Stock::Drop => {
                let chore = self.take_over(&record).await?;
                self.drop_stock(&record, &mut removed).await?;
                Some(chore)
            }
            Stock::Refuse | Stock::Leave => None,
        };
        let is_free = |found: &Belongings| require_free(name, found, stock, false);
        self.catalog.remove_server(record.id, is_free).await?;
        self.forget_server(record.id).await;
        Ok(removed)
    }

    /// Refuses while anything keeps a server, for whoever asks before somebody is asked to confirm it.
    pub async fn require_removable(
        &self,
        record: &ServerRecord,
        stock: Stock,
        drop_kept: bool,
    ) -> Result<(), CatalogError> {
        self.require_no_archive(&record.name)?;
        let found = self.catalog.belongings(record.id).await?;
        require_free(&record.name, &found, stock, drop_kept)
    }

    fn require_no_archive(&self, name: &str) -> Result<(), CatalogError> {
        let archives = self.limits.archives.as_ref();
        if archives.is_none_or(|archives| !archives.stanzas.contains_key(name)) {
            return Ok(());
        }
        Err(CatalogError::Conflict(format!(
            "server `{name}` has a WAL archive from which tenants can be restored to a moment; take it out of \
             TENANTRY_PITR_STANZAS first, once nobody needs that"
        )))
    }

    async fn drop_kept(
        &self,
        record: &ServerRecord,
        stock: Stock,
        removed: &mut Removed,
    ) -> Result<(), RemovalError> {
        for kept in self.catalog.retained_databases(record.id).await? {
            if stock == Stock::Leave {
                way_back::forget_kept(self, &kept).await?;
                continue;
            }
            let dropped = way_back::drop_kept(self, &kept).await;
            dropped.map_err(|error| way_back::name_way_out(error, &record.name))?;
            removed.dropped.push(kept.database.to_string());
        }
        Ok(())
    }

    /// Waits until no replica makes templates there; none does while this is held.
    async fn take_over(&self, record: &ServerRecord) -> Result<ChoreLock, CatalogError> {
        let chore = templates_of(record.id);
        timeout(PATIENCE, self.catalog.await_chore(&chore)).await.unwrap_or_else(|_| {
            Err(CatalogError::Conflict(format!(
                "a replica is making a template on server `{}`; try again",
                record.name
            )))
        })
    }

    async fn drop_stock(
        &self,
        record: &ServerRecord,
        removed: &mut Removed,
    ) -> Result<(), RemovalError> {
        let server = self.server(record.id).await?;
        let mut doomed = vec![super::verify::reference_build()];
        for spare in self.catalog.spares(record.id).await? {
            self.catalog.withdraw_spare(spare.id).await?;
            doomed.extend([DatabaseName::build(spare.id), DatabaseName::spare(spare.id)]);
        }
        for template in self.catalog.templates(record.id).await? {
            let digest = &template.digest;
            doomed.extend([DatabaseName::build(build_id(digest)), DatabaseName::template(digest)]);
        }
        for database in doomed {
            if server.database(&database).await.map_err(StepError::from)?.is_some() {
                let dropped = server.drop_owned_database(&database, Proof::Name).await;
                dropped.map_err(StepError::from)?;
                removed.dropped.push(database.to_string());
            }
        }
        removed.roles_left = server.drop_group_roles().await.map_err(StepError::from)?;
        Ok(())
    }
}

/// Names everything that keeps a server, and what to do about it.
fn require_free(
    name: &str,
    found: &Belongings,
    stock: Stock,
    drop_kept: bool,
) -> Result<(), CatalogError> {
    let mut kept_by = Vec::new();
    if found.tenants > 0 {
        let more = if found.tenants > 3 { ", …" } else { "" };
        kept_by.push(format!(
            "{} ({}{more}): `tenantry server drain {name}` moves them",
            counted(found.tenants, "tenant"),
            found.slugs.join(", ")
        ));
    }
    if let Some(until) = found.kept_until.filter(|_| !drop_kept) {
        kept_by.push(format!(
            "{} that tenants have left, kept until {until:.0}: wait, or drop them with --drop-kept (`drop_kept`)",
            counted(found.kept, "database")
        ));
    }
    if let Some((kind, id)) = found.operations.first() {
        let number = i64::try_from(found.operations.len()).unwrap_or(i64::MAX);
        kept_by.push(format!(
            "{} that names it ({kind} {id}): let it end, or `tenantry operation cancel {id}`",
            counted(number, "operation")
        ));
    }
    if let Some(replica) = found.read_replicas.first() {
        kept_by.push(format!("a read replica: `tenantry server replica remove {name} {replica}`"));
    }
    if stock == Stock::Refuse && found.spares + found.templates > 0 {
        kept_by.push(format!(
            "{} and {} of ours: --clean (`stock=drop`) drops them with our roles, --leave (`stock=leave`) leaves them \
             on a server that is gone",
            counted(found.templates, "template"),
            counted(found.spares, "spare")
        ));
    }
    if kept_by.is_empty() {
        return Ok(());
    }
    let list = kept_by.join("; ");
    Err(CatalogError::Conflict(format!("server `{name}` cannot be removed yet; it has {list}")))
}

fn counted(number: i64, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}
