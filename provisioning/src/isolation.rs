//! Isolation: the grants that keep tenants apart, and the query that proves them.
//!
//! [`lock_down`] is run inside a database before any tenant can enter it. [`Server::findings`] looks
//! from outside, at the catalogs that all databases of a server share, so that it also sees what
//! somebody granted by hand.

use std::fmt;

use tokio_postgres::Row;
use uuid::Uuid;

use crate::database::owned_by;
use crate::error::Error;
use crate::name::{DatabaseName, RoleName};
use crate::server::{Connection, Server};

pub(crate) const LOCK_DOWN: &str = include_str!("../sql/lock_down.sql");
pub(crate) const JOURNAL: &str = include_str!("../sql/journal.sql");
const FINDINGS: &str = include_str!("../sql/findings.sql");
const PASSWORD_FINDING: &str = include_str!("../sql/password_finding.sql");

/// Gives the shared roles their rights in a new database, and nobody else any. `connection` is the
/// administrator's, inside a build. Running it again changes nothing.
pub async fn lock_down(connection: &Connection) -> Result<(), Error> {
    connection.batch_execute(LOCK_DOWN).await?;
    Ok(connection.batch_execute(JOURNAL).await?)
}

/// One breach of a tenant's isolation, or one thing that is not as it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What kind of breach.
    pub kind: FindingKind,
    /// What it is about: a role, a database, a right.
    pub subject: String,
}

/// The kinds of [`Finding`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FindingKind {
    /// The database is gone.
    DatabaseMissing,
    /// The login role is gone.
    RoleMissing,
    /// The comment of database or role does not name this tenant.
    WrongMarker,
    /// The stamp is not this tenant's and epoch's, or the role overrides it.
    WrongStamp,
    /// PUBLIC has a right in the database.
    PublicRight,
    /// A role that is not the tenant's has a right in the database, or the tenant's has one too many.
    ForeignRight,
    /// Everybody who may create databases may clone it.
    Clonable,
    /// The login role has an attribute that reaches beyond its database.
    RoleAttribute,
    /// The login role, or the role that all login roles are members of, is a member of another.
    Membership,
    /// Another role is a member of the login role.
    Member,
    /// The login role may connect to another database.
    ReachesDatabase,
    /// The password is not kept as a SCRAM-SHA-256 verifier.
    WeakPassword,
}

impl Server {
    /// Everything about a tenant's database and role that is not as it must be. Empty means isolated.
    ///
    /// One query, from the maintenance database; whether the password is kept well is only known to a
    /// superuser.
    pub async fn findings(
        &self,
        database: &DatabaseName,
        role: &RoleName,
        tenant: Uuid,
        epoch: i64,
    ) -> Result<Vec<Finding>, Error> {
        let superuser = self.is_superuser().await?;
        let sql = format!("{FINDINGS}{}", if superuser { PASSWORD_FINDING } else { "" });
        let (tenant, stamp) = (tenant.to_string(), format!("{tenant}:{epoch}"));
        let client = self.client().await?;
        let statement = client.prepare_cached(&sql).await?;
        let rows = client
            .query(&statement, &[&database.as_str(), &role.as_str(), &tenant, &stamp])
            .await?;
        Ok(rows.iter().map(from_row).collect())
    }

    /// Takes from PUBLIC what it has in a tenant's database, and has nobody clone it: what nobody is ever given there.
    pub async fn shut_to_public(&self, database: &DatabaseName, tenant: Uuid) -> Result<(), Error> {
        let client = self.client().await?;
        owned_by(&client, database, tenant).await?;
        let name = database.quoted();
        let sql = format!(
            "alter database {name} is_template false; revoke all on database {name} from public"
        );
        Ok(client.batch_execute(&sql).await?)
    }
}

impl FindingKind {
    /// Every kind.
    pub const ALL: [Self; 12] = [
        Self::DatabaseMissing,
        Self::RoleMissing,
        Self::WrongMarker,
        Self::WrongStamp,
        Self::PublicRight,
        Self::ForeignRight,
        Self::Clonable,
        Self::RoleAttribute,
        Self::Membership,
        Self::Member,
        Self::ReachesDatabase,
        Self::WeakPassword,
    ];

    /// A stable name, for reports and records.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::DatabaseMissing => "database_missing",
            Self::RoleMissing => "role_missing",
            Self::WrongMarker => "wrong_marker",
            Self::WrongStamp => "wrong_stamp",
            Self::PublicRight => "public_right",
            Self::ForeignRight => "foreign_right",
            Self::Clonable => "clonable",
            Self::RoleAttribute => "role_attribute",
            Self::Membership => "membership",
            Self::Member => "member",
            Self::ReachesDatabase => "reaches_database",
            Self::WeakPassword => "weak_password",
        }
    }

    /// The kind with this name.
    #[must_use]
    pub fn parse(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = &self.subject;
        match self.kind {
            FindingKind::DatabaseMissing => write!(f, "the database {subject} is missing"),
            FindingKind::RoleMissing => write!(f, "the role {subject} is missing"),
            FindingKind::WrongMarker => {
                write!(f, "the {subject} does not carry this tenant's marker")
            }
            FindingKind::WrongStamp => write!(f, "the stamp is {subject}"),
            FindingKind::PublicRight => write!(f, "PUBLIC has the right {subject}"),
            FindingKind::ForeignRight => write!(f, "there is a right that must not be: {subject}"),
            FindingKind::Clonable => {
                write!(f, "the database {subject} is a template and can be cloned")
            }
            FindingKind::RoleAttribute => write!(f, "the role has the attribute {subject}"),
            FindingKind::Membership => write!(f, "the role is a member of {subject}"),
            FindingKind::Member => write!(f, "{subject} is a member of the role"),
            FindingKind::ReachesDatabase => {
                write!(f, "the role may connect to the database {subject}")
            }
            FindingKind::WeakPassword => {
                write!(f, "the password of {subject} is not kept as SCRAM-SHA-256")
            }
        }
    }
}

fn from_row(row: &Row) -> Finding {
    Finding {
        kind: FindingKind::parse(row.get("kind")).expect("findings.sql names only known kinds"),
        subject: row.get("subject"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_and_the_kinds_name_the_same_things() {
        let sql = format!("{FINDINGS}{PASSWORD_FINDING}");
        for kind in FindingKind::ALL {
            assert!(sql.contains(&format!("'{}'", kind.code())), "{kind:?}");
            assert_eq!(FindingKind::parse(kind.code()), Some(kind));
        }
    }
}
