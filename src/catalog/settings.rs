//! The column `settings` of `tenants`, changed in place.
//!
//! Invariant: whoever changes one setting leaves what others change at the same time alone. The row is
//! locked from the look at the old settings to the commit of the new ones.

use tokio_postgres::types::Json;

use super::{Catalog, CatalogError, execute, maybe};
use crate::tenant::settings::SettingsError;
use crate::tenant::{TenantSettings, TenantSlug};

impl Catalog {
    /// Changes a tenant's settings into what `change` makes of them; returns those. Does nothing when
    /// that is an error.
    pub async fn change_settings(
        &self,
        slug: &TenantSlug,
        change: impl FnOnce(&TenantSettings) -> Result<TenantSettings, SettingsError>,
    ) -> Result<TenantSettings, CatalogError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await.map_err(CatalogError::Database)?;
        let row = maybe(
            &transaction,
            "-- settings::lock
             select id, settings from tenants where slug = $1 and state <> 'deleted' for update",
            &[&slug.as_str()],
        )
        .await?
        .ok_or_else(|| CatalogError::Missing { what: "tenant", name: slug.to_string() })?;
        let before = TenantSettings::stored(row.get("settings"));
        let after = change(&before)?;
        if after != before {
            execute(
                &transaction,
                "-- settings::change\nupdate tenants set settings = $2 where id = $1",
                &[&row.get::<_, uuid::Uuid>("id"), &Json(&after)],
            )
            .await?;
        }
        transaction.commit().await.map_err(CatalogError::Database)?;
        Ok(after)
    }
}
