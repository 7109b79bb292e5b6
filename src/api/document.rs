//! The JSON documents of the admin API and of `--output-format json`: one shape for both.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::catalog::domains::Domain;
use crate::catalog::operations::{Failure, OperationRecord, OperationState};
use crate::catalog::read_replicas::ReadReplicaRecord;
use crate::catalog::registrations::Registration;
use crate::catalog::servers::{ServerRecord, ServerState};
use crate::catalog::tiers::TierRecord;
use crate::catalog::tokens::{Scope, TokenRecord};
use crate::domains::{record_name, record_text};
use crate::operations::{Copied, Transfer, Work};
use crate::tenant::settings::{BackupPolicy, Limits};
use crate::tenant::{
    DomainName, EffectiveLimits, Label, Tags, Tenant, TenantSettings, TenantSlug, TenantState, Tier,
};

pub mod adoption;
mod backup;
pub mod fleet;
pub mod protection;
pub mod prune;
pub mod rollout;

pub use backup::BackupDocument;

/// A tenant.
#[derive(Debug, Serialize, ToSchema)]
pub struct TenantDocument {
    /// Its id.
    pub id: Uuid,
    /// Its slug.
    #[schema(value_type = String)]
    pub slug: TenantSlug,
    /// Its name.
    pub name: String,
    /// Where it is in its life.
    pub status: TenantState,
    /// Why it is suspended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suspended_reason: Option<String>,
    /// How it is hosted.
    pub tier: Tier,
    /// The server that hosts it.
    pub server: String,
    /// Where that server stands.
    #[schema(value_type = Option<String>)]
    pub region: Option<Label>,
    /// Its database there.
    pub database: String,
    /// The only role that may connect to it.
    pub role: String,
    /// The newest migration that it holds.
    pub schema_version: i64,
    /// The track that it is in.
    #[schema(value_type = Option<String>)]
    pub track: Option<Label>,
    /// The newest migration of its track that it holds; 0 where it holds none of that yet.
    pub track_version: Option<i64>,
    /// Which physical database is the live one.
    pub epoch: i64,
    /// Raised on every change of place, state, secret or limits.
    pub generation: i64,
    /// What is kept about it.
    pub settings: TenantSettings,
    /// What it may use, and whether its own settings or its tier say so; without, what the operator decided
    /// for all counts.
    pub limits: EffectiveLimits,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

impl From<Tenant> for TenantDocument {
    fn from(tenant: Tenant) -> Self {
        Self {
            id: tenant.id,
            slug: tenant.slug,
            name: tenant.name,
            status: tenant.state,
            suspended_reason: tenant.suspended_reason,
            tier: tenant.tier,
            server: tenant.server_name,
            region: tenant.server_region,
            database: tenant.database.to_string(),
            role: tenant.role.to_string(),
            schema_version: tenant.schema_version,
            track_version: tenant.track.as_ref().map(|track| track.version),
            track: tenant.track.map(|track| track.name),
            epoch: tenant.epoch,
            generation: tenant.generation,
            settings: tenant.settings,
            limits: tenant.limits,
            created_at: tenant.created_at,
            updated_at: tenant.updated_at,
        }
    }
}

/// An operation.
#[derive(Debug, Serialize, ToSchema)]
pub struct OperationDocument {
    /// Its id.
    pub id: Uuid,
    /// The tenant's id.
    pub tenant_id: Uuid,
    /// The tenant's slug.
    #[schema(value_type = String)]
    pub tenant_slug: TenantSlug,
    /// What it does.
    pub kind: String,
    /// Its parameters.
    #[schema(value_type = Object)]
    pub input: Value,
    /// Where it is in its life.
    pub status: OperationState,
    /// Whether what it did is being undone.
    pub abandoning: bool,
    /// The step under way, or the next one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<&'static str>,
    /// How many steps are done.
    pub completed_steps: i32,
    /// How far a restore is with its data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transfer: Option<Transfer>,
    /// How the data came to another server, where the tenant's requests waited for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copied: Option<Copied>,
    /// How often a worker has taken it.
    pub attempts: i32,
    /// Why it stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// The fleet run that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_id: Option<Uuid>,
    /// Who asked.
    pub requested_by: String,
    /// The worker that has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leased_by: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

impl OperationDocument {
    /// The document of what the catalog holds.
    #[must_use]
    pub fn new(record: &OperationRecord, slug: &TenantSlug) -> Self {
        let open = !matches!(record.state, OperationState::Succeeded | OperationState::Cancelled);
        Self {
            id: record.id,
            tenant_id: record.tenant_id,
            tenant_slug: slug.clone(),
            kind: record.kind.clone(),
            input: record.input.clone(),
            status: record.state,
            abandoning: record.abandoning,
            step: Work::progress(record).filter(|_| open).map(|(name, _, _)| name),
            completed_steps: record.completed_steps,
            transfer: Transfer::of(record),
            copied: Copied::of(record),
            attempts: record.attempts,
            error: record.error.clone().filter(|_| open),
            batch_id: record.batch_id,
            requested_by: record.requested_by.clone(),
            leased_by: record.leased_by.clone(),
            created_at: record.created_at,
            started_at: record.started_at,
            finished_at: record.finished_at,
        }
    }

