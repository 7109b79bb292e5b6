//! Who is on the way where, and the batches of relocations that empty servers or even them out.
//!
//! A server that is being emptied carries the batch that does it. It counts as draining for as long as it has tenants
//! and as retired once it has none, so nobody has to notice the moment.

use std::collections::HashMap;

use deadpool_postgres::GenericClient;
use serde_json::{Value, json};
use uuid::Uuid;

use super::audit_log::{self, Event, request_id};
use super::operations::{NewOperation, OperationState};
use super::{Catalog, CatalogError, execute, maybe, one, rows};
use crate::tenant::TenantSlug;

/// An operation that brings a tenant to another server, or would.
#[derive(Clone, Debug)]
pub struct OpenMove {
    /// The operation.
    pub operation: Uuid,
    /// The tenant.
    pub tenant: Uuid,
    /// The server that it goes to.
    pub server: Uuid,
    /// Whether it is under way, or has failed.
    pub state: OperationState,
    /// The batch that it belongs to.
    pub batch: Option<Uuid>,
    /// Why it failed.
    pub error: Option<String>,
}

/// Tenants, and the servers that they are on their way to: these have no room for others. Each half has an index.
pub(super) const COMING: &str =
    "select distinct o.tenant_id, (o.input ->> 'server')::uuid as server_id
    from (select * from operations where state = 'queued'
          union all select * from operations where state = 'running') o
    join tenants mover on mover.id = o.tenant_id
    where not o.abandoning and o.input ? 'server'
      and mover.state <> 'deleted' and mover.server_id <> (o.input ->> 'server')::uuid";

impl Catalog {
    /// Lets nobody come to a server any more, and gives it the batch of those that are to leave: the one that it has,
    /// or a new one.
    pub async fn begin_drain(&self, name: &str) -> Result<Uuid, CatalogError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let before = maybe(
            &transaction,
            "-- moves::drain_of\nselect drain from servers where name = $1 for no key update",
            &[&name],
        )
        .await?;
        let Some(before) = before else {
            return Err(CatalogError::Missing { what: "server", name: name.to_owned() });
        };
        if let Some(batch) = before.get(0) {
            return Ok(batch);
        }
        let batch = Uuid::now_v7();
        execute(
            &transaction,
            "-- moves::begin_drain
             update servers set drain = $2, cordoned = coalesce(nullif(cordoned, ''), 'it is being emptied')
             where name = $1",
            &[&name, &batch],
        )
        .await?;
        let detail = json!({ "server": name, "batch": batch });
        let event = Event { actor: self.by(), action: "server.draining", tenant: None, detail };
        audit_log::record(&transaction, &event).await?;
        transaction.commit().await?;
        Ok(batch)
    }

    /// The operations that are to bring living tenants to servers on which they are not: under way, waiting or failed.
    pub async fn open_moves(&self) -> Result<Vec<OpenMove>, CatalogError> {
        let found = rows(
            &self.client().await?,
            "-- moves::open
             select o.id, o.tenant_id, (o.input ->> 'server')::uuid, o.state, o.batch_id, o.error ->> 'message'
             from operations o join tenants t on t.id = o.tenant_id
             where o.state in ('queued', 'running', 'failed') and not o.abandoning and o.input ? 'server'
               and t.state <> 'deleted' and t.server_id <> (o.input ->> 'server')::uuid
             order by o.id",
            &[],
        )
        .await?;
        let read = |row: &tokio_postgres::Row| OpenMove {
            operation: row.get(0),
            tenant: row.get(1),
            server: row.get(2),
            state: OperationState::parse(row.get(3)).expect("checked by the table"),
            batch: row.get(4),
            error: row.get(5),
        };
        Ok(found.iter().map(read).collect())
    }

    /// The earlier slugs by which tenants can still be named.
    pub async fn earlier_slugs(&self) -> Result<HashMap<TenantSlug, Uuid>, CatalogError> {
        let found = rows(
            &self.client().await?,
            "-- moves::earlier_slugs
             select s.slug, s.tenant_id from tenant_slugs s join tenants t on t.id = s.tenant_id
             where s.leads and s.slug <> t.slug and t.state <> 'deleted'",
            &[],
        )
        .await?;
        found.iter().map(|row| Ok((super::tenants::slug_of(row)?, row.get(1)))).collect()
    }

    /// Asks for relocations, all of them or none, in their order. The servers that they go to must still have room:
    /// whoever places a tenant there meanwhile waits.
    pub async fn enqueue_moves(
        &self,
        moves: &[(Uuid, NewOperation<'_>)],
        batch: Uuid,
    ) -> Result<(), CatalogError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        require_room(&transaction, moves).await?;
        let ids: Vec<Uuid> = moves.iter().map(|(_, new)| new.id).collect();
        let tenants: Vec<Uuid> = moves.iter().map(|(_, new)| new.tenant_id).collect();
        let kinds: Vec<&str> = moves.iter().map(|(_, new)| new.kind).collect();
        let inputs: Vec<&Value> = moves.iter().map(|(_, new)| &new.input).collect();
        execute(
            &transaction,
            "-- moves::enqueue
             insert into operations (id, tenant_id, kind, input, batch_id, requested_by, request_id)
             select id, tenant_id, kind, input, $5, $6, $7
             from unnest($1::uuid[], $2::uuid[], $3::text[], $4::jsonb[]) as item (id, tenant_id, kind, input)",
            &[&ids, &tenants, &kinds, &inputs, &batch, &self.by(), &request_id().as_deref()],
        )
        .await?;
        let detail = json!({ "batch": batch, "kind": "relocate", "tenants": moves.len() });
        let event = Event { actor: self.by(), action: "batch.asked", tenant: None, detail };
        audit_log::record(&transaction, &event).await?;
        Ok(transaction.commit().await?)
    }
}

/// Locks the servers that take so many and no more, in one order, and counts.
async fn require_room(
    transaction: &impl GenericClient,
    moves: &[(Uuid, NewOperation<'_>)],
) -> Result<(), CatalogError> {
    let mut wanted: HashMap<Uuid, i64> = HashMap::new();
    for (server, _) in moves {
        *wanted.entry(*server).or_default() += 1;
    }
    let servers: Vec<Uuid> = wanted.keys().copied().collect();
    let found = rows(
        transaction,
        "-- moves::lock
         select id, name, max_tenants::bigint, cordoned is not null from servers
         where id = any($1) order by id for no key update",
        &[&servers],
    )
    .await?;
    if found.len() < servers.len() {
        return Err(changed("one of the servers has been removed"));
    }
    let count = format!(
        "-- moves::count
         select (select count(*) from tenants where server_id = $1 and state <> 'deleted')
                + (select count(*) from ({COMING}) coming where server_id = $1)"
    );
    for server in &found {
        let (id, name): (Uuid, &str) = (server.get(0), server.get(1));
        if server.get(3) {
            return Err(changed(&format!("nobody may come to {name} any more")));
        }
        if let Some(most) = server.get::<_, Option<i64>>(2) {
            let there: i64 = one(transaction, &count, &[&id]).await?.get(0);
            if there + wanted[&id] > most {
                return Err(changed(&format!("{name} has filled")));
            }
        }
    }
    Ok(())
}

fn changed(what: &str) -> CatalogError {
    CatalogError::Conflict(format!("{what} since the moves were planned; ask again"))
}
