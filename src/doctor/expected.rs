//! The databases of a server that the catalog knows and that no tenant has now: templates and spares, what
//! restores replaced, and what operations may be building.

use std::collections::HashSet;

use tenantry_provisioning::DatabaseName;
use uuid::Uuid;

use crate::catalog::operations::{OperationFilter, OperationState};
use crate::catalog::{Catalog, CatalogError};
use crate::operations::{upkeep, verify};

/// Operations that have not ended well, or not at all.
pub(crate) async fn open_operations(catalog: &Catalog) -> Result<HashSet<Uuid>, CatalogError> {
    let mut operations = HashSet::new();
    for state in [OperationState::Queued, OperationState::Running, OperationState::Failed] {
        let filter =
            OperationFilter { state: Some(state), limit: i64::MAX, ..OperationFilter::default() };
        let found = catalog.operations(&filter).await?;
        operations.extend(found.into_iter().map(|(operation, _)| operation.id));
    }
    Ok(operations)
}

/// Tenants that are being moved to another server, or are to be; and those whose way back is open.
pub(crate) async fn relocating_tenants(catalog: &Catalog) -> Result<HashSet<Uuid>, CatalogError> {
    let mut tenants = HashSet::new();
    for state in [OperationState::Queued, OperationState::Running, OperationState::Failed] {
        let filter =
            OperationFilter { state: Some(state), limit: i64::MAX, ..OperationFilter::default() };
        let found = catalog.operations(&filter).await?;
        let moves = found.into_iter().filter(|(operation, _)| operation.kind == "relocate");
        tenants.extend(moves.map(|(operation, _)| operation.tenant_id));
    }
    tenants.extend(catalog.followers().await?.iter().map(|left| left.tenant));
    Ok(tenants)
}

/// The names that databases of a server may have beside those of tenants.
pub(crate) async fn expected_databases(
    catalog: &Catalog,
    server: Uuid,
    operations: &HashSet<Uuid>,
) -> Result<HashSet<String>, CatalogError> {
    let mut expected: HashSet<String> = HashSet::new();
    expected.extend(
        catalog.retained_databases(server).await?.iter().map(|old| old.database.to_string()),
    );
    for template in catalog.templates(server).await? {
        expected.insert(DatabaseName::template(&template.digest).to_string());
        if !template.ready {
            expected.insert(DatabaseName::build(upkeep::build_id(&template.digest)).to_string());
        }
    }
    for spare in catalog.spares(server).await? {
        expected.insert(DatabaseName::spare(spare.id).to_string());
        if !spare.ready {
            expected.insert(DatabaseName::build(spare.id).to_string());
        }
    }
    expected.insert(verify::reference_build().to_string());
    expected.extend(operations.iter().map(|id| DatabaseName::build(*id).to_string()));
    Ok(expected)
}
