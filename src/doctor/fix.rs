//! What `tenantry doctor --fix` puts right: what is ours and nobody's data, and what is made again from nothing.
//!
//! A database is dropped that has a name which only this system gives, to what no tenant has taken possession of; that
//! the catalog does not know, and nobody is in. On a server with anything of a tenant that this catalog never had, all
//! such things may be another catalog's: there, only what an operation of ours has left is.
//!
//! Must never: touch a database that carries a tenant's marker, or a tenant's role; or write a stamp, which tells a
//! database from one that a restore or a move has left behind.

use std::collections::HashSet;

use serde::Serialize;
use serde_json::json;
use tenantry_provisioning::{
    DatabaseFacts, DatabaseName, Finding, FindingKind, Leftover, Link, Marker, Owner, Proof,
    RoleFacts, RoleName, Server,
};
use uuid::Uuid;

use super::{Known, Strays, Survey, expected_databases, open_operations};
use crate::catalog::audit_log::Event;
use crate::catalog::operations::{OperationRecord, OperationState};
use crate::catalog::servers::ServerRecord;
use crate::catalog::{Catalog, CatalogError};
use crate::operations::upkeep::templates_of;
use crate::operations::{Environment, StepError};
use crate::tenant::Tenant;

/// Something that can be put right without somebody looking at it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fix {
    /// The server.
    pub place: String,
    /// What is done there.
    pub what: String,
    #[serde(skip)]
    server: Uuid,
    #[serde(skip)]
    cure: Cure,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Cure {
    /// What a server needs once: the group roles, and shared databases that are shut.
    Prepare,
    /// What is never given in a tenant's database is taken back.
    Shut { database: DatabaseName, tenant: Uuid },
    /// What joined two databases goes.
    Part { leftover: Leftover, tenant: Uuid },
    /// A build, a spare or a template goes. The identity is the one that was seen.
    Drop { database: DatabaseName, oid: u32 },
    /// The role as which a dump from elsewhere was let in goes.
    Dismiss(Owner),
}

/// Puts them into the order in which one does not keep another from being done: a slot is in use while it is followed.
pub(super) fn sort(fixes: &mut [Fix]) {
    fixes.sort_by_key(|fix| match &fix.cure {
        Cure::Prepare => 0,
        Cure::Shut { .. } => 1,
        Cure::Part { leftover, .. } => match leftover.kind.as_str() {
            "subscription" => 2,
            "replication slot" => 3,
            _ => 4,
        },
        Cure::Drop { .. } => 5,
        Cure::Dismiss(_) => 6,
    });
}

/// What of a tenant's findings can be put right: nobody is ever given these rights on purpose.
pub(super) fn of_tenant(
    record: &ServerRecord,
    tenant: &Tenant,
    findings: &[Finding],
) -> Option<Fix> {
    let is_plain = |finding: &&Finding| {
        matches!(finding.kind, FindingKind::PublicRight | FindingKind::Clonable)
    };
    findings.iter().find(is_plain)?;
    let (database, slug) = (tenant.database.clone(), &tenant.slug);
    let what = format!(
        "take from PUBLIC what it has in the database of `{slug}`, and have nobody clone that"
    );
    Some(Fix::new(record, what, Cure::Shut { database, tenant: tenant.id }))
}

/// What else can be put right on a server.
pub(super) async fn plan(
    catalog: &Catalog,
    record: &ServerRecord,
    survey: &Survey,
    known: &Known,
    strays: &Strays<'_>,
) -> Result<Vec<Fix>, StepError> {
    let mut fixes = Vec::new();
    let lacking = survey.server.unprepared().await?;
    if !lacking.is_empty() {
        fixes.push(Fix::new(record, lacking.join(", "), Cure::Prepare));
    }
    for leftover in &strays.leftovers {
        if let Some(operation) = ended(catalog, leftover.link.operation()).await? {
            let (tenant, leftover) = (operation.tenant_id, (*leftover).clone());
            let what =
                format!("drop the {} `{}`, {}", leftover.kind, leftover.name, left_by(&operation));
            fixes.push(Fix::new(record, what, Cure::Part { leftover, tenant }));
        }
    }
    let is_shared = !strays.databases.is_empty() && is_shared(catalog, survey, known).await?;
    for facts in &strays.databases {
        if let Some((database, why)) = droppable(catalog, facts, is_shared).await? {
            let what = format!("drop the database `{database}`, {why}");
            fixes.push(Fix::new(record, what, Cure::Drop { database, oid: facts.oid }));
        }
    }
    for role in &strays.roles {
        if let Some(owner) = guest(role)
            && let Some(operation) = ended(catalog, owner.operation).await?
        {
            let what = format!("drop the role `{}`, {}", role.name, left_by(&operation));
            fixes.push(Fix::new(record, what, Cure::Dismiss(owner)));
        }
    }
    Ok(fixes)
}

