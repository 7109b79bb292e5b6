//! [`Server::prepare`]: what a server needs once, before its first tenant; and what goes after its last.

use tokio_postgres::Transaction;
use tokio_postgres::error::SqlState;

use super::Server;
use crate::error::Error;
use crate::marker::Marker;
use crate::name::RoleName;
use crate::role;

/// Serialises preparations of one server: `tenantry` in ASCII.
const PREPARE_LOCK: i64 = 0x7465_6e61_6e74_7279;

/// Databases that every server has and that no tenant has any business in.
const SHARED_DATABASES: [&str; 2] = ["postgres", "template1"];

impl Server {
    /// Creates the two group roles and shuts the shared databases to PUBLIC. May be repeated, also by
    /// several replicas at once.
    ///
    /// Adopts a group role that exists already if nobody can log in as it and it is no superuser.
    /// An administrator who does not own the shared databases cannot shut them: the error then says
    /// what a superuser has to run.
    pub async fn prepare(&self) -> Result<(), Error> {
        let superuser = self.is_superuser().await?;
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        transaction
            .execute("-- server::prepare\nselect pg_advisory_xact_lock($1)", &[&PREPARE_LOCK])
            .await?;
        for name in [role::OWNER, role::APP] {
            ensure_group_role(&transaction, name).await?;
        }
        if !superuser {
            become_member(&transaction).await?;
        }
        self.shut_shared_databases(&transaction).await?;
        transaction.commit().await?;

        let open = client
            .query(
                "-- server::prepare
                 select datname::text, quote_ident(datname), quote_ident(current_user)
                 from pg_database
                 where datname = any($1) and has_database_privilege('public', oid, 'connect')
                 order by 1",
                &[&self.shared_databases()],
            )
            .await?;
        let Some(first) = open.first() else { return Ok(()) };
        let statements: Vec<String> = open
            .iter()
            .map(|row| {
                let (database, admin): (&str, &str) = (row.get(1), row.get(2));
                format!(
                    "grant connect on database {database} to {admin}; \
                     revoke connect, temporary on database {database} from public;"
                )
            })
            .collect();
        Err(Error::MissingPrivilege {
            what: format!(
                "PUBLIC may connect to `{}`, which belongs to another user",
                first.get::<_, &str>(0)
            ),
            remedy: Some(format!("as a superuser, run: {}", statements.join(" "))),
            source: None,
        })
    }

    /// What [`Server::prepare`] would do there, in words; empty where it has been done. What it may not do is not
    /// among that: a group role that is somebody else's, or a shared database that the administrator does not own.
    pub async fn unprepared(&self) -> Result<Vec<String>, Error> {
        let groups = [role::OWNER, role::APP];
        let marker = Marker::GroupRole.to_string();
        let rows = self
            .client()
            .await?
            .query(
                "-- server::unprepared
                 with groups as (
                     select rolname, shobj_description(oid, 'pg_authid') as comment,
                            rolcanlogin or rolsuper or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls
                            as powerful
                     from pg_roles where rolname = any($1)
                 ), lacking as (
                     select 1 as place, 'create the role ' || w.name as what from unnest($1::text[]) w(name)
                     where w.name not in (select rolname from groups)
                     union all
                     select 2, 'mark the role ' || rolname || ' as ours' from groups
                     where comment is distinct from $2
                     union all
                     select 3, 'take from PUBLIC the right to connect to the database ' || datname from pg_database
                     where datname = any($3) and pg_has_role(datdba, 'usage')
                       and (has_database_privilege('public', oid, 'connect')
                            or has_database_privilege('public', oid, 'temporary'))
                 )
                 select what from lacking where not exists (select from groups where powerful) order by place, what",
                &[&groups.as_slice(), &marker, &self.shared_databases()],
            )
            .await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Drops the group roles, if [`Server::prepare`] made or adopted them. Returns those that something there still
    /// needs: they stay.
    pub async fn drop_group_roles(&self) -> Result<Vec<String>, Error> {
        let client = self.client().await?;
        let mut left = Vec::new();
        for name in [role::APP, role::OWNER] {
            let quoted = RoleName::parse(name).expect("our own names are names");
            let facts = role::role_facts(&client, &quoted).await?;
            if facts.is_none_or(|facts| facts.marker != Some(Marker::GroupRole)) {
                continue;
            }
            match client.batch_execute(&format!("drop role {}", quoted.quoted())).await {
                Err(error) if error.code() == Some(&SqlState::DEPENDENT_OBJECTS_STILL_EXIST) => {
                    left.push(name.to_owned());
                }
                dropped => dropped?,
            }
        }
        Ok(left)
    }

    fn shared_databases(&self) -> Vec<&str> {
        let mut names = SHARED_DATABASES.to_vec();
        names.push(self.url().database());
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Only touches what is open, so that a repeated preparation changes nothing.
    async fn shut_shared_databases(&self, transaction: &Transaction<'_>) -> Result<(), Error> {
        let open = transaction
            .query(
                "-- server::shut_shared_databases
                 select quote_ident(datname) from pg_database
                 where datname = any($1)
                   and (has_database_privilege('public', oid, 'connect')
                        or has_database_privilege('public', oid, 'temporary'))",
                &[&self.shared_databases()],
            )
            .await?;
        for row in open {
            let database: &str = row.get(0);
            // Without ownership this is a warning and changes nothing; the caller looks at the outcome.
            transaction
                .batch_execute(&format!(
                    "revoke connect, temporary on database {database} from public"
                ))
                .await?;
        }
        Ok(())
    }
}

/// Creates the role, or adopts it if it can do no harm.
async fn ensure_group_role(transaction: &Transaction<'_>, name: &str) -> Result<(), Error> {
    let found = transaction
        .query_opt(
            "-- server::ensure_group_role
             select rolcanlogin or rolsuper or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls,
                    shobj_description(oid, 'pg_authid')
             from pg_roles where rolname = $1",
            &[&name],
        )
        .await?;
    let marker = Marker::GroupRole.to_string();
    let quoted = RoleName::parse(name).expect("our own names are names").quoted();
    let comment = format!("comment on role {quoted} is '{marker}'");
    match found {
        None => {
            transaction.batch_execute(&format!("create role {quoted} nologin; {comment}")).await?;
        }
        Some(row) if row.get(0) => {
            return Err(Error::NotOurs { kind: "role", name: name.to_owned() });
        }
        Some(row) if row.get::<_, Option<&str>>(1) != Some(marker.as_str()) => {
            transaction.batch_execute(&comment).await?;
        }
        Some(_) => {}
    }
    Ok(())
}

/// Lets an administrator who is no superuser act as the owner of the objects.
async fn become_member(transaction: &Transaction<'_>) -> Result<(), Error> {
    // USAGE and not MEMBER: since version 16 a role's creator is a member who may not act as it.
    let row = transaction
        .query_one("-- server::become_member\nselect pg_has_role($1, 'usage')", &[&role::OWNER])
        .await?;
    if !row.get::<_, bool>(0) {
        transaction.batch_execute(&format!("grant {} to current_user", role::OWNER)).await?;
    }
    Ok(())
}
