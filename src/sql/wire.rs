//! [`Wire`]: one session with PostgreSQL, over the extended protocol, with results as text.
//!
//! The driver of the rest of this project asks for binary results. What PostgreSQL prints for a value is
//! PostgreSQL's business, so here it prints, and nobody converts.
//!
//! One statement at a time, one statement a text. A statement that may change something is synchronised,
//! and with that committed, only once its whole result was read: a reader that stops half way has changed
//! nothing. After anything unexpected the session is closed; it never goes on out of step.
//!
//! Must never: show a password or the key that cancels, or hold more of a result than one row.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use fallible_iterator::FallibleIterator as _;
use postgres_protocol::IsNull;
use postgres_protocol::message::backend::{self, DATA_ROW_TAG, DataRowBody, Header, Message};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use super::pg_error::PgError;

mod cancel;
mod channel_binding;
mod connect;
mod error;
mod log_in;
mod statements;

pub(super) use cancel::Cancel;
pub(super) use connect::connect;
pub(super) use error::WireError;
use statements::{Choice, Statements};

/// Makes a session what it was at its start, but for the statements that it has prepared. What no statement
/// shows, because a function did it, ends here: settings, locks, cursors, channels, the last values of
/// sequences.
const RESET: &str = "-- wire::reset
    close all; set session authorization default; reset all; unlisten *; select pg_advisory_unlock_all();
    discard sequences; discard temp";
/// How much is read from the socket at a time, at least.
const READ_SIZE: usize = 16 * 1024;
/// The longest message that is no row; PostgreSQL's errors may quote values.
const MAX_MESSAGE_LEN: usize = 1024 * 1024;

/// What a session runs on: TCP, TLS over it, or a unix socket.
pub(super) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// A session. Ends when it is dropped.
pub(super) struct Wire {
    stream: Box<dyn Transport>,
    inbox: BytesMut,
    outbox: BytesMut,
    cancel: Cancel,
    statements: Statements,
    status: Status,
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    /// Ours, outside a transaction.
    Idle,
    /// Ours, inside one.
    InTransaction,
    /// Ours, inside one that can only be rolled back.
    Failed,
    /// The server's, which was asked to reset the session.
    Resetting,
    /// The server's.
    Busy,
    /// Nobody's any more.
    Closed,
}

/// One statement and its parameters, as text; `None` is NULL.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    /// One statement of SQL.
    pub text: String,
    /// A value for each `$1`, `$2`, …
    pub params: Vec<Option<String>>,
}

/// One column of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub name: String,
    pub type_oid: u32,
    pub table_oid: u32,
    pub column: i16,
    pub type_size: i16,
    pub type_modifier: i32,
}

/// Who takes a result as it comes.
pub(super) trait Receive {
    /// The columns; at most once, before any row.
    fn fields(&mut self, fields: Vec<Field>);
    /// A row; an error stops the statement.
    fn row(&mut self, row: &DataRowBody) -> Result<(), WireError>;
    /// The most bytes that the next row may have.
    fn room(&self) -> usize;
}

/// What a command of ours answered.
#[derive(Debug, Default)]
pub(super) struct Answered {
    /// The tag of the last command.
    pub tag: String,
    /// The first value of the last row.
    pub value: Option<String>,
}

impl Wire {
    fn new(stream: Box<dyn Transport>, inbox: BytesMut, cancel: Cancel) -> Self {
        let (outbox, statements) = (BytesMut::new(), Statements::default());
        Self { stream, inbox, outbox, cancel, statements, status: Status::Idle }
    }

    /// Runs one statement, hands its result over and returns its command tag; no tag for an empty text.
    pub async fn run(
        &mut self,
        statement: &Statement,
        keep: bool,
        result: &mut impl Receive,
    ) -> Result<Option<String>, WireError> {
        let choice = self.statements.choose(&statement.text, keep);
        let hold = !reads_only(&statement.text);
        self.outbox.clear();
        for name in self.statements.take_doomed() {
            frontend::close(b'S', &name, &mut self.outbox)?;
        }
        request(&mut self.outbox, statement, &choice, hold)?;
        self.send().await?;
        match self.result(hold, &choice, &statement.text, result).await {
            Err(WireError::Postgres(error)) if choice.is_known() && is_stale(&error) => {
                // What changed for one statement may have changed for all.
                self.statements.forget_all();
                Err(WireError::Stale(error))
            }
            outcome => outcome,
        }
    }

