//! Rows of `servers`: the PostgreSQL servers that host tenants, and administrator access to them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use secrecy::SecretString;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};
use tenantry_provisioning::ServerUrl;
use tokio_postgres::Row;
use tokio_postgres::types::Json;
use uuid::Uuid;

use super::audit_log::{self, Event};
use super::{Catalog, CatalogError, execute, maybe, one, rows};
use crate::sealing::Purpose;
use crate::tenant::{Label, Tags, Tier};

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
    /// Where it stands.
    pub region: Option<Label>,
    /// What it is beside that.
    pub tags: Tags,
    /// It takes only tenants of this tier.
    pub tier: Option<Tier>,
    /// It takes no more than this.
    pub max_tenants: Option<i32>,
    /// Nobody is placed there, and why.
    pub cordoned: Option<String>,
    /// A worker has found a moment ago that it does not answer.
    pub away: bool,
    /// The batch of the relocations that empty it.
    pub drain: Option<Uuid>,
    /// When it was added.
    pub created_at: Timestamp,
}

/// Whether tenants come to a server, and whether they leave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServerState {
    /// Tenants come.
    Active,
    /// Nobody comes; those that are there stay.
    Cordoned,
    /// Nobody comes, and those that are there leave.
    Draining,
    /// Everybody has left.
    Retired,
}

/// What a server is to be.
#[derive(Clone, Debug, Default)]
pub struct ServerChange {
    /// How many connections all replicas together may hold there; none leaves that to each.
    pub connection_budget: Edit<i32>,
    /// Where it stands.
    pub region: Edit<Label>,
    /// Its tags by their keys: a value sets one, none takes it away, the others stay.
    pub tags: BTreeMap<Label, Option<Label>>,
    /// The only tier that it takes.
    pub tier: Edit<Tier>,
    /// How many tenants it takes.
    pub max_tenants: Edit<i32>,
    /// Why nobody is placed there any more; none lets tenants come.
    pub cordoned: Edit<String>,
}

/// What becomes of a field. In JSON one that is missing stays, and `null` clears it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Edit<T> {
    /// It stays.
    #[default]
    Keep,
    /// It has no value any more.
    Clear,
    /// It gets this one.
    Set(T),
}

/// Whether a server counts as away: workers look several times a minute.
pub(super) const AWAY: &str = "coalesce(s.away_at > now() - interval '1 minute', false)";

const COLUMNS: &str = "s.id, s.name, s.address, s.connection_budget, s.region, s.tags, s.tier, s.max_tenants, s.cordoned, \
     s.drain, s.created_at, (select count(*) from tenants t where t.server_id = s.id and t.state <> 'deleted') as tenants";

/// Servers as they were last read: thousands of tenants share one reading of their server's URL, and of
/// the certificates that it names.
#[derive(Default)]
pub(super) struct Addresses(Mutex<HashMap<Uuid, Address>>);

struct Address {
    sealed: Vec<u8>,
    url: Arc<ServerUrl>,
    read_at: Instant,
}

impl<T> Edit<T> {
    /// Whether it leaves the field as it is.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        matches!(self, Self::Keep)
    }

    /// The new value.
    #[must_use]
    pub fn value(&self) -> Option<&T> {
        match self {
            Self::Set(value) => Some(value),
            Self::Keep | Self::Clear => None,
        }
    }

    fn told(&self, before: Option<&T>) -> Option<Value>
    where
        T: Serialize,
    {
        (!self.is_kept()).then(|| json!({ "before": before, "after": self.value() }))
    }
}

impl<T> From<Option<T>> for Edit<T> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Clear, Self::Set)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Edit<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Option::deserialize(from).map(Self::from)
    }
}

impl ServerState {
    /// The state's name for people and in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Cordoned => "cordoned",
            Self::Draining => "draining",
            Self::Retired => "retired",
        }
    }
}

