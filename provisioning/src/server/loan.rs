//! [`Loan`]: a session of ours that one of PostgreSQL's programs does its work in.
//!
//! A program opens a session of its own, and where there is little to do that is half of what it costs: the
//! process on the server, the log-in, and every name looked up for the first time. Here it finds a socket that
//! only this user can come to, and behind it a session that is open already and in a transaction. That
//! transaction is the program's too: when it begins one it is told that it has, so it reads in our snapshot.
//!
//! What the program and the server say to each other is passed on as it is. Must never: let anybody else in, or
//! take a session back from a program that has not said goodbye.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use uuid::Uuid;

use super::line::Lent;
use super::{Connection, ServerUrl};
use crate::error::Error;

/// The port is a part of the socket's name, and means nothing.
const PORT: &str = "5432";
const BUFFER_BYTES: usize = 64 * 1024;
/// What a program may say at once: the longest is a list of every table of a database.
const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;
/// Requests that may come before the start, for which there is no need here.
const WANTS_TLS: u32 = 80_877_103;
const WANTS_GSS: u32 = 80_877_104;
/// The version of the protocol.
const VERSION: u32 = 3 << 16;
/// The end of an answer, but for the state of the transaction.
const READY: [u8; 5] = *b"Z\0\0\0\x05";

/// A socket for one program, in a folder that only this user can enter; both are gone once it has come.
#[derive(Debug)]
pub struct Loan {
    folder: Folder,
    listener: UnixListener,
    reported: Vec<(&'static str, String)>,
}

/// Removed with what is in it.
#[derive(Debug)]
struct Folder(PathBuf);

impl Loan {
    /// Makes a session ready to be lent: it has the database's own encoding then, and the time zone UTC. `None` where
    /// it cannot be lent, as there is no place for a socket, or the driver holds the session's line itself.
    pub async fn open(session: &Connection) -> Result<Option<Self>, Error> {
        if !session.can_be_lent() {
            return Ok(None);
        }
        let (folder, listener) = match listen() {
            Ok(made) => made,
            Err(error) => {
                tracing::debug!(%error, "there is no place for a socket");
                return Ok(None);
            }
        };
        Ok(Some(Self { folder, listener, reported: reported(session).await? }))
    }

    /// What libpq's programs need in their environment to find the session. Holds no secret.
    #[must_use]
    pub fn libpq_env(&self, url: &ServerUrl) -> Vec<(&'static str, String)> {
        vec![
            ("PGHOST", self.folder.0.display().to_string()),
            ("PGPORT", PORT.to_owned()),
            ("PGUSER", url.user().to_owned()),
            ("PGDATABASE", url.database().to_owned()),
        ]
    }

    /// Lets one program work in the session, in the transaction that is open there, until it says goodbye. The
    /// transaction is still open then, and text comes in UTF-8 again; other settings are as the program left them.
    ///
    /// When this fails, or is given up, the session ends.
    pub async fn serve(self, session: &Connection) -> Result<(), Error> {
        let Self { folder, listener, reported } = self;
        let mut program = admit(&listener).await.map_err(Error::Lent)?;
        drop(folder);
        let mut lent =
            session.lend().ok_or_else(|| Error::Lent(io::ErrorKind::NotConnected.into()))?;
        greet(&mut program, &reported).await.map_err(Error::Lent)?;
        pass_on(&mut program, &mut lent).await.map_err(Error::Lent)?;
        lent.give_back();
        Ok(session.batch_execute("set client_encoding = 'UTF8'").await?)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, folder = %self.0.display(), "a folder is left behind");
        }
    }
}

fn listen() -> io::Result<(Folder, UnixListener)> {
    let folder = std::env::temp_dir().join(format!("tenantry-{}", Uuid::new_v4().simple()));
    DirBuilder::new().mode(0o700).create(&folder)?;
    let folder = Folder(folder);
    let listener = UnixListener::bind(folder.0.join(format!(".s.PGSQL.{PORT}")))?;
    Ok((folder, listener))
}

