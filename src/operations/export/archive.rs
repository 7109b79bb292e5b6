//! Where an export is written: a zip archive, or a directory of the same files.
//!
//! A thread of its own compresses and writes, a few pieces behind whoever reads the database. Until the
//! end all of it has another name, and without that end it is removed.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use bytes::Bytes;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// How many pieces may wait to be written; none of them is larger than what one read gives.
const WAITING: usize = 8;

/// One file of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExportedFile {
    /// Its name in the archive.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its SHA-256, in lower-case hex.
    pub sha256: String,
}

/// An export that is being written.
pub(super) struct Archive {
    pieces: mpsc::Sender<Piece>,
    writing: JoinHandle<io::Result<()>>,
}

enum Piece {
    Begin(String),
    Bytes(Bytes),
    Files(oneshot::Sender<Vec<ExportedFile>>),
    Finish,
}

impl Archive {
    /// Begins an archive where `to` ends in `.zip`, else a directory.
    pub(super) fn create(to: &Path) -> io::Result<Self> {
        let unfinished = Unfinished::create(to)?;
        let (pieces, mut given) = mpsc::channel(WAITING);
        let writing = tokio::task::spawn_blocking(move || write(unfinished, &mut given));
        Ok(Self { pieces, writing })
    }

    /// Begins the next file.
    pub(super) async fn begin(&mut self, name: &str) -> io::Result<()> {
        self.give(Piece::Begin(name.to_owned())).await
    }

    /// Goes on with the file.
    pub(super) async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        self.give(Piece::Bytes(bytes)).await
    }

    /// The files that are written; the last one ends with this.
    pub(super) async fn files(&mut self) -> io::Result<Vec<ExportedFile>> {
        let (sender, files) = oneshot::channel();
        self.give(Piece::Files(sender)).await?;
        match files.await {
            Ok(files) => Ok(files),
            Err(_) => Err(self.reason().await),
        }
    }

    /// Gives the export its name.
    pub(super) async fn finish(mut self) -> io::Result<()> {
        self.give(Piece::Finish).await?;
        drop(self.pieces);
        self.writing.await.map_err(io::Error::other)?
    }

    /// Gives the export up; returns when nothing of it is left.
    pub(super) async fn abandon(self) {
        drop(self.pieces);
        _ = self.writing.await;
    }

    async fn give(&mut self, piece: Piece) -> io::Result<()> {
        match self.pieces.send(piece).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.reason().await),
        }
    }

    /// Why nobody writes any more.
    async fn reason(&mut self) -> io::Error {
        match (&mut self.writing).await {
            Ok(Err(error)) => error,
            Ok(Ok(())) => io::Error::other("the export has ended already"),
            Err(panic) => io::Error::other(panic),
        }
    }
}

/// What is written under another name, and removed unless it is finished.
struct Unfinished {
    target: Target,
    place: PathBuf,
    to: PathBuf,
}

enum Target {
    Zip(Box<ZipWriter<File>>),
    Directory(Option<File>),
    Finished,
}

fn write(mut unfinished: Unfinished, given: &mut mpsc::Receiver<Piece>) -> io::Result<()> {
    let mut files: Vec<ExportedFile> = Vec::new();
    let mut open: Option<(String, u64, digest::Context)> = None;
    let close = |open: &mut Option<(String, u64, digest::Context)>, files: &mut Vec<_>| {
        if let Some((name, bytes, sha256)) = open.take() {
            files.push(ExportedFile { name, bytes, sha256: hex::encode(sha256.finish()) });
        }
    };
    while let Some(piece) = given.blocking_recv() {
        match piece {
            Piece::Begin(name) => {
                close(&mut open, &mut files);
                unfinished.begin(&name)?;
                open = Some((name, 0, digest::Context::new(&digest::SHA256)));
            }
            Piece::Bytes(piece) => {
                unfinished.write(&piece)?;
                if let Some((_, bytes, sha256)) = &mut open {
                    *bytes += piece.len() as u64;
                    sha256.update(&piece);
                }
            }
            Piece::Files(asked) => {
                close(&mut open, &mut files);
                _ = asked.send(files.clone());
            }
            Piece::Finish => return unfinished.finish(),
        }
    }
    // Whoever read the database has given up; what is there goes with `unfinished`.
    Ok(())
}

impl Unfinished {
    fn create(to: &Path) -> io::Result<Self> {
        let name = to.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let place = to.with_file_name(format!("{}.partial", name.to_string_lossy()));
        for taken in [to, &place] {
            if fs::symlink_metadata(taken).is_ok() {
                let message = format!("{} is there already", taken.display());
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
            }
        }
        let target = if to.extension().is_some_and(|extension| extension == "zip") {
            Target::Zip(Box::new(ZipWriter::new(private_file(&place)?)))
        } else {
            DirBuilder::new().mode(0o700).create(&place)?;
            Target::Directory(None)
        };
        Ok(Self { target, place, to: to.to_owned() })
    }

    fn begin(&mut self, name: &str) -> io::Result<()> {
        match &mut self.target {
            Target::Zip(zip) => {
                let options = SimpleFileOptions::default()
                    .compression_method(CompressionMethod::Deflated)
                    .large_file(true)
                    .unix_permissions(0o600);
                zip.start_file(name, options).map_err(io::Error::other)
            }
            Target::Directory(file) => {
                let path = self.place.join(name);
                if let Some(folder) = path.parent() {
                    DirBuilder::new().mode(0o700).recursive(true).create(folder)?;
                }
                *file = Some(private_file(&path)?);
                Ok(())
            }
            Target::Finished => Ok(()),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.target {
            Target::Zip(zip) => zip.write_all(bytes),
            Target::Directory(Some(file)) => file.write_all(bytes),
            Target::Directory(None) | Target::Finished => Ok(()),
        }
    }

    fn finish(mut self) -> io::Result<()> {
        let written = match std::mem::replace(&mut self.target, Target::Finished) {
            Target::Zip(zip) => {
                zip.finish().map_err(io::Error::other).and_then(|file| file.sync_all())
            }
            Target::Directory(Some(file)) => file.sync_all(),
            Target::Directory(None) | Target::Finished => Ok(()),
        };
        let done = written.and_then(|()| fs::rename(&self.place, &self.to));
        if done.is_err() {
            self.remove();
        }
        done
    }

    fn remove(&self) {
        let removed = if self.place.is_dir() {
            fs::remove_dir_all(&self.place)
        } else {
            fs::remove_file(&self.place)
        };
        if let Err(error) = removed {
            tracing::warn!(place = %self.place.display(), %error, "part of an export could not be removed");
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !matches!(self.target, Target::Finished) {
            self.remove();
        }
    }
}

/// A new file that only its owner reads.
fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}
