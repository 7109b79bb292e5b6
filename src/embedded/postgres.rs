//! A PostgreSQL cluster of our own: made when there is none, started, and ended with us.
//!
//! Everybody needs a password (SCRAM), on the socket too. TCP is bound to 127.0.0.1 and to nothing
//! else. The cluster's processes run as us, or, because PostgreSQL refuses root, as the user
//! `postgres`.

mod data_directory;
mod installation;
mod postmaster;
mod restored;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Signal, kill_process};
use secrecy::ExposeSecret as _;

pub use self::restored::{RestoredCluster, RestoredPostgres};
use self::{
    data_directory::{DataDirectory, Origin},
    installation::last_lines,
    postmaster::{DEATH_SIGNAL, Postmaster},
};
use super::{EmbeddedError, blocking, free_port, scratch::Scratch};

/// Recovery of a large cluster after a crash takes its time; as long as the postmaster lives we
/// wait this long.
const START_LIMIT: Duration = Duration::from_mins(5);
/// A fast shutdown writes a checkpoint. After this long it becomes an immediate one, which recovery
/// repairs.
const STOP_LIMIT: Duration = Duration::from_mins(2);
const READY_POLL: Duration = Duration::from_millis(5);
/// Names the socket when there is no TCP port to name it after.
const SOCKET_PORT: u16 = 5432;
/// Somebody may take a free port between our look and PostgreSQL's bind.
const FREE_PORT_TRIES: u32 = 5;

/// How a cluster listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// On this port of 127.0.0.1, and on the socket.
    Tcp(u16),
    /// On a port of 127.0.0.1 that is free right now, and on the socket.
    Free,
    /// On the Unix socket alone.
    SocketOnly,
}

/// What a cluster is made and started with.
#[derive(Debug, Clone)]
pub struct PostgresSettings {
    /// Holds the cluster, its log and its password. Created when missing; ignored by
    /// [`EmbeddedPostgres::start_scratch`].
    pub data_dir: PathBuf,
    /// Where it listens.
    pub port: Port,
    /// `false` is faster, and a crash of the machine may ruin the cluster. The death of its processes
    /// loses nothing that was committed, either way.
    pub durable: bool,
    /// Connections the server accepts, the three it reserves for superusers included.
    pub max_connections: u32,
    /// Where its programs are, if not those of the newest version in the usual places.
    pub bin_dir: Option<PathBuf>,
    /// Further server settings, as in `postgresql.conf`; they win over ours.
    pub extra: Vec<(String, String)>,
}

impl PostgresSettings {
    /// A durable cluster in `data_dir`, on a free port, for 100 connections.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            port: Port::Free,
            durable: true,
            max_connections: 100,
            bin_dir: None,
            extra: Vec::new(),
        }
    }

    /// For [`EmbeddedPostgres::start_scratch`]: on a free port, for 100 connections, not durable.
    #[must_use]
    pub fn scratch() -> Self {
        Self { durable: false, ..Self::new("") }
    }
}

/// A running cluster. Dropping it ends the cluster at once, without the checkpoint that
/// [`EmbeddedPostgres::stop`] waits for; the next start recovers what was committed.
#[derive(Debug)]
pub struct EmbeddedPostgres {
    // Dropped in this order: the directories go away after the processes that write to them.
    postmaster: Postmaster,
    port: u16,
    place: Arc<Place>,
}

/// A cluster that was stopped for good. New ones begin with what is in it: [`EmbeddedPostgres::start_copy`].
#[derive(Debug, Clone)]
pub struct ClusterTemplate(Arc<Place>);

/// Where a cluster lives and how it is started: what stays the same over a restart.
#[derive(Debug)]
struct Place {
    settings: PostgresSettings,
    socket_dir: PathBuf,
    directory: DataDirectory,
    /// Holds the socket, and the data of a scratch cluster.
    _scratch: Scratch,
}

impl EmbeddedPostgres {
    /// Starts the cluster in `settings.data_dir`, which is made when there is none, and waits until
    /// it accepts connections.
    pub async fn start(settings: PostgresSettings) -> Result<Self, EmbeddedError> {
        blocking(move || {
            let origin = Origin::Nothing(settings.bin_dir.as_deref());
            let directory = DataDirectory::open(&settings.data_dir, settings.durable, &origin)?;
            Self::launch(settings, directory, Scratch::new()?)
        })
        .await
    }

    /// Starts a new, empty cluster in a temporary directory, which goes away with it. The first one
    /// of a process costs an `initdb`; the others copy what that made.
    pub async fn start_scratch(settings: PostgresSettings) -> Result<Self, EmbeddedError> {
        blocking(move || {
            let template = template(settings.bin_dir.as_deref())?;
            Self::launch_copy(settings, &template.directory)
        })
        .await
    }

