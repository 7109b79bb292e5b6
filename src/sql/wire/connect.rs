//! [`connect`]: from a [`ServerUrl`] to a session, on the first of its hosts that will have us.
//!
//! The settings mean what they mean to the driver: `sslmode`, `connect_timeout` for each host,
//! `target_session_attrs`, `options`. Values come in the styles that clients of node-postgres expect,
//! whatever the server's defaults are.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustls::pki_types::ServerName;
use tenantry_provisioning::ServerUrl;
use tenantry_provisioning::dial::{Address, addresses, agrees_to_tls, dial};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_postgres::Config;
use tokio_postgres::config::{SslMode, SslNegotiation, TargetSessionAttrs};
use tokio_rustls::TlsConnector;

use super::log_in::{LoggedIn, log_in};
use super::{Cancel, Transport, Wire, WireError, channel_binding};

/// What it takes to open a session when the settings do not say.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The protocol that a server must be told when TLS begins at once.
const ALPN: &[u8] = b"postgresql";

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
            let stream = dial(*address, &url.config()).await?;
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
    } else if !agrees_to_tls(&mut stream).await? {
        return match mode {
            SslMode::Prefer => plain(stream),
            _ => Err(WireError::Protocol("it has no TLS, and the settings require it")),
        };
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

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use tempfile::NamedTempFile;

    use super::*;
    use crate::embedded::{EmbeddedPostgres, PostgresSettings};

    /// A cluster with TLS, and the certificate of the authority behind it.
    struct Ground {
        postgres: EmbeddedPostgres,
        authority: NamedTempFile,
    }

    fn authority() -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    fn file(text: &str) -> NamedTempFile {
        let file = NamedTempFile::new().unwrap();
        std::fs::write(&file, text).unwrap();
        file
    }

    async fn plain() -> EmbeddedPostgres {
        _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        EmbeddedPostgres::start_scratch(PostgresSettings::scratch()).await.unwrap()
    }

    async fn ask(url: &str, question: &str) -> Result<Option<String>, WireError> {
        let mut wire = connect(&ServerUrl::parse(url).unwrap()).await?;
        Ok(wire.command(question).await?.value)
    }

    impl Ground {
        async fn start() -> Self {
            let (postgres, authority) = (plain().await, authority());
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
            let certificate = params.signed_by(&key, &authority).unwrap();
            let mut wire = connect(&ServerUrl::parse(&postgres.url()).unwrap()).await.unwrap();
            // The server itself writes them: they must belong to the user that it runs as.
            for (name, text) in [
                ("server.crt", certificate.pem()),
                ("server.key", key.serialize_pem()),
                (
                    "pg_hba.conf",
                    "host all clear_user all password\nhost all md5_user all md5\n\
                     host all all all scram-sha-256\nlocal all all scram-sha-256"
                        .to_owned(),
                ),
            ] {
                let lines = format!("select unnest(string_to_array($t${text}$t$, e'\\n'))");
                let program = format!("umask 077; cat > {name}");
                let copy = format!("copy ({lines}) to program '{program}'");
                wire.command(&copy).await.unwrap();
            }
            for text in [
                "alter system set ssl = on",
                "select pg_reload_conf()",
                "set password_encryption = md5; create role md5_user login password 's3cret'",
                "set password_encryption = 'scram-sha-256'; create role clear_user login password 's3cret'",
            ] {
                wire.command(text).await.unwrap();
            }
            let ground = Self { postgres, authority: file(&authority.pem()) };
            while ask(&ground.url("sslmode=require"), "select 1").await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            ground
        }

        fn url(&self, options: &str) -> String {
            let (password, port) = (self.postgres.password(), self.postgres.port().unwrap());
            format!("postgres://postgres:{password}@localhost:{port}/postgres?{options}")
        }
    }

    #[tokio::test]
    async fn the_settings_decide_how_a_session_is_encrypted() {
        let ground = Ground::start().await;
        let root = ground.authority.path().display();
        let question = "select ssl::text from pg_stat_ssl where pid = pg_backend_pid()";

        for (options, encrypted) in [
            ("sslmode=disable".to_owned(), "false"),
            ("sslmode=prefer".to_owned(), "true"),
            ("sslmode=require&channel_binding=require".to_owned(), "true"),
            (format!("sslmode=verify-full&sslrootcert={root}&channel_binding=disable"), "true"),
        ] {
            let answer = ask(&ground.url(&options), question).await.unwrap();
            assert_eq!(answer.as_deref(), Some(encrypted), "{options}");
        }
        let stranger = file(&authority().pem());
        let stranger = stranger.path().display();
        for options in [
            format!("sslmode=verify-full&sslrootcert={stranger}"),
            "sslmode=disable&channel_binding=require".to_owned(),
        ] {
            assert!(ask(&ground.url(&options), question).await.is_err(), "{options}");
        }
    }

    #[tokio::test]
    async fn every_kind_of_password_is_taken_and_none_is_shown() {
        let ground = Ground::start().await;
        let port = ground.postgres.port().unwrap();
        for user in ["md5_user", "clear_user"] {
            let url = |password| format!("postgres://{user}:{password}@localhost:{port}/postgres");

            let answer = ask(&url("s3cret"), "select current_user::text").await.unwrap();
            let refused = ask(&url("wr0ng"), "select 1").await.unwrap_err();

            assert_eq!(answer.as_deref(), Some(user));
            assert_eq!(refused.sql_state(), Some("28P01"));
            assert!(!format!("{refused:?} {refused}").contains("wr0ng"));
        }
        let wire = connect(&ServerUrl::parse(&ground.url("")).unwrap()).await.unwrap();
        let shown = format!("{wire:?} {:?}", wire.cancel());
        assert!(!shown.contains(ground.postgres.password()) && !shown.contains("key"), "{shown}");
    }

    #[tokio::test]
    async fn the_first_host_that_will_have_us_is_taken() {
        let postgres = plain().await;
        let (password, port) = (postgres.password(), postgres.port().unwrap());
        let url = |options: &str| {
            format!(
                "postgres://postgres:{password}@127.0.0.1:1,127.0.0.1:{port}/postgres?{options}"
            )
        };

        let question = "show transaction_isolation";
        assert!(ask(&url("target_session_attrs=primary"), question).await.is_ok());
        assert!(ask(&postgres.socket_url(), question).await.is_ok());
        for options in ["target_session_attrs=standby", "sslmode=require"] {
            let refused = ask(&url(options), question).await.unwrap_err();
            assert!(matches!(refused, WireError::Protocol(_)), "{options}: {refused:?}");
        }
    }

    #[tokio::test]
    async fn a_session_that_the_server_has_ended_says_why() {
        let postgres = plain().await;
        let url = ServerUrl::parse(&postgres.url()).unwrap();
        let mut wire = connect(&url.with_options("-c idle_session_timeout=1ms")).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;

        let ended = wire.command("select 1").await.unwrap_err();

        assert_eq!(ended.sql_state(), Some("57P05"));
    }

    #[tokio::test]
    async fn a_silent_host_costs_no_more_than_its_time() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = silent.local_addr().unwrap().port();
        let url = format!("postgres://u:p@127.0.0.1:{port}/x?connect_timeout=1");

        let refused = ask(&url, "select 1").await.unwrap_err();

        assert!(matches!(refused, WireError::TimedOut), "{refused:?}");
    }

    #[tokio::test]
    async fn a_statement_is_cancelled_over_tls_too() {
        let ground = Ground::start().await;
        let url = ServerUrl::parse(&ground.url("sslmode=require")).unwrap();
        let mut wire = connect(&url).await.unwrap();
        let cancel = wire.cancel();

        let (stopped, ()) = tokio::join!(wire.command("select pg_sleep(600)"), async {
            let busy = "select count(*)::text from pg_stat_activity where query like '%sleep(600)' and state = 'active'";
            while ask(&ground.url(""), busy).await.unwrap().as_deref() != Some("1") {}
            cancel.send().await;
        });

        assert_eq!(stopped.unwrap_err().sql_state(), Some("57014"));
        assert!(wire.settle().await && wire.begin_reset() && wire.settle().await);
    }
}
