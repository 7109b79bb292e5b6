//! pgBackRest, as an operator has it: the WAL of a fleet's server in a repository, with base backups.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use jiff::Timestamp;
use tempfile::TempDir;
use tenantry::embedded::PostgresSettings;
use tenantry::operations::ArchiveSettings;
use tenantry_provisioning::ServerUrl;

use super::{Fleet, Options, eventually};

const STANZA: &str = "main";

/// The archive of a fleet's server.
pub struct WalArchive {
    folder: TempDir,
}

impl WalArchive {
    /// A fleet whose server archives its WAL, and whose worker knows where.
    pub async fn with_fleet() -> (Fleet, Self) {
        let archive = Self { folder: open_folder() };
        std::fs::write(archive.config(), archive.configuration()).unwrap();
        // It is asked before there is a stanza, too, and asks again.
        let command = format!(
            "pgbackrest --config={} --stanza={STANZA} --pg1-path=\"$PWD\" archive-push %p",
            archive.config().display()
        );
        let extra =
            [("archive_mode", "on"), ("archive_command", &command), ("full_page_writes", "on")];
        let extra = extra.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let postgres = PostgresSettings { extra, ..PostgresSettings::scratch() };
        let mut fleet = Fleet::start_with(Options { postgres, ..Options::default() }).await;
        archive.run(&fleet, "stanza-create");
        fleet.environment.limits.archives = Some(Box::new(archive.settings()));
        (fleet, archive)
    }

    /// Backs the server up, and waits until a moment is after that beyond doubt: pgBackRest notes whole seconds.
    pub async fn back_up(&self, fleet: &Fleet) {
        self.run(fleet, "backup");
        let ended = Timestamp::now();
        let passed = async || Timestamp::now().duration_since(ended).as_millis() > 1_100;
        eventually("a second passes", passed).await;
    }

    pub fn settings(&self) -> ArchiveSettings {
        ArchiveSettings {
            config: Some(self.config()),
            stanzas: [("default".to_owned(), STANZA.to_owned())].into(),
            scratch_dir: self.scratch_dir(),
        }
    }

    /// The same settings, for a program of ours.
    pub fn variables(&self) -> [(&'static str, String); 3] {
        [
            ("TENANTRY_PITR_STANZAS", format!("default={STANZA}")),
            ("TENANTRY_PITR_CONFIG", self.config().display().to_string()),
            ("TENANTRY_PITR_SCRATCH_DIR", self.scratch_dir().display().to_string()),
        ]
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("pgbackrest.conf")
    }

    pub fn scratch_dir(&self) -> PathBuf {
        self.folder.path().join("scratch")
    }

    /// What restores have left there.
    pub fn left(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.scratch_dir()) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn configuration(&self) -> String {
        let folder = self.folder.path().display();
        format!(
            "[global]\nrepo1-path={folder}/repository\nlock-path={folder}/repository/lock\n\
             log-level-file=off\ncompress-type=none\nstart-fast=y\nrepo1-retention-full=2\nrepo1-bundle=y\n\
             process-max=4\n[{STANZA}]\n"
        )
    }

    /// Runs pgBackRest as the user of the server's files.
    fn run(&self, fleet: &Fleet, what: &str) {
        let data = fleet.postgres.log_path().with_file_name("cluster");
        let owner = std::fs::metadata(&data).unwrap();
        let url = ServerUrl::parse(&fleet.postgres.socket_url()).unwrap();
        let place = url.host_label();
        let (socket, port) = place.rsplit_once(':').unwrap();
        let mut command = Command::new("setpriv");
        if owner.uid() != own_uid() {
            command.arg(format!("--reuid={}", owner.uid()));
            command.arg(format!("--regid={}", owner.gid()));
            command.arg("--clear-groups");
        }
        command.args(["--", "pgbackrest", "--pg1-user=postgres"]);
        command.arg(format!("--config={}", self.config().display()));
        command.arg(format!("--stanza={STANZA}"));
        command.arg(format!("--pg1-path={}", data.display()));
        command.arg(format!("--pg1-socket-path={socket}")).arg(format!("--pg1-port={port}"));
        command.env("PGPASSWORD", fleet.postgres.password()).current_dir("/");
        let Output { status, stdout, stderr } = command.arg(what).output().unwrap();
        let said = [stdout, stderr].concat();
        assert!(status.success(), "{what}: {}", String::from_utf8_lossy(&said));
    }
}

/// A folder in which the server's user can have a repository.
fn open_folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    let open = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    open(folder.path(), 0o711);
    let repository = folder.path().join("repository");
    std::fs::create_dir(&repository).unwrap();
    open(&repository, 0o777);
    folder
}

fn own_uid() -> u32 {
    std::fs::metadata("/proc/self").unwrap().uid()
}
