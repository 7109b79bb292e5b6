//! Standbys: what a primary and its copies say of the write-ahead log, and whether a copy is fit to be
//! read from.
//!
//! Nothing here needs more than the right to log in, so that it works on rented servers too.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::types::PgLsn;

use super::{Connection, Problem, Server, ServerUrl};
use crate::error::Error;

/// How often a standby is looked at that is to catch up.
const LOOK: Duration = Duration::from_millis(50);

const MADE_FROM: &str = "name one that was made from this server, as with `pg_basebackup`";

impl Connection {
    /// Which cluster this is. A standby says the same as its primary, and nobody else does.
    pub async fn cluster(&self) -> Result<i64, Error> {
        let sql = "-- standby::cluster\nselect system_identifier from pg_control_system()";
        Ok(self.query_one(sql, &[]).await?.get(0))
    }

    /// Every database, by its number and name.
    async fn databases(&self) -> Result<BTreeSet<(u32, String)>, Error> {
        let sql = "-- standby::databases\nselect oid, datname::text from pg_database";
        let rows = self.query(sql, &[]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// How far a primary has written its log. A standby refuses to say.
    pub async fn written(&self) -> Result<PgLsn, Error> {
        let sql = "-- standby::written\nselect pg_current_wal_lsn()";
        Ok(self.query_one(sql, &[]).await?.get(0))
    }

    /// How far a standby has replayed its primary's log; nothing from a server that is no standby.
    pub async fn replayed(&self) -> Result<Option<PgLsn>, Error> {
        let sql = "-- standby::replayed
                   select case when pg_is_in_recovery() then pg_last_wal_replay_lsn() end";
        Ok(self.query_one(sql, &[]).await?.get(0))
    }
}

impl Server {
    /// Looks for what keeps `standby` from being read from in this server's place. Changes nothing; an
    /// empty list means that it is a standby of this server, and within `patience` has replayed what this
    /// server had written.
    pub async fn check_standby(
        &self,
        standby: &ServerUrl,
        patience: Duration,
    ) -> Result<Vec<Problem>, Error> {
        let primary = self.url().connect().await?;
        let standby = standby.connect().await?;
        if standby.replayed().await?.is_none() {
            return Ok(vec![Problem::new(
                "it is no standby: it takes writes, or does not say how far it has replayed",
                "name a standby that replicates this server by streaming",
            )]);
        }
        if standby.cluster().await? != primary.cluster().await? {
            return Ok(vec![Problem::new("it is a standby of another server", MADE_FROM)]);
        }
        // Copies of one cluster that went their own ways have one number, and soon other databases.
        let before = primary.databases().await?;
        let behind = !catches_up(&standby, primary.written().await?, patience).await?;
        let (there, after) = (standby.databases().await?, primary.databases().await?);
        let missing = before.intersection(&after).find(|database| !there.contains(*database));
        if let Some((_, name)) = missing {
            return Ok(vec![Problem::new(
                format!(
                    "it has not the database `{name}`: it is far behind, or a standby of another server"
                ),
                MADE_FROM,
            )]);
        }
        let lag = || {
            Problem::new(
                format!("it lags behind its primary by more than {} s", patience.as_secs()),
                "see whether it still replicates: `select * from pg_stat_wal_receiver` there",
            )
        };
        Ok(behind.then(lag).into_iter().collect())
    }
}

/// Whether a standby replays the log up to there in time.
async fn catches_up(
    standby: &Connection,
    written: PgLsn,
    patience: Duration,
) -> Result<bool, Error> {
    let deadline = Instant::now() + patience;
    while standby.replayed().await?.is_some_and(|replayed| replayed < written) {
        if Instant::now() > deadline {
            return Ok(false);
        }
        sleep(LOOK).await;
    }
    Ok(true)
}