    /// Starts a new cluster in a temporary directory as [`EmbeddedPostgres::start_scratch`] does, which
    /// begins with the template's version, databases, roles and password.
    pub async fn start_copy(
        template: &ClusterTemplate,
        settings: PostgresSettings,
    ) -> Result<Self, EmbeddedError> {
        let template = template.clone();
        blocking(move || Self::launch_copy(settings, &template.0.directory)).await
    }

    /// Stops it as [`EmbeddedPostgres::stop`] does, and keeps it for copies.
    pub async fn into_template(self) -> ClusterTemplate {
        self.shut_down().await;
        ClusterTemplate(Arc::clone(&self.place))
    }

    /// Starts a standby of this cluster in a temporary directory, which goes away with it: with the same
    /// password and settings, on a port of its own, replicating by streaming. This one must listen on TCP.
    pub async fn start_standby(&self) -> Result<Self, EmbeddedError> {
        let (primary, port) = (Arc::clone(&self.place), self.port);
        blocking(move || {
            let settings = PostgresSettings { port: Port::Free, ..primary.settings.clone() };
            let scratch = Scratch::new()?;
            let origin = Origin::StandbyOf(&primary.directory, port);
            let directory = DataDirectory::open(&scratch.path().join("data"), false, &origin)?;
            Self::launch(settings, directory, scratch)
        })
        .await
    }

    /// `postgres://` URL of the superuser's database `postgres`, with the password in it: over TCP,
    /// or over the socket when there is no TCP.
    #[must_use]
    pub fn url(&self) -> String {
        self.database_url("postgres")
    }

    /// The same for another database, whose name must need no escaping in a URL.
    #[must_use]
    pub fn database_url(&self, database: &str) -> String {
        match self.port() {
            Some(port) => self.url_at(&format!("127.0.0.1:{port}"), database),
            None => self.url_at(&self.socket_authority(), database),
        }
    }

    /// What [`EmbeddedPostgres::url`] gives, over the Unix socket.
    #[must_use]
    pub fn socket_url(&self) -> String {
        self.url_at(&self.socket_authority(), "postgres")
    }

    /// The superuser's password.
    #[must_use]
    pub fn password(&self) -> &str {
        self.place.directory.password.expose_secret()
    }

