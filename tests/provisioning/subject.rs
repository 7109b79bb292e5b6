//! [`Subject`]: one tenant in the making.

use secrecy::SecretString;
use tenantry_provisioning::{
    Connection, DatabaseName, Error, FindingKind, MigrationSet, MigrationTimeouts, Owner,
    Possession, RoleName, Server, build_from_zero, random_password, scram_verifier,
};
use uuid::Uuid;

pub const FILES: &[(&str, &str)] = &[
    (
        "V1__boards.sql",
        "create table boards (id bigint generated always as identity primary key, title text not null);",
    ),
    (
        "V2__labels.sql",
        "create table labels (id bigint primary key);\ncreate schema stats;\ncreate table stats.days (day date primary key);",
    ),
];

pub fn migrations(files: &[(&str, &str)]) -> MigrationSet {
    let sources = files.iter().map(|(name, sql)| ((*name).to_owned(), (*sql).to_owned())).collect();
    MigrationSet::from_sources(sources).unwrap()
}

/// One tenant in the making: its names, its owner and its password.
pub struct Subject {
    pub database: DatabaseName,
    pub role: RoleName,
    pub owner: Owner,
    pub password: SecretString,
}

impl Subject {
    pub fn new(slug: &str) -> Self {
        Self {
            database: DatabaseName::tenant(slug).unwrap(),
            role: RoleName::tenant(slug).unwrap(),
            owner: Owner { tenant: Uuid::new_v4(), operation: Uuid::new_v4() },
            password: random_password(),
        }
    }

    pub fn build(&self) -> DatabaseName {
        DatabaseName::build(self.owner.operation)
    }

    pub async fn built(slug: &str, server: &Server) -> Self {
        let subject = Self::new(slug);
        build_from_zero(server, &subject.build(), &migrations(FILES), MigrationTimeouts::default())
            .await
            .unwrap();
        subject
    }

    pub async fn made(slug: &str, server: &Server) -> Self {
        let subject = Self::built(slug, server).await;
        subject.possess(server, &subject.build()).await.unwrap();
        subject
    }

    pub async fn possess(&self, server: &Server, from: &DatabaseName) -> Result<(), Error> {
        server
            .take_possession(Possession {
                from,
                database: &self.database,
                role: &self.role,
                verifier: &scram_verifier(&self.password),
                login: true,
                owner: self.owner,
                epoch: 1,
            })
            .await
    }

    pub async fn connect(&self, server: &Server) -> Result<Connection, Error> {
        let url = server.url().with_database(self.database.as_str());
        url.with_user(self.role.as_str(), &self.password).connect().await
    }

    pub async fn findings(&self, server: &Server, epoch: i64) -> Vec<(FindingKind, String)> {
        let found =
            server.findings(&self.database, &self.role, self.owner.tenant, epoch).await.unwrap();
        found.into_iter().map(|finding| (finding.kind, finding.subject)).collect()
    }
}

/// Runs statements one by one, as `create database` wants it, in one session.
pub async fn run(server: &Server, sql: &str) {
    let client = server.client().await.unwrap();
    for statement in sql.split(';').filter(|statement| !statement.trim().is_empty()) {
        client.batch_execute(statement).await.unwrap();
    }
}

pub fn code(error: &tokio_postgres::Error) -> &str {
    error.code().map_or("", |state| state.code())
}