    /// Documents of many.
    #[must_use]
    pub fn list(operations: &[(OperationRecord, TenantSlug)]) -> Vec<Self> {
        operations.iter().map(|(record, slug)| Self::new(record, slug)).collect()
    }
}

/// Operations that were asked for together.
#[derive(Debug, Serialize, ToSchema)]
pub struct BatchDocument {
    /// The fleet run that it belongs to.
    pub batch_id: Uuid,
    /// How many have succeeded.
    pub succeeded: usize,
    /// How many have not.
    pub failed: usize,
    /// Every one of them.
    pub operations: Vec<OperationDocument>,
}

impl BatchDocument {
    /// The document of what the catalog holds.
    #[must_use]
    pub fn new(batch: Uuid, operations: &[(OperationRecord, TenantSlug)]) -> Self {
        let succeeded = operations
            .iter()
            .filter(|(record, _)| record.state == OperationState::Succeeded)
            .count();
        Self {
            batch_id: batch,
            succeeded,
            failed: operations.len() - succeeded,
            operations: OperationDocument::list(operations),
        }
    }
}

/// A server.
#[derive(Debug, Serialize, ToSchema)]
pub struct ServerDocument {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// Hosts and ports.
    pub address: String,
    /// How many living tenants it hosts.
    pub tenants: i64,
    /// How many connections all replicas together may hold there; none leaves that to their settings.
    pub connection_budget: Option<i32>,
    /// Where it stands.
    #[schema(value_type = Option<String>)]
    pub region: Option<Label>,
    /// What it is beside that, in words of its operators.
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub tags: Tags,
    /// It takes only tenants of this tier; none takes all.
    pub tier: Option<Tier>,
    /// It takes no more than this.
    pub max_tenants: Option<i32>,
    /// Whether tenants come, and whether they leave.
    pub state: ServerState,
    /// Nobody is placed there, and why.
    pub cordoned: Option<String>,
    /// The batch of the relocations that empty it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<Uuid>,
    /// When it was made.
    pub created_at: Timestamp,
}

impl From<ServerRecord> for ServerDocument {
    fn from(record: ServerRecord) -> Self {
        Self {
            state: record.state(),
            drain: record.drain,
            id: record.id,
            name: record.name,
            address: record.address,
            tenants: record.tenants,
            connection_budget: record.connection_budget,
            region: record.region,
            tags: record.tags,
            tier: record.tier,
            max_tenants: record.max_tenants,
            cordoned: record.cordoned,
            created_at: record.created_at,
        }
    }
}

/// A read replica of a server.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReadReplicaDocument {
    /// Its id.
    pub id: Uuid,
    /// The server that it is a copy of.
    pub server: String,
    /// Its name; of all read replicas of the server, only it has it.
    pub name: String,
    /// Host and port.
    pub address: String,
    /// When it was added.
    pub created_at: Timestamp,
}

impl From<ReadReplicaRecord> for ReadReplicaDocument {
    fn from(record: ReadReplicaRecord) -> Self {
        Self {
            id: record.id,
            server: record.server,
            name: record.name,
            address: record.address,
            created_at: record.created_at,
        }
    }
}

/// A tier.
#[derive(Debug, Serialize, ToSchema)]
pub struct TierDocument {
    /// Which.
    pub tier: Tier,
    /// How many living tenants are of it.
    pub tenants: i64,
    /// What each of them may use, where its own settings do not say it.
    pub limits: Limits,
    /// How each of them is backed up, where its own settings do not say it.
    pub backup: BackupPolicy,
    /// When the tier last changed.
    pub updated_at: Timestamp,
}

impl From<TierRecord> for TierDocument {
    fn from(record: TierRecord) -> Self {
        Self {
            tier: record.tier,
            tenants: record.tenants,
            limits: record.limits,
            backup: record.backup,
            updated_at: record.updated_at,
        }
    }
}

/// A token, without its secret.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenDocument {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// What it allows.
    pub scopes: Vec<Scope>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Since when it is void.
    pub revoked_at: Option<Timestamp>,
}

