//! One backup into an empty database, or through a check and into nothing.
//!
//! The manifest is authenticated before the first byte is read. `pg_restore` sees only what decrypted
//! correctly; it never sees the end of a stream that was cut, and when the stream is at fault the
//! error says so, whatever `pg_restore` made of it. A restore that returned an error may have left
//! part of the data: its target is to be dropped.

mod archive;
mod contents;

use std::fmt;
use std::io;
use std::process::{ExitStatus, Stdio};

use tokio::io::AsyncWriteExt;
use tokio::process::ChildStdin;
use uuid::Uuid;

use self::archive::Archive;
pub use self::contents::{RowDigest, TableDigest, digest_tables, list_contents};
use crate::key::BackupKey;
use crate::manifest::{Manifest, ManifestError};
use crate::object_key::ObjectKey;
use crate::process::{self, Process};
use crate::store::{BackupStore, StoreError};
use crate::tools::{PgTools, major_of};

const BUFFER_BYTES: usize = 128 * 1024;
const PG_DUMP: &str = "pg_dump";
/// What a server says that has no room for what is restored.
const NO_ROOM: [&str; 3] = ["No space left on device", "out of memory", "out of shared memory"];
/// How `pg_restore` begins to say what went wrong, and how it then quotes the statement.
const SPEAKS: [&str; 2] = ["pg_restore: error: ", "pg_restore: fatal: "];
const QUOTES: &str = "Command was: ";
/// What libpq and a server that stops say of a connection, and nobody of anything else.
const LOST: [&str; 11] = [
    "connection to server at ",
    "connection to server on socket ",
    "could not connect to server",
    "server closed the connection unexpectedly",
    "SSL connection has been closed unexpectedly",
    "SSL SYSCALL error",
    "could not receive data from server",
    "could not send data to server",
    "no connection to the server",
    "terminating connection due to ",
    "the database system is ",
];

/// What to restore into, and with what.
pub struct RestoreRequest<'a> {
    /// Whose backup this has to be.
    pub tenant: Uuid,
    /// The programs, of the target server's major version.
    pub tools: &'a PgTools,
    /// The connection; `PGDATABASE` is the target, made from `template0` and otherwise empty.
    pub libpq_env: Vec<(&'static str, String)>,
}

/// What was read, and proved to be what the manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// Size of the stored object, in bytes.
    pub dump_bytes: u64,
    /// Size of `pg_dump`'s archive, in bytes.
    pub plain_bytes: u64,
}