impl ServerRecord {
    /// Whether tenants come to it, and whether they leave it.
    #[must_use]
    pub fn state(&self) -> ServerState {
        match (&self.cordoned, self.drain) {
            (None, _) => ServerState::Active,
            (Some(_), None) => ServerState::Cordoned,
            (Some(_), Some(_)) if self.tenants > 0 => ServerState::Draining,
            (Some(_), Some(_)) => ServerState::Retired,
        }
    }
}

impl ServerChange {
    /// Whether it leaves everything as it is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { connection_budget, region, tags, tier, max_tenants, cordoned } = self;
        connection_budget.is_kept()
            && region.is_kept()
            && tags.is_empty()
            && tier.is_kept()
            && max_tenants.is_kept()
            && cordoned.is_kept()
    }

    fn tags_after(&self, before: &ServerRecord) -> Tags {
        let mut tags = before.tags.clone();
        for (key, value) in &self.tags {
            match value {
                Some(value) => drop(tags.insert(key.clone(), value.clone())),
                None => drop(tags.remove(key)),
            }
        }
        tags
    }

    /// What changes, for the audit log.
    fn told(&self, before: &ServerRecord) -> Value {
        let mut told = Map::from_iter([("server".to_owned(), json!(before.name))]);
        let mut tell = |field: &str, edit: Option<Value>| {
            told.extend(edit.map(|value| (field.to_owned(), value)));
        };
        let budget = before.connection_budget.as_ref();
        tell("connection_budget", self.connection_budget.told(budget));
        tell("region", self.region.told(before.region.as_ref()));
        let tags = || json!({ "before": before.tags, "after": self.tags_after(before) });
        tell("tags", (!self.tags.is_empty()).then(tags));
        tell("tier", self.tier.told(before.tier.as_ref()));
        tell("max_tenants", self.max_tenants.told(before.max_tenants.as_ref()));
        tell("cordoned", self.cordoned.told(before.cordoned.as_ref()));
        Value::Object(told)
    }
}

impl Catalog {
    /// Adds a server. The name must be free; the address is read off the URL.
    pub async fn add_server(
        &self,
        name: &str,
        url: &SecretString,
    ) -> Result<ServerRecord, CatalogError> {
        let parsed = parse_url(url)?;
        let (id, mut client) = (Uuid::now_v7(), self.client().await?);
        let transaction = client.transaction().await?;
        execute(
            &transaction,
            "-- servers::add
             insert into servers (id, name, url_sealed, address) values ($1, $2, $3, $4)",
            &[&id, &name, &self.seal(Purpose::ServerUrl, id, url), &parsed.host_label()],
        )
        .await
        .map_err(|error| error.on_constraint("servers_name_key", "server", name))?;
        let detail = json!({ "server": name, "id": id, "address": parsed.host_label() });
        let event = Event { actor: self.by(), action: "server.added", tenant: None, detail };
        audit_log::record(&transaction, &event).await?;
        transaction.commit().await?;
        self.server_by_name(name).await
    }

    /// Gives a server another address or password; its tenants stay where they are.
    pub async fn set_server_url(&self, name: &str, url: &SecretString) -> Result<(), CatalogError> {
        let parsed = parse_url(url)?;
        let before = self.server_by_name(name).await?;
        let id = before.id;
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        execute(
            &transaction,
            "-- servers::set_url
             update servers set url_sealed = $2, address = $3 where id = $1",
            &[&id, &self.seal(Purpose::ServerUrl, id, url), &parsed.host_label()],
        )
        .await?;
        // With the same address it is another user or password, which are nobody's business.
        let address = json!({ "before": before.address, "after": parsed.host_label() });
        let detail = json!({ "server": name, "address": address });
        let event = Event { actor: self.by(), action: "server.readdressed", tenant: None, detail };
        audit_log::record(&transaction, &event).await?;
        Ok(transaction.commit().await?)
    }

