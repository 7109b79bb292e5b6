//! The directory of one cluster: `cluster/` is PostgreSQL's, everything beside it is ours.
//!
//! `initdb` works in `cluster.new`, and a rename makes it the cluster: whoever finds `cluster/`
//! finds a complete one. The superuser's password is written before that, so a cluster never exists
//! without its password.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Pid;
use secrecy::{ExposeSecret as _, SecretString};

use super::super::{DirectoryLock, EmbeddedError, random_password, write_private};
use super::installation::{Account, Installation, run};

/// How long a postmaster whose owner died may take to shut down before we give up on its directory.
const VACATE: Duration = Duration::from_mins(1);

/// A locked data directory with a complete cluster in it.
#[derive(Debug)]
pub(super) struct DataDirectory {
    lock: DirectoryLock,
    pub(super) installation: Installation,
    pub(super) account: Account,
    pub(super) password: SecretString,
}

/// Where the content of a new cluster comes from.
pub(super) enum Origin<'a> {
    /// From `initdb`: the newest that is here, or the one in this directory.
    Nothing(Option<&'a Path>),
    /// From a cluster that does not run.
    CopyOf(&'a DataDirectory),
    /// From one that runs at this port of 127.0.0.1, and whose standby the new one is to be.
    StandbyOf(&'a DataDirectory, u16),
}

impl DataDirectory {
    /// Takes the directory, and makes a cluster in it when there is none.
    pub(super) fn open(
        path: &Path,
        durable: bool,
        origin: &Origin<'_>,
    ) -> Result<Self, EmbeddedError> {
        let account = Account::choose(&path.join("cluster"))?;
        let lock = DirectoryLock::acquire(path, account.passage_mode())?;
        account.check_reach(lock.path())?;
        let major = fs::read_to_string(lock.path().join("cluster/PG_VERSION"))
            .ok()
            .and_then(|text| text.trim().parse().ok());
        let installation = match origin {
            Origin::Nothing(bin_dir) => Installation::find(major, *bin_dir)?,
            Origin::CopyOf(other) | Origin::StandbyOf(other, _) => other.installation.clone(),
        };

        let mut directory = Self { lock, installation, account, password: SecretString::default() };
        match origin {
            _ if major.is_some() => directory.password = directory.read_password()?,
            Origin::Nothing(_) => directory.initialise(durable)?,
            Origin::CopyOf(template) => directory.copy(template)?,
            Origin::StandbyOf(primary, port) => directory.follow(primary, *port)?,
        }
        directory.wait_until_vacant()?;
        Ok(directory)
    }

    /// PostgreSQL's own directory.
    pub(super) fn cluster(&self) -> PathBuf {
        self.lock.path().join("cluster")
    }

    /// What the running cluster writes; each start begins a new one.
    pub(super) fn log_path(&self) -> PathBuf {
        self.lock.path().join("postgres.log")
    }

    /// Begins a new log and keeps the previous one as `postgres.log.old`.
    pub(super) fn new_log(&self) -> Result<File, EmbeddedError> {
        let path = self.log_path();
        if path.exists() {
            fs::rename(&path, path.with_extension("log.old"))
                .map_err(EmbeddedError::io(format!("rename {}", path.display())))?;
        }
        // Statements appear in it, so it is for our eyes only.
        File::options()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .map_err(EmbeddedError::io(format!("create {}", path.display())))
    }

    /// Every process that works in the cluster, whoever started it.
    pub(super) fn processes(&self) -> Vec<Pid> {
        processes_in(&self.cluster())
    }

    /// Waits for the processes of a previous owner, who died and whose postmaster is shutting down.
    /// Then a `postmaster.pid` that is still there is stale for certain, even if its number now
    /// belongs to another program, which PostgreSQL alone could not tell.
    pub(super) fn wait_until_vacant(&self) -> Result<(), EmbeddedError> {
        let pid_file = self.cluster().join("postmaster.pid");
        let deadline = Instant::now() + VACATE;
        while pid_file.exists() {
            if self.processes().is_empty() {
                match fs::remove_file(&pid_file) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(EmbeddedError::io("remove a stale postmaster.pid")(error));
                    }
                    _ => return Ok(()),
                }
            }
            if Instant::now() > deadline {
                return Err(EmbeddedError::InUse { directory: self.lock.path().to_owned() });
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Whether this postmaster says that it accepts connections.
    pub(super) fn is_ready(&self, postmaster: Pid) -> bool {
        is_ready(&self.cluster(), postmaster)
    }

    fn password_path(&self) -> PathBuf {
        self.lock.path().join("superuser-password")
    }

    fn read_password(&self) -> Result<SecretString, EmbeddedError> {
        let path = self.password_path();
        let password = fs::read_to_string(&path).map_err(|error| EmbeddedError::Unusable {
            directory: self.lock.path().to_owned(),
            reason: format!(
                "{} cannot be read ({}), and without it nobody can log in; \
                 restore that file or choose an empty directory",
                path.display(),
                error.kind()
            ),
        })?;
        Ok(password.trim().into())
    }

    fn keep_password(&mut self, password: SecretString) -> Result<(), EmbeddedError> {
        write_private(&self.password_path(), password.expose_secret())?;
        self.password = password;
        Ok(())
    }

    fn initialise(&mut self, durable: bool) -> Result<(), EmbeddedError> {
        self.keep_password(random_password())?;
        let building = self.new_cluster_directory()?;
        // initdb reads the password as the other user, so it gets a copy inside the directory which
        // only that user may enter.
        let password_copy = self.lock.path().join("initdb-password");
        write_private(&password_copy, self.password.expose_secret())?;
        self.account.own(&password_copy)?;

        let mut initdb = self.account.command(&self.installation.program("initdb"), "KILL");
        initdb.arg("--pgdata").arg(&building).arg("--pwfile").arg(&password_copy);
        initdb.args(["--username", "postgres", "--auth", "scram-sha-256", "--no-instructions"]);
        // The same locale on every machine, and one whose sort order never changes under the
        // indexes.
        initdb.args(["--encoding", "UTF8", "--locale", "C.UTF-8"]);
        initdb.arg(if durable { "--data-checksums" } else { "--no-sync" });
        let result = run(&mut initdb, "initdb");
        drop(fs::remove_file(&password_copy));
        result?;
        self.adopt(&building)
    }

    fn copy(&mut self, template: &Self) -> Result<(), EmbeddedError> {
        self.keep_password(template.password.clone())?;
        let building = self.new_cluster_directory()?;
        let content = template.cluster().join(".");
        run(Command::new("cp").arg("-a").arg(content).arg(&building), "cp")?;
        self.adopt(&building)
    }

    fn follow(&mut self, primary: &Self, port: u16) -> Result<(), EmbeddedError> {
        self.keep_password(primary.password.clone())?;
        let building = self.new_cluster_directory()?;
        let mut backup = self.account.command(&self.installation.program("pg_basebackup"), "KILL");
        backup.env("PGPASSWORD", self.password.expose_secret());
        backup.args(["--host", "127.0.0.1", "--port", &port.to_string(), "--username", "postgres"]);
        // It writes down where to replicate from, too.
        backup.args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "--pgdata"]);
        run(backup.arg(&building), "pg_basebackup")?;
        self.adopt(&building)
    }

    /// An empty `cluster.new`, of the account; what a killed process left there is no cluster and
    /// goes.
    fn new_cluster_directory(&self) -> Result<PathBuf, EmbeddedError> {
        let building = self.lock.path().join("cluster.new");
        if building.exists() {
            fs::remove_dir_all(&building)
                .map_err(EmbeddedError::io(format!("remove {}", building.display())))?;
        }
        self.account.create_directory(&building)?;
        Ok(building)
    }

    fn adopt(&self, building: &Path) -> Result<(), EmbeddedError> {
        let cluster = self.cluster();
        fs::rename(building, &cluster)
            .map_err(EmbeddedError::io(format!("create {}", cluster.display())))
    }
}

/// Whether this postmaster says in its `postmaster.pid` that it accepts connections.
pub(super) fn is_ready(cluster: &Path, postmaster: Pid) -> bool {
    let text = fs::read_to_string(cluster.join("postmaster.pid")).unwrap_or_default();
    let mut lines = text.lines();
    let pid = lines.next().and_then(|line| line.parse().ok()).and_then(Pid::from_raw);
    // Line 8 is the state.
    pid == Some(postmaster) && lines.nth(6).is_some_and(|state| state.trim() == "ready")
}

/// All of PostgreSQL's processes stand in their data directory, and nobody else does.
pub(super) fn processes_in(cluster: &Path) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == cluster))
        .filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
        .collect()
}