/// Why a backup was not restored, or does not verify.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// There is no manifest, so there is no backup.
    #[error("tenant {tenant} has no complete backup {backup}")]
    NotABackup {
        /// The tenant.
        tenant: Uuid,
        /// The backup that was asked for.
        backup: Uuid,
    },
    /// The manifest is refused.
    #[error("the manifest of the backup is refused")]
    Manifest(#[from] ManifestError),
    /// The key does not open the dump: it is encrypted for another one, or its header was altered.
    #[error("the tenant's key does not open the dump")]
    WrongKey,
    /// The dump is shorter than it was.
    #[error("the dump is cut: it has {found} of its {expected} bytes")]
    Truncated {
        /// Its size by the manifest, in bytes.
        expected: u64,
        /// Its size now, in bytes.
        found: u64,
    },
    /// The dump is not what was stored.
    #[error("the dump was altered after it was stored")]
    Altered,
    /// The store failed.
    #[error("the backup could not be read")]
    Store(#[from] StoreError),
    /// The server, and so `pg_restore`, is older than the one that was dumped.
    #[error("the dump is of PostgreSQL {dumped}, and the tools are of PostgreSQL {tools}")]
    OlderTools {
        /// The version of `pg_dump` that wrote the archive.
        dumped: String,
        /// The version of the programs at hand.
        tools: String,
    },
    /// A program of PostgreSQL's could not be run.
    #[error("{program} could not be run")]
    Run {
        /// The program.
        program: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// `pg_dump` failed, from which `pg_restore` was to read.
    #[error("pg_dump failed with {status}: {stderr}")]
    PgDump {
        /// How it ended.
        status: ExitStatus,
        /// The end of what it said.
        stderr: String,
    },
    /// `pg_restore` failed, and the stream that it read was good.
    #[error("pg_restore failed with {status}: {stderr}")]
    PgRestore {
        /// How it ended.
        status: ExitStatus,
        /// The end of what it said.
        stderr: String,
    },
}

impl RestoreError {
    /// `pg_dump` could not be run.
    pub(crate) fn pg_dump(source: io::Error) -> Self {
        Self::Run { program: PG_DUMP, source }
    }

    /// `pg_restore` could not be run.
    pub(crate) fn pg_restore(source: io::Error) -> Self {
        Self::Run { program: "pg_restore", source }
    }

    /// What an operator can do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NotABackup { .. } => "list the tenant's backups and choose one of them",
            Self::Manifest(error) => error.remedy(),
            Self::WrongKey => "give the key of the tenant as it was when the backup was made",
            Self::Truncated { .. } | Self::Altered => {
                "this backup is lost: restore another one, and find out what happened to the store"
            }
            Self::Store(error) => error.remedy(),
            Self::OlderTools { .. } => "restore to a server of the same or a newer major version",
            Self::Run { program: PG_DUMP, .. } => {
                "check that pg_dump is installed and may be run here"
            }
            Self::Run { .. } => {
                "check that pg_restore is installed, may be run here, and has a PGDATABASE"
            }
            Self::PgDump { .. } => "read what pg_dump says, fix it, and try again",
            Self::PgRestore { .. } => {
                "read what pg_restore says: the target has to be made from template0, the roles that own the \
                 objects have to exist (and, unless a superuser restores, may create in its schema public), and \
                 the extensions of the backup have to be installed on the server"
            }
        }
    }

    /// The role that the dump names and the server has not, where that is why, and the statement that names it.
    #[must_use]
    pub fn missing_role(&self) -> Option<(&str, &str)> {
        let Self::PgRestore { stderr, .. } = self else { return None };
        let (_, rest) = stderr.split_once("role \"")?;
        let (role, rest) = rest.split_once("\" does not exist")?;
        let (_, statement) = rest.split_once("Command was: ")?;
        Some((role, statement))
    }

    /// Whether the same call may succeed later without anybody changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Store(error) => error.is_transient(),
            Self::Run { source, .. } => process::may_run_later(source),
            Self::PgDump { stderr, .. } | Self::PgRestore { stderr, .. } => lost_server(stderr),
            _ => false,
        }
    }

    /// Whether the backup is at fault, and not where it was read from, with what or into what.
    #[must_use]
    pub fn blames_backup(&self) -> bool {
        match self {
            Self::NotABackup { .. } | Self::WrongKey | Self::Truncated { .. } | Self::Altered => {
                true
            }
            Self::Manifest(error) => !matches!(error, ManifestError::UnsupportedFormat { .. }),
            Self::Store(error) => error.blames_object(),
            Self::PgRestore { stderr, .. } => !NO_ROOM.iter().any(|words| stderr.contains(words)),
            Self::OlderTools { .. } | Self::Run { .. } | Self::PgDump { .. } => false,
        }
    }
}

/// Reads the manifest of a backup, and checks that it is of this tenant and this backup. It is not yet
/// authenticated: [`restore`] and [`verify_stored`] do that, with the key that it names.
pub async fn load_manifest(
    store: &BackupStore,
    tenant: Uuid,
    backup: Uuid,
) -> Result<Manifest, RestoreError> {
    let json = match store.get(&ObjectKey::manifest(tenant, backup)).await {
        Err(StoreError::NotFound { .. }) => {
            return Err(RestoreError::NotABackup { tenant, backup });
        }
        json => json?,
    };
    let manifest = Manifest::from_json(&json)?;
    if manifest.tenant != tenant {
        let (expected, found) = (tenant, manifest.tenant);
        return Err(ManifestError::WrongTenant { expected, found }.into());
    }
    if manifest.backup != backup {
        let (expected, found) = (backup, manifest.backup);
        return Err(ManifestError::WrongBackup { expected, found }.into());
    }
    Ok(manifest)
}

