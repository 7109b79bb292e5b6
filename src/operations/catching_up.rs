//! Bringing tenants up to date without anybody asking: when they are next used, or one after the other.
//!
//! A worker says in the catalog which files it has ([`crate::catalog::catching_up`]); from that, and from what
//! stands in the catalog about each tenant, follows who is behind. When a tenant is used, a router asks for the
//! operation. In the background a worker does: for one tenant of each server at a time, after everything else in
//! the queue, and no more once three of them have failed in a row. An open rollout, or a freeze, keeps both from
//! it. Files that have not run in the server's template touch no tenant.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Environment, tracks};
use crate::catalog::CatalogError;
use crate::catalog::catching_up::{CatchUpMode, CatchingUp, WantedSchema};
use crate::catalog::changes::{Change, Changes, Subscription};

/// How often a worker says that it lives; a minute of silence takes its files away.
const LIVES: Duration = Duration::from_secs(10);
/// How often to look for who is behind, if nothing is heard.
const POLL: Duration = Duration::from_secs(5);

/// A worker's part in it.
pub struct CatchingUpWorker {
    environment: Environment,
    mode: CatchUpMode,
    /// What it said last, and when.
    said: Option<(Instant, WantedSchema)>,
    was_stopped: bool,
}

/// Does so until `shutdown`, if the settings want it.
pub async fn run(environment: Environment, changes: Changes, shutdown: CancellationToken) {
    let Some(mut worker) = CatchingUpWorker::new(environment) else { return };
    let mut news = changes.subscribe();
    while !shutdown.is_cancelled() {
        if let Err(error) = worker.look().await {
            tracing::debug!(error = %super::chain(&error), "who is behind cannot be looked for");
        }
        tokio::select! {
            () = shutdown.cancelled() => {}
            _ = timeout(POLL, heard(&mut news)) => sleep(Duration::from_millis(20)).await,
        }
    }
}

/// A migration has ended, or tenants should be elsewhere.
async fn heard(news: &mut Subscription) {
    loop {
        match news.next().await {
            Change::Operation(_, state) if state.is_settled() => return,
            Change::Migrations | Change::Unknown => return,
            _ => {}
        }
    }
}

impl CatchingUpWorker {
    /// None where tenants are migrated only when somebody asks.
    #[must_use]
    pub fn new(environment: Environment) -> Option<Self> {
        let mode = environment.limits.catch_up?;
        Some(Self { environment, mode, said: None, was_stopped: false })
    }

    /// Says which files it has and, in the background, has the next tenants migrated.
    pub async fn look(&mut self) -> Result<(), CatalogError> {
        self.say().await?;
        if self.mode == CatchUpMode::Background
            && let Some(status) = self.environment.catalog.catch_up_in_background().await?
        {
            self.warn(&status);
        }
        Ok(())
    }

    async fn say(&mut self) -> Result<(), CatalogError> {
        let (files, permitted) =
            (self.environment.migrations(), self.environment.permitted().await?);
        let wanted = WantedSchema {
            digest: files.directory_digest(),
            mode: self.mode,
            version: permitted.target_version(),
            repeatables: permitted.repeatables_digest().map(str::to_owned),
            template: self.environment.template_digest(&permitted),
            tracks: tracks::targets_of(&permitted).unwrap_or_else(|| json!({})),
        };
        let is_known =
            |(when, said): &(Instant, WantedSchema)| when.elapsed() < LIVES && *said == wanted;
        if !self.said.as_ref().is_some_and(is_known) {
            self.environment.catalog.want_schema(&wanted).await?;
            self.said = Some((Instant::now(), wanted));
        }
        Ok(())
    }

    /// Once each time that it stops.
    fn warn(&mut self, status: &CatchingUp) {
        if status.is_stopped && !self.was_stopped {
            tracing::error!(
                version = status.version,
                failed = status.failed,
                "too many tenants failed in a row, so no other is migrated in the background: `tenantry migrate \
                 status --detail` names them; fix them, then `tenantry operation retry` or `tenantry migrate up`"
            );
        }
        self.was_stopped = status.is_stopped;
    }
}
