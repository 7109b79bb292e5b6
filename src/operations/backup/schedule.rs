//! Backups on a schedule: what is due is asked for, a few at a time.
//!
//! One replica at a time looks ([`Environment::back_up_due`]). A tenant is due when the newest moment of its schedule
//! has come and nothing has been done about it: however many moments were missed, there is one backup for all of
//! them. One that failed is tried again every hour until there is one. The moment is the operation's idempotency key,
//! so two replicas ask for one; the queue and the tenant's lock see to the rest.
//!
//! Must never: ask for more than may run at once, or on a server that is under pressure. What waits stays due.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::catalog::CatalogError;
use crate::catalog::changes::{Change, Changes};
use crate::catalog::protection::Protection;
use crate::operations::{Environment, Work, chain};
use crate::tenant::settings::BackupPolicy;

/// Who asks for what the schedule says.
pub(crate) const SCHEDULE: &str = "schedule";
/// A replica that has just started has more urgent things to do.
const FIRST: Duration = Duration::from_secs(1);
/// How often to look.
const POLL: Duration = Duration::from_secs(15);
/// After a backup has ended, how long to wait for more of them.
const SETTLE: Duration = Duration::from_millis(50);
/// How long a server may take to say how much it has to do.
const PATIENCE: Duration = Duration::from_secs(5);

/// What holds for scheduled backups.
#[derive(Clone, Debug)]
pub struct BackupRules {
    /// What counts where neither the tenant nor its tier says anything.
    pub policy: BackupPolicy,
    /// How many may be queued or under way, over all replicas.
    pub concurrency: usize,
    /// How many of them on one server.
    pub per_server: usize,
    /// A server is under pressure when more than so many hundredths of its `max_connections` are sessions at work.
    pub pause_above: usize,
}

/// What one look has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Backups that were asked for.
    pub asked: usize,
    /// Tenants that are due and wait for a place.
    pub waiting: usize,
    /// Tenants that are due on a server that is under pressure, or away.
    pub paused: usize,
}

impl Default for BackupRules {
    fn default() -> Self {
        Self { policy: BackupPolicy::default(), concurrency: 2, per_server: 2, pause_above: 50 }
    }
}

/// Asks for what is due, until `shutdown`.
pub(crate) async fn run(environment: Environment, changes: Changes, shutdown: CancellationToken) {
    let mut news = changes.subscribe();
    let mut paused = 0;
    if shutdown.run_until_cancelled(sleep(FIRST)).await.is_none() {
        return;
    }
    loop {
        let watched = shutdown.run_until_cancelled(environment.watch_goals(Timestamp::now())).await;
        if let Some(Err(error)) = watched {
            tracing::debug!(error = %chain(&error), "the goals of backups cannot be looked at");
        }
        let looked = shutdown.run_until_cancelled(environment.back_up_due(Timestamp::now())).await;
        let look = match looked {
            None => return,
            Some(Ok(look)) => look,
            Some(Err(error)) => {
                tracing::warn!(error = %chain(&error), "scheduled backups cannot be looked for");
                Look::default()
            }
        };
        if look.paused > 0 && paused == 0 {
            tracing::warn!(
                tenants = look.paused,
                "scheduled backups wait: their server is under pressure"
            );
        }
        paused = look.paused;
        let settled = async {
            loop {
                match news.next().await {
                    Change::Operation(_, state) if look.waiting > 0 && state.is_settled() => break,
                    _ => {}
                }
            }
            sleep(SETTLE).await;
        };
        if shutdown.run_until_cancelled(timeout(POLL, settled)).await.is_none() {
            return;
        }
    }
}

impl Environment {
    /// Asks for the backups that are due at a moment, as many as there is room for; does nothing while another
    /// replica is at it.
    pub async fn back_up_due(&self, now: Timestamp) -> Result<Look, CatalogError> {
        if self.store.is_none() {
            return Ok(Look::default());
        }
        let look = self.catalog.chore("backup schedule", self.ask_for_due(now)).await?;
        Ok(look.unwrap_or_default())
    }