/// Puts one thing right, if it still is as it was when that was planned.
pub async fn put_right(environment: &Environment, fix: &Fix) -> Result<(), StepError> {
    let catalog = &environment.catalog;
    let server = environment.server(fix.server).await?;
    match &fix.cure {
        Cure::Prepare => server.prepare().await?,
        Cure::Shut { database, tenant } => server.shut_to_public(database, *tenant).await?,
        Cure::Part { leftover, tenant } => {
            if follows(catalog, leftover.link).await? {
                return Err(changed(&leftover.name));
            }
            server.drop_leftover(leftover, *tenant).await?;
        }
        Cure::Drop { database, oid } => {
            // Nobody makes templates or spares there meanwhile.
            let chore = catalog.await_chore(&templates_of(fix.server)).await?;
            let dropped = drop_stray(catalog, fix.server, &server, database, *oid).await;
            chore.end().await;
            dropped?;
        }
        Cure::Dismiss(owner) => server.dismiss_guest(*owner).await?,
    }
    let detail = json!({ "server": fix.place, "what": fix.what });
    let event = Event { actor: catalog.by(), action: "server.fixed", tenant: None, detail };
    Ok(catalog.record(&event).await?)
}

async fn drop_stray(
    catalog: &Catalog,
    server_id: Uuid,
    server: &Server,
    database: &DatabaseName,
    oid: u32,
) -> Result<(), StepError> {
    // The server first: what appears there is announced in the catalog before.
    let facts = server.database(database).await?;
    let operations = open_operations(catalog).await?;
    let expected = expected_databases(catalog, server_id, &operations).await?;
    let is_as_it_was = facts.is_some_and(|facts| facts.oid == oid && facts.connections == 0);
    if !is_as_it_was || expected.contains(database.as_str()) {
        return Err(changed(database.as_str()));
    }
    Ok(server.drop_owned_database(database, Proof::Name).await?)
}

/// A database that nobody's data is in, and why it is one.
async fn droppable(
    catalog: &Catalog,
    facts: &DatabaseFacts,
    is_shared: bool,
) -> Result<Option<(DatabaseName, String)>, StepError> {
    let Ok(name) = DatabaseName::parse(&facts.name) else { return Ok(None) };
    let operation = match name.operation_building() {
        Some(id) => ended(catalog, id).await?,
        None => None,
    };
    // What is named as a template or a spare got its marker with that name; what is being built has none yet.
    let is_ours = match &facts.marker {
        Some(Marker::Template { .. } | Marker::Spare { .. }) => name.is_unowned_form(),
        Some(_) => false,
        None => name.operation_building().is_some(),
    };
    let is_left = operation.is_some() || !is_shared;
    if !is_ours || !is_left || facts.connections > 0 {
        return Ok(None);
    }
    let why = match operation {
        Some(operation) => left_by(&operation),
        None => "which no tenant has and nothing makes".to_owned(),
    };
    Ok(Some((name, why)))
}

/// Whose dump came in as this role, if it is such a one.
fn guest(role: &RoleFacts) -> Option<Owner> {
    let Some(Marker::Tenant(owner)) = role.marker else { return None };
    (RoleName::guest(owner.operation).as_str() == role.name).then_some(owner)
}

/// The operation, if it is one of this catalog's, and over.
async fn ended(catalog: &Catalog, id: Uuid) -> Result<Option<OperationRecord>, CatalogError> {
    let is_over = |operation: &OperationRecord| {
        matches!(operation.state, OperationState::Succeeded | OperationState::Cancelled)
    };
    Ok(known(catalog.operation(id).await)?.filter(is_over))
}

/// Whether something there is of a tenant that this catalog never had.
async fn is_shared(
    catalog: &Catalog,
    survey: &Survey,
    living: &Known,
) -> Result<bool, CatalogError> {
    let databases = survey.databases.iter().map(|facts| &facts.marker);
    let markers = databases.chain(survey.roles.iter().map(|facts| &facts.marker));
    let tenants: HashSet<Uuid> = markers.flatten().filter_map(Marker::tenant).collect();
    for tenant in tenants.into_iter().filter(|tenant| !living.tenants.contains_key(tenant)) {
        if known(catalog.tenant_by_id(tenant).await)?.is_none() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether two databases are joined by this now.
async fn follows(catalog: &Catalog, link: Link) -> Result<bool, CatalogError> {
    let is_left = catalog.followers().await?.iter().any(|left| Link::Back(left.operation) == link);
    Ok(is_left || ended(catalog, link.operation()).await?.is_none())
}

fn known<T>(found: Result<T, CatalogError>) -> Result<Option<T>, CatalogError> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(CatalogError::Missing { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn left_by(operation: &OperationRecord) -> String {
    let OperationRecord { kind, id, state, .. } = operation;
    format!("which the {kind} {id} has left, that has {}", state.as_str())
}

fn changed(name: &str) -> StepError {
    let remedy = "run `tenantry doctor` again, and see what it is now";
    StepError::Fail(format!("`{name}` is no longer what it was").into(), Some(remedy.to_owned()))
}

impl Fix {
    fn new(record: &ServerRecord, what: String, cure: Cure) -> Self {
        Self { place: record.name.clone(), what, server: record.id, cure }
    }
}
