//! [`Bouncer`]: PgBouncer in front of a fleet's server, as the peer of what the router does.

use std::fmt::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use secrecy::ExposeSecret as _;
use tempfile::TempDir;
use tenantry::tenant::TenantSlug;
use tokio_postgres::{Client, Error, NoTls};

use crate::harness::Fleet;

/// A running PgBouncer.
pub struct Bouncer {
    process: Child,
    pub address: BouncerAddress,
    _directory: TempDir,
}

/// Where an application reaches it.
#[derive(Clone, Copy)]
pub struct BouncerAddress {
    port: u16,
}

impl Bouncer {
    /// `mode` is how it pools, as lines of its settings.
    pub async fn start(fleet: &Fleet, tenants: &[TenantSlug], mode: &str) -> Self {
        let directory = TempDir::new().expect("a directory");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let mut users = String::new();
        for tenant in tenants {
            let place = fleet.catalog().place(tenant).await.expect("the catalog answers");
            let password = place.expect("it exists").password;
            writeln!(users, "\"tenant_{tenant}\" \"{}\"", password.expose_secret()).expect("text");
        }
        let path = directory.path();
        std::fs::write(path.join("users.txt"), users).expect("a file");
        let server = fleet.postgres.port().expect("it listens on TCP");
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={server}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {}\n{mode}\
             server_login_retry = 0.1\nquery_wait_timeout = 30\nmax_client_conn = 20000\n\
             ignore_startup_parameters = extra_float_digits,options\nlog_connections = 0\n\
             log_disconnections = 0\n",
            path.join("users.txt").display()
        );
        std::fs::write(path.join("pgbouncer.ini"), settings).expect("a file");
        for entry in [path.to_owned(), path.join("users.txt"), path.join("pgbouncer.ini")] {
            let all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(entry, all).expect("they are ours");
        }
        let mut command = Command::new("pgbouncer");
        command.arg("-q").arg(path.join("pgbouncer.ini"));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        if rustix::process::geteuid().is_root() {
            // It refuses to run as root.
            command.uid(65534).gid(65534);
        }
        let process = command.spawn().expect("pgbouncer runs; `make bench` installs it");
        let address = BouncerAddress { port };
        while address.connect(&tenants[0]).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        Self { process, address, _directory: directory }
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

impl BouncerAddress {
    pub async fn connect(self, tenant: &TenantSlug) -> Result<Client, Error> {
        let (client, driver) = tokio_postgres::Config::new()
            .host("127.0.0.1")
            .port(self.port)
            .user(format!("tenant_{tenant}"))
            .dbname(format!("tenant_{tenant}"))
            .connect(NoTls)
            .await?;
        tokio::spawn(driver);
        Ok(client)
    }
}
