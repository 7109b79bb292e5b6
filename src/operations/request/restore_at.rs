//! Asking for what a tenant had at a moment.

use jiff::Timestamp;
use uuid::Uuid;

use super::{Environment, Requester, RestoreAs, Work};
use crate::catalog::CatalogError;
use crate::catalog::operations::OperationRecord;
use crate::tenant::{Tenant, TenantSlug, TenantState};

/// A moment in a tenant's past.
#[derive(Clone, Copy, Debug)]
pub struct PointInTime<'a> {
    /// The moment.
    pub at: Timestamp,
    /// The server that the tenant was on then, if not the one that it is on.
    pub archive_of: Option<&'a str>,
}

impl Environment {
    /// Puts what a tenant had at a moment in the place of its live database, and the tenant on this server.
    pub async fn restore_at(
        &self,
        slug: &TenantSlug,
        point: PointInTime<'_>,
        server: Option<&str>,
        by: Requester<'_>,
    ) -> Result<OperationRecord, CatalogError> {
        let tenant = self.catalog.tenant(slug).await?;
        let archive = self.archive_of(&tenant, point).await?;
        let server = self.place_of(&tenant, server).await?;
        let work = Work::RestoreAt { at: point.at, archive, server };
        self.ask_of(&tenant, &TenantState::SETTLED, &work, by).await
    }

    /// Makes another tenant of what one had at a moment: with an id, a key, a role and a password of its own.
    pub async fn restore_at_as(
        &self,
        slug: &TenantSlug,
        point: PointInTime<'_>,
        to: RestoreAs,
        by: Requester<'_>,
    ) -> Result<OperationRecord, CatalogError> {
        if let Some(earlier) = self.earlier(by, "restore_at_as").await? {
            return Ok(earlier);
        }
        let original = self.catalog.tenant(slug).await?;
        let archive = self.archive_of(&original, point).await?;
        let work = Work::RestoreAtAs { at: point.at, archive, of: original.id };
        self.copy_tenant(&original, to, &work, by).await
    }

    /// The server in whose archive the moment is, where it can be in any.
    async fn archive_of(
        &self,
        tenant: &Tenant,
        point: PointInTime<'_>,
    ) -> Result<Uuid, CatalogError> {
        let (slug, at) = (&tenant.slug, point.at);
        let name = point.archive_of.unwrap_or(&tenant.server_name);
        let server = self.catalog.server_by_name(name).await?.id;
        let archives = self.limits.archives.as_ref();
        if archives.is_none_or(|archives| !archives.stanzas.contains_key(name)) {
            return Err(CatalogError::Conflict(format!(
                "no WAL archive of the server {name} is configured here; name what pgBackRest calls it in \
                 TENANTRY_PITR_STANZAS (`{name}=<stanza>`), or restore a backup: `tenantry restore {slug} --before …`"
            )));
        }
        if at > Timestamp::now() {
            return Err(CatalogError::Conflict(format!(
                "{at} is still to come; choose a time that has passed"
            )));
        }
        match made_at(tenant.id) {
            Some(made) if at < made => Err(CatalogError::Conflict(format!(
                "tenant {slug} did not exist at {at}; choose a time after {made}"
            ))),
            _ => Ok(server),
        }
    }
}

/// When an id was made: nothing can have carried it before, whatever catalog it has come to since.
fn made_at(id: Uuid) -> Option<Timestamp> {
    let (seconds, nanoseconds) = id.get_timestamp()?.to_unix();
    Timestamp::new(i64::try_from(seconds).ok()?, i32::try_from(nanoseconds).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_says_when_it_was_made() {
        let made = made_at(Uuid::now_v7()).unwrap();

        assert!(Timestamp::now().duration_since(made).as_secs() < 10);
        assert_eq!(made_at(Uuid::new_v4()), None);
    }
}
