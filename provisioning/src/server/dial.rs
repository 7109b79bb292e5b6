//! The way to a server's hosts, up to where the log-in or its encryption begins; as the driver goes it, for whoever
//! needs the stream itself.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustix::net::sockopt;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, lookup_host};
use tokio_postgres::Config;
use tokio_postgres::config::Host;

/// Where a host is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Its address, and the name that its certificate must have.
    Tcp(SocketAddr, String),
    /// Its socket.
    Unix(PathBuf),
}

/// All addresses of one of the hosts, by its number in the settings. Fails where its name does not resolve.
pub async fn addresses(config: &Config, number: usize) -> io::Result<Vec<Address>> {
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

/// A stream to this address that notices when the server has vanished. The caller bounds how long it may take.
pub async fn dial(address: SocketAddr, config: &Config) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    if config.get_keepalives() {
        sockopt::set_socket_keepalive(&stream, true)?;
        sockopt::set_tcp_keepidle(&stream, config.get_keepalives_idle())?;
        if let Some(interval) = config.get_keepalives_interval() {
            sockopt::set_tcp_keepintvl(&stream, interval)?;
        }
        if let Some(retries) = config.get_keepalives_retries() {
            sockopt::set_tcp_keepcnt(&stream, retries)?;
        }
    }
    Ok(stream)
}

/// Asks whether the server will speak TLS. Fails where the answer is neither yes nor no.
pub async fn agrees_to_tls(stream: &mut TcpStream) -> io::Result<bool> {
    let mut message = BytesMut::new();
    frontend::ssl_request(&mut message);
    stream.write_all(&message).await?;
    // One byte and no more: what somebody slipped in behind it meets the TLS handshake, not us.
    match stream.read_u8().await? {
        b'S' => Ok(true),
        b'N' => Ok(false),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}
