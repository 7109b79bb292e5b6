//! Hardening: whether a tenant's database shows what PostgreSQL shows every role of its neighbours, and whether it
//! leaves to the tenant what gets around a read-only transaction or a timeout.
//!
//! The catalogs that all databases of a server share are read through each database, and so the rights to them are
//! each database's own: in a strict one PUBLIC has none, and `tenantry_owner`, as which migrations run, has them. A
//! clone has the rights of its template. A dump of ours has none of them, so whatever is made from nothing gets them
//! where it is opened first ([`Server::open_build`](Server)). `sql/strict.sql` is the one list of what is hidden:
//! hiding, showing again and looking for what is not hidden all ask it.

use std::fmt::Write as _;

use aws_lc_rs::digest;

use crate::audit::Hole;
use crate::error::Error;
use crate::name::{DatabaseName, RoleName};
use crate::role;
use crate::schema::MigrationSet;
use crate::server::{Connection, Problem, Server};

const STRICT: &str = include_str!("../sql/strict.sql");
const STRICT_ROLES: &str = include_str!("../sql/strict_roles.sql");
const PLAIN_ROLES: &str = include_str!("../sql/plain_roles.sql");

/// How many things a finding spells out.
const SPELLED_OUT: usize = 4;

/// What tenants see of each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hardening {
    /// What PostgreSQL shows every role: names, settings and sessions of the others on its server.
    #[default]
    Standard,
    /// Nothing. Nor has a tenant what gets around a bound of its session.
    Strict,
}

impl Hardening {
    /// What the template of these files is known by: with another hardening it is another template.
    #[must_use]
    pub fn template_digest(self, set: &MigrationSet) -> String {
        match self {
            Self::Standard => set.digest().to_owned(),
            Self::Strict => {
                // The number rises with what strict.sql hides: templates of before are then built anew.
                let text = format!("strict 2\n{}", set.digest());
                hex::encode(digest::digest(&digest::SHA256, text.as_bytes()))
            }
        }
    }

    /// Its name in settings.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Strict => "strict",
        }
    }
}

/// Something by which a tenant learns of others, or gets around a bound.
struct Glimpse {
    subject: String,
    shows: String,
    /// What hides it; of what is hidden, what shows it again. None of `pg_roles`.
    turn: Option<String>,
}

impl Server {
    /// Hides from the tenants of a database whatever is not hidden yet. Returns how much that was.
    pub async fn harden(&self, database: &DatabaseName) -> Result<usize, Error> {
        self.hide_neighbours(&self.connect_apart(database).await?).await
    }

    /// The same where the server's hardening is strict; elsewhere a database stays as it is.
    pub async fn ensure_hardened(&self, database: &DatabaseName) -> Result<(), Error> {
        if self.hardening() == Hardening::Strict {
            self.harden(database).await?;
        }
        Ok(())
    }

    /// The same as [`Server::ensure_hardened`], in a session with an empty `search_path`.
    pub async fn ensure_hardened_in(&self, session: &Connection) -> Result<(), Error> {
        if self.hardening() == Hardening::Strict {
            self.hide_neighbours(session).await?;
        }
        Ok(())
    }

    /// Shows the tenants of a database again what PostgreSQL shows every role. Returns how much was hidden.
    pub async fn loosen(&self, database: &DatabaseName) -> Result<usize, Error> {
        let session = self.connect_apart(database).await?;
        let hidden = glimpses(&session, &[role::APP], false).await?;
        self.turn(&session, &hidden, PLAIN_ROLES).await
    }

    /// The same as [`Server::harden`], in a session with an empty `search_path`.
    pub(crate) async fn hide_neighbours(&self, session: &Connection) -> Result<usize, Error> {
        let open = glimpses(session, &[role::APP], true).await?;
        self.turn(session, &open, STRICT_ROLES).await
    }

    /// The statements with which [`Server::ensure_hardened`] would hide tenants of this database from each other.
    pub(crate) async fn hiding(&self, session: &Connection) -> Result<Vec<String>, Error> {
        if self.hardening() == Hardening::Standard {
            return Ok(Vec::new());
        }
        let open = glimpses(session, &[role::APP], true).await?;
        let statement = |one: Glimpse| one.turn.unwrap_or_else(|| STRICT_ROLES.to_owned());
        Ok(open.into_iter().map(statement).collect())
    }