/// Restores a backup into the database that `request` names. `progress` hears how many bytes of the
/// archive have been handed to `pg_restore`. Objects keep their owners and rights, so the roles have
/// to be there.
pub async fn restore(
    store: &BackupStore,
    manifest: &Manifest,
    key: &BackupKey,
    request: RestoreRequest<'_>,
    progress: impl Fn(u64) + Send + Sync,
) -> Result<Restored, RestoreError> {
    manifest.verify(key, request.tenant)?;
    require_readable(manifest, request.tools)?;
    let archive = Archive::open(store, manifest, key).await?;
    let mut process = start(request).map_err(RestoreError::pg_restore)?;
    drive(archive, &mut process, progress).await
}

/// Reads a whole backup back, decrypts and checks it, and restores nothing.
pub async fn verify_stored(
    store: &BackupStore,
    manifest: &Manifest,
    key: &BackupKey,
) -> Result<Restored, RestoreError> {
    manifest.verify(key, manifest.tenant)?;
    Archive::open(store, manifest, key).await?.finish().await
}

/// Feeds `pg_restore` to its end, and checks every byte of the dump, whatever of it `pg_restore` read.
async fn drive(
    archive: Archive<'_>,
    process: &mut Process,
    progress: impl Fn(u64) + Send + Sync,
) -> Result<Restored, RestoreError> {
    let mut stdin = process.take_stdin();
    match feed(archive, &mut stdin, progress).await {
        Ok(Fed::Whole(restored)) => {
            drop(stdin);
            succeeded(process).await?;
            Ok(restored)
        }
        Ok(Fed::InPart(archive)) => {
            drop(stdin);
            succeeded(process).await?;
            archive.finish().await
        }
        Err(error) => {
            // Only now may stdin close: `pg_restore` must not take a cut stream for a whole one.
            process.kill().await;
            Err(error)
        }
    }
}

/// How much of an archive `pg_restore` took.
enum Fed<'a> {
    /// All of it, and it is what the manifest says.
    Whole(Restored),
    /// It stopped reading, because it failed or because it needs no more.
    InPart(Archive<'a>),
}

async fn feed<'a>(
    mut archive: Archive<'a>,
    stdin: &mut ChildStdin,
    progress: impl Fn(u64) + Send + Sync,
) -> Result<Fed<'a>, RestoreError> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut fed = 0;
    loop {
        let read = archive.read(&mut buffer).await?;
        if read == 0 {
            return archive.finish().await.map(Fed::Whole);
        }
        if stdin.write_all(&buffer[..read]).await.is_err() {
            return Ok(Fed::InPart(archive));
        }
        fed += read as u64;
        progress(fed);
    }
}

/// Archives of a newer `pg_dump` are nothing for an older `pg_restore`.
fn require_readable(manifest: &Manifest, tools: &PgTools) -> Result<(), RestoreError> {
    if major_of(&manifest.client_version) > Some(tools.major()) {
        let dumped = manifest.client_version.clone();
        return Err(RestoreError::OlderTools { dumped, tools: tools.version().to_owned() });
    }
    Ok(())
}

fn start(request: RestoreRequest<'_>) -> io::Result<Process> {
    let RestoreRequest { tenant: _, tools, libpq_env } = request;
    let database = libpq_env.iter().find(|(name, _)| *name == "PGDATABASE");
    let (_, database) =
        database.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no PGDATABASE"))?;
    let arguments = [
        "--exit-on-error".to_owned(),
        "--no-password".to_owned(),
        "--format=custom".to_owned(),
        // As a connection string, so that no name is taken for one.
        format!("--dbname=dbname='{}'", database.replace('\\', "\\\\").replace('\'', "\\'")),
    ];
    Process::start(tools.pg_restore(), arguments, &libpq_env, Stdio::piped(), Stdio::null())
}

