//! A mask: SQL that somebody has run over the data of a build before it opens, such as to take names out of a copy.
//!
//! Its text is an operator's, but what it sets off is not: triggers and functions of the copied database run with
//! it. So all of it runs as the login role of the tenant that is being made, which may do what that tenant's
//! application may, and nothing in any other database; with a password that counts for this alone, in one transaction,
//! and within a time that is kept from outside. Afterwards nobody can log in until the tenant is given its database.

use std::borrow::Cow;
use std::time::Duration;

use secrecy::SecretString;
use thiserror::Error;
use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::MigrationTimeouts;
use super::run::line_of;
use super::statement::{Manner, copy_by_client, split};
use crate::error::{Cause, Error};
use crate::marker::{Marker, Owner};
use crate::name::{DatabaseName, RoleName};
use crate::role::{self, random_password, role_facts, scram_verifier};
use crate::server::Server;

/// Why data was not masked.
#[derive(Debug, Error)]
pub enum MaskError {
    /// The text has something that a mask must not have.
    #[error("line {line} of the masking SQL {problem}")]
    Text {
        /// The line, counted from 1.
        line: usize,
        /// What is wrong, as the end of a sentence.
        problem: &'static str,
    },
    /// PostgreSQL refused a statement; nothing of the text has any effect.
    #[error("{}: {source}", place(*line))]
    Refused {
        /// The line, counted from 1, where PostgreSQL names one.
        line: Option<usize>,
        /// What PostgreSQL said.
        source: Cause,
    },
    /// It was not one transaction at the end.
    #[error("the masking SQL ended its transaction by itself")]
    Ended,
    /// It was stopped.
    #[error("the masking SQL ran for longer than {}s", .0.as_secs())]
    TooLong(Duration),
    /// The server did not let us get so far.
    #[error(transparent)]
    Server(#[from] Error),
}

/// Finds out what can be known of a mask without running it.
pub fn check_mask(sql: &str) -> Result<(), MaskError> {
    if let Some(line) = copy_by_client(sql) {
        let problem = "copies rows from stdin or to stdout, where nobody is";
        return Err(MaskError::Text { line, problem });
    }
    let ends = split(sql).into_iter().find(|statement| statement.manner() == Manner::Transaction);
    match ends {
        Some(statement) => {
            let problem = "begins or ends a transaction; all of it is one";
            Err(MaskError::Text { line: statement.line, problem })
        }
        None => Ok(()),
    }
}

impl Server {
    /// Runs a mask in a build, as the role that is to be the tenant's. Whatever comes of it, that role has no session
    /// there afterwards and cannot log in.
    pub async fn mask(
        &self,
        build: &DatabaseName,
        role: &RoleName,
        owner: Owner,
        sql: &str,
        timeouts: MigrationTimeouts,
    ) -> Result<(), MaskError> {
        check_mask(sql)?;
        let password = self.admit(build, role, owner).await?;
        let ran = async {
            let options = format!(
                "-c lock_timeout={} -c statement_timeout={}",
                timeouts.lock.as_millis(),
                timeouts.statement.as_millis()
            );
            let url = self.url().with_database(build.as_str()).with_user(role.as_str(), &password);
            let session = url.with_options(&options).connect().await?;
            run(&session, sql).await
        };
        // A function can set itself another timeout than the session's.
        let ran = timeout(timeouts.statement, ran).await;
        let ran = ran.unwrap_or(Err(MaskError::TooLong(timeouts.statement)));
        let ran = ran.map_err(|error| match error {
            MaskError::Refused { source, .. }
                if source.sql_state() == Some(&SqlState::QUERY_CANCELED) =>
            {
                MaskError::TooLong(timeouts.statement)
            }
            other => other,
        });
        let sent_away = self.send_away(build, role, owner).await;
        ran.and(sent_away.map_err(MaskError::from))
    }

