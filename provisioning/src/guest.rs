//! A guest: the role as which a dump from elsewhere comes into a build, and what is done before anybody else enters.
//!
//! Whoever wrote the dump decides what runs, so it runs as a role that has rights in that one database and in no
//! other, is a member of nothing, and cannot log in once the dump is in. Only then the administrator enters, with an
//! empty `search_path`: he looks for what would give the dump's code more rights later ([`Server::object_to`]),
//! and gives the rest to the owner of everything ([`Server::adopt`]). Until then nobody has run a line of it.

use std::fmt;

use secrecy::SecretString;
use tokio_postgres::Row;

use crate::error::Error;
use crate::hardening::Hardening;
use crate::isolation::lock_down;
use crate::marker::{Marker, Owner};
use crate::name::{DatabaseName, RoleName};
use crate::role::{random_password, role_facts, scram_verifier};
use crate::server::{Server, ServerUrl};

pub(crate) const OBJECTIONS: &str = include_str!("../sql/guest/objections.sql");
const ADOPT: &str = include_str!("../sql/guest/adopt.sql");

/// A dump takes as long as it takes, and is worth nothing until it is whole.
const GUEST_SETTINGS: &str = "-c synchronous_commit=off -c statement_timeout=0 -c lock_timeout=0 \
    -c idle_in_transaction_session_timeout=0 -c client_min_messages=error -c standard_conforming_strings=on";

/// What a dump may have beside tables, and no tenant where they are strict. It goes when the guest's rights go.
const LENT: &str = "grant usage on language plpgsql to tenantry_guest;
    grant execute on function lo_creat(int), lo_create(oid), lo_from_bytea(oid, bytea), lo_put(oid, bigint, bytea),
        lo_truncate(int, int), lo_truncate64(int, bigint), lo_unlink(oid), lowrite(int, bytea) to tenantry_guest";

/// Something in a build that must not become a tenant's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objection {
    /// What kind.
    pub kind: ObjectionKind,
    /// What it is about: a function, a constraint, a schema.
    pub subject: String,
}

/// The kinds of [`Objection`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ObjectionKind {
    /// A schema with the name of our own.
    OurSchema,
    /// A publication: it names what another server may read.
    Publication,
    /// A right of a role that has nothing to do here.
    ForeignRight,
    /// A function that runs with the rights of its owner.
    SecurityDefiner,
    /// Something that calls a function which may do anything, when rows are restored, moved, analyzed or refreshed: as the
    /// administrator, or as the owner of everything, who can change what the administrator will evaluate.
    RunsOnRestore,
    /// A function or operator that may be taken for one of PostgreSQL's.
    Shadows,
}

impl Objection {
    pub(crate) fn from_row(row: &Row) -> Self {
        let code: &str = row.get("kind");
        let kind = ObjectionKind::ALL.into_iter().find(|kind| kind.code() == code);
        Self {
            kind: kind.expect("objections.sql names only known kinds"),
            subject: row.get("subject"),
        }
    }
}

impl ObjectionKind {
    /// Every kind.
    pub const ALL: [Self; 6] = [
        Self::OurSchema,
        Self::Publication,
        Self::ForeignRight,
        Self::SecurityDefiner,
        Self::RunsOnRestore,
        Self::Shadows,
    ];

    /// Whether it is about code, and so no objection to somebody who knows that code.
    #[must_use]
    pub fn is_about_code(self) -> bool {
        matches!(self, Self::SecurityDefiner | Self::RunsOnRestore | Self::Shadows)
    }

    /// A stable name.
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::OurSchema => "our_schema",
            Self::Publication => "publication",
            Self::ForeignRight => "foreign_right",
            Self::SecurityDefiner => "security_definer",
            Self::RunsOnRestore => "runs_on_restore",
            Self::Shadows => "shadows",
        }
    }
}

