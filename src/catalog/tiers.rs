//! Rows of `tiers`: what the tenants of each tier may use, where their own settings do not say it.
//!
//! Invariant: whoever changes one limit leaves what others change at the same time alone, as with settings.

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_postgres::Row;

use super::audit_log::{self, Event};
use super::{Catalog, CatalogError, execute, one, rows};
use crate::tenant::Tier;
use crate::tenant::settings::{Limits, SettingsError};

/// One tier.
#[derive(Clone, Debug)]
pub struct TierRecord {
    /// Which.
    pub tier: Tier,
    /// What its tenants may use.
    pub limits: Limits,
    /// How many living tenants are of it.
    pub tenants: i64,
    /// When its limits last changed.
    pub updated_at: Timestamp,
}

impl Catalog {
    /// Every tier.
    pub async fn tiers(&self) -> Result<Vec<TierRecord>, CatalogError> {
        let client = self.client().await?;
        let found = rows(
            &client,
            "-- tiers::list
             select r.name, r.limits, r.updated_at,
                    (select count(*) from tenants t where t.tier = r.name and t.state <> 'deleted') as tenants
             from tiers r order by r.name desc",
            &[],
        )
        .await?;
        Ok(found.iter().map(from_row).collect())
    }

    /// One tier.
    pub async fn tier(&self, tier: Tier) -> Result<TierRecord, CatalogError> {
        let client = self.client().await?;
        let row = one(
            &client,
            "-- tiers::by_name
             select r.name, r.limits, r.updated_at,
                    (select count(*) from tenants t where t.tier = r.name and t.state <> 'deleted') as tenants
             from tiers r where r.name = $1",
            &[&tier.as_str()],
        )
        .await?;
        Ok(from_row(&row))
    }

    /// Changes a tier's limits into what `change` makes of them. Does nothing when that is an error.
    pub async fn change_tier(
        &self,
        tier: Tier,
        by: &str,
        change: impl FnOnce(&mut Value),
    ) -> Result<TierRecord, CatalogError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await.map_err(CatalogError::Database)?;
        let before: Value = one(
            &transaction,
            "-- tiers::lock\nselect limits from tiers where name = $1 for update",
            &[&tier.as_str()],
        )
        .await?
        .get(0);
        let mut after = before.clone();
        change(&mut after);
        let after = checked(after)?;
        if after != before {
            execute(
                &transaction,
                "-- tiers::change\nupdate tiers set limits = $2 where name = $1",
                &[&tier.as_str(), &after],
            )
            .await?;
            let detail = json!({ "tier": tier, "limits": { "before": before, "after": after } });
            let event = Event { actor: by, action: "tier.changed", tenant: None, detail };
            audit_log::record(&transaction, &event).await?;
        }
        transaction.commit().await.map_err(CatalogError::Database)?;
        self.tier(tier).await
    }
}

/// Limits as they are written down. What another version knows and this one does not is no limit here: it is
/// refused rather than lost.
fn checked(limits: Value) -> Result<Value, SettingsError> {
    Ok(serde_json::to_value(Limits::parse(limits)?).expect("limits are plain data"))
}

fn from_row(row: &Row) -> TierRecord {
    TierRecord {
        tier: Tier::parse(row.get("name")).expect("checked by the table"),
        limits: Limits::stored(row.get("limits")),
        tenants: row.get("tenants"),
        updated_at: row.get("updated_at"),
    }
}