    /// The TCP port on 127.0.0.1, if there is one. A restart keeps it.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        (self.place.settings.port != Port::SocketOnly).then_some(self.port)
    }

    /// Where the server's programs are; on Debian also `psql`, `pg_dump` and `pg_restore` of the
    /// same version.
    #[must_use]
    pub fn bin_dir(&self) -> &Path {
        &self.place.directory.installation.bin_dir
    }

    /// What the server writes. It may quote statements.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.place.directory.log_path()
    }

    /// The numbers of all processes of the cluster; none once it has ended.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        let pids = self.place.directory.processes();
        pids.iter().map(|pid| pid.as_raw_nonzero().get().unsigned_abs()).collect()
    }

    /// Returns when the server ends for whatever reason: to notice the end of one that nobody
    /// stopped.
    pub async fn ended(&self) {
        self.postmaster.ended().await;
    }

    /// Ends all sessions, writes a checkpoint and waits until every process is gone.
    pub async fn stop(self) -> Result<(), EmbeddedError> {
        self.shut_down().await;
        // Removing the directories of a scratch cluster blocks.
        blocking(move || {
            drop(self);
            Ok(())
        })
        .await
    }

    /// Stops it, or finds it ended, and starts it again under the same URL.
    pub async fn restart(&mut self) -> Result<(), EmbeddedError> {
        self.shut_down().await;
        let (place, port) = (Arc::clone(&self.place), self.port);
        self.postmaster = blocking(move || {
            place.directory.wait_until_vacant()?;
            place.start(port)
        })
        .await?;
        Ok(())
    }

    /// Kills every process of the cluster with SIGKILL, as a crash of the machine would, and
    /// returns at once. The directory stays, and [`EmbeddedPostgres::restart`] recovers what is in
    /// it.
    pub fn kill(&self) {
        // The postmaster first: it would restart the others.
        self.postmaster.signal(Signal::KILL);
        for pid in self.place.directory.processes() {
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    fn launch_copy(
        settings: PostgresSettings,
        original: &DataDirectory,
    ) -> Result<Self, EmbeddedError> {
        let scratch = Scratch::new()?;
        let origin = Origin::CopyOf(original);
        let directory = DataDirectory::open(&scratch.path().join("data"), false, &origin)?;
        Self::launch(settings, directory, scratch)
    }

    fn launch(
        settings: PostgresSettings,
        directory: DataDirectory,
        scratch: Scratch,
    ) -> Result<Self, EmbeddedError> {
        let socket_dir = scratch.path().join("socket");
        directory.account.create_directory(&socket_dir)?;
        let place = Arc::new(Place { settings, socket_dir, directory, _scratch: scratch });
        let mut tries = 0;
        loop {
            let port = place.choose_port()?;
            tries += 1;
            match place.start(port) {
                Ok(postmaster) => return Ok(Self { postmaster, port, place }),
                Err(EmbeddedError::PortInUse { .. })
                    if place.settings.port == Port::Free && tries < FREE_PORT_TRIES => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn shut_down(&self) {
        self.postmaster.signal(Signal::INT);
        if tokio::time::timeout(STOP_LIMIT, self.postmaster.ended()).await.is_err() {
            tracing::warn!("the embedded PostgreSQL takes too long to stop, ending it at once");
            self.postmaster.signal(Signal::QUIT);
            self.postmaster.ended().await;
        }
    }

    fn socket_authority(&self) -> String {
        let directory = self.place.socket_dir.display().to_string().replace('/', "%2F");
        format!("{directory}:{}", self.port)
    }

    fn url_at(&self, authority: &str, database: &str) -> String {
        format!("postgres://postgres:{}@{authority}/{database}", self.password())
    }
}

impl Place {
    fn choose_port(&self) -> Result<u16, EmbeddedError> {
        match self.settings.port {
            Port::Tcp(port) => Ok(port),
            Port::SocketOnly => Ok(SOCKET_PORT),
            Port::Free => free_port().map_err(EmbeddedError::io("find a free port on 127.0.0.1")),
        }
    }

    /// Starts the postmaster and waits until it accepts connections.
    fn start(&self, port: u16) -> Result<Postmaster, EmbeddedError> {
        let log = self.directory.new_log()?;
        let mut command = self.command(port);
        command.stdout(Stdio::null()).stderr(Stdio::from(log));
        // Ctrl-C goes to our whole process group; when the cluster stops is for us to say.
        command.process_group(0);
        let postmaster = Postmaster::start(command)?;

        let deadline = Instant::now() + START_LIMIT;
        while !self.directory.is_ready(postmaster.pid) {
            if let Some(status) = postmaster.exit_status() {
                return Err(self.start_failure(port, &status.to_string()));
            }
            if Instant::now() > deadline {
                return Err(self.start_failure(port, "not ready in time"));
            }
            thread::sleep(READY_POLL);
        }
        Ok(postmaster)
    }

    fn command(&self, port: u16) -> Command {
        let account = &self.directory.account;
        let mut command =
            account.command(&self.directory.installation.program("postgres"), DEATH_SIGNAL);
        command.arg("-D").arg(self.directory.cluster());
        let mut set = |name: &str, value: &str| {
            command.arg("-c").arg(format!("{name}={value}"));
        };
        let tcp = self.settings.port != Port::SocketOnly;
        set("listen_addresses", if tcp { "127.0.0.1" } else { "" });
        set("port", &port.to_string());
        set("unix_socket_directories", &self.socket_dir.display().to_string());
        set("max_connections", &self.settings.max_connections.to_string());
        if !self.settings.durable {
            // A commit still waits until the kernel has it, so a killed server loses none.
            set("fsync", "off");
            set("full_page_writes", "off");
            // In the data directory, where a killed cluster leaves nothing behind in /dev/shm.
            set("dynamic_shared_memory_type", "mmap");
        }
        for (name, value) in &self.settings.extra {
            set(name, value);
        }
        command
    }

    fn start_failure(&self, port: u16, status: &str) -> EmbeddedError {
        let log = fs::read_to_string(self.directory.log_path()).unwrap_or_default();
        if log.contains("could not bind") {
            return EmbeddedError::PortInUse { port };
        }
        let (program, status) = ("postgres".to_owned(), status.to_owned());
        EmbeddedError::Program { program, status, output: last_lines(&log) }
    }
}

/// The cluster that scratch clusters of one version are copies of: initialised once a process, never started.
struct Template {
    directory: DataDirectory,
    _scratch: Scratch,
}

fn template(bin_dir: Option<&Path>) -> Result<Arc<Template>, EmbeddedError> {
    type Templates = BTreeMap<Option<PathBuf>, Arc<Template>>;
    // They are never dropped; the scratch directories go away with the process.
    static TEMPLATES: Mutex<Templates> = Mutex::new(BTreeMap::new());

    let mut templates = TEMPLATES.lock().unwrap_or_else(PoisonError::into_inner);
    let bin_dir = bin_dir.map(Path::to_owned);
    if let Some(template) = templates.get(&bin_dir) {
        return Ok(Arc::clone(template));
    }
    let (scratch, origin) = (Scratch::new()?, Origin::Nothing(bin_dir.as_deref()));
    let directory = DataDirectory::open(&scratch.path().join("data"), false, &origin)?;
    let template = Arc::new(Template { directory, _scratch: scratch });
    templates.insert(bin_dir, Arc::clone(&template));
    Ok(template)
}
