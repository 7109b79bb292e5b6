//! Opens sessions: on a [`Line`] that can be lent, with keys that are remembered.
//!
//! That is how it goes with one host and a password. What is rarer (several hosts, a session that must be
//! read-only or read-write, TLS from the first byte) is left to the driver, and so is every error: where a server
//! cannot be reached here, the driver tries, and says why it cannot be reached.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_postgres::config::{
    ChannelBinding as Wanted, SslMode, SslNegotiation, TargetSessionAttrs,
};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect, TlsStream as _};
use tokio_postgres::{Config, NoTls};

use super::dial::{Address, addresses, agrees_to_tls, dial};
use super::line::{Lender, Line, Transport};
use super::scram::{Exchange, Keys, MECHANISM};
use super::{Connection, ServerUrl, TlsConnector};

/// Messages of a log-in are short.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;
/// Kinds of the server's word on a log-in.
const SASL: i32 = 10;
const SASL_CONTINUE: i32 = 11;
const SASL_FINAL: i32 = 12;

/// Opens a session of its own.
pub(super) async fn open(
    url: &ServerUrl,
    keys: &Keys,
) -> Result<Connection, tokio_postgres::Error> {
    let config = url.config();
    match reach(&config).await {
        Some(Reached::Unix(stream)) => plain(stream, config, keys).await,
        Some(Reached::Plain(stream)) => plain(stream, config, keys).await,
        Some(Reached::Encrypts(stream, name)) => encrypted(stream, &name, config, url).await,
        None => {
            let (client, driver) = config.connect(url.tls()).await?;
            Ok(Connection::new(client, driver, None))
        }
    }
}

enum Reached {
    Unix(UnixStream),
    Plain(TcpStream),
    /// It has agreed to TLS, under this name.
    Encrypts(TcpStream, String),
}

/// The server, where nothing but the usual is asked for.
async fn reach(config: &Config) -> Option<Reached> {
    let is_usual = config.get_hosts().len() == 1
        && config.get_hostaddrs().is_empty()
        && config.get_target_session_attrs() == TargetSessionAttrs::Any
        && config.get_ssl_negotiation() == SslNegotiation::Postgres
        && config.get_channel_binding() != Wanted::Require
        && config.get_tcp_user_timeout().is_none();
    if !is_usual {
        return None;
    }
    for address in addresses(config, 0).await.ok()? {
        let (address, name) = match address {
            Address::Unix(path) => return UnixStream::connect(path).await.ok().map(Reached::Unix),
            Address::Tcp(address, name) => (address, name),
        };
        let Some(mut stream) = dial_in_time(address, config).await else { continue };
        if config.get_ssl_mode() == SslMode::Disable {
            return Some(Reached::Plain(stream));
        }
        return match (agrees_to_tls(&mut stream).await.ok()?, config.get_ssl_mode()) {
            (true, _) => Some(Reached::Encrypts(stream, name)),
            (false, SslMode::Prefer) => Some(Reached::Plain(stream)),
            (false, _) => None,
        };
    }
    None
}

async fn dial_in_time(address: SocketAddr, config: &Config) -> Option<TcpStream> {
    let dialling = dial(address, config);
    match config.get_connect_timeout() {
        Some(patience) => timeout(*patience, dialling).await.ok()?.ok(),
        None => dialling.await.ok(),
    }
}

/// Over TLS the log-in is tied to the encryption, and is the driver's.
async fn encrypted(
    stream: TcpStream,
    name: &str,
    mut config: Config,
    url: &ServerUrl,
) -> Result<Connection, tokio_postgres::Error> {
    // What is between us and TLS has been said.
    config.ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct);
    let lender = Arc::default();
    let encrypt =
        Encrypt { connector: url.tls(), name: name.to_owned(), lender: Arc::clone(&lender) };
    let (client, driver) = config.connect_raw(stream, encrypt).await?;
    Ok(Connection::new(client, driver, lender.get().cloned()))
}