    /// Runs a text of this project, which may hold several statements.
    pub async fn command(&mut self, text: &str) -> Result<Answered, WireError> {
        self.outbox.clear();
        frontend::query(text, &mut self.outbox)?;
        self.send().await?;
        let (mut answered, mut refused) = (Answered::default(), None);
        loop {
            match self.message(MAX_MESSAGE_LEN).await? {
                Message::DataRow(row) => {
                    let first = row.ranges().next()?.flatten();
                    let text = first.map(|range| String::from_utf8_lossy(&row.buffer()[range]));
                    answered.value = text.map(std::borrow::Cow::into_owned);
                }
                Message::CommandComplete(body) => body.tag()?.clone_into(&mut answered.tag),
                Message::ErrorResponse(body) => refused = Some(PgError::read(&body)?),
                Message::ReadyForQuery(body) => {
                    self.ready(body.status());
                    return refused.map_or(Ok(answered), |error| Err(error.into()));
                }
                Message::RowDescription(_) | Message::EmptyQueryResponse => {}
                _ => return Err(self.out_of_step()),
            }
        }
    }

    /// Asks the server to reset the session, and does not wait: [`Wire::settle`] does, when it is needed
    /// again. False if that cannot be asked for without waiting.
    pub fn begin_reset(&mut self) -> bool {
        self.outbox.clear();
        let asked = frontend::query(RESET, &mut self.outbox).is_ok() && self.send_at_once();
        self.status = if asked { Status::Resetting } else { Status::Closed };
        asked
    }

    /// Waits for the end of a reset. False if the session cannot be used any more.
    pub async fn settle(&mut self) -> bool {
        while self.status == Status::Resetting {
            match self.message(MAX_MESSAGE_LEN).await {
                Ok(Message::ReadyForQuery(body)) => self.ready(body.status()),
                Ok(Message::ErrorResponse(_)) | Err(_) => self.status = Status::Closed,
                Ok(_) => {}
            }
        }
        self.is_idle() && !self.is_closed()
    }

    /// Whether the session has ended, or is about to. Asks the socket, not the server.
    fn is_closed(&mut self) -> bool {
        if self.status == Status::Closed || !self.inbox.is_empty() {
            return true;
        }
        // Between two statements the server speaks only to say goodbye, or of a changed setting, which
        // is no reason to trust the session further.
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        let mut context = Context::from_waker(Waker::noop());
        Pin::new(&mut self.stream).poll_read(&mut context, &mut buffer).is_ready()
    }

    /// Whether a statement is under way, or its end was not waited for.
    pub fn is_busy(&self) -> bool {
        self.status == Status::Busy
    }

    /// Whether a transaction is open, failed or not.
    pub fn in_transaction(&self) -> bool {
        matches!(self.status, Status::InTransaction | Status::Failed)
    }

    /// Whether the session can be used by somebody else: outside a transaction and in step.
    pub fn is_idle(&self) -> bool {
        self.status == Status::Idle
    }

    /// What stops the statement that runs.
    pub fn cancel(&self) -> Cancel {
        self.cancel.clone()
    }

    /// Gives back the memory that a large statement took.
    pub fn shrink(&mut self) {
        if self.inbox.is_empty() {
            self.inbox = BytesMut::new();
        }
        self.outbox = BytesMut::new();
    }

