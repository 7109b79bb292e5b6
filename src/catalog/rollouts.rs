//! Rows of `rollouts`: a fleet migration, its waves, and what an operator does to it.
//!
//! What a plan means is the business of [`crate::operations::rollouts`]. Every change of state says from which
//! state it may be made and writes its event in the same statement, so whoever comes second changes nothing.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_postgres::Row;
use tokio_postgres::types::Json;
use uuid::Uuid;

use super::audit_log::{self, Event};
use super::operations::Failure;
use super::{Catalog, CatalogError, execute, maybe, one};
use crate::tenant::TenantSlug;

mod enqueue;
mod events;
mod status;
mod steering;
mod waves;

pub use enqueue::Enqueue;
pub use events::RolloutEvent;
pub use status::{FleetStatus, TenantStanding, TrackCount, TrackStanding, VersionCount};
pub use waves::Failures;

/// One row: a rollout as the catalog knows it.
#[derive(Clone, Debug)]
pub struct RolloutRecord {
    /// Its id, and the batch of its operations.
    pub id: Uuid,
    /// The version that its tenants are brought to.
    pub target_version: i64,
    /// The set of migration files that it was planned with.
    pub migrations_digest: String,
    /// Name and SHA-256 of each of these files; empty where an older program planned it.
    pub files: BTreeMap<String, String>,
    /// How far it is.
    pub state: RolloutState,
    /// What was asked for.
    pub plan: Value,
    /// The names of the waves, in order.
    pub waves: Vec<String>,
    /// The wave under way.
    pub wave: i32,
    /// How far tenants may be migrated at present, by the catalog.
    pub ceiling: Option<i64>,
    /// More failed tenants than this stop it.
    pub max_failures: Option<i32>,
    /// When the first wave began; none while the templates are being made.
    pub begun_at: Option<Timestamp>,
    /// The wave under way has ended, and the next one waits until then.
    pub bake_until: Option<Timestamp>,
    /// Whether that moment has come, by the catalog's clock.
    pub baked: bool,
    /// Why it is paused or has failed.
    pub reason: Option<Failure>,
    /// Who asked.
    pub requested_by: String,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

/// How far a rollout is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RolloutState {
    /// Under way, or waiting for a worker.
    Running,
    /// Stopped by a guard or by somebody; `resume` goes on.
    Paused,
    /// Given up.
    Aborted,
    /// At its end, and some tenants, or the template, failed; `resume` takes just them.
    Failed,
    /// Done.
    Succeeded,
}

/// What a rollout is asked with.
#[derive(Clone, Debug)]
pub struct NewRollout<'a> {
    /// Its id, made by the caller.
    pub id: Uuid,
    /// The version to bring tenants to.
    pub target_version: i64,
    /// The set of migration files.
    pub migrations_digest: &'a str,
    /// Name and SHA-256 of each of these files.
    pub files: BTreeMap<&'a str, &'a str>,
    /// What was asked for.
    pub plan: Value,
    /// Names and tenants of the waves, in order.
    pub waves: &'a [(String, Vec<Uuid>)],
    /// More failed tenants than this stop it.
    pub max_failures: Option<i32>,
    /// Whether each tenant is backed up first.
    pub backup_first: bool,
    /// Who asks.
    pub requested_by: &'a str,
}

/// One tenant of a rollout.
#[derive(Clone, Debug)]
pub struct RolloutTenant {
    /// The tenant.
    pub tenant_id: Uuid,
    /// Its slug.
    pub slug: TenantSlug,
    /// Its wave.
    pub wave: i32,
    /// Where it stands.
    pub state: ItemState,
    /// The newest migration that it holds.
    pub schema_version: i64,
    /// Why it failed, or why it is being tried again.
    pub error: Option<Failure>,
    /// Its newest operation in this rollout.
    pub operation: Option<Uuid>,
}

/// Where one tenant of a rollout stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ItemState {
    /// Its turn has not come.
    Waiting,
    /// Waits for a worker.
    Queued,
    /// A worker has it.
    Running,
    /// At the version.
    Succeeded,
    /// Served at its old version.
    Failed,
    /// Deleted on the way.
    Skipped,
}

/// How many tenants of one wave stand where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct WaveCount {
    /// The wave.
    pub wave: i32,
    /// Where they stand.
    pub state: ItemState,
    /// How many.
    pub tenants: i64,
}

const COLUMNS: &str = "id, target_version, migrations_digest, migration_files, state, plan, waves, wave, max_failures, begun_at, \
     bake_until, coalesce(bake_until <= now(), false) as baked, reason, requested_by, created_at, finished_at, \
     (select version from schema_freeze) as ceiling";

impl RolloutState {
    /// The state's name in the catalog and in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Aborted => "aborted",
            Self::Failed => "failed",
            Self::Succeeded => "succeeded",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Running, Self::Paused, Self::Aborted, Self::Failed, Self::Succeeded]
            .into_iter()
            .find(|state| state.as_str() == text)
    }
}

impl ItemState {
    /// The state's name in the catalog and in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }

    /// Whether nothing more happens to the tenant unless somebody asks.
    #[must_use]
    pub fn is_settled(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Skipped)
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Waiting, Self::Queued, Self::Running, Self::Succeeded, Self::Failed, Self::Skipped]
            .into_iter()
            .find(|state| state.as_str() == text)
    }
}

impl RolloutRecord {
    /// The name of a wave.
    #[must_use]
    pub fn wave_name(&self, wave: i32) -> &str {
        usize::try_from(wave).ok().and_then(|wave| self.waves.get(wave)).map_or("", String::as_str)
    }

