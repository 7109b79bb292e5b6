//! Adopting: a database that somebody else made becomes a tenant's where it is.
//!
//! First everything is looked at and nothing is changed: what keeps it from becoming a tenant's, and the statements
//! that would make it one ([`Server::plan_adoption`]). Then it is shut, if nobody is in it
//! ([`Server::shut_if_quiet`]); that, and no more, [`Server::give_back`] undoes. All that is done inside of it is one
//! transaction ([`Server::harden_adopted`]), which is tried and rolled back before it is done for good. It ends with the
//! marker: from then on the database is the tenant's, and [`Server::take_possession`] renames and opens it.
//!
//! Nothing is run before it is known that no code in there would run along, nor anything that would reach other
//! databases. Roles that were there before stay what they are; in this database they have no part any more.

use std::fmt;
use std::time::Duration;

use deadpool_postgres::GenericClient;
use tokio::time::{Instant, sleep};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;

use crate::audit::INSIDE as AUDIT;
use crate::database::{Possession, database_facts, handing_over, missing, not_ours};
use crate::error::{Cause, Error};
use crate::guest::{OBJECTIONS, Objection, ObjectionKind};
use crate::hardening::Hardening;
use crate::isolation::{JOURNAL, LOCK_DOWN};
use crate::marker::{Marker, Owner};
use crate::name::{DatabaseName, RoleName};
use crate::server::{Connection, PooledClient, Server};

const OUTSIDE: &str = include_str!("../sql/adoption/outside.sql");
const INSIDE: &str = include_str!("../sql/adoption/inside.sql");
const NOTES: &str = include_str!("../sql/adoption/notes.sql");
const STATEMENTS: &str = include_str!("../sql/adoption/statements.sql");

/// A session that has been ended is listed for a moment.
const LINGERS: Duration = Duration::from_secs(2);
/// Nobody else is in there, so nothing but PostgreSQL's own vacuum holds a lock.
const LOCK_TIMEOUT: &str = "set local lock_timeout = '60s'";

/// What an audit finds in a database before its adoption, and what adopting fixes.
const MENDED: [&str; 5] =
    ["schema_right", "object_right", "object_owner", "default_privilege", "large_object"];

/// A database that is to be a tenant's.
#[derive(Clone, Copy, Debug)]
pub struct Adoption<'a> {
    /// Its present name.
    pub from: &'a DatabaseName,
    /// What it is to be called.
    pub database: &'a DatabaseName,
    /// The login role that is to be made for it.
    pub role: &'a RoleName,
    /// Whose it is to be, and which operation does it.
    pub owner: Owner,
    /// Whether somebody knows its code to do no harm.
    pub trust_functions: bool,
}

/// Something that keeps a database from becoming a tenant's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// A stable name of its kind.
    pub kind: String,
    /// What it is.
    pub what: String,
    /// What somebody who may change the database can do about it.
    pub remedy: String,
}

/// What an adoption would do.
#[derive(Clone, Debug, Default)]
pub struct AdoptionPlan {
    /// What has to be done before.
    pub obstacles: Vec<Obstacle>,
    /// What will be otherwise for those who have used the database.
    pub notes: Vec<String>,
    /// Every statement, in order; a password stands for itself as `…`.
    pub statements: Vec<String>,
}

/// Whether something is done for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// It is done, looked at, and rolled back.
    Rehearse,
    /// It is done.
    Perform,
}

impl Server {
    /// What adopting a database would do, and what keeps it from that. Changes nothing.
    pub async fn plan_adoption(&self, adoption: Adoption<'_>) -> Result<AdoptionPlan, Error> {
        let Adoption { from, database, role, owner, .. } = adoption;
        let client = self.client().await?;
        let rows = outside(&client, adoption).await?;
        let mut plan = AdoptionPlan {
            obstacles: rows.iter().map(obstacle).collect(),
            ..AdoptionPlan::default()
        };
        plan.obstacles.extend(self.unhardenable().await?);
        if rows.iter().any(|row| row.get("bars")) {
            return Ok(plan);
        }
        let Some(facts) = database_facts(&client, from).await? else { return Ok(plan) };
        plan.obstacles.extend(sessions(&client, facts.oid, LINGERS).await?);
        drop(client);

        let session = self.connect_apart(from).await?;
        plan.obstacles.extend(obstacles_inside(&session, adoption).await?);
        let notes = session.query(NOTES, &[]).await?;
        plan.notes = notes.iter().map(|row| row.get("note")).collect();
        plan.statements.push(shutting(from));
        plan.statements.extend(statements(&session, owner, from).await?);
        plan.statements.extend(self.hiding(&session).await?);
        let superuser = self.is_superuser().await?;
        let possession =
            Possession { from, database, role, verifier: "", login: true, owner, epoch: 1 };
        plan.statements.extend(handing_over(possession, &"'…'", superuser));
        Ok(plan)
    }

