//! The doctor: the catalog against every server and the bucket, both ways. It reads and reports; it
//! changes nothing but what [`put_right`] is asked to.
//!
//! Whatever exists on a server under a name or a marker of ours must be known to the catalog, and
//! whatever the catalog says is served must be there, carry its tenant's marker and its stamp.

use std::collections::{HashMap, HashSet};

use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;
use tenantry_provisioning::{DatabaseFacts, Leftover, Link, Marker, RoleFacts, Server};
use uuid::Uuid;

use crate::catalog::Catalog;
use crate::catalog::operations::{OperationFilter, OperationState};
use crate::catalog::rollouts::RolloutState;
use crate::catalog::servers::ServerRecord;
use crate::operations::{Environment, StepError};
use crate::tenant::{Tenant, TenantState};

mod bucket;
mod expected;
mod fix;
mod read_replicas;

pub(crate) use expected::{expected_databases, open_operations, relocating_tenants};
pub use fix::{Fix, put_right};
pub use read_replicas::examine_read_replicas;

/// What was looked at, and what is wrong.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Servers that answered.
    pub servers: usize,
    /// Living tenants.
    pub tenants: usize,
    /// Backups in the bucket.
    pub backups: usize,
    /// What is wrong; empty when all is well.
    pub findings: Vec<Finding>,
    /// What of it can be put right without somebody looking at it, in the order in which it is to be done.
    pub fixes: Vec<Fix>,
}

/// One thing that is not as it should be.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Where: a server, or the bucket.
    pub place: String,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Somebody must see to it.
    Error,
    /// It does no harm now.
    Warning,
}

/// Servers that are surveyed at a time.
const SURVEYS: usize = 8;
/// Tenants of one server that are looked at at a time.
const LOOKS: usize = 8;

/// What the catalog knows to be, or to be in the making.
struct Known {
    tenants: HashMap<Uuid, Tenant>,
    operations: HashSet<Uuid>,
}

/// Compares the catalog with every server and with the bucket.
pub async fn examine(environment: &Environment) -> Result<Report, StepError> {
    let mut report = Report::default();
    // Servers first: what appears there while the catalog is read was announced in it before.
    let surveys = environment
        .catalog
        .servers()
        .await?
        .into_iter()
        .map(|record| async move { (survey(environment, &record).await, record) }.boxed());
    let surveys: Vec<_> = surveys.collect();
    let mut surveys = stream::iter(surveys).buffered(SURVEYS);
    let mut seen = Vec::new();
    while let Some((survey, record)) = surveys.next().await {
        match survey {
            Ok(survey) => seen.push((record, survey)),
            Err(error) => report.is_away(&record, &error),
        }
    }
    let known = known(environment).await?;
    report.servers = seen.len();
    report.tenants = known.tenants.len();

    for (record, survey) in &seen {
        examine_server(environment, record, survey, &known, &mut report).await?;
    }
    fix::sort(&mut report.fixes);
    let target = examine_schemas(environment, &mut report).await?;
    examine_operations(environment, &known, target, &mut report).await?;
    bucket::examine(environment, &mut report).await?;
    Ok(report)
}

async fn known(environment: &Environment) -> Result<Known, StepError> {
    let tenants = environment.catalog.living_tenants(None).await?;
    let operations = open_operations(&environment.catalog).await?;
    Ok(Known {
        tenants: tenants.into_iter().map(|tenant| (tenant.id, tenant)).collect(),
        operations,
    })
}

/// What exists on a server under a name or a marker of ours.
struct Survey {
    server: Server,
    databases: Vec<DatabaseFacts>,
    roles: Vec<RoleFacts>,
    leftovers: Vec<Leftover>,
}

/// What of it the catalog does not know.
#[derive(Default)]
struct Strays<'a> {
    databases: Vec<&'a DatabaseFacts>,
    roles: Vec<&'a RoleFacts>,
    leftovers: Vec<&'a Leftover>,
}

async fn survey(environment: &Environment, record: &ServerRecord) -> Result<Survey, StepError> {
    let server = environment.server(record.id).await?;
    let databases = server.list_databases().await?;
    let roles = server.list_roles().await?;
    let leftovers = server.list_leftovers().await?;
    Ok(Survey { server, databases, roles, leftovers })
}

