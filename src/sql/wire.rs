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
use std::task::{Context, Waker};

use bytes::BytesMut;
use fallible_iterator::FallibleIterator as _;
use postgres_protocol::IsNull;
use postgres_protocol::message::backend::{self, DataRowBody, Message};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::pg_error::PgError;

mod cancel;
mod channel_binding;
mod connect;
mod error;
mod exchange;
mod log_in;
mod statements;

pub(super) use cancel::Cancel;
pub(super) use connect::connect;
pub(super) use error::WireError;
pub(super) use statements::Preparing;
use statements::{Choice, Statements};

/// Makes a session what it was at its start, but for the statements that it has prepared. What no statement
/// shows, because a function did it, ends here: settings, locks, cursors, channels, the last values of
/// sequences.
const RESET: &str = "-- wire::reset
    close all; set session authorization default; reset all; unlisten *; select pg_advisory_unlock_all();
    discard sequences; discard temp";
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
    /// Whether the server has taken the statement and its parameters.
    bound: bool,
    /// Whether the statement is the last before the session is reset.
    ends: bool,
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
        let status = Status::Idle;
        Self { stream, inbox, outbox, cancel, statements, bound: false, ends: false, status }
    }

    /// Runs one statement, hands its result over and returns its command tag; no tag for an empty text.
    /// If it is the `last`, the reset goes to the server together with it.
    pub async fn run(
        &mut self,
        statement: &Statement,
        preparing: Preparing,
        last: bool,
        result: &mut impl Receive,
    ) -> Result<Option<String>, WireError> {
        if self.status == Status::Resetting && !self.settle().await {
            return Err(WireError::Closed);
        }
        self.ends = last;
        let choice = self.statements.choose(&statement.text, preparing);
        let hold = !reads_only(&statement.text);
        self.outbox.clear();
        for name in self.statements.take_doomed() {
            frontend::close(b'S', &name, &mut self.outbox)?;
        }
        request(&mut self.outbox, statement, &choice)?;
        if hold {
            frontend::flush(&mut self.outbox);
        } else {
            self.end()?;
        }
        self.send().await?;
        match self.result(hold, &choice, &statement.text, result).await {
            Err(WireError::Postgres(error)) if choice.is_known() && self.may_be_stale(&error) => {
                self.statements.forget(&statement.text);
                Err(WireError::Stale(error))
            }
            outcome => outcome,
        }
    }

    /// Prepares every statement anew from now on: the schema is another one.
    pub fn forget_statements(&mut self) {
        self.statements.forget_all();
    }

    /// Runs a text of this project, which may hold several statements.
    pub async fn command(&mut self, text: &str) -> Result<Answered, WireError> {
        self.outbox.clear();
        self.ends = false;
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
                Message::ErrorResponse(body) => {
                    let error = PgError::read(&body)?;
                    if error.is_fatal() {
                        self.status = Status::Closed;
                        return Err(error.into());
                    }
                    refused = Some(error);
                }
                Message::ReadyForQuery(body) => {
                    self.ready(body.status());
                    return refused.map_or(Ok(answered), |error| Err(error.into()));
                }
                Message::RowDescription(_) | Message::EmptyQueryResponse => {}
                _ => return Err(self.out_of_step()),
            }
        }
    }

    /// Asks the server to reset the session, if that was not done with its last statement, and does not wait:
    /// [`Wire::settle`] does, when it is needed again. False if that cannot be asked for without waiting, or
    /// the session is of no more use.
    pub fn begin_reset(&mut self) -> bool {
        if self.status != Status::Idle {
            return self.status == Status::Resetting;
        }
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
        self.status == Status::Idle && !self.is_closed()
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

    /// Whether the session waits for a statement, outside a transaction.
    pub fn is_idle(&self) -> bool {
        self.status == Status::Idle
    }

    /// Whether a statement is under way, or its end was not waited for.
    pub fn is_busy(&self) -> bool {
        self.status == Status::Busy
    }

    /// Whether a transaction is open, failed or not.
    pub fn in_transaction(&self) -> bool {
        matches!(self.status, Status::InTransaction | Status::Failed)
    }

    /// What stops the statement that runs.
    pub fn cancel(&self) -> Cancel {
        self.cancel.clone()
    }

    /// Which of the server's processes answers.
    pub fn process_id(&self) -> i32 {
        self.cancel.process_id()
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
        self.bound = false;
        loop {
            match self.message(result.room()).await? {
                Message::ParseComplete => self.statements.prepared(text, choice),
                Message::BindComplete => self.bound = true,
                Message::CloseComplete | Message::NoData => {}
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
                    if self.ends {
                        let is_idle = self.status == Status::Idle;
                        self.status = if is_idle { Status::Resetting } else { Status::Closed };
                    }
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
            self.end()?;
            self.send().await?;
        }
        Ok(())
    }

    /// Writes the end of a statement.
    fn end(&mut self) -> Result<(), WireError> {
        frontend::sync(&mut self.outbox);
        if self.ends {
            frontend::query(RESET, &mut self.outbox)?;
        }
        Ok(())
    }

    /// Whether an error of a prepared statement may be gone once it is prepared anew. PostgreSQL holds a
    /// statement against the schema, and its parameters against their types, when it binds them. Later on
    /// only what a function has prepared can be out of date; that error's code has other uses too, but the
    /// routine's name is the same in every language.
    fn may_be_stale(&self, error: &PgError) -> bool {
        const CLASSES: [&str; 4] = ["0A", "22", "26", "42"];
        let at_binding = !self.bound && CLASSES.iter().any(|class| error.code.starts_with(class));
        at_binding || error.routine.as_deref() == Some("RevalidateCachedQuery")
    }

    fn ready(&mut self, status: u8) {
        self.status = match status {
            b'I' => Status::Idle,
            b'T' => Status::InTransaction,
            _ => Status::Failed,
        };
    }

    fn out_of_step(&mut self) -> WireError {
        self.status = Status::Busy;
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
fn request(outbox: &mut BytesMut, statement: &Statement, choice: &Choice) -> Result<(), WireError> {
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
    Ok(())
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
