//! Rows of `routers`: the replicas that route. They share what may be open on a server.

use std::time::Duration;

use tokio_postgres::Row;
use uuid::Uuid;

use super::{Catalog, CatalogError, execute, one, rows};

/// A router that has said nothing for so long is gone, and its share with it.
const GONE_AFTER: Duration = Duration::from_secs(15);

/// What one replica may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shares {
    /// How many replicas route.
    pub routers: usize,
    /// The servers and their read replicas.
    pub places: Vec<SharedPlace>,
}

/// Where replicas hold connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedPlace {
    /// Of the server, or of the read replica.
    pub id: Uuid,
    /// `eu-1`, or `eu-1/replica-2`.
    pub name: String,
    /// How many connections all replicas together may hold there, if they share them.
    pub budget: Option<usize>,
}

impl Catalog {
    /// Says that a router lives; returns what there is to share.
    pub async fn router_lives(&self, id: Uuid) -> Result<Shares, CatalogError> {
        let client = self.client().await?;
        execute(
            &client,
            "-- routers::forget_gone
             delete from routers where seen_at < now() - make_interval(secs => $1::float8)",
            &[&GONE_AFTER.as_secs_f64()],
        )
        .await?;
        execute(
            &client,
            "-- routers::lives
             insert into routers (id) values ($1) on conflict (id) do update set seen_at = now()",
            &[&id],
        )
        .await?;
        let counted = one(&client, "-- routers::count\nselect count(*) from routers", &[]).await?;
        let places = rows(
            &client,
            "-- routers::places
             select id, name, connection_budget from servers
             union all
             select r.id, s.name || '/' || r.name, s.connection_budget
             from read_replicas r join servers s on s.id = r.server_id",
            &[],
        )
        .await?;
        let number = |number: i64| usize::try_from(number).unwrap_or(usize::MAX);
        let budget = |budget: i32| number(budget.into());
        let place = |row: &Row| SharedPlace {
            id: row.get(0),
            name: row.get(1),
            budget: row.get::<_, Option<i32>>(2).map(budget),
        };
        Ok(Shares { routers: number(counted.get(0)), places: places.iter().map(place).collect() })
    }

    /// How many replicas route.
    pub async fn routers(&self) -> Result<usize, CatalogError> {
        let row = one(
            &self.client().await?,
            "-- routers::living
             select count(*) from routers where seen_at >= now() - make_interval(secs => $1::float8)",
            &[&GONE_AFTER.as_secs_f64()],
        )
        .await?;
        Ok(usize::try_from(row.get::<_, i64>(0)).unwrap_or(0))
    }

    /// Gives a router's share back.
    pub async fn router_ends(&self, id: Uuid) -> Result<(), CatalogError> {
        let client = self.client().await?;
        execute(&client, "-- routers::ends\ndelete from routers where id = $1", &[&id])
            .await
            .map(drop)
    }
}
