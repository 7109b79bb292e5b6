//! The layers of a stored dump: zstd inside age.
//!
//! Compression comes first, since what is encrypted does not compress. Both are standard formats, so
//! that `age` and `zstd` open a backup without this program.

use std::io;
use std::iter;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use age::{DecryptError, Decryptor, Encryptor};
use async_compression::Level;
use async_compression::tokio::bufread::ZstdDecoder;
use async_compression::tokio::write::ZstdEncoder;
use async_compression::zstd::CParameter;
use aws_lc_rs::digest;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio_util::compat::{
    FuturesAsyncReadCompatExt, FuturesAsyncWriteCompatExt, TokioAsyncReadCompatExt,
    TokioAsyncWriteCompatExt,
};

use crate::key::{BackupKey, Recipient};

const ZSTD_LEVEL: i32 = 3;
/// Matches of five bytes, this level's own choice, seldom pay in rows: without them dumps of text and numbers are
/// up to 4 % smaller, and done sooner.
const ZSTD_MIN_MATCH: u32 = 6;
const BUFFER_BYTES: usize = 128 * 1024;

/// A decrypted, still compressed stream.
pub(crate) type Compressed = Box<dyn AsyncBufRead + Send + Unpin>;

/// Compresses and encrypts what is written, into `output`. Only a shutdown completes the stream.
pub(crate) async fn seal<W>(
    key: &BackupKey,
    also_for: &[Recipient],
    output: W,
) -> io::Result<impl AsyncWrite + Unpin>
where
    W: AsyncWrite + Unpin,
{
    let recipient = key.recipient();
    let recipients =
        iter::once(&recipient as &dyn age::Recipient).chain(also_for.iter().map(Recipient::as_age));
    let encryptor = Encryptor::with_recipients(recipients).map_err(io::Error::other)?;
    let encrypted = encryptor.wrap_async_output(output.compat_write()).await?;
    let (level, params) = (Level::Precise(ZSTD_LEVEL), [CParameter::min_match(ZSTD_MIN_MATCH)]);
    Ok(ZstdEncoder::with_quality_and_params(encrypted.compat_write(), level, &params))
}

/// Decrypts what [`seal`] wrote: a reader of the compressed stream. Read it to its end, or a cut may
/// go unnoticed.
pub(crate) async fn decrypt<R>(key: &BackupKey, input: R) -> Result<Compressed, DecryptError>
where
    R: AsyncRead + Send + Unpin + 'static,
{
    let buffered = BufReader::with_capacity(BUFFER_BYTES, input).compat();
    let decryptor = Decryptor::new_async_buffered(buffered).await?;
    let identities = iter::once(key.identity() as &dyn age::Identity);
    let decrypted = decryptor.decrypt_async(identities)?.compat();
    Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, decrypted)))
}

/// Decompresses what [`decrypt`] gives. It ends with the zstd frame, wherever the input ends.
pub(crate) fn decompress(input: Compressed) -> ZstdDecoder<Compressed> {
    ZstdDecoder::new(input)
}

/// A reader that counts and hashes what passes.
pub(crate) struct Metered<R> {
    inner: R,
    meter: Meter,
}

/// What has passed a [`Metered`] reader.
#[derive(Clone)]
pub(crate) struct Meter {
    state: Arc<Mutex<State>>,
}

struct State {
    bytes: u64,
    sha256: digest::Context,
    ended: bool,
    failed: bool,
}

impl<R> Metered<R> {
    pub(crate) fn new(inner: R) -> (Self, Meter) {
        let sha256 = digest::Context::new(&digest::SHA256);
        let state = State { bytes: 0, sha256, ended: false, failed: false };
        let meter = Meter { state: Arc::new(Mutex::new(state)) };
        (Self { inner, meter: meter.clone() }, meter)
    }
}

impl Meter {
    /// How many bytes have passed.
    pub(crate) fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    /// SHA-256 of what has passed, in lower-case hex.
    pub(crate) fn sha256(&self) -> String {
        hex::encode(self.lock().sha256.clone().finish())
    }

    /// Whether the input came to its end.
    pub(crate) fn ended(&self) -> bool {
        self.lock().ended
    }

    /// Whether reading the input itself failed, whatever was in it.
    pub(crate) fn failed(&self) -> bool {
        self.lock().failed
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds this lock")
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Metered<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (before, room) = (buf.filled().len(), buf.remaining());
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        let mut state = self.meter.lock();
        match &polled {
            Poll::Ready(Ok(())) => {
                let read = &buf.filled()[before..];
                state.bytes += read.len() as u64;
                state.sha256.update(read);
                state.ended |= read.is_empty() && room > 0;
            }
            Poll::Ready(Err(_)) => state.failed = true,
            Poll::Pending => {}
        }
        drop(state);
        polled
    }
}
