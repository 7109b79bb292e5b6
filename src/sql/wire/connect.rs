//! [`connect`]: from a [`ServerUrl`] to a session, on the first of its hosts that will have us.
//!
//! The settings mean what they mean to the driver: `sslmode`, `connect_timeout` for each host,
//! `target_session_attrs`, `options`. Values come in the styles that clients of node-postgres expect,
//! whatever the server's defaults are.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustix::net::sockopt;
use rustls::pki_types::ServerName;
use tenantry_provisioning::ServerUrl;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, SslNegotiation, TargetSessionAttrs};
use tokio_rustls::TlsConnector;

use super::log_in::{LoggedIn, log_in};
use super::{Cancel, Transport, Wire, WireError, channel_binding};

/// What it takes to open a session when the settings do not say.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The protocol that a server must be told when TLS begins at once.
const ALPN: &[u8] = b"postgresql";

/// Where one host is.
#[derive(Clone, Debug)]
pub(super) enum Address {
    /// Its address, and the name that its certificate must have.
    Tcp(SocketAddr, String),
    /// Its socket.
    Unix(PathBuf),
}

/// Opens a session.
pub(in crate::sql) async fn connect(url: &ServerUrl) -> Result<Wire, WireError> {
    let config = url.config();
    let mut last = WireError::Protocol("no host has an address");
    for number in 0..config.get_hosts().len().max(config.get_hostaddrs().len()) {
        let attempt = timeout(time_for(&config), connect_host(url, &config, number));
        match attempt.await.unwrap_or(Err(WireError::TimedOut)) {
            Ok(wire) => return Ok(wire),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// How long one host may take.
pub(super) fn time_for(config: &Config) -> Duration {
    config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT)
}

/// A stream to the server, encrypted as the settings want it, and what ties a log-in to it.
pub(super) async fn open(
    url: &ServerUrl,
    address: &Address,
) -> Result<(Box<dyn Transport>, Option<Vec<u8>>), WireError> {
    match address {
        Address::Unix(path) => {
            let stream = UnixStream::connect(path).await?;
            Ok((Box::new(stream), None))
        }
        Address::Tcp(address, name) => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            keep_alive(&stream, &url.config())?;
            encrypt(url, stream, name).await
        }
    }
}

async fn connect_host(url: &ServerUrl, config: &Config, number: usize) -> Result<Wire, WireError> {
    let mut last = WireError::Protocol("the host has no address");
    for address in addresses(config, number).await? {
        match start(url, config, address).await {
            Ok(wire) => return Ok(wire),
            // Another address of the same host would say the same.
            Err(error @ WireError::Postgres(_)) => return Err(error),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn addresses(config: &Config, number: usize) -> Result<Vec<Address>, WireError> {
    let ports = config.get_ports();
    let port = ports.get(number).or(ports.first()).copied().unwrap_or(5432);
    let fixed: Option<IpAddr> = config.get_hostaddrs().get(number).copied();
    Ok(match (config.get_hosts().get(number), fixed) {
        (Some(Host::Unix(folder)), _) => {
            vec![Address::Unix(folder.join(format!(".s.PGSQL.{port}")))]
        }
        (Some(Host::Tcp(name)), Some(ip)) => vec![Address::Tcp((ip, port).into(), name.clone())],
        (Some(Host::Tcp(name)), None) => {
            let found = lookup_host((name.as_str(), port)).await?;
            found.map(|address| Address::Tcp(address, name.clone())).collect()
        }
        (None, Some(ip)) => vec![Address::Tcp((ip, port).into(), ip.to_string())],
        (None, None) => Vec::new(),
    })
}

async fn start(url: &ServerUrl, config: &Config, address: Address) -> Result<Wire, WireError> {
    let (mut stream, binding) = open(url, &address).await?;
    let mut message = BytesMut::new();
    let user = config.get_user().unwrap_or_default();
    let mut parameters = vec![
        ("client_encoding", "UTF8"),
        ("DateStyle", "ISO"),
        ("IntervalStyle", "postgres"),
        ("bytea_output", "hex"),
        ("user", user),
    ];
    let optional = [
        ("database", config.get_dbname()),
        ("options", config.get_options()),
        ("application_name", config.get_application_name()),
    ];
    parameters.extend(optional.iter().filter_map(|(name, value)| Some((*name, (*value)?))));
    frontend::startup_message(parameters, &mut message)?;
    stream.write_all(&message).await?;
    stream.flush().await?;
    let LoggedIn { stream, inbox, process_id, key, in_hot_standby } =
        log_in(stream, config, binding).await?;
    let wire = Wire::new(stream, inbox, Cancel::new(url.clone(), address, process_id, key));
    match config.get_target_session_attrs() {
        TargetSessionAttrs::ReadWrite if in_hot_standby => {
            Err(WireError::Protocol("it is a standby, and the settings want a primary"))
        }
        TargetSessionAttrs::ReadOnly if !in_hot_standby => {
            Err(WireError::Protocol("it is a primary, and the settings want a standby"))
        }
        _ => Ok(wire),
    }
}

async fn encrypt(
    url: &ServerUrl,
    mut stream: TcpStream,
    name: &str,
) -> Result<(Box<dyn Transport>, Option<Vec<u8>>), WireError> {
    let config = url.config();
    let mode = config.get_ssl_mode();
    let plain = |stream| Ok((Box::new(stream) as _, None));
    if mode == SslMode::Disable {
        return plain(stream);
    }
    let mut tls = url.tls_config();
    if config.get_ssl_negotiation() == SslNegotiation::Direct {
        Arc::make_mut(&mut tls).alpn_protocols = vec![ALPN.to_vec()];
    } else {
        let mut message = BytesMut::new();
        frontend::ssl_request(&mut message);
        stream.write_all(&message).await?;
        // One byte and no more: what somebody slipped in behind it meets the TLS handshake, not us.
        if stream.read_u8().await? != b'S' {
            return match mode {
                SslMode::Prefer => plain(stream),
                _ => Err(WireError::Protocol("it has no TLS, and the settings require it")),
            };
        }
    }
    let name = ServerName::try_from(name.to_owned())
        .map_err(|_| WireError::Protocol("its name cannot stand in a certificate"))?;
    let stream = TlsConnector::from(tls).connect(name, stream).await?;
    let certificates = stream.get_ref().1.peer_certificates();
    let binding = certificates
        .and_then(<[_]>::first)
        .and_then(|certificate| channel_binding::of_certificate(certificate));
    Ok((Box::new(stream), binding))
}

/// As the driver does, so that a server that vanished is noticed.
fn keep_alive(stream: &TcpStream, config: &Config) -> Result<(), WireError> {
    if config.get_keepalives() {
        let failed = |error: rustix::io::Errno| WireError::Io(error.into());
        sockopt::set_socket_keepalive(stream, true).map_err(failed)?;
        sockopt::set_tcp_keepidle(stream, config.get_keepalives_idle()).map_err(failed)?;
        if let Some(interval) = config.get_keepalives_interval() {
            sockopt::set_tcp_keepintvl(stream, interval).map_err(failed)?;
        }
    }
    Ok(())
}
