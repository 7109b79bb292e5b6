//! Which track a database has files of. The database itself says so, whatever anybody has written down about it.

use futures_util::future;
use tokio_postgres::Client;

use super::history::Row;
use super::{MigrationSet, SchemaError, history, journal};
use crate::error::Error;
use crate::server::Connection;

/// The track that a database has files of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackVersion {
    /// Its name.
    pub track: String,
    /// The version of the newest of these files that has one; 0 if none has.
    pub version: i64,
}

/// The track that a database has files of, if it has any. The connection must be an administrator's.
pub async fn track_version(connection: &Connection) -> Result<Option<TrackVersion>, SchemaError> {
    let (held, history) = read(connection).await?;
    let version = history::version(&history);
    Ok(held.map(|track| TrackVersion { track, version }))
}

/// The track that a database has files of, with their history. Most have none, and are asked nothing that would stand
/// as an error in the server's log.
pub(super) async fn read(client: &Client) -> Result<(Option<String>, Vec<Row>), SchemaError> {
    let sql = "-- track::read\nselect to_regclass('tenantry.track_history') is not null";
    let found = client.query_typed(sql, &[]).await.map_err(Error::from)?;
    if !found.first().is_some_and(|row| row.get(0)) {
        return Ok((None, Vec::new()));
    }
    let (held, history) =
        future::join(journal::held_track(client), history::read(client, history::OF_TRACK)).await;
    Ok((held?, history?))
}

/// Refuses the files of a track where there are those of another one.
pub(super) fn require(held: Option<&str>, set: &MigrationSet) -> Result<(), SchemaError> {
    match (held, set.of_track()) {
        (Some(held), Some(wanted)) if held != wanted => {
            Err(SchemaError::OtherTrack { held: held.to_owned(), wanted: Some(wanted.to_owned()) })
        }
        _ => Ok(()),
    }
}
