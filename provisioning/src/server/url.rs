//! [`ServerUrl`]: where a server is and how to log in, with the password kept inside.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::timeout;
use tokio_postgres::Config;
use tokio_postgres::config::{ChannelBinding, Host, SslNegotiation, TargetSessionAttrs};

use super::Connection;
use super::dsn::Dsn;
use super::open;
use super::scram::Keys;
use super::tls::{self, SslMode, TlsConnector};
use crate::error::Error;

/// How long opening a session may take in all, unless the string says otherwise (`connect_timeout`).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The least time that each of several hosts gets, so that a dead first one does not use it all up.
const HOST_TIMEOUT: Duration = Duration::from_secs(2);
/// After this much silence the other side is asked whether it still lives.
const KEEPALIVE_IDLE: Duration = Duration::from_mins(1);
/// Where libpq has no way of its own to say "the system's root certificates" before version 16.
const SYSTEM_BUNDLES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// A parsed connection string. Its `Debug` and its errors never show the password.
#[derive(Clone)]
pub struct ServerUrl {
    config: Config,
    tls: Arc<Tls>,
}

/// The same for every database and user of a server.
struct Tls {
    mode: SslMode,
    root_certificates: Option<PathBuf>,
    client_config: Arc<ClientConfig>,
    connector: TlsConnector,
    keys: Keys,
}

impl ServerUrl {
    /// Reads a URL (`postgres://user:password@host:5432/database?sslmode=verify-full`) or a list of
    /// `key=value` pairs, with libpq's names. User and host are required; the database defaults to
    /// `postgres`. Reads the file that `sslrootcert` names.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let taken = ["sslmode", "sslrootcert", "target_session_attrs"];
        let dsn = Dsn::split(text.trim(), &taken)?;
        // The driver's error may quote a piece of a password that was not encoded.
        let mut config: Config = dsn.rest.parse().map_err(|_| {
            Error::Url("cannot be read: a setting is unknown or has a wrong value".to_owned())
        })?;
        complete(&mut config)?;
        config.target_session_attrs(match dsn.get("target_session_attrs") {
            None | Some("any") => TargetSessionAttrs::Any,
            Some("read-write" | "primary") => TargetSessionAttrs::ReadWrite,
            Some("read-only" | "standby") => TargetSessionAttrs::ReadOnly,
            Some(_) => return Err(Error::Url("has an unknown target_session_attrs".to_owned())),
        });

