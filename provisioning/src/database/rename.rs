//! Renaming a tenant's database together with its role.

use std::time::Duration;

use deadpool_postgres::GenericClient;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{DatabaseFacts, database_facts, missing, not_ours};
use crate::error::Error;
use crate::name::{DatabaseName, RoleName};
use crate::role::{self, RoleFacts, role_facts};
use crate::server::Server;

/// The names that a tenant's database and role have, and those that they are to have.
#[derive(Clone, Copy, Debug)]
pub struct Rename<'a> {
    /// The present names.
    pub from: (&'a DatabaseName, &'a RoleName),
    /// The new ones.
    pub to: (&'a DatabaseName, &'a RoleName),
    /// Whose they are.
    pub tenant: Uuid,
    /// How long work in progress may take to end by itself.
    pub grace: Duration,
}

impl Server {
    /// Gives a tenant's database and role other names, in one transaction: nobody meets the one without
    /// the other. Refuses new connections first, lets work in progress end, ends what is left of it, and
    /// accepts connections again together with the new names.
    ///
    /// Marker, stamp, rights and password stay as they are. What is found decides what is left to do, so it
    /// may be repeated after a crash at any moment, and undone with the names the other way round.
    pub async fn rename(&self, rename: Rename<'_>) -> Result<(), Error> {
        let Rename { from: (database, role), to: (new_database, new_role), tenant, grace } = rename;
        let mut client = self.lock_names(&[database, new_database]).await?;

        let mut statements = Vec::new();
        if let Some(facts) = database_to_rename(&*client, database, new_database, tenant).await? {
            self.drain(&*client, database, facts.oid, grace).await?;
            let (from, to) = (database.quoted(), new_database.quoted());
            statements.push(format!("alter database {from} rename to {to}"));
        }
        if role_to_rename(&*client, role, new_role, tenant).await?.is_some() {
            let (from, to) = (role.quoted(), new_role.quoted());
            statements.push(format!("alter role {from} rename to {to}"));
        }
        statements.push(format!("alter database {} allow_connections true", new_database.quoted()));
        let transaction = client.transaction().await?;
        transaction.batch_execute(&statements.join(";\n")).await?;
        transaction.commit().await?;
        client.release().await
    }

    /// Refuses new connections to a database, and waits until the present ones are gone; those that take
    /// longer than the grace are ended.
    async fn drain(
        &self,
        client: &impl GenericClient,
        database: &DatabaseName,
        oid: u32,
        grace: Duration,
    ) -> Result<(), Error> {
        client
            .batch_execute(&format!("alter database {} allow_connections false", database.quoted()))
            .await?;
        let deadline = Instant::now() + grace;
        let mut pause = Duration::from_millis(2);
        while Instant::now() < deadline {
            let row = client
                .query_one(
                    "-- rename::drain
                     select count(*) from pg_stat_activity where datid = $1 and usesysid is not null",
                    &[&oid],
                )
                .await?;
            if row.get::<_, i64>(0) == 0 {
                break;
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(20));
        }
        self.end_sessions(client, oid, &[]).await.map(drop)
    }
}

/// The tenant's database, if it still has its present name.
async fn database_to_rename(
    client: &impl GenericClient,
    from: &DatabaseName,
    to: &DatabaseName,
    tenant: Uuid,
) -> Result<Option<DatabaseFacts>, Error> {
    match (database_facts(client, from).await?, database_facts(client, to).await?) {
        (Some(facts), None) if facts.belongs_to(tenant) => Ok(Some(facts)),
        (_, Some(facts)) if facts.belongs_to(tenant) => Ok(None),
        (_, Some(_)) => Err(not_ours(to)),
        (Some(_), None) => Err(not_ours(from)),
        (None, None) => Err(missing(from)),
    }
}

/// The tenant's role, if it still has its present name.
async fn role_to_rename(
    client: &impl GenericClient,
    from: &RoleName,
    to: &RoleName,
    tenant: Uuid,
) -> Result<Option<RoleFacts>, Error> {
    match (role_facts(client, from).await?, role_facts(client, to).await?) {
        (Some(facts), None) if facts.belongs_to(tenant) => Ok(Some(facts)),
        (_, Some(facts)) if facts.belongs_to(tenant) => Ok(None),
        (_, Some(_)) => Err(role::not_ours(to)),
        (Some(_), None) => Err(role::not_ours(from)),
        (None, None) => Err(Error::Missing { kind: "role", name: from.to_string() }),
    }
}
