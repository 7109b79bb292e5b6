//! Rollouts: a migration of the fleet in waves, watched, and stopped when too much fails.
//!
//! Everything that is decided stands in the catalog ([`crate::catalog::rollouts`]): the waves, once, at the start;
//! then every step from one to the next. Whoever leads looks there, does what is due and looks again
//! ([`Environment::advance`]). A leader that dies takes its catalog session with it, and the next one goes on
//! from the same rows, so no operation is asked for twice.
//!
//! ```text
//! templates ─► canary ─► bake, health ─► wave ─► bake, health ─► … ─► stragglers ─► succeeded
//!     │           └───────────┴───────────┴────► paused ◄─┐              └────────► failed
//!     └─► failed, before any tenant is touched      └─────┴─ resume: the failed ones, then the rest
//! ```
//!
//! A tenant that fails stays served at its old version. Must never: touch a tenant before the template of its
//! server stands, or begin a wave while one before it has failures beyond the bound.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use tenantry_provisioning::{MigrationSet, current_version};
use thiserror::Error;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Environment, StepError, Work, migrate, tracks, upkeep, webhook};
use crate::catalog::CatalogError;
use crate::catalog::changes::{Change, Changes};
use crate::catalog::operations::Failure;
use crate::catalog::rollouts::{Failures, ItemState, NewRollout, RolloutRecord, RolloutState};
use crate::tenant::{Tenant, TenantSlug, TenantState};

mod files;
mod plan;
mod preview;
mod refill;
mod trial;

pub use files::{FileChange, changes, contradiction};
pub use plan::{Bound, PlanError, RolloutPlan, Selection};
pub use preview::{
    Forecast, Preview, PreviewEffect, PreviewFile, PreviewRisk, PreviewSize, PreviewWave,
};
pub use trial::{Skipped, Trial, TrialOutcome};

use files::frozen;
use refill::enqueue;

/// How often the leader looks.
const LOOK: Duration = Duration::from_millis(100);
/// How often others look whether the leader is still there, and a leader at a rollout that waits.
const POLL: Duration = Duration::from_secs(2);
/// After an error that may pass.
const RETRY: Duration = Duration::from_millis(500);
/// Databases that are looked at at a time.
const HEALTH_CHECKS: usize = 8;
/// How long a database may take to show that it is well.
const HEALTH_PATIENCE: Duration = Duration::from_secs(15);
/// How long a rollout waits for the templates of servers that do not answer before it is held.
const TEMPLATE_PATIENCE: Duration = Duration::from_secs(30);

/// Why a rollout did not start.
#[derive(Debug, Error)]
pub enum RolloutError {
    /// The plan makes no sense.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The catalog said no.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// Leads whatever rollout is open and tells the webhook, until `shutdown`.
pub async fn run(environment: Environment, changes: Changes, shutdown: CancellationToken) {
    let mut news = changes.subscribe();
    let mut abandoned = None;
    let leading = async {
        loop {
            match environment.catalog.open_rollout().await {
                Ok(Some(open)) if open.state == RolloutState::Running => {
                    if open.migrations_digest == environment.migrations().directory_digest() {
                        environment.lead(open.id).await;
                    } else {
                        environment.leave_to_others(&open, &mut abandoned).await;
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(error = %super::chain(&error), "rollouts cannot be looked for");
                }
            }
            let heard = async {
                while !matches!(news.next().await, Change::Rollout(_) | Change::Unknown) {}
            };
            _ = timeout(POLL, heard).await;
        }
    };
    let telling = webhook::run(&environment, &changes);
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = async { tokio::join!(leading, telling); } => {}
    }
}

impl Environment {
    /// Plans a rollout and writes it down. `None` when every tenant is where it should be; that costs a look
    /// at the catalog.
    pub async fn start_rollout(
        &self,
        plan: &RolloutPlan,
        by: &str,
    ) -> Result<Option<RolloutRecord>, RolloutError> {
        let drawn = self.draw(plan).await?;
        if drawn.waves.is_empty() {
            return Ok(None);
        }
        let digest = drawn.set.directory_digest();
        let new = NewRollout {
            id: Uuid::now_v7(),
            target_version: drawn.target,
            migrations_digest: &digest,
            files: drawn.set.checksums().collect(),
            plan: serde_json::to_value(plan).expect("a plan is plain data"),
            waves: &drawn.waves,
            max_failures: plan.max_failures.map(|bound| bound.of(drawn.due.len())),
            backup_first: plan.backup_first,
            requested_by: by,
        };
        Ok(Some(self.catalog.start_rollout(&new).await?))
    }