async fn examine_server(
    environment: &Environment,
    record: &ServerRecord,
    survey: &Survey,
    known: &Known,
    report: &mut Report,
) -> Result<(), StepError> {
    let (catalog, place) = (&environment.catalog, record.name.as_str());
    let mut looked = compare(catalog, record, survey, known).await?;
    if !looked.findings.is_empty() || !looked.fixes.is_empty() {
        looked = look_again(environment, record, looked).await?;
    }
    report.findings.extend(looked.findings);
    report.fixes.extend(looked.fixes);
    let mut problems = survey.server.check().await?;
    problems.extend(examine_read_replicas(catalog, record.id, &survey.server).await?);
    for problem in problems {
        report.warn(place, problem.what, problem.remedy);
    }
    Ok(())
}

/// A fleet does not stand still while it is looked at: what counts is what is found the second time too, with the
/// catalog read anew.
async fn look_again(
    environment: &Environment,
    record: &ServerRecord,
    first: Report,
) -> Result<Report, StepError> {
    let survey = match self::survey(environment, record).await {
        Ok(survey) => survey,
        Err(error) => {
            let mut report = Report::default();
            report.is_away(record, &error);
            return Ok(report);
        }
    };
    let known = known(environment).await?;
    let mut looked = compare(&environment.catalog, record, &survey, &known).await?;
    looked.findings.retain(|found| first.findings.iter().any(|before| before.what == found.what));
    looked.fixes.retain(|fix| first.fixes.contains(fix));
    Ok(looked)
}

/// What is otherwise on a server than the catalog says.
async fn compare(
    catalog: &Catalog,
    record: &ServerRecord,
    survey: &Survey,
    known: &Known,
) -> Result<Report, StepError> {
    let mut found = Report::default();
    let report = &mut found;
    let place = record.name.as_str();
    let mut expected = expected_databases(catalog, record.id, &known.operations).await?;

    let mut tenants: Vec<&Tenant> =
        known.tenants.values().filter(|tenant| tenant.server_id == record.id).collect();
    tenants.sort_by_key(|tenant| &tenant.slug);
    expected.extend(tenants.iter().map(|tenant| tenant.database.to_string()));
    let looks = tenants.into_iter().map(|tenant| examine_tenant(record, tenant, survey).boxed());
    let looks: Vec<_> = looks.collect();
    let mut looks = stream::iter(looks).buffered(LOOKS);
    while let Some(looked) = looks.try_next().await? {
        report.findings.extend(looked.findings);
        report.fixes.extend(looked.fixes);
    }
    let mut strays = Strays::default();
    for database in &survey.databases {
        // In the middle of a rename it has one of two names.
        let owner = database.marker.as_ref().and_then(Marker::tenant);
        let tenant = owner.and_then(|owner| known.tenants.get(&owner));
        let is_moving = tenant.is_some_and(|tenant| tenant.state == TenantState::Renaming);
        if !is_moving && !expected.contains(&database.name) {
            report.error(
                place,
                format!("database `{}` is unknown to the catalog", database.name),
                remedy_for(database),
            );
            strays.databases.push(database);
        }
    }
    for role in &survey.roles {
        let owned = match &role.marker {
            Some(Marker::Tenant(owner)) => known.tenants.contains_key(&owner.tenant),
            Some(Marker::GroupRole) => true,
            _ => false,
        };
        if !owned {
            report.error(
                place,
                format!("role `{}` is unknown to the catalog", role.name),
                "look into it; if nobody needs it, drop it by hand".to_owned(),
            );
            strays.roles.push(role);
        }
    }
    let followers = catalog.followers().await?;
    let stray = |leftover: &&Leftover| {
        !known.operations.contains(&leftover.link.operation())
            && !followers.iter().any(|left| Link::Back(left.operation) == leftover.link)
    };
    for leftover in survey.leftovers.iter().filter(stray) {
        report.error(
            place,
            format!("{} `{}` is of a relocation that is over", leftover.kind, leftover.name),
            format!("drop it by hand: {}", leftover.mend()),
        );
        strays.leftovers.push(leftover);
    }
    report.fixes.extend(fix::plan(catalog, record, survey, known, &strays).await?);
    Ok(found)
}

