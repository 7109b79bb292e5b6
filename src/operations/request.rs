//! Asking for operations: the one door through which the CLI and the admin API change tenants.
//!
//! What cannot succeed in the tenant's present state is refused here, before anything is queued.

use uuid::Uuid;

use super::environment::{NO_STORE, SET_STORE};
use super::{Environment, Way, Work, migrate};
use crate::catalog::CatalogError;
use crate::catalog::operations::{BatchItem, NewOperation, OperationRecord};
use crate::catalog::slugs::require_another_slug;
use crate::catalog::tenants::NewTenant;
use crate::tenant::{Tenant, TenantSettings, TenantSlug, TenantState};

mod again;
mod clone;
mod restore;
mod restore_at;

pub use clone::CloneAs;
pub use restore::{BackupChoice, RestoreAs};
pub use restore_at::PointInTime;

/// Who asks, and under which key the same request finds the same operation again.
#[derive(Clone, Copy, Debug)]
pub struct Requester<'a> {
    /// A person or a token, for the record.
    pub name: &'a str,
    /// The request's `Idempotency-Key`.
    pub idempotency_key: Option<&'a str>,
}

impl<'a> Requester<'a> {
    /// What is asked for.
    pub(super) fn operation(self, work: &Work, tenant: Uuid) -> NewOperation<'a> {
        NewOperation {
            idempotency_key: self.idempotency_key,
            ..work.new_operation(tenant, self.name)
        }
    }
}

impl Environment {
    /// Creates a tenant. Asking twice for one slug ends in [`CatalogError::Exists`].
    pub async fn create_tenant(
        &self,
        new: &NewTenant,
        sample_data: bool,
        by: Requester<'_>,
    ) -> Result<OperationRecord, CatalogError> {
        if let Some(earlier) = self.earlier(by, "provision").await? {
            return Ok(earlier);
        }
        self.require_unedited(&self.migrations()).await?;
        self.make(new, &Work::Provision { sample_data }, by).await
    }

    /// Stops serving a tenant.
    pub async fn suspend(
        &self,
        slug: &TenantSlug,
        reason: Option<String>,
        by: Requester<'_>,
    ) -> Result<OperationRecord, CatalogError> {
        self.ask(slug, &TenantState::SETTLED, &Work::Suspend { reason }, by).await
    }

    /// Serves a suspended tenant again.
    pub async fn resume(
        &self,
        slug: &TenantSlug,
        by: Requester<'_>,
    ) -> Result<OperationRecord, CatalogError> {
        self.ask(slug, &TenantState::SETTLED, &Work::Resume {}, by).await
    }

    /// Gives a tenant's login role another password; open sessions stay.
    pub async fn rotate_password(
        &self,
        slug: &TenantSlug,
        by: Requester<'_>,
    ) -> Result<OperationRecord, CatalogError> {
        self.ask(slug, &TenantState::SETTLED, &Work::RotatePassword {}, by).await
    }

    /// Gives a tenant another slug, and its database and role the names that go with it. Nobody else can
    /// have the slug from now on; the one that the tenant has goes on leading to it.
    pub async fn rename(
        &self,
        slug: &TenantSlug,
        to: &TenantSlug,
        by: Requester<'_>,
    ) -> Result<OperationRecord, CatalogError> {
        if let Some(earlier) = self.earlier(by, "rename").await? {
            return Ok(earlier);
        }
        let tenant = self.settled(slug).await?;
        require_another_slug(&tenant, to)?;
        let work = Work::Rename { to: to.clone() };
        let operation = by.operation(&work, tenant.id);
        let asked = self.catalog.enqueue_rename(to, &operation).await;
        self.or_earlier(asked, by).await
    }

    /// Moves a tenant to another server, online where that is possible.
    pub async fn relocate(
        &self,
        slug: &TenantSlug,
        to: &str,
        by: Requester<'_>,
    ) -> Result<OperationRecord, CatalogError> {
        self.relocate_by(slug, to, Way::Auto, by).await
    }

    /// Moves a tenant to another server in this way.
    pub async fn relocate_by(
        &self,
        slug: &TenantSlug,
        to: &str,
        way: Way,
        by: Requester<'_>,
    ) -> Result<OperationRecord, CatalogError> {
        if let Some(earlier) = self.earlier(by, "relocate").await? {
            return Ok(earlier);
        }
        let tenant = self.catalog.tenant(slug).await?;
        let server = self.other_place(&tenant, to).await?;
        self.queue(&tenant, &TenantState::SETTLED, &Work::Relocate { server, way }, by).await
    }

    /// The server with this name, if a tenant may move to it.
    pub async fn other_place(&self, tenant: &Tenant, name: &str) -> Result<Uuid, CatalogError> {
        let server = self.catalog.check_place(tenant, name).await?;
        if server != tenant.server_id {
            return Ok(server);
        }
        Err(CatalogError::Conflict(format!(
            "tenant `{}` is on server `{name}` already; `tenantry server plan` shows others",
            tenant.slug
        )))
    }