    /// What a plan comes to, with the fleet as it is now.
    async fn draw(&self, plan: &RolloutPlan) -> Result<Drawn, RolloutError> {
        plan.check()?;
        let set = self.migrations();
        self.require_unedited(&set).await?;
        let freeze = self.catalog.freeze().await?;
        let target = match (&freeze, plan.to) {
            (Some(freeze), None) => set.up_to(freeze.version).target_version(),
            _ => plan.target(&set)?,
        };
        if let Some(freeze) = freeze.filter(|freeze| freeze.version < target) {
            return Err(CatalogError::Conflict(format!(
                "the fleet is frozen at version {}, and version {target} is beyond; `tenantry migrate unfreeze` \
                 lifts that",
                freeze.version
            ))
            .into());
        }
        if plan.backup_first {
            self.require_store()?;
        }
        if let Some(track) = &plan.track {
            self.require_track(track)?;
        }
        let mut fleet = self.migratable(&plan.tenants).await?;
        fleet.retain(|tenant| plan.track.is_none() || tenant.track_name() == plan.track.as_ref());
        let held = set.up_to(target);
        // Nobody is brought back who is further already.
        let is_due_in =
            |tenant: &&Tenant| tenant.schema_version <= target && migrate::is_due(tenant, &held);
        let due: Vec<&Tenant> =
            fleet.iter().filter(|tenant| !plan.tenants.is_empty() || is_due_in(tenant)).collect();
        let waves = plan.waves(&due, &fleet)?;
        let due = due.into_iter().cloned().collect();
        Ok(Drawn { set, held, target, due, waves })
    }

    /// Holds a rollout, for whoever asks.
    pub async fn pause_rollout(&self, id: Uuid, by: &str) -> Result<RolloutRecord, CatalogError> {
        let reason = Failure {
            step: "pause".to_owned(),
            message: format!("paused by {by}"),
            remedy: Some(format!("`tenantry migrate resume {id}` goes on")),
        };
        if let Some(paused) = self.catalog.asked_by(by).pause_rollout(id, &reason).await? {
            return Ok(paused);
        }
        let found = self.catalog.rollout(id).await?;
        match found.state {
            RolloutState::Paused => Ok(found),
            state => Err(CatalogError::Conflict(format!(
                "rollout {id} is {}; only one that is running can be paused",
                state.as_str()
            ))),
        }
    }

    /// Goes on with a rollout, with the files that it began with: see [`crate::catalog::Catalog::resume_rollout`].
    pub async fn resume_rollout(&self, id: Uuid, by: &str) -> Result<RolloutRecord, CatalogError> {
        let found = self.catalog.rollout(id).await?;
        let obstacle = contradiction(&found, &self.migrations()).or_else(|| frozen(&found));
        if !matches!(found.state, RolloutState::Aborted | RolloutState::Succeeded)
            && let Some(Failure { message, remedy, .. }) = obstacle
        {
            let remedy = remedy.unwrap_or_default();
            return Err(CatalogError::Conflict(format!("{message}; {remedy}")));
        }
        self.catalog.resume_rollout(id, by).await
    }

