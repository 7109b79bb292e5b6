//! [`SeaweedFs`]: an S3 server that nobody here wrote, as a process that lives and dies with its value.
//!
//! `.ci/bootstrap tests` brings it. It has what the embedded one lacks: a list of unfinished uploads, versions
//! and Object Lock.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use serde_json::json;
use tempfile::TempDir;
use tenantry::embedded::free_port;
use tenantry_backup::{BackupStore, S3Settings};

const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/seaweedfs/site/bin/weed");
const ACCESS_KEY: &str = "conformance";
const SECRET_KEY: &str = "only-for-a-test";
const REGION: &str = "us-east-1";
const CONFIG: &str = "s3.json";
/// Tries: somebody else may take one of its ports before it does.
const STARTS: usize = 3;
/// What it listens on, and what it calls that.
const PORTS: [&str; 8] = [
    "s3.port",
    "s3.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "master.port",
    "master.port.grpc",
];

/// A running server with no bucket yet.
pub struct SeaweedFs {
    process: Child,
    ports: Vec<u16>,
    _files: Arc<TempDir>,
}

impl SeaweedFs {
    /// `None` where it is not installed.
    pub async fn start() -> Option<Self> {
        if !Path::new(PROGRAM).exists() {
            eprintln!("SeaweedFS is not installed: `.ci/bootstrap tests` brings it");
            return None;
        }
        let files = tempfile::tempdir().unwrap();
        let identity = json!({
            "name": "test",
            "credentials": [{ "accessKey": ACCESS_KEY, "secretKey": SECRET_KEY }],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"]
        });
        let identities = json!({ "identities": [identity] });
        std::fs::write(files.path().join(CONFIG), identities.to_string()).unwrap();
        let files = Arc::new(files);
        for _ in 0..STARTS {
            let mut server = Self::spawn(Arc::clone(&files));
            if server.answers().await {
                return Some(server);
            }
        }
        panic!("SeaweedFS does not start");
    }

    fn spawn(files: Arc<TempDir>) -> Self {
        let ports = free_ports();
        let named = PORTS.iter().zip(&ports).map(|(name, port)| format!("-{name}={port}"));
        let process = Command::new("setpriv")
            // It must not outlive the test, however that ends.
            .args(["--pdeathsig", "KILL", PROGRAM, "-logtostderr=true", "server", "-s3", "-filer"])
            .args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3.port.iceberg=0", "-s3.port.lance=0"])
            .args(["-volume.max=100", "-volume.minFreeSpace=1", "-master.volumeSizeLimitMB=64"])
            // It tells its maker about itself unless it is told not to.
            .arg("-master.telemetry=false")
            .arg(format!("-s3.config={}", files.path().join(CONFIG).display()))
            .arg(format!("-dir={}", files.path().display()))
            .args(named)
            .current_dir(files.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { process, ports, _files: files }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[0])
    }

    /// A client of its own, for what the product does not do: buckets, versions, uploads that nobody ends.
    pub fn client(&self) -> Client {
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new(REGION))
            .endpoint_url(self.endpoint())
            .force_path_style(true)
            .credentials_provider(Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "test"))
            .build();
        Client::from_conf(config)
    }

    pub fn settings(&self, bucket: &str) -> S3Settings {
        S3Settings {
            bucket: bucket.to_owned(),
            prefix: "tenantry".to_owned(),
            endpoint: Some(self.endpoint()),
            region: Some(REGION.to_owned()),
            force_path_style: true,
            credentials: Some((ACCESS_KEY.to_owned(), SECRET_KEY.into())),
            object_lock: None,
            encryption: None,
        }
    }

    pub async fn store(&self, bucket: &str) -> BackupStore {
        BackupStore::s3(self.settings(bucket)).await.unwrap()
    }

    /// It takes about four seconds, and longer where much else goes on. It ends where somebody else has taken one of
    /// its ports meanwhile.
    async fn answers(&mut self) -> bool {
        let client = self.client();
        for _ in 0..600 {
            if self.process.try_wait().unwrap().is_some() {
                return false;
            }
            if client.list_buckets().send().await.is_ok() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        false
    }
}

impl Drop for SeaweedFs {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
        // It leaves its sockets behind, each named after a port.
        for entry in std::fs::read_dir("/tmp").unwrap().flatten() {
            let path: PathBuf = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_ours = self.ports.iter().any(|port| name.ends_with(&format!("-{port}.sock")));
            if name.starts_with("seaweedfs-") && is_ours {
                drop(std::fs::remove_file(path));
            }
        }
    }
}

fn free_ports() -> Vec<u16> {
    let mut ports = BTreeSet::new();
    while ports.len() < PORTS.len() {
        ports.insert(free_port().unwrap());
    }
    ports.into_iter().collect()
}
