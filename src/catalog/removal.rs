//! Taking a server out of the catalog, once nothing of ours is on it that anybody needs.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use serde_json::json;
use uuid::Uuid;

use super::audit_log::{self, Event};
use super::{Catalog, CatalogError, execute, maybe, one, rows};

/// How many things of a kind are named.
const NAMED: i64 = 3;

/// What of ours is on a server, or is to come there.
#[derive(Clone, Debug, Default)]
pub struct Belongings {
    /// How many living tenants it has.
    pub tenants: i64,
    /// The slugs of some of them.
    pub slugs: Vec<String>,
    /// How many replaced databases are kept there.
    pub kept: i64,
    /// Until when the last of these is kept.
    pub kept_until: Option<Timestamp>,
    /// Operations that have not ended well and that name it: kind and id.
    pub operations: Vec<(String, Uuid)>,
    /// Its read replicas.
    pub read_replicas: Vec<String>,
    /// How many spares it has.
    pub spares: i64,
    /// How many templates it has.
    pub templates: i64,
}

impl Catalog {
    /// What of ours is on a server.
    pub async fn belongings(&self, server: Uuid) -> Result<Belongings, CatalogError> {
        belongings(&self.client().await?, server).await
    }

    /// Forgets a server. `is_free` has the last word on what is found there at that moment: whoever would place a
    /// tenant there waits until then, and finds no such server any more.
    pub async fn remove_server(
        &self,
        server: Uuid,
        is_free: impl Fn(&Belongings) -> Result<(), CatalogError>,
    ) -> Result<(), CatalogError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let locked = maybe(
            &transaction,
            "-- removal::lock\nselect name, address from servers where id = $1 for update",
            &[&server],
        )
        .await?;
        let Some(row) = locked else { return Ok(()) };
        is_free(&belongings(&transaction, server).await?)?;
        for sql in [
            "-- removal::forget_spares\ndelete from spares where server_id = $1",
            "-- removal::forget_templates\ndelete from templates where server_id = $1",
            "-- removal::forget_place
             update tenants set server_id = null where server_id = $1 and state = 'deleted'",
            "-- removal::remove\ndelete from servers where id = $1",
        ] {
            execute(&transaction, sql, &[&server]).await?;
        }
        let (name, address): (&str, &str) = (row.get(0), row.get(1));
        let detail = json!({ "server": name, "id": server, "address": address });
        let event = Event { actor: self.by(), action: "server.removed", tenant: None, detail };
        audit_log::record(&transaction, &event).await?;
        Ok(transaction.commit().await?)
    }
}

async fn belongings(client: &impl GenericClient, server: Uuid) -> Result<Belongings, CatalogError> {
    let counted = one(
        client,
        "-- removal::belongings
         select (select count(*) from tenants where server_id = $1 and state <> 'deleted'),
                array(select slug from tenants where server_id = $1 and state <> 'deleted' order by slug limit $2),
                (select count(*) from retained_databases where server_id = $1),
                (select max(drop_after) from retained_databases where server_id = $1),
                array(select name from read_replicas where server_id = $1 order by name),
                (select count(*) from spares where server_id = $1),
                (select count(*) from templates where server_id = $1)",
        &[&server, &NAMED],
    )
    .await?;
    let operations = rows(
        client,
        "-- removal::operations
         select kind, id from operations
         where state in ('queued', 'running', 'failed')
           and (input ->> 'server' = $1 or input ->> 'archive' = $1 or memory ->> 'place' = $1)
         order by id",
        &[&server.to_string()],
    )
    .await?;
    Ok(Belongings {
        tenants: counted.get(0),
        slugs: counted.get(1),
        kept: counted.get(2),
        kept_until: counted.get(3),
        operations: operations.iter().map(|row| (row.get(0), row.get(1))).collect(),
        read_replicas: counted.get(4),
        spares: counted.get(5),
        templates: counted.get(6),
    })
}