        let root_certificates =
            dsn.get("sslrootcert").filter(|path| *path != "system").map(PathBuf::from);
        let mut mode = dsn.get("sslmode").map_or(Ok(SslMode::Prefer), SslMode::parse)?;
        if mode == SslMode::Require && root_certificates.is_some() {
            // As libpq does: whoever names root certificates wants them used.
            mode = SslMode::VerifyCa;
        }
        let only_sockets = config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_)));
        if only_sockets && config.get_hostaddrs().is_empty() {
            mode = SslMode::Disable;
        }
        config.ssl_mode(mode.for_driver());
        let client_config = tls::client_config(mode, root_certificates.as_deref())?;
        let connector = tls::connector(&client_config);
        let tls = Tls { mode, root_certificates, client_config, connector, keys: Keys::default() };
        Ok(Self { config, tls: Arc::new(tls) })
    }

    /// Host and port of every host, without user and password: `db-1:5432,db-2:5432`.
    #[must_use]
    pub fn host_label(&self) -> String {
        let labels: Vec<String> = self
            .hosts()
            .into_iter()
            .zip(self.ports())
            .map(|(host, port)| format!("{host}:{port}"))
            .collect();
        labels.join(",")
    }

    /// The user; never empty.
    #[must_use]
    pub fn user(&self) -> &str {
        self.config.get_user().unwrap_or_default()
    }

    /// The database; never empty.
    #[must_use]
    pub fn database(&self) -> &str {
        self.config.get_dbname().unwrap_or_default()
    }

    /// Whether every host is this machine, so that no network lies in between.
    #[must_use]
    pub fn is_local(&self) -> bool {
        let is_loopback = |name: &str| {
            name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        };
        let is_here = |host: &Host| match host {
            Host::Tcp(name) => is_loopback(name),
            Host::Unix(_) => true,
        };
        match self.config.get_hostaddrs() {
            [] => self.config.get_hosts().iter().all(is_here),
            addresses => addresses.iter().all(IpAddr::is_loopback),
        }
    }

    /// Whether sessions are encrypted, and the server proves by its certificate that it is the one that was meant.
    #[must_use]
    pub fn is_verified(&self) -> bool {
        self.tls.mode == SslMode::VerifyFull
    }

    /// The same server, another database.
    #[must_use]
    pub fn with_database(&self, database: &str) -> Self {
        let mut url = self.clone();
        url.config.dbname(database);
        url
    }

    /// The same server, another user.
    #[must_use]
    pub fn with_user(&self, user: &str, password: &SecretString) -> Self {
        let mut url = self.clone();
        url.config.user(user).password(password.expose_secret());
        url
    }

    /// The same server with settings for the session, after those of the connection string.
    #[must_use]
    pub fn with_options(&self, options: &str) -> Self {
        let mut url = self.clone();
        let options = match url.config.get_options() {
            Some(present) => format!("{present} {options}"),
            None => options.to_owned(),
        };
        url.config.options(options);
        url
    }

    /// The same server, with sessions that go by this name in `pg_stat_activity`.
    #[must_use]
    pub fn with_application_name(&self, name: &str) -> Self {
        let mut url = self.clone();
        url.config.application_name(name);
        url
    }

    /// The driver's settings. They hold the password; their `Debug` does not show it.
    #[must_use]
    pub fn config(&self) -> Config {
        self.config.clone()
    }

    /// The connector that belongs to [`ServerUrl::config`]. Clones of one URL share it.
    #[must_use]
    pub fn tls(&self) -> TlsConnector {
        self.tls.connector.clone()
    }

    /// What [`ServerUrl::tls`] speaks TLS with, for a client that is not the driver.
    #[must_use]
    pub fn tls_config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.tls.client_config)
    }

    /// Opens a session of its own, within 10 seconds unless the string has a `connect_timeout`.
    pub async fn connect(&self) -> Result<Connection, Error> {
        let opening = open::open(self, &self.tls.keys);
        match timeout(self.connect_timeout(), opening).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(source)) => Err(Error::unreachable(self.host_label(), source)),
            Err(_) => Err(Error::TimedOut { server: self.host_label(), what: "connecting" }),
        }
    }

    /// How long opening a session may take: the driver bounds only the first packet to each address.
    pub(super) fn connect_timeout(&self) -> Duration {
        let each = self.config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT);
        each * u32::try_from(host_count(&self.config)).unwrap_or(1)
    }

    /// What libpq's programs need in their environment to reach the same place. Holds the password.
    #[must_use]
    pub fn libpq_env(&self) -> Vec<(&'static str, String)> {
        let config = &self.config;
        let each = config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT);
        let mut env = vec![
            ("PGHOST", self.hosts().join(",")),
            ("PGPORT", self.ports().iter().map(ToString::to_string).collect::<Vec<_>>().join(",")),
            ("PGUSER", self.user().to_owned()),
            ("PGDATABASE", self.database().to_owned()),
            ("PGSSLMODE", self.tls.mode.libpq_name().to_owned()),
            ("PGTARGETSESSIONATTRS", session_attrs(config.get_target_session_attrs()).to_owned()),
            ("PGCONNECT_TIMEOUT", each.as_secs().max(2).to_string()),
            ("PGAPPNAME", config.get_application_name().unwrap_or("tenantry").to_owned()),
        ];
        if let Some(password) = config.get_password() {
            env.push(("PGPASSWORD", String::from_utf8_lossy(password).into_owned()));
        }
        if matches!(self.tls.mode, SslMode::VerifyCa | SslMode::VerifyFull) {
            let named = self.tls.root_certificates.as_deref();
            let roots =
                named.or_else(|| SYSTEM_BUNDLES.iter().map(Path::new).find(|path| path.exists()));
            env.push((
                "PGSSLROOTCERT",
                roots.map_or("system".into(), |path| path.display().to_string()),
            ));
        }
        if !config.get_hostaddrs().is_empty() {
            let addresses: Vec<String> =
                config.get_hostaddrs().iter().map(ToString::to_string).collect();
            env.push(("PGHOSTADDR", addresses.join(",")));
        }
        if let Some(options) = config.get_options() {
            env.push(("PGOPTIONS", options.to_owned()));
        }
        if config.get_channel_binding() == ChannelBinding::Require {
            env.push(("PGCHANNELBINDING", "require".to_owned()));
        }
        if config.get_ssl_negotiation() == SslNegotiation::Direct {
            env.push(("PGSSLNEGOTIATION", "direct".to_owned()));
        }
        env
    }

    /// The same as one connection string, for a server that is to reach the place by itself. Holds the password.
    #[must_use]
    pub fn conninfo(&self) -> SecretString {
        let keyword = |variable: &str| match variable {
            "PGHOST" => "host",
            "PGPORT" => "port",
            "PGUSER" => "user",
            "PGDATABASE" => "dbname",
            "PGSSLMODE" => "sslmode",
            "PGSSLROOTCERT" => "sslrootcert",
            "PGSSLNEGOTIATION" => "sslnegotiation",
            "PGCONNECT_TIMEOUT" => "connect_timeout",
            "PGTARGETSESSIONATTRS" => "target_session_attrs",
            "PGPASSWORD" => "password",
            "PGHOSTADDR" => "hostaddr",
            "PGCHANNELBINDING" => "channel_binding",
            // What is left is of our own sessions: their name and their settings.
            _ => "",
        };
        let pairs = self.libpq_env().into_iter().filter_map(|(variable, value)| {
            let (keyword, value) =
                (keyword(variable), value.replace('\\', "\\\\").replace('\'', "\\'"));
            (!keyword.is_empty()).then(|| format!("{keyword}='{value}'"))
        });
        pairs.collect::<Vec<_>>().join(" ").into()
    }

    fn hosts(&self) -> Vec<String> {
        let addresses = self.config.get_hostaddrs().iter().map(ToString::to_string);
        if self.config.get_hosts().is_empty() {
            return addresses.collect();
        }
        let name = |host: &Host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(directory) => directory.display().to_string(),
        };
        self.config.get_hosts().iter().map(name).collect()
    }

    /// One port for each host.
    fn ports(&self) -> Vec<u16> {
        let ports = self.config.get_ports();
        let first = ports.first().copied().unwrap_or(5432);
        (0..host_count(&self.config))
            .map(|host| ports.get(host).copied().unwrap_or(first))
            .collect()
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerUrl({}@{}/{})", self.user(), self.host_label(), self.database())
    }
}

