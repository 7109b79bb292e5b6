//! The histories that refinery keeps in a database, compared with sets of files: one of the common files, and one of
//! the files of its track.

use futures_util::TryStreamExt as _;
use tokio_postgres::Client;
use tokio_postgres::binary_copy::{BinaryCopyOutRow, BinaryCopyOutStream};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::{MigrationFile, MigrationSet, SchemaError};
use crate::error::Error;

/// One row of the history.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) version: i64,
    pub(super) name: String,
    pub(super) checksum: u64,
}

/// The tables of the two histories; pasted into refinery's statements as they stand.
pub(super) const COMMON: &str = "tenantry.schema_history";
pub(super) const OF_TRACK: &str = "tenantry.track_history";

/// The table with the history of these files.
pub(super) fn table(set: &MigrationSet) -> &'static str {
    if set.of_track().is_some() { OF_TRACK } else { COMMON }
}

/// Reads a whole history, oldest first. No table is no history.
pub(super) async fn read(client: &Client, table: &'static str) -> Result<Vec<Row>, SchemaError> {
    // A copy is not planned: in a new session, which has the whole catalog still to look up, planning even this would
    // cost more than all else that a migration reads.
    let sql = format!(
        "-- schema::history\ncopy {table} (version, name, checksum) to stdout (format binary)"
    );
    let copied = match client.copy_out(&sql).await {
        Ok(copied) => copied,
        Err(error) => {
            return match error.code() {
                Some(&SqlState::UNDEFINED_TABLE | &SqlState::INVALID_SCHEMA_NAME) => Ok(Vec::new()),
                _ => Err(Error::from(error).into()),
            };
        }
    };
    let rows = BinaryCopyOutStream::new(copied, &[Type::INT8, Type::VARCHAR, Type::VARCHAR]);
    let rows: Vec<_> = rows.try_collect().await.map_err(Error::from)?;
    let mut history = rows.iter().map(from_row).collect::<Result<Vec<_>, _>>()?;
    history.sort_unstable_by_key(|row| row.version);
    Ok(history)
}

/// The newest version applied; 0 if there is none.
pub(super) fn version(history: &[Row]) -> i64 {
    history.last().map_or(0, |row| row.version)
}

/// The files that are not applied yet, oldest first. Refuses a history that the files contradict.
pub(super) fn pending<'a>(
    set: &'a MigrationSet,
    history: &[Row],
) -> Result<Vec<&'a MigrationFile>, SchemaError> {
    for row in history {
        let known = set.migrations().iter().find(|migration| migration.version() == row.version);
        let Some(known) = known else {
            let track = set.of_track().map(str::to_owned);
            return Err(SchemaError::MissingFile {
                version: row.version,
                name: row.name.clone(),
                track,
            });
        };
        if known.checksum() != row.checksum || known.name() != row.name {
            let file = set.file(row.version).map_or_else(String::new, |file| file.file.clone());
            return Err(SchemaError::Edited { file });
        }
    }
    let newest = version(history);
    let applied = |version| history.binary_search_by_key(&version, |row| row.version).is_ok();
    let pending: Vec<_> = set.files().filter(|file| !applied(file.version)).collect();
    match pending.first() {
        Some(first) if first.version <= newest => {
            Err(SchemaError::OutOfOrder { file: first.file.clone(), newest })
        }
        _ => Ok(pending),
    }
}

/// Whoever may write the table can put anything there; refinery would panic over it.
fn from_row(row: &BinaryCopyOutRow) -> Result<Row, SchemaError> {
    let version: i64 = row.try_get(0).map_err(|_| damaged("a version is no number"))?;
    let text =
        |column| row.try_get::<String>(column).map_err(|_| damaged(&format!("version {version}")));
    let checksum =
        text(2)?.parse().map_err(|_| damaged(&format!("the checksum of version {version}")))?;
    Ok(Row { version, name: text(1)?, checksum })
}

fn damaged(what: &str) -> SchemaError {
    SchemaError::History(what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(numbers: &[i64]) -> MigrationSet {
        let source = |n: &i64| (format!("V{n}__m.sql"), format!("select {n}"));
        MigrationSet::from_sources(numbers.iter().map(source).collect()).unwrap()
    }

    fn applied(set: &MigrationSet, numbers: &[i64]) -> Vec<Row> {
        let row = |version: &i64| {
            let migration = set.migrations().iter().find(|m| m.version() == *version).unwrap();
            Row { version: *version, name: "m".to_owned(), checksum: migration.checksum() }
        };
        numbers.iter().map(row).collect()
    }

    #[test]
    fn what_is_not_applied_is_pending() {
        let set = set(&[1, 2, 3]);

        let pending = pending(&set, &applied(&set, &[1])).unwrap();

        assert_eq!(pending.iter().map(|file| file.version).collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn a_history_that_the_files_contradict_is_refused() {
        let files = set(&[20_260_101, 20_260_301]);
        let newest = applied(&files, &[20_260_301]);
        let mut edited = applied(&files, &[20_260_101]);
        edited[0].checksum ^= 1;

        let late = pending(&files, &newest).unwrap_err();
        let edited = pending(&files, &edited).unwrap_err();
        let missing = pending(&set(&[20_260_101]), &newest).unwrap_err();

        assert!(matches!(late, SchemaError::OutOfOrder { newest: 20_260_301, .. }), "{late}");
        assert!(matches!(edited, SchemaError::Edited { .. }), "{edited}");
        assert!(
            matches!(missing, SchemaError::MissingFile { version: 20_260_301, .. }),
            "{missing}"
        );
    }
}
