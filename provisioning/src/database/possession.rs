//! Giving a database to a tenant: the one transaction that makes a tenant, and the one that replaces
//! its database.
//!
//! Databases and roles are rows in catalogs that all databases of a server share, so one transaction
//! can create the role, rename the database, mark both, stamp, grant and open. A crash leaves either a
//! build that nobody can enter, or a tenant that is complete.

use std::fmt::Display;

use tokio_postgres::error::SqlState;

use super::{DatabaseFacts, database_facts, missing, not_ours};
use crate::error::{Cause, Error};
use crate::marker::{Marker, Owner};
use crate::name::{DatabaseName, RoleName};
use crate::role::{self, Verifier, role_facts};
use crate::server::Server;

/// A build or a spare, and the tenant that is to have it.
#[derive(Clone, Copy, Debug)]
pub struct Possession<'a> {
    /// The build or spare, or a database that the tenant had before.
    pub from: &'a DatabaseName,
    /// What it is to be called.
    pub database: &'a DatabaseName,
    /// The tenant's login role; it is created if it is missing.
    pub role: &'a RoleName,
    /// The role's password, as [`scram_verifier`](crate::scram_verifier) makes it.
    pub verifier: &'a str,
    /// Whether the role may log in.
    pub login: bool,
    /// Whose it is to be, and which operation does it.
    pub owner: Owner,
    /// How often the tenant's place has changed.
    pub epoch: i64,
}

/// A tenant's database and the one that is to replace it.
#[derive(Clone, Copy, Debug)]
pub struct Swap<'a> {
    /// The tenant's database; may be missing after a disaster.
    pub live: &'a DatabaseName,
    /// The build that replaces it, or a database that it was replaced by before.
    pub incoming: &'a DatabaseName,
    /// What the replaced database is to be called: kept under an old name it stays the tenant's, and under
    /// the name of a build it is nobody's any more.
    pub retired: &'a DatabaseName,
    /// The tenant's login role.
    pub role: &'a RoleName,
    /// Whose it is, and which operation does it.
    pub owner: Owner,
    /// The epoch of the incoming database.
    pub epoch: i64,
}

/// A tenant's database that another one, on another server, is to replace.
#[derive(Clone, Copy, Debug)]
pub struct Retirement<'a> {
    /// The tenant's database.
    pub live: &'a DatabaseName,
    /// What it is to be called; as in a [`Swap`].
    pub retired: &'a DatabaseName,
    /// The tenant's login role.
    pub role: &'a RoleName,
    /// Whose it is, and which operation does it.
    pub owner: Owner,
}

impl Server {
    /// Makes a build or spare the database of a tenant, with its role, in one transaction.
    ///
    /// If the tenant has the database already, only role, password, stamp, rights and openness are made
    /// sure of. A database or role of that name without the tenant's marker is [`Error::NotOurs`].
    pub async fn take_possession(&self, possession: Possession<'_>) -> Result<(), Error> {
        let Possession { from, database, role, verifier, login, owner, epoch } = possession;
        let verifier = Verifier::parse(verifier)?;
        let superuser = self.is_superuser().await?;
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let lock = transaction
            .prepare_cached(
                "-- possession::take_possession
                 select pg_advisory_xact_lock(hashtextextended('tenantry ' || $1, 0))",
            )
            .await?;
        transaction.execute(&lock, &[&database.as_str()]).await?;

        let mut statements = match role_facts(&transaction, role).await? {
            None => making_role(possession, &verifier).to_vec(),
            Some(facts) if facts.belongs_to(owner.tenant) => {
                vec![format!("alter role {} {} password {verifier}", role.quoted(), word(login))]
            }
            Some(_) => return Err(role::not_ours(role)),
        };
        statements.extend(joining(role, superuser));
        match database_facts(&transaction, database).await? {
            None => {
                let facts =
                    database_facts(&transaction, from).await?.ok_or_else(|| missing(from))?;
                if !may_come(from, &facts, owner) {
                    return Err(not_ours(from));
                }
                statements.extend(naming(possession));
            }
            Some(facts) if facts.belongs_to(owner.tenant) => {}
            Some(_) => return Err(not_ours(database)),
        }
        statements.extend(opening(database, role, owner, epoch));
        transaction
            .batch_execute(&statements.join(";\n"))
            .await
            .map_err(|error| self.explain_stamp(error))?;
        Ok(transaction.commit().await?)
    }

    /// Puts a build into the place of a tenant's database and keeps the replaced one, shut. Ends the
    /// sessions of both first; the rest is one transaction.
    ///
    /// What is found decides what is left to do, so it may be repeated after a crash at any moment.
    pub async fn swap(&self, swap: Swap<'_>) -> Result<(), Error> {
        let Swap { live, incoming, retired, role, owner, epoch } = swap;
        let marker = Marker::Tenant(owner);
        let mut client = self.lock_names(&[live, incoming]).await?;
        match role_facts(&*client, role).await? {
            Some(facts) if facts.belongs_to(owner.tenant) => {}
            Some(_) => return Err(role::not_ours(role)),
            None => return Err(Error::Missing { kind: "role", name: role.to_string() }),
        }

        let mut statements = Vec::new();
        let present = database_facts(&*client, live).await?;
        let is_swapped =
            present.as_ref().is_some_and(|facts| facts.marker.as_ref() == Some(&marker));
        if !is_swapped {
            let build =
                database_facts(&*client, incoming).await?.ok_or_else(|| missing(incoming))?;
            if !may_come(incoming, &build, owner) {
                return Err(not_ours(incoming));
            }
            if let Some(facts) = present {
                if !facts.belongs_to(owner.tenant) {
                    return Err(not_ours(live));
                }
                self.shut(&*client, live, facts.oid).await?;
                statements.extend(retiring(live, retired, role, owner));
            }
            self.shut(&*client, incoming, build.oid).await?;
            statements.extend([
                format!("alter database {} rename to {}", incoming.quoted(), live.quoted()),
                format!("comment on database {} is '{marker}'", live.quoted()),
            ]);
        }
        statements.extend(opening(live, role, owner, epoch));
        let transaction = client.transaction().await?;
        transaction
            .batch_execute(&statements.join(";\n"))
            .await
            .map_err(|error| self.explain_stamp(error))?;
        transaction.commit().await?;
        client.release().await
    }