fn complete(config: &mut Config) -> Result<(), Error> {
    let hosts = host_count(config);
    let fault = if hosts == 0 {
        Some("names no host")
    } else if config.get_ports().len() > 1 && config.get_ports().len() != hosts {
        Some("has another number of ports than of hosts")
    } else if config.get_user().is_none_or(str::is_empty) {
        Some("names no user")
    } else {
        None
    };
    if let Some(fault) = fault {
        return Err(Error::Url(fault.to_owned()));
    }
    if config.get_dbname().is_none() {
        config.dbname("postgres");
    }
    if config.get_application_name().is_none() {
        config.application_name("tenantry");
    }
    if config.get_connect_timeout().is_none() {
        let share = CONNECT_TIMEOUT / u32::try_from(hosts).unwrap_or(1);
        config.connect_timeout(share.max(HOST_TIMEOUT));
    }
    if config.get_keepalives_idle() > KEEPALIVE_IDLE {
        config.keepalives_idle(KEEPALIVE_IDLE).keepalives_interval(Duration::from_secs(10));
    }
    Ok(())
}

fn host_count(config: &Config) -> usize {
    config.get_hosts().len().max(config.get_hostaddrs().len())
}

fn session_attrs(attrs: TargetSessionAttrs) -> &'static str {
    match attrs {
        TargetSessionAttrs::ReadWrite => "read-write",
        TargetSessionAttrs::ReadOnly => "read-only",
        _ => "any",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(url: &ServerUrl, name: &str) -> Option<String> {
        url.libpq_env().into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    #[test]
    fn a_url_and_its_pairs_mean_the_same() {
        let url = ServerUrl::parse("postgres://admin:s3cret@db:5433/app?sslmode=require").unwrap();
        let pairs = ServerUrl::parse(
            "host=db port=5433 user=admin password=s3cret dbname=app sslmode=require",
        );

        assert_eq!(url.libpq_env(), pairs.unwrap().libpq_env());
        assert_eq!(
            (url.user(), url.database(), url.host_label().as_str()),
            ("admin", "app", "db:5433")
        );
        assert_eq!(env(&url, "PGPASSWORD").as_deref(), Some("s3cret"));
        assert_eq!(env(&url, "PGSSLMODE").as_deref(), Some("require"));
    }

    #[test]
    fn the_password_is_never_shown() {
        let url = ServerUrl::parse("postgres://admin:s3cret@db/app").unwrap();
        let other = url.with_user("tenant_acme", &"hidden".into());

        assert_eq!(format!("{url:?}"), "ServerUrl(admin@db:5432/app)");
        assert!(!format!("{:?} {:?}", other.config(), other).contains("hidden"));
        for text in
            ["postgres://a:s3cret@h:x/b", "host=h user=u password=s3cret s3cret=1", "s3cret"]
        {
            let error = ServerUrl::parse(text).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
        }
    }

    #[test]
    fn a_connection_string_for_others_keeps_to_itself_what_is_ours() {
        let url =
            ServerUrl::parse("host=db-1,db-2 port=1,2 user=a password='it\\'s' dbname=x").unwrap();

        let conninfo = url.with_options("-c role=b").conninfo();

        assert_eq!(
            conninfo.expose_secret(),
            "host='db-1,db-2' port='1,2' user='a' dbname='x' sslmode='prefer' target_session_attrs='any' \
             connect_timeout='5' password='it\\'s'"
        );
    }

    #[test]
    fn several_hosts_share_the_time_to_connect() {
        let url = "postgres://u@db-1:1,db-2,db-3:3/x?target_session_attrs=primary";
        let url = ServerUrl::parse(url).unwrap();

        assert_eq!(url.host_label(), "db-1:1,db-2:5432,db-3:3");
        assert_eq!(url.connect_timeout(), CONNECT_TIMEOUT / 3 * 3);
        assert_eq!(env(&url, "PGHOST").as_deref(), Some("db-1,db-2,db-3"));
        assert_eq!(env(&url, "PGTARGETSESSIONATTRS").as_deref(), Some("read-write"));
    }

    #[test]
    fn a_socket_needs_no_tls() {
        let url = ServerUrl::parse("postgres://u@%2Ftmp%2Fpg:5433/x?sslmode=verify-full").unwrap();

        assert_eq!(url.host_label(), "/tmp/pg:5433");
        assert_eq!(env(&url, "PGSSLMODE").as_deref(), Some("disable"));
    }

    #[test]
    fn what_is_missing_is_named() {
        for (text, what) in [
            ("postgres://u@/x", "names no host"),
            ("postgres://h/x", "names no user"),
            ("postgres://u@h/x?sslmode=maybe", "unknown sslmode"),
            ("postgres://u@h/x?sslmode=verify-full&sslrootcert=/nowhere.pem", "/nowhere.pem"),
            ("host=a,b port=1,2,3 user=u", "number of ports"),
        ] {
            let error = ServerUrl::parse(text).unwrap_err().to_string();
            assert!(error.contains(what), "{text}: {error}");
        }
    }
}
