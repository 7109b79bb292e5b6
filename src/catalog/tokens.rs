//! Rows of `admin_tokens`: who may use the admin API, and for what.
//!
//! A token is shown once, when it is made; the catalog keeps its SHA-256.

use aws_lc_rs::{digest, rand};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use super::audit_log::{self, Event};
use super::{Catalog, CatalogError, execute, maybe, rows};

/// What a token allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
pub enum Scope {
    /// See tenants and operations.
    #[serde(rename = "tenants:read")]
    TenantsRead,
    /// Create, change, suspend and delete tenants.
    #[serde(rename = "tenants:write")]
    TenantsWrite,
    /// Run migrations.
    #[serde(rename = "migrate")]
    Migrate,
    /// Take and list backups.
    #[serde(rename = "backup")]
    Backup,
    /// Restore a backup over a live tenant.
    #[serde(rename = "restore")]
    Restore,
    /// Read the audit log; audit isolation, and read what audits found.
    #[serde(rename = "audit")]
    Audit,
    /// See and change servers.
    #[serde(rename = "servers")]
    Servers,
    /// Act as an application: reach any tenant's data through the data plane.
    #[serde(rename = "data")]
    Data,
    /// Read metrics.
    #[serde(rename = "metrics")]
    Metrics,
}

/// A token without its secret.
#[derive(Clone, Debug)]
pub struct TokenRecord {
    /// Its id.
    pub id: Uuid,
    /// Its name; it stands for its holder in records.
    pub name: String,
    /// What it allows.
    pub scopes: Vec<Scope>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Since when it is void.
    pub revoked_at: Option<Timestamp>,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 9] = [
        Self::TenantsRead,
        Self::TenantsWrite,
        Self::Migrate,
        Self::Backup,
        Self::Restore,
        Self::Audit,
        Self::Servers,
        Self::Data,
        Self::Metrics,
    ];

    /// The scope's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TenantsRead => "tenants:read",
            Self::TenantsWrite => "tenants:write",
            Self::Migrate => "migrate",
            Self::Backup => "backup",
            Self::Restore => "restore",
            Self::Audit => "audit",
            Self::Servers => "servers",
            Self::Data => "data",
            Self::Metrics => "metrics",
        }
    }

    /// Reads a scope's name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == text)
    }
}

impl Catalog {
    /// Makes a token and returns its secret, which cannot be had again.
    pub async fn create_token(
        &self,
        name: &str,
        scopes: &[Scope],
    ) -> Result<SecretString, CatalogError> {
        let mut bytes = [0; 32];
        rand::fill(&mut bytes).expect("the system has randomness");
        let secret = SecretString::from(format!("tenantry_{}", URL_SAFE_NO_PAD.encode(bytes)));
        let scopes: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();

        let (id, mut client) = (Uuid::now_v7(), self.client().await?);
        let transaction = client.transaction().await?;
        execute(
            &transaction,
            "-- tokens::create
             insert into admin_tokens (id, name, token_sha256, scopes) values ($1, $2, $3, $4)",
            &[&id, &name, &hash(&secret), &scopes],
        )
        .await
        .map_err(|error| error.on_constraint("admin_tokens_name_key", "token", name))?;
        let detail = json!({ "token": name, "id": id, "scopes": scopes });
        let event = Event { actor: self.by(), action: "token.created", tenant: None, detail };
        audit_log::record(&transaction, &event).await?;
        transaction.commit().await?;
        Ok(secret)
    }

    /// The token with this secret, unless it is unknown or revoked.
    ///
    /// The look-up goes by the hash, so its time tells nothing about the secret.
    pub async fn token(&self, secret: &SecretString) -> Result<Option<TokenRecord>, CatalogError> {
        let client = self.client().await?;
        let row = maybe(
            &client,
            "-- tokens::by_secret
             select id, name, scopes, created_at, revoked_at from admin_tokens
             where token_sha256 = $1 and revoked_at is null",
            &[&hash(secret)],
        )
        .await?;
        Ok(row.as_ref().map(from_row))
    }

    /// Every token, newest first.
    pub async fn tokens(&self) -> Result<Vec<TokenRecord>, CatalogError> {
        let client = self.client().await?;
        let found = rows(
            &client,
            "-- tokens::list
             select id, name, scopes, created_at, revoked_at from admin_tokens order by created_at desc",
            &[],
        ).await?;
        Ok(found.iter().map(from_row).collect())
    }

    /// Voids a token at once.
    pub async fn revoke_token(&self, name: &str) -> Result<(), CatalogError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let found = maybe(
            &transaction,
            "-- tokens::revoke
             update admin_tokens t set revoked_at = coalesce(t.revoked_at, now())
             from admin_tokens before where t.name = $1 and before.id = t.id
             returning t.id, before.revoked_at is null as was_good",
            &[&name],
        )
        .await?;
        let row =
            found.ok_or_else(|| CatalogError::Missing { what: "token", name: name.to_owned() })?;
        if row.get("was_good") {
            let detail = json!({ "token": name, "id": row.get::<_, Uuid>("id") });
            let event = Event { actor: self.by(), action: "token.revoked", tenant: None, detail };
            audit_log::record(&transaction, &event).await?;
        }
        Ok(transaction.commit().await?)
    }
}

fn hash(secret: &SecretString) -> Vec<u8> {
    digest::digest(&digest::SHA256, secret.expose_secret().as_bytes()).as_ref().to_vec()
}

fn from_row(row: &tokio_postgres::Row) -> TokenRecord {
    let scopes: Vec<&str> = row.get("scopes");
    TokenRecord {
        id: row.get("id"),
        name: row.get("name"),
        scopes: scopes.into_iter().filter_map(Scope::parse).collect(),
        created_at: row.get("created_at"),
        revoked_at: row.get("revoked_at"),
    }
}
