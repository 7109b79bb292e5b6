//! A cluster that comes from a physical backup of another one: started to be read, and then removed.
//!
//! It has what everybody has on the server that it is a copy of. So it listens on a socket that only its own
//! user may reach, and on nothing else. It sends nothing anywhere: it archives nothing, follows no
//! publication, and takes no setting from where it comes. It ends with us, and what a killed process left
//! running is ended by whoever takes the directory next.

use std::{
    fs::{self, File},
    io,
    os::unix::{fs::OpenOptionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Signal, kill_process};

use super::super::{DirectoryLock, EmbeddedError, blocking, scratch::Scratch};
use super::data_directory::{is_ready, processes_in};
use super::installation::{Account, Installation, last_lines};
use super::postmaster::{DEATH_SIGNAL, Postmaster};

const CLUSTER: &str = "cluster";
const TABLESPACES: &str = "tablespaces";
/// Where the program that restores may put its own locks.
const LOCKS: &str = "locks";
/// How often a cluster that recovers is looked at; for how long is for its WAL to say.
const LOOK: Duration = Duration::from_millis(20);
/// How long processes may take to end after SIGKILL.
const END_LIMIT: Duration = Duration::from_secs(10);

/// What PostgreSQL reads in place of what its directory may have. The directory of the socket is nobody's
/// but the user's own.
const FILES: [(&str, &str); 3] =
    [("postgresql.conf", ""), ("pg_hba.conf", "local all all trust\n"), ("pg_ident.conf", "")];

/// Whatever the server of before had set, in its files or with `alter system`.
const SETTINGS: [(&str, &str); 22] = [
    ("listen_addresses", ""),
    ("port", "5432"),
    ("unix_socket_permissions", "0700"),
    ("ssl", "off"),
    ("archive_mode", "off"),
    ("archive_command", ""),
    ("max_wal_senders", "0"),
    // Or it would take from publications what is meant for the server that it is a copy of.
    ("max_logical_replication_workers", "0"),
    ("shared_preload_libraries", ""),
    ("session_preload_libraries", ""),
    ("local_preload_libraries", ""),
    ("autovacuum", "off"),
    // Nobody comes before it has recovered, and then it need not be as large as the server was.
    ("hot_standby", "off"),
    ("max_connections", "20"),
    ("max_prepared_transactions", "1000"),
    // `pg_dump` locks every table of a database.
    ("max_locks_per_transaction", "1024"),
    // Whoever started it restores it again after a crash of the machine.
    ("fsync", "off"),
    ("full_page_writes", "off"),
    // Where a killed cluster leaves nothing behind in /dev/shm.
    ("dynamic_shared_memory_type", "mmap"),
    ("logging_collector", "off"),
    ("log_destination", "stderr"),
    // Whoever started it reads what it says.
    ("lc_messages", "C"),
];

/// A directory for such a cluster, which this process alone uses.
#[derive(Debug)]
pub struct RestoredCluster {
    lock: DirectoryLock,
    account: Account,
}

/// A cluster that has recovered and accepts connections. Dropping it ends it at once.
#[derive(Debug)]
pub struct RestoredPostgres {
    // Dropped first: the socket goes away after the process that listens on it.
    postmaster: Postmaster,
    socket_dir: PathBuf,
    _scratch: Scratch,
}

impl RestoredCluster {
    /// Takes a directory, which is made when there is none, and ends what still runs in it.
    pub async fn open(directory: PathBuf) -> Result<Self, EmbeddedError> {
        blocking(move || {
            let account = Account::choose(&directory.join(CLUSTER))?;
            let lock = DirectoryLock::acquire(&directory, account.passage_mode())?;
            account.check_reach(lock.path())?;
            let cluster = Self { lock, account };
            cluster.end_processes()?;
            Ok(cluster)
        })
        .await
    }

    /// The directory, with everything that belongs to the cluster.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.lock.path()
    }

    /// PostgreSQL's own directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.directory().join(CLUSTER)
    }

    /// Where its tablespaces are to be, which are elsewhere on the server that it is a copy of.
    #[must_use]
    pub fn tablespace_dir(&self) -> PathBuf {
        self.directory().join(TABLESPACES)
    }

    /// Where programs that run as its user may keep locks.
    #[must_use]
    pub fn lock_dir(&self) -> PathBuf {
        self.directory().join(LOCKS)
    }

    /// Empties it: what is there of an earlier attempt goes.
    pub async fn prepare(&self) -> Result<(), EmbeddedError> {
        let (directory, account) = (self.directory().to_owned(), self.account.clone());
        blocking(move || {
            for name in [CLUSTER, TABLESPACES, LOCKS] {
                let path = directory.join(name);
                remove_all(&path)?;
                account.create_directory(&path)?;
            }
            Ok(())
        })
        .await
    }

    /// A program of the usual places as the user that the cluster belongs to, with nothing of our environment.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        self.account.command(Path::new(program), "KILL")
    }

    /// Starts it, and waits until it has recovered as its `postgresql.auto.conf` says. An error quotes the end of
    /// its log.
    pub async fn start(&self) -> Result<RestoredPostgres, EmbeddedError> {
        let (directory, account) = (self.directory().to_owned(), self.account.clone());
        let running = blocking(move || launch(&directory, &account)).await?;
        while !is_ready(&self.data_dir(), running.postmaster.pid) {
            if let Some(status) = running.postmaster.exit_status() {
                let log = fs::read_to_string(log_path(self.directory())).unwrap_or_default();
                let (program, status) = ("postgres".to_owned(), status.to_string());
                return Err(EmbeddedError::Program { program, status, output: last_lines(&log) });
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(running)
    }

    /// Ends what runs in it and removes the directory.
    pub async fn remove(self) -> Result<(), EmbeddedError> {
        blocking(move || {
            self.end_processes()?;
            remove_all(self.directory())
        })
        .await
    }

    /// Nothing that they could still write is of use to anybody. Then a `postmaster.pid` that is still there is stale for
    /// certain, which PostgreSQL alone could not tell.
    fn end_processes(&self) -> Result<(), EmbeddedError> {
        let deadline = Instant::now() + END_LIMIT;
        loop {
            let processes = processes_in(&self.data_dir());
            if processes.is_empty() {
                return match fs::remove_file(self.data_dir().join("postmaster.pid")) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        Err(EmbeddedError::io("remove a stale postmaster.pid")(error))
                    }
                    _ => Ok(()),
                };
            }
            if Instant::now() > deadline {
                return Err(EmbeddedError::InUse { directory: self.directory().to_owned() });
            }
            for pid in processes {
                let _ = kill_process(pid, Signal::KILL);
            }
            thread::sleep(LOOK);
        }
    }
}

