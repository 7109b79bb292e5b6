//! Roles: the two that all tenants share, and the one login role of each tenant.
//!
//! A password never reaches a server: it gets the SCRAM verifier that is computed here.

use std::fmt;

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use deadpool_postgres::GenericClient;
use secrecy::{ExposeSecret as _, SecretString};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::error::Error;
use crate::marker::Marker;
use crate::name::RoleName;
use crate::server::{Server, rows};

/// Owns every object in every tenant database; nobody logs in as it.
pub(crate) const OWNER: &str = "tenantry_owner";
/// Holds the rights on data that every tenant's login role has by membership.
pub(crate) const APP: &str = "tenantry_app";

/// What a server says of a role.
#[derive(Clone, Debug)]
pub struct RoleFacts {
    /// Its name, which need not be one that this system would give.
    pub name: String,
    /// Its identity on the server.
    pub oid: u32,
    /// What its comment says, if that is one of ours.
    pub marker: Option<Marker>,
    /// Whether one can log in as it.
    pub can_login: bool,
    /// Whether it is a superuser.
    pub superuser: bool,
}

impl RoleFacts {
    /// Whether its marker names this tenant.
    #[must_use]
    pub fn belongs_to(&self, tenant: Uuid) -> bool {
        self.marker.as_ref().and_then(Marker::tenant) == Some(tenant)
    }
}

impl Server {
    /// What the server says of this role; `None` if there is none.
    pub async fn role(&self, name: &RoleName) -> Result<Option<RoleFacts>, Error> {
        let client = self.client().await?;
        role_facts(&client, name).await
    }

    /// Every role that carries a marker of ours or a name that this system would give.
    pub async fn list_roles(&self) -> Result<Vec<RoleFacts>, Error> {
        let rows = self
            .client()
            .await?
            .query(
                r"-- role::list_roles
                  select rolname::text, oid, shobj_description(oid, 'pg_authid') as comment, rolcanlogin, rolsuper
                  from pg_roles
                  where rolname like 'tenantry\_%' or rolname like 'tenant\_%'
                     or shobj_description(oid, 'pg_authid') like 'tenantry %'
                  order by rolname",
                &[],
            )
            .await?;
        Ok(rows.iter().map(from_row).collect())
    }

    /// Gives a tenant's role another password, by its verifier. Sessions that are open stay open.
    pub async fn rotate_password(
        &self,
        role: &RoleName,
        tenant: Uuid,
        verifier: &str,
    ) -> Result<(), Error> {
        let verifier = Verifier::parse(verifier)?;
        let client = self.client().await?;
        owned_role(&client, role, tenant).await?;
        client.batch_execute(&format!("alter role {} password {verifier}", role.quoted())).await?;
        Ok(())
    }

    /// Lets a tenant's role log in no more, and ends its sessions. Its databases stay as they are.
    pub async fn disable_login(&self, role: &RoleName, tenant: Uuid) -> Result<(), Error> {
        self.set_login(role, tenant, "nologin").await?;
        self.client()
            .await?
            .execute(
                "-- role::disable_login
                 select pg_terminate_backend(pid) from pg_stat_activity where usename = $1",
                &[&role.as_str()],
            )
            .await?;
        Ok(())
    }

    /// Lets a tenant's role log in again.
    pub async fn enable_login(&self, role: &RoleName, tenant: Uuid) -> Result<(), Error> {
        self.set_login(role, tenant, "login").await
    }

    async fn set_login(&self, role: &RoleName, tenant: Uuid, login: &str) -> Result<(), Error> {
        let client = self.client().await?;
        owned_role(&client, role, tenant).await?;
        client.batch_execute(&format!("alter role {} {login}", role.quoted())).await?;
        Ok(())
    }

