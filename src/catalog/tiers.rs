//! Rows of `tiers`: what the tenants of each tier may use, and how they are backed up, where their own
//! settings do not say it.
//!
//! Invariant: whoever changes one field leaves what others change at the same time alone, as with settings.

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_postgres::Row;

use super::audit_log::{self, Event};
use super::{Catalog, CatalogError, execute, one, rows};
use crate::tenant::Tier;
use crate::tenant::settings::{BackupPolicy, Limits, SettingsError};

/// One tier.
#[derive(Clone, Debug)]
pub struct TierRecord {
    /// Which.
    pub tier: Tier,
    /// What its tenants may use.
    pub limits: Limits,
    /// How they are backed up.
    pub backup: BackupPolicy,
    /// How many living tenants are of it.
    pub tenants: i64,
    /// When it last changed.
    pub updated_at: Timestamp,
}

impl Catalog {
    /// Every tier.
    pub async fn tiers(&self) -> Result<Vec<TierRecord>, CatalogError> {
        let client = self.client().await?;
        let found = rows(
            &client,
            "-- tiers::list
             select r.name, r.limits, r.backup, r.updated_at,
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
             select r.name, r.limits, r.backup, r.updated_at,
                    (select count(*) from tenants t where t.tier = r.name and t.state <> 'deleted') as tenants
             from tiers r where r.name = $1",
            &[&tier.as_str()],
        )
        .await?;
        Ok(from_row(&row))
    }

    /// Changes a tier's limits, and how its tenants are backed up, into what `change` makes of them. Does nothing when
    /// that is an error.
    pub async fn change_tier(
        &self,
        tier: Tier,
        by: &str,
        change: impl FnOnce((&mut Value, &mut Value)),
    ) -> Result<TierRecord, CatalogError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let row = one(
            &transaction,
            "-- tiers::lock\nselect limits, backup from tiers where name = $1 for update",
            &[&tier.as_str()],
        )
        .await?;
        let before: (Value, Value) = (row.get(0), row.get(1));
        let mut after = before.clone();
        change((&mut after.0, &mut after.1));
        let after = (checked(after.0)?, checked_backup(after.1)?);
        if after != before {
            execute(
                &transaction,
                "-- tiers::change
                 update tiers set limits = $2, backup = $3, updated_at = now() where name = $1",
                &[&tier.as_str(), &after.0, &after.1],
            )
            .await?;
            let mut detail = json!({ "tier": tier });
            for (name, before, after) in
                [("limits", before.0, after.0), ("backup", before.1, after.1)]
            {
                if before != after {
                    detail[name] = json!({ "before": before, "after": after });
                }
            }
            let event = Event { actor: by, action: "tier.changed", tenant: None, detail };
            audit_log::record(&transaction, &event).await?;
        }
        transaction.commit().await?;
        self.tier(tier).await
    }
}

/// Limits as they are written down. What another version knows and this one does not is no limit here: it is
/// refused rather than lost.
fn checked(limits: Value) -> Result<Value, SettingsError> {
    Ok(serde_json::to_value(Limits::parse(limits)?).expect("limits are plain data"))
}

fn checked_backup(backup: Value) -> Result<Value, SettingsError> {
    Ok(serde_json::to_value(BackupPolicy::parse_of_tier(backup)?).expect("policies are plain data"))
}

fn from_row(row: &Row) -> TierRecord {
    TierRecord {
        tier: Tier::parse(row.get("name")).expect("checked by the table"),
        limits: Limits::stored(row.get("limits")),
        backup: BackupPolicy::stored(row.get("backup")),
        tenants: row.get("tenants"),
        updated_at: row.get("updated_at"),
    }
}
