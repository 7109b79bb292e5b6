//! A dump that somebody else took: found out what it is, decompressed, and turned into a script of SQL.
//!
//! Whatever its format, it becomes the text that `pg_dump` would have written: an archive goes through `pg_restore`,
//! which gets no connection. Nothing is run here, no temporary file is made, and what is read is counted. A script
//! that ended is not yet proof that the dump was whole: [`ForeignDump::finish`] is.

mod cutter;
mod feed;
mod script;

use std::fmt;
use std::io::{self, Cursor};
use std::process::Stdio;

use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncReadExt, BufReader};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use self::feed::{Fed, Output, feed};
pub use self::script::{Script, ScriptError, Statement};
use crate::process::Process;
use crate::stream::{Meter, Metered};
use crate::tools::PgTools;

const BUFFER_BYTES: usize = 128 * 1024;
/// What tells a format: the name of a tar archive's kind comes last.
const HEAD_BYTES: usize = 512;
const TAR_AT: usize = 257;

/// A stream of bytes of unknown kind.
pub type Input = Box<dyn AsyncRead + Send + Unpin>;
type Decoded = Box<dyn AsyncBufRead + Send + Unpin>;

/// The formats of `pg_dump` that are one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DumpFormat {
    /// `pg_dump -Fc`.
    Custom,
    /// `pg_dump -Ft`.
    Tar,
    /// `pg_dump -Fp`, the default: a script.
    Plain,
}

/// A dump that has been opened.
pub struct ForeignDump {
    input: Decoded,
    format: DumpFormat,
    read: Meter,
}

/// A dump as a script.
pub struct ForeignScript {
    /// The script.
    pub script: Script<Decoded>,
    archive: Option<Archive>,
}

/// The program that makes a script of an archive, and what feeds it.
struct Archive {
    process: Process,
    feeding: JoinHandle<Fed>,
}

/// Why a dump from elsewhere cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForeignError {
    /// It is something else.
    #[error("this is {found}, and no dump that can be imported")]
    NotADump {
        /// What it looks like.
        found: &'static str,
        /// What makes one of it.
        remedy: &'static str,
    },
    /// It is another format than was said.
    #[error("this is a dump in {found} format, and not in {wanted} format")]
    OtherFormat {
        /// What was said.
        wanted: DumpFormat,
        /// What it is.
        found: DumpFormat,
    },
    /// The stream failed.
    #[error("the dump cannot be read")]
    Read(#[source] io::Error),
    /// `pg_restore` could not be run.
    #[error("pg_restore could not be run")]
    Run(#[source] io::Error),
    /// The archive was written by a newer `pg_dump` than the server's.
    #[error("the dump is of a newer pg_dump than PostgreSQL {tools} can read")]
    Newer {
        /// The version of the programs at hand, which is the server's.
        tools: String,
    },
    /// `pg_restore` does not take it for a whole archive.
    #[error("the archive is damaged or cut: {stderr}")]
    Damaged {
        /// The end of what `pg_restore` said.
        stderr: String,
    },
}

impl DumpFormat {
    /// The name that `pg_dump --format` has for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Custom => "custom",
            Self::Tar => "tar",
            Self::Plain => "plain",
        }
    }
}

impl ForeignError {
    /// What somebody who has the dump can do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NotADump { remedy, .. } => remedy,
            Self::OtherFormat { .. } => "leave --format out",
            Self::Read(error) if is_out_of_reach(error) => {
                "check the path, and that the file may be read here"
            }
            Self::Read(_) | Self::Damaged { .. } => "take the dump again, and copy it as a whole",
            Self::Run(_) => "check that pg_restore is installed, and may be run here",
            Self::Newer { .. } => {
                "import it to a server of that version, or dump it again with the pg_dump of this server's version"
            }
        }
    }
}