    /// Leads a rollout until it no longer runs, unless somebody else does. Returns at once then.
    pub async fn lead(&self, id: Uuid) {
        let chore = match self.catalog.try_chore("rollout").await {
            Ok(Some(chore)) => chore,
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(error = %super::chain(&error), "the rollout cannot be led");
                return;
            }
        };
        let (mut told, mut seen) = (false, None);
        loop {
            let pause = match self.advance_since(id, &mut seen).await {
                Ok(record) if record.state != RolloutState::Running => break,
                // Somebody with its files must lead: leave them the way.
                Ok(record) if record.migrations_digest != self.migrations().directory_digest() => {
                    break;
                }
                Ok(_) => LOOK,
                Err(error) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(rollout = %id, %error, "the rollout cannot go on; it will be tried again");
                    }
                    RETRY
                }
            };
            sleep(pause).await;
        }
        chore.end().await;
    }

    /// Does what is due for a rollout, and says how it stands. Twice equals once: every step names the row that
    /// it leaves behind.
    pub async fn advance(&self, id: Uuid) -> Result<RolloutRecord, StepError> {
        self.advance_since(id, &mut None).await
    }

    /// The same for whoever has seen these failures, and looks closely only where there are others.
    async fn advance_since(
        &self,
        id: Uuid,
        seen: &mut Option<Failures>,
    ) -> Result<RolloutRecord, StepError> {
        let mut record = self.catalog.rollout(id).await?;
        let set = self.migrations();
        if record.state != RolloutState::Running
            || record.migrations_digest != set.directory_digest()
        {
            return Ok(record);
        }
        if let Some(reason) = frozen(&record) {
            self.catalog.pause_rollout(id, &reason).await?;
            return Ok(self.catalog.rollout(id).await?);
        }
        if record.begun_at.is_none() {
            self.prepare(&record, &set).await?;
            record = self.catalog.rollout(id).await?;
            if record.state != RolloutState::Running || record.begun_at.is_none() {
                return Ok(record);
            }
        }
        let plan = RolloutPlan::of(&record)?;
        let failures = self.catalog.failures(id).await?;
        if *seen != Some(failures) {
            self.catalog.guard_rollout(id).await?;
            *seen = Some(failures);
        }
        self.catalog.enqueue_wave(id, &enqueue(&plan, &record)).await?;
        if self.catalog.is_rollout_busy(id).await? {
            return Ok(record);
        }
        self.close_waves(&plan, &record).await?;
        Ok(self.catalog.rollout(id).await?)
    }

    /// The templates of every server first: files that do not run end here, and no tenant has seen them.
    async fn prepare(&self, record: &RolloutRecord, set: &MigrationSet) -> Result<(), StepError> {
        let set = set.up_to(record.target_version);
        let mut servers = BTreeSet::new();
        let tenants = self.catalog.rollout_tenants(record.id).await?;
        for tenant in self.migratable(&[]).await? {
            if tenants.iter().any(|planned| planned.tenant_id == tenant.id) {
                servers.insert(tenant.server_id);
            }
        }
        for server in servers {
            match upkeep::ensure_template(self, server, &set).await {
                Ok(()) => {}
                Err(error @ StepError::Fail(..)) => {
                    let reason = error.to_failure("template");
                    let (catalog, failed) = (&self.catalog, RolloutState::Failed);
                    return Ok(catalog.finish_rollout(record.id, failed, Some(&reason)).await?);
                }
                Err(error) if Timestamp::now() < record.created_at + TEMPLATE_PATIENCE => {
                    return Err(error);
                }
                Err(error) => {
                    let reason = Failure {
                        remedy: Some(format!(
                            "when that server is well, `tenantry migrate resume {id}`; to migrate the others alone, \
                             `tenantry migrate abort {id}`, and `tenantry migrate up` with `--tenant`",
                            id = record.id
                        )),
                        ..error.to_failure("template")
                    };
                    self.catalog.pause_rollout(record.id, &reason).await?;
                    return Ok(());
                }
            }
        }
        Ok(self.catalog.begin_rollout(record.id).await?)
    }

    /// Goes from a wave that has ended well to the next, or to the end.
    async fn close_waves(
        &self,
        plan: &RolloutPlan,
        record: &RolloutRecord,
    ) -> Result<(), StepError> {
        let (catalog, id, wave) = (&self.catalog, record.id, record.wave);
        let counts = catalog.count_rollout(id).await?;
        let so_far = || counts.iter().filter(|count| count.wave <= wave);
        if so_far().any(|count| !count.state.is_settled()) {
            return Ok(());
        }
        let failed: i64 = so_far()
            .filter(|count| count.state == ItemState::Failed)
            .map(|count| count.tenants)
            .sum();
        let more = record.has_next_wave();
        if record.bake_until.is_none() {
            let bake = if more { plan.bake_secs } else { 0 };
            catalog.close_wave(id, wave, f64::from(bake)).await?;
        }
        if more && failed > i64::from(record.max_failures.unwrap_or(0)) {
            let what = format!("wave {} ended with {failed} failed", record.wave_name(wave));
            return self.hold(id, "wave", what).await;
        }
        if !catalog.rollout(id).await?.baked {
            return Ok(());
        }
        if more {
            return match self.unwell(record).await? {
                Some(what) => self.hold(id, "health", what).await,
                None => Ok(catalog.next_wave(id, wave).await?),
            };
        }
        if catalog.is_anything_coming(id, &Work::BRING_FILES).await? {
            return Ok(());
        }
        let targets = tracks::targets_of(&self.migrations().up_to(record.target_version));
        let behind = catalog.stragglers(record, targets.as_ref(), plan.is_named()).await?;
        if !behind.is_empty() {
            catalog.add_wave(record, "stragglers", &behind, plan.backup_first).await?;
            return Ok(catalog.next_wave(id, wave).await?);
        }
        if failed == 0 {
            return Ok(catalog.finish_rollout(id, RolloutState::Succeeded, None).await?);
        }
        let reason = refusal(id, "tenants", format!("{failed} failed"));
        Ok(catalog.finish_rollout(id, RolloutState::Failed, Some(&reason)).await?)
    }

    async fn hold(&self, id: Uuid, step: &str, what: String) -> Result<(), StepError> {
        self.catalog.pause_rollout(id, &refusal(id, step, what)).await?;
        Ok(())
    }

    /// The first tenant of the wave that cannot be reached, or is not at the version; in words.
    async fn unwell(&self, record: &RolloutRecord) -> Result<Option<String>, StepError> {
        let tenants = self.catalog.rollout_tenants(record.id).await?;
        let of_wave = tenants
            .into_iter()
            .filter(|tenant| tenant.wave == record.wave && tenant.state == ItemState::Succeeded);
        let checks = of_wave.map(|tenant| async move {
            let checked = self.check(tenant.tenant_id, record.target_version);
            match timeout(HEALTH_PATIENCE, checked).await {
                Ok(Ok(None)) => None,
                Ok(Ok(Some(what))) => Some(format!("tenant {} is unwell: {what}", tenant.slug)),
                Ok(Err(error)) => Some(format!("tenant {} is unwell: {error}", tenant.slug)),
                Err(_) => Some(format!("tenant {} does not answer", tenant.slug)),
            }
        });
        let mut found = stream::iter(checks).buffer_unordered(HEALTH_CHECKS);
        while let Some(checked) = found.next().await {
            if checked.is_some() {
                return Ok(checked);
            }
        }
        Ok(None)
    }

    /// What is wrong with a tenant whose own database should be at the version. One that was brought back
    /// meanwhile, and so is known to be behind, is no sign of a bad migration: it comes with the stragglers.
    async fn check(&self, tenant: Uuid, target: i64) -> Result<Option<String>, StepError> {
        let tenant = self.catalog.tenant_by_id(tenant).await?;
        if tenant.state != TenantState::Active || tenant.schema_version < target {
            return Ok(None);
        }
        let session = self.server(tenant.server_id).await?.connect(&tenant.database).await?;
        let version = current_version(&session).await?;
        if version < target {
            return Ok(Some(format!("its database is at version {version}")));
        }
        tracks::shortfall(&session, &tenant).await
    }

    /// The tenants that have a database to migrate: all, or those named.
    async fn migratable(&self, slugs: &[TenantSlug]) -> Result<Vec<Tenant>, CatalogError> {
        if !slugs.is_empty() {
            return self.fleet(slugs).await;
        }
        let mut all = self.catalog.living_tenants(None).await?;
        all.retain(|tenant| {
            matches!(
                tenant.state,
                TenantState::Active
                    | TenantState::Suspended
                    | TenantState::Restoring
                    | TenantState::Renaming
            )
        });
        Ok(all)
    }
}

/// What a plan comes to.
struct Drawn {
    /// Every file.
    set: MigrationSet,
    /// The files up to the target.
    held: MigrationSet,
    target: i64,
    due: Vec<Tenant>,
    waves: Vec<(String, Vec<Uuid>)>,
}

fn refusal(id: Uuid, step: &str, message: String) -> Failure {
    let remedy = format!(
        "`tenantry migrate show {id}` tells who and why; `tenantry migrate resume {id}` tries the failed ones \
         again and goes on"
    );
    Failure { step: step.to_owned(), message, remedy: Some(remedy) }
}
