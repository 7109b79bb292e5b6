//! What a login role has inside databases: large objects, and rights.
//!
//! A tenant's role runs no DDL, and yet PostgreSQL forbids nobody to make large objects, nor to give rights to
//! them, or to whatever he may make later, also to the roles of others. Each of these names a role, which then
//! cannot be dropped; and a dump that has one cannot be restored where the role is missing.

use uuid::Uuid;

use crate::error::Error;
use crate::marker::{Marker, Owner};
use crate::name::{DatabaseName, RoleName};
use crate::role::{APP, OWNER, role_facts};
use crate::server::{Server, rows};

impl Server {
    /// Makes a role that nobody can log in as, for as long as a dump is restored that names it.
    pub async fn lend_role(&self, role: &RoleName, owner: Owner) -> Result<(), Error> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        if role_facts(&transaction, role).await?.is_some() {
            return Ok(());
        }
        let (role, marker) = (role.quoted(), Marker::Tenant(owner));
        let sql = format!(
            "create role {role} nologin; comment on role {role} is '{marker}'; grant {role} to current_user"
        );
        transaction.batch_execute(&sql).await?;
        Ok(transaction.commit().await?)
    }

    /// Drops a role that [`Server::lend_role`] made for this owner; any other stays.
    pub async fn take_back_role(&self, role: &RoleName, owner: Owner) -> Result<(), Error> {
        let facts = role_facts(&self.client().await?, role).await?;
        let is_lent = facts
            .is_some_and(|facts| facts.marker == Some(Marker::Tenant(owner)) && !facts.can_login);
        if is_lent { self.drop_role(role, owner.tenant).await } else { Ok(()) }
    }

    /// Gives the large objects in a build that are another tenant's, or its own under an earlier name, to the
    /// owner of everything. What is this role's stays so.
    pub async fn adopt_large_objects(
        &self,
        build: &DatabaseName,
        role: &RoleName,
    ) -> Result<(), Error> {
        let whose = format!(r"r.rolname like 'tenant\_%' and r.rolname <> '{role}'");
        Ok(self.connect_apart(build).await?.batch_execute(&hand_over(&whose)).await?)
    }

    /// Takes a role that is to be dropped out of every database that names it. Nothing in them is lost.
    pub(crate) async fn disown(&self, role: &RoleName) -> Result<(), Error> {
        let sql = "-- belongings::disown
             select distinct d.datname::text
             from pg_shdepend s join pg_database d on d.oid = s.dbid join pg_roles r on r.oid = s.refobjid
             where s.refclassid = 'pg_authid'::regclass and r.rolname = $1";
        let found = rows(&self.client().await?, sql, &[&role.as_str()]).await?;
        for row in found {
            // One with another form of name is none of ours: dropping the role will name it.
            if let Ok(database) = DatabaseName::parse(row.get(0)) {
                self.disown_in(&database, role).await?;
            }
        }
        Ok(())
    }

    /// A database that is shut is opened for this, to the administrator alone.
    async fn disown_in(&self, database: &DatabaseName, role: &RoleName) -> Result<(), Error> {
        let Some(facts) = self.database(database).await? else { return Ok(()) };
        let shut_of: Option<Uuid> =
            facts.marker.as_ref().and_then(Marker::tenant).filter(|_| !facts.allow_connections);
        if let Some(tenant) = shut_of {
            self.unfence(database, tenant).await?;
        }
        let whose = format!("r.rolname = '{role}'");
        let (hand_over, role) = (hand_over(&whose), role.quoted());
        let sql = format!("{hand_over}; reassign owned by {role} to {OWNER}; drop owned by {role}");
        let disowned = async { Ok(self.connect_apart(database).await?.batch_execute(&sql).await?) };
        let disowned: Result<(), Error> = disowned.await;
        if let Some(tenant) = shut_of {
            self.fence(database, tenant).await?;
        }
        disowned
    }
}

/// Gives large objects to the owner of everything, and lets tenants read and write them.
fn hand_over(whose: &str) -> String {
    format!(
        "do $$
         declare
             object oid;
         begin
             for object in select m.oid from pg_largeobject_metadata m join pg_roles r on r.oid = m.lomowner
                           where {whose}
             loop
                 execute format('alter large object %s owner to {OWNER}', object);
                 execute format('grant select, update on large object %s to {APP}', object);
             end loop;
         end $$"
    )
}
