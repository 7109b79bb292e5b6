//! Rows of `domains`: which tenant holds which domain. Only verified ones count for anything, and a
//! verified one is one tenant's.

use aws_lc_rs::rand;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;
use tokio_postgres::Row;

use super::audit_log::{self, Event};
use super::tenants::slug_of;
use super::{Catalog, CatalogError, TenantLock, execute, maybe, one, rows};
use crate::tenant::{DomainName, TenantSlug};

/// A domain of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Domain {
    /// Its name.
    #[schema(value_type = String)]
    pub domain: DomainName,
    /// What its DNS must say; no secret.
    pub challenge: String,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// Since when it counts.
    pub verified_at: Option<Timestamp>,
}

impl Catalog {
    /// Asks for a domain; asking again changes nothing.
    pub async fn add_domain(
        &self,
        slug: &TenantSlug,
        domain: &DomainName,
        by: &str,
    ) -> Result<Domain, CatalogError> {
        let tenant = self.tenant(slug).await?.id;
        let mut bytes = [0; 16];
        rand::fill(&mut bytes).expect("the system has randomness");
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let added = execute(
            &transaction,
            "-- domains::add
             insert into domains (tenant_id, domain, challenge) values ($1, $2, $3)
             on conflict (tenant_id, domain) do nothing",
            &[&tenant, &domain.as_str(), &hex::encode(bytes)],
        )
        .await?;
        if added > 0 {
            let detail = json!({ "domain": domain });
            let event = Event { actor: by, action: "domain.added", tenant: Some(slug), detail };
            audit_log::record(&transaction, &event).await?;
        }
        let row = one(
            &transaction,
            "-- domains::get
             select domain, challenge, created_at, verified_at from domains
             where tenant_id = $1 and domain = $2",
            &[&tenant, &domain.as_str()],
        )
        .await?;
        transaction.commit().await?;
        from_row(&row)
    }

    /// Lets a domain count; whoever calls this has seen its challenge in the DNS. Looking takes time: a
    /// domain that was asked for anew meanwhile, perhaps by another tenant of this slug, has another.
    pub async fn domain_verified(
        &self,
        slug: &TenantSlug,
        seen: &Domain,
        by: &str,
    ) -> Result<Domain, CatalogError> {
        let (tenant, domain) = (self.tenant(slug).await?.id, &seen.domain);
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let row = maybe(
            &transaction,
            "-- domains::verified
             update domains set verified_at = coalesce(verified_at, now())
             where tenant_id = $1 and domain = $2 and challenge = $3
             returning domain, challenge, created_at, verified_at",
            &[&tenant, &domain.as_str(), &seen.challenge],
        )
        .await
        .map_err(|error| {
            error.on_constraint("domains_verified_key", "verified domain", domain.as_str())
        })?;
        let verified = from_row(&row.ok_or_else(|| missing(domain))?)?;
        let detail = json!({ "domain": domain });
        let event = Event { actor: by, action: "domain.verified", tenant: Some(slug), detail };
        audit_log::record(&transaction, &event).await?;
        transaction.commit().await?;
        Ok(verified)
    }

    /// Takes a domain away from a tenant.
    pub async fn remove_domain(
        &self,
        slug: &TenantSlug,
        domain: &DomainName,
        by: &str,
    ) -> Result<(), CatalogError> {
        let tenant = self.tenant(slug).await?.id;
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let removed = execute(
            &transaction,
            "-- domains::remove
             delete from domains where tenant_id = $1 and domain = $2",
            &[&tenant, &domain.as_str()],
        )
        .await?;
        if removed == 0 {
            return Err(missing(domain));
        }
        let detail = json!({ "domain": domain });
        let event = Event { actor: by, action: "domain.removed", tenant: Some(slug), detail };
        audit_log::record(&transaction, &event).await?;
        Ok(transaction.commit().await?)
    }

    /// The domains of a tenant.
    pub async fn domains(&self, slug: &TenantSlug) -> Result<Vec<Domain>, CatalogError> {
        let tenant = self.tenant(slug).await?.id;
        let client = self.client().await?;
        let found = rows(
            &client,
            "-- domains::list
             select domain, challenge, created_at, verified_at from domains
             where tenant_id = $1 order by domain",
            &[&tenant],
        )
        .await?;
        found.iter().map(from_row).collect()
    }

    /// The living tenant that holds one of these domains, verified; of several, the longest counts.
    pub async fn tenant_of_domain(
        &self,
        domains: &[DomainName],
    ) -> Result<Option<TenantSlug>, CatalogError> {
        let domains: Vec<&str> = domains.iter().map(DomainName::as_str).collect();
        let client = self.client().await?;
        let row = maybe(
            &client,
            "-- domains::tenant
             select t.slug from domains d join tenants t on t.id = d.tenant_id
             where d.domain = any($1) and d.verified_at is not null and t.state <> 'deleted'
             order by length(d.domain) desc limit 1",
            &[&domains],
        )
        .await?;
        row.as_ref().map(slug_of).transpose()
    }
}

impl TenantLock {
    /// Frees the domains of a tenant that is going.
    pub async fn forget_domains(&self) -> Result<(), CatalogError> {
        execute(
            self.session()?,
            "-- domains::forget
             delete from domains where tenant_id = $1",
            &[&self.tenant()],
        )
        .await
        .map(drop)
    }
}

fn missing(domain: &DomainName) -> CatalogError {
    CatalogError::Missing { what: "domain", name: domain.to_string() }
}

fn from_row(row: &Row) -> Result<Domain, CatalogError> {
    let domain = DomainName::parse(row.get("domain"));
    Ok(Domain {
        domain: domain.map_err(|error| CatalogError::Corrupt(error.to_string()))?,
        challenge: row.get("challenge"),
        created_at: row.get("created_at"),
        verified_at: row.get("verified_at"),
    })
}