impl ForeignDump {
    /// Looks at the beginning of a stream, and decompresses it where that is needed.
    pub async fn open(input: Input, wanted: Option<DumpFormat>) -> Result<Self, ForeignError> {
        let (input, read) = Metered::new(input);
        let (head, input) = look(Box::new(BufReader::with_capacity(BUFFER_BYTES, input))).await?;
        let (head, input) = match decoder(&head, input) {
            Compressed::Not(input) => (head, input),
            Compressed::With(decoder) => look(decoder).await?,
        };
        let format = format_of(&head)?;
        match wanted {
            Some(wanted) if wanted != format => {
                Err(ForeignError::OtherFormat { wanted, found: format })
            }
            _ => Ok(Self { input, format, read }),
        }
    }

    /// Its format.
    #[must_use]
    pub fn format(&self) -> DumpFormat {
        self.format
    }

    /// Tells how many bytes of the stream have been read, also when this is a script already.
    pub fn progress(&self) -> impl Fn() -> u64 + Send + Sync + use<> {
        let read = self.read.clone();
        move || read.bytes()
    }

    /// The dump as a script. An archive goes through these tools, which are of the target server's version.
    pub fn into_script(self, tools: &PgTools) -> Result<ForeignScript, ForeignError> {
        if self.format == DumpFormat::Plain {
            return Ok(ForeignScript { script: Script::new(self.input), archive: None });
        }
        let format = format!("--format={}", self.format);
        let arguments = [format.as_str(), "--file=-"];
        let program = tools.pg_restore();
        let mut process = Process::start(program, arguments, &[], Stdio::piped(), Stdio::piped())
            .map_err(ForeignError::Run)?;
        let (failed, told) = oneshot::channel();
        let output = Output::new(process.take_stdout(), told);
        let output: Decoded = Box::new(BufReader::with_capacity(BUFFER_BYTES, output));
        let feeding = tokio::spawn(feed(self.input, self.format, process.take_stdin(), failed));
        Ok(ForeignScript {
            script: Script::new(output),
            archive: Some(Archive { process, feeding }),
        })
    }
}

impl ForeignScript {
    /// Why reading stopped, where it is the archive's fault; after the script's end, or after it failed.
    pub async fn finish(&mut self, tools: &PgTools) -> Result<(), ForeignError> {
        let Some(archive) = &mut self.archive else { return Ok(()) };
        let exit = archive.process.wait().await.map_err(ForeignError::Run)?;
        if exit.status.success() {
            let fed = (&mut archive.feeding).await;
            if fed.is_ok_and(|(is_whole, _)| is_whole) {
                return Ok(());
            }
            let cut = io::Error::new(io::ErrorKind::UnexpectedEof, "the archive is cut");
            return Err(ForeignError::Read(cut));
        }
        if exit.stderr.contains("unsupported version") {
            return Err(ForeignError::Newer { tools: tools.version().to_owned() });
        }
        Err(ForeignError::Damaged { stderr: exit.stderr })
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        self.feeding.abort();
    }
}

impl fmt::Display for DumpFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ForeignDump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ForeignDump({})", self.format)
    }
}

/// The beginning of a stream, and the stream from its beginning.
async fn look(mut input: Decoded) -> Result<(Vec<u8>, Decoded), ForeignError> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    (&mut input)
        .take(HEAD_BYTES as u64)
        .read_to_end(&mut head)
        .await
        .map_err(ForeignError::Read)?;
    let whole = Cursor::new(head.clone()).chain(input);
    Ok((head, Box::new(BufReader::with_capacity(BUFFER_BYTES, whole))))
}

enum Compressed {
    Not(Decoded),
    With(Decoded),
}

fn decoder(head: &[u8], input: Decoded) -> Compressed {
    if head.starts_with(&[0x1f, 0x8b]) {
        let mut gzip = GzipDecoder::new(input);
        gzip.multiple_members(true);
        Compressed::With(Box::new(BufReader::with_capacity(BUFFER_BYTES, gzip)))
    } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let mut zstd = ZstdDecoder::new(input);
        zstd.multiple_members(true);
        Compressed::With(Box::new(BufReader::with_capacity(BUFFER_BYTES, zstd)))
    } else {
        Compressed::Not(input)
    }
}

