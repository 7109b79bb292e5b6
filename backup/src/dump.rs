//! One tenant's database into one encrypted object.
//!
//! `pg_dump` → zstd → age → upload, all at once and in bounded memory. The invariant: a dump that was
//! cut at any point never becomes an object. `pg_dump`'s exit status is awaited *before* the stream is
//! completed, and whatever goes wrong before that takes the upload with it.

use std::fmt;
use std::io;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::key::{BackupKey, Recipient};
use crate::manifest::Manifest;
use crate::object_key::ObjectKey;
use crate::pipe::{PipeWriter, pipe};
use crate::process::{self, Process};
use crate::store::{BackupStore, MAX_SMALL_OBJECT_BYTES, StoreError, Uploaded};
use crate::stream;
use crate::tools::PgTools;

const BUFFER_BYTES: usize = 128 * 1024;
const PIPE_BYTES: usize = 512 * 1024;
/// What `pg_dump` says when trying again is of no use.
const LASTING: [&str; 4] =
    ["permission denied", "authentication failed", "version mismatch", "row-level security"];

/// What to dump, and with what.
pub struct DumpRequest<'a> {
    /// The programs, of the server's major version.
    pub tools: &'a PgTools,
    /// The connection: `PGHOST`, `PGPORT`, `PGUSER`, `PGPASSWORD`, `PGDATABASE` and the like.
    pub libpq_env: Vec<(&'static str, String)>,
    /// An exported snapshot to read in; its transaction has to stay open until the dump is done.
    pub snapshot: Option<&'a str>,
    /// How long `pg_dump` may wait for its locks before it gives up.
    pub lock_timeout: Duration,
    /// What the snapshot is known to hold nothing of, so that `pg_dump` need not look for it: in a
    /// small database that is a fifth of its work.
    pub absent: Vec<ObjectClass>,
    /// Who else may read the dump, with a key of their own.
    pub also_for: Vec<Recipient>,
}

/// Things in a database that often are not there at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectClass {
    /// Comments on objects, other than those that every database is born with.
    Comments,
    /// Large objects.
    LargeObjects,
    /// Publications.
    Publications,
    /// Security labels on objects.
    SecurityLabels,
    /// Subscriptions.
    Subscriptions,
}

/// How far a dump is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DumpProgress {
    /// `pg_dump` has written so many bytes.
    Dumped(u64),
    /// `pg_dump` has succeeded and is gone from the server; the upload is still to be completed.
    LeftServer,
}

/// A stored dump: what the manifest needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dumped {
    /// Size of the stored object, in bytes.
    pub dump_bytes: u64,
    /// SHA-256 of the stored object, in lower-case hex.
    pub dump_sha256: String,
    /// Size of `pg_dump`'s archive, in bytes.
    pub plain_bytes: u64,
}

/// Why there is no dump. Nothing was stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DumpError {
    /// `pg_dump` could not be run, or its output could not be read.
    #[error("pg_dump could not be run")]
    Run(#[source] io::Error),
    /// `pg_dump` failed.
    #[error("pg_dump failed with {status}: {stderr}")]
    PgDump {
        /// How it ended.
        status: ExitStatus,
        /// The end of what it said.
        stderr: String,
    },
    /// The stream could not be encrypted.
    #[error("the dump could not be encrypted")]
    Seal(#[source] io::Error),
    /// Whoever takes plain SQL failed.
    #[error("the dump could not be written")]
    Output(#[source] io::Error),
    /// The store failed.
    #[error("the dump could not be stored")]
    Store(#[from] StoreError),
    /// The manifest has no authentication code.
    #[error("the manifest is not signed")]
    NotSigned,
    /// The manifest names too many tables to be read back.
    #[error(
        "the manifest has {bytes} bytes, and at most {MAX_SMALL_OBJECT_BYTES} can be read back"
    )]
    ManifestTooLarge {
        /// Its size, in bytes.
        bytes: u64,
    },
}

impl DumpError {
    /// What an operator can do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Run(_) => "check that pg_dump is installed and may be run here",
            Self::PgDump { .. } => {
                "read what pg_dump says; when it waits for a lock, end the migration or transaction that \
                 holds it, then try again"
            }
            Self::Output(_) => "make room, or choose another place",
            Self::Store(error) => error.remedy(),
            Self::ManifestTooLarge { .. } => {
                "a database of so many tables cannot be backed up this way"
            }
            Self::Seal(_) | Self::NotSigned => "this is a defect: report it",
        }
    }

    /// Whether the same call may succeed later without anybody changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Run(error) => process::may_run_later(error),
            // Lost connections and held locks come in many words, and pass; these do not.
            Self::PgDump { stderr, .. } => !LASTING.iter().any(|words| stderr.contains(words)),
            Self::Store(error) => error.is_transient(),
            Self::Output(_) | Self::Seal(_) | Self::NotSigned | Self::ManifestTooLarge { .. } => {
                false
            }
        }
    }
}

/// Dumps a database into `object`, encrypted for `key` and for whom else the request names. `progress` hears how far
/// it is. Without [`finish`] the result is no backup yet.
pub async fn dump(
    store: &BackupStore,
    object: &ObjectKey,
    key: &BackupKey,
    request: DumpRequest<'_>,
    progress: impl Fn(DumpProgress) + Send + Sync,
) -> Result<Dumped, DumpError> {
    let also_for = request.also_for.clone();
    let recipients = (key, also_for.as_slice());
    let mut process = start(request).map_err(DumpError::Run)?;
    let stored = stream_to(store, object, recipients, &mut process, progress).await;
    if stored.is_err() {
        process.kill().await;
    }
    stored
}

