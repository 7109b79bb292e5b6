//! Backups on a schedule: what is due is asked for, a few at a time.
//!
//! One replica at a time looks at the fleet ([`Environment::back_up_due`]), and goes on with what it saw there as
//! backups end. A tenant is due when the newest moment of its schedule
//! has come and nothing has been done about it: however many moments were missed, there is one backup for all of
//! them. One that failed is tried again every hour until there is one. The moment is the operation's idempotency key,
//! so two replicas ask for one; the queue and the tenant's lock see to the rest.
//!
//! Must never: ask for more than may run at once, or on a server that is under pressure. What waits stays due.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::catalog::CatalogError;
use crate::catalog::changes::{Change, Changes, Subscription};
use crate::catalog::protection::Protection;
use crate::operations::{Environment, Work, chain};
use crate::tenant::settings::BackupPolicy;

/// Who asks for what the schedule says.
pub(crate) const SCHEDULE: &str = "schedule";
/// A replica that has just started has more urgent things to do.
const FIRST: Duration = Duration::from_secs(1);
/// How often to look at the whole fleet.
const POLL: Duration = Duration::from_secs(15);
/// After an operation has ended, how long to wait for more of them.
const SETTLE: Duration = Duration::from_millis(100);
/// How long a server may take to say how much it has to do.
const PATIENCE: Duration = Duration::from_secs(5);
/// For how long one that is not under pressure is taken to be so still.
const FREE: Duration = Duration::from_secs(2);
/// For how long one that does not say it is not asked again.
const SILENT: Duration = Duration::from_mins(1);
const CHORE: &str = "backup schedule";

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

/// Asks for what is due and watches the goals, until `shutdown`.
pub(crate) async fn run(environment: Environment, changes: Changes, shutdown: CancellationToken) {
    let work = async {
        sleep(FIRST).await;
        tokio::join!(environment.keep_watching_goals(), keep_planning(&environment, &changes));
    };
    Box::pin(shutdown.run_until_cancelled(work)).await;
}

async fn keep_planning(environment: &Environment, changes: &Changes) {
    let mut news = changes.subscribe();
    let (mut planner, mut look) = (Planner::default(), Look::default());
    loop {
        let next = Instant::now() + POLL;
        match environment.look_if_due(&mut planner).await {
            Ok(looked) => note(&mut look, looked),
            Err(error) => {
                tracing::warn!(error = %chain(&error), "scheduled backups cannot be looked for");
                look = Look::default();
            }
        }
        // Whoever has looked goes on with what is left of that, as backups end.
        while timeout_at(next, settled(&mut news, look.waiting)).await.is_ok() {
            match environment.ask_while_there_is_room(&mut planner).await {
                Ok(Some(asked)) => note(&mut look, asked),
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(error = %chain(&error), "no backup takes the place of one that ended");
                }
            }
        }
    }
}

/// An operation has ended for which one of those that wait may have been waiting.
async fn settled(news: &mut Subscription, waiting: usize) {
    loop {
        match news.next().await {
            Change::Operation(_, state) if waiting > 0 && state.is_settled() => break,
            _ => {}
        }
    }
    sleep(SETTLE).await;
}

fn note(before: &mut Look, now: Look) {
    if now.paused > 0 && before.paused == 0 {
        tracing::warn!(
            tenants = now.paused,
            "scheduled backups wait: their server is under pressure"
        );
    }
    *before = now;
}

/// What a replica keeps between two looks.
#[derive(Debug, Default)]
struct Planner {
    /// Who was due at the last look at the whole fleet and has not been asked for since; the longest first.
    due: Vec<(Timestamp, Protection)>,
    /// Whether servers were under pressure, and until when that is taken to be so.
    pressed: HashMap<Uuid, (bool, Instant)>,
}

impl Planner {
    fn is_pressed(&self, server: Uuid) -> bool {
        self.pressed.get(&server).is_some_and(|(pressed, _)| *pressed)
    }
}

impl Environment {
    /// Asks for the backups that are due at a moment, as many as there is room for; does nothing while another
    /// replica is at it.
    pub async fn back_up_due(&self, now: Timestamp) -> Result<Look, CatalogError> {
        self.look_at_all(&mut Planner::default(), now).await
    }

