//! Adopting a database that is there already: it becomes a tenant's where it is, and nothing in it moves.
//!
//! Until it has been tried that everything can be done, the database is at most shut, and giving it up opens it
//! again. What is done in it then is one transaction, which ends with the tenant's marker; after that there is only
//! forward. The database is renamed, as a tenant's name leads to its database. So nobody may be in it: who is, is not
//! put out, but named.

use std::fmt::Write as _;

use futures_util::FutureExt as _;
use serde::{Deserialize, Serialize};
use tenantry_provisioning::{
    Adoption, AdoptionPlan, Commit, DatabaseName, Obstacle, Owner, Possession, Proof, RoleName,
    Server, baseline, scram_verifier,
};
use thiserror::Error;
use uuid::Uuid;

use super::request::Requester;
use super::{Environment, Plan, Step, StepContext, StepError, Work, delete, provision};
use crate::catalog::CatalogError;
use crate::catalog::operations::OperationRecord;
use crate::catalog::tenants::NewTenant;
use crate::tenant::{SchemaState, TenantState};

pub(super) const PLAN: Plan = Plan {
    steps: &[
        Step::new("examine", |cx| examine(cx).boxed()),
        Step::new("shut", |cx| shut(cx).boxed()),
        Step::new("rehearse", |cx| rehearse(cx).boxed()),
        Step::new("harden", |cx| harden(cx).boxed()),
        Step::new("take_possession", |cx| take_possession(cx).boxed()),
        Step::new("write_history", |cx| write_history(cx).boxed()),
        Step::new("activate", |cx| activate(cx).boxed()),
    ],
    abandon: delete::STEPS,
    no_return: 3,
};

/// The database that was shut: only that one is opened again, or gone on with.
const SHUT: &str = "shut";
/// How far the schema is from the files that are said to have made it.
const DIFFERENCES: &str = "differences";
/// So many obstacles are named in an error; a dry run names them all.
const MOST_NAMED: usize = 8;

/// What is to be adopted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptFrom {
    /// The database, by its present name.
    pub database: String,
    /// The newest migration file that its schema has, to write its history with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<i64>,
    /// Whether somebody knows its code to do no harm.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub trust_functions: bool,
}

#[derive(Serialize, Deserialize)]
struct Shut {
    oid: u32,
}

/// Why an adoption was not asked for.
#[derive(Debug, Error)]
pub enum AdoptionError {
    /// The database cannot become a tenant's as it is.
    #[error("the database cannot become a tenant's: {}", named(.0))]
    Refused(Vec<Obstacle>),
    /// The catalog said no.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The server said no.
    #[error(transparent)]
    Step(#[from] StepError),
}

/// How often an adopted schema is not what the files make; `None` if nobody has compared. The history is written where
/// it is.
#[must_use]
pub fn differences(record: &OperationRecord) -> Option<usize> {
    usize::deserialize(record.memory.get(DIFFERENCES)?).ok()
}

impl Environment {
    /// What adopting a database as this tenant would do, and what keeps it from that. Changes nothing.
    pub async fn plan_adoption(
        &self,
        new: &NewTenant,
        from: &AdoptFrom,
    ) -> Result<AdoptionPlan, AdoptionError> {
        let mut obstacles = Vec::new();
        let judged = self.catalog.placement(new).await?;
        let named = judged.iter().find(|judged| Some(&judged.host.name) == new.server.as_ref());
        let Some(named) = named else {
            let name = new.server.clone().unwrap_or_default();
            return Err(CatalogError::Missing { what: "server", name }.into());
        };
        obstacles.extend(named.unfit.iter().map(|unfit| Obstacle {
            kind: "placement".to_owned(),
            what: format!("server {} cannot host the tenant: {unfit}", named.host.name),
            remedy: "`tenantry server set` and `uncordon` change what it takes".to_owned(),
        }));
        if self.is_taken(new).await? {
            obstacles.push(Obstacle {
                kind: "slug_taken".to_owned(),
                what: format!("there is a tenant `{}` already", new.slug),
                remedy: "choose another slug".to_owned(),
            });
        }
        obstacles.extend(from.baseline.and_then(|version| self.no_such_file(version)));
        let server = self.server(named.host.id).await?;
        let (database, role) = names(new)?;
        let present = match DatabaseName::parse(&from.database) {
            Ok(present) => present,
            Err(error) => {
                obstacles.push(Obstacle {
                    kind: "name".to_owned(),
                    what: error.to_string(),
                    remedy: "rename the database (`alter database … rename to …`)".to_owned(),
                });
                return Ok(AdoptionPlan { obstacles, ..AdoptionPlan::default() });
            }
        };
        let adoption = Adoption {
            from: &present,
            database: &database,
            role: &role,
            owner: Owner { tenant: Uuid::nil(), operation: Uuid::nil() },
            trust_functions: from.trust_functions,
        };
        let mut plan = server.plan_adoption(adoption).await.map_err(StepError::from)?;
        plan.obstacles.splice(0..0, obstacles);
        Ok(plan)
    }