    /// Refuses new connections to a database that is nobody's, unless somebody is in it: then it stays as it is, and
    /// who that is comes back.
    pub async fn shut_if_quiet(
        &self,
        database: &DatabaseName,
        owner: Owner,
    ) -> Result<Vec<Obstacle>, Error> {
        let client = self.lock_names(&[database]).await?;
        let facts = database_facts(&*client, database).await?.ok_or_else(|| missing(database))?;
        let mut found = Vec::new();
        if !is_adopted(facts.marker.as_ref(), owner, database)? {
            client.batch_execute(&shutting(database)).await?;
            found = sessions(&*client, facts.oid, LINGERS).await?;
            if !found.is_empty() {
                client.batch_execute(&opening(database)).await?;
            }
        }
        client.release().await?;
        Ok(found)
    }

    /// Opens a database again that was shut for an adoption which has done nothing else to it. One that is the
    /// tenant's, or somebody else's by now, is left alone; that there is none is fine.
    pub async fn give_back(&self, database: &DatabaseName) -> Result<(), Error> {
        let client = self.lock_names(&[database]).await?;
        if let Some(facts) = database_facts(&*client, database).await?
            && facts.marker.is_none()
            && !facts.allow_connections
        {
            client.batch_execute(&opening(database)).await?;
        }
        client.release().await
    }

    /// Gives everything in a database that has been shut to the owner of everything, takes the rights to it from
    /// everybody else, locks it down and marks it as the tenant's; in one transaction, or not at all. What keeps it
    /// from that comes back, and then nothing was done. Does nothing to a database that it has been done to.
    ///
    /// Whoever came in meanwhile is put out. The database stays shut; its tenant will see of others what the
    /// server's hardening allows.
    pub async fn harden_adopted(
        &self,
        adoption: Adoption<'_>,
        commit: Commit,
    ) -> Result<Vec<Obstacle>, Error> {
        let Adoption { from, database, owner, .. } = adoption;
        let client = self.lock_names(&[from, database]).await?;
        let facts = database_facts(&*client, from).await?.ok_or_else(|| missing(from))?;
        let mut found = Vec::new();
        let is_adopted = is_adopted(facts.marker.as_ref(), owner, from)?;
        if !is_adopted {
            let rows = outside(&client, adoption).await?;
            let is_other = |obstacle: &Obstacle| obstacle.kind != "shut";
            found.extend(rows.iter().map(obstacle).filter(is_other));
            found.extend(self.unhardenable().await?);
        }
        if !is_adopted && found.is_empty() {
            let (session, pid) = self.enter_shut(&client, from, facts.oid).await?;
            // Whoever owned it until now could open it again. Nobody can from here on, and who has slipped in goes.
            let take = format!("alter database {} owner to current_user", from.quoted());
            let begin = "begin isolation level read committed";
            session.batch_execute(&format!("{begin}; {LOCK_TIMEOUT}; {take}")).await?;
            self.end_sessions(&*client, facts.oid, &[pid]).await?;
            found = match database_facts(&*client, from).await? {
                Some(now) if !now.allow_connections => self.rearrange(&session, adoption).await?,
                _ => vec![reopened(from)],
            };
            let is_done = commit == Commit::Perform && found.is_empty();
            session.batch_execute(if is_done { "commit" } else { "rollback" }).await?;
        }
        client.release().await?;
        Ok(found)
    }

    /// Runs everything, in a transaction that the caller ends, and looks at what came of it.
    async fn rearrange(
        &self,
        session: &Connection,
        adoption: Adoption<'_>,
    ) -> Result<Vec<Obstacle>, Error> {
        let Adoption { from, owner, .. } = adoption;
        let found = obstacles_inside(session, adoption).await?;
        if !found.is_empty() {
            return Ok(found);
        }
        for statement in statements(session, owner, from).await? {
            if let Err(error) = session.batch_execute(&statement).await {
                return refused(&statement, error);
            }
        }
        session.batch_execute(&self.hiding(session).await?.join("; ")).await?;
        let rows = session.query(AUDIT, &[&adoption.role.as_str()]).await?;
        Ok(rows.iter().map(hole).collect())
    }

