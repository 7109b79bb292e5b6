//! Rows of `servers`: the PostgreSQL servers that host tenants, and administrator access to them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use secrecy::SecretString;
use tenantry_provisioning::ServerUrl;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{Catalog, CatalogError, execute, maybe, one, rows};
use crate::sealing::Purpose;

/// A certificate that a URL names by its file may have been renewed since.
const READ_AGAIN: Duration = Duration::from_mins(5);

/// One server, without its secret.
#[derive(Clone, Debug)]
pub struct ServerRecord {
    /// Never changes.
    pub id: Uuid,
    /// Its name for people.
    pub name: String,
    /// Hosts and ports.
    pub address: String,
    /// How many living tenants it hosts.
    pub tenants: i64,
    /// How many connections all replicas together may hold there.
    pub connection_budget: Option<i32>,
    /// When it was added.
    pub created_at: Timestamp,
}

/// Servers as they were last read: thousands of tenants share one reading of their server's URL, and of
/// the certificates that it names.
#[derive(Default)]
pub(super) struct Addresses(Mutex<HashMap<Uuid, Address>>);

struct Address {
    sealed: Vec<u8>,
    url: Arc<ServerUrl>,
    read_at: Instant,
}

impl Catalog {
    /// Adds a server. The name must be free; the address is read off the URL.
    pub async fn add_server(
        &self,
        name: &str,
        url: &SecretString,
    ) -> Result<ServerRecord, CatalogError> {
        let parsed = parse_url(url)?;
        let id = Uuid::now_v7();
        let client = self.client().await?;
        execute(
            &client,
            "-- servers::add
             insert into servers (id, name, url_sealed, address) values ($1, $2, $3, $4)",
            &[&id, &name, &self.seal(Purpose::ServerUrl, id, url), &parsed.host_label()],
        )
        .await
        .map_err(|error| error.on_constraint("servers_name_key", "server", name))?;
        self.server_by_name(name).await
    }

    /// Gives a server another address or password; its tenants stay where they are.
    pub async fn set_server_url(&self, name: &str, url: &SecretString) -> Result<(), CatalogError> {
        let parsed = parse_url(url)?;
        let id = self.server_by_name(name).await?.id;
        let client = self.client().await?;
        execute(
            &client,
            "-- servers::set_url
             update servers set url_sealed = $2, address = $3 where id = $1",
            &[&id, &self.seal(Purpose::ServerUrl, id, url), &parsed.host_label()],
        )
        .await
        .map(drop)
    }

    /// Bounds what all replicas together may hold open on a server, or leaves that to each.
    pub async fn set_connection_budget(
        &self,
        name: &str,
        budget: Option<i32>,
    ) -> Result<ServerRecord, CatalogError> {
        let client = self.client().await?;
        execute(
            &client,
            "-- servers::set_connection_budget
             update servers set connection_budget = $2 where name = $1",
            &[&name, &budget],
        )
        .await?;
        self.server_by_name(name).await
    }

    /// Every server, by name.
    pub async fn servers(&self) -> Result<Vec<ServerRecord>, CatalogError> {
        let client = self.client().await?;
        Ok(rows(
            &client,
            "-- servers::list
             select s.id, s.name, s.address, s.connection_budget, s.created_at,
                    (select count(*) from tenants t where t.server_id = s.id and t.state <> 'deleted') as tenants
             from servers s order by s.name",
            &[],
        )
        .await?
        .iter()
        .map(from_row)
        .collect())
    }

    /// The server with this name.
    pub async fn server_by_name(&self, name: &str) -> Result<ServerRecord, CatalogError> {
        let client = self.client().await?;
        let row = maybe(
            &client,
            "-- servers::by_name
             select s.id, s.name, s.address, s.connection_budget, s.created_at,
                    (select count(*) from tenants t where t.server_id = s.id and t.state <> 'deleted') as tenants
             from servers s where s.name = $1",
            &[&name],
        )
        .await?;
        match row {
            Some(row) => Ok(from_row(&row)),
            None => Err(CatalogError::Missing { what: "server", name: name.to_owned() }),
        }
    }

    /// How an administrator reaches a server.
    pub async fn server_url(&self, id: Uuid) -> Result<ServerUrl, CatalogError> {
        let client = self.client().await?;
        let row =
            one(&client, "-- servers::url\nselect url_sealed from servers where id = $1", &[&id])
                .await?;
        Ok(ServerUrl::clone(&*self.open_server_url(id, row.get(0))?))
    }

    /// Reads a server's URL, unless it has just been read.
    pub(super) fn open_server_url(
        &self,
        id: Uuid,
        sealed: &[u8],
    ) -> Result<Arc<ServerUrl>, CatalogError> {
        let known = || self.shared.addresses.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(address) = known().get(&id)
            && address.sealed == sealed
            && address.read_at.elapsed() < READ_AGAIN
        {
            return Ok(Arc::clone(&address.url));
        }
        let url = Arc::new(parse_url(&self.open(Purpose::ServerUrl, id, sealed)?)?);
        let address =
            Address { sealed: sealed.to_vec(), url: Arc::clone(&url), read_at: Instant::now() };
        known().insert(id, address);
        Ok(url)
    }
}

pub(super) fn parse_url(url: &SecretString) -> Result<ServerUrl, CatalogError> {
    use secrecy::ExposeSecret as _;
    ServerUrl::parse(url.expose_secret()).map_err(|error| CatalogError::Conflict(error.to_string()))
}

fn from_row(row: &Row) -> ServerRecord {
    ServerRecord {
        id: row.get("id"),
        name: row.get("name"),
        address: row.get("address"),
        tenants: row.get("tenants"),
        connection_budget: row.get("connection_budget"),
        created_at: row.get("created_at"),
    }
}