    /// Makes a tenant of a database that is on the named server. What keeps it from that is told at once, and nothing
    /// is asked for then.
    pub async fn adopt(
        &self,
        new: &NewTenant,
        from: AdoptFrom,
        by: Requester<'_>,
    ) -> Result<OperationRecord, AdoptionError> {
        if let Some(earlier) = self.earlier(by, "adopt").await? {
            return Ok(earlier);
        }
        let obstacles = self.plan_adoption(new, &from).await?.obstacles;
        if !obstacles.is_empty() {
            return Err(AdoptionError::Refused(obstacles));
        }
        let tenant = Uuid::now_v7();
        let operation = by.operation(&Work::Adopt(from), tenant);
        let made = self.catalog.create_tenant(tenant, new, &operation).await;
        Ok(self.or_earlier(made, by).await?)
    }

    async fn is_taken(&self, new: &NewTenant) -> Result<bool, CatalogError> {
        match self.catalog.tenant(&new.slug).await {
            Ok(_) => Ok(true),
            Err(CatalogError::Missing { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn no_such_file(&self, version: i64) -> Option<Obstacle> {
        let is_missing = self.migrations().at(version).is_none();
        is_missing.then(|| Obstacle {
            kind: "baseline".to_owned(),
            what: format!("there is no migration file of version {version}"),
            remedy: "choose a version that the directory has (TENANTRY_TENANT_MIGRATIONS_DIR)"
                .to_owned(),
        })
    }
}

/// Looks once more: much may have happened since somebody asked.
async fn examine(cx: &StepContext<'_>) -> Result<(), StepError> {
    let (from, server) = present(cx).await?;
    let work = asked(cx);
    let mut found = server.plan_adoption(adoption(cx, &from)).await?.obstacles;
    found.extend(work.baseline.and_then(|version| cx.environment.no_such_file(version)));
    refuse(&found)
}

async fn shut(cx: &StepContext<'_>) -> Result<(), StepError> {
    let (from, server) = present(cx).await?;
    let Some(facts) = server.database(&from).await? else { return Err(gone(&from)) };
    cx.remember(SHUT, &Shut { oid: facts.oid }).await?;
    refuse(&server.shut_if_quiet(&from, cx.owner()).await?)
}

/// Does all that is done inside of it, looks at what came of it, and undoes it again. A database that cannot be adopted
/// after all is not kept from its users any longer.
async fn rehearse(cx: &StepContext<'_>) -> Result<(), StepError> {
    let (from, server) = present(cx).await?;
    // A rehearsal that failed before has opened it.
    refuse(&server.shut_if_quiet(&from, cx.owner()).await?)?;
    let rehearsed = harden_for(cx, Commit::Rehearse).await;
    if rehearsed.is_err() {
        server.give_back(&from).await?;
    }
    rehearsed
}

/// Does it for good. What cannot be done after all leaves the database to its users; one that is the tenant's already
/// stays shut.
async fn harden(cx: &StepContext<'_>) -> Result<(), StepError> {
    let (from, server) = present(cx).await?;
    refuse_late(&server.shut_if_quiet(&from, cx.owner()).await?)?;
    let hardened = harden_for(cx, Commit::Perform).await;
    if matches!(hardened, Err(StepError::Fail(..))) {
        server.give_back(&from).await?;
    }
    hardened
}

async fn harden_for(cx: &StepContext<'_>, commit: Commit) -> Result<(), StepError> {
    let (from, server) = present(cx).await?;
    let shut = cx.recall::<Shut>(SHUT)?.map(|shut| shut.oid);
    match server.database(&from).await? {
        Some(facts) if Some(facts.oid) == shut => {}
        _ => return Err(gone(&from)),
    }
    let found = server.harden_adopted(adoption(cx, &from), commit).await?;
    if commit == Commit::Perform { refuse_late(&found) } else { refuse(&found) }
}

async fn take_possession(cx: &StepContext<'_>) -> Result<(), StepError> {
    let (from, server) = present(cx).await?;
    let password = cx.environment.catalog.tenant_password(cx.tenant.id).await?;
    let possession = Possession {
        from: &from,
        database: &cx.tenant.database,
        role: &cx.tenant.role,
        verifier: &scram_verifier(&password),
        login: true,
        owner: cx.owner(),
        epoch: cx.tenant.epoch,
    };
    Ok(server.take_possession(possession).await?)
}

/// Writes down which files made the schema, if it is what they make; else says how far it is from that.
async fn write_history(cx: &StepContext<'_>) -> Result<(), StepError> {
    let Some(version) = asked(cx).baseline else { return Ok(()) };
    let files = cx.files.at(version).ok_or_else(|| {
        StepError::fail(
            format!("there is no migration file of version {version} any more"),
            "bring it back to TENANTRY_TENANT_MIGRATIONS_DIR, then retry",
        )
    })?;
    let comparison = cx.environment.compare_unserved(&cx.tenant, version).await?;
    // Written by an attempt that did not live to say so, it is found again.
    let differences = comparison.differences.len();
    if differences == 0 {
        let server = cx.server().await?;
        let timeouts = cx.environment.limits.migration_timeouts;
        baseline(&server, &cx.tenant.database, &files, timeouts).await?;
    }
    cx.remember(DIFFERENCES, &differences).await
}

async fn activate(cx: &StepContext<'_>) -> Result<(), StepError> {
    let server = cx.server().await?;
    provision::prove_isolation(cx, &server, cx.tenant.epoch).await?;
    let trusts = asked(cx).trust_functions;
    let holes = server.holes_inside(&cx.tenant.database, &cx.tenant.role).await?;
    let hole = holes.iter().find(|hole| !(trusts && hole.kind == "security_definer"));
    if let Some(hole) = hole {
        return Err(StepError::fail(
            format!("an audit of the tenant would find {}: {}", hole.subject, hole.evidence),
            hole.mend.clone().unwrap_or_else(|| "drop it from the database, then retry".to_owned()),
        ));
    }
    let is_noted = cx.recall::<usize>(DIFFERENCES)? == Some(0);
    let version = asked(cx).baseline.filter(|_| is_noted).unwrap_or(0);
    let epoch = cx.tenant.epoch;
    let schema = SchemaState { version, ..SchemaState::default() };
    Ok(cx.lock.serve(&cx.tenant, TenantState::Active, epoch, &schema).await?)
}

/// What adoptions of this tenant that never ended have left: a database that they only shut is as it was again, and one
/// that was made the tenant's goes the way of the tenant's.
pub(super) async fn let_go(cx: &StepContext<'_>, server: &Server) -> Result<(), StepError> {
    let mut operations = cx.lock.unfinished_operations().await?;
    operations.push(cx.operation.id);
    for id in operations {
        let record = cx.environment.catalog.operation(id).await?;
        if !matches!(Work::of(&record)?, Work::Adopt(_)) {
            continue;
        }
        let shut = record.memory.get(SHUT).and_then(|shut| Shut::deserialize(shut).ok());
        // Somebody may have given it another name meanwhile.
        let Some(Shut { oid }) = shut else { continue };
        let Some(database) = server.database_numbered(oid).await? else { continue };
        server.give_back(&database).await?;
        match server.drop_owned_database(&database, Proof::Owner(cx.tenant.id)).await {
            // It was given back.
            Err(tenantry_provisioning::Error::NotOurs { .. }) => {}
            other => other?,
        }
    }
    Ok(())
}

fn refuse(obstacles: &[Obstacle]) -> Result<(), StepError> {
    let Some(first) = obstacles.first() else { return Ok(()) };
    Err(StepError::fail(
        format!("the database cannot become a tenant's: {}", named(obstacles)),
        format!(
            "{}; then retry, or give the adoption up (`tenantry operation cancel`): `tenantry tenant adopt --dry-run` \
             then says what to do about the others",
            first.remedy
        ),
    ))
}

/// The same where the adoption cannot be cancelled any more.
fn refuse_late(obstacles: &[Obstacle]) -> Result<(), StepError> {
    let Some(first) = obstacles.first() else { return Ok(()) };
    Err(StepError::fail(
        format!("the database cannot become a tenant's yet: {}", named(obstacles)),
        format!(
            "{}; then retry. Or give it up with `tenantry tenant delete`, which leaves the database as it was",
            first.remedy
        ),
    ))
}

fn named(obstacles: &[Obstacle]) -> String {
    let what = obstacles.iter().take(MOST_NAMED).map(|obstacle| obstacle.what.as_str());
    let mut named = what.collect::<Vec<_>>().join("; ");
    if let Some(more @ 1..) = obstacles.len().checked_sub(MOST_NAMED) {
        _ = write!(named, "; and {more} more");
    }
    named
}

fn gone(database: &DatabaseName) -> StepError {
    StepError::fail(
        format!("the database `{database}` is not there any more, or is another one"),
        "give the adoption up (`tenantry operation cancel`), and see what has happened on the server",
    )
}

/// The database by the name that it had, and its server.
async fn present(cx: &StepContext<'_>) -> Result<(DatabaseName, Server), StepError> {
    let server = cx.server().await?;
    let database = DatabaseName::parse(&asked(cx).database).map_err(unfit)?;
    Ok((database, server))
}

fn adoption<'a>(cx: &'a StepContext<'_>, from: &'a DatabaseName) -> Adoption<'a> {
    Adoption {
        from,
        database: &cx.tenant.database,
        role: &cx.tenant.role,
        owner: cx.owner(),
        trust_functions: asked(cx).trust_functions,
    }
}

fn asked<'a>(cx: &StepContext<'a>) -> &'a AdoptFrom {
    match cx.work {
        Work::Adopt(from) => from,
        _ => unreachable!("only an adoption has these steps"),
    }
}

fn names(new: &NewTenant) -> Result<(DatabaseName, RoleName), StepError> {
    let database = DatabaseName::tenant(new.slug.as_str()).map_err(unfit)?;
    let role = RoleName::tenant(new.slug.as_str()).map_err(unfit)?;
    Ok((database, role))
}

fn unfit(error: tenantry_provisioning::NameError) -> StepError {
    StepError::Fail(Box::new(error), Some("choose another name".to_owned()))
}
