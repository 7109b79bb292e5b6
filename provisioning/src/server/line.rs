//! [`Line`]: what a session of the driver runs on, and can be taken from it for a while.
//!
//! The driver speaks the protocol for our own statements. A program of PostgreSQL's that is to do its work in
//! the same session speaks it too, so it gets the line itself, between two statements of the driver's, and the
//! driver gets it back where the program has ended in order. Otherwise the session has ended.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsStream};

/// TCP, a unix socket, or TLS.
pub(super) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// What the driver reads and writes.
pub(super) struct Line {
    ends: Arc<Mutex<Ends>>,
    /// Whether the driver's first message, the start of the session, has been sent already.
    started: bool,
}

/// Where a line can be borrowed.
#[derive(Clone)]
pub(super) struct Lender(Arc<Mutex<Ends>>);

/// A line that is borrowed. Dropped without being given back, it ends the session.
pub(super) struct Lent {
    ends: Arc<Mutex<Ends>>,
    transport: Option<Box<dyn Transport>>,
}

struct Ends {
    place: Place,
    /// What the driver reads first.
    greeting: Vec<u8>,
    /// Why there is nothing to read.
    why: Option<io::Error>,
    waker: Option<Waker>,
    /// What ties the log-in to the encryption; the driver asks once.
    binding: Option<ChannelBinding>,
}

enum Place {
    Here(Box<dyn Transport>),
    Lent,
    Lost,
}

impl Line {
    /// An encrypted line at its very beginning, and what a log-in is tied to it with.
    pub(super) fn encrypted(transport: impl Transport + 'static, binding: ChannelBinding) -> Self {
        let ends = Ends { binding: Some(binding), ..Ends::at(Place::Here(Box::new(transport))) };
        Self { ends: Arc::new(Mutex::new(ends)), started: false }
    }

    /// A line on which the session was started: the driver need not do that, and reads this first.
    pub(super) fn started(transport: impl Transport + 'static, greeting: Vec<u8>) -> Self {
        let ends = Ends { greeting, ..Ends::at(Place::Here(Box::new(transport))) };
        Self { ends: Arc::new(Mutex::new(ends)), started: true }
    }

    /// A line on which no session could be started: the driver hears why.
    pub(super) fn broken(why: io::Error) -> Self {
        let ends = Ends { why: Some(why), ..Ends::at(Place::Lost) };
        Self { ends: Arc::new(Mutex::new(ends)), started: true }
    }

    pub(super) fn lender(&self) -> Lender {
        Lender(Arc::clone(&self.ends))
    }

    fn lock(&self) -> MutexGuard<'_, Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lender {
    /// Takes the line. The driver must not be waiting for an answer.
    pub(super) fn lend(&self) -> Option<Lent> {
        let mut ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut ends.place, Place::Lent) {
            Place::Here(transport) => {
                Some(Lent { ends: Arc::clone(&self.0), transport: Some(transport) })
            }
            other => {
                ends.place = other;
                None
            }
        }
    }
}

impl Lent {
    /// Gives the line back. The server must be waiting for a statement.
    pub(super) fn give_back(mut self) {
        if let Some(transport) = self.transport.take() {
            self.leave(Place::Here(transport));
        }
    }

    fn leave(&self, place: Place) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.place = place;
        if let Some(waker) = ends.waker.take() {
            waker.wake();
        }
    }

    fn transport(&mut self) -> Pin<&mut (dyn Transport + 'static)> {
        Pin::new(self.transport.as_deref_mut().expect("it is here until it is given back"))
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if self.transport.take().is_some() {
            self.leave(Place::Lost);
        }
    }
}

impl Ends {
    fn at(place: Place) -> Self {
        Self { place, greeting: Vec::new(), why: None, waker: None, binding: None }
    }

    /// The line, once it is here. `None` when it never will be.
    fn poll_transport(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Pin<&mut (dyn Transport + 'static)>>> {
        match &mut self.place {
            Place::Here(transport) => Poll::Ready(Some(Pin::new(transport.as_mut()))),
            Place::Lent => {
                self.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            Place::Lost => Poll::Ready(None),
        }
    }
}

impl AsyncRead for Line {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut ends = self.lock();
        if !ends.greeting.is_empty() {
            let length = ends.greeting.len().min(buf.remaining());
            buf.put_slice(&ends.greeting[..length]);
            ends.greeting.drain(..length);
            return Poll::Ready(Ok(()));
        }
        match ends.poll_transport(cx) {
            Poll::Ready(Some(transport)) => transport.poll_read(cx, buf),
            Poll::Ready(None) => Poll::Ready(ends.why.take().map_or(Ok(()), Err)),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if std::mem::take(&mut self.started) {
            return Poll::Ready(Ok(buf.len()));
        }
        match self.lock().poll_transport(cx) {
            Poll::Ready(Some(transport)) => transport.poll_write(cx, buf),
            Poll::Ready(None) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.lock().place {
            Place::Here(transport) => Pin::new(transport.as_mut()).poll_flush(cx),
            Place::Lent | Place::Lost => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.lock().place {
            Place::Here(transport) => Pin::new(transport.as_mut()).poll_shutdown(cx),
            Place::Lent | Place::Lost => Poll::Ready(Ok(())),
        }
    }
}

impl TlsStream for Line {
    fn channel_binding(&self) -> ChannelBinding {
        self.lock().binding.take().unwrap_or_else(ChannelBinding::none)
    }
}

impl AsyncRead for Lent {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.transport().poll_read(cx, buf)
    }
}

impl AsyncWrite for Lent {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.transport().poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.transport().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.transport().poll_shutdown(cx)
    }
}
