//! Domains of tenants: asking for one, and proving that the tenant holds it.
//!
//! The proof is a TXT record that only the holder of the domain can publish, looked up each time from
//! the DNS, never from a cache. Until then a domain means nothing, so nobody can take another's by
//! asking first; afterwards it is one tenant's, and names it in hosts and in e-mail addresses.

use std::net::SocketAddr;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use hickory_resolver::{Resolver, TokioResolver};
use thiserror::Error;

use crate::catalog::domains::Domain;
use crate::catalog::{Catalog, CatalogError};
use crate::tenant::{DomainName, TenantSlug, is_free_mail};

/// The label under which the record stands.
const LABEL: &str = "_tenantry-challenge";
/// What the record's text begins with.
const PREFIX: &str = "tenantry-verification=";

/// How much of what the DNS says instead is repeated, in characters.
const MAX_SHOWN: usize = 300;

/// Asks for and proves domains. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Domains {
    catalog: Catalog,
    /// Whom to ask; the system's name servers when it is none.
    dns_server: Option<SocketAddr>,
    /// Names under it are the operator's to give.
    base_domain: Option<DomainName>,
}

/// Why a domain is not a tenant's.
#[derive(Debug, Error)]
pub enum DomainsError {
    /// Nobody can hold it alone, or it is not theirs to ask for.
    #[error("`{domain}` cannot be a tenant's domain: {reason}")]
    Unsuitable {
        /// The domain.
        domain: DomainName,
        /// Why not.
        reason: &'static str,
    },
    /// The DNS does not say what it should.
    #[error("{}", unproven(.domain, .found))]
    Unproven {
        /// The domain, with its challenge.
        domain: Box<Domain>,
        /// The texts that are there.
        found: Vec<String>,
    },
    /// The DNS says nothing at all.
    #[error("the DNS cannot be asked about `{domain}`")]
    Unanswered {
        /// The domain.
        domain: DomainName,
        /// Why.
        #[source]
        source: NetError,
    },
    /// The catalog.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

impl Domains {
    /// Domains of the tenants of a catalog.
    #[must_use]
    pub fn new(
        catalog: Catalog,
        dns_server: Option<SocketAddr>,
        base_domain: Option<DomainName>,
    ) -> Self {
        Self { catalog, dns_server, base_domain }
    }

    /// Asks for a domain. Asking again gives the same challenge.
    pub async fn add(
        &self,
        slug: &TenantSlug,
        domain: &DomainName,
        by: &str,
    ) -> Result<Domain, DomainsError> {
        let unsuitable = |reason| DomainsError::Unsuitable { domain: domain.clone(), reason };
        if domain.registrable().is_none() {
            return Err(unsuitable("everybody may register names under it"));
        }
        if is_free_mail(domain) {
            return Err(unsuitable("everybody may have an address there"));
        }
        if self.base_domain.as_ref().is_some_and(|base| domain.is_within(base)) {
            return Err(unsuitable("it is under the base domain, where the slug is the name"));
        }
        Ok(self.catalog.add_domain(slug, domain, by).await?)
    }

    /// Looks for the challenge in the DNS; from then on the domain is this tenant's alone.
    pub async fn verify(
        &self,
        slug: &TenantSlug,
        domain: &DomainName,
        by: &str,
    ) -> Result<Domain, DomainsError> {
        let domains = self.catalog.domains(slug).await?;
        let known = domains
            .into_iter()
            .find(|known| known.domain == *domain)
            .ok_or_else(|| CatalogError::Missing { what: "domain", name: domain.to_string() })?;
        let texts = self
            .texts(&record_name(domain))
            .await
            .map_err(|source| DomainsError::Unanswered { domain: domain.clone(), source })?;
        if !texts.contains(&record_text(&known)) {
            return Err(DomainsError::Unproven { domain: Box::new(known), found: texts });
        }
        Ok(self.catalog.domain_verified(slug, &known, by).await?)
    }

    /// The texts that stand under a name.
    async fn texts(&self, name: &str) -> Result<Vec<String>, NetError> {
        // Fully qualified, or the search domains of this machine would count.
        let answer = match self.resolver()?.txt_lookup(format!("{name}.")).await {
            Ok(answer) => answer,
            Err(error) if error.is_no_records_found() => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let text = |data: &RData| match data {
            RData::TXT(txt) => Some(String::from_utf8_lossy(&txt.txt_data.concat()).into_owned()),
            _ => None,
        };
        Ok(answer.answers().iter().filter_map(|record| text(&record.data)).collect())
    }

    fn resolver(&self) -> Result<TokioResolver, NetError> {
        let mut builder = match self.dns_server {
            None => TokioResolver::builder_tokio()?,
            Some(server) => {
                let (mut udp, mut tcp) = (ConnectionConfig::udp(), ConnectionConfig::tcp());
                (udp.port, tcp.port) = (server.port(), server.port());
                let server = NameServerConfig::new(server.ip(), true, vec![udp, tcp]);
                let config = ResolverConfig::from_name_servers(vec![server]);
                Resolver::builder_with_config(config, TokioRuntimeProvider::default())
            }
        };
        let options = builder.options_mut();
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        builder.build()
    }
}

/// Where the record of a domain stands.
#[must_use]
pub fn record_name(domain: &DomainName) -> String {
    format!("{LABEL}.{domain}")
}

/// What it must say.
#[must_use]
pub fn record_text(domain: &Domain) -> String {
    format!("{PREFIX}{}", domain.challenge)
}

fn unproven(domain: &Domain, found: &[String]) -> String {
    let name = record_name(&domain.domain);
    match found {
        [] => format!("there is no TXT record `{name}`"),
        found => {
            let said = found.join("`, `");
            // Others wrote it, and an operator reads it on a terminal.
            let printable = said.chars().map(|c| if c.is_control() { ' ' } else { c });
            let shown: String = printable.take(MAX_SHOWN).collect();
            let rest = if said.chars().nth(MAX_SHOWN).is_some() { "…" } else { "" };
            format!("the TXT record `{name}` says `{shown}{rest}`")
        }
    }
}
