//! Rows of `audits` and `audit_acceptances`: what audits of isolation found, and what of it somebody takes on.
//!
//! A report is kept as the document that was signed; the numbers beside it are only for those who count.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_postgres::Row;
use tokio_postgres::types::Json;
use utoipa::ToSchema;
use uuid::Uuid;

use super::audit_log::{self, Event};
use super::{Catalog, CatalogError, execute, maybe, one, rows};

mod contradictions;

pub use contradictions::Contradiction;

/// How an audit went, in numbers.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AuditSummary {
    /// Its id.
    pub id: Uuid,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
    /// Who asked for it.
    pub requested_by: String,
    /// Whether everything could be looked at and tried.
    pub complete: bool,
    /// Whether all tenants were looked at, and not only some.
    pub whole: bool,
    /// What was found and nobody has accepted.
    pub findings: FindingCounts,
}

/// Findings that nobody has accepted, by severity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FindingCounts {
    /// A tenant reaches another, or the server.
    pub critical: i32,
    /// One step is missing.
    pub high: i32,
    /// A line of defence is down.
    pub medium: i32,
    /// Not as it was made.
    pub low: i32,
}

/// That somebody takes a finding on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Acceptance {
    /// The finding.
    pub finding: String,
    /// Why.
    pub reason: String,
    /// Who.
    pub accepted_by: String,
    /// Until when.
    pub until: Timestamp,
}

impl FindingCounts {
    /// All of them.
    #[must_use]
    pub fn total(self) -> i32 {
        self.critical + self.high + self.medium + self.low
    }
}

/// How many days a report is kept; who needs it for longer keeps the document.
const KEPT_DAYS: f64 = 90.0;

const COLUMNS: &str =
    "id, started_at, finished_at, requested_by, complete, whole, critical, high, medium, low";

impl Catalog {
    /// Keeps a report.
    pub async fn record_audit(
        &self,
        summary: &AuditSummary,
        report: &Value,
    ) -> Result<(), CatalogError> {
        let FindingCounts { critical, high, medium, low } = summary.findings;
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        execute(
            &transaction,
            "-- audits::record
             insert into audits (id, started_at, finished_at, requested_by, complete, whole,
                                 critical, high, medium, low, report)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
            &[
                &summary.id,
                &summary.started_at,
                &summary.finished_at,
                &summary.requested_by,
                &summary.complete,
                &summary.whole,
                &critical,
                &high,
                &medium,
                &low,
                &Json(report),
            ],
        )
        .await?;
        let (complete, findings) = (summary.complete, summary.findings);
        let detail = json!({ "audit": summary.id, "complete": complete, "findings": findings });
        let (actor, action) = (summary.requested_by.as_str(), "audit.made");
        audit_log::record(&transaction, &Event { actor, action, tenant: None, detail }).await?;
        Ok(transaction.commit().await?)
    }

    /// Forgets reports that are older than 90 days. The newest of the fleet, of each choice of tenants, and of
    /// whoever asks by the clock stay.
    pub async fn prune_audits(&self) -> Result<u64, CatalogError> {
        execute(
            &self.client().await?,
            "-- audits::prune
             delete from audits
             where finished_at < now() - $1::float8 * interval '1 day'
               and id not in (select distinct on (whole, report -> 'tenants') id from audits
                              order by whole, report -> 'tenants', finished_at desc, id desc)
               and id not in (select distinct on (requested_by) id from audits
                              order by requested_by, finished_at desc, id desc)",
            &[&KEPT_DAYS],
        )
        .await
    }

    /// Audits, newest first.
    pub async fn audits(&self, limit: i64) -> Result<Vec<AuditSummary>, CatalogError> {
        let client = self.client().await?;
        let sql = format!(
            "-- audits::list\nselect {COLUMNS} from audits order by finished_at desc, id desc limit $1"
        );
        Ok(rows(&client, &sql, &[&limit]).await?.iter().map(summary).collect())
    }

