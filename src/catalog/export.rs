//! The catalog as a document: what is needed to know every tenant again, and nothing of what is under way.
//!
//! Secrets stand in it as they stand in the catalog: sealed under the master key. The keys of backups do not:
//! each is in the manifests of what it opens, and nowhere else, so that it can be destroyed.

use std::collections::BTreeMap;

use jiff::Timestamp;
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::{Catalog, CatalogError, rows};
use crate::sealing::Purpose;

/// What a later version must be able to read.
const FORMAT: u32 = 1;

/// Tables, and the rows of them that are kept, in the order in which they can be filled again.
const TABLES: [(&str, &str); 8] = [
    ("servers", "true"),
    ("tiers", "true"),
    ("tenants", "true"),
    ("tenant_slugs", "leads"),
    ("members", "true"),
    ("domains", "true"),
    ("read_replicas", "true"),
    ("admin_tokens", "revoked_at is null"),
];

/// The catalog, and the settings in force.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CatalogExport {
    /// The form of this document.
    pub format: u32,
    /// When it was made.
    pub exported_at: Timestamp,
    /// The master key that its secrets are sealed under.
    pub master_key_id: String,
    /// Settings by name; of those that are secrets, only whether they are set.
    pub settings: BTreeMap<String, String>,
    /// Rows by table.
    pub tables: BTreeMap<String, Vec<Value>>,
}

impl CatalogExport {
    /// The rows of one table.
    #[must_use]
    pub fn rows(&self, table: &str) -> &[Value] {
        self.tables.get(table).map_or(&[], Vec::as_slice)
    }
}

impl Catalog {
    /// The catalog of one moment.
    pub async fn export(
        &self,
        settings: &BTreeMap<String, String>,
    ) -> Result<CatalogExport, CatalogError> {
        let mut client = self.client().await?;
        let transaction = client
            .build_transaction()
            .isolation_level(tokio_postgres::IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()
            .await?;
        let mut tables = BTreeMap::new();
        for (table, kept) in TABLES {
            // Row by row: one value of PostgreSQL cannot hold a large table.
            let sql = format!(
                "-- export::table
                 select to_jsonb(t) - 'backup_key_sealed' from {table} t where {kept}"
            );
            let found = rows(&transaction, &sql, &[]).await?;
            tables.insert(table.to_owned(), found.iter().map(|row| row.get(0)).collect());
        }
        transaction.commit().await?;
        Ok(CatalogExport {
            format: FORMAT,
            exported_at: Timestamp::now(),
            master_key_id: self.master_key_id(),
            settings: settings.clone(),
            tables,
        })
    }

    /// The document for a place where others may look: sealed as a whole.
    #[must_use]
    pub fn seal_export(&self, export: &CatalogExport) -> Vec<u8> {
        let text = serde_json::to_string(export).expect("a document has only text keys");
        self.seal(Purpose::CatalogBackup, Uuid::nil(), &text.into())
    }

    /// Opens what [`Catalog::seal_export`] has sealed.
    pub fn open_export(&self, sealed: &[u8]) -> Result<CatalogExport, CatalogError> {
        let text = self.open(Purpose::CatalogBackup, Uuid::nil(), sealed)?;
        let corrupt = |what: String| CatalogError::Corrupt(format!("a catalog backup: {what}"));
        let export: CatalogExport = serde_json::from_str(text.expose_secret())
            .map_err(|error| corrupt(error.to_string()))?;
        if export.format > FORMAT {
            return Err(corrupt(format!(
                "it has format {}, which only a newer version reads",
                export.format
            )));
        }
        Ok(export)
    }
}
