//! A tenant's data for the tenant itself, in formats that need none of our programs: the database as plain
//! SQL, every table as CSV, and a manifest with the checksums of both.
//!
//! All of it is of one snapshot, and passes through bounded memory. An export that failed leaves nothing
//! behind that looks like one. It is not encrypted: where it goes is the operator's to choose.

mod archive;

use std::io;
use std::path::Path;

use futures_util::TryStreamExt as _;
use jiff::Timestamp;
use serde::Serialize;
use tenantry_backup::{DumpError, DumpRequest, TableRows, dump_plain};
use tenantry_provisioning::Connection;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::archive::Archive;
pub use self::archive::ExportedFile;
use super::backup::{Snapshot, count_all_rows, open_snapshot};
use super::{Environment, StepError, require_settled};
use crate::catalog::audit_log::Event;
use crate::tenant::TenantSlug;

/// The format that this version writes.
const FORMAT: u32 = 1;
const SQL: &str = "database.sql";
const MANIFEST: &str = "manifest.json";

/// What an export holds; the last file in it.
#[derive(Debug, Clone, Serialize)]
pub struct ExportManifest {
    /// The version of this format.
    pub format: u32,
    /// The tenant's id.
    pub tenant_id: Uuid,
    /// What the tenant is called.
    pub tenant_slug: TenantSlug,
    /// The moment whose data this is.
    pub exported_at: Timestamp,
    /// The version of the server, as it names itself.
    pub server_version: String,
    /// The newest migration that the database has.
    pub schema_version: i64,
    /// Every table, with its rows and its file.
    pub tables: Vec<ExportedTable>,
    /// Every other file, with its size and checksum.
    pub files: Vec<ExportedFile>,
}

/// One table of an export.
#[derive(Debug, Clone, Serialize)]
pub struct ExportedTable {
    /// The table's schema.
    pub schema: String,
    /// The table.
    pub table: String,
    /// Its number of rows.
    pub rows: i64,
    /// Its file: CSV with a heading, as RFC 4180 has it; what is empty and not quoted is null.
    pub file: String,
}

impl Environment {
    /// Writes a tenant's data to `to`: an archive where that ends in `.zip`, else a directory. What is there
    /// already is not overwritten. Once `stop` is cancelled, it returns when nothing of the export is left.
    pub async fn export(
        &self,
        slug: &TenantSlug,
        to: &Path,
        by: &str,
        stop: &CancellationToken,
    ) -> Result<ExportManifest, StepError> {
        let mut archive = None;
        let written =
            stop.run_until_cancelled(Box::pin(self.write_export(slug, to, &mut archive))).await;
        let interrupted = || StepError::fail("the export was interrupted", "begin it again");
        let manifest = match (written.unwrap_or_else(|| Err(interrupted())), archive) {
            (Ok(manifest), Some(archive)) => {
                archive.finish().await.map_err(|error| unwritten(to, &error))?;
                manifest
            }
            (Ok(manifest), None) => manifest,
            (Err(error), archive) => {
                if let Some(archive) = archive {
                    archive.abandon().await;
                }
                return Err(error);
            }
        };

        let rows: i64 = manifest.tables.iter().map(|table| table.rows).sum();
        let detail = serde_json::json!({ "tables": manifest.tables.len(), "rows": rows });
        let event = Event { actor: by, action: "tenant.exported", tenant: Some(slug), detail };
        self.catalog.record(&event).await?;
        Ok(manifest)
    }

    /// Writes everything, into an archive that whoever asks finishes or gives up.
    async fn write_export(
        &self,
        slug: &TenantSlug,
        to: &Path,
        archive: &mut Option<Archive>,
    ) -> Result<ExportManifest, StepError> {
        let tenant = self.catalog.tenant(slug).await?;
        require_settled(&tenant)?;
        let server = self.server(tenant.server_id).await?;
        let (tools, server_version) = self.tools(&server).await?;
        let session = server.connect(&tenant.database).await?;
        let _turn = self.turn().await;
        let exported_at = Timestamp::now();
        let lock_timeout = self.limits.migration_timeouts.lock;
        let Snapshot { id, absent, .. } = open_snapshot(&session, lock_timeout).await?;
        let tables = count_all_rows(&session).await?.into_iter().map(ExportedTable::from).collect();
        let manifest = ExportManifest {
            format: FORMAT,
            tenant_id: tenant.id,
            tenant_slug: tenant.slug.clone(),
            exported_at,
            server_version,
            schema_version: tenant.schema_version,
            tables,
            files: Vec::new(),
        };

        let archive = archive.insert(Archive::create(to).map_err(|error| unwritten(to, &error))?);
        let request = DumpRequest {
            tools: &tools,
            libpq_env: server.url().with_database(tenant.database.as_str()).libpq_env(),
            snapshot: Some(&id),
            lock_timeout,
            absent,
            also_for: Vec::new(),
        };
        fill(archive, &session, request, manifest).await.map_err(|failed| failed.at(to))
    }
}