impl Server {
    /// Makes the guest of an operation, with rights in its build alone, and returns how it logs in. A guest that
    /// an earlier attempt left gets another password.
    pub async fn admit_guest(
        &self,
        build: &DatabaseName,
        owner: Owner,
    ) -> Result<ServerUrl, Error> {
        let name = RoleName::guest(owner.operation);
        let password = random_password();
        let verifier = scram_verifier(&password);
        let (guest, marker) = (name.quoted(), Marker::Tenant(owner));
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let mut statements = match role_facts(&transaction, &name).await? {
            None => vec![
                format!(
                    "create role {guest} login nosuperuser nocreatedb nocreaterole noreplication nobypassrls \
                     noinherit connection limit 1 password '{verifier}'"
                ),
                format!("comment on role {guest} is '{marker}'"),
            ],
            Some(_) => vec![format!("alter role {guest} login password '{verifier}'")],
        };
        if !self.is_superuser().await? {
            // Without it the administrator could neither take over what it makes nor end its session.
            statements.push(format!("grant {guest} to current_user"));
        }
        let database = build.quoted();
        statements
            .push(format!("grant connect, create, temporary on database {database} to {guest}"));
        transaction.batch_execute(&statements.join(";\n")).await?;
        transaction.commit().await?;

        let session = self.connect_apart(build).await?;
        session.batch_execute(&format!("grant usage, create on schema public to {guest}")).await?;
        if self.hardening() == Hardening::Strict {
            session.batch_execute(&LENT.replace("tenantry_guest", &guest)).await?;
        }
        Ok(self.as_guest(build, &name, &password))
    }

    fn as_guest(
        &self,
        build: &DatabaseName,
        guest: &RoleName,
        password: &SecretString,
    ) -> ServerUrl {
        let url = self.url().with_database(build.as_str()).with_user(guest.as_str(), password);
        url.with_options(GUEST_SETTINGS)
    }

    /// Lets the guest in no more, and waits until its sessions are gone. The administrator may enter then.
    pub async fn send_guest_away(&self, build: &DatabaseName, owner: Owner) -> Result<(), Error> {
        self.disable_login(&RoleName::guest(owner.operation), owner.tenant).await?;
        self.close_build(build).await?;
        self.open_build(build).await
    }

    /// What of the contents of a build must not become a tenant's. The guest must have been sent away.
    pub async fn object_to(
        &self,
        build: &DatabaseName,
        owner: Owner,
    ) -> Result<Vec<Objection>, Error> {
        let guest = RoleName::guest(owner.operation);
        let session = self.connect_apart(build).await?;
        let rows = session.query(OBJECTIONS, &[&guest.as_str()]).await?;
        Ok(rows.iter().map(Objection::from_row).collect())
    }

    /// Gives what the guest made to the owner of everything, and to tenants the rights that they have to what
    /// migrations make; locks the database down, and drops the guest. May be repeated.
    pub async fn adopt(&self, build: &DatabaseName, owner: Owner) -> Result<(), Error> {
        let guest = RoleName::guest(owner.operation);
        let session = self.connect_apart(build).await?;
        // Without a guest an earlier attempt has come to the end.
        if self.role(&guest).await?.is_some() {
            let adopt = ADOPT.replace("tenantry_guest", guest.as_str());
            session.batch_execute(&adopt).await?;
            lock_down(&session).await?;
        }
        self.dismiss_guest(owner).await
    }

    /// Drops the guest of an operation, once its build is gone or has been adopted; that there is none is fine.
    pub async fn dismiss_guest(&self, owner: Owner) -> Result<(), Error> {
        self.drop_role(&RoleName::guest(owner.operation), owner.tenant).await
    }
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = &self.subject;
        match self.kind {
            ObjectionKind::OurSchema => {
                write!(f, "it has a schema `{subject}`, which is the name of our own")
            }
            ObjectionKind::Publication => write!(f, "its code made the publication {subject}"),
            ObjectionKind::ForeignRight => {
                write!(f, "it gives the role {subject} a part in it, which has nothing to do here")
            }
            ObjectionKind::SecurityDefiner => {
                write!(f, "the function {subject} runs with the rights of its owner")
            }
            ObjectionKind::RunsOnRestore => {
                write!(f, "{subject} would run with more than the tenant's rights at every restore")
            }
            ObjectionKind::Shadows => {
                write!(f, "{subject} can be taken for PostgreSQL's own of that name")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::role::{APP, OWNER};

    #[test]
    fn the_query_and_the_kinds_name_the_same_things() {
        for kind in ObjectionKind::ALL {
            assert!(OBJECTIONS.contains(&format!("'{}'", kind.code())), "{kind:?}");
        }
    }

    #[test]
    fn the_statements_name_the_shared_roles() {
        assert!(ADOPT.contains(OWNER) && ADOPT.contains(APP));
    }
}