    /// The newest audit of the whole fleet.
    pub async fn last_audit(&self) -> Result<Option<AuditSummary>, CatalogError> {
        let client = self.client().await?;
        let sql = format!(
            "-- audits::last
             select {COLUMNS} from audits where whole order by finished_at desc, id desc limit 1"
        );
        Ok(maybe(&client, &sql, &[]).await?.as_ref().map(summary))
    }

    /// When an audit was last asked for by this requester.
    pub async fn last_audit_by(
        &self,
        requested_by: &str,
    ) -> Result<Option<Timestamp>, CatalogError> {
        let found = maybe(
            &self.client().await?,
            "-- audits::last_by
             select started_at from audits where requested_by = $1 order by finished_at desc limit 1",
            &[&requested_by],
        )
        .await?;
        Ok(found.map(|row| row.get(0)))
    }

    /// The report of an audit, as it was signed.
    pub async fn audit_report(&self, id: Uuid) -> Result<Value, CatalogError> {
        let client = self.client().await?;
        let sql = "-- audits::report\nselect report from audits where id = $1";
        let row = maybe(&client, sql, &[&id]).await?;
        let row =
            row.ok_or_else(|| CatalogError::Missing { what: "audit", name: id.to_string() })?;
        Ok(row.get::<_, Json<Value>>(0).0)
    }

    /// The report of the newest audit of the whole fleet.
    pub async fn last_audit_report(&self) -> Result<Value, CatalogError> {
        let found = maybe(
            &self.client().await?,
            "-- audits::last_report
             select report from audits where whole order by finished_at desc, id desc limit 1",
            &[],
        )
        .await?;
        let row = found
            .ok_or_else(|| CatalogError::Missing { what: "audit", name: "newest".to_owned() })?;
        Ok(row.get::<_, Json<Value>>(0).0)
    }

    /// What is taken on now.
    pub async fn acceptances(&self) -> Result<Vec<Acceptance>, CatalogError> {
        let found = rows(
            &self.client().await?,
            "-- audits::acceptances
             select finding, reason, accepted_by, until from audit_acceptances where until > now()
             order by finding",
            &[],
        )
        .await?;
        let acceptance = |row: &Row| Acceptance {
            finding: row.get("finding"),
            reason: row.get("reason"),
            accepted_by: row.get("accepted_by"),
            until: row.get("until"),
        };
        Ok(found.iter().map(acceptance).collect())
    }

    /// Takes a finding on, or changes for how long and why.
    pub async fn accept_finding(&self, acceptance: &Acceptance) -> Result<(), CatalogError> {
        let Acceptance { finding, reason, accepted_by, until } = acceptance;
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let known = one(
            &transaction,
            "-- audits::knows
             select exists (select from audits
                            where report -> 'findings' @> jsonb_build_array(jsonb_build_object('id', $1::text)))",
            &[finding],
        )
        .await?;
        if !known.get::<_, bool>(0) {
            return Err(CatalogError::Missing { what: "finding", name: finding.clone() });
        }
        execute(
            &transaction,
            "-- audits::accept
             insert into audit_acceptances (finding, reason, accepted_by, until) values ($1, $2, $3, $4)
             on conflict (finding) do update
             set reason = excluded.reason, accepted_by = excluded.accepted_by, accepted_at = now(),
                 until = excluded.until",
            &[finding, reason, accepted_by, until],
        )
        .await?;
        let detail = json!({ "finding": finding, "reason": reason, "until": until });
        let event = Event { actor: accepted_by, action: "finding.accepted", tenant: None, detail };
        audit_log::record(&transaction, &event).await?;
        Ok(transaction.commit().await?)
    }
}

fn summary(row: &Row) -> AuditSummary {
    AuditSummary {
        id: row.get("id"),
        started_at: row.get("started_at"),
        finished_at: row.get("finished_at"),
        requested_by: row.get("requested_by"),
        complete: row.get("complete"),
        whole: row.get("whole"),
        findings: FindingCounts {
            critical: row.get("critical"),
            high: row.get("high"),
            medium: row.get("medium"),
            low: row.get("low"),
        },
    }
}
