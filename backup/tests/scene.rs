//! A tenant with a "database" (a file), its key, a store, and the stand-in programs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tempfile::TempDir;
use tenantry_backup::{
    BackupKey, BackupStore, DumpError, DumpRequest, Dumped, Manifest, ObjectKey, PgTools,
    Recipient, RestoreError, RestoreRequest, Restored, TableRows, dump, finish, restore,
};
use tokio::io::AsyncReadExt;
use uuid::Uuid;

pub(crate) struct Scene {
    pub(crate) store: BackupStore,
    pub(crate) tenant: Uuid,
    pub(crate) backup: Uuid,
    pub(crate) key: BackupKey,
    pub(crate) tools: PgTools,
    /// What the stand-in dumps.
    pub(crate) content: Vec<u8>,
    /// Who else may read the dump.
    pub(crate) also_for: Vec<Recipient>,
    files: TempDir,
}

impl Scene {
    /// A database of `bytes` bytes that do not compress.
    pub(crate) async fn new(bytes: usize) -> Self {
        let files = TempDir::new().expect("a scratch directory");
        let content = noise(bytes);
        std::fs::write(files.path().join("database"), &content).expect("the database");
        let tools = PgTools::for_server(15, &[tools_dir()]).await;
        Self {
            store: BackupStore::memory(),
            tenant: Uuid::now_v7(),
            backup: Uuid::now_v7(),
            key: BackupKey::generate(),
            tools: tools.expect("the stand-ins"),
            content,
            also_for: Vec::new(),
            files,
        }
    }

    /// Dumps; `behaviour` is what the stand-in does at the end.
    pub(crate) async fn dump(&self, behaviour: &str) -> Result<Dumped, DumpError> {
        let request = DumpRequest {
            tools: &self.tools,
            libpq_env: self.env("database", behaviour),
            snapshot: None,
            lock_timeout: Duration::from_secs(1),
            absent: Vec::new(),
            also_for: self.also_for.clone(),
        };
        let object = ObjectKey::dump(self.tenant, self.backup);
        dump(&self.store, &object, &self.key, request, |_| {}).await
    }

    /// Dumps and stores the manifest.
    pub(crate) async fn back_up(&self) -> Manifest {
        let dumped = self.dump("").await.expect("a dump");
        let manifest = self.manifest(dumped);
        finish(&self.store, &manifest).await.expect("a manifest");
        manifest
    }

    /// A signed manifest for a dump.
    pub(crate) fn manifest(&self, dumped: Dumped) -> Manifest {
        let mut manifest = Manifest {
            format: Manifest::format_of(None),
            tenant: self.tenant,
            backup: self.backup,
            started_at: Timestamp::UNIX_EPOCH,
            finished_at: Timestamp::UNIX_EPOCH,
            attempt: None,
            dump_bytes: dumped.dump_bytes,
            dump_sha256: dumped.dump_sha256,
            plain_bytes: dumped.plain_bytes,
            server_version: "15.18".to_owned(),
            client_version: self.tools.version().to_owned(),
            schema_version: 1,
            schema_digest: None,
            tables: vec![TableRows { schema: "public".into(), table: "notes".into(), rows: 1 }],
            key_id: "test".to_owned(),
            wrapped_key: String::new(),
            also_for: Vec::new(),
            mac: String::new(),
            extra: BTreeMap::new(),
        };
        manifest.sign(&self.key);
        manifest
    }

    pub(crate) async fn restore(
        &self,
        manifest: &Manifest,
        behaviour: &str,
    ) -> Result<Restored, RestoreError> {
        let request = RestoreRequest {
            tenant: self.tenant,
            tools: &self.tools,
            libpq_env: self.env("restored", behaviour),
        };
        restore(&self.store, manifest, &self.key, request, |_| {}).await
    }

    /// What the stand-in restored.
    pub(crate) fn restored(&self) -> Vec<u8> {
        std::fs::read(self.files.path().join("restored")).unwrap_or_default()
    }

    pub(crate) async fn stored_dump(&self) -> Vec<u8> {
        let key = ObjectKey::dump(self.tenant, self.backup);
        let mut reader = self.store.open(&key).await.expect("a dump");
        let mut body = Vec::new();
        reader.read_to_end(&mut body).await.expect("the whole dump");
        body
    }

    pub(crate) async fn replace_dump(&self, body: &[u8]) {
        let key = ObjectKey::dump(self.tenant, self.backup);
        self.store.put(&key, Bytes::copy_from_slice(body)).await.expect("a dump");
    }

    fn env(&self, database: &str, behaviour: &str) -> Vec<(&'static str, String)> {
        let database = self.files.path().join(database);
        vec![
            ("PGDATABASE", database.to_string_lossy().into_owned()),
            ("PGAPPNAME", behaviour.to_owned()),
            ("PGPASSWORD", "open sesame".to_owned()),
        ]
    }
}

pub(crate) fn tools_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools")
}

/// Bytes that do not compress, the same every time.
pub(crate) fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(bytes).collect()
}
