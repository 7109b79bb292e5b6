//! The column `settings` of `tenants`, changed in place.
//!
//! Invariant: whoever changes one setting leaves what others change at the same time alone. The row is
//! locked from the look at the old settings to the commit of the new ones.

use deadpool_postgres::GenericClient;
use serde_json::{Map, Value, json};
use tokio_postgres::types::Json;

use super::audit_log::{self, Event};
use super::slugs::LEADS_TO;
use super::{Catalog, CatalogError, execute, maybe};
use crate::tenant::settings::SettingsError;
use crate::tenant::{TenantSettings, TenantSlug};

impl Catalog {
    /// Changes a tenant's settings into what `change` makes of them; returns those. Does nothing when
    /// that is an error.
    pub async fn change_settings(
        &self,
        slug: &TenantSlug,
        by: &str,
        change: impl FnOnce(&TenantSettings) -> Result<TenantSettings, SettingsError>,
    ) -> Result<TenantSettings, CatalogError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let after = change_within(&transaction, slug, by, change).await?;
        transaction.commit().await?;
        Ok(after)
    }
}

/// [`Catalog::change_settings`] as a part of something larger.
pub(super) async fn change_within(
    transaction: &impl GenericClient,
    slug: &TenantSlug,
    by: &str,
    change: impl FnOnce(&TenantSettings) -> Result<TenantSettings, SettingsError>,
) -> Result<TenantSettings, CatalogError> {
    let sql = format!(
        "-- settings::lock
         select id, settings from tenants where id = {LEADS_TO} and state <> 'deleted' for update"
    );
    let row = maybe(transaction, &sql, &[&slug.as_str()])
        .await?
        .ok_or_else(|| CatalogError::Missing { what: "tenant", name: slug.to_string() })?;
    let before = TenantSettings::stored(row.get("settings"));
    let after = change(&before)?;
    if after != before {
        execute(
            transaction,
            "-- settings::change\nupdate tenants set settings = $2 where id = $1",
            &[&row.get::<_, uuid::Uuid>("id"), &Json(&after)],
        )
        .await?;
        record(transaction, slug, by, &before, &after).await?;
    }
    Ok(after)
}

/// Writes down what a change of settings changed, section by section.
pub(super) async fn record(
    client: &impl GenericClient,
    slug: &TenantSlug,
    by: &str,
    before: &TenantSettings,
    after: &TenantSettings,
) -> Result<(), CatalogError> {
    let (before, after) = (before.to_value(), after.to_value());
    let sections = [&before, &after].into_iter().filter_map(Value::as_object).flat_map(Map::keys);
    let changed = sections.filter(|name| before.get(name) != after.get(name));
    let detail = changed
        .map(|name| {
            let change = json!({ "before": before.get(name), "after": after.get(name) });
            (name.clone(), change)
        })
        .collect();
    let event = Event { actor: by, action: "settings.changed", tenant: Some(slug), detail };
    audit_log::record(client, &event).await
}
