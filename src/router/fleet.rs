//! Jobs that go through the whole fleet, tenant by tenant.
//!
//! The list comes from the catalog in pages, by id, so a job holds a page of tenants and not the fleet. Each
//! tenant is on its own: one that fails stops no other, one that is suspended, deleted or not yet made is
//! passed over, one that is renamed is met once, and one that is created while the job runs is met if its id
//! is still ahead.
//!
//! A connection that is made for such a job is closed with it: whoever passes a thousand tenants once leaves
//! no thousand idle connections behind.
//!
//! Must never: begin more tenants at a time than it was told to, or outlive its future. Dropping that stops
//! everything, also on the servers.

use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use uuid::Uuid;

use super::{RouterError, TenantConnection, TenantRouter};
use crate::catalog::CatalogError;
use crate::tenant::{Tenant, TenantScope, TenantSlug, TenantState};

/// Tenants that are read from the catalog at a time.
const PAGE: i64 = 100;
/// Failures that are told one by one; more are only counted.
const TOLD: usize = 100;

/// How a job goes through the fleet. A number is a pace: so many tenants at a time.
#[derive(Clone, Debug)]
pub struct Pace {
    concurrency: usize,
    max_failures: Option<u64>,
    stop: CancellationToken,
}

/// What became of a job.
#[derive(Debug)]
pub struct FleetReport<E> {
    /// Tenants whose work ended well.
    pub done: u64,
    /// Tenants whose work failed, or that could not be reached.
    pub failed: u64,
    /// Tenants that were not active, or were deleted meanwhile.
    pub skipped: u64,
    /// The first hundred failures, in the order in which they came.
    pub failures: Vec<TenantFailure<E>>,
    /// Why no further tenant was begun.
    pub ended: Ended,
}

/// One tenant's failure.
#[derive(Debug)]
pub struct TenantFailure<E> {
    /// The tenant, for another try.
    pub scope: TenantScope,
    /// What went wrong.
    pub error: WorkError<E>,
}

/// Why a tenant's work is not done.
#[derive(Debug, Error)]
pub enum WorkError<E> {
    /// The work did not begin.
    #[error(transparent)]
    Connection(RouterError),
    /// The work's own error.
    #[error("{0}")]
    Work(E),
}

/// Why a job began no further tenant.
#[derive(Debug)]
pub enum Ended {
    /// There was none.
    All,
    /// Its stop token was cancelled.
    Stopped,
    /// As many failed as [`Pace::max_failures`] allows.
    TooManyFailures,
    /// The catalog could not tell which tenants come next.
    Catalog(CatalogError),
}

impl Pace {
    /// So many tenants at a time, at least one, until all are done.
    #[must_use]
    pub fn at_once(concurrency: usize) -> Self {
        let concurrency = concurrency.max(1);
        Self { concurrency, max_failures: None, stop: CancellationToken::new() }
    }

    /// Begins no further tenant once so many have failed. Those under way come to their end.
    #[must_use]
    pub fn max_failures(self, failures: u64) -> Self {
        Self { max_failures: Some(failures), ..self }
    }

    /// Begins no further tenant once the token is cancelled. Those under way come to their end.
    #[must_use]
    pub fn stop(self, stop: CancellationToken) -> Self {
        Self { stop, ..self }
    }
}

impl From<usize> for Pace {
    fn from(concurrency: usize) -> Self {
        Self::at_once(concurrency)
    }
}