/// Stores a signed manifest, which makes its dump a backup.
pub async fn finish(store: &BackupStore, manifest: &Manifest) -> Result<(), DumpError> {
    if manifest.mac.is_empty() {
        return Err(DumpError::NotSigned);
    }
    let json = manifest.to_json();
    let bytes = json.len() as u64;
    if bytes > MAX_SMALL_OBJECT_BYTES {
        return Err(DumpError::ManifestTooLarge { bytes });
    }
    store.put(&ObjectKey::manifest(manifest.tenant, manifest.backup), json.into()).await?;
    Ok(())
}

impl ObjectClass {
    fn switched_off(self) -> &'static str {
        match self {
            Self::Comments => "--no-comments",
            Self::LargeObjects => "--no-blobs",
            Self::Publications => "--no-publications",
            Self::SecurityLabels => "--no-security-labels",
            Self::Subscriptions => "--no-subscriptions",
        }
    }
}

/// Why the producing side stopped.
enum Stopped {
    /// The reading side went away first; it knows why.
    ByPipe(io::Error),
    By(DumpError),
}

fn start(request: DumpRequest<'_>) -> io::Result<Process> {
    let DumpRequest { tools, mut libpq_env, snapshot, lock_timeout, absent, also_for: _ } = request;
    // Moments are written in one zone, whatever the database's: so rows can be compared as text.
    libpq_env.push(("PGTZ", "UTC".to_owned()));
    let mut arguments = vec![
        "--format=custom".to_owned(),
        "--compress=0".to_owned(),
        "--no-password".to_owned(),
        // Who may read the system's catalogs is the matter of the server that the dump comes to, and of its version.
        "--exclude-schema=pg_catalog".to_owned(),
        format!("--lock-wait-timeout={}", lock_timeout.as_millis()),
    ];
    arguments.extend(snapshot.map(|id| format!("--snapshot={id}")));
    arguments.extend(absent.iter().map(|class| class.switched_off().to_owned()));
    Process::start(tools.pg_dump(), arguments, &libpq_env, Stdio::null(), Stdio::piped())
}

/// Runs both ends of the pipe until each has come to its end, or one has failed.
async fn stream_to(
    store: &BackupStore,
    object: &ObjectKey,
    recipients: (&BackupKey, &[Recipient]),
    process: &mut Process,
    progress: impl Fn(DumpProgress) + Send + Sync,
) -> Result<Dumped, DumpError> {
    let (writer, reader) = pipe(PIPE_BYTES);
    let producing = pin!(produce(process, recipients, writer, progress));
    let uploading = pin!(store.upload(object, reader));
    let (produced, uploaded) = match select(producing, uploading).await {
        // When the producing side failed, the pipe is cut, and the upload fails and cleans up.
        Either::Left((produced, uploading)) => (produced, uploading.await),
        Either::Right((Err(error), _)) => return Err(error.into()),
        Either::Right((uploaded, producing)) => (producing.await, uploaded),
    };
    match (produced, uploaded) {
        (Ok(plain_bytes), Ok(Uploaded { bytes, sha256 })) => {
            Ok(Dumped { dump_bytes: bytes, dump_sha256: sha256, plain_bytes })
        }
        (Err(Stopped::By(error)), _) => Err(error),
        (_, Err(error)) => Err(error.into()),
        (Err(Stopped::ByPipe(error)), Ok(_)) => Err(DumpError::Seal(error)),
    }
}

/// Feeds the pipe from `pg_dump`, and completes the stream only after `pg_dump` has succeeded.
async fn produce(
    process: &mut Process,
    (key, also_for): (&BackupKey, &[Recipient]),
    writer: PipeWriter,
    progress: impl Fn(DumpProgress) + Send + Sync,
) -> Result<u64, Stopped> {
    let mut output = process.take_stdout();
    let mut sealed = stream::seal(key, also_for, writer).await.map_err(Stopped::ByPipe)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut plain_bytes = 0;
    loop {
        let read = output.read(&mut buffer).await;
        let read = read.map_err(|error| Stopped::By(DumpError::Run(error)))?;
        if read == 0 {
            break;
        }
        sealed.write_all(&buffer[..read]).await.map_err(Stopped::ByPipe)?;
        plain_bytes += read as u64;
        progress(DumpProgress::Dumped(plain_bytes));
    }
    let exit = process.wait().await.map_err(|error| Stopped::By(DumpError::Run(error)))?;
    if !exit.status.success() {
        let error = DumpError::PgDump { status: exit.status, stderr: exit.stderr };
        return Err(Stopped::By(error));
    }
    progress(DumpProgress::LeftServer);
    sealed.shutdown().await.map_err(Stopped::ByPipe)?;
    Ok(plain_bytes)
}

impl fmt::Debug for DumpRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DumpRequest")
            .field("tools", self.tools)
            .field("libpq_env", &process::names(&self.libpq_env))
            .field("snapshot", &self.snapshot)
            .field("lock_timeout", &self.lock_timeout)
            .field("absent", &self.absent)
            .field("also_for", &self.also_for)
            .finish()
    }
}
