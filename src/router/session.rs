//! [`Session`]: one physical connection to a tenant's database, and the statements prepared on it.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tenantry_provisioning::ServerUrl;
use thiserror::Error;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::error::{DbError, SqlState};
use tokio_postgres::{Client, GenericClient, SimpleQueryMessage, Statement};

use super::leaving::Backend;
use super::server::{OpenError, Slot, Verdict, verdict};
use super::{Mode, is_harmless};
use crate::catalog::tenants::Place;
use crate::tenant::EffectiveLimits;

/// Most statements that stay prepared on one connection; PostgreSQL keeps a plan for each.
const MAX_STATEMENTS: NonZeroUsize = NonZeroUsize::new(256).expect("it is more than 0");

/// What a session begins with whatever its role has set for itself: how long it may lie idle is for its pool to say.
/// `default_transaction_read_only` is not here: a hoster sets it for a server whose disk is nearly full.
pub(crate) const KEPT: &str = "-c idle_session_timeout=0";

/// PostgreSQL's codes for what a route that is a moment behind the catalog may meet: a database that is gone, a role
/// that is gone or may not log in, another password, and a database that takes no connections.
pub(crate) const STALE_CODES: [&str; 4] = ["3D000", "28000", "28P01", "55000"];

/// A physical connection. When it is dropped, it says goodbye to the server.
pub(super) struct Session {
    pub client: Client,
    /// What answers at the other end.
    pub backend: Backend,
    /// Ends with the connection.
    pub driver: JoinHandle<()>,
    pub statements: Statements,
    /// What [`Tenant::schema`](crate::tenant::Tenant::schema) was when the statements were prepared.
    pub schema: (i64, i64),
    /// Whether somebody has used it before.
    pub is_used: bool,
}

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// PostgreSQL or the network said no.
    #[error("the server refused or could not be reached")]
    Driver(#[source] tokio_postgres::Error),
    /// PostgreSQL has another password for the tenant's role than the catalog.
    #[error(
        "the server refused the password of the tenant's role, which somebody has changed there; `tenantry tenant rotate-password` gives the role a new one"
    )]
    Password(#[source] tokio_postgres::Error),
    /// The server lets others in: the tenant's own sessions end as they begin.
    #[error(
        "the server is there, and ends the sessions of the tenant's role as they begin; `alter role … reset all` takes away what a role has set for itself"
    )]
    Alone(#[source] Box<Self>),
    /// The server did not answer in time.
    #[error("the server did not answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// The server is known to be away, and was not asked again.
    #[error("the server is away")]
    Away,
    /// The database carries another stamp than this tenant's.
    #[error("the database belongs to another tenant or to another time")]
    WrongStamp,
}

/// Statements prepared on one connection, by their text.
pub(super) struct Statements(Mutex<Known>);

struct Known {
    by_text: LruCache<Arc<str>, (Prepared, Proof)>,
    now: Proof,
}

/// A statement that is prepared.
#[derive(Clone)]
pub(super) struct Prepared {
    pub statement: Statement,
    /// Whether it leaves session and schema as it finds them.
    pub is_harmless: bool,
    /// Whether it is sure to fit the schema.
    pub is_proven: bool,
}

/// When a statement was last seen to fit the schema. It fits until the transaction ends, whose locks keep
/// others from changing what it names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Proof(u64);

impl Session {
    /// Opens a connection and proves by the database's stamp that it reached this tenant and this epoch.
    /// The slot is given back when the connection has ended.
    pub async fn open(
        place: &Place,
        home: &Arc<ServerUrl>,
        mode: Mode,
        slot: Slot,
        patience: Duration,
    ) -> Result<Self, ConnectError> {
        let url = login(place, home);
        let opening = async {
            let (client, driver) = url.config().connect(url.tls()).await?;
            // Ends by itself once the client is dropped: it says goodbye to the server first.
            let driver = tokio::spawn(async move {
                if let Err(error) = driver.await {
                    tracing::debug!(%error, "a tenant's connection was lost");
                }
                drop(slot);
            });
            let process_id = begin(place, mode, &client).await?;
            Ok::<_, ConnectError>((client, driver, process_id))
        };
        let opened = timeout(patience, opening).await;
        let (client, driver, process_id) =
            opened.map_err(|_| ConnectError::TimedOut(patience))??;
        let backend =
            Backend { home: Arc::clone(home), role: place.tenant.role.clone(), process_id };
        let statements = Statements::new();
        let schema = place.tenant.schema();
        Ok(Self { client, backend, driver, statements, schema, is_used: false })
    }

    /// Whether it has ended, by whichever side.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }
}

impl Statements {
    fn new() -> Self {
        let by_text = LruCache::new(MAX_STATEMENTS);
        Self(Mutex::new(Known { by_text, now: Proof::default() }))
    }