    /// Changes what a server is to its tenants.
    pub async fn change_server(
        &self,
        name: &str,
        change: &ServerChange,
    ) -> Result<ServerRecord, CatalogError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let sql = format!(
            "-- servers::lock\nselect {COLUMNS}, {AWAY} as away from servers s where s.name = $1 for update of s"
        );
        let Some(before) = maybe(&transaction, &sql, &[&name]).await? else {
            return Err(CatalogError::Missing { what: "server", name: name.to_owned() });
        };
        let before = from_row(&before)?;
        let detail = change.told(&before);
        let tags = change.tags_after(&before);
        let ServerChange { connection_budget, region, tier, max_tenants, cordoned, .. } = change;
        execute(
            &transaction,
            "-- servers::change
             update servers set connection_budget = case when $2 then $3 else connection_budget end,
                    region = case when $4 then $5 else region end,
                    tier = case when $6 then $7 else tier end,
                    max_tenants = case when $8 then $9 else max_tenants end,
                    cordoned = case when $10 then $11 else cordoned end, tags = $12,
                    drain = case when $10 and $11 is null then null else drain end
             where name = $1",
            &[
                &name,
                &!connection_budget.is_kept(),
                &connection_budget.value(),
                &!region.is_kept(),
                &region.value().map(Label::as_str),
                &!tier.is_kept(),
                &tier.value().map(|tier| tier.as_str()),
                &!max_tenants.is_kept(),
                &max_tenants.value(),
                &!cordoned.is_kept(),
                &cordoned.value(),
                &Json(&tags),
            ],
        )
        .await?;
        let event = Event { actor: self.by(), action: "server.changed", tenant: None, detail };
        audit_log::record(&transaction, &event).await?;
        transaction.commit().await?;
        self.server_by_name(name).await
    }

    /// Every server, by name.
    pub async fn servers(&self) -> Result<Vec<ServerRecord>, CatalogError> {
        let sql = format!(
            "-- servers::list\nselect {COLUMNS}, {AWAY} as away from servers s order by s.name"
        );
        rows(&self.client().await?, &sql, &[]).await?.iter().map(from_row).collect()
    }

    /// The server with this name.
    pub async fn server_by_name(&self, name: &str) -> Result<ServerRecord, CatalogError> {
        let sql = format!(
            "-- servers::by_name\nselect {COLUMNS}, {AWAY} as away from servers s where s.name = $1"
        );
        match maybe(&self.client().await?, &sql, &[&name]).await? {
            Some(row) => from_row(&row),
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

/// Where a server stands, of a row that tells it.
pub(super) fn region_of(row: &Row) -> Result<Option<Label>, CatalogError> {
    let region = row.get::<_, Option<&str>>("region").map(Label::parse).transpose();
    region.map_err(|error| CatalogError::Corrupt(error.to_string()))
}

/// The tags of a server, of a row that tells them.
pub(super) fn tags_of(row: &Row) -> Result<Tags, CatalogError> {
    let tags = serde_json::from_value(row.get("tags"));
    tags.map_err(|error| CatalogError::Corrupt(error.to_string()))
}

/// The only tier that a server takes, of a row that tells it.
pub(super) fn tier_of(row: &Row) -> Option<Tier> {
    row.get::<_, Option<&str>>("tier").and_then(Tier::parse)
}

fn from_row(row: &Row) -> Result<ServerRecord, CatalogError> {
    Ok(ServerRecord {
        id: row.get("id"),
        name: row.get("name"),
        address: row.get("address"),
        tenants: row.get("tenants"),
        connection_budget: row.get("connection_budget"),
        region: region_of(row)?,
        tags: tags_of(row)?,
        tier: tier_of(row),
        max_tenants: row.get("max_tenants"),
        cordoned: row.get("cordoned"),
        away: row.get("away"),
        drain: row.get("drain"),
        created_at: row.get("created_at"),
    })
}
