//! Bytes to the server, and messages from it.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use postgres_protocol::message::backend::{DATA_ROW_TAG, Header, Message};
use tokio::io::{AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _};

use super::{MAX_MESSAGE_LEN, Status, Wire, WireError};

/// How much is read from the socket at a time, at least.
const READ_SIZE: usize = 16 * 1024;

impl Wire {
    /// Sends what is short enough that the socket takes it now.
    pub(super) fn send_at_once(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        let sent = Pin::new(&mut self.stream).poll_write(&mut context, &self.outbox);
        matches!(sent, Poll::Ready(Ok(len)) if len == self.outbox.len())
            && matches!(Pin::new(&mut self.stream).poll_flush(&mut context), Poll::Ready(Ok(())))
    }

    pub(super) async fn send(&mut self) -> Result<(), WireError> {
        if self.status == Status::Closed {
            return Err(WireError::Closed);
        }
        self.status = Status::Busy;
        let sent = async {
            self.stream.write_all(&self.outbox).await?;
            self.stream.flush().await
        };
        let sent = sent.await;
        // A server that has left may still have said why; that is read next.
        match sent {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                self.status = Status::Closed;
                Err(error.into())
            }
            _ => Ok(()),
        }
    }

    /// The next message that is not by the way. `most` is the longest that a row may be.
    pub(super) async fn message(&mut self, most: usize) -> Result<Message, WireError> {
        loop {
            if let Some(header) = Header::parse(&self.inbox)? {
                let len = usize::try_from(header.len()).unwrap_or(usize::MAX);
                let most = if header.tag() == DATA_ROW_TAG { most } else { MAX_MESSAGE_LEN };
                if len > most {
                    return Err(WireError::TooLong);
                }
            }
            match Message::parse(&mut self.inbox)? {
                Some(
                    Message::NoticeResponse(_)
                    | Message::ParameterStatus(_)
                    | Message::NotificationResponse(_),
                ) => {}
                Some(message) => return Ok(message),
                None => self.fill().await?,
            }
        }
    }

    /// Says that nothing more will come, and waits until the server has closed the session. What it still sends
    /// is read and forgotten, so that it does not wait for us.
    pub async fn ended(&mut self) {
        self.status = Status::Closed;
        _ = self.stream.shutdown().await;
        self.inbox = BytesMut::with_capacity(READ_SIZE);
        while !matches!(self.stream.read_buf(&mut self.inbox).await, Ok(0) | Err(_)) {
            self.inbox.clear();
        }
    }

    async fn fill(&mut self) -> Result<(), WireError> {
        self.inbox.reserve(READ_SIZE);
        match self.stream.read_buf(&mut self.inbox).await {
            Ok(0) => {
                self.status = Status::Closed;
                Err(WireError::Closed)
            }
            Ok(_) => Ok(()),
            Err(error) => {
                self.status = Status::Closed;
                Err(error.into())
            }
        }
    }
}