    /// What keeps the databases of this server from being hardened as they are to be.
    async fn unhardenable(&self) -> Result<Option<Obstacle>, Error> {
        let is_weak = self.hardening() == Hardening::Strict && !self.is_superuser().await?;
        Ok(is_weak.then(|| Obstacle {
            kind: "hardening".to_owned(),
            what: "tenants are to be hidden from each other, and the administrator is no superuser"
                .to_owned(),
            remedy: "use a superuser in the server's URL, or set TENANTRY_HARDENING=standard"
                .to_owned(),
        }))
    }

    /// The present name of the database with this number; none where there is none, or under a name of another form.
    pub async fn database_numbered(&self, oid: u32) -> Result<Option<DatabaseName>, Error> {
        let sql =
            "-- adoption::database_numbered\nselect datname::text from pg_database where oid = $1";
        let row = self.client().await?.query_opt(sql, &[&oid]).await?;
        Ok(row.and_then(|row| DatabaseName::parse(row.get(0)).ok()))
    }

    /// The only session in a database that stays shut to all others.
    async fn enter_shut(
        &self,
        client: &PooledClient,
        database: &DatabaseName,
        oid: u32,
    ) -> Result<(Connection, i32), Error> {
        client.batch_execute(&opening(database)).await?;
        let entered = async {
            let session = self.connect_apart(database).await?;
            let pid = session.query_one("select pg_catalog.pg_backend_pid()", &[]).await?;
            Ok((session, pid.get(0)))
        };
        match entered.await {
            Ok((session, pid)) => {
                self.shut_but(client, database, oid, &[pid]).await?;
                Ok((session, pid))
            }
            Err(error) => {
                client.batch_execute(&shutting(database)).await?;
                Err(error)
            }
        }
    }
}

/// What keeps a database from becoming a tenant's, as the server shows it.
async fn outside(client: &PooledClient, adoption: Adoption<'_>) -> Result<Vec<Row>, Error> {
    let Adoption { from, database, role, .. } = adoption;
    let names = (from.as_str(), database.as_str(), role.as_str());
    Ok(client.query(OUTSIDE, &[&names.0, &names.1, &names.2]).await?)
}

/// What a server says to a statement is told with it, unless it may pass by itself.
fn refused(statement: &str, error: tokio_postgres::Error) -> Result<Vec<Obstacle>, Error> {
    let error = Error::from(error);
    // Locks run out for as long as there are so many tables.
    if error.is_transient() && error.sql_state() != Some(&SqlState::OUT_OF_MEMORY) {
        return Err(error);
    }
    Ok(vec![Obstacle {
        kind: "statement".to_owned(),
        what: format!("the server refuses `{statement}`: {}", reason(&error)),
        remedy: "fix what it names; where locks run out, raise max_locks_per_transaction"
            .to_owned(),
    }])
}

fn reason(error: &Error) -> String {
    error.cause().map_or_else(|| error.to_string(), Cause::to_string)
}

/// What keeps a database from becoming a tenant's, as its inside shows it.
async fn obstacles_inside(
    session: &Connection,
    adoption: Adoption<'_>,
) -> Result<Vec<Obstacle>, Error> {
    let trusts = |objection: &Objection| adoption.trust_functions && objection.kind.is_about_code();
    let mut found: Vec<Obstacle> = session.query(INSIDE, &[]).await?.iter().map(obstacle).collect();
    // There is no guest whose rights would be no concern.
    let rows = session.query(OBJECTIONS, &[&""]).await?;
    let objections = rows.iter().map(Objection::from_row).filter(|objection| {
        // Rights are taken away, and publications are told of by the audit.
        let is_mended =
            matches!(objection.kind, ObjectionKind::ForeignRight | ObjectionKind::Publication);
        !is_mended && !trusts(objection)
    });
    let is_about_definers = |kind: &str| kind == "security_definer" && !adoption.trust_functions;
    found.extend(objections.map(|objection| Obstacle {
        kind: objection.kind.code().to_owned(),
        what: objection.to_string(),
        remedy: "read that code, as it could take the rights of whoever migrates or restores the tenant; then drop \
                 it, or adopt the database with --trust-functions if you would run it as a superuser"
            .to_owned(),
    }));
    let rows = session.query(AUDIT, &[&adoption.role.as_str()]).await?;
    let holes = rows.iter().filter(|row| {
        let kind: &str = row.get("kind");
        // Extensions have been looked at more strictly.
        !MENDED.contains(&kind) && kind != "extension" && !is_about_definers(kind)
    });
    found.extend(holes.map(hole));
    Ok(found)
}