async fn plain(
    mut stream: impl Transport + 'static,
    mut config: Config,
    keys: &Keys,
) -> Result<Connection, tokio_postgres::Error> {
    config.ssl_mode(SslMode::Disable);
    let line = match log_in(&mut stream, &config, keys).await {
        Ok(greeting) => Line::started(stream, greeting),
        Err(error) => Line::broken(error),
    };
    let lender = line.lender();
    let (client, driver) = config.connect_raw(line, NoTls).await?;
    Ok(Connection::new(client, driver, Some(lender)))
}

/// Starts a session and proves who we are, by SCRAM. Returns the server's word that the driver is to go on with:
/// that we are in, that we are not, or that it wants another proof.
async fn log_in(stream: &mut impl Transport, config: &Config, keys: &Keys) -> io::Result<Vec<u8>> {
    let named = [
        ("client_encoding", Some("UTF8")),
        ("user", config.get_user()),
        ("database", config.get_dbname()),
        ("options", config.get_options()),
        ("application_name", config.get_application_name()),
    ];
    let parameters = named.into_iter().filter_map(|(name, value)| Some((name, value?)));
    send(stream, |outbox| frontend::startup_message(parameters, outbox)).await?;
    let asked = message(stream).await?;
    let exchange = config.get_password().and_then(|password| Exchange::begin(password, keys));
    let Some(mut exchange) = exchange.filter(|_| offers_scram(&asked)) else { return Ok(asked) };
    let first = exchange.first();
    send(stream, |outbox| frontend::sasl_initial_response(MECHANISM, first.as_bytes(), outbox))
        .await?;
    let challenge = message(stream).await?;
    let Some(challenge) = word(&challenge, SASL_CONTINUE) else { return Ok(challenge) };
    let proof = exchange.prove(challenge)?;
    send(stream, |outbox| frontend::sasl_response(proof.as_bytes(), outbox)).await?;
    let answer = message(stream).await?;
    let Some(answer) = word(&answer, SASL_FINAL) else { return Ok(answer) };
    exchange.verify(answer)?;
    message(stream).await
}

fn offers_scram(asked: &[u8]) -> bool {
    word(asked, SASL).is_some_and(|offered| {
        offered.split(|byte| *byte == 0).any(|name| name == MECHANISM.as_bytes())
    })
}

/// What comes with the server's word on a log-in, if it is of this kind.
fn word(message: &[u8], kind: i32) -> Option<&[u8]> {
    let (head, rest) = message.split_at_checked(9)?;
    (head[0] == b'R' && head[5..] == kind.to_be_bytes()).then_some(rest)
}

/// One whole message of the server's, and nothing after it.
async fn message(stream: &mut impl Transport) -> io::Result<Vec<u8>> {
    let mut message = vec![0; 5];
    stream.read_exact(&mut message).await?;
    let length = u32::from_be_bytes(message[1..].try_into().expect("four bytes"));
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if !(4..=MAX_MESSAGE_BYTES).contains(&length) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    message.resize(1 + length, 0);
    stream.read_exact(&mut message[5..]).await?;
    Ok(message)
}

async fn send(
    stream: &mut impl Transport,
    write: impl FnOnce(&mut bytes::BytesMut) -> io::Result<()>,
) -> io::Result<()> {
    let mut outbox = bytes::BytesMut::new();
    write(&mut outbox)?;
    stream.write_all(&outbox).await?;
    stream.flush().await
}

/// TLS for the driver, under a line that can be lent.
struct Encrypt {
    connector: TlsConnector,
    name: String,
    lender: Arc<OnceLock<Lender>>,
}

impl TlsConnect<TcpStream> for Encrypt {
    type Stream = Line;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Line, Self::Error>> + Send>>;

    fn connect(mut self, stream: TcpStream) -> Self::Future {
        Box::pin(async move {
            let connector =
                MakeTlsConnect::<TcpStream>::make_tls_connect(&mut self.connector, &self.name)?;
            let stream = connector.connect(stream).await?;
            let binding = stream.channel_binding();
            let line = Line::encrypted(stream, binding);
            self.lender.get_or_init(|| line.lender());
            Ok(line)
        })
    }
}
