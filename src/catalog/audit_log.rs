//! Rows of `audit_log`: what was asked for, what was changed and what was refused. A change and its row are one
//! transaction; a row is never changed, and only a retention removes any.
//!
//! Operations write theirs by triggers, so no statement can forget it. A row that a request caused names the request
//! as the access log does, wherever on its way it was written ([`within`]).

use std::sync::Arc;

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use tokio_postgres::Row;
use uuid::Uuid;

use super::slugs::LEADS_TO;
use super::{Catalog, CatalogError, execute, rows};
use crate::tenant::TenantSlug;

pub mod chain;

/// Who changes something when nobody asked for it.
const NOBODY: &str = "tenantry";

tokio::task_local! {
    /// The request that is being answered.
    static REQUEST: Arc<str>;
}

/// Something that happened.
#[derive(Clone, Debug)]
pub struct Event<'a> {
    /// Who did it, or tried to.
    pub actor: &'a str,
    /// What, as a stable name: a noun and what became of it, such as `member.added`.
    pub action: &'a str,
    /// The tenant that it is about.
    pub tenant: Option<&'a TenantSlug>,
    /// The rest: what is needed to understand it, and no secret.
    pub detail: Value,
}

/// An event as it was written down.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Recorded {
    /// Rises with time.
    pub id: i64,
    /// When it happened.
    pub at: Timestamp,
    /// Who did it, or tried to.
    pub actor: String,
    /// What, as a stable name.
    pub action: String,
    /// The tenant as it was named.
    pub tenant_slug: Option<String>,
    /// The living tenant of that name at the time.
    pub tenant_id: Option<Uuid>,
    /// The request that caused it, as the access log names it.
    pub request_id: Option<String>,
    /// The rest.
    #[schema(value_type = Object)]
    pub detail: Value,
}

/// Which events to list, newest first.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// About this tenant.
    pub tenant: Option<TenantSlug>,
    /// Not before this moment.
    pub since: Option<Timestamp>,
    /// Before this moment.
    pub until: Option<Timestamp>,
    /// By this actor.
    pub actor: Option<String>,
    /// This action, such as `member.added`, or all of a noun, such as `member`.
    pub action: Option<String>,
    /// Before this row, for the next page.
    pub before: Option<i64>,
    /// At most this many.
    pub limit: i64,
}

impl Catalog {
    /// Writes an event down that changed nothing in the catalog.
    pub async fn record(&self, event: &Event<'_>) -> Result<(), CatalogError> {
        record(&self.client().await?, event).await
    }

    /// The same catalog for somebody, whose name stands in the log for what no call names its author.
    #[must_use]
    pub fn asked_by(&self, name: &str) -> Self {
        Self { by: Some(name.into()), ..self.clone() }
    }

    /// Whose name stands in the log.
    #[must_use]
    pub fn by(&self) -> &str {
        self.by.as_deref().unwrap_or(NOBODY)
    }

    /// When a tenant's data was last exported.
    pub async fn last_export(&self, tenant: Uuid) -> Result<Option<Timestamp>, CatalogError> {
        let row = super::one(
            &self.client().await?,
            "-- audit_log::last_export
             select max(at) as at from audit_log where tenant_id = $1 and action = 'tenant.exported'",
            &[&tenant],
        )
        .await?;
        Ok(row.get("at"))
    }

    /// Events, newest first, one page.
    pub async fn audit_log(&self, filter: &AuditFilter) -> Result<Vec<Recorded>, CatalogError> {
        let client = self.client().await?;
        let sql = format!(
            "-- audit_log::list
             select id, at, actor, action, tenant_slug, tenant_id, request_id, detail from audit_log
             where ($1::text is null or tenant_slug = $1 or tenant_id = {LEADS_TO})
               and ($2::timestamptz is null or at >= $2)
               and ($3::bigint is null or id < $3)
               and ($5::timestamptz is null or at < $5)
               and ($6::text is null or actor = $6)
               and ($7::text is null or action = $7 or starts_with(action, $7 || '.'))
             order by id desc limit $4"
        );
        let found = rows(
            &client,
            &sql,
            &[
                &filter.tenant.as_ref().map(TenantSlug::as_str),
                &filter.since,
                &filter.before,
                &filter.limit,
                &filter.until,
                &filter.actor,
                &filter.action,
            ],
        )
        .await?;
        Ok(found.iter().map(from_row).collect())
    }
}

/// Answers a request, whose id stands with what is written on its way.
pub async fn within<T>(request: &str, answer: impl Future<Output = T>) -> T {
    REQUEST.scope(request.into(), answer).await
}

/// The request that is being answered.
#[must_use]
pub fn request_id() -> Option<Arc<str>> {
    REQUEST.try_with(Arc::clone).ok()
}

/// Writes an event down, in the transaction of what it tells of.
pub(super) async fn record(
    client: &impl GenericClient,
    event: &Event<'_>,
) -> Result<(), CatalogError> {
    execute(
        client,
        "-- audit_log::record
         insert into audit_log (actor, action, tenant_slug, tenant_id, detail, request_id)
         values ($1, $2, $3, (select tenant_id from tenant_slugs where slug = $3 and leads), $4, $5)",
        &[
            &event.actor,
            &event.action,
            &event.tenant.map(TenantSlug::as_str),
            &event.detail,
            &request_id().as_deref(),
        ],
    )
    .await
    .map(drop)
}

fn from_row(row: &Row) -> Recorded {
    Recorded {
        id: row.get("id"),
        at: row.get("at"),
        actor: row.get("actor"),
        action: row.get("action"),
        tenant_slug: row.get("tenant_slug"),
        tenant_id: row.get("tenant_id"),
        request_id: row.get("request_id"),
        detail: row.get("detail"),
    }
}
