//! The row of `schema_freeze`: the version beyond which no tenant is migrated.
//!
//! A worker reads it together with the operation that it takes, so whoever freezes the fleet waits for nobody:
//! what is taken afterwards keeps to it, and only what is under way at that moment ends as it began.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_postgres::Row;
use utoipa::ToSchema;

use super::audit_log::{self, Event};
use super::{Catalog, CatalogError, maybe, one};

/// The version at which the fleet is frozen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Freeze {
    /// No tenant is migrated beyond it.
    pub version: i64,
    /// Who said so.
    pub frozen_by: String,
    /// When.
    pub frozen_at: Timestamp,
}

impl Freeze {
    fn from_row(row: &Row) -> Self {
        Self {
            version: row.get("version"),
            frozen_by: row.get("frozen_by"),
            frozen_at: row.get("frozen_at"),
        }
    }
}

impl Catalog {
    /// How far tenants may be migrated; none where nothing is held back.
    pub async fn freeze(&self) -> Result<Option<Freeze>, CatalogError> {
        let found = maybe(
            &self.client().await?,
            "-- freeze::get\nselect version, frozen_by, frozen_at from schema_freeze",
            &[],
        )
        .await?;
        Ok(found.as_ref().map(Freeze::from_row))
    }

    /// Lets nobody be migrated beyond a version.
    pub async fn freeze_at(&self, version: i64, by: &str) -> Result<Freeze, CatalogError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let row = one(
            &transaction,
            "-- freeze::set
             insert into schema_freeze (version, frozen_by) values ($1, $2)
             on conflict (is_only) do update
             set version = excluded.version, frozen_by = excluded.frozen_by, frozen_at = now()
             returning version, frozen_by, frozen_at, (select version from schema_freeze) as before",
            &[&version, &by],
        )
        .await?;
        let detail = json!({ "before": row.get::<_, Option<i64>>("before"), "version": version });
        let event = Event { actor: by, action: "migrations.frozen", tenant: None, detail };
        audit_log::record(&transaction, &event).await?;
        transaction.commit().await?;
        Ok(Freeze::from_row(&row))
    }

    /// Lets everybody be migrated again; returns what was in force.
    pub async fn unfreeze(&self, by: &str) -> Result<Option<Freeze>, CatalogError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let lifted = maybe(
            &transaction,
            "-- freeze::lift\ndelete from schema_freeze returning version, frozen_by, frozen_at",
            &[],
        )
        .await?;
        let lifted = lifted.as_ref().map(Freeze::from_row);
        if let Some(freeze) = &lifted {
            let detail = json!({ "version": freeze.version });
            let event = Event { actor: by, action: "migrations.unfrozen", tenant: None, detail };
            audit_log::record(&transaction, &event).await?;
        }
        transaction.commit().await?;
        Ok(lifted)
    }
}
