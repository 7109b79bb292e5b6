//! The side that follows: its subscription, how far that has come, and its end.

use postgres_protocol::escape::escape_literal;
use secrecy::ExposeSecret as _;
use secrecy::SecretString;
use tokio_postgres::{Client, Row};

use super::{Link, Lsn, RUNS_AS_TABLE_OWNER};
use crate::error::Error;
use crate::name::DatabaseName;
use crate::server::{Connection, Server, ServerUrl, rows};

/// The statement that makes a subscription holds a password: it is to be in no log, and in nobody's view of what
/// sessions do.
const UNHEARD: &str = "set log_statement = 'none'; set log_min_error_statement = 'panic'; \
     set log_min_duration_statement = -1; set log_min_duration_sample = -1; set log_duration = off; \
     set track_activities = off; set pg_stat_statements.track = 'none'; set pgaudit.log = 'none'";

/// Options of a subscription that copies nothing, and does not follow yet.
pub(super) const IDLE: &str = "copy_data = false, enabled = false";

/// How far the copy of a database's tables is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyState {
    /// Tables that follow by now.
    pub ready: i64,
    /// All of them.
    pub tables: i64,
    /// How often something failed, and is tried again.
    pub errors: i64,
}

/// How a database follows another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowerFacts {
    /// Whether it is to follow now.
    pub is_enabled: bool,
    /// How often something failed, and is tried again.
    pub errors: i64,
}

impl Server {
    /// Lets a build follow the database at `from`, whose user is the carrier that [`Server::publish`] made. The rows
    /// that are there already are copied by this server itself, as fast as the two can.
    pub async fn subscribe(
        &self,
        build: &DatabaseName,
        link: Link,
        from: &ServerUrl,
    ) -> Result<(), Error> {
        self.create_subscription(build, link, from, "copy_data = true").await
    }

    /// Makes ready that a database follows the one at `from`, which begins with [`Server::follow_since`]. What was
    /// there before then comes by other ways.
    pub async fn subscribe_idly(
        &self,
        follower: &DatabaseName,
        link: Link,
        from: &ServerUrl,
    ) -> Result<(), Error> {
        self.create_subscription(follower, link, from, IDLE).await?;
        // The first move takes one of the places that the server has for that, if there is one left.
        self.move_origin(follower, link, Lsn(1)).await.map(drop)
    }

    /// Lets a database follow with what was written after a mark.
    pub async fn follow_since(
        &self,
        follower: &DatabaseName,
        link: Link,
        mark: Lsn,
    ) -> Result<(), Error> {
        let session = self.move_origin(follower, link, mark).await?;
        let enable = format!("alter subscription {} enable", link.name().quoted());
        Ok(session.batch_execute(&enable).await?)
    }

    /// Notes up to where a database has everything, by a session that is returned.
    async fn move_origin(
        &self,
        follower: &DatabaseName,
        link: Link,
        mark: Lsn,
    ) -> Result<Connection, Error> {
        let session = self.connect(follower).await?;
        session
            .execute(
                "-- follower::move_origin
                 select pg_replication_origin_advance('pg_' || oid, '0/0'::pg_lsn + $2::int8::numeric)
                 from pg_subscription where subname = $1",
                &[&link.name().as_str(), &mark.0],
            )
            .await?;
        Ok(session)
    }

    /// Makes a subscription with these options, by a session whose statements nobody hears.
    pub(super) async fn create_subscription(
        &self,
        follower: &DatabaseName,
        link: Link,
        from: &ServerUrl,
        how: &str,
    ) -> Result<(), Error> {
        let runs_as = if self.facts().await?.major < RUNS_AS_TABLE_OWNER {
            ""
        } else {
            // Row level security that is forced upon owners would be in the way.
            ", run_as_owner = true"
        };
        let session = self.connect(follower).await?;
        session.batch_execute(UNHEARD).await?;
        let (carrier, from) = (link.name(), from.conninfo());
        let statement = SecretString::from(format!(
            "create subscription {name} connection {from} publication {name} \
             with (create_slot = false, slot_name = {slot}, {how}, streaming = off{runs_as})",
            name = carrier.quoted(),
            slot = escape_literal(carrier.as_str()),
            from = escape_literal(from.expose_secret()),
        ));
        Ok(session.batch_execute(statement.expose_secret()).await?)
    }

    /// Whether a build follows already.
    pub async fn is_subscribed(&self, link: Link) -> Result<bool, Error> {
        Ok(self.follower(link).await?.is_some())
    }

    /// How a database follows; `None` if it does not.
    pub async fn follower(&self, link: Link) -> Result<Option<FollowerFacts>, Error> {
        let sql = "-- follower::follower
             select s.subenabled, coalesce(t.apply_error_count, 0)::int8 as errors
             from pg_subscription s left join pg_stat_subscription_stats t on t.subid = s.oid
             where s.subname = $1";
        let found = rows(&self.client().await?, sql, &[&link.name().as_str()]).await?;
        let facts = |row: &Row| FollowerFacts {
            is_enabled: row.get("subenabled"),
            errors: row.get("errors"),
        };
        Ok(found.first().map(facts))
    }

    /// Ends the following of a database, without a word to the server that it follows. That it follows nothing is
    /// fine.
    pub async fn unsubscribe(&self, follower: &DatabaseName, link: Link) -> Result<(), Error> {
        if !self.is_subscribed(link).await? {
            return Ok(());
        }
        let name = link.name().quoted();
        let session = self.connect(follower).await?;
        Ok(session
            .batch_execute(&format!(
                "set statement_timeout = '1min'; alter subscription {name} disable;
                 alter subscription {name} set (slot_name = none); drop subscription {name}"
            ))
            .await?)
    }

    /// Up to where a follower has everything. Nothing where its worker is away.
    pub async fn followed_to(&self, link: Link) -> Result<Option<Lsn>, Error> {
        let row = self
            .client()
            .await?
            .query_opt(
                // The sender says where it is only when it has sent everything before, and the worker hears of it
                // only when it has applied all that.
                "-- follower::followed_to
                 select pg_wal_lsn_diff(latest_end_lsn, '0/0')::int8 from pg_stat_subscription
                 where subname = $1 and relid is null and pid is not null",
                &[&link.name().as_str()],
            )
            .await?;
        Ok(row.and_then(|row| row.get::<_, Option<i64>>(0)).map(Lsn))
    }
}

impl CopyState {
    /// Reads it by a session in the build.
    pub async fn read(session: &Client, link: Link) -> Result<Self, Error> {
        let carrier = link.name();
        let row = session
            .query_opt(
                "-- follower::copy_state
                 select count(r.srsubid) filter (where r.srsubstate = 'r') as ready, count(r.srsubid) as tables,
                        coalesce(max(t.apply_error_count + t.sync_error_count), 0)::int8 as errors
                 from pg_subscription s
                 left join pg_subscription_rel r on r.srsubid = s.oid
                 left join pg_stat_subscription_stats t on t.subid = s.oid
                 where s.subname = $1
                 group by s.oid",
                &[&carrier.as_str()],
            )
            .await?
            .ok_or_else(|| Error::Missing { kind: "subscription", name: carrier.to_string() })?;
        Ok(Self { ready: row.get("ready"), tables: row.get("tables"), errors: row.get("errors") })
    }

    /// Whether every table has been copied.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.ready == self.tables
    }
}