/// What to do about a database that the catalog does not know. What may be a tenant's is never dropped from here.
fn remedy_for(database: &DatabaseFacts) -> String {
    match database.marker.as_ref().and_then(Marker::tenant) {
        Some(tenant) => format!(
            "it is marked as tenant {tenant}'s, so it may hold what is nowhere else: find out whose it is, and keep a \
             dump (`pg_dump`) before you drop it by hand"
        ),
        None => "look into it; if nobody needs it, drop it by hand".to_owned(),
    }
}

/// Whether a served tenant's database and role are there, its own, and shut to everybody else.
async fn examine_tenant(
    record: &ServerRecord,
    tenant: &Tenant,
    survey: &Survey,
) -> Result<Report, StepError> {
    let mut report = Report::default();
    if !tenant.state.is_settled() {
        return Ok(report);
    }
    let (place, slug) = (record.name.as_str(), &tenant.slug);
    let database = survey.databases.iter().find(|facts| facts.name == tenant.database.as_str());
    if !database.is_some_and(|facts| facts.belongs_to(tenant.id)) {
        report.error(
            place,
            format!("tenant `{slug}` has no database `{}` of its own", tenant.database),
            format!("restore it: `tenantry restore {slug} --latest --in-place`"),
        );
        return Ok(report);
    }
    let findings =
        survey.server.findings(&tenant.database, &tenant.role, tenant.id, tenant.epoch).await?;
    report.fixes.extend(fix::of_tenant(record, tenant, &findings));
    for finding in findings {
        report.error(
            place,
            format!("tenant `{slug}`: {finding}"),
            "see who changed the grants, and take the change back; `tenantry tenant audit --fix` shows the statements"
                .to_owned(),
        );
    }
    Ok(report)
}

/// How the last rollout went, and who had drifted. Returns the version at which tenants should be.
async fn examine_schemas(environment: &Environment, report: &mut Report) -> Result<i64, StepError> {
    let status = environment.fleet_status().await?;
    if let Some(rollout) = &status.rollout
        && matches!(rollout.state, RolloutState::Failed | RolloutState::Paused)
    {
        let reason = rollout.reason.as_ref();
        let remedy = reason.and_then(|reason| reason.remedy.clone());
        report.warn(
            "catalog",
            format!(
                "rollout {} is {}: {}",
                rollout.id,
                rollout.state.as_str(),
                reason.map_or("", |reason| &reason.message)
            ),
            remedy.unwrap_or_else(|| format!("`tenantry migrate show {}`", rollout.id)),
        );
    }
    if status.drifted() > 0 {
        report.warn(
            "catalog",
            format!(
                "the schemas of {} tenants had drifted when they were looked at",
                status.drifted()
            ),
            "`tenantry migrate verify` shows the differences".to_owned(),
        );
    }
    Ok(status.target)
}

/// What has failed, unless the tenant has come to the same since in another way.
async fn examine_operations(
    environment: &Environment,
    known: &Known,
    target: i64,
    report: &mut Report,
) -> Result<(), StepError> {
    let filter = OperationFilter {
        state: Some(OperationState::Failed),
        limit: i64::MAX,
        ..OperationFilter::default()
    };
    for (operation, slug) in environment.catalog.operations(&filter).await? {
        let tenant = known.tenants.get(&operation.tenant_id);
        if operation.kind == "migrate" && tenant.is_some_and(|it| it.schema_version >= target) {
            continue;
        }
        let message = operation.error.map_or_else(String::new, |error| error.message);
        report.warn(
            "catalog",
            format!("{} of `{slug}` has failed: {message}", operation.kind),
            format!(
                "`tenantry operation retry {0}`, or `tenantry operation cancel {0}`",
                operation.id
            ),
        );
    }
    Ok(())
}

impl Report {
    /// Whether nothing needs anybody.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity != Severity::Error)
    }

    fn is_away(&mut self, record: &ServerRecord, error: &StepError) {
        self.error(
            &record.name,
            format!("the server does not answer: {error}"),
            "start it, or fix its address with `tenantry server add --replace`".to_owned(),
        );
    }

    fn error(&mut self, place: &str, what: String, remedy: String) {
        self.find(Severity::Error, place, what, remedy);
    }

    fn warn(&mut self, place: &str, what: String, remedy: String) {
        self.find(Severity::Warning, place, what, remedy);
    }

    fn find(&mut self, severity: Severity, place: &str, what: String, remedy: String) {
        self.findings.push(Finding { severity, place: place.to_owned(), what, remedy });
    }
}
