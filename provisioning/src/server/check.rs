//! [`Server::check`]: what stands between a server and its tenants, each with what to do about it.

use std::fmt;

use super::{Server, ServerFacts};
use crate::error::Error;
use crate::role;

/// Something that an operator should fix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

/// The oldest version whose `drop database … with (force)` and role grants this system relies on.
const OLDEST_MAJOR: u32 = 14;

impl Server {
    /// Looks for everything that would keep this server from hosting tenants apart from each other.
    /// Changes nothing; an empty list means that the server is fit.
    pub async fn check(&self) -> Result<Vec<Problem>, Error> {
        let facts = self.facts().await?;
        let mut problems = of_facts(&facts, self.url().user());
        problems.extend(self.role_problems(&facts).await?);
        problems.extend(self.open_databases().await?);
        problems.extend(self.encoding_problems().await?);
        if facts.major >= 15 {
            problems.extend(self.collation_problems().await?);
        }
        problems.extend(self.connection_problems(&facts).await?);
        problems.extend(self.hardening_problems().await?);
        Ok(problems)
    }

    /// Whether the administrator is the superuser that `initdb` made, whom whoever runs the server may be.
    pub async fn administrator_is_first(&self) -> Result<bool, Error> {
        let row = self
            .client()
            .await?
            .query_one(
                "-- server::administrator_is_first
                 select oid = 10 from pg_roles where rolname = current_user",
                &[],
            )
            .await?;
        Ok(row.get(0))
    }

    async fn role_problems(&self, facts: &ServerFacts) -> Result<Vec<Problem>, Error> {
        let rows = self
            .client()
            .await?
            .query(
                "-- server::role_problems
                 select w.name, r.oid is null as missing,
                        coalesce(r.rolcanlogin or r.rolsuper, false) as powerful,
                        r.oid is not null and not pg_has_role(r.oid, 'usage') as foreign_to_us
                 from unnest($1::text[]) w(name) left join pg_roles r on r.rolname = w.name",
                &[&[role::OWNER, role::APP].as_slice()],
            )
            .await?;
        let mut problems = Vec::new();
        for row in rows {
            let name: &str = row.get("name");
            if row.get("missing") {
                problems.push(Problem::new(
                    format!("the role {name} is missing"),
                    "run `tenantry server prepare`",
                ));
            } else if row.get("powerful") {
                problems.push(Problem::new(
                    format!("the role {name} can log in or is a superuser"),
                    format!("run `alter role {name} nologin nosuperuser`, or rename that role"),
                ));
            } else if name == role::OWNER && !facts.superuser && row.get("foreign_to_us") {
                problems.push(Problem::new(
                    format!("the administrator is no member of {name}"),
                    format!("as a superuser, run `grant {name} to \"{}\"`", self.url().user()),
                ));
            }
        }
        Ok(problems)
    }

    async fn open_databases(&self) -> Result<Vec<Problem>, Error> {
        let rows = self
            .client()
            .await?
            .query(
                "-- server::open_databases
                 select datname::text, quote_ident(datname) from pg_database
                 where datallowconn and has_database_privilege('public', oid, 'connect')
                 order by 1",
                &[],
            )
            .await?;
        let problem = |row: tokio_postgres::Row| {
            let (name, quoted): (&str, &str) = (row.get(0), row.get(1));
            Problem::new(
                format!("every role of the server may connect to the database `{name}`"),
                format!("run `revoke connect, temporary on database {quoted} from public`"),
            )
        };
        Ok(rows.into_iter().map(problem).collect())
    }

    /// Tenants' databases are UTF-8, made from template0 with its locale.
    async fn encoding_problems(&self) -> Result<Option<Problem>, Error> {
        let row = self
            .client()
            .await?
            .query_opt(
                "-- server::encoding_problems
                 select pg_encoding_to_char(encoding)::text, datcollate::text from pg_database
                 where datname = 'template0' and pg_encoding_to_char(encoding) <> 'UTF8'
                   and not (datcollate in ('C', 'POSIX') and datctype in ('C', 'POSIX'))",
                &[],
            )
            .await?;
        Ok(row.map(|row| {
            let (encoding, locale): (&str, &str) = (row.get(0), row.get(1));
            Problem::new(
                format!("the server's locale {locale} ({encoding}) does not allow UTF-8 databases"),
                "use a server made with `initdb --encoding=UTF8`",
            )
        }))
    }