    /// Deletes a tenant, whatever its state.
    pub async fn delete(
        &self,
        slug: &TenantSlug,
        keep_backups: bool,
        by: Requester<'_>,
    ) -> Result<OperationRecord, CatalogError> {
        self.ask(slug, &TenantState::ALL, &Work::Delete { keep_backups, erase: false }, by).await
    }

    /// Backs a tenant up.
    pub async fn back_up(
        &self,
        slug: &TenantSlug,
        by: Requester<'_>,
    ) -> Result<OperationRecord, CatalogError> {
        self.require_store()?;
        self.ask(slug, &TenantState::SETTLED, &Work::Backup { unless_unchanged: false }, by).await
    }

    /// Removes what a tenant's retention does not keep.
    pub async fn prune(
        &self,
        slug: &TenantSlug,
        by: Requester<'_>,
    ) -> Result<OperationRecord, CatalogError> {
        self.require_store()?;
        self.ask(slug, &TenantState::SETTLED, &Work::Prune {}, by).await
    }

    /// Brings tenants to the newest migration: those named, or all that are behind. Returns the batch.
    pub async fn migrate_fleet(
        &self,
        slugs: &[TenantSlug],
        by: &str,
    ) -> Result<Uuid, CatalogError> {
        let (set, files) = (self.permitted().await?, self.migrations());
        let due: Vec<Tenant> = self
            .fleet(slugs)
            .await?
            .into_iter()
            .filter(|tenant| !slugs.is_empty() || migrate::is_due(tenant, &set))
            .collect();
        let digest = files.directory_digest();
        self.enqueue_fleet(&due, &Work::Migrate { to: None }, Some(&digest), by).await
    }

    /// Adopts a database whose schema is there already, as what the files up to a version make: the newest
    /// one when none is named. One that differs is adopted only with the fingerprint that somebody accepted.
    pub async fn baseline(
        &self,
        slug: &TenantSlug,
        version: Option<i64>,
        accepted: Option<String>,
        by: Requester<'_>,
    ) -> Result<OperationRecord, CatalogError> {
        if let Some(earlier) = self.earlier(by, "baseline").await? {
            return Ok(earlier);
        }
        let tenant = self.settled(slug).await?;
        let set = self.migrations();
        let version = version.unwrap_or(set.target_version());
        if version == 0 || set.at(version).is_none() {
            return Err(CatalogError::Conflict(format!(
                "there is no migration file of version {version}; choose a version that the directory has \
                 (TENANTRY_TENANT_MIGRATIONS_DIR)"
            )));
        }
        let work = Work::Baseline { version, accepted };
        let mut operation = by.operation(&work, tenant.id);
        let digest = set.directory_digest();
        operation.migrations_digest = Some(&digest);
        let asked = self.catalog.enqueue(&operation).await;
        self.or_earlier(asked, by).await
    }

    /// Backs up tenants: those named, or all. Returns the batch.
    pub async fn back_up_fleet(
        &self,
        slugs: &[TenantSlug],
        by: &str,
    ) -> Result<Uuid, CatalogError> {
        self.require_store()?;
        let fleet = self.fleet(slugs).await?;
        self.enqueue_fleet(&fleet, &Work::Backup { unless_unchanged: false }, None, by).await
    }

    /// Prunes the backups of tenants: those named, or all. Returns the batch.
    pub async fn prune_fleet(&self, slugs: &[TenantSlug], by: &str) -> Result<Uuid, CatalogError> {
        self.require_store()?;
        let fleet = self.fleet(slugs).await?;
        self.enqueue_fleet(&fleet, &Work::Prune {}, None, by).await
    }

    /// The served and suspended tenants, or those named.
    pub async fn fleet(&self, slugs: &[TenantSlug]) -> Result<Vec<Tenant>, CatalogError> {
        if slugs.is_empty() {
            let mut all = self.catalog.living_tenants(None).await?;
            all.retain(|tenant| tenant.state.is_settled());
            return Ok(all);
        }
        let mut named = Vec::with_capacity(slugs.len());
        for slug in slugs {
            named.push(self.catalog.tenant(slug).await?);
        }
        Ok(named)
    }

    async fn enqueue_fleet(
        &self,
        tenants: &[Tenant],
        work: &Work,
        digest: Option<&str>,
        by: &str,
    ) -> Result<Uuid, CatalogError> {
        let batch = Uuid::now_v7();
        let items: Vec<BatchItem> = tenants
            .iter()
            .map(|tenant| BatchItem { operation: Uuid::now_v7(), tenant: tenant.id })
            .collect();
        let mut like = work.new_operation(Uuid::nil(), by);
        like.batch_id = Some(batch);
        like.migrations_digest = digest;
        self.catalog.enqueue_batch(&like, &items).await?;
        Ok(batch)
    }

    /// Gives up an operation that is queued or has failed; a worker undoes what it has done. One that
    /// is past its point of no return can only be retried.
    pub async fn cancel(&self, id: Uuid) -> Result<OperationRecord, CatalogError> {
        let record = self.catalog.operation(id).await?;
        let no_return = Work::of(&record)?.plan().no_return;
        let no_return = i32::try_from(no_return).expect("lists of steps are short");
        self.catalog.cancel(id, no_return).await
    }

