//! Adopting a database whose schema is there already: its history is written, and no file is run.
//!
//! Whether the schema is what the files make is for the caller to know, before.

use futures_util::future;

use super::{MigrationSet, MigrationTimeouts, SchemaError, history, lock};
use crate::error::Error;
use crate::isolation::lock_down;
use crate::name::DatabaseName;
use crate::server::Server;

/// Writes into a database without a history that it has all files of `set`, and gives the shared roles the
/// rights that they have in every tenant's database. Does nothing where the history says just that.
pub async fn baseline(
    server: &Server,
    database: &DatabaseName,
    set: &MigrationSet,
    timeouts: MigrationTimeouts,
) -> Result<(), SchemaError> {
    lock_down(&server.connect(database).await?).await?;
    let mut connection = server.connect_as_owner(database, timeouts).await?;
    let (locked, history) =
        future::join(lock(&connection), history::read(&connection, history::COMMON)).await;
    locked?;
    let history = history?;
    if !history.is_empty() {
        let version = history::version(&history);
        let is_it = version == set.target_version() && history::pending(set, &history)?.is_empty();
        return if is_it { Ok(()) } else { Err(SchemaError::HasHistory { version }) };
    }

    let transaction = connection.transaction().await.map_err(Error::from)?;
    for file in &set.migrations()[..set.len()] {
        transaction
            .execute(
                r#"-- baseline::note
                 insert into tenantry.schema_history (version, name, applied_on, checksum)
                 values ($1, $2, to_char(now() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), $3)"#,
                &[&file.version(), &file.name(), &file.checksum().to_string()],
            )
            .await
            .map_err(Error::from)?;
    }
    transaction.commit().await.map_err(Error::from)?;
    Ok(())
}