    /// Whether another wave comes after the one under way.
    #[must_use]
    pub fn has_next_wave(&self) -> bool {
        usize::try_from(self.wave + 1).is_ok_and(|next| next < self.waves.len())
    }

    fn from_row(row: &Row) -> Self {
        Self {
            id: row.get("id"),
            target_version: row.get("target_version"),
            migrations_digest: row.get("migrations_digest"),
            files: row.get::<_, Json<_>>("migration_files").0,
            state: RolloutState::parse(row.get("state")).expect("checked by the table"),
            plan: row.get("plan"),
            waves: row.get("waves"),
            wave: row.get("wave"),
            ceiling: row.get("ceiling"),
            max_failures: row.get("max_failures"),
            begun_at: row.get("begun_at"),
            bake_until: row.get("bake_until"),
            baked: row.get("baked"),
            reason: failure_of(row.get("reason")),
            requested_by: row.get("requested_by"),
            created_at: row.get("created_at"),
            finished_at: row.get("finished_at"),
        }
    }
}

impl Catalog {
    /// Writes a rollout down with all its waves. Refused while another one is open.
    pub async fn start_rollout(&self, new: &NewRollout<'_>) -> Result<RolloutRecord, CatalogError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let names: Vec<&str> = new.waves.iter().map(|(name, _)| name.as_str()).collect();
        let tenants: usize = new.waves.iter().map(|(_, tenants)| tenants.len()).sum();
        let detail = json!({
            "target_version": new.target_version, "tenants": tenants, "waves": names,
            "requested_by": new.requested_by,
        });
        let sql = format!(
            "-- rollouts::start
             with made as (
                 insert into rollouts
                     (id, target_version, migrations_digest, plan, waves, max_failures, requested_by,
                      migration_files)
                 values ($1, $2, $3, $4, $5, $6, $7, $9)
                 returning *
             ), told as (
                 insert into rollout_events (rollout_id, kind, detail) select id, 'started', $8 from made
             )
             select {COLUMNS} from made"
        );
        let made = one(
            &transaction,
            &sql,
            &[
                &new.id,
                &new.target_version,
                &new.migrations_digest,
                &new.plan,
                &names,
                &new.max_failures,
                &new.requested_by,
                &detail,
                &Json(&new.files),
            ],
        )
        .await;
        let made = match made {
            Ok(row) => RolloutRecord::from_row(&row),
            Err(error) => {
                drop(transaction);
                return Err(self.or_open(error).await);
            }
        };
        for (wave, (_, tenants)) in new.waves.iter().enumerate() {
            let wave = i32::try_from(wave).expect("waves are few");
            waves::add(&transaction, new.id, wave, tenants, new.backup_first).await?;
        }
        // The planner's guess for a table it has not looked at is a row or two, and it would sort a whole fleet for
        // each tenant that comes next.
        execute(&transaction, "-- rollouts::analyze\nanalyze rollout_tenants", &[]).await?;
        let detail = json!({
            "rollout": new.id, "target_version": new.target_version, "tenants": tenants, "plan": new.plan,
        });
        let (actor, action) = (new.requested_by, "rollout.started");
        audit_log::record(&transaction, &Event { actor, action, tenant: None, detail }).await?;
        transaction.commit().await?;
        Ok(made)
    }

    /// One rollout.
    pub async fn rollout(&self, id: Uuid) -> Result<RolloutRecord, CatalogError> {
        let sql = format!("-- rollouts::by_id\nselect {COLUMNS} from rollouts where id = $1");
        let row = maybe(&self.client().await?, &sql, &[&id]).await?;
        row.map(|row| RolloutRecord::from_row(&row))
            .ok_or_else(|| CatalogError::Missing { what: "rollout", name: id.to_string() })
    }

    /// The one that is running or paused.
    pub async fn open_rollout(&self) -> Result<Option<RolloutRecord>, CatalogError> {
        let sql = format!(
            "-- rollouts::open\nselect {COLUMNS} from rollouts where state in ('running', 'paused')"
        );
        let row = maybe(&self.client().await?, &sql, &[]).await?;
        Ok(row.as_ref().map(RolloutRecord::from_row))
    }

    /// The newest rollout that brought a tenant to its version.
    pub async fn last_rollout_that_reached(&self) -> Result<Option<RolloutRecord>, CatalogError> {
        let sql = format!(
            "-- rollouts::last_that_reached
             select {COLUMNS} from rollouts r
             where exists (select from rollout_items i where i.rollout_id = r.id and i.state = 'succeeded')
             order by r.created_at desc limit 1"
        );
        let row = maybe(&self.client().await?, &sql, &[]).await?;
        Ok(row.as_ref().map(RolloutRecord::from_row))
    }

    /// Says which rollout is open, when that is why another one cannot be.
    async fn or_open(&self, error: CatalogError) -> CatalogError {
        let exists = error.on_constraint("rollouts_open_key", "rollout", "");
        if !matches!(exists, CatalogError::Exists { .. }) {
            return exists;
        }
        match self.open_rollout().await {
            Ok(Some(open)) => CatalogError::Conflict(format!(
                "rollout {0} is {1}, and one runs at a time: `tenantry migrate show {0}` tells how it goes, \
                 `tenantry migrate resume {0}` goes on with it, `tenantry migrate abort {0}` gives it up",
                open.id,
                open.state.as_str()
            )),
            Ok(None) => {
                CatalogError::Conflict("another rollout has just ended; try again".to_owned())
            }
            Err(error) => error,
        }
    }
}

fn failure_of(value: Option<Value>) -> Option<Failure> {
    value.and_then(|value| serde_json::from_value(value).ok())
}