impl From<TableRows> for ExportedTable {
    fn from(TableRows { schema, table, rows }: TableRows) -> Self {
        let file = format!("tables/{}.{}.csv", file_name(&schema), file_name(&table));
        Self { schema, table, rows, file }
    }
}

/// Why an export did not come to its end.
enum Failed {
    Dump(DumpError),
    Server(tokio_postgres::Error),
    Archive(io::Error),
}

impl Failed {
    fn at(self, to: &Path) -> StepError {
        match self {
            Self::Dump(DumpError::Output(error)) | Self::Archive(error) => unwritten(to, &error),
            Self::Dump(error) => error.into(),
            Self::Server(error) => tenantry_provisioning::Error::from(error).into(),
        }
    }
}

/// Writes every file, the manifest last.
async fn fill(
    archive: &mut Archive,
    session: &Connection,
    request: DumpRequest<'_>,
    mut manifest: ExportManifest,
) -> Result<ExportManifest, Failed> {
    archive.begin(SQL).await.map_err(Failed::Archive)?;
    dump_plain(request, async |bytes: &[u8]| archive.write(bytes.to_vec().into()).await)
        .await
        .map_err(Failed::Dump)?;
    write_tables(session, &manifest.tables, archive).await?;
    manifest.files = archive.files().await.map_err(Failed::Archive)?;
    let json = serde_json::to_vec_pretty(&manifest).expect("a manifest is plain data");
    archive.begin(MANIFEST).await.map_err(Failed::Archive)?;
    archive.write(json.into()).await.map_err(Failed::Archive)?;
    Ok(manifest)
}

/// Every table as CSV, in the transaction that holds the snapshot.
async fn write_tables(
    session: &Connection,
    tables: &[ExportedTable],
    archive: &mut Archive,
) -> Result<(), Failed> {
    // As pg_dump has it: values read the same everywhere, and no policy hides a row.
    session
        .batch_execute(
            "-- export::settings
             set local datestyle = iso; set local intervalstyle = postgres; set local extra_float_digits = 3;
             set local row_security = off",
        )
        .await
        .map_err(Failed::Server)?;
    for table in tables {
        let name = session
            .query_one(
                "-- export::name\nselect format('%I.%I', $1::text, $2::text)",
                &[&table.schema, &table.table],
            )
            .await
            .map_err(Failed::Server)?;
        let name: String = name.get(0);
        archive.begin(&table.file).await.map_err(Failed::Archive)?;
        let sql = format!(
            "copy (select * from only {name}) to stdout (format csv, header true, encoding 'utf8')"
        );
        let rows = session.copy_out(&sql).await.map_err(Failed::Server)?;
        let mut rows = std::pin::pin!(rows);
        while let Some(bytes) = rows.try_next().await.map_err(Failed::Server)? {
            archive.write(bytes).await.map_err(Failed::Archive)?;
        }
    }
    Ok(())
}

/// A name that every file system takes, and that tells two tables apart: anything unusual becomes `%` and
/// its bytes in hex.
fn file_name(name: &str) -> String {
    name.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

fn unwritten(to: &Path, error: &io::Error) -> StepError {
    let remedy = match error.kind() {
        io::ErrorKind::AlreadyExists => "choose a name that is not taken, or move what is there",
        io::ErrorKind::StorageFull => "make room, or choose another place",
        _ => "choose a place that this user can write to",
    };
    let message = format!("the export cannot be written to {}: {error}", to.display());
    StepError::fail(message, remedy)
}

#[cfg(test)]
mod tests {
    use super::file_name;

    #[test]
    fn names_of_tables_make_plain_files() {
        for (name, file) in
            [("boards", "boards"), ("a.b", "a%2Eb"), ("../x", "%2E%2E%2Fx"), ("ä b", "%C3%A4%20b")]
        {
            assert_eq!(file_name(name), file);
        }
    }
}