    async fn collation_problems(&self) -> Result<Vec<Problem>, Error> {
        let rows = self
            .client()
            .await?
            .query(
                "-- server::collation_problems
                 select datname::text, quote_ident(datname), datcollversion,
                        coalesce(pg_database_collation_actual_version(oid), 'none')
                 from pg_database
                 where datcollversion is distinct from pg_database_collation_actual_version(oid)
                   and datcollversion is not null
                 order by 1",
                &[],
            )
            .await?;
        let problem = |row: tokio_postgres::Row| {
            let (name, quoted): (&str, &str) = (row.get(0), row.get(1));
            let (made_with, present): (&str, &str) = (row.get(2), row.get(3));
            Problem::new(
                format!(
                    "the database `{name}` was made with collation version {made_with}, \
                     the system has {present}: its text indexes may be wrong"
                ),
                format!(
                    "reindex it, then run `alter database {quoted} refresh collation version`; \
                     for a template only the latter"
                ),
            )
        };
        Ok(rows.into_iter().map(problem).collect())
    }

    async fn connection_problems(&self, facts: &ServerFacts) -> Result<Option<Problem>, Error> {
        let row = self
            .client()
            .await?
            .query_one(
                "-- server::connection_problems
                 select count(*), current_setting('superuser_reserved_connections')::int8
                 from pg_stat_activity where usesysid is not null",
                &[],
            )
            .await?;
        let (used, reserved): (i64, i64) = (row.get(0), row.get(1));
        let usable = i64::from(facts.max_connections) - reserved;
        let free = usable - used;
        Ok((free * 10 < usable).then(|| {
            Problem::new(
                format!("only {} of {usable} connections are free", free.max(0)),
                "raise max_connections, or end sessions that nobody needs",
            )
        }))
    }
}

impl Problem {
    pub(crate) fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.what, self.remedy)
    }
}

/// What the server's own facts rule out.
fn of_facts(facts: &ServerFacts, user: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut note = |wrong: bool, what: String, remedy: String| {
        if wrong {
            problems.push(Problem { what, remedy });
        }
    };
    note(
        facts.major < OLDEST_MAJOR,
        format!("PostgreSQL {} is too old", facts.version),
        format!("use PostgreSQL {OLDEST_MAJOR} or newer"),
    );
    note(
        facts.in_recovery,
        "the server is a standby".to_owned(),
        "name the primary, or all hosts with target_session_attrs=read-write".to_owned(),
    );
    note(
        !facts.createdb || !facts.createrole,
        format!("the user {user} may not create databases and roles"),
        format!("as a superuser, run `alter role \"{user}\" createdb createrole`"),
    );
    let stamp_remedy = if facts.major >= 15 {
        format!("as a superuser, run `grant set on parameter tenantry.tenant to \"{user}\"`")
    } else {
        format!("before PostgreSQL 15 only a superuser may: run `alter role \"{user}\" superuser`")
    };
    note(!facts.can_set_stamp, format!("the user {user} may not stamp databases"), stamp_remedy);
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit() -> ServerFacts {
        ServerFacts {
            version_num: 150_018,
            version: "15.18".to_owned(),
            major: 15,
            max_connections: 100,
            superuser: false,
            createdb: true,
            createrole: true,
            can_set_stamp: true,
            in_recovery: false,
        }
    }

    #[test]
    fn a_fit_server_has_no_problem() {
        assert_eq!(of_facts(&fit(), "admin"), []);
    }

    #[test]
    fn every_missing_right_is_named_with_its_remedy() {
        let facts = ServerFacts {
            major: 13,
            createdb: false,
            can_set_stamp: false,
            in_recovery: true,
            ..fit()
        };

        let problems = of_facts(&facts, "admin");

        assert_eq!(problems.len(), 4);
        assert!(problems.iter().any(|p| p.remedy.contains("createdb createrole")), "{problems:?}");
    }
}