    /// Takes a tenant's database out of service and keeps it, shut, under another name. That there is none
    /// is fine: it has been retired already.
    pub async fn retire(&self, retirement: Retirement<'_>) -> Result<(), Error> {
        let Retirement { live, retired, role, owner } = retirement;
        let mut client = self.lock_names(&[live, retired]).await?;
        if let Some(facts) = database_facts(&*client, live).await? {
            if !facts.belongs_to(owner.tenant) {
                return Err(not_ours(live));
            }
            self.shut(&*client, live, facts.oid).await?;
            let transaction = client.transaction().await?;
            transaction.batch_execute(&retiring(live, retired, role, owner).join(";\n")).await?;
            transaction.commit().await?;
        }
        client.release().await
    }

    fn explain_stamp(&self, error: tokio_postgres::Error) -> Error {
        let is_about_stamp = error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE)
            && error
                .as_db_error()
                .is_some_and(|refusal| refusal.message().contains("tenantry.tenant"));
        if !is_about_stamp {
            return error.into();
        }
        Error::MissingPrivilege {
            what: "stamping a database with `tenantry.tenant`".to_owned(),
            remedy: Some(format!(
                "as a superuser, run `grant set on parameter tenantry.tenant to \"{}\"` (PostgreSQL 15 and \
                 newer; before that only a superuser may stamp)",
                self.url().user()
            )),
            source: Some(Cause::from(error)),
        }
    }
}

/// Every statement that [`Server::take_possession`] runs where it finds neither database nor role; `password` stands for
/// the verifier.
pub(crate) fn handing_over(
    possession: Possession<'_>,
    password: &dyn Display,
    superuser: bool,
) -> Vec<String> {
    let Possession { from, database, role, owner, epoch, .. } = possession;
    let mut statements = making_role(possession, password).to_vec();
    statements.extend(joining(role, superuser));
    if from != database {
        statements.extend(naming(possession));
    }
    statements.extend(opening(database, role, owner, epoch));
    statements
}

fn making_role(possession: Possession<'_>, password: &dyn Display) -> [String; 2] {
    let Possession { role, login, owner, .. } = possession;
    let (role, login, marker) = (role.quoted(), word(login), Marker::Tenant(owner));
    [
        format!(
            "create role {role} {login} nosuperuser nocreatedb nocreaterole noreplication nobypassrls inherit \
             password {password}"
        ),
        format!("comment on role {role} is '{marker}'"),
    ]
}

fn word(login: bool) -> &'static str {
    if login { "login" } else { "nologin" }
}

/// Makes the role one of those that may use what migrations make.
fn joining(role: &RoleName, superuser: bool) -> Vec<String> {
    let mut statements = vec![format!("grant {} to {}", role::APP, role.quoted())];
    if !superuser {
        // Without it the administrator could not end the tenant's sessions.
        statements.push(format!("grant {} to current_user", role.quoted()));
    }
    statements
}

fn naming(possession: Possession<'_>) -> [String; 2] {
    let Possession { from, database, owner, .. } = possession;
    let (database, marker) = (database.quoted(), Marker::Tenant(owner));
    [
        format!("alter database {} rename to {database}", from.quoted()),
        format!("comment on database {database} is '{marker}'"),
    ]
}

/// What makes a marked database the tenant's to use: its stamp, the right of its role, and an open door.
fn opening(database: &DatabaseName, role: &RoleName, owner: Owner, epoch: i64) -> [String; 4] {
    let (database, role) = (database.quoted(), role.quoted());
    [
        format!("alter database {database} set tenantry.tenant = '{}:{epoch}'", owner.tenant),
        format!("revoke connect, temporary on database {database} from public"),
        format!("grant connect on database {database} to {role}"),
        format!("alter database {database} allow_connections true"),
    ]
}

/// What takes a database out of a tenant's use.
fn retiring(
    live: &DatabaseName,
    retired: &DatabaseName,
    role: &RoleName,
    owner: Owner,
) -> [String; 3] {
    let marker = Marker::Tenant(owner);
    let (live, name) = (live.quoted(), retired.quoted());
    let comment = if retired.is_build_form() { "null".to_owned() } else { format!("'{marker}'") };
    [
        format!("revoke connect on database {live} from {}", role.quoted()),
        format!("alter database {live} rename to {name}"),
        format!("comment on database {name} is {comment}"),
    ]
}

/// Whether a database may become the tenant's: it is free, was the tenant's before, or is what the same operation has
/// adopted.
fn may_come(name: &DatabaseName, facts: &DatabaseFacts, owner: Owner) -> bool {
    is_free(name, facts)
        || (name.is_old_form() && facts.belongs_to(owner.tenant))
        || facts.marker.as_ref() == Some(&Marker::Tenant(owner))
}

/// Whether a database is one of ours that no tenant owns.
fn is_free(name: &DatabaseName, facts: &DatabaseFacts) -> bool {
    name.is_unowned_form()
        && !facts.is_template
        && facts.marker.as_ref().and_then(Marker::tenant).is_none()
}
