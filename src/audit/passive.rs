//! What grants, owners, memberships and settings allow.
//!
//! A fleet does not stand still while it is looked at: what is found is looked at twice, with the catalog read anew
//! in between, and only what stands both times counts.

use std::collections::HashSet;

use futures_util::{FutureExt as _, StreamExt as _, stream};
use tenantry_provisioning::{Expectation, ExpectedTenant, Looked, Server};
use uuid::Uuid;

use super::report::{AuditReport, Finding};
use super::{Place, Tenants};
use crate::catalog::CatalogError;
use crate::doctor::{expected_databases, open_operations, relocating_tenants};
use crate::operations::{StepError, chain};
use crate::tenant::Tenant;

/// Looks at a server from outside, and at each database from inside.
pub(super) async fn examine(
    place: &Place<'_>,
    server: &Server,
    report: &mut AuditReport,
) -> Result<(), StepError> {
    let looked = look(place, server).await?;
    let looked = match looked.holes[..] {
        [] => looked,
        _ => looked.and_still(&look(place, server).await?),
    };
    report
        .untried
        .extend(looked.unseen.iter().map(|what| format!("server {}: {what}", place.name)));
    let Tenants { looked_at: tenants, others } = place.tenants().await?;
    for hole in looked.holes {
        let is_its = |tenant: &&Tenant| hole.subject == tenant.database.as_str();
        let owner = tenants.iter().find(is_its);
        let finding = Finding::of_hole(&place.name, hole);
        report.findings.push(match owner {
            Some(tenant) => finding.of_tenant(tenant.slug.as_str()),
            None => finding,
        });
    }
    for tenant in others.iter().filter(|tenant| place.options.tenants.contains(&tenant.slug)) {
        report.untried.push(format!("tenant {} is {}", tenant.slug, tenant.state));
    }
    report.tried.tenants += tenants.len() as u64;
    let looks: Vec<_> = tenants
        .into_iter()
        .map(|tenant| {
            let server = server.clone();
            let look =
                async move { (server.holes_inside(&tenant.database, &tenant.role).await, tenant) };
            look.boxed()
        })
        .collect();
    let mut insides = stream::iter(looks).buffer_unordered(place.options.sessions.max(1));
    while let Some((holes, tenant)) = insides.next().await {
        match holes {
            Ok(holes) => {
                report.tried.databases += 1;
                let found = holes.into_iter().map(|hole| Finding::of_hole(&place.name, hole));
                report.findings.extend(found.map(|one| one.of_tenant(tenant.slug.as_str())));
            }
            Err(error) if place.is_unchanged(&tenant).await? => {
                let (database, why) = (&tenant.database, chain(&error));
                report.untried.push(format!("the inside of {database} on {}: {why}", place.name));
            }
            Err(_) => {}
        }
    }
    Ok(())
}

async fn look(place: &Place<'_>, server: &Server) -> Result<Looked, StepError> {
    Ok(server.holes(&expectation(place).await?).await?)
}

async fn expectation(place: &Place<'_>) -> Result<Expectation, CatalogError> {
    let catalog = &place.environment.catalog;
    let operations = open_operations(catalog).await?;
    let Tenants { looked_at, others } = place.tenants().await?;
    let mut databases: Vec<String> =
        expected_databases(catalog, place.id, &operations).await?.into_iter().collect();
    databases.extend(others.iter().map(|tenant| tenant.database.to_string()));
    let is_moving = |tenant: &&Tenant| !tenant.state.is_settled();
    let mut moving: HashSet<Uuid> =
        others.iter().filter(is_moving).map(|tenant| tenant.id).collect();
    // One that is moved online is served meanwhile.
    moving.extend(relocating_tenants(catalog).await?);
    let expected = |tenant: Tenant| ExpectedTenant {
        database: tenant.database,
        role: tenant.role,
        tenant: tenant.id,
        epoch: tenant.epoch,
    };
    Ok(Expectation {
        databases,
        roles: others.iter().map(|tenant| tenant.role.to_string()).collect(),
        moving: moving.into_iter().collect(),
        tenants: looked_at.into_iter().map(expected).collect(),
    })
}
