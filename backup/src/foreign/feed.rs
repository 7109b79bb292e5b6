//! An archive into `pg_restore`, and the script that comes out of it.
//!
//! `pg_restore` never sees the end of an archive that was cut: of a tar archive it would look for the rest for ever.
//! Whoever reads the script is told instead.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::sync::oneshot;

use super::{BUFFER_BYTES, Decoded, DumpFormat};

const BLOCK_BYTES: usize = 512;
/// Where a tar header has the size of its file, in octal digits.
const SIZE: std::ops::Range<usize> = 124..136;

/// What `pg_restore` writes, unless it could not be fed.
pub(super) struct Output {
    stdout: ChildStdout,
    /// None once it is known that all was fed.
    failed: Option<oneshot::Receiver<io::Error>>,
}

impl Output {
    pub(super) fn new(stdout: ChildStdout, failed: oneshot::Receiver<io::Error>) -> Self {
        Self { stdout, failed: Some(failed) }
    }
}

impl AsyncRead for Output {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(failed) = &mut self.failed
            && let Poll::Ready(told) = failed.poll_unpin(cx)
        {
            self.failed = None;
            if let Ok(error) = told {
                return Poll::Ready(Err(error));
            }
        }
        Pin::new(&mut self.stdout).poll_read(cx, buf)
    }
}

/// What has become of the input: whether it was whole, and the way into `pg_restore` where that must stay open.
pub(super) type Fed = (bool, Option<ChildStdin>);

/// Feeds an archive, and reads it to its end whatever `pg_restore` needs of it. Of one that is not whole, whoever
/// reads the script is told.
pub(super) async fn feed(
    mut input: Decoded,
    format: DumpFormat,
    stdin: ChildStdin,
    failed: oneshot::Sender<io::Error>,
) -> Fed {
    let mut stdin = Some(stdin);
    let mut tar = (format == DumpFormat::Tar).then(Tar::default);
    let mut buffer = vec![0; BUFFER_BYTES];
    let error = loop {
        match input.read(&mut buffer).await {
            Err(error) => break error,
            Ok(0) if tar.as_ref().is_some_and(|tar| !tar.ended) => {
                break io::Error::new(io::ErrorKind::UnexpectedEof, "the archive is cut");
            }
            Ok(0) => return (true, None),
            Ok(read) => {
                if let Some(tar) = &mut tar {
                    tar.update(&buffer[..read]);
                }
                // It may need no more, or have failed: its exit status tells.
                if let Some(open) = &mut stdin
                    && open.write_all(&buffer[..read]).await.is_err()
                {
                    stdin = None;
                }
            }
        }
    };
    _ = failed.send(error);
    (false, stdin)
}

/// How far a tar archive has been read.
#[derive(Default)]
struct Tar {
    header: Vec<u8>,
    /// So many bytes of a file are still to come.
    left: u64,
    /// Whether the block of zeros has come that ends it.
    ended: bool,
}

impl Tar {
    fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.ended {
            let taken = if self.left > 0 {
                let taken = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                self.left -= taken as u64;
                taken
            } else {
                let taken = (BLOCK_BYTES - self.header.len()).min(bytes.len());
                self.header.extend_from_slice(&bytes[..taken]);
                if self.header.len() == BLOCK_BYTES {
                    self.end_header();
                }
                taken
            };
            bytes = &bytes[taken..];
        }
    }

    fn end_header(&mut self) {
        self.ended = self.header.iter().all(|byte| *byte == 0);
        self.left = file_size(&self.header[SIZE]).next_multiple_of(BLOCK_BYTES as u64);
        self.header.clear();
    }
}

/// Octal digits; or, of large files, the number itself behind a mark.
fn file_size(field: &[u8]) -> u64 {
    let value = |base: u64, digits: &[u8]| {
        digits
            .iter()
            .fold(0, |sum: u64, digit| sum.wrapping_mul(base).wrapping_add(u64::from(*digit)))
    };
    if field[0] & 0x80 != 0 {
        return value(256, &field[4..]) & (u64::MAX >> 2);
    }
    let digits: Vec<u8> =
        field.iter().filter(|byte| (b'0'..b'8').contains(byte)).map(|byte| byte - b'0').collect();
    value(8, &digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tar_archive_is_whole_with_its_last_block() {
        let mut header = vec![0; BLOCK_BYTES];
        header[0] = b'x';
        header[SIZE].copy_from_slice(b"00000001001\0");
        let whole = [header, vec![b'y'; 2 * BLOCK_BYTES], vec![0; 2 * BLOCK_BYTES]].concat();
        let ended = |bytes: &[u8]| {
            let mut tar = Tar::default();
            for piece in bytes.chunks(100) {
                tar.update(piece);
            }
            tar.ended
        };

        assert!(ended(&whole));
        for length in [0, 100, 512, 1000, 1535, 2000] {
            assert!(!ended(&whole[..length]), "{length}");
        }
        assert_eq!(file_size(b"\x80\0\0\0\0\0\0\x02\0\0\0\0"), 0x2_0000_0000);
    }
}