    /// The statement of this text, prepared now or before. `lasting` says that the locks of what runs now are
    /// held until the transaction ends.
    pub async fn prepare(
        &self,
        client: &impl GenericClient,
        sql: &str,
        lasting: bool,
    ) -> Result<Prepared, tokio_postgres::Error> {
        if let Some(prepared) = self.get(sql, lasting) {
            return Ok(prepared);
        }
        let (statement, is_harmless) = (client.prepare(sql).await?, is_harmless(sql));
        let prepared = Prepared { statement, is_harmless, is_proven: true };
        let mut known = self.known();
        let proof = if lasting { known.now } else { Proof::default() };
        known.by_text.put(sql.into(), (prepared.clone(), proof));
        Ok(prepared)
    }

    /// No statement is sure to fit the schema any more.
    pub fn doubt(&self) {
        self.known().now.0 += 1;
    }

    /// Forgets all: the schema is another one now.
    pub fn clear(&self) {
        self.known().by_text.clear();
    }

    /// What was prepared before; who asks for it proves it next.
    fn get(&self, sql: &str, lasting: bool) -> Option<Prepared> {
        let mut known = self.known();
        let now = known.now;
        let (prepared, proof) = known.by_text.get_mut(sql)?;
        let is_proven = *proof == now;
        if lasting {
            *proof = now;
        }
        Some(Prepared { is_proven, ..prepared.clone() })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenError for ConnectError {
    fn away() -> Self {
        Self::Away
    }

    fn verdict(&self) -> Verdict {
        match self {
            Self::Driver(error) => {
                let routine = error.as_db_error().and_then(DbError::routine);
                verdict(error.code().map(SqlState::code), routine)
            }
            Self::TimedOut(_) => Verdict::Unsure,
            Self::Away => Verdict::Away,
            Self::Password(_) | Self::Alone(_) | Self::WrongStamp => Verdict::There,
        }
    }

    fn alone(self) -> Self {
        Self::Alone(Box::new(self))
    }
}

impl ConnectError {
    /// Whether the server has another password for the tenant's role than the catalog.
    pub(crate) fn is_of_password(&self) -> bool {
        matches!(self, Self::Password(_))
    }

    /// Whether it can come from a route that is a moment behind the catalog, or from a server that was away for
    /// a moment.
    pub(super) fn may_be_stale(&self) -> bool {
        match self {
            Self::Driver(error) => {
                error.code().is_some_and(|code| STALE_CODES.contains(&code.code()))
            }
            Self::Password(_) | Self::Alone(_) | Self::WrongStamp => true,
            Self::TimedOut(_) | Self::Away => false,
        }
    }
}

impl From<tokio_postgres::Error> for ConnectError {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.code() {
            Some(&SqlState::INVALID_PASSWORD) => Self::Password(error),
            _ => Self::Driver(error),
        }
    }
}

/// Where a tenant's role logs in, with what its session begins with.
fn login(place: &Place, home: &ServerUrl) -> ServerUrl {
    let tenant = &place.tenant;
    // A statement that could lift one of them marks its session, which is then closed.
    home.with_database(tenant.database.as_str())
        .with_user(tenant.role.as_str(), &place.password)
        .with_options(&options(&tenant.limits))
}

/// Checks the stamp, and says which process answers. Reading only is asked for here and not as the session starts:
/// a driver that looks for a server that can write would take this one for a standby.
async fn begin(place: &Place, mode: Mode, client: &Client) -> Result<i32, ConnectError> {
    let question = match mode {
        Mode::ReadWrite => {
            "-- router::stamp
             select current_setting('tenantry.tenant', true), pg_backend_pid()"
        }
        Mode::ReadOnly | Mode::Elsewhere(_) => {
            "-- router::stamp_read_only
             set default_transaction_read_only = on;
             select current_setting('tenantry.tenant', true), pg_backend_pid()"
        }
    };
    let answer = client.simple_query(question).await?;
    let found = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some((row.get(0)?, row.get(1)?.parse().ok()?)),
        _ => None,
    });
    let expected = format!("{}:{}", place.tenant.id, place.tenant.epoch);
    match found {
        Some((stamp, process_id)) if stamp == expected.as_str() => Ok(process_id),
        _ => Err(ConnectError::WrongStamp),
    }
}

fn options(limits: &EffectiveLimits) -> String {
    let mut options = vec![KEPT.to_owned()];
    let timeouts = [
        ("statement_timeout", limits.statement_timeout()),
        ("idle_in_transaction_session_timeout", limits.idle_in_transaction_timeout()),
    ];
    for (name, timeout) in timeouts {
        options.extend(timeout.map(|timeout| format!("-c {name}={}", timeout.as_millis())));
    }
    options.join(" ")
}
