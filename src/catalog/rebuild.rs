//! Filling an empty catalog again: tenants that it has lost, each with the operation that restores its
//! database, and whatever else a catalog backup knows of them.

use deadpool_postgres::GenericClient;
use secrecy::SecretString;
use serde_json::Value;
use tenantry_backup::Manifest;
use tenantry_provisioning::random_password;
use tokio_postgres::types::Json;
use uuid::Uuid;

use super::export::CatalogExport;
use super::operations::{NewOperation, insert};
use super::secrets::TenantBackupKey;
use super::{Catalog, CatalogError, execute, maybe};
use crate::sealing::Purpose;

/// Rows of a catalog backup that are written down at a time.
const ROWS: usize = 1000;

/// A tenant that the catalog has lost.
pub struct LostTenant {
    /// Its row, as a catalog backup has it or as it was made up; sealed secrets and all.
    pub row: Value,
    /// The server that it was on, if that is known.
    pub server: Option<String>,
    /// Its backups that can be used, the newest first.
    pub backups: Vec<StoredBackup>,
}

/// A backup that was found in the bucket, and the key that signed its manifest.
pub struct StoredBackup {
    /// Proven to be unaltered.
    pub manifest: Manifest,
    /// The key that it holds itself.
    pub key: TenantBackupKey,
}

impl Catalog {
    /// A tenant's row as a catalog backup has it, with the key of its backups. One that no catalog backup has
    /// is made up: its key is known, and nothing else.
    #[must_use]
    pub fn with_backup_key(&self, id: Uuid, row: Option<&Value>, wrapped_key: &[u8]) -> Value {
        let mut row = row.map_or_else(|| self.make_up_tenant(id), Value::clone);
        row["backup_key_sealed"] = bytea(wrapped_key).into();
        row
    }

    fn make_up_tenant(&self, id: Uuid) -> Value {
        // The end of an id is random; its beginning is the time.
        let digits = id.simple().to_string();
        let slug = format!("restored-{}", &digits[20..]);
        let password: SecretString = random_password();
        serde_json::json!({
            "id": id,
            "slug": slug,
            "name": slug,
            "tier": "shared",
            "state": "active",
            "settings": {},
            "database_name": format!("tenant_{slug}"),
            "role_name": format!("tenant_{slug}"),
            "epoch": 1,
            "password_sealed": bytea(&self.seal(Purpose::TenantPassword, id, &password)),
        })
    }

