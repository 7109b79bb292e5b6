//! A PostgreSQL cluster and an S3 server that live and die with this process.
//!
//! `tenantry dev`, `tenantry demo`, the benchmarks and the tests stand on these two, so that a
//! fresh clone needs no service of anybody's. Both listen on loopback only, both ask for a
//! password, both keep what they store in one directory.
//!
//! What must stay true:
//!
//! - **Nothing outlives us.** However this process ends, `kill -9` included, the postmaster stops and
//!   scratch directories go away. Dropping a value is enough; `stop` is the gentle way.
//! - **Nothing depends on a runtime.** Each server has a thread of its own, so it survives the tokio
//!   runtime that started it.
//! - **One directory, one owner.** A second start on a directory is refused while the first lives.

pub mod object_store;
pub mod postgres;
mod scratch;

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    net::{Ipv4Addr, TcpListener},
    ops::Range,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

pub use object_store::EmbeddedS3;
pub use postgres::{
    ClusterTemplate, EmbeddedPostgres, Port, PostgresSettings, RestoredCluster, RestoredPostgres,
};
use secrecy::SecretString;
use uuid::Uuid;

/// A free port of this machine, from below those that systems give out by themselves: nobody is given it while whoever
/// has chosen it is not yet up, or restarts.
pub fn free_port() -> io::Result<u16> {
    const PORTS: Range<u16> = 20_000..32_000;
    let [one, other, ..] = Uuid::new_v4().into_bytes();
    let start = PORTS.start + u16::from_le_bytes([one, other]) % (PORTS.end - PORTS.start);
    (start..PORTS.end)
        .chain(PORTS.start..start)
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .ok_or_else(|| io::ErrorKind::AddrInUse.into())
}

/// Why an embedded server did not start or stop. Each text names the remedy where there is one.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// No PostgreSQL server programs on this machine, or not of the major version that the data
    /// needs.
    #[error("{missing}; install Debian's package `{package}` (apt-get install {package})")]
    NotInstalled {
        /// What was looked for and not found.
        missing: String,
        /// The Debian package that brings it.
        package: String,
    },

    /// Another living process uses the directory.
    #[error(
        "the data directory {} is in use by another process; \
         stop that one or choose another directory",
        directory.display()
    )]
    InUse {
        /// The directory that both want.
        directory: PathBuf,
    },

    /// PostgreSQL refuses root, and the user it runs as instead cannot get to its data.
    #[error(
        "PostgreSQL refuses to run as root and runs as `{user}`, who may not enter {}; \
         choose a data directory elsewhere (under /var/lib, say) or run: chmod o+x {}",
        directory.display(), directory.display()
    )]
    Unreachable {
        /// The first directory on the way that refuses.
        directory: PathBuf,
        /// The unprivileged user.
        user: String,
    },

    /// The port that was asked for is taken.
    #[error("port {port} of 127.0.0.1 is in use; choose another one or stop what listens there")]
    PortInUse {
        /// The TCP port.
        port: u16,
    },

    /// S3 has no such bucket names.
    #[error(
        "{bucket:?} is no name for a bucket; \
         use 3 to 63 lowercase letters, numbers and hyphens"
    )]
    BucketName {
        /// The name that was asked for.
        bucket: String,
    },

    /// A file of the directory is missing or unusable; nothing was changed.
    #[error("the data directory {} cannot be used: {reason}", directory.display())]
    Unusable {
        /// The data directory.
        directory: PathBuf,
        /// What is wrong with it and what to do.
        reason: String,
    },

    /// A program (initdb, postgres, cp) failed.
    #[error("{program} failed ({status}); its last words:\n{output}")]
    Program {
        /// Name of the program.
        program: String,
        /// Its exit status, or what kept it from ending.
        status: String,
        /// The last lines that it wrote.
        output: String,
    },

    /// The operating system refused something.
    #[error("cannot {action}")]
    Io {
        /// What was tried, beginning with a verb.
        action: String,
        /// The refusal.
        #[source]
        source: io::Error,
    },
}

impl EmbeddedError {
    /// For `map_err`: names the attempt that an [`io::Error`] belongs to.
    fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }
}

/// A directory that this process alone uses, for as long as the value lives.
#[derive(Debug)]
struct DirectoryLock {
    directory: PathBuf,
    /// Locked with `flock`, which the kernel gives back when the process ends in whatever way.
    file: File,
}

impl DirectoryLock {
    /// Creates the directory when it is missing (`mode`, parents as the umask says) and takes it.
    fn acquire(directory: &Path, mode: u32) -> Result<Self, EmbeddedError> {
        if !directory.exists() {
            fs::create_dir_all(directory)
                .and_then(|()| fs::set_permissions(directory, fs::Permissions::from_mode(mode)))
                .map_err(EmbeddedError::io(format!("create {}", directory.display())))?;
        }
        let directory = directory
            .canonicalize()
            .map_err(EmbeddedError::io(format!("open {}", directory.display())))?;

        let path = directory.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(EmbeddedError::io(format!("open {}", path.display())))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { directory, file }),
            Err(TryLockError::WouldBlock) => Err(EmbeddedError::InUse { directory }),
            Err(TryLockError::Error(error)) => {
                Err(EmbeddedError::io(format!("lock {}", path.display()))(error))
            }
        }
    }

    fn path(&self) -> &Path {
        &self.directory
    }
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // Closing the file is not enough: a child that another thread starts right now holds it too,
        // from its fork until its exec.
        drop(self.file.unlock());
    }
}

/// Writes a file that only we can read, at once and completely: a crash leaves the old one or the
/// new one.
fn write_private(path: &Path, content: &str) -> Result<(), EmbeddedError> {
    let beside = path.with_extension("new");
    File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&beside)
        .and_then(|mut file| file.write_all(content.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&beside, path))
        .map_err(EmbeddedError::io(format!("write {}", path.display())))
}

/// A password of 122 random bits that needs no quoting in a URL, a shell or a settings file.
fn random_password() -> SecretString {
    uuid::Uuid::new_v4().simple().to_string().into()
}

/// Runs work that blocks where it does not hold up the runtime. A caller who stops waiting loses
/// nothing: the result is dropped, which ends whatever was started.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EmbeddedError> + Send + 'static,
) -> Result<T, EmbeddedError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| EmbeddedError::Io {
        action: "finish the work on an embedded server".to_owned(),
        source: io::Error::other(error),
    })?
}
