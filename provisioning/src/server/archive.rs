//! A server whose WAL somebody archives: seeing that the archive has what has happened until now.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Server;
use crate::error::Error;

/// How often the archive is looked at.
const LOOK: Duration = Duration::from_millis(100);

impl Server {
    /// Commits an empty transaction, ends the piece of WAL that it is in, and waits until that is archived, for
    /// `patience` at most; whether it was. Where nobody has written since, nothing else would tell a recovery that it
    /// has reached the present.
    pub async fn archive_wal(&self, patience: Duration) -> Result<bool, Error> {
        let client = self.client().await?;
        client.batch_execute("select txid_current()").await?;
        let ended = client
            .query_one("-- archive::archive_wal\nselect pg_walfile_name(pg_switch_wal())", &[])
            .await?;
        let ended: String = ended.get(0);
        let deadline = Instant::now() + patience;
        loop {
            let row = client
                .query_one(
                    "-- archive::archive_wal
                     select coalesce(last_archived_wal collate \"C\" >= $1, false) from pg_stat_archiver",
                    &[&ended],
                )
                .await?;
            if row.get(0) {
                return Ok(true);
            }
            if Instant::now() > deadline {
                return Ok(false);
            }
            sleep(LOOK).await;
        }
    }
}
