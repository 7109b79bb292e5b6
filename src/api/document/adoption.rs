//! What adopting a database would do, as JSON.

use serde::Serialize;
use tenantry_provisioning::{AdoptionPlan, Obstacle};
use utoipa::ToSchema;

/// What keeps a database from becoming a tenant's, and what making it one would do.
#[derive(Debug, Serialize, ToSchema)]
pub struct AdoptionDocument {
    /// The tenant that it would be.
    pub tenant: String,
    /// The server.
    pub server: String,
    /// The database, by its present name.
    pub database: String,
    /// What has to be done before; nothing where it can be adopted.
    pub obstacles: Vec<ObstacleDocument>,
    /// What will be otherwise for those who have used it.
    pub notes: Vec<String>,
    /// Every statement, in order.
    pub statements: Vec<String>,
}

/// Something that keeps a database from becoming a tenant's.
#[derive(Debug, Serialize, ToSchema)]
pub struct ObstacleDocument {
    /// A stable name of its kind.
    pub kind: String,
    /// What it is.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

impl AdoptionDocument {
    /// What is planned for this tenant.
    #[must_use]
    pub fn new(tenant: &str, server: &str, database: &str, plan: AdoptionPlan) -> Self {
        let AdoptionPlan { obstacles, notes, statements } = plan;
        Self {
            tenant: tenant.to_owned(),
            server: server.to_owned(),
            database: database.to_owned(),
            obstacles: obstacles.into_iter().map(ObstacleDocument::from).collect(),
            notes,
            statements,
        }
    }
}

impl From<Obstacle> for ObstacleDocument {
    fn from(obstacle: Obstacle) -> Self {
        let Obstacle { kind, what, remedy } = obstacle;
        Self { kind, what, remedy }
    }
}