    /// The same, unless another replica has just looked.
    async fn look_if_due(&self, planner: &mut Planner) -> Result<Look, CatalogError> {
        planner.due.clear();
        if self.store.is_none() || !self.catalog.begin_chore(CHORE, POLL.mul_f64(0.8)).await? {
            return Ok(Look::default());
        }
        self.look_at_all(planner, Timestamp::now()).await
    }

    async fn look_at_all(
        &self,
        planner: &mut Planner,
        now: Timestamp,
    ) -> Result<Look, CatalogError> {
        if self.store.is_none() {
            return Ok(Look::default());
        }
        let look = async {
            planner.due = self.due_at(now).await?;
            self.ask_for_due(planner).await
        };
        Ok(self.catalog.chore(CHORE, look).await?.unwrap_or_default())
    }

    /// Asks for more of those who were due at the last look. None where another replica is at it.
    async fn ask_while_there_is_room(
        &self,
        planner: &mut Planner,
    ) -> Result<Option<Look>, CatalogError> {
        self.catalog.chore(CHORE, self.ask_for_due(planner)).await
    }

    /// Who is due, the longest first.
    async fn due_at(&self, now: Timestamp) -> Result<Vec<(Timestamp, Protection)>, CatalogError> {
        let policy = &self.limits.backups.policy;
        let fleet = self.catalog.protections(SCHEDULE, None).await?;
        let mut due: Vec<_> = fleet
            .into_iter()
            .filter_map(|tenant| Some((due(&tenant, policy, now)?, tenant)))
            .collect();
        due.sort_by_key(|(moment, tenant)| (*moment, tenant.tenant_id));
        Ok(due)
    }

    /// Asks for as many of those who are due as there is room for; those who wait stay in the plan.
    async fn ask_for_due(&self, planner: &mut Planner) -> Result<Look, CatalogError> {
        let mut look = Look::default();
        if planner.due.is_empty() {
            return Ok(look);
        }
        let rules = &self.limits.backups;
        let mut open = self.catalog.open_backups_by_server().await?;
        let mut total: usize = open.values().sum();
        if total < rules.concurrency {
            self.measure(planner, |server| {
                open.get(&server).is_none_or(|here| *here < rules.per_server)
            })
            .await;
        }
        let due = std::mem::take(&mut planner.due);
        for (moment, tenant) in due {
            let here = open.entry(tenant.server_id).or_default();
            if planner.is_pressed(tenant.server_id) {
                look.paused += 1;
            } else if total >= rules.concurrency || *here >= rules.per_server {
                look.waiting += 1;
            } else {
                if self.ask_for_scheduled(&tenant, moment).await? {
                    look.asked += 1;
                    *here += 1;
                    total += 1;
                }
                continue;
            }
            planner.due.push((moment, tenant));
        }
        Ok(look)
    }

    /// Asks the servers of those who are due that have room whether they are under pressure, all at once, unless that
    /// is known.
    async fn measure(&self, planner: &mut Planner, has_room: impl Fn(Uuid) -> bool) {
        planner.pressed.retain(|_, (_, until)| *until > Instant::now());
        let servers: HashSet<Uuid> = planner.due.iter().map(|(_, due)| due.server_id).collect();
        let unknown =
            servers.into_iter().filter(|id| has_room(*id) && !planner.pressed.contains_key(id));
        let asked = unknown.map(|id| async move { (id, self.pressure(id).await) });
        for (id, pressed) in join_all(asked).await {
            let known_for = match pressed {
                Some(false) => FREE,
                Some(true) => POLL,
                None => SILENT,
            };
            planner.pressed.insert(id, (pressed.unwrap_or(true), Instant::now() + known_for));
        }
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
        self.catalog.enqueue_backup(&operation).await
    }

    /// Whether a server has so much to do that no backup should begin there; none where it does not answer, which is
    /// left alone too.
    async fn pressure(&self, id: Uuid) -> Option<bool> {
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
        timeout(PATIENCE, measured).await.ok().flatten()
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
