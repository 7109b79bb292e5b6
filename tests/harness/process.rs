//! The program itself, as a process.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use secrecy::ExposeSecret as _;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Fleet;

/// `tenantry serve` with a role, on ports that are free.
pub fn serve_command(fleet: &Fleet, role: &str) -> Command {
    let mut command = command(fleet);
    command.args(["serve", "--role", role]).stdout(Stdio::null());
    command
}

/// `tenantry` with the settings of a fleet.
pub fn command(fleet: &Fleet) -> Command {
    let (id, secret) = fleet.s3.credentials();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tenantry"));
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("TENANTRY_CATALOG_URL", fleet.postgres.database_url("tenantry"))
        .env("TENANTRY_MASTER_KEY", fleet.master_key.expose_secret())
        .env("TENANTRY_LISTEN", "127.0.0.1:0")
        .env("TENANTRY_ADMIN_LISTEN", "127.0.0.1:0")
        .env("TENANTRY_TENANT_MIGRATIONS_DIR", fleet.migrations.path())
        .env("TENANTRY_TENANT_SAMPLE_DATA", "migrations/sample/boards.sql")
        .env("TENANTRY_S3_BUCKET", "backups")
        .env("TENANTRY_S3_ENDPOINT", fleet.s3.endpoint())
        .env("TENANTRY_S3_REGION", "us-east-1")
        .env("TENANTRY_S3_FORCE_PATH_STYLE", "true")
        .env("TENANTRY_WARM_SPARES", "2")
        .env("TENANTRY_HARDENING", super::usual_hardening().as_str())
        .env("AWS_ACCESS_KEY_ID", id)
        .env("AWS_SECRET_ACCESS_KEY", secret);
    command
}

/// A process that does not outlive its test, however that ends.
pub struct KillOnDrop(pub Child);

impl KillOnDrop {
    /// Kills it and waits for its end.
    pub fn kill(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A running `tenantry serve` that logs in JSON.
pub struct Serving {
    child: Child,
    lines: mpsc::UnboundedReceiver<String>,
    /// What it has logged so far.
    pub log: Vec<Value>,
}

impl Serving {
    pub fn start(fleet: &Fleet) -> Self {
        Self::start_with(fleet, &[])
    }

    /// With more settings than a fleet's.
    pub fn start_with(fleet: &Fleet, settings: &[(&str, &str)]) -> Self {
        Self::start_as(fleet, "all", settings)
    }

    /// With a role.
    pub fn start_as(fleet: &Fleet, role: &str, settings: &[(&str, &str)]) -> Self {
        let mut command = serve_command(fleet, role);
        command
            .envs(settings.iter().copied())
            .env("TENANTRY_LOG_FORMAT", "json")
            .env("TENANTRY_LOG_LEVEL", "info,tenantry=debug")
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in stderr.lines() {
                _ = sender.send(line.unwrap());
            }
        });
        Self { child, lines, log: Vec::new() }
    }

    /// The most memory that it ever had, in bytes.
    pub fn peak_memory(&self) -> usize {
        memory(self.child.id(), "VmHWM:")
    }

    /// Waits for a line that says `message`. Every line on the way must be JSON.
    pub async fn logged(&mut self, message: &str) -> Value {
        loop {
            let line = timeout(Duration::from_mins(1), self.lines.recv()).await;
            let line = line.unwrap_or_else(|_| panic!("nobody says `{message}`: {:?}", self.log));
            let line = line.unwrap_or_else(|| panic!("it ended: {:?}", self.log));
            let line = self.note(&line);
            if line["message"] == message {
                return line;
            }
        }
    }

    /// Where a listener listens.
    pub async fn address(&mut self, what: &str) -> String {
        let line = self.logged(&format!("{what} listens")).await;
        format!("http://{}", line["address"].as_str().unwrap())
    }

    /// Sends SIGTERM and waits for the end.
    pub async fn terminate(mut self) -> (ExitStatus, Vec<Value>) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let draining = async {
            while let Some(line) = self.lines.recv().await {
                self.note(&line);
            }
        };
        timeout(Duration::from_mins(1), draining).await.expect("it ends");
        (self.child.wait().unwrap(), std::mem::take(&mut self.log))
    }

    fn note(&mut self, line: &str) -> Value {
        let value: Value =
            serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"));
        self.log.push(value.clone());
        value
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// What a process holds, in bytes: now (`VmRSS:`), or the most that it ever did (`VmHWM:`).
pub fn memory(pid: u32, field: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// When a test kills its workers: at moments that a fixed rule spreads from before their first statement to the middle
/// of their work. On a busy machine that comes later, so they spread wider whenever the workers got nowhere for a while.
pub struct Moments {
    earliest: u64,
    spread: u64,
    rounds: u64,
    progress: i64,
    /// How many rounds ago that was another.
    stuck: u64,
}

impl Moments {
    /// After so many milliseconds at the earliest, and so many more at the latest.
    pub fn new(earliest: u64, spread: u64) -> Self {
        Self { earliest, spread, rounds: 0, progress: 0, stuck: 0 }
    }

    /// How long the workers of this round may live, by what all of them have got done so far.
    pub fn next(&mut self, progress: i64) -> Duration {
        self.stuck = if progress == self.progress { self.stuck + 1 } else { 0 };
        self.progress = progress;
        if self.stuck == 5 {
            (self.spread, self.stuck) = (self.spread * 2, 0);
        }
        let moment = self.earliest + (self.rounds * 7919) % self.spread;
        self.rounds += 1;
        Duration::from_millis(moment)
    }
}