async fn succeeded(process: &mut Process) -> Result<(), RestoreError> {
    let exit = process.wait().await.map_err(RestoreError::pg_restore)?;
    if exit.status.success() {
        return Ok(());
    }
    Err(RestoreError::PgRestore { status: exit.status, stderr: exit.stderr })
}

/// Whether `pg_restore` lost its server. What it says of a statement may hold any word, and so may the statement.
fn lost_server(stderr: &str) -> bool {
    let mut is_quoting = false;
    let mut said = stderr.lines().filter(|line| {
        is_quoting = line.starts_with(QUOTES)
            || is_quoting && !SPEAKS.iter().any(|start| line.starts_with(start));
        !is_quoting
    });
    said.any(|line| {
        let line = SPEAKS.iter().find_map(|start| line.strip_prefix(start)).unwrap_or(line);
        // `could not execute query: FATAL:  terminating …`, `connection to server at … failed: FATAL: …`
        let text = line.strip_prefix("could not execute query: ").unwrap_or(line);
        let text = text.trim_start_matches(|c: char| c.is_ascii_uppercase());
        let text = text.trim_start_matches([':', ' ']);
        LOST.iter().any(|words| text.starts_with(words) || line.starts_with(words))
            || line.starts_with("error returned by PQputCopyData: ")
                && LOST.iter().any(|words| line.contains(words))
    })
}

impl fmt::Debug for RestoreRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RestoreRequest")
            .field("tenant", &self.tenant)
            .field("tools", self.tools)
            .field("libpq_env", &process::names(&self.libpq_env))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn a_server_that_is_lost_may_come_back_and_a_word_in_a_statement_is_none() {
        let failed = |stderr: &str| RestoreError::PgRestore {
            status: ExitStatus::from_raw(256),
            stderr: stderr.to_owned(),
        };
        for stderr in [
            "pg_restore: error: connection to server at \"db\" (10.0.0.1), port 5432 failed: Connection refused",
            "pg_restore: error: could not execute query: FATAL:  terminating connection due to administrator command\n\
             server closed the connection unexpectedly\nCommand was: select 1;",
            "pg_restore: error: could not execute query: server closed the connection unexpectedly\n\
             \tThis probably means the server terminated abnormally\nCommand was: select 1;",
            "pg_restore: error: error returned by PQputCopyData: SSL connection has been closed unexpectedly",
            "pg_restore: error: connection to server on socket \"/tmp/.s\" failed: FATAL:  the database system is starting up",
        ] {
            assert!(failed(stderr).is_transient(), "{stderr}");
        }
        for stderr in [
            "pg_restore: error: could not execute query: ERROR:  relation \"connections\" already exists\n\
             Command was: CREATE TABLE public.connections (id int);",
            "pg_restore: error: could not execute query: ERROR:  type \"x\" does not exist\n\
             Command was: COMMENT ON TABLE t IS 'see\n\
             server closed the connection unexpectedly';",
            "pg_restore: error: could not execute query: ERROR:  function \"no connection to the server\" is not there",
            "pg_restore: error: unsupported version (1.16) in file header",
        ] {
            assert!(!failed(stderr).is_transient(), "{stderr}");
        }
    }

    #[test]
    fn only_what_is_wrong_with_a_backup_is_blamed_on_it() {
        let failed = |stderr: &str| RestoreError::PgRestore {
            status: ExitStatus::from_raw(256),
            stderr: stderr.to_owned(),
        };
        let denied = StoreError::Denied { operation: "get", source: "no".into() };
        let newer = ManifestError::UnsupportedFormat { found: 2 };
        let gone = StoreError::NotFound { key: "dump".to_owned() };

        for error in [
            failed("could not extend file: No space left on device"),
            denied.into(),
            newer.into(),
            RestoreError::pg_restore(io::ErrorKind::NotFound.into()),
        ] {
            assert!(!error.blames_backup(), "{error:?}");
        }
        for error in [
            failed("role \"boards\" does not exist"),
            gone.into(),
            RestoreError::Altered,
            ManifestError::WrongKey.into(),
        ] {
            assert!(error.blames_backup(), "{error:?}");
        }
    }
}
