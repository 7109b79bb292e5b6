//! [`Trial`]: would the files of a rollout run? They are tried, and nobody is migrated.
//!
//! Every server makes a template of them first, out of nothing and for good, as a rollout does: so files that
//! cannot be undone are tried too. Then they run in the databases of the canary, or of the tenants that are
//! named, in a transaction that is rolled back: there they meet rows. So do the files of their tracks, which no template
//! has. Until it is, it holds every lock that it
//! takes, so nobody is tried who has not been named.

use std::collections::BTreeMap;

use serde::Serialize;
use tenantry_provisioning::dry_run;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Drawn, RolloutError, RolloutPlan};
use crate::catalog::operations::Failure;
use crate::operations::{Environment, StepError, upkeep};
use crate::tenant::{Tenant, TenantSlug};

/// What came of trying.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Trial {
    /// The version that tenants would be brought to.
    pub target_version: i64,
    /// How many tenants have something to do.
    pub tenants: usize,
    /// Where the files were tried: the templates first.
    pub outcomes: Vec<TrialOutcome>,
}

/// What came of trying in one database.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TrialOutcome {
    /// Whose database; none for a template.
    #[schema(value_type = Option<String>)]
    pub tenant: Option<TenantSlug>,
    /// Its server.
    pub server: String,
    /// The files that ran; of a template that stood already, those that it was made of.
    pub tried: Vec<String>,
    /// The files that could not be tried there.
    pub skipped: Vec<Skipped>,
    /// What keeps the files from running, and what to do about it.
    pub error: Option<Failure>,
}

/// A file that could not be tried.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Skipped {
    /// Its name.
    pub file: String,
    /// Why.
    pub reason: String,
}

impl Trial {
    /// Whether the files ran wherever they were tried.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.outcomes.iter().all(|outcome| outcome.error.is_none())
    }
}

impl Environment {
    /// Tries what [`start_rollout`](Self::start_rollout) with the same plan would do.
    pub async fn try_rollout(&self, plan: &RolloutPlan) -> Result<Trial, RolloutError> {
        let drawn = self.draw(plan).await?;
        let mut outcomes = Vec::new();
        let servers: BTreeMap<Uuid, &str> =
            drawn.due.iter().map(|one| (one.server_id, one.server_name.as_str())).collect();
        for (id, name) in servers {
            let made = upkeep::ensure_template(self, id, &drawn.held).await;
            let files = drawn.held.files().map(|file| file.file.clone());
            let repeatables = drawn.held.repeatables().iter().map(|file| file.file.clone());
            outcomes.push(TrialOutcome {
                tenant: None,
                server: name.to_owned(),
                tried: if made.is_ok() { files.chain(repeatables).collect() } else { Vec::new() },
                skipped: Vec::new(),
                error: made.err().map(|error| error.to_failure("template")),
            });
        }
        if outcomes.iter().all(|outcome| outcome.error.is_none()) {
            for tenant in drawn.to_try(plan) {
                outcomes.push(self.try_on(tenant, &drawn).await);
            }
        }
        Ok(Trial { target_version: drawn.target, tenants: drawn.due.len(), outcomes })
    }

    async fn try_on(&self, tenant: &Tenant, drawn: &Drawn) -> TrialOutcome {
        let timeouts = self.limits.migration_timeouts;
        let tried = async {
            let server = self.server(tenant.server_id).await?;
            let track = match tenant.track_name() {
                Some(track) if drawn.held.is_whole() => Some(drawn.held.track(track.as_str())?),
                _ => None,
            };
            Ok(dry_run(&server, &tenant.database, &drawn.held, track.as_ref(), timeouts).await?)
        };
        let mut outcome = TrialOutcome {
            tenant: Some(tenant.slug.clone()),
            server: tenant.server_name.clone(),
            tried: Vec::new(),
            skipped: Vec::new(),
            error: None,
        };
        let tried: Result<_, StepError> = tried.await;
        match tried {
            Ok(run) => {
                outcome.tried = run.tried;
                outcome.skipped = run
                    .skipped
                    .into_iter()
                    .map(|(file, reason)| Skipped { file, reason })
                    .collect();
            }
            Err(error) => outcome.error = Some(error.to_failure("dry run")),
        }
        outcome
    }
}

impl Drawn {
    /// The canary; the tenants that are named where there is none.
    fn to_try<'a>(&'a self, plan: &RolloutPlan) -> Vec<&'a Tenant> {
        let canary = self.waves.first().filter(|_| !plan.canary.is_empty());
        let is_tried = |tenant: &&Tenant| match canary {
            Some((_, tenants)) => tenants.contains(&tenant.id),
            None => !plan.tenants.is_empty(),
        };
        self.due.iter().filter(is_tried).collect()
    }
}