    /// Whether a database is as its server's hardening says, to an audit.
    pub(crate) async fn neighbours_seen(
        &self,
        session: &Connection,
        database: &DatabaseName,
        role: &RoleName,
    ) -> Result<Option<Hole>, Error> {
        if self.hardening() == Hardening::Standard {
            return Ok(None);
        }
        let open = glimpses(session, &[role::APP, role.as_str()], true).await?;
        let Some(first) = open.first() else { return Ok(None) };
        let subjects: Vec<&str> =
            open.iter().take(SPELLED_OUT).map(|one| one.subject.as_str()).collect();
        let mut evidence = format!("it gives tenants {}", subjects.join(", "));
        if open.len() > SPELLED_OUT {
            _ = write!(evidence, " and {} more", open.len() - SPELLED_OUT);
        }
        Ok(Some(Hole {
            kind: "neighbours_seen".to_owned(),
            subject: "the shared catalogs".to_owned(),
            evidence,
            shows: first.shows.clone(),
            mend: None,
            database: Some(database.to_string()),
        }))
    }

    /// What keeps tenants of this server from being hidden from each other, and from whoever listens.
    pub(crate) async fn hardening_problems(&self) -> Result<Vec<Problem>, Error> {
        let mut problems = Vec::new();
        if self.hardening() == Hardening::Standard {
            return Ok(problems);
        }
        if !self.is_superuser().await? {
            let user = self.url().user();
            problems.push(Problem::new(
                format!("the hardening is strict, and {user} may not change the system's catalogs"),
                superuser_remedy(user),
            ));
        }
        let row = self
            .client()
            .await?
            .query_one("-- hardening::tls\nselect current_setting('ssl') = 'on'", &[])
            .await?;
        if !row.get::<_, bool>(0) && !self.url().is_local() {
            problems.push(Problem::new(
                "the hardening is strict, and the server has no TLS",
                "set ssl = on with a certificate, make the lines of pg_hba.conf `hostssl`, and reload",
            ));
        }
        Ok(problems)
    }

    /// Hides all of it, or shows all of it again, at once.
    async fn turn(
        &self,
        session: &Connection,
        glimpses: &[Glimpse],
        roles: &str,
    ) -> Result<usize, Error> {
        if glimpses.is_empty() {
            return Ok(0);
        }
        if !self.is_superuser().await? {
            return Err(Error::MissingPrivilege {
                what: "changing who may read the system's catalogs in a database".to_owned(),
                remedy: Some(superuser_remedy(self.url().user())),
                source: None,
            });
        }
        let statements: Vec<&str> =
            glimpses.iter().map(|one| one.turn.as_deref().unwrap_or(roles)).collect();
        // Several statements in one message are one transaction.
        session.batch_execute(&format!("begin; {}; commit", statements.join(";\n"))).await?;
        Ok(glimpses.len())
    }
}

fn superuser_remedy(user: &str) -> String {
    format!(
        "as a superuser, run `alter role \"{user}\" superuser`; where nobody is one, set TENANTRY_HARDENING=standard"
    )
}

/// What these roles see of others, or what is hidden from them.
async fn glimpses(session: &Connection, roles: &[&str], open: bool) -> Result<Vec<Glimpse>, Error> {
    let turn = if open { "hide" } else { "unhide" };
    let rows = session.query(STRICT, &[&roles, &open]).await?;
    let glimpse = |row: &tokio_postgres::Row| Glimpse {
        subject: row.get("subject"),
        shows: row.get("shows"),
        turn: row.get(turn),
    };
    Ok(rows.iter().map(glimpse).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_hardening_has_a_template_of_its_own() {
        let file = ("V1__a.sql".to_owned(), "select 1".to_owned());
        let set = MigrationSet::from_sources(vec![file]).unwrap();

        let (standard, strict) =
            (Hardening::Standard.template_digest(&set), Hardening::Strict.template_digest(&set));

        assert_eq!(standard, set.digest());
        assert_ne!(standard, strict);
        assert_eq!(strict.len(), standard.len());
    }

    #[test]
    fn the_statements_name_the_shared_roles() {
        assert!(STRICT.contains(role::OWNER));
        assert!(STRICT_ROLES.contains(role::OWNER) && STRICT_ROLES.contains(role::APP));
    }
}