impl TenantRouter {
    /// Does some work for every active tenant, several at a time.
    ///
    /// ```no_run
    /// # async fn purge(router: tenantry::TenantRouter) {
    /// let report = router
    ///     .for_each_tenant(8, |tenant| async move {
    ///         let sql = "delete from cards where done and created_at < now() - interval '1 year'";
    ///         tenant.execute(sql, &[]).await.map(drop)
    ///     })
    ///     .await;
    /// for failure in &report.failures {
    ///     tracing::warn!(tenant = %failure.scope.slug(), "not purged: {}", failure.error);
    /// }
    /// # }
    /// ```
    pub async fn for_each_tenant<F, W, E>(&self, pace: impl Into<Pace>, work: F) -> FleetReport<E>
    where
        F: Fn(TenantConnection) -> W,
        W: Future<Output = Result<(), E>>,
    {
        let Pace { concurrency, max_failures, stop } = pace.into();
        let mut report = FleetReport::new();
        let enough = stop.child_token();
        let begun = self.fleet().take_until(enough.clone().cancelled_owned());
        let visits = begun.map(|listed| async {
            match listed {
                Ok(tenant) => self.visit(&tenant, &work).await,
                Err(error) => Visit::Unlisted(error),
            }
        });
        let mut visits = std::pin::pin!(visits.buffer_unordered(concurrency));
        while let Some(visit) = visits.next().await {
            report.note(visit);
            if max_failures.is_some_and(|most| report.failed >= most.max(1)) {
                enough.cancel();
            }
        }
        if let Ended::All = report.ended {
            report.ended = match (stop.is_cancelled(), enough.is_cancelled()) {
                (true, _) => Ended::Stopped,
                (_, true) => Ended::TooManyFailures,
                _ => Ended::All,
            };
        }
        report
    }

    /// Every tenant that is not deleted, page by page.
    fn fleet(&self) -> impl Stream<Item = Result<Tenant, CatalogError>> + Send {
        stream::try_unfold(Some(Uuid::nil()), |after| self.page(after))
            .map_ok(|page| stream::iter(page).map(Ok))
            .try_flatten()
    }

    /// The page after a tenant, and its last tenant; none after the last page.
    async fn page(
        &self,
        after: Option<Uuid>,
    ) -> Result<Option<(Vec<Tenant>, Option<Uuid>)>, CatalogError> {
        let Some(after) = after else { return Ok(None) };
        let page = self.shared.routes.catalog().tenants_after(after, PAGE).await?;
        let last = page.last().map(|tenant| tenant.id);
        Ok(Some((page, last)))
    }

    async fn visit<F, W, E>(&self, tenant: &Tenant, work: &F) -> Visit<E>
    where
        F: Fn(TenantConnection) -> W,
        W: Future<Output = Result<(), E>>,
    {
        if tenant.state != TenantState::Active && !tenant.state.is_cutover() {
            return Visit::Skipped;
        }
        let visit = async {
            let connection = match self.connection_of_listed(&tenant.slug).await {
                Ok(connection) => connection,
                Err(RouterError::UnknownTenant(_) | RouterError::NotServed { .. }) => {
                    return Visit::Skipped;
                }
                Err(error) => {
                    return Visit::failed(tenant.into(), WorkError::Connection(error));
                }
            };
            connection.close_unless_pooled();
            let scope = connection.scope();
            match work(connection).await {
                Ok(()) => Visit::Done,
                Err(error) => Visit::failed(scope, WorkError::Work(error)),
            }
        };
        visit.instrument(tracing::info_span!("tenant_work", tenant = %tenant.slug)).await
    }

    /// The list is newer than what the router may remember, so a no is asked for twice.
    async fn connection_of_listed(
        &self,
        slug: &TenantSlug,
    ) -> Result<TenantConnection, RouterError> {
        match self.connection(slug).await {
            Err(RouterError::UnknownTenant(_) | RouterError::NotServed { .. }) => {
                self.shared.routes.evict(slug).await;
                self.connection(slug).await
            }
            answer => answer,
        }
    }
}

impl<E> FleetReport<E> {
    /// Whether every tenant was begun and none failed.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.failed == 0 && matches!(self.ended, Ended::All)
    }

    fn new() -> Self {
        Self { done: 0, failed: 0, skipped: 0, failures: Vec::new(), ended: Ended::All }
    }

    fn note(&mut self, visit: Visit<E>) {
        match visit {
            Visit::Done => self.done += 1,
            Visit::Skipped => self.skipped += 1,
            Visit::Failed(failure) => {
                self.failed += 1;
                if self.failures.len() < TOLD {
                    self.failures.push(*failure);
                }
            }
            Visit::Unlisted(error) => self.ended = Ended::Catalog(error),
        }
    }
}

/// What became of one tenant of the list, or of the list.
enum Visit<E> {
    Done,
    Skipped,
    Failed(Box<TenantFailure<E>>),
    Unlisted(CatalogError),
}

impl<E> Visit<E> {
    fn failed(scope: TenantScope, error: WorkError<E>) -> Self {
        Self::Failed(Box::new(TenantFailure { scope, error }))
    }
}
