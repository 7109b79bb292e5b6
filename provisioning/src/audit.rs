//! The audit of a whole server: everything that lets a tenant out, or somebody else in.
//!
//! [`Server::findings`] proves one tenant when it is made; this looks at all of them with a handful of queries,
//! however many they are, and at what is no tenant's: other databases and roles, sessions, settings, `pg_hba.conf`.
//! What only a session inside of a database can see, [`Server::holes_inside`] looks at. It reads; only
//! [`Server::mend`] changes something, and it runs only what these queries wrote, with names that PostgreSQL quoted.

use std::collections::HashSet;

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::error::Error;
use crate::name::{DatabaseName, RoleName};
use crate::server::{APART, Server};

const DATABASES: &str = include_str!("../sql/audit/databases.sql");
const ROLES: &str = include_str!("../sql/audit/roles.sql");
const PASSWORDS: &str = include_str!("../sql/audit/passwords.sql");
const SERVER: &str = include_str!("../sql/audit/server.sql");
const PARAMETERS: &str = include_str!("../sql/audit/parameters.sql");
const HBA: &str = include_str!("../sql/audit/hba.sql");
pub(crate) const INSIDE: &str = include_str!("../sql/audit/inside.sql");

/// The first version in which settings can be granted.
const WITH_PARAMETERS: u32 = 15;

/// A tenant as its server should have it.
#[derive(Clone, Debug)]
pub struct ExpectedTenant {
    /// Its database.
    pub database: DatabaseName,
    /// Its login role.
    pub role: RoleName,
    /// Its id, as markers name it.
    pub tenant: Uuid,
    /// How often its place has changed.
    pub epoch: i64,
}

/// What a server should have.
#[derive(Clone, Debug, Default)]
pub struct Expectation {
    /// The tenants to look at.
    pub tenants: Vec<ExpectedTenant>,
    /// Databases that are known and not looked at as a tenant's: templates, spares, builds, other tenants'.
    pub databases: Vec<String>,
    /// Roles of tenants that are not looked at.
    pub roles: Vec<String>,
    /// Tenants whose databases and roles are being moved or renamed, so that they have any name.
    pub moving: Vec<Uuid>,
}

/// One thing that is not as it was made, or that should not be there at all.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Hole {
    /// What kind of hole: `public_right`, `membership`, ….
    pub kind: String,
    /// What it is about: a role, a database, an object.
    pub subject: String,
    /// What was seen.
    pub evidence: String,
    /// A query that shows it.
    pub shows: String,
    /// A statement that fixes it, where one does so without harm.
    pub mend: Option<String>,
    /// The database in which both are run, where it is not the maintenance database.
    pub database: Option<String>,
}

/// What a look at a server found, and what it could not look at.
#[derive(Clone, Debug, Default)]
pub struct Looked {
    /// What is not as it should be.
    pub holes: Vec<Hole>,
    /// What the administrator may not see.
    pub unseen: Vec<&'static str>,
}

impl Server {
    /// Looks at everything that all databases of the server share.
    pub async fn holes(&self, expectation: &Expectation) -> Result<Looked, Error> {
        let facts = self.facts().await?;
        let lists = Lists::new(expectation);
        let Lists { databases, roles, tenants, stamps, moving } = &lists;
        let (others, other_roles) = (&expectation.databases, &expectation.roles);
        let mut looked = Looked::default();
        looked.holes.extend(
            self.look(DATABASES, &[databases, roles, tenants, stamps, others, moving]).await?,
        );
        looked
            .holes
            .extend(self.look(ROLES, &[roles, tenants, databases, other_roles, moving]).await?);
        looked.holes.extend(self.look(SERVER, &[databases, roles]).await?);
        if facts.major >= WITH_PARAMETERS {
            looked.holes.extend(self.look(PARAMETERS, &[roles]).await?);
        }
        if facts.superuser {
            looked.holes.extend(self.look(PASSWORDS, &[roles]).await?);
        } else {
            looked.unseen.push("how passwords are kept (only a superuser may see it)");
        }
        if self.may_read_hba().await? {
            looked.holes.extend(self.look(HBA, &[]).await?);
        } else {
            looked.unseen.push("pg_hba.conf (grant select on pg_hba_file_rules and execute on pg_hba_file_rules())");
        }
        Ok(looked)
    }

    /// Looks at a tenant's database from the inside, as the administrator.
    pub async fn holes_inside(
        &self,
        database: &DatabaseName,
        role: &RoleName,
    ) -> Result<Vec<Hole>, Error> {
        let session = self.connect_apart(database).await?;
        let rows = session.query(INSIDE, &[&role.as_str()]).await?;
        let mut holes: Vec<Hole> =
            rows.iter().map(|row| from_row(row, Some(database.as_str()))).collect();
        holes.extend(self.neighbours_seen(&session, database, role).await?);
        Ok(holes)
    }

    /// Runs the statement that fixes a hole, in the hole's database.
    pub async fn mend(&self, database: Option<&str>, statement: &str) -> Result<(), Error> {
        match database {
            None => Ok(self.client().await?.batch_execute(statement).await?),
            Some(database) => {
                let url = self.url().with_database(database).with_options(APART);
                let session = url.connect().await?;
                Ok(session.batch_execute(statement).await?)
            }
        }
    }

    /// The names of all databases, those that accept no connections too.
    pub async fn every_database(&self) -> Result<Vec<String>, Error> {
        let rows = self
            .client()
            .await?
            .query(
                "-- audit::every_database\nselect datname::text from pg_database order by 1",
                &[],
            )
            .await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    async fn look(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Hole>, Error> {
        let rows = self.client().await?.query(sql, params).await?;
        Ok(rows.iter().map(|row| from_row(row, None)).collect())
    }

    async fn may_read_hba(&self) -> Result<bool, Error> {
        let row = self
            .client()
            .await?
            .query_one(
                "-- audit::may_read_hba
                 select has_table_privilege('pg_hba_file_rules', 'select')
                        and has_function_privilege('pg_hba_file_rules()', 'execute')",
                &[],
            )
            .await?;
        Ok(row.get(0))
    }
}

impl Looked {
    /// What both looks saw: what only one of them did was on its way from one state to another.
    #[must_use]
    pub fn and_still(mut self, later: &Self) -> Self {
        let still: HashSet<&Hole> = later.holes.iter().collect();
        self.holes.retain(|hole| still.contains(hole));
        self
    }
}

/// The expectation as PostgreSQL takes it.
struct Lists {
    databases: Vec<String>,
    roles: Vec<String>,
    tenants: Vec<String>,
    stamps: Vec<String>,
    moving: Vec<String>,
}

impl Lists {
    fn new(expectation: &Expectation) -> Self {
        let of =
            |text: fn(&ExpectedTenant) -> String| expectation.tenants.iter().map(text).collect();
        Self {
            databases: of(|expected| expected.database.to_string()),
            roles: of(|expected| expected.role.to_string()),
            tenants: of(|expected| expected.tenant.to_string()),
            stamps: of(|expected| format!("{}:{}", expected.tenant, expected.epoch)),
            moving: expectation.moving.iter().map(Uuid::to_string).collect(),
        }
    }
}

fn from_row(row: &Row, database: Option<&str>) -> Hole {
    Hole {
        kind: row.get("kind"),
        subject: row.get("subject"),
        evidence: row.get("evidence"),
        shows: row.get("shows"),
        mend: row.get("mend"),
        database: database.map(str::to_owned),
    }
}
