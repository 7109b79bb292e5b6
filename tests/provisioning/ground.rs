//! [`Ground`]: a cluster of its own for one test, since grants and roles are the server's.

use tenantry::embedded::{EmbeddedPostgres, PostgresSettings};
use tenantry_provisioning::{Server, ServerUrl};

use super::subject::run;

pub struct Ground {
    cluster: EmbeddedPostgres,
}

impl Ground {
    pub async fn new() -> Self {
        Self {
            cluster: EmbeddedPostgres::start_scratch(PostgresSettings::scratch()).await.unwrap(),
        }
    }

    /// The server as `initdb` left it.
    pub fn bare_server(&self) -> Server {
        Server::new(ServerUrl::parse(&self.cluster.url()).unwrap(), 4)
    }

    pub fn url(&self) -> String {
        self.cluster.url()
    }

    /// The server, prepared.
    pub async fn server(&self) -> Server {
        let server = self.bare_server();
        server.prepare().await.unwrap();
        server
    }

    pub async fn superuser_runs(&self, sql: &str) {
        run(&self.bare_server(), sql).await;
    }
}