impl RestoredPostgres {
    /// How to log in as a user that the cluster has, to the database `postgres`: as pairs of libpq's, without
    /// a password.
    #[must_use]
    pub fn address(&self, user: &str) -> String {
        let quoted = |text: &str| text.replace('\\', "\\\\").replace('\'', "\\'");
        let directory = self.socket_dir.display().to_string();
        format!("host='{}' port=5432 user='{}' dbname=postgres", quoted(&directory), quoted(user))
    }

    /// Ends it at once: its directory is not to be started again.
    pub async fn stop(self) -> Result<(), EmbeddedError> {
        blocking(move || {
            drop(self);
            Ok(())
        })
        .await
    }
}

fn launch(directory: &Path, account: &Account) -> Result<RestoredPostgres, EmbeddedError> {
    let cluster = directory.join(CLUSTER);
    let version = fs::read_to_string(cluster.join("PG_VERSION")).unwrap_or_default();
    let major = version.trim().parse().map_err(|_| EmbeddedError::Unusable {
        directory: cluster.clone(),
        reason: "it has no PG_VERSION, so it is no whole cluster; restore it again".to_owned(),
    })?;
    let installation = Installation::find(Some(major), None)?;
    let scratch = Scratch::new()?;
    let socket_dir = scratch.path().join("socket");
    account.create_directory(&socket_dir)?;

    let mut command = account.command(&installation.program("postgres"), DEATH_SIGNAL);
    command.arg("-D").arg(&cluster);
    for ((name, content), setting) in FILES.iter().zip(["config_file", "hba_file", "ident_file"]) {
        let path = directory.join(name);
        fs::write(&path, content)
            .map_err(EmbeddedError::io(format!("write {}", path.display())))?;
        account.own(&path)?;
        command.arg("-c").arg(format!("{setting}={}", path.display()));
    }
    command.arg("-c").arg(format!("unix_socket_directories={}", socket_dir.display()));
    for (name, value) in SETTINGS {
        command.arg("-c").arg(format!("{name}={value}"));
    }
    let log = new_log(&log_path(directory))?;
    command.stdout(Stdio::null()).stderr(Stdio::from(log));
    // Ctrl-C goes to our whole process group; when the cluster stops is for us to say.
    command.process_group(0);
    let postmaster = Postmaster::start(command)?;
    Ok(RestoredPostgres { postmaster, socket_dir, _scratch: scratch })
}

fn log_path(directory: &Path) -> PathBuf {
    directory.join("postgres.log")
}

fn new_log(path: &Path) -> Result<File, EmbeddedError> {
    // Statements appear in it, so it is for our eyes only.
    File::options()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(EmbeddedError::io(format!("create {}", path.display())))
}

fn remove_all(path: &Path) -> Result<(), EmbeddedError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(EmbeddedError::io(format!("remove {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}
