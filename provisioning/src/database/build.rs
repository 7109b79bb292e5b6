//! Building databases that no tenant owns yet: clones, templates and spares.
//!
//! A build carries a name that only one operation can have given. It refuses connections from the
//! moment it exists, so nothing happens in it before PUBLIC is shut out.

use std::ops::{Deref, DerefMut};

use deadpool_postgres::Object;
use postgres_protocol::escape::escape_literal;
use tokio_postgres::error::SqlState;

use super::{database_facts, missing, not_ours};
use crate::error::Error;
use crate::marker::Marker;
use crate::name::DatabaseName;
use crate::role;
use crate::server::{PooledClient, Server, rows};

/// Longer than PostgreSQL needs to copy or drop a database.
const LOCK_TIMEOUT: &str = "set lock_timeout = '120s'";

/// What a new database is a copy of.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// A template of ours.
    Template(&'a DatabaseName),
    /// PostgreSQL's own empty `template0`.
    Zero,
}

impl Server {
    /// Makes an empty or cloned database that refuses connections and that PUBLIC has no right in.
    /// `name` must be a [`DatabaseName::build`]; if that exists, only its rights are made sure of.
    pub async fn create_build(&self, name: &DatabaseName, from: Source<'_>) -> Result<(), Error> {
        if !name.is_build_form() {
            return Err(not_ours(name));
        }
        let client = self.lock_names(&[name]).await?;
        let mut found = database_facts(&*client, name).await?;
        if found.as_ref().is_some_and(|facts| facts.is_invalid) {
            self.drop_with_sessions(&client, name).await?;
            found = None;
        }
        if found.is_none() {
            let source = match from {
                Source::Template(template) => format!("template {}", template.quoted()),
                Source::Zero => "template template0 encoding 'UTF8'".to_owned(),
            };
            // From version 15 on the copy is written to the WAL by default, which is the fast way for
            // small databases; older servers know no other.
            let statement =
                format!("create database {} {source} allow_connections false", name.quoted());
            match client.batch_execute(&statement).await {
                Err(error) if is_duplicate(&error) => {}
                Err(error) if error.code() == Some(&SqlState::INVALID_CATALOG_NAME) => {
                    return Err(match from {
                        Source::Template(template) => missing(template),
                        Source::Zero => error.into(),
                    });
                }
                other => other?,
            }
        }
        let (database, owner) = (name.quoted(), role::OWNER);
        client
            .batch_execute(&format!(
                "revoke connect, temporary on database {database} from public;
                 grant create, temporary on database {database} to {owner}"
            ))
            .await?;
        client.release().await
    }

    /// Accepts connections to a build, from the administrator alone: nobody else has the right. What is
    /// made in it may be given to `tenantry_owner`, as restoring a dump does before it sets any rights; and tenants
    /// will see of each other what the server's hardening allows, whatever comes in.
    pub async fn open_build(&self, name: &DatabaseName) -> Result<(), Error> {
        self.admit_administrator(name).await?;
        let grant = format!("grant usage, create on schema public to {}", role::OWNER);
        let session = self.connect_apart(name).await?;
        session.batch_execute(&grant).await?;
        self.ensure_hardened_in(&session).await
    }

    /// Makes a build that is a clone of a template, with its rights and its hardening, and accepts connections to it,
    /// from the administrator alone.
    pub async fn create_clone(
        &self,
        name: &DatabaseName,
        template: &DatabaseName,
    ) -> Result<(), Error> {
        self.create_build(name, Source::Template(template)).await?;
        self.admit_administrator(name).await
    }

    async fn admit_administrator(&self, name: &DatabaseName) -> Result<(), Error> {
        if !name.is_build_form() {
            return Err(not_ours(name));
        }
        let database = name.quoted();
        Ok(self
            .client()
            .await?
            .batch_execute(&format!(
                "revoke connect, temporary on database {database} from public;
                 alter database {database} allow_connections true"
            ))
            .await?)
    }