    async fn ask_for_due(&self, now: Timestamp) -> Result<Look, CatalogError> {
        let mut look = Look::default();
        let rules = &self.limits.backups;
        let fleet = self.catalog.protections(SCHEDULE, None).await?;
        let mut open: HashMap<Uuid, usize> = HashMap::new();
        for tenant in fleet.iter().filter(|tenant| tenant.open) {
            *open.entry(tenant.server_id).or_default() += 1;
        }
        let mut total: usize = open.values().sum();
        let mut due: Vec<(Timestamp, &Protection)> = fleet
            .iter()
            .filter_map(|tenant| Some((due(tenant, &rules.policy, now)?, tenant)))
            .collect();
        due.sort_by_key(|(moment, tenant)| (*moment, tenant.tenant_id));

        let servers: HashSet<Uuid> = due.iter().map(|(_, tenant)| tenant.server_id).collect();
        let mut pressed = HashSet::new();
        for server in servers {
            if self.is_pressed(server).await {
                pressed.insert(server);
            }
        }
        for (moment, tenant) in due {
            let here = open.entry(tenant.server_id).or_default();
            if pressed.contains(&tenant.server_id) {
                look.paused += 1;
            } else if total >= rules.concurrency || *here >= rules.per_server {
                look.waiting += 1;
            } else if self.ask_for_scheduled(tenant, moment).await? {
                look.asked += 1;
                *here += 1;
                total += 1;
            }
        }
        Ok(look)
    }

    async fn ask_for_scheduled(
        &self,
        tenant: &Protection,
        moment: Timestamp,
    ) -> Result<bool, CatalogError> {
        if let Some(failed) = failed_for(tenant, moment) {
            return match self.catalog.asked_by(SCHEDULE).retry(failed).await {
                Ok(_) => Ok(true),
                // Somebody was faster.
                Err(CatalogError::Conflict(_)) => Ok(false),
                Err(error) => Err(error),
            };
        }
        let key = format!("backup of {} due {moment}", tenant.tenant_id);
        let work = Work::Backup { unless_unchanged: true };
        let mut operation = work.new_operation(tenant.tenant_id, SCHEDULE);
        operation.idempotency_key = Some(&key);
        self.catalog.enqueue_once(&operation).await
    }

    /// Whether a server has so much to do that no backup should begin there. One that does not answer is left
    /// alone too.
    async fn is_pressed(&self, id: Uuid) -> bool {
        let measured = async {
            let client = self.server(id).await.ok()?.client().await.ok()?;
            let row = client
                .query_one(
                    "-- schedule::pressure
                     select count(*) * 100 > $1::int8 * current_setting('max_connections')::int8
                     from pg_stat_activity
                     where backend_type = 'client backend' and state = 'active' and pid <> pg_backend_pid()",
                    &[&i64::try_from(self.limits.backups.pause_above).unwrap_or(i64::MAX)],
                )
                .await;
            row.ok().map(|row| row.get(0))
        };
        timeout(PATIENCE, measured).await.ok().flatten().unwrap_or(true)
    }
}

/// The moment at which a tenant was due, if nothing has been done about it.
fn due(tenant: &Protection, fleet: &BackupPolicy, now: Timestamp) -> Option<Timestamp> {
    let policy = tenant.policy.clone().or(fleet);
    let moment = policy.schedule?.latest(tenant.tenant_id, now)?;
    let asked_at = tenant.asked_at.filter(|_| failed_for(tenant, moment).is_none());
    let done = [Some(tenant.created_at), tenant.data_of, asked_at];
    let done = done.into_iter().flatten().any(|done| done >= moment);
    (!tenant.open && !done).then_some(moment)
}

/// The backup that was asked for because of this moment, and failed a while ago.
fn failed_for(tenant: &Protection, moment: Timestamp) -> Option<Uuid> {
    tenant.failed.filter(|_| tenant.asked_at.is_some_and(|asked| asked >= moment))
}
