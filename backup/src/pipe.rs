//! A pipe in memory that tells a finished stream from one that was cut.
//!
//! When the writing side goes away, by an error, a panic or a dropped future, the reader of an
//! ordinary pipe sees the end of the stream, and half a dump would be stored as if it were whole.
//! Here the reader sees the end only after the writer was shut down on purpose.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

/// Makes a pipe that holds up to `capacity` bytes.
pub(crate) fn pipe(capacity: usize) -> (PipeWriter, PipeReader) {
    let (write, read) = tokio::io::duplex(capacity);
    let finished = Arc::new(AtomicBool::new(false));
    (PipeWriter { inner: write, finished: finished.clone() }, PipeReader { inner: read, finished })
}

pub(crate) struct PipeWriter {
    inner: DuplexStream,
    finished: Arc<AtomicBool>,
}

pub(crate) struct PipeReader {
    inner: DuplexStream,
    finished: Arc<AtomicBool>,
}

impl AsyncWrite for PipeWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finished.store(true, Ordering::Release);
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl AsyncRead for PipeReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (before, room) = (buf.filled().len(), buf.remaining());
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        let ended =
            matches!(polled, Poll::Ready(Ok(()))) && room > 0 && buf.filled().len() == before;
        if ended && !self.finished.load(Ordering::Acquire) {
            let cut = "the stream was cut before its end";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, cut)));
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_writer_that_goes_away_is_an_error_to_the_reader() {
        let (mut writer, mut reader) = pipe(64);
        writer.write_all(b"half").await.unwrap();

        drop(writer);

        let mut read = Vec::new();
        let error = reader.read_to_end(&mut read).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn a_writer_that_is_shut_down_ends_the_stream() {
        let (mut writer, mut reader) = pipe(64);
        writer.write_all(b"whole").await.unwrap();

        writer.shutdown().await.unwrap();
        drop(writer);

        let mut read = Vec::new();
        reader.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"whole");
    }
}