    /// Refuses connections to a build again, and ends the sessions in it.
    pub(crate) async fn close_build(&self, name: &DatabaseName) -> Result<(), Error> {
        if !name.is_build_form() {
            return Err(not_ours(name));
        }
        let client = self.client().await?;
        let facts = database_facts(&client, name).await?.ok_or_else(|| missing(name))?;
        self.shut(&client, name, facts.oid).await.map(drop)
    }

    /// A session that alone may make, rename or drop these databases, until it ends.
    ///
    /// The server finishes a `create database` whose client has died. Whoever takes over waits here until
    /// it has, instead of overlooking a database that is not to be seen yet.
    pub(crate) async fn lock_names(&self, names: &[&DatabaseName]) -> Result<NameLock, Error> {
        let session = NameLock { session: Some(self.client().await?) };
        session.batch_execute(LOCK_TIMEOUT).await?;
        for name in names {
            let sql = "-- build::lock_names
                       select pg_advisory_lock(hashtextextended('tenantry ' || $1, 0))";
            rows(&*session, sql, &[&name.as_str()]).await?;
        }
        Ok(session)
    }

    /// Turns a finished build into a template, in one transaction. Does nothing if the template is
    /// there already.
    pub async fn seal_as_template(
        &self,
        build: &DatabaseName,
        template: &DatabaseName,
        digest: &str,
        version: i64,
    ) -> Result<(), Error> {
        let marker = Marker::Template { digest: digest.to_owned(), version };
        let more = format!("alter database {} is_template true", template.quoted());
        self.seal(build, template, &marker, &more).await
    }

    /// Turns a clone of a template into a spare, in one transaction. Does nothing if the spare is there
    /// already.
    pub async fn seal_as_spare(
        &self,
        build: &DatabaseName,
        spare: &DatabaseName,
        digest: &str,
        version: i64,
    ) -> Result<(), Error> {
        let marker = Marker::Spare { digest: digest.to_owned(), version };
        self.seal(build, spare, &marker, "").await
    }

    async fn seal(
        &self,
        build: &DatabaseName,
        sealed: &DatabaseName,
        marker: &Marker,
        more: &str,
    ) -> Result<(), Error> {
        if !build.is_build_form() || !sealed.is_unowned_form() {
            return Err(not_ours(sealed));
        }
        let mut client = self.lock_names(&[build, sealed]).await?;
        match database_facts(&*client, sealed).await? {
            Some(facts) if facts.marker.as_ref() == Some(marker) => return Ok(()),
            Some(_) => return Err(not_ours(sealed)),
            None => {}
        }
        let facts = database_facts(&*client, build).await?.ok_or_else(|| missing(build))?;
        self.shut(&*client, build, facts.oid).await?;

        let transaction = client.transaction().await?;
        transaction
            .batch_execute(&format!(
                "alter database {} rename to {sealed};
                 comment on database {sealed} is {comment};
                 {more}",
                build.quoted(),
                sealed = sealed.quoted(),
                comment = escape_literal(&marker.to_string()),
            ))
            .await?;
        transaction.commit().await?;
        client.release().await
    }
}

/// A session that holds locks on names; unless it is released in order it ends, and they with it.
pub(crate) struct NameLock {
    session: Option<PooledClient>,
}

const HAS_SESSION: &str = "the session is taken only when the lock is dropped";

impl NameLock {
    /// Gives the names free and the session back to its pool.
    pub(crate) async fn release(mut self) -> Result<(), Error> {
        self.batch_execute("select pg_advisory_unlock_all(); reset lock_timeout").await?;
        drop(self.session.take());
        Ok(())
    }
}

impl Deref for NameLock {
    type Target = PooledClient;

    fn deref(&self) -> &PooledClient {
        self.session.as_ref().expect(HAS_SESSION)
    }
}

impl DerefMut for NameLock {
    fn deref_mut(&mut self) -> &mut PooledClient {
        self.session.as_mut().expect(HAS_SESSION)
    }
}

impl Drop for NameLock {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            drop(Object::take(session));
        }
    }
}

/// Two workers may create one build at the same moment; the catalog's index tells the later one.
fn is_duplicate(error: &tokio_postgres::Error) -> bool {
    matches!(error.code(), Some(&SqlState::DUPLICATE_DATABASE | &SqlState::UNIQUE_VIOLATION))
}