fn format_of(head: &[u8]) -> Result<DumpFormat, ForeignError> {
    let other = |found, remedy| Err(ForeignError::NotADump { found, remedy });
    let decompress = "decompress it, and pipe it in: `… | tenantry backup import - --as SLUG`";
    let name: &[u8] = head.split(|byte| *byte == 0).next().unwrap_or_default();
    match head {
        [] => other("empty", "take the dump again"),
        [b'P', b'G', b'D', b'M', b'P', ..] => Ok(DumpFormat::Custom),
        // `pg_dump` puts the table of contents first.
        _ if is_tar(head) && name == b"toc.dat" => Ok(DumpFormat::Tar),
        _ if is_tar(head) => other(
            "a tar archive of something else",
            "if it holds a dump, unpack it, and import that",
        ),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => other("compressed with xz", decompress),
        [b'B', b'Z', b'h', ..] => other("compressed with bzip2", decompress),
        [0x04, 0x22, 0x4d, 0x18, ..] => other("compressed with lz4", decompress),
        [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] => other("compressed twice", decompress),
        [b'P', b'K', 3, 4, ..] => other("a zip archive", "unpack it, and import what is in it"),
        _ if head.starts_with(b"age-encryption.org/") => other(
            "encrypted",
            "decrypt it, and pipe it in: `… | tenantry backup import - --as SLUG`",
        ),
        _ if head.contains(&0) => other("binary", "give a dump that `pg_dump` wrote"),
        _ => Ok(DumpFormat::Plain),
    }
}

fn is_out_of_reach(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied)
}

fn is_tar(head: &[u8]) -> bool {
    head.get(TAR_AT..).is_some_and(|kind| kind.starts_with(b"ustar"))
}

#[cfg(test)]
mod tests {
    use async_compression::tokio::write::{GzipEncoder, ZstdEncoder};
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    async fn format(bytes: &[u8]) -> Result<DumpFormat, ForeignError> {
        let input: Input = Box::new(Cursor::new(bytes.to_vec()));
        ForeignDump::open(input, None).await.map(|dump| dump.format())
    }

    #[tokio::test]
    async fn a_format_is_known_by_its_beginning() {
        let mut tar = vec![0; HEAD_BYTES];
        tar[..7].copy_from_slice(b"toc.dat");
        tar[TAR_AT..TAR_AT + 5].copy_from_slice(b"ustar");

        assert_eq!(format(b"PGDMP\x01\x0e").await.unwrap(), DumpFormat::Custom);
        assert_eq!(format(&tar).await.unwrap(), DumpFormat::Tar);
        assert_eq!(format(b"select 1;").await.unwrap(), DumpFormat::Plain);
        tar[0] = b'x';
        for other in [&b""[..], b"PK\x03\x04", b"\x7fELF\0", b"BZh9", &tar] {
            assert!(matches!(format(other).await, Err(ForeignError::NotADump { .. })), "{other:?}");
        }
    }

    #[tokio::test]
    async fn what_is_compressed_is_read_as_what_is_in_it() {
        let mut gzip = GzipEncoder::new(Vec::new());
        gzip.write_all(b"PGDMP\x01").await.unwrap();
        gzip.shutdown().await.unwrap();
        let mut zstd = ZstdEncoder::new(Vec::new());
        zstd.write_all(b"select 1;").await.unwrap();
        zstd.shutdown().await.unwrap();

        assert_eq!(format(&gzip.into_inner()).await.unwrap(), DumpFormat::Custom);
        assert_eq!(format(&zstd.into_inner()).await.unwrap(), DumpFormat::Plain);
        let said = ForeignDump::open(Box::new(&b"select 1;"[..]), Some(DumpFormat::Tar)).await;
        assert!(matches!(said, Err(ForeignError::OtherFormat { .. })), "{said:?}");
    }
}