    /// Writes down a lost tenant with its backups and the operation that restores it, in one transaction, on one
    /// of these servers: its own if that is one of them, else the one with the fewest tenants. False if the
    /// catalog has the tenant already.
    pub async fn rebuild_tenant(
        &self,
        lost: &LostTenant,
        servers: &[String],
        operation: &NewOperation<'_>,
    ) -> Result<bool, CatalogError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let inserted = execute(
            &transaction,
            // Another epoch: a database that comes back from the dead is not to be taken for this one.
            "-- rebuild::tenant
             insert into tenants (id, slug, name, tier, state, suspended_reason, settings, server_id, database_name,
                                  role_name, epoch, password_sealed, backup_key_sealed, created_at, track)
             select r.id, r.slug, r.name, r.tier, 'provisioning', r.suspended_reason, r.settings, s.id,
                    r.database_name, r.role_name, r.epoch + 1, r.password_sealed, r.backup_key_sealed,
                    coalesce(r.created_at, now()), r.track
             from jsonb_populate_record(null::tenants, $1) r, servers s
             where s.name = any($2)
               and coalesce(r.settings -> 'fleet' ->> 'region' = s.region, r.settings -> 'fleet' ->> 'region' is null)
               and not exists (select from jsonb_array_elements_text(r.settings -> 'fleet' -> 'server_tags') tag
                               where s.tags ->> split_part(tag, '=', 1) is distinct from split_part(tag, '=', 2))
             order by s.name = $3 desc nulls last,
                      (select count(*) from tenants t where t.server_id = s.id and t.state <> 'deleted'), s.name
             limit 1
             on conflict (id) do nothing",
            &[&Json(&lost.row), &servers, &lost.server],
        )
        .await
        .map_err(|error| slug_is_taken(error, &lost.row))?;
        if inserted == 0 && !is_known(&transaction, operation.tenant_id).await? {
            return Err(CatalogError::Conflict(format!(
                "its settings bind it to the region {} and to servers tagged {}, and no server here is such a one; say \
                 what they are with `tenantry server set NAME --region … --tag …`, then do this again",
                lost.row["settings"]["fleet"]["region"],
                lost.row["settings"]["fleet"]["server_tags"]
            )));
        }
        if inserted == 1 {
            keep_backups(&transaction, &lost.backups).await?;
            insert(&transaction, operation).await?;
        }
        transaction.commit().await?;
        Ok(inserted == 1)
    }

    /// Writes down a tenant that was deleted, so that it stays so, with the backups that it left.
    pub async fn bury_tenant(&self, dead: &LostTenant) -> Result<(), CatalogError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let buried = execute(
            &transaction,
            "-- rebuild::bury_tenant
             insert into tenants (id, slug, name, tier, state, settings, server_id, database_name, role_name, epoch,
                                  created_at, deleted_at)
             select r.id, r.slug, r.name, r.tier, 'deleted', r.settings, s.id, r.database_name, r.role_name, r.epoch,
                    r.created_at, r.deleted_at
             from jsonb_populate_record(null::tenants, $1) r, (select id from servers order by name limit 1) s
             on conflict (id) do nothing",
            &[&Json(&dead.row)],
        )
        .await?;
        if buried == 1 {
            keep_backups(&transaction, &dead.backups).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// What else a catalog backup knows of the tenants that are there now: aliases, members and domains; and
    /// the tiers' limits and the tokens of the admin API. What is there already stays as it is.
    pub async fn rebuild_rest(&self, export: &CatalogExport) -> Result<(), CatalogError> {
        const FILL: [(&str, &str); 4] = [
            (
                "tenant_slugs",
                "insert into tenant_slugs (slug, tenant_id, created_at)
                 select r.slug, r.tenant_id, r.created_at
                 from jsonb_populate_recordset(null::tenant_slugs, $1) r
                 join tenants t on t.id = r.tenant_id and t.state <> 'deleted' on conflict do nothing",
            ),
            (
                "members",
                "insert into members select r.* from jsonb_populate_recordset(null::members, $1) r
                 join tenants t on t.id = r.tenant_id and t.state <> 'deleted' on conflict do nothing",
            ),
            (
                "domains",
                "insert into domains select r.* from jsonb_populate_recordset(null::domains, $1) r
                 join tenants t on t.id = r.tenant_id and t.state <> 'deleted' on conflict do nothing",
            ),
            (
                "admin_tokens",
                "insert into admin_tokens select * from jsonb_populate_recordset(null::admin_tokens, $1)
                 on conflict do nothing",
            ),
        ];
        let client = self.client().await?;
        for (table, sql) in FILL {
            // One value of PostgreSQL cannot hold a large table.
            for some in export.rows(table).chunks(ROWS) {
                execute(&client, &format!("-- rebuild::rest\n{sql}"), &[&Json(some)]).await?;
            }
        }
        execute(
            &client,
            "-- rebuild::tiers
             update tiers set limits = r.limits from jsonb_populate_recordset(null::tiers, $1) r
             where tiers.name = r.name and tiers.limits = '{}'",
            &[&Json(export.rows("tiers"))],
        )
        .await
        .map(drop)
    }

    /// Whether the catalog knows a tenant, deleted or not.
    pub async fn knows_tenant(&self, id: Uuid) -> Result<bool, CatalogError> {
        is_known(&self.client().await?, id).await
    }
}

async fn is_known(client: &impl GenericClient, id: Uuid) -> Result<bool, CatalogError> {
    let sql = "-- rebuild::is_known\nselect from tenants where id = $1";
    Ok(maybe(client, sql, &[&id]).await?.is_some())
}

/// Writes down backups that were found in the bucket, with their keys.
async fn keep_backups(
    client: &impl GenericClient,
    backups: &[StoredBackup],
) -> Result<(), CatalogError> {
    for StoredBackup { manifest, key } in backups {
        Catalog::adopt_backup_key(client, manifest, key).await?;
        index_backup(client, manifest).await?;
    }
    Ok(())
}

async fn index_backup(
    client: &impl GenericClient,
    manifest: &Manifest,
) -> Result<(), CatalogError> {
    let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    execute(
        client,
        "-- rebuild::index_backup
         insert into backups
             (id, tenant_id, dump_bytes, plain_bytes, schema_version, server_version, started_at, finished_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8)
         on conflict (id) do nothing",
        &[
            &manifest.backup,
            &manifest.tenant,
            &bytes(manifest.dump_bytes),
            &bytes(manifest.plain_bytes),
            &manifest.schema_version,
            &manifest.server_version,
            &manifest.started_at,
            &manifest.finished_at,
        ],
    )
    .await
    .map(drop)
}

fn slug_is_taken(error: CatalogError, row: &Value) -> CatalogError {
    let slug = row["slug"].as_str().unwrap_or_default();
    let error = error.on_constraint("tenants_slug_key", "tenant", slug);
    match error.on_constraint("tenant_slugs_key", "slug", slug) {
        CatalogError::Exists { .. } => CatalogError::Conflict(format!(
            "its slug `{slug}` is taken in this catalog; see `tenantry tenant show {slug}`, rename that tenant and \
             remove the alias that is left, then do this again"
        )),
        other => other,
    }
}

/// Bytes as PostgreSQL writes them.
fn bytea(bytes: &[u8]) -> String {
    format!("\\x{}", hex::encode(bytes))
}
