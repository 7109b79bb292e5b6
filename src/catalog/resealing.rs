//! The catalog's secrets from one master key under another.
//!
//! Every sealed value says which key sealed it, so a run needs no notes: it opens what is under another
//! key, seals it again and puts it in the place of that very value. One that was changed meanwhile is left
//! as it is. A run that was cut off is begun again, and finds less to do. Nothing else about a row changes,
//! and no router hears of it: the secret is the same.
//!
//! The value by which the catalog recognises its master key comes last: until then it opens with the key
//! of before.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Catalog, CatalogError, execute, one, rows};
use crate::sealing::{MasterKey, Purpose};

/// How many values one transaction seals again.
const PAGE: i64 = 200;

/// Where secrets stand that are sealed each for itself: what for, table, column, and the column that says
/// whose they are.
const SEALED: [(Purpose, &str, &str, &str); 6] = [
    (Purpose::ServerUrl, "servers", "url_sealed", "id"),
    (Purpose::ReadReplicaUrl, "read_replicas", "url_sealed", "id"),
    (Purpose::TenantPassword, "tenants", "password_sealed", "id"),
    (Purpose::BackupKey, "tenants", "backup_key_sealed", "id"),
    (Purpose::BackupKey, "retired_backup_keys", "key_sealed", "tenant_id"),
    (Purpose::CertificateKey, "certificate_key", "key_sealed", "id"),
];

/// What is under one master key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct UnderKey {
    /// Passwords, connection strings and keys in the catalog.
    pub secrets: i64,
    /// Backups whose manifest keeps their key under it.
    pub backups: i64,
}

impl Catalog {
    /// Seals every secret under the present master key that is under one of before. Returns how many.
    pub async fn reseal(&self) -> Result<u64, CatalogError> {
        let mut resealed = 0;
        for (purpose, table, column, owner) in SEALED {
            let select = format!(
                "-- resealing::{table}
                 select id, {column}, {owner} from {table}
                 where substring({column} from 2 for 8) <> $1 and id > $2 order by id limit $3"
            );
            let update = format!(
                "-- resealing::update_{table}
                 update {table} set {column} = $3 where id = $1 and {column} = $2"
            );
            resealed += self.reseal_in(purpose, &select, &update).await?;
        }
        // Also of operations that have ended: it is still the tenant's password.
        resealed += self
            .reseal_in(
                Purpose::TenantPassword,
                "-- resealing::chosen_passwords
                 select id, decode(memory->>'sealed', 'hex'), tenant_id from operations
                 where kind = 'rotate_password' and memory ? 'sealed'
                   and substring(decode(memory->>'sealed', 'hex') from 2 for 8) <> $1 and id > $2
                 order by id limit $3",
                "-- resealing::chosen_password
                 update operations
                 set memory = memory || jsonb_build_object('sealed', encode($3::bytea, 'hex'))
                 where id = $1 and decode(memory->>'sealed', 'hex') = $2",
            )
            .await?;
        Ok(resealed)
    }

    /// Makes the present master key the one by which the catalog recognises its own.
    pub async fn adopt_master_key(&self) -> Result<(), CatalogError> {
        let check = self.seal(Purpose::KeyCheck, Uuid::nil(), &"tenantry".to_owned().into());
        execute(
            &self.client().await?,
            "-- resealing::adopt
             update catalog_facts set value = $1::bytea,
                 changed_at = case when substring(value from 2 for 8) = substring($1::bytea from 2 for 8)
                                   then changed_at else now() end
             where name = 'master_key_check'",
            &[&check],
        )
        .await
        .map(drop)
    }

    /// Since when the master key is the one by which the catalog recognises its own.
    pub async fn master_key_since(&self) -> Result<Timestamp, CatalogError> {
        let row = one(
            &self.client().await?,
            "-- resealing::since
             select changed_at from catalog_facts where name = 'master_key_check'",
            &[],
        )
        .await?;
        Ok(row.get(0))
    }

    /// What is under which master key, by the keys' ids. An empty id stands for backups of which nobody
    /// has noted it yet.
    pub async fn under_master_keys(&self) -> Result<BTreeMap<String, UnderKey>, CatalogError> {
        let columns: String = SEALED
            .map(|(_, table, column, _)| {
                format!("select {column} as sealed from {table} union all ")
            })
            .concat();
        let sql = format!(
            "-- resealing::count
             select key_id, sum(secrets)::bigint, sum(backups)::bigint from (
                 select encode(substring(sealed from 2 for 8), 'hex') as key_id, 1 as secrets, 0 as backups
                 from (
                     {columns} select value from catalog_facts where name = 'master_key_check'
                     union all select decode(memory->>'sealed', 'hex') from operations
                               where kind = 'rotate_password' and memory ? 'sealed'
                 ) secrets where sealed is not null
                 union all select coalesce(key_id, ''), 0, 1 from backups where erased_at is null
             ) counted group by key_id"
        );
        let found = rows(&self.client().await?, &sql, &[]).await?;
        let counted = found
            .iter()
            .map(|row| (row.get(0), UnderKey { secrets: row.get(1), backups: row.get(2) }));
        Ok(counted.collect())
    }

    /// Tenants with a backup whose key is, as far as is known, under another master key than the present.
    pub async fn tenants_under_other_keys(&self) -> Result<Vec<Uuid>, CatalogError> {
        let found = rows(
            &self.client().await?,
            "-- resealing::tenants
             select distinct tenant_id from backups where key_id is distinct from $1 and erased_at is null",
            &[&self.master_key_id()],
        )
        .await?;
        Ok(found.iter().map(|row| row.get(0)).collect())
    }

    /// Seals again what one query finds: an id, the value, and whose it is.
    async fn reseal_in(
        &self,
        purpose: Purpose,
        select: &str,
        update: &str,
    ) -> Result<u64, CatalogError> {
        let key_id = hex::decode(self.master_key_id()).expect("it is written in hex");
        let mut client = self.client().await?;
        let (mut last, mut resealed) = (Uuid::nil(), 0);
        loop {
            let transaction = client.transaction().await?;
            one(&transaction, "select set_config('tenantry.resealing', 'on', true)", &[]).await?;
            let found = rows(&transaction, select, &[&key_id, &last, &PAGE]).await?;
            for row in &found {
                last = row.get(0);
                let (sealed, owner): (&[u8], Uuid) = (row.get(1), row.get(2));
                match self.open(purpose, owner, sealed) {
                    Ok(secret) => {
                        let again = self.seal(purpose, owner, &secret);
                        resealed +=
                            execute(&transaction, update, &[&last, &sealed, &again]).await?;
                    }
                    // It stays as it is, and is counted under its key.
                    Err(error) => {
                        let key = MasterKey::id_in(sealed).unwrap_or_default();
                        tracing::warn!(id = %last, ?purpose, key, %error, "a secret could not be opened");
                    }
                }
            }
            transaction.commit().await?;
            if found.is_empty() {
                return Ok(resealed);
            }
        }
    }
}