    /// Lets the role into the build, with a password that nobody else has.
    async fn admit(
        &self,
        build: &DatabaseName,
        role: &RoleName,
        owner: Owner,
    ) -> Result<SecretString, Error> {
        let password = random_password();
        let (verifier, superuser) = (scram_verifier(&password), self.is_superuser().await?);
        let (quoted, marker) = (role.quoted(), Marker::Tenant(owner));
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let mut statements = match role_facts(&transaction, role).await? {
            None => vec![
                format!(
                    "create role {quoted} login nosuperuser nocreatedb nocreaterole noreplication nobypassrls \
                     inherit password '{verifier}'"
                ),
                format!("comment on role {quoted} is '{marker}'"),
            ],
            Some(facts) if facts.belongs_to(owner.tenant) => {
                vec![format!("alter role {quoted} login password '{verifier}'")]
            }
            Some(_) => return Err(role::not_ours(role)),
        };
        statements.push(format!("grant {} to {quoted}", role::APP));
        if !superuser {
            // Without it the administrator could not end the session.
            statements.push(format!("grant {quoted} to current_user"));
        }
        statements.push(format!("grant connect on database {} to {quoted}", build.quoted()));
        transaction.batch_execute(&statements.join(";\n")).await?;
        transaction.commit().await?;
        Ok(password)
    }

    async fn send_away(
        &self,
        build: &DatabaseName,
        role: &RoleName,
        owner: Owner,
    ) -> Result<(), Error> {
        self.disable_login(role, owner.tenant).await?;
        self.close_build(build).await?;
        self.open_build(build).await
    }
}

async fn run(session: &Client, sql: &str) -> Result<(), MaskError> {
    session.batch_execute("begin").await.map_err(Error::from)?;
    let transaction = transaction(session).await?;
    session.batch_execute(sql).await.map_err(|error| MaskError::Refused {
        line: line_of(&error, sql),
        source: Cause::from(error),
    })?;
    // What was rolled back in some way that nobody has seen would open unmasked.
    if self::transaction(session).await? != transaction {
        return Err(MaskError::Ended);
    }
    let refused = |error| MaskError::Refused { line: None, source: Cause::from(error) };
    session.batch_execute("commit").await.map_err(refused)
}

/// The number of the transaction under way.
async fn transaction(session: &Client) -> Result<i64, Error> {
    let sql = "-- mask::transaction\nselect pg_catalog.txid_current()";
    Ok(session.query_one(sql, &[]).await?.get(0))
}

impl MaskError {
    /// Whether the same call may succeed later without anybody's doing.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Refused { source, .. } => source.is_transient(),
            Self::Server(error) => error.is_transient(),
            Self::Text { .. } | Self::Ended | Self::TooLong(_) => false,
        }
    }

    /// What the operator should do.
    #[must_use]
    pub fn remedy(&self) -> Option<Cow<'static, str>> {
        let text = match self {
            Self::Text { .. } | Self::Ended => "take that out of the masking SQL, and clone again",
            Self::Refused { source, .. }
                if source.sql_state() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) =>
            {
                "masking SQL may do what the tenant's application may, and no more: leave that out, or have a \
                 migration grant it; give this clone up (`tenantry operation cancel`), and clone again"
            }
            Self::Refused { .. } => {
                "fix the masking SQL; give this clone up (`tenantry operation cancel`), and clone again"
            }
            Self::TooLong(_) => {
                "let it do less, or raise TENANTRY_MIGRATION_STATEMENT_TIMEOUT, then retry"
            }
            Self::Server(error) => return error.remedy(),
        };
        Some(text.into())
    }
}

fn place(line: Option<usize>) -> String {
    let masking = "the masking SQL was refused";
    line.map_or_else(|| masking.to_owned(), |line| format!("{masking} in line {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_is_one_transaction() {
        assert!(
            check_mask("update users set name = 'commit';\n-- commit\ndelete from mails;").is_ok()
        );
        assert!(check_mask("").is_ok());

        for (sql, line) in [
            ("update users set name = 'x';\ncommit;", 2),
            ("rollback", 1),
            ("copy users from stdin;", 1),
            ("\nprepare transaction 'x'", 2),
        ] {
            let Err(MaskError::Text { line: found, .. }) = check_mask(sql) else {
                panic!("{sql} was taken");
            };
            assert_eq!(found, line, "{sql}");
        }
    }
}
