//! Where the dump of an import is: a file, or the standard input of the process that asks for it.
//!
//! Nobody else has it. So an import is driven by the process that asked for it for as long as it reads, and an
//! attempt that begins again opens the file again; what came by standard input is there once.

use std::fmt;
use std::fs::Metadata;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tenantry_backup::{DumpFormat, ForeignDump, ForeignError, Input};
use tokio::fs::File;
use tokio_util::sync::CancellationToken;

/// A dump that can be imported from here.
#[derive(Clone)]
pub struct ImportSource {
    /// None where it is the standard input.
    path: Option<PathBuf>,
    wanted: Option<DumpFormat>,
    format: DumpFormat,
    /// Its size in bytes, where it has one.
    bytes: u64,
    /// What has been opened and not yet been read.
    opened: Arc<Mutex<Option<ForeignDump>>>,
    /// Whoever asked for it does not want it any more.
    stopped: CancellationToken,
}

impl ImportSource {
    /// Opens a file, or the standard input where it is `-`, and finds out what it is.
    pub async fn open(path: &Path, wanted: Option<DumpFormat>) -> Result<Self, ForeignError> {
        let path = (path != Path::new("-")).then(|| path.to_owned());
        let (input, bytes): (Input, u64) = match &path {
            Some(path) => open_file(path).await?,
            None => standard_input().await?,
        };
        let opened = ForeignDump::open(input, wanted).await?;
        Ok(Self {
            path,
            wanted,
            format: opened.format(),
            bytes,
            opened: Arc::new(Mutex::new(Some(opened))),
            stopped: CancellationToken::new(),
        })
    }

    /// Its name for people.
    #[must_use]
    pub fn name(&self) -> String {
        match self.path.as_ref().and_then(|path| path.file_name()) {
            Some(name) => name.to_string_lossy().into_owned(),
            None => "standard input".to_owned(),
        }
    }

    /// Its format.
    #[must_use]
    pub fn format(&self) -> DumpFormat {
        self.format
    }

    /// Its size in bytes; zero where nobody knows.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Ends an import that is reading it.
    pub fn stop(&self) {
        self.stopped.cancel();
    }

    /// Ends when [`ImportSource::stop`] is called.
    pub(super) async fn stopped(&self) {
        self.stopped.cancelled().await;
    }

    /// The dump, from its beginning; `None` where it cannot be had again.
    pub(super) async fn dump(&self) -> Result<Option<ForeignDump>, ForeignError> {
        let opened = self.opened.lock().map_or(None, |mut opened| opened.take());
        match (opened, &self.path) {
            (None, Some(path)) => {
                let (input, _) = open_file(path).await?;
                ForeignDump::open(input, self.wanted).await.map(Some)
            }
            (opened, _) => Ok(opened),
        }
    }
}

async fn open_file(path: &Path) -> Result<(Input, u64), ForeignError> {
    let file = File::open(path).await.map_err(ForeignError::Read)?;
    let metadata = file.metadata().await.map_err(ForeignError::Read)?;
    if metadata.is_dir() {
        return Err(ForeignError::NotADump {
            found: "a directory",
            remedy: "of a dump in directory format, pipe in the script: `pg_restore --file=- DIR | tenantry backup import - --as SLUG`",
        });
    }
    Ok((Box::new(file), size(&metadata)))
}

async fn standard_input() -> Result<(Input, u64), ForeignError> {
    let stdin = io::stdin().as_fd().try_clone_to_owned().map_err(ForeignError::Read)?;
    let file = File::from_std(std::fs::File::from(stdin));
    let metadata = file.metadata().await.map_err(ForeignError::Read)?;
    Ok((Box::new(file), size(&metadata)))
}

/// A pipe has none.
fn size(metadata: &Metadata) -> u64 {
    if metadata.is_file() { metadata.len() } else { 0 }
}

impl fmt::Debug for ImportSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ImportSource({}, {})", self.name(), self.format)
    }
}
