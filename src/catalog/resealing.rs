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

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Catalog, CatalogError, execute, one, rows};
use crate::sealing::{MasterKey, Purpose};

/// How many values one transaction seals again.
const PAGE: i64 = 200;

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
        for (purpose, select, update) in [
            (
                Purpose::ServerUrl,
                "-- resealing::server_urls
                 select id, url_sealed from servers
                 where substring(url_sealed from 2 for 8) <> $1 and id > $2 order by id limit $3",
                "-- resealing::server_url
                 update servers set url_sealed = $3 where id = $1 and url_sealed = $2",
            ),
            (
                Purpose::ReadReplicaUrl,
                "-- resealing::read_replica_urls
                 select id, url_sealed from read_replicas
                 where substring(url_sealed from 2 for 8) <> $1 and id > $2 order by id limit $3",
                "-- resealing::read_replica_url
                 update read_replicas set url_sealed = $3 where id = $1 and url_sealed = $2",
            ),
            (
                Purpose::TenantPassword,
                "-- resealing::passwords
                 select id, password_sealed from tenants
                 where substring(password_sealed from 2 for 8) <> $1 and id > $2 order by id limit $3",
                "-- resealing::password
                 update tenants set password_sealed = $3 where id = $1 and password_sealed = $2",
            ),
            (
                Purpose::BackupKey,
                "-- resealing::backup_keys
                 select id, backup_key_sealed from tenants
                 where substring(backup_key_sealed from 2 for 8) <> $1 and id > $2 order by id limit $3",
                "-- resealing::backup_key
                 update tenants set backup_key_sealed = $3 where id = $1 and backup_key_sealed = $2",
            ),
            (
                Purpose::BackupKey,
                "-- resealing::retired_backup_keys
                 select id, key_sealed, tenant_id from retired_backup_keys
                 where substring(key_sealed from 2 for 8) <> $1 and id > $2 order by id limit $3",
                "-- resealing::retired_backup_key
                 update retired_backup_keys set key_sealed = $3 where id = $1 and key_sealed = $2",
            ),
            (
                // Also of operations that have ended: it is still the tenant's password.
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
            ),
        ] {
            resealed += self.reseal_in(purpose, select, update).await?;
        }
        Ok(resealed)
    }

    /// Makes the present master key the one by which the catalog recognises its own.
    pub async fn adopt_master_key(&self) -> Result<(), CatalogError> {
        let check = self.seal(Purpose::KeyCheck, Uuid::nil(), &"tenantry".to_owned().into());
        execute(
            &self.client().await?,
            "-- resealing::adopt
             update catalog_facts set value = $1 where name = 'master_key_check'",
            &[&check],
        )
        .await
        .map(drop)
    }

    /// What is under which master key, by the keys' ids. An empty id stands for backups of which nobody
    /// has noted it yet.
    pub async fn under_master_keys(&self) -> Result<BTreeMap<String, UnderKey>, CatalogError> {
        let found = rows(
            &self.client().await?,
            "-- resealing::count
             select key_id, sum(secrets)::bigint, sum(backups)::bigint from (
                 select encode(substring(sealed from 2 for 8), 'hex') as key_id, 1 as secrets, 0 as backups
                 from (
                     select url_sealed as sealed from servers
                     union all select url_sealed from read_replicas
                     union all select password_sealed from tenants
                     union all select backup_key_sealed from tenants
                     union all select key_sealed from retired_backup_keys
                     union all select value from catalog_facts where name = 'master_key_check'
                     union all select decode(memory->>'sealed', 'hex') from operations
                               where kind = 'rotate_password' and memory ? 'sealed'
                 ) secrets where sealed is not null
                 union all select coalesce(key_id, ''), 0, 1 from backups
             ) counted group by key_id",
            &[],
        )
        .await?;
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
             select distinct tenant_id from backups where key_id is distinct from $1",
            &[&self.master_key_id()],
        )
        .await?;
        Ok(found.iter().map(|row| row.get(0)).collect())
    }

    /// Seals again what one query finds: an id, the value, and whose it is where that is not the id.
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
            let transaction = client.transaction().await.map_err(CatalogError::Database)?;
            one(&transaction, "select set_config('tenantry.resealing', 'on', true)", &[]).await?;
            let found = rows(&transaction, select, &[&key_id, &last, &PAGE]).await?;
            for row in &found {
                last = row.get(0);
                let (sealed, owner): (&[u8], Uuid) =
                    (row.get(1), if row.len() > 2 { row.get(2) } else { last });
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
            transaction.commit().await.map_err(CatalogError::Database)?;
            if found.is_empty() {
                return Ok(resealed);
            }
        }
    }
}
