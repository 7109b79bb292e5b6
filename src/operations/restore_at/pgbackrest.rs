//! pgBackRest, which has the backups and the WAL of whole servers: what there is, and bringing it back.
//!
//! It runs as the user that the restored files belong to, with nothing of our environment: what it must know
//! stands in its configuration file. Whatever that says of the server's own files and of spooling is overruled, so
//! that only what is the cluster's is written.

use jiff::Timestamp;
use serde::Deserialize;
use tokio::process::Command;

use super::super::StepError;
use super::ArchiveSettings;
use crate::embedded::RestoredCluster;

/// What its exit status says that may pass: a host that breaks off, cannot be reached, or is at it already.
const PASSING: [i32; 4] = [39, 49, 50, 101];
/// What `setpriv` exits with when there is no such program.
const NO_PROGRAM: i32 = 127;
/// Nothing but errors, and those to us.
const QUIET: [&str; 4] = [
    "--log-level-console=off",
    "--log-level-file=off",
    "--log-level-stderr=error",
    "--no-log-timestamp",
];

/// The archive of one server, and the directory that it is restored to.
pub(super) struct PgBackRest<'a> {
    pub cluster: &'a RestoredCluster,
    pub settings: &'a ArchiveSettings,
    /// What pgBackRest calls the server.
    pub stanza: &'a str,
}

/// One backup of a whole server.
pub(super) struct BaseBackup {
    pub label: String,
    /// Which cluster it is of, as PostgreSQL says it.
    pub cluster: Option<i64>,
    /// The databases in it, by number and by the name that they had.
    pub databases: Vec<(u32, String)>,
}

#[derive(Deserialize)]
struct Stanza {
    #[serde(default)]
    backup: Vec<Backup>,
    #[serde(default)]
    db: Vec<Cluster>,
    status: Status,
}

#[derive(Deserialize)]
struct Backup {
    label: String,
    database: ClusterRef,
    timestamp: Times,
    #[serde(default, rename = "database-ref")]
    databases: Option<Vec<Database>>,
}

#[derive(Deserialize)]
struct ClusterRef {
    id: i64,
}

#[derive(Deserialize)]
struct Times {
    /// Seconds since 1970.
    stop: i64,
}

#[derive(Deserialize)]
struct Database {
    name: String,
    oid: u32,
}

#[derive(Deserialize)]
struct Cluster {
    id: i64,
    #[serde(rename = "system-id")]
    system_id: i64,
}

#[derive(Deserialize)]
struct Status {
    message: String,
}