/// Waits for the program.
async fn admit(listener: &UnixListener) -> io::Result<UnixStream> {
    let (program, _) = listener.accept().await?;
    if program.peer_cred()?.uid() == rustix::process::geteuid().as_raw() {
        Ok(program)
    } else {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}

/// Makes the session what a program finds at its start, and says what the server would report of it.
async fn reported(session: &Connection) -> Result<Vec<(&'static str, String)>, Error> {
    session
        .batch_execute(
            "-- loan::reported
             select set_config('client_encoding', current_setting('server_encoding'), false);
             set timezone = 'UTC'",
        )
        .await?;
    let mut reported = session.reported().to_vec();
    let encoding = reported.iter().find(|(name, _)| *name == "server_encoding");
    let encoding = encoding.map(|(_, value)| ("client_encoding", value.clone()));
    reported.extend(encoding.into_iter().chain([("TimeZone", "UTC".to_owned())]));
    Ok(reported)
}

/// Answers a program's start as a server does that trusts it.
async fn greet(program: &mut UnixStream, reported: &[(&str, String)]) -> io::Result<()> {
    loop {
        let length = program.read_u32().await?;
        let request = program.read_u32().await?;
        match request {
            WANTS_TLS | WANTS_GSS => program.write_all(b"N").await?,
            VERSION => {
                let rest = u64::from(length).saturating_sub(8);
                let mut start = Vec::new();
                (&mut *program).take(rest.min(64 * 1024)).read_to_end(&mut start).await?;
                break;
            }
            _ => return Err(io::ErrorKind::Unsupported.into()),
        }
    }
    let mut answer = Vec::new();
    put(&mut answer, b'R', &[&0_u32.to_be_bytes()]);
    for (name, value) in reported {
        put(&mut answer, b'S', &[name.as_bytes(), &[0], value.as_bytes(), &[0]]);
    }
    put(&mut answer, b'Z', &[b"I"]);
    program.write_all(&answer).await
}

/// Passes on what either says, until the program says goodbye to a server that waits for it.
async fn pass_on(program: &mut UnixStream, lent: &mut Lent) -> io::Result<()> {
    let mut said = bytes::BytesMut::with_capacity(BUFFER_BYTES);
    let mut answered = vec![0; BUFFER_BYTES];
    let mut turn = Turn::default();
    loop {
        tokio::select! {
            read = program.read_buf(&mut said) => {
                if read? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                while let Some(length) = next_message(&said)? {
                    let message = said.split_to(length);
                    if message[0] == b'X' {
                        return if turn.is_ours() { Ok(()) } else { Err(io::ErrorKind::ConnectionAborted.into()) };
                    }
                    if let Some(done) = known(&message) {
                        program.write_all(&in_transaction(done)).await?;
                    } else {
                        turn.ask();
                        lent.write_all(&message).await?;
                    }
                }
                lent.flush().await?;
            }
            read = lent.read(&mut answered) => match read? {
                0 => return Err(io::ErrorKind::ConnectionReset.into()),
                length => {
                    turn.hear(&answered[..length]);
                    program.write_all(&answered[..length]).await?;
                }
            },
        }
    }
}

/// Whose turn it is, by the last bytes of what the server has said since it was asked.
#[derive(Default)]
struct Turn {
    was_asked: bool,
    last: Vec<u8>,
}

impl Turn {
    fn ask(&mut self) {
        *self = Self { was_asked: true, last: Vec::new() };
    }

    fn hear(&mut self, bytes: &[u8]) {
        let most = READY.len() + 1;
        self.last.extend(&bytes[bytes.len().saturating_sub(most)..]);
        self.last.drain(..self.last.len().saturating_sub(most));
    }

    /// Whether the server waits for a statement.
    fn is_ours(&self) -> bool {
        !self.was_asked || self.last.starts_with(&READY)
    }
}

/// How long the first message is, once it is here as a whole.
fn next_message(said: &[u8]) -> io::Result<Option<usize>> {
    let Some(length) = said.get(1..5) else { return Ok(None) };
    let length = u32::from_be_bytes(length.try_into().expect("four bytes"));
    let length = usize::try_from(length).unwrap_or(usize::MAX).saturating_add(1);
    match length {
        5..=MAX_MESSAGE_BYTES => Ok((said.len() >= length).then_some(length)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// What a program is told of a statement that begins a transaction, or says how it reads: ours reads so already.
fn known(message: &[u8]) -> Option<&'static str> {
    let sql = message.strip_prefix(b"Q")?.get(4..)?.strip_suffix(&[0])?;
    match sql {
        b"BEGIN" => Some("BEGIN"),
        b"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY" => Some("SET"),
        _ => None,
    }
}

fn in_transaction(done: &str) -> Vec<u8> {
    let mut answer = Vec::new();
    put(&mut answer, b'C', &[done.as_bytes(), &[0]]);
    put(&mut answer, b'Z', &[b"T"]);
    answer
}

fn put(answer: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    let length: usize = 4 + parts.iter().map(|part| part.len()).sum::<usize>();
    answer.push(kind);
    answer.extend(u32::try_from(length).expect("a setting is short").to_be_bytes());
    for part in parts {
        answer.extend(*part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_still_answering_is_not_ready_for_anybody_else() {
        let mut turn = Turn::default();
        assert!(turn.is_ours());

        turn.ask();
        assert!(!turn.is_ours());
        turn.hear(b"D\0\0\0\x0a\0\0Z\0\0\0");
        assert!(!turn.is_ours());
        turn.hear(b"C\0\0\0\x0bSELECT\0Z\0\0");
        assert!(!turn.is_ours());
        turn.hear(b"\0\x05");
        turn.hear(b"T");
        assert!(turn.is_ours());
        turn.ask();
        assert!(!turn.is_ours());
    }

    #[test]
    fn messages_are_taken_whole_and_no_longer_than_they_may_be() {
        assert_eq!(next_message(b"Q\0\0\0").unwrap(), None);
        assert_eq!(next_message(b"Q\0\0\0\x06x").unwrap(), None);
        assert_eq!(next_message(b"Q\0\0\0\x06x\0X\0\0\0\x04").unwrap(), Some(7));
        for wrong in [b"Q\0\0\0\x03", b"Q\xff\xff\xff\xff"] {
            assert!(next_message(wrong).is_err());
        }
    }

    #[test]
    fn only_the_words_of_a_transaction_that_is_ours_are_answered_for_the_server() {
        let query = |sql: &str| {
            let mut message = Vec::new();
            put(&mut message, b'Q', &[sql.as_bytes(), &[0]]);
            known(&message)
        };

        assert_eq!(query("BEGIN"), Some("BEGIN"));
        let reads = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY";
        assert_eq!(query(reads), Some("SET"));
        for sql in ["BEGIN; drop table things", "COMMIT", "SET TRANSACTION SNAPSHOT '1'", ""] {
            assert_eq!(query(sql), None, "{sql}");
        }
    }
}