impl From<TokenRecord> for TokenDocument {
    fn from(record: TokenRecord) -> Self {
        Self {
            id: record.id,
            name: record.name,
            scopes: record.scopes,
            created_at: record.created_at,
            revoked_at: record.revoked_at,
        }
    }
}

/// A domain of a tenant.
#[derive(Debug, Serialize, ToSchema)]
pub struct DomainDocument {
    /// Its name.
    #[schema(value_type = String)]
    pub domain: DomainName,
    /// Whether it names the tenant.
    pub verified: bool,
    /// Where the TXT record stands that proves it.
    pub record_name: String,
    /// What that record says.
    pub record_text: String,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// Since when it counts.
    pub verified_at: Option<Timestamp>,
}

impl From<Domain> for DomainDocument {
    fn from(domain: Domain) -> Self {
        Self {
            verified: domain.verified_at.is_some(),
            record_name: record_name(&domain.domain),
            record_text: record_text(&domain),
            domain: domain.domain,
            created_at: domain.created_at,
            verified_at: domain.verified_at,
        }
    }
}

/// A registration, as operators see it.
#[derive(Debug, Serialize, ToSchema)]
pub struct RegistrationDocument {
    /// Its id.
    pub id: Uuid,
    /// How far it is: `pending_approval`, `rejected`, or the tenant's status.
    pub status: &'static str,
    /// The id that the tenant has or will have.
    pub tenant_id: Uuid,
    /// Its slug.
    #[schema(value_type = String)]
    pub tenant_slug: TenantSlug,
    /// Its name.
    pub organization_name: String,
    /// Whom to write to.
    pub admin_email: String,
    /// What it is for.
    pub use_case: Option<String>,
    /// How many people they are.
    pub organization_size: Option<String>,
    /// Whose user asked.
    pub issuer: String,
    /// Who asked, and becomes the owner.
    pub subject: String,
    /// Why it was rejected.
    pub reason: Option<String>,
    /// Who decided.
    pub decided_by: Option<String>,
    /// When it was asked for.
    pub created_at: Timestamp,
}

impl From<Registration> for RegistrationDocument {
    fn from(registration: Registration) -> Self {
        Self {
            id: registration.id,
            status: registration.status(),
            tenant_id: registration.tenant_id,
            tenant_slug: registration.slug,
            organization_name: registration.organization_name,
            admin_email: registration.admin_email,
            use_case: registration.use_case,
            organization_size: registration.organization_size,
            issuer: registration.issuer,
            subject: registration.subject,
            reason: registration.reason,
            decided_by: registration.decided_by,
            created_at: registration.created_at,
        }
    }
}
