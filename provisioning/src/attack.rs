//! Attacks: what a tenant's own role can really do, tried with its own password.
//!
//! A grant that looks right proves little; a refusal does. It must be the *right* refusal: a server that is away
//! or full refuses everybody, and has proven nothing. Nothing that is tried here leaves anything behind: acts run
//! in a transaction that is rolled back, and what could not be taken back is not tried.

use std::time::Duration;

use secrecy::SecretString;
use tokio::time::{sleep, timeout};
use tokio_postgres::error::SqlState;

use crate::error::Error;
use crate::name::{DatabaseName, RoleName};
use crate::server::{Connection, Server};

/// What its sessions go by.
const APPLICATION: &str = "tenantry audit";

/// What a role can set for its own sessions, and by which it would end an attack or blunt it.
const UNDETERRED: &str = "-c default_transaction_read_only=off -c idle_session_timeout=0 -c statement_timeout=60s \
    -c idle_in_transaction_session_timeout=0 -c lock_timeout=0 -c role=none";

/// How often, and after how long, a full server is asked again.
const PATIENCE: [Duration; 3] =
    [Duration::from_millis(50), Duration::from_millis(200), Duration::from_millis(800)];

/// How long a session may take to end, and how often to look.
const ENDING: Duration = Duration::from_secs(1);
const GLANCE: Duration = Duration::from_millis(2);

/// Refusals of a session that prove something: no right to connect, `pg_hba.conf` or `nologin`, shut, not there.
const SHUT_OUT: [&str; 4] = ["42501", "28000", "55000", "3D000"];

/// A tenant's role, with what it logs in by.
#[derive(Clone, Debug)]
pub struct Attacker {
    /// Its own database.
    pub database: DatabaseName,
    /// The role.
    pub role: RoleName,
    /// Its password.
    pub password: SecretString,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// It was refused, for the right reason.
    Refused,
    /// It succeeded.
    Allowed,
    /// Nobody knows: it failed for another reason.
    Untried(String),
}

/// Something that a tenant must not be able to do in its own database.
#[derive(Clone, Copy, Debug)]
pub struct Act {
    /// What it amounts to.
    pub what: &'static str,
    /// The statement.
    pub sql: &'static str,
    /// Refusals that are right beside `42501`, the lack of a privilege.
    right: &'static [&'static str],
}

/// What a session of a tenant sees of others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Visible {
    /// Names of other databases.
    pub databases: i64,
    /// Names of other roles that can log in.
    pub roles: i64,
}

/// What a login brought.
#[derive(Debug)]
pub struct Login {
    /// Each act, and how it ended.
    pub acts: Vec<(&'static Act, Attempt)>,
    /// What it saw.
    pub visible: Visible,
}

/// There is nothing where there is nothing to divide by.
const NOTHING: &str = "22012";
/// No such function or language, or no such extension on this server.
const ABSENT: [&str; 4] = ["42883", "42704", "0A000", "58P01"];

/// Everything that is tried.
pub const ACTS: &[Act] = &[
    act("create a table", "create table tenantry_probe ()", &[]),
    act("create a temporary table", "create temporary table tenantry_probe ()", &[]),
    act("create a schema", "create schema tenantry_probe", &[]),
    act(
        "create a function",
        "create function public.tenantry_probe() returns int language sql as 'select 1'",
        &[],
    ),
    act("become the owner of the schema", "set role tenantry_owner", &[]),
    act("become a predefined role", "set role pg_read_all_data", &[]),
    act(
        "become the server's superuser",
        "select set_config('role', pg_get_userbyid(10), true)",
        &[],
    ),
    act("create a role", "create role tenantry_probe", &[]),
    act("give itself a role", "grant tenantry_owner to current_user", &["0LP01", "0A000"]),
    act("create an extension", "create extension dblink", &ABSENT),
    act("create an untrusted language", "create language plpython3u", &ABSENT),
    act("create a foreign data wrapper", "create foreign data wrapper tenantry_probe", &[]),
    act("create a publication", "create publication tenantry_probe", &[]),
    act(
        "create an event trigger",
        "create event trigger tenantry_probe on ddl_command_end execute function pg_catalog.now()",
        &["42P17"],
    ),
    act("run a program of the server", "copy (select 1) to program 'true'", &[]),
    act("write a file of the server", "copy (select 1) to '/dev/null'", &[]),
    act("read a file of the server", "select pg_read_file('PG_VERSION')", &[]),
    act("list files of the server", "select pg_ls_dir('.')", &[]),
    act("import a file as a large object", "select lo_import('PG_VERSION')", &[]),
    act("load a library", "load 'dblink'", &["58P01"]),
    act("connect through dblink", "select dblink_connect('dbname=postgres')", &["42883", "2F003"]),
    // A temporary one: slots know no transaction, and it goes with the session.
    act(
        "create a replication slot",
        "select pg_create_physical_replication_slot('tenantry_probe_' || pg_backend_pid(), false, true)",
        &["55000"],
    ),
    act("turn triggers off", "set local session_replication_role = replica", &[]),
    act("hide from the log", "set local log_statement = 'none'", &[]),
    act("reload the server's settings", "select pg_reload_conf()", &[]),
    act("read the passwords of roles", "select rolpassword from pg_authid", &[]),
    act("read pg_shadow", "select passwd from pg_shadow", &[]),
    act("read pg_hba.conf", "select * from pg_hba_file_rules", &[]),
    act("read the passwords of subscriptions", "select subconninfo from pg_subscription", &[]),
    act("read the pages of large objects", "select data from pg_largeobject limit 1", &[]),
    act(
        "read the history of migrations",
        "select * from tenantry.schema_history",
        &["42P01", "3F000"],
    ),
    act(
        "see the statements of others",
        "select 1 / count(*) from pg_stat_activity
         where usename <> current_user and query not in ('', '<insufficient privilege>')",
        &[NOTHING],
    ),
    act(
        "read large objects of others",
        "select 1 / count(lo_get(oid)) from pg_largeobject_metadata
         where pg_get_userbyid(lomowner) not in (current_user, 'tenantry_owner')",
        &[NOTHING],
    ),
    // Those of several tenants run at a time, and each must get it: advisory locks are a database's own.
    act(
        "meet others at an advisory lock",
        "select 1 / case when pg_try_advisory_lock(7233989) then 0 else 1 end",
        &[NOTHING],
    ),
];

const fn act(what: &'static str, sql: &'static str, right: &'static [&'static str]) -> Act {
    Act { what, sql, right }
}