impl PgBackRest<'_> {
    /// The newest backup that had ended before a moment: from there on the WAL leads to it.
    pub async fn newest_before(&self, at: Timestamp) -> Result<BaseBackup, StepError> {
        let stanza = self.info(None).await?;
        let times = stanza.backup.iter().map(|backup| backup.timestamp.stop);
        let Some(oldest) = times.min() else {
            return Err(StepError::fail(
                format!(
                    "pgBackRest has no backup of the stanza {}: {}",
                    self.stanza, stanza.status.message
                ),
                format!(
                    "correct TENANTRY_PITR_STANZAS and TENANTRY_PITR_CONFIG, or make one on the server: `pgbackrest \
                     --stanza={0} stanza-create`, then `pgbackrest --stanza={0} backup`",
                    self.stanza
                ),
            ));
        };
        // It says whole seconds, and a backup can be used from its end on.
        let usable = stanza.backup.iter().filter(|backup| backup.timestamp.stop < at.as_second());
        let Some(newest) = usable.max_by_key(|backup| backup.timestamp.stop) else {
            let oldest = Timestamp::from_second(oldest).unwrap_or(Timestamp::MAX);
            return Err(StepError::fail(
                format!(
                    "the oldest backup in the archive ended at {oldest}, which is not before {at}"
                ),
                "choose a later time, or restore a backup with --before",
            ));
        };
        let cluster = stanza.db.iter().find(|cluster| cluster.id == newest.database.id);
        Ok(BaseBackup {
            label: newest.label.clone(),
            cluster: cluster.map(|cluster| cluster.system_id),
            databases: self.databases(&newest.label).await?,
        })
    }

    async fn databases(&self, label: &str) -> Result<Vec<(u32, String)>, StepError> {
        let backups = self.info(Some(label)).await?.backup.into_iter();
        let databases = backups.flat_map(|backup| backup.databases.unwrap_or_default());
        Ok(databases.map(|database| (database.oid, database.name)).collect())
    }

    /// Writes the files of a backup, and how PostgreSQL is to recover from there to a moment. Of the databases that
    /// are left out only their empty shells are made.
    pub async fn restore(
        &self,
        backup: &BaseBackup,
        at: Timestamp,
        left_out: &[String],
    ) -> Result<(), StepError> {
        let mut arguments = vec![
            format!("--set={}", backup.label),
            format!("--pg1-path={}", self.cluster.data_dir().display()),
            format!("--tablespace-map-all={}", self.cluster.tablespace_dir().display()),
            format!("--lock-path={}", self.cluster.lock_dir().display()),
            format!("--recovery-option=restore_command={}", in_settings(&self.restore_command())),
            "--type=time".to_owned(),
            format!("--target={}", at.strftime("%Y-%m-%d %H:%M:%S%.6f+00")),
        ];
        let ours = ["--target-action=promote", "--archive-mode=off", "--no-link-all", "--no-delta"];
        arguments.extend(ours.map(str::to_owned));
        arguments.extend(left_out.iter().map(|name| format!("--db-exclude={name}")));
        arguments.push("restore".to_owned());
        self.run(&arguments).await.map(drop)
    }

    /// How PostgreSQL gets its WAL. What is spooled for another server of this machine is none of its.
    fn restore_command(&self) -> String {
        let mut words = vec!["pgbackrest".to_owned()];
        words.extend(self.place());
        words.push(format!("--pg1-path={}", self.cluster.data_dir().display()));
        words.push(format!("--lock-path={}", self.cluster.lock_dir().display()));
        words.push("--no-archive-async".to_owned());
        words.extend(QUIET.map(str::to_owned));
        let quoted: Vec<String> = words.iter().map(|word| quoted(word)).collect();
        format!("{} archive-get %f \"%p\"", quoted.join(" "))
    }

    fn place(&self) -> Vec<String> {
        let config = self.settings.config.iter().map(|path| format!("--config={}", path.display()));
        config.chain([format!("--stanza={}", self.stanza)]).collect()
    }

    async fn info(&self, label: Option<&str>) -> Result<Stanza, StepError> {
        let mut arguments = vec!["--output=json".to_owned()];
        arguments.extend(label.map(|label| format!("--set={label}")));
        arguments.push("info".to_owned());
        let said = self.run(&arguments).await?;
        let stanzas: Vec<Stanza> = serde_json::from_slice(&said).map_err(|error| {
            let remedy = "use pgBackRest 2.40 or newer, then retry".to_owned();
            StepError::Fail(Box::new(error), Some(remedy))
        })?;
        stanzas.into_iter().next().ok_or_else(|| {
            StepError::fail(
                format!("pgBackRest knows no stanza {}", self.stanza),
                "correct TENANTRY_PITR_STANZAS and TENANTRY_PITR_CONFIG",
            )
        })
    }

    async fn run(&self, arguments: &[String]) -> Result<Vec<u8>, StepError> {
        let mut command = Command::from(self.cluster.command("pgbackrest"));
        command.args(self.place()).args(QUIET).args(arguments).kill_on_drop(true);
        let output = command.output().await.map_err(|error| {
            let remedy = "install Debian's package `util-linux`, then retry".to_owned();
            StepError::Fail(Box::new(error), Some(remedy))
        })?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        if output.status.code() == Some(NO_PROGRAM) {
            return Err(StepError::fail(
                "pgbackrest is not installed on the worker's machine",
                "install Debian's package `pgbackrest` there, of the server's own version, then retry",
            ));
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let message = format!("pgbackrest failed ({}): {}", output.status, said.trim());
        let remedy = "read what pgBackRest says; its user here must be able to read its configuration and its \
                      repository, and TENANTRY_PITR_SCRATCH_DIR needs room for a whole server"
            .to_owned();
        let passes = output.status.code().is_some_and(|code| PASSING.contains(&code));
        let (error, remedy) = (message.into(), Some(remedy));
        Err(if passes { StepError::Retry(error, remedy) } else { StepError::Fail(error, remedy) })
    }
}

/// One word of a command that PostgreSQL gives to a shell, after it has filled in what stands after `%`.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''").replace('%', "%%"))
}

/// A value as it stands between quotes in PostgreSQL's settings, where pgBackRest puts it as it is.
fn in_settings(value: &str) -> String {
    value.replace('\\', "\\\\").replace('\'', "''")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_stays_one_word_also_in_settings() {
        assert_eq!(quoted("--config=/etc/a b"), "'--config=/etc/a b'");
        assert_eq!(in_settings(&quoted("a b")), "''a b''");
        assert_eq!(quoted("it's 5%"), "'it'\\''s 5%%'");
    }
}