    async fn result(
        &mut self,
        hold: bool,
        choice: &Choice,
        text: &str,
        result: &mut impl Receive,
    ) -> Result<Option<String>, WireError> {
        let mut outcome = Ok(None);
        let mut synchronised = !hold;
        loop {
            match self.message(result.room()).await? {
                Message::ParseComplete => self.statements.prepared(text, choice),
                Message::BindComplete | Message::CloseComplete | Message::NoData => {}
                Message::RowDescription(body) => {
                    result.fields(body.fields().map(|shown| Ok(field(&shown))).collect()?);
                }
                // The statement still runs: the caller drops the session, which stops it.
                Message::DataRow(row) => result.row(&row)?,
                Message::CommandComplete(body) => {
                    outcome = Ok(Some(body.tag()?.to_owned()));
                    self.synchronise(&mut synchronised).await?;
                }
                Message::EmptyQueryResponse => self.synchronise(&mut synchronised).await?,
                Message::ErrorResponse(body) => {
                    let error = PgError::read(&body)?;
                    if error.is_fatal() {
                        self.status = Status::Closed;
                        return Err(error.into());
                    }
                    outcome = Err(error.into());
                    self.synchronise(&mut synchronised).await?;
                }
                Message::ReadyForQuery(body) => {
                    self.ready(body.status());
                    return outcome;
                }
                Message::CopyInResponse(_) | Message::CopyOutResponse(_) => {
                    return Err(WireError::Copy);
                }
                _ => return Err(self.out_of_step()),
            }
        }
    }

    async fn synchronise(&mut self, done: &mut bool) -> Result<(), WireError> {
        if !std::mem::replace(done, true) {
            self.outbox.clear();
            frontend::sync(&mut self.outbox);
            self.send().await?;
        }
        Ok(())
    }

    /// Sends what is short enough that the socket takes it now.
    fn send_at_once(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        let sent = Pin::new(&mut self.stream).poll_write(&mut context, &self.outbox);
        matches!(sent, Poll::Ready(Ok(len)) if len == self.outbox.len())
            && matches!(Pin::new(&mut self.stream).poll_flush(&mut context), Poll::Ready(Ok(())))
    }

    async fn send(&mut self) -> Result<(), WireError> {
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
    async fn message(&mut self, most: usize) -> Result<Message, WireError> {
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

    fn ready(&mut self, status: u8) {
        self.status = match status {
            b'I' => Status::Idle,
            b'T' => Status::InTransaction,
            _ => Status::Failed,
        };
    }

    fn out_of_step(&mut self) -> WireError {
        self.status = Status::Closed;
        WireError::Protocol("an unexpected message")
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Drop for Wire {
    /// Says goodbye if that costs no waiting; the server's log is quieter for it.
    fn drop(&mut self) {
        if !matches!(self.status, Status::Busy | Status::Closed) {
            self.outbox.clear();
            frontend::terminate(&mut self.outbox);
            _ = self.send_at_once();
        }
    }
}

/// Writes everything that a statement needs in one go.
fn request(
    outbox: &mut BytesMut,
    statement: &Statement,
    choice: &Choice,
    hold: bool,
) -> Result<(), WireError> {
    let encode = |value: &Option<String>, buffer: &mut BytesMut| match value {
        Some(text) => {
            buffer.extend_from_slice(text.as_bytes());
            Ok(IsNull::No)
        }
        None => Ok(IsNull::Yes),
    };
    if !choice.is_known() {
        frontend::parse(choice.name(), &statement.text, [], outbox).map_err(|_| WireError::Text)?;
    }
    frontend::bind("", choice.name(), [], &statement.params, encode, [], outbox)
        .map_err(|_| WireError::Parameters)?;
    frontend::describe(b'P', "", outbox)?;
    frontend::execute("", 0, outbox)?;
    if hold {
        frontend::flush(outbox);
    } else {
        frontend::sync(outbox);
    }
    Ok(())
}

/// Whether an error says that a statement must be prepared anew. The first code has other uses too; the
/// routine's name is the same in every language.
fn is_stale(error: &PgError) -> bool {
    let routine = error.routine.as_deref();
    error.code == "26000" || error.code == "0A000" && routine == Some("RevalidateCachedQuery")
}

/// Whether a statement can be committed before its result was read, because there is nothing to commit.
/// A function that a query calls may write; then the limits on results come after the fact.
fn reads_only(text: &str) -> bool {
    let word = super::words::Words::new(text).next().unwrap_or_default();
    ["select", "values", "show", "table"].iter().any(|plain| word.eq_ignore_ascii_case(plain))
}

fn field(field: &backend::Field<'_>) -> Field {
    Field {
        name: field.name().to_owned(),
        type_oid: field.type_oid(),
        table_oid: field.table_oid(),
        column: field.column_id(),
        type_size: field.type_size(),
        type_modifier: field.type_modifier(),
    }
}