    /// Drops a tenant's role, with its right to connect to whatever database of that tenant is left, and with
    /// what it has inside others.
    /// That there is none is fine; that it is somebody else's is [`Error::NotOurs`].
    pub async fn drop_role(&self, role: &RoleName, tenant: Uuid) -> Result<(), Error> {
        match self.role(role).await? {
            Some(facts) if facts.belongs_to(tenant) => {}
            Some(_) => return Err(not_ours(role)),
            None => return Ok(()),
        }
        self.disown(role).await?;
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let sql = "-- role::drop_role
             select quote_ident(d.datname)
             from pg_database d, aclexplode(d.datacl) a, pg_roles r
             where a.grantee = r.oid and r.rolname = $1
             group by d.datname";
        let granted = rows(&transaction, sql, &[&role.as_str()]).await?;
        let revoke = |row: &Row| {
            let database: &str = row.get(0);
            format!("revoke all on database {database} from {}", role.quoted())
        };
        let mut statements: Vec<String> = granted.iter().map(revoke).collect();
        statements.push(format!("drop role if exists {}", role.quoted()));
        transaction.batch_execute(&statements.join("; ")).await?;
        Ok(transaction.commit().await?)
    }
}

/// A new password: 32 random bytes in hexadecimal digits.
///
/// # Panics
///
/// If the operating system has no randomness to give.
#[must_use]
pub fn random_password() -> SecretString {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).expect("the operating system gives random bytes");
    hex::encode(bytes).into()
}

/// What a server needs to check a password without knowing it (SCRAM-SHA-256, a fresh salt each time).
/// Takes some milliseconds of computing.
#[must_use]
pub fn scram_verifier(password: &SecretString) -> String {
    postgres_protocol::password::scram_sha_256(password.expose_secret().as_bytes())
}

/// A SCRAM verifier, safe to stand in a statement. Its `Display` is a quoted literal.
pub(crate) struct Verifier<'a>(&'a str);

impl<'a> Verifier<'a> {
    /// Refuses everything else: PostgreSQL would take it for a password in clear text.
    pub(crate) fn parse(text: &'a str) -> Result<Self, Error> {
        let rest = text.strip_prefix("SCRAM-SHA-256$").ok_or(Error::NotAVerifier)?;
        let fits = |c: char| c.is_ascii_alphanumeric() || "+/=:$".contains(c);
        let parts: Vec<&str> = rest.split(['$', ':']).collect();
        if parts.len() == 4 && parts.iter().all(|part| !part.is_empty()) && rest.chars().all(fits) {
            Ok(Self(text))
        } else {
            Err(Error::NotAVerifier)
        }
    }
}

impl fmt::Display for Verifier<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}'", self.0)
    }
}

pub(crate) async fn role_facts(
    client: &impl GenericClient,
    name: &RoleName,
) -> Result<Option<RoleFacts>, Error> {
    let statement = client
        .prepare_cached(
            "-- role::role_facts
             select rolname::text, oid, shobj_description(oid, 'pg_authid') as comment, rolcanlogin, rolsuper
             from pg_roles where rolname = $1",
        )
        .await?;
    Ok(client.query_opt(&statement, &[&name.as_str()]).await?.as_ref().map(from_row))
}

/// The role, if it is there and its marker names this tenant.
async fn owned_role(
    client: &impl GenericClient,
    role: &RoleName,
    tenant: Uuid,
) -> Result<RoleFacts, Error> {
    match role_facts(client, role).await? {
        Some(facts) if facts.belongs_to(tenant) => Ok(facts),
        Some(_) => Err(not_ours(role)),
        None => Err(Error::Missing { kind: "role", name: role.to_string() }),
    }
}

pub(crate) fn not_ours(role: &RoleName) -> Error {
    Error::NotOurs { kind: "role", name: role.to_string() }
}

fn from_row(row: &Row) -> RoleFacts {
    RoleFacts {
        name: row.get("rolname"),
        oid: row.get("oid"),
        marker: row.get::<_, Option<&str>>("comment").and_then(Marker::parse),
        can_login: row.get("rolcanlogin"),
        superuser: row.get("rolsuper"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verifier_is_what_postgresql_expects() {
        let verifier = scram_verifier(&random_password());

        assert!(Verifier::parse(&verifier).is_ok(), "{verifier}");
    }

    #[test]
    fn a_password_in_clear_text_is_no_verifier() {
        for text in ["", "secret", "SCRAM-SHA-256$", "SCRAM-SHA-256$4096:a$b:c'; drop", "md5abc"] {
            assert!(matches!(Verifier::parse(text), Err(Error::NotAVerifier)), "{text}");
        }
    }

    #[test]
    fn passwords_differ() {
        let (one, two) = (random_password(), random_password());

        assert_eq!(one.expose_secret().len(), 64);
        assert_ne!(one.expose_secret(), two.expose_secret());
    }
}
