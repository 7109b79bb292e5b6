//! SQL over HTTP: one request, one transaction, on a session that nobody else has.
//!
//! ```text
//! request ─► session of the tenant ─► [begin] ─► statement … ─► [commit] ─► JSON, as text of PostgreSQL
//! ```
//!
//! - A batch is one transaction: all of it happens or nothing does.
//! - Who may only read has a transaction that PostgreSQL made read-only, and that has asked its first query,
//!   after which PostgreSQL lets nobody make it anything else.
//! - Time, rows and bytes are bounded, and so is what all answers take that nobody has read yet. Who goes away, or asks for too much, stops the server's work as well.
//! - A statement that was prepared for another schema is prepared again, and its request starts over once.
//!
//! Must never: paste a text of a request into another, or let a session that remembers one request serve
//! another.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tracing::Instrument as _;

use crate::resolve::Access;
use crate::router::TenantRouter;
use crate::tenant::TenantScope;

mod answer;
mod error;
pub(crate) mod pg_error;
mod pure;
mod sessions;
pub(crate) mod text;
mod wire;
mod words;

use answer::{Answer, Style};
pub(crate) use error::SqlError;
use sessions::{Session, Sessions};
pub(crate) use wire::Statement;
use wire::WireError;

/// What answers that wait to be read may take, over all callers.
const MAX_UNSENT_BYTES: usize = 256 * 1024 * 1024;
/// One tenant gets so much of it, or room for one answer.
const SHARES: usize = 4;
/// An answer of so many bytes is sent at once, and takes no room of others.
pub(crate) const SHORT: usize = 64 * 1024;
/// PostgreSQL stops a statement first, and says so better.
const GRACE: Duration = Duration::from_secs(1);

/// Who may send requests, and their bounds.
#[derive(Clone, Debug)]
pub struct SqlSettings {
    /// Whether the user and password of a connection string count, where there is no token.
    pub password_auth: bool,
    /// Most bytes of an answer.
    pub max_response_bytes: usize,
    /// Most rows of an answer, over all of its statements.
    pub max_rows: usize,
    /// How long the statements of one request may run; a tenant's own limit may be lower.
    pub statement_timeout: Duration,
    /// How long a caller may take none of an answer before it is cut off.
    pub send_timeout: Duration,
}

impl Default for SqlSettings {
    fn default() -> Self {
        Self {
            password_auth: false,
            max_response_bytes: 16 * 1024 * 1024,
            max_rows: 100_000,
            statement_timeout: Duration::from_secs(30),
            send_timeout: Duration::from_secs(30),
        }
    }
}

/// Answers requests. Cheap to clone; clones share their sessions.
#[derive(Clone)]
pub(crate) struct Gateway {
    sessions: Sessions,
    settings: SqlSettings,
    /// KiB of answers that wait to be read.
    unsent: Arc<Semaphore>,
}

/// An answer, and its part of what all answers that wait to be read may take.
pub(crate) struct Answered {
    /// It.
    pub json: Vec<u8>,
    /// Given back when it is sent, or given up; none of a short one.
    pub place: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
}

/// What a caller wants to have run.
#[derive(Debug)]
pub(crate) struct Request {
    pub queries: Vec<Query>,
    /// Makes one transaction of them; without it there is just one.
    pub batch: Option<Batch>,
    /// Whether values stay as PostgreSQL printed them.
    pub raw_text: bool,
}

/// A statement, and how its rows are written.
#[derive(Debug)]
pub(crate) struct Query {
    pub statement: Statement,
    pub array_mode: bool,
}

/// What a batch's transaction is like; what is not said is the server's default.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Batch {
    pub isolation: Option<Isolation>,
    pub read_only: Option<bool>,
    pub deferrable: Option<bool>,
}

/// Isolation levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isolation {
    ReadUncommitted,
    ReadCommitted,
    RepeatableRead,
    Serializable,
}

impl Gateway {
    /// Needs a running tokio runtime.
    pub fn new(router: TenantRouter, settings: SqlSettings) -> Self {
        let unsent = kib(MAX_UNSENT_BYTES).max(SHARES * kib(settings.max_response_bytes));
        let sessions = Sessions::new(router, settings.statement_timeout, unsent / SHARES);
        Self { sessions, settings, unsent: Arc::new(Semaphore::new(unsent)) }
    }

    /// Its bounds.
    pub fn settings(&self) -> &SqlSettings {
        &self.settings
    }

    /// Runs a request in a tenant's database, and gives the answer as JSON.
    pub async fn run(
        &self,
        tenant: &TenantScope,
        access: Access,
        request: &Request,
    ) -> Result<Answered, SqlError> {
        for query in &request.queries {
            if let Some(refusal) = words::refusal(&query.statement.text) {
                return Err(SqlError::Refused(Box::new(refusal)));
            }
        }
        let waiting = || tracing::debug_span!("checkout");
        if may_be_elsewhere(access, request.batch) {
            let session =
                self.sessions.checkout_elsewhere(tenant, access).instrument(waiting()).await?;
            let is_elsewhere = session.is_elsewhere;
            match self.answer(session, access, request).await {
                // It has changed nothing, and nobody has heard of it: the primary can answer as well.
                Err(error) if is_elsewhere && error.is_of_a_standby() => {}
                outcome => return outcome,
            }
        }
        let session = self.sessions.checkout(tenant, access).instrument(waiting()).await?;
        self.answer(session, access, request).await
    }