/// Whether a login failed only after the password was taken: such a role may yet get in elsewhere.
#[must_use]
pub fn is_shut_out(error: &Error) -> bool {
    let code = error.sql_state().map(SqlState::code);
    code.is_some_and(|code| ["42501", "55000", "3D000"].contains(&code))
}

impl Server {
    /// Tries to log in to a database as a tenant. A session that comes about is ended at once.
    pub async fn knock(&self, attacker: &Attacker, database: &str) -> Attempt {
        match self.enter(attacker, database).await {
            Ok(_) => Attempt::Allowed,
            Err(error) => match error.sql_state().map(SqlState::code) {
                Some(code) if SHUT_OUT.contains(&code) => Attempt::Refused,
                _ => Attempt::Untried(error.to_string()),
            },
        }
    }

    /// Logs in as a tenant to its own database, and tries there what it must not be able to do.
    pub async fn attack_from(&self, attacker: &Attacker) -> Result<Login, Error> {
        let session = self.enter(attacker, attacker.database.as_str()).await?;
        let pid = session.query_one("-- attack::pid\nselect pg_backend_pid()", &[]).await?.get(0);
        let visible = visible(&session).await?;
        let mut acts = Vec::with_capacity(ACTS.len());
        for act in ACTS {
            acts.push((act, attempt(&session, act).await?));
        }
        drop(session);
        self.await_end(pid).await?;
        Ok(Login { acts, visible })
    }

    /// Waits until a session is gone from the server, and so counts no more: its client is faster than its backend.
    async fn await_end(&self, pid: i32) -> Result<(), Error> {
        let client = self.client().await?;
        let there = "-- attack::await_end\nselect from pg_stat_activity where pid = $1";
        let ended = async {
            while client.query_opt(there, &[&pid]).await?.is_some() {
                sleep(GLANCE).await;
            }
            Ok(())
        };
        timeout(ENDING, ended).await.unwrap_or(Ok(()))
    }

    /// A session as a tenant; a server that is full is asked again for a while.
    async fn enter(&self, attacker: &Attacker, database: &str) -> Result<Connection, Error> {
        let url = self.url().with_database(database);
        let url = url.with_user(attacker.role.as_str(), &attacker.password);
        let url = url.with_application_name(APPLICATION).with_options(UNDETERRED);
        for pause in PATIENCE {
            match url.connect().await {
                Err(error) if error.sql_state() == Some(&SqlState::TOO_MANY_CONNECTIONS) => {
                    sleep(pause).await;
                }
                other => return other,
            }
        }
        url.connect().await
    }
}

/// Counts the names of others in the shared catalogs; in one that is shut there are none.
async fn visible(session: &Connection) -> Result<Visible, Error> {
    let count = async |sql: &str| match session.query_one(sql, &[]).await {
        Ok(row) => Ok(row.get(0)),
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Ok(0),
        Err(error) => Err(Error::from(error)),
    };
    let databases = count(
        "-- attack::visible
         select count(*) from pg_database where datname <> current_database()",
    );
    let roles = count(
        "-- attack::visible
         select count(*) from pg_roles where rolcanlogin and rolname <> current_user",
    );
    Ok(Visible { databases: databases.await?, roles: roles.await? })
}

/// Tries one act and takes back what it did.
async fn attempt(session: &Connection, act: &Act) -> Result<Attempt, Error> {
    session.batch_execute("begin").await?;
    let ended = session.batch_execute(act.sql).await;
    session.batch_execute("rollback").await?;
    let Err(error) = ended else { return Ok(Attempt::Allowed) };
    Ok(match error.code().map(SqlState::code) {
        Some("42501") => Attempt::Refused,
        Some(code) if act.right.contains(&code) => Attempt::Refused,
        _ => Attempt::Untried(Error::from(error).to_string()),
    })
}