    /// Backups and restores are refused at once where they could only fail.
    pub(super) fn require_store(&self) -> Result<(), CatalogError> {
        match self.store {
            Some(_) => Ok(()),
            None => Err(CatalogError::Conflict(format!("{NO_STORE}; {SET_STORE}"))),
        }
    }

    pub(super) async fn ask(
        &self,
        slug: &TenantSlug,
        wanted: &[TenantState],
        work: &Work,
        by: Requester<'_>,
    ) -> Result<OperationRecord, CatalogError> {
        // First: what was asked for may have deleted the tenant.
        if let Some(earlier) = self.earlier(by, work.kind()).await? {
            let asked = by.operation(work, earlier.tenant_id);
            if matches!(work, Work::Delete { .. }) && earlier.input != asked.input {
                return Err(again::key_reused());
            }
            return Ok(earlier);
        }
        let tenant = self.catalog.tenant(slug).await?;
        if matches!(work, Work::Delete { .. }) && tenant.slug != *slug {
            return Err(CatalogError::Conflict(format!(
                "`{slug}` is an earlier name of tenant `{now}`, and nobody is deleted by one: if `{now}` is meant, \
                 name it",
                now = tenant.slug
            )));
        }
        self.queue(&tenant, wanted, work, by).await
    }

    /// The same of a tenant that is known already, and may be deleted.
    pub(super) async fn ask_of(
        &self,
        tenant: &Tenant,
        wanted: &[TenantState],
        work: &Work,
        by: Requester<'_>,
    ) -> Result<OperationRecord, CatalogError> {
        match self.earlier(by, work.kind()).await? {
            Some(earlier) => Ok(earlier),
            None => self.queue(tenant, wanted, work, by).await,
        }
    }

    async fn queue(
        &self,
        tenant: &Tenant,
        wanted: &[TenantState],
        work: &Work,
        by: Requester<'_>,
    ) -> Result<OperationRecord, CatalogError> {
        require_state(tenant, wanted)?;
        if work.takes_backups_away() {
            refuse_hold(tenant)?;
        }
        let asked = self.catalog.enqueue(&by.operation(work, tenant.id)).await;
        self.or_earlier(asked, by).await
    }

    /// The server that is named for a tenant to move to, if its rules let it go there.
    async fn place_of(
        &self,
        tenant: &Tenant,
        server: Option<&str>,
    ) -> Result<Option<Uuid>, CatalogError> {
        match server {
            Some(name) => self.catalog.check_place(tenant, name).await.map(Some),
            None => Ok(None),
        }
    }

    /// Makes another tenant of what one has, or had: with an id, a key, a role and a password of its own.
    async fn copy_tenant(
        &self,
        original: &Tenant,
        to: RestoreAs,
        work: &Work,
        by: Requester<'_>,
    ) -> Result<OperationRecord, CatalogError> {
        // The law that binds the data to a region binds its copy.
        let mut settings = TenantSettings::default();
        settings.set_fleet(original.settings.fleet().cloned().unwrap_or_default());
        let new = NewTenant {
            name: to.slug.to_string(),
            slug: to.slug,
            tier: original.tier,
            settings,
            server: to.server,
            track: original.track_name().cloned(),
        };
        self.make(&new, work, by).await
    }

    async fn make(
        &self,
        new: &NewTenant,
        work: &Work,
        by: Requester<'_>,
    ) -> Result<OperationRecord, CatalogError> {
        if let Some(track) = &new.track {
            self.require_track(track)?;
        }
        let tenant = Uuid::now_v7();
        let made = self.catalog.create_tenant(tenant, new, &by.operation(work, tenant)).await;
        self.or_earlier(made, by).await
    }

    /// The tenant, if no other operation is in the middle of changing it.
    pub(super) async fn settled(&self, slug: &TenantSlug) -> Result<Tenant, CatalogError> {
        let tenant = self.catalog.tenant(slug).await?;
        require_state(&tenant, &TenantState::SETTLED)?;
        Ok(tenant)
    }
}

fn require_state(tenant: &Tenant, wanted: &[TenantState]) -> Result<(), CatalogError> {
    if wanted.contains(&tenant.state) {
        return Ok(());
    }
    let slug = &tenant.slug;
    Err(CatalogError::Conflict(format!(
        "tenant {slug} is {}; see `tenantry operation list --tenant-slug {slug}`",
        tenant.state
    )))
}

/// Refuses to take a tenant's backups away, or the keys to them, under legal hold.
pub(super) fn refuse_hold(tenant: &Tenant) -> Result<(), CatalogError> {
    let held = tenant.settings.backup().is_some_and(|policy| policy.legal_hold == Some(true));
    if !held {
        return Ok(());
    }
    let slug = &tenant.slug;
    Err(CatalogError::Conflict(format!(
        "the backups of tenant {slug} are under legal hold; delete it and keep them, or end the hold with \
         `tenantry backup hold {slug} --release`"
    )))
}