    /// Runs a request on a session, within its time.
    async fn answer(
        &self,
        mut session: Session,
        access: Access,
        request: &Request,
    ) -> Result<Answered, SqlError> {
        let working = tracing::debug_span!("statements", number = request.queries.len());
        let work = self.work(&mut session, access, request).instrument(working);
        // Whoever stops waiting here drops the session, and with that stops its statement.
        let worked = timeout(self.settings.statement_timeout + GRACE, work).await;
        let json = worked.unwrap_or(Err(SqlError::TimedOut))?;
        if json.len() <= SHORT {
            return Ok(Answered { json, place: None });
        }
        // While it holds its session, the tenant can make no more of them.
        let (share, all) = (session.unsent(), Arc::clone(&self.unsent));
        let room = u32::try_from(kib(json.len())).unwrap_or(u32::MAX);
        let place = async {
            let share = share.acquire_many_owned(room).await?;
            Ok::<_, AcquireError>((share, all.acquire_many_owned(room).await?))
        };
        let place = timeout(self.settings.send_timeout, place).await;
        let place = Some(place.map_err(|_| SqlError::Unread)?.expect("nobody closes them"));
        Ok(Answered { json, place })
    }

    async fn work(
        &self,
        session: &mut Session,
        access: Access,
        request: &Request,
    ) -> Result<Vec<u8>, SqlError> {
        let begin = begin(access, request.batch);
        let mut outcome = self.attempt(session, begin.as_deref(), request, false).await;
        if let Err(WireError::Stale(_)) = outcome {
            roll_back(session).await?;
            outcome = self.attempt(session, begin.as_deref(), request, true).await;
        }
        if let Err(WireError::Postgres(error)) = &outcome
            && !error.is_fatal()
        {
            roll_back(session).await?;
        }
        Ok(outcome?)
    }

    /// Runs a request from its beginning. With `anew` no statement can be out of date, not even when the
    /// request itself changes the schema between two of them.
    async fn attempt(
        &self,
        session: &mut Session,
        begin: Option<&str>,
        request: &Request,
        anew: bool,
    ) -> Result<Vec<u8>, WireError> {
        let mut answer = Answer::new(Style {
            raw_text: request.raw_text,
            batch: request.batch.is_some(),
            max_bytes: self.settings.max_response_bytes,
            max_rows: self.settings.max_rows,
        });
        if let Some(begin) = begin {
            session.command(begin).await?;
        }
        for query in &request.queries {
            answer.open(query.array_mode);
            let last = begin.is_none();
            let tag = session.run(&query.statement, anew, last, &mut answer).await?;
            answer.close(tag.as_deref())?;
            if begin.is_some() && !session.in_transaction() {
                return Err(WireError::Protocol("a statement ended the transaction around it"));
            }
        }
        if begin.is_some() {
            session.command("-- sql::commit\ncommit").await?;
        }
        let (rows, json) = answer.finish();
        session.answered(rows, json.len());
        Ok(json)
    }
}

/// So many, at least one.
fn kib(bytes: usize) -> usize {
    bytes / 1024 + 1
}

/// Whether a request only reads, and in a way that a read replica knows: none has serializable transactions.
fn may_be_elsewhere(access: Access, batch: Option<Batch>) -> bool {
    let Batch { isolation, read_only, .. } = batch.unwrap_or_default();
    let reads = access == Access::ReadOnly || read_only == Some(true);
    reads && isolation != Some(Isolation::Serializable)
}

/// How the transaction of a request begins, if it has one beyond its statement's own.
fn begin(access: Access, batch: Option<Batch>) -> Option<String> {
    let read_only = access == Access::ReadOnly;
    if batch.is_none() && !read_only {
        return None;
    }
    let Batch { isolation, read_only: wanted, deferrable } = batch.unwrap_or_default();
    let mut text = "-- sql::begin\nbegin".to_owned();
    text += match isolation {
        None => "",
        Some(Isolation::ReadUncommitted) => " isolation level read uncommitted",
        Some(Isolation::ReadCommitted) => " isolation level read committed",
        Some(Isolation::RepeatableRead) => " isolation level repeatable read",
        Some(Isolation::Serializable) => " isolation level serializable",
    };
    text += match (read_only, wanted) {
        (true, _) | (false, Some(true)) => " read only",
        (false, Some(false)) => " read write",
        (false, None) => "",
    };
    text += match deferrable {
        None => "",
        Some(true) => " deferrable",
        Some(false) => " not deferrable",
    };
    if read_only {
        // The first query: from here on PostgreSQL refuses `set transaction read write`.
        text += "; select 1";
    }
    Some(text)
}

async fn roll_back(session: &mut Session) -> Result<(), WireError> {
    if session.in_transaction() {
        session.command("-- sql::roll_back\nrollback").await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_only_read_never_gets_a_transaction_that_writes() {
        for batch in [None, Some(Batch { read_only: Some(false), ..Batch::default() })] {
            let text = begin(Access::ReadOnly, batch).unwrap();

            assert!(text.contains(" read only") && text.ends_with("; select 1"), "{text}");
        }
    }

    #[test]
    fn a_batch_says_what_it_wants() {
        let batch = Batch {
            isolation: Some(Isolation::Serializable),
            read_only: Some(true),
            deferrable: Some(true),
        };

        let text = begin(Access::ReadWrite, Some(batch)).unwrap();

        assert!(text.ends_with("begin isolation level serializable read only deferrable"));
        assert_eq!(begin(Access::ReadWrite, None), None);
    }
}
