//! [`AuditReport`]: what was tried and what was found, signed, so that whoever has the public key can check it
//! without us. It holds no secret.

use aws_lc_rs::digest;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tenantry_backup::{CertificateKey, DocumentError, sign_document, verify_document};
use tenantry_provisioning::Hole;
use uuid::Uuid;

use super::kinds::{Kind, Severity};
use crate::catalog::audits::{Acceptance, AuditSummary, FindingCounts};

/// The format that this version writes.
const FORMAT: u32 = 1;
/// What the signature is for.
const PURPOSE: &str = "isolation audit";
/// How much of its digest names a finding.
const ID_DIGITS: usize = 16;

/// What an audit tried and found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditReport {
    /// The version of this format.
    pub format: u32,
    /// The audit.
    pub audit: Uuid,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
    /// Who asked for it.
    pub requested_by: String,
    /// The tenants that it was about; all when this is empty.
    pub tenants: Vec<String>,
    /// Whether everything that was meant to be tried was tried.
    pub complete: bool,
    /// What could not be tried or looked at, and why.
    pub untried: Vec<String>,
    /// What was tried.
    pub tried: Tried,
    /// What was found, the worst first.
    pub findings: Vec<Finding>,
}

/// What was tried, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tried {
    /// Servers that were looked at.
    pub servers: u64,
    /// Tenants on them that were looked at.
    pub tenants: u64,
    /// Databases that were looked at from the inside.
    pub databases: u64,
    /// Tenants as which somebody logged in.
    pub logins: u64,
    /// Pairs of a tenant and a database that is not its own.
    pub pairs: u64,
    /// Of these, those that were tried.
    pub pairs_tried: u64,
    /// Of these, those that were refused, for the right reason.
    pub pairs_refused: u64,
    /// Things that were tried inside of a tenant's own database and must be refused.
    pub acts: u64,
    /// Of these, those that were refused, for the right reason.
    pub acts_refused: u64,
    /// The most names of other databases that a tenant sees in the shared catalogs.
    pub names_of_databases_seen: u64,
    /// The most names of other roles that a tenant sees in the shared catalogs.
    pub names_of_roles_seen: u64,
}

/// One breach of isolation, or one thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    /// What it is called: the same thing found again has the same id.
    pub id: String,
    /// What kind it is.
    pub kind: String,
    /// How bad it is.
    pub severity: Severity,
    /// Where: a server, the catalog or the bucket.
    pub place: String,
    /// What it is about.
    pub subject: String,
    /// What was seen.
    pub evidence: String,
    /// A query that shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sql: Option<String>,
    /// The database in which to run it, where it is not the maintenance database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// What to do about it.
    pub remedy: String,
    /// The statement that `--fix` runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
    /// Who takes it on, why, and until when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<Acceptance>,
}

impl Finding {
    /// A finding of a kind that the table has.
    pub(super) fn new(code: &str, place: &str, subject: &str, evidence: String) -> Self {
        let kind = Kind::of(code).expect("kinds.rs has every kind");
        let name = format!("{code}\n{place}\n{subject}\n{evidence}");
        let id = hex::encode(digest::digest(&digest::SHA256, name.as_bytes()));
        Self {
            id: id[..ID_DIGITS].to_owned(),
            kind: code.to_owned(),
            severity: kind.severity,
            place: place.to_owned(),
            subject: subject.to_owned(),
            evidence,
            sql: None,
            database: None,
            remedy: kind.remedy.to_owned(),
            fix: None,
            accepted: None,
        }
    }

    /// The same about a tenant, which its remedy names if that is one by hand.
    pub(super) fn of_tenant(mut self, slug: &str) -> Self {
        if self.fix.is_none() {
            self.remedy = self.remedy.replace("SLUG", slug);
        }
        self
    }

    /// A hole of a server.
    pub(super) fn of_hole(server: &str, hole: Hole) -> Self {
        let subject = match &hole.database {
            Some(database) => format!("{} in {database}", hole.subject),
            None => hole.subject,
        };
        let mut finding = Self::new(&hole.kind, server, &subject, hole.evidence);
        finding.sql = Some(hole.shows);
        finding.database = hole.database;
        if let Some(mend) = hole.mend {
            finding.remedy = format!("run `{mend}`");
            finding.fix = Some(mend);
        }
        finding
    }
}

impl AuditReport {
    /// A report of an audit that begins now.
    pub(super) fn begin(requested_by: &str, tenants: Vec<String>) -> Self {
        let now = Timestamp::now();
        Self {
            format: FORMAT,
            audit: Uuid::now_v7(),
            started_at: now,
            finished_at: now,
            requested_by: requested_by.to_owned(),
            tenants,
            complete: false,
            untried: Vec::new(),
            tried: Tried::default(),
            findings: Vec::new(),
        }
    }

    /// Ends it: puts findings in order, each once, and notes which of them somebody takes on.
    pub(super) fn end(&mut self, acceptances: Vec<Acceptance>) {
        self.findings.sort_by(|one, other| {
            let key = |finding: &Finding| {
                (
                    finding.severity,
                    finding.place.clone(),
                    finding.kind.clone(),
                    finding.subject.clone(),
                    finding.id.clone(),
                )
            };
            key(one).cmp(&key(other))
        });
        self.findings.dedup_by(|one, other| one.id == other.id);
        for acceptance in acceptances {
            for finding in self.findings.iter_mut().filter(|found| found.id == acceptance.finding) {
                finding.accepted = Some(acceptance.clone());
            }
        }
        self.complete = self.untried.is_empty();
        self.finished_at = Timestamp::now();
    }

    /// Findings that nobody takes on.
    pub fn open(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.accepted.is_none())
    }

    /// Its numbers.
    #[must_use]
    pub fn summary(&self) -> AuditSummary {
        let count = |severity| {
            let number = self.open().filter(|finding| finding.severity == severity).count();
            i32::try_from(number).unwrap_or(i32::MAX)
        };
        AuditSummary {
            id: self.audit,
            started_at: self.started_at,
            finished_at: self.finished_at,
            requested_by: self.requested_by.clone(),
            complete: self.complete,
            whole: self.tenants.is_empty(),
            findings: FindingCounts {
                critical: count(Severity::Critical),
                high: count(Severity::High),
                medium: count(Severity::Medium),
                low: count(Severity::Low),
            },
        }
    }

    /// The report as a document, signed as it stands now.
    #[must_use]
    pub fn signed(&self, key: &CertificateKey) -> Value {
        let mut document = serde_json::to_value(self).expect("a report is plain data");
        sign_document(PURPOSE, &mut document, key);
        document
    }

    /// Reads a document without checking who signed it.
    pub fn read(document: &Value) -> Result<Self, serde_json::Error> {
        let mut document = document.clone();
        if let Value::Object(fields) = &mut document {
            fields.remove("public_key");
            fields.remove("signature");
        }
        serde_json::from_value(document)
    }
}

/// Checks that the holder of this public key signed a report as it is; returns it.
pub fn verify(document: &Value, public_key: &str) -> Result<AuditReport, DocumentError> {
    verify_document(PURPOSE, document, public_key)?;
    AuditReport::read(document).map_err(DocumentError::Unreadable)
}
