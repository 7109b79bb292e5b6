//! Read replicas that nobody can read from now: away, behind, or a copy of something else.

use std::time::Duration;

use tenantry_provisioning::{Problem, Server};
use uuid::Uuid;

use crate::catalog::{Catalog, CatalogError};

/// How long one may take to replay what its server has written.
const CATCH_UP: Duration = Duration::from_secs(5);

/// What keeps a server's read replicas from being read from; each problem names its read replica.
pub async fn examine_read_replicas(
    catalog: &Catalog,
    id: Uuid,
    server: &Server,
) -> Result<Vec<Problem>, CatalogError> {
    let mut problems = Vec::new();
    for place in catalog.read_replica_places(Some(id)).await? {
        let found = server.check_standby(&place.url, CATCH_UP).await.unwrap_or_else(|error| {
            let remedy = error.remedy().unwrap_or_default().into_owned();
            vec![Problem { what: crate::operations::chain(&error), remedy }]
        });
        let name = &place.replica.name;
        problems.extend(found.into_iter().map(|problem| Problem {
            what: format!("read replica `{name}`: {}", problem.what),
            remedy: format!(
                "{}; until then reads go to the server, and `tenantry server replica remove {} {name}` ends that",
                problem.remedy, place.replica.server
            ),
        }));
    }
    Ok(problems)
}
