//! Rows of `read_replicas`: the standbys of servers, from which routers may read.

use std::sync::Arc;

use jiff::Timestamp;
use secrecy::SecretString;
use serde_json::json;
use tenantry_provisioning::ServerUrl;
use tokio_postgres::Row;
use uuid::Uuid;

use super::audit_log::{self, Event};
use super::servers::parse_url;
use super::{Catalog, CatalogError, execute, rows};
use crate::sealing::Purpose;

/// One read replica, without its secret.
#[derive(Clone, Debug)]
pub struct ReadReplicaRecord {
    /// Never changes.
    pub id: Uuid,
    /// Its name for people; of all read replicas of a server, only it has it.
    pub name: String,
    /// The name of the server that it is a copy of.
    pub server: String,
    /// Hosts and ports.
    pub address: String,
    /// When it was added.
    pub created_at: Timestamp,
}

/// What a router needs to read from a read replica and to see how far it lags.
#[derive(Clone, Debug)]
pub struct ReadReplicaPlace {
    /// Which one.
    pub replica: ReadReplicaRecord,
    /// The server that it is a copy of.
    pub server_id: Uuid,
    /// How an administrator reaches it.
    pub url: Arc<ServerUrl>,
    /// How an administrator reaches its server.
    pub primary: Arc<ServerUrl>,
    /// What the two were opened from: while it is the same, so are they.
    pub sealed: [Vec<u8>; 2],
}

impl Catalog {
    /// Adds a read replica to a server. The name must be free there; the address is read off the URL.
    pub async fn add_read_replica(
        &self,
        server: &str,
        name: &str,
        url: &SecretString,
    ) -> Result<ReadReplicaRecord, CatalogError> {
        let address = parse_url(url)?.host_label();
        let server = self.server_by_name(server).await?;
        let (id, mut client) = (Uuid::now_v7(), self.client().await?);
        let transaction = client.transaction().await?;
        let added = rows(
            &transaction,
            "-- read_replicas::add
             insert into read_replicas (id, server_id, name, url_sealed, address)
             values ($1, $2, $3, $4, $5)
             returning id, name, $6::text as server, address, created_at",
            &[
                &id,
                &server.id,
                &name,
                &self.seal(Purpose::ReadReplicaUrl, id, url),
                &address,
                &server.name,
            ],
        )
        .await
        .map_err(|error| error.on_constraint("read_replicas_name_key", "read replica", name))?;
        let detail = json!({ "server": server.name, "replica": name, "address": address });
        let event = Event { actor: self.by(), action: "replica.added", tenant: None, detail };
        audit_log::record(&transaction, &event).await?;
        transaction.commit().await?;
        Ok(from_row(&added[0]))
    }

    /// Takes a read replica away from a server. Routers hear of it at once.
    pub async fn remove_read_replica(&self, server: &str, name: &str) -> Result<(), CatalogError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let removed = execute(
            &transaction,
            "-- read_replicas::remove
             delete from read_replicas r using servers s
             where s.id = r.server_id and s.name = $1 and r.name = $2",
            &[&server, &name],
        )
        .await?;
        if removed == 0 {
            let name = format!("{server}/{name}");
            return Err(CatalogError::Missing { what: "read replica", name });
        }
        let detail = json!({ "server": server, "replica": name });
        let event = Event { actor: self.by(), action: "replica.removed", tenant: None, detail };
        audit_log::record(&transaction, &event).await?;
        Ok(transaction.commit().await?)
    }

    /// Every read replica, or those of one server, by name.
    pub async fn read_replicas(
        &self,
        server: Option<&str>,
    ) -> Result<Vec<ReadReplicaRecord>, CatalogError> {
        let client = self.client().await?;
        let found = rows(
            &client,
            "-- read_replicas::list
             select r.id, r.name, s.name as server, r.address, r.created_at
             from read_replicas r join servers s on s.id = r.server_id
             where $1::text is null or s.name = $1
             order by s.name, r.name",
            &[&server],
        )
        .await?;
        Ok(found.iter().map(from_row).collect())
    }

    /// Where the read replicas are, of all servers or of one.
    pub async fn read_replica_places(
        &self,
        server: Option<Uuid>,
    ) -> Result<Vec<ReadReplicaPlace>, CatalogError> {
        let client = self.client().await?;
        let found = rows(
            &client,
            "-- read_replicas::places
             select r.id, r.name, s.name as server, r.address, r.created_at, r.server_id, r.url_sealed,
                    s.url_sealed as primary_sealed
             from read_replicas r join servers s on s.id = r.server_id
             where $1::uuid is null or s.id = $1
             order by s.name, r.name",
            &[&server],
        )
        .await?;
        found.iter().map(|row| self.read_replica_place(row)).collect()
    }

    fn read_replica_place(&self, row: &Row) -> Result<ReadReplicaPlace, CatalogError> {
        let (replica, server_id) = (from_row(row), row.get("server_id"));
        let sealed: [Vec<u8>; 2] = [row.get("url_sealed"), row.get("primary_sealed")];
        let url =
            Arc::new(parse_url(&self.open(Purpose::ReadReplicaUrl, replica.id, &sealed[0])?)?);
        let primary = self.open_server_url(server_id, &sealed[1])?;
        Ok(ReadReplicaPlace { replica, server_id, url, primary, sealed })
    }
}

fn from_row(row: &Row) -> ReadReplicaRecord {
    ReadReplicaRecord {
        id: row.get("id"),
        name: row.get("name"),
        server: row.get("server"),
        address: row.get("address"),
        created_at: row.get("created_at"),
    }
}