/// Everything that is run inside of the database, in order; first what gives it to the owner of everything.
async fn statements(
    session: &Connection,
    owner: Owner,
    database: &DatabaseName,
) -> Result<Vec<String>, Error> {
    let rows = session.query(STATEMENTS, &[]).await?;
    let mut statements: Vec<String> = rows.iter().map(|row| row.get("sql")).collect();
    statements.extend([LOCK_DOWN.to_owned(), JOURNAL.to_owned()]);
    let (database, marker) = (database.quoted(), Marker::Tenant(owner));
    statements.push(format!("alter database {database} connection limit -1"));
    statements.push(format!("comment on database {database} is '{marker}'"));
    Ok(statements)
}

/// Who is in a database, after a while for those who are leaving it.
async fn sessions(
    client: &impl GenericClient,
    oid: u32,
    patience: Duration,
) -> Result<Vec<Obstacle>, Error> {
    let deadline = Instant::now() + patience;
    loop {
        let rows = client
            .query(
                "-- adoption::sessions
                 select 'session' as kind,
                        format('%s of %I in it%s', case count(*) when 1 then 'there is a session'
                                                        else format('there are %s sessions', count(*)) end, usename,
                               coalesce(' (' || nullif(string_agg(distinct application_name, ', '), '') || ')', '')) as what,
                        format('stop that application, or end its sessions: select pg_terminate_backend(pid) from '
                               'pg_stat_activity where datid = %s and usename = %L', $1::oid, usename) as remedy
                 from pg_stat_activity where datid = $1 and usesysid is not null and pid <> pg_backend_pid()
                 group by usename
                 union all
                 select 'session', 'somebody is just coming in', 'stop the applications that use it'
                 from pg_locks
                 where locktype = 'object' and classid = 'pg_database'::regclass and objid = $1
                   and mode = 'RowExclusiveLock' and pid <> pg_backend_pid()
                 order by 2",
                &[&oid],
            )
            .await?;
        if rows.is_empty() || Instant::now() > deadline {
            return Ok(rows.iter().map(obstacle).collect());
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Whether the adoption has been done; a database that is another's is none to touch.
fn is_adopted(
    marker: Option<&Marker>,
    owner: Owner,
    database: &DatabaseName,
) -> Result<bool, Error> {
    match marker {
        None => Ok(false),
        Some(marker) if *marker == Marker::Tenant(owner) => Ok(true),
        Some(_) => Err(not_ours(database)),
    }
}

fn shutting(database: &DatabaseName) -> String {
    format!("alter database {} allow_connections false", database.quoted())
}

fn opening(database: &DatabaseName) -> String {
    format!("alter database {} allow_connections true", database.quoted())
}

fn reopened(database: &DatabaseName) -> Obstacle {
    Obstacle {
        kind: "session".to_owned(),
        what: "somebody opens it again while it is being adopted".to_owned(),
        remedy: format!(
            "end the sessions of whoever owns it, on the whole server, then run: {}",
            opening(database)
        ),
    }
}

fn obstacle(row: &Row) -> Obstacle {
    Obstacle { kind: row.get("kind"), what: row.get("what"), remedy: row.get("remedy") }
}

/// What an audit would say of the tenant.
fn hole(row: &Row) -> Obstacle {
    let (subject, evidence): (&str, &str) = (row.get("subject"), row.get("evidence"));
    let mend: Option<&str> = row.get("mend");
    let kind: String = row.get("kind");
    let remedy = mend.map_or_else(
        || match kind.as_str() {
            "security_definer" => {
                format!("alter function {subject} set search_path = pg_catalog, pg_temp")
            }
            _ => {
                format!("drop it from the database: an audit of the tenant would find it ({kind})")
            }
        },
        str::to_owned,
    );
    Obstacle { what: format!("{subject}: {evidence}"), kind, remedy }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::role::{APP, OWNER};

    #[test]
    fn the_statements_name_the_shared_roles() {
        assert!(STATEMENTS.contains(OWNER) && STATEMENTS.contains(APP));
    }

    #[test]
    fn what_is_mended_is_what_an_audit_knows() {
        for kind in MENDED {
            assert!(AUDIT.contains(&format!("'{kind}'")), "{kind}");
        }
    }
}
