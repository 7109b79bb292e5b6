//! The audit: this system attacks itself, and says what it tried and what it found.
//!
//! Three looks, over the real servers and not over our own records. *Passive* (`passive.rs`): what grants, owners,
//! memberships and settings allow, from outside and from inside of each database. *Active* (`active.rs`): every
//! tenant's own role at every other database of its server, and what it can do in its own. *Consistency*
//! (`consistency.rs`): what the catalog and the bucket say that cannot all be true.
//!
//! An audit proves something only where it was refused for the right reason: what could not be tried is named, and
//! makes the audit incomplete. It changes nothing; [`mend`] runs only what a finding shows. A report is signed and
//! kept, so that an auditor can check it without us.

use std::collections::HashSet;

use serde_json::{Value, json};
use tenantry_provisioning::Hardening;
use uuid::Uuid;

use crate::catalog::CatalogError;
use crate::catalog::audit_log::Event;
use crate::catalog::lock::ChoreLock;
use crate::operations::{Environment, StepError};
use crate::tenant::{Tenant, TenantSlug};

mod active;
mod consistency;
pub mod kinds;
mod passive;
pub mod report;
pub mod schedule;

pub use report::{AuditReport, Finding};

/// What to audit, and how hard.
#[derive(Clone, Debug)]
pub struct AuditOptions {
    /// Only these tenants; all when this is empty.
    pub tenants: Vec<TenantSlug>,
    /// Sessions on one server at a time, beside those of the administrator's pool.
    pub sessions: usize,
    /// At most so many attempts at other databases on one server; beyond that a part of them has its turn, another
    /// one each time.
    pub pairs: usize,
}

impl Default for AuditOptions {
    fn default() -> Self {
        Self { tenants: Vec::new(), sessions: 4, pairs: 20_000 }
    }
}

/// An audit that is about to run. While it lives there is no other.
pub struct Audit {
    environment: Environment,
    options: AuditOptions,
    report: AuditReport,
    chore: ChoreLock,
}

/// An audit that has ended, and its report as it was signed and kept.
#[derive(Clone, Debug)]
pub struct Audited {
    /// What was tried and found.
    pub report: AuditReport,
    /// The same, signed.
    pub document: Value,
}

impl Audit {
    /// Begins an audit; none when one is under way already.
    pub async fn begin(
        environment: &Environment,
        options: AuditOptions,
        requested_by: &str,
    ) -> Result<Option<Self>, CatalogError> {
        for slug in &options.tenants {
            environment.catalog.tenant(slug).await?;
        }
        let Some(chore) = environment.catalog.try_chore("audit").await? else { return Ok(None) };
        let slugs = options.tenants.iter().map(ToString::to_string).collect();
        let report = AuditReport::begin(requested_by, slugs);
        Ok(Some(Self { environment: environment.clone(), options, report, chore }))
    }

    /// The audit's id.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.report.audit
    }

    /// Audits the fleet, signs the report and keeps it.
    pub async fn run(self) -> Result<Audited, StepError> {
        let Self { environment, options, mut report, chore } = self;
        let catalog = &environment.catalog;
        for record in catalog.servers().await? {
            let (environment, options) = (&environment, &options);
            let place = Place { environment, options, id: record.id, name: record.name };
            if let Err(error) = place.audit(&mut report).await {
                report.untried.push(format!("server {}: {error}", place.name));
            }
        }
        consistency::examine(&environment, &mut report).await?;
        report.end(catalog.acceptances().await?);
        let document = report.signed(&catalog.certificate_key().await?);
        catalog.record_audit(&report.summary(), &document).await?;
        catalog.prune_audits().await?;
        chore.end().await;
        Ok(Audited { report, document })
    }
}

/// What is fixed by hardening the tenant's database, and not by one statement.
pub const NEIGHBOURS_SEEN: &str = "neighbours_seen";

/// Fixes a finding, by its statement or by hardening. One without either is left alone.
pub async fn mend(environment: &Environment, finding: &Finding) -> Result<(), StepError> {
    if finding.kind == NEIGHBOURS_SEEN {
        return hide_neighbours(environment, finding).await;
    }
    let Some(statement) = &finding.fix else { return Ok(()) };
    let record = environment.catalog.server_by_name(&finding.place).await?;
    let server = environment.server(record.id).await?;
    server.mend(finding.database.as_deref(), statement).await?;
    let detail = json!({
        "finding": finding.id, "kind": finding.kind, "server": finding.place, "database": finding.database,
        "statement": statement,
    });
    let catalog = &environment.catalog;
    let event = Event { actor: catalog.by(), action: "finding.fixed", tenant: None, detail };
    Ok(catalog.record(&event).await?)
}

async fn hide_neighbours(environment: &Environment, finding: &Finding) -> Result<(), StepError> {
    let tenants = environment.catalog.living_tenants(Some(&finding.place)).await?;
    let database = finding.database.as_deref();
    let found = tenants.iter().find(|tenant| Some(tenant.database.as_str()) == database);
    let Some(tenant) = found else { return Ok(()) };
    environment.harden(tenant, Hardening::Strict).await.map(drop)
}

/// A server that is audited.
struct Place<'a> {
    environment: &'a Environment,
    options: &'a AuditOptions,
    id: Uuid,
    name: String,
}

impl Place<'_> {
    async fn audit(&self, report: &mut AuditReport) -> Result<(), StepError> {
        let server = self.environment.server(self.id).await?;
        passive::examine(self, &server, report).await?;
        active::attack(self, &server, report).await?;
        report.tried.servers += 1;
        Ok(())
    }

    /// The tenants of this server as the catalog has them now.
    async fn tenants(&self) -> Result<Tenants, CatalogError> {
        let all = self.environment.catalog.living_tenants(Some(&self.name)).await?;
        let wanted: HashSet<&TenantSlug> = self.options.tenants.iter().collect();
        let is_looked_at = |tenant: &Tenant| {
            tenant.state.is_settled() && (wanted.is_empty() || wanted.contains(&tenant.slug))
        };
        let (looked_at, others) = all.into_iter().partition(is_looked_at);
        Ok(Tenants { looked_at, others })
    }

    /// Whether a tenant is still what it was: what fails because it was moved away meanwhile, is no wonder.
    async fn is_unchanged(&self, tenant: &Tenant) -> Result<bool, CatalogError> {
        let now = match self.environment.catalog.tenant_by_id(tenant.id).await {
            Err(CatalogError::Missing { .. }) => return Ok(false),
            found => found?,
        };
        let place = (now.server_id, now.generation);
        Ok(place == (tenant.server_id, tenant.generation) && now.state.is_settled())
    }
}

/// Living tenants of one server.
struct Tenants {
    /// Served or suspended, and asked for.
    looked_at: Vec<Tenant>,
    /// The rest.
    others: Vec<Tenant>,
}
